"""What we use of Hydra beyond its public interface. No other file imports from ``hydra._internal``."""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ladder_vae.settings.command_line import strict
from ladder_vae.settings.paths import as_override
from ladder_vae.system.errors import UserError, warn

__all__ = ["BasicLauncher", "Callbacks", "jobs_of", "overrides_of", "parse_flags"]


def parse_flags() -> argparse.Namespace:
    """Parse the flags of a Hydra command line before Hydra does, and put ``sys.argv`` as Hydra needs it.

    Paths are put in quotes, and flags before settings, because Hydra's parser knows no flag behind a setting.

    Raises:
        UserError: If a flag is unknown, or ``--config-dir`` names a folder that would be of no use.
    """
    given = [as_override(argument) for argument in sys.argv[1:]]
    flags = strict(get_args_parser()).parse_intermixed_args(given)
    for override in reversed(flags.overrides):
        del given[len(given) - 1 - given[::-1].index(override)]
    sys.argv[1:] = [*given, *flags.overrides]
    last: dict[str, str] = {}
    for override in flags.overrides:
        last[override.partition("=")[0].lstrip("+")] = override
    for override in flags.overrides:
        if override != (counts := last[override.partition("=")[0].lstrip("+")]):
            warn(f"{override} does not count, because {counts} comes later")
    if flags.config_dir and Path(flags.config_dir).is_dir():  # else Hydra says that it is missing
        _check_config_dir(Path(flags.config_dir))
    return flags


def _check_config_dir(directory: Path) -> None:
    """Raises UserError where Hydra would use none of the files of a folder, or another of the same name."""
    conf = resources.files("ladder_vae.conf")
    groups = sorted(entry.name for entry in conf.iterdir() if entry.is_dir() and entry.name != "__pycache__")
    files = [path for group in groups for path in sorted((directory / group).rglob("*.yaml"))]
    if not files:
        raise UserError(
            f"--config-dir={directory} holds no file of a group; put one into a folder of it that is named "
            f"{', '.join(groups)}, as in {directory}/model/mine.yaml"
        )
    for path in files:
        if conf.joinpath(*path.relative_to(directory).parts).is_file():
            raise UserError(
                f"{path} has the name of a configuration of ours, which Hydra would use; rename it"
            )


def overrides_of(hydra_config: DictConfig, kind: str) -> list[str]:
    """What was typed: settings (``task``) or Hydra's own (``hydra``), interpolations as they are."""
    overrides = OmegaConf.to_container(hydra_config.overrides, resolve=False)
    assert isinstance(overrides, dict)
    return list(overrides[kind])


def jobs_of(hydra_config: DictConfig) -> list[list[str]] | None:
    """The overrides of each job of a multirun; None for a sweeper that chooses its jobs on the way.

    Args:
        hydra_config: The node ``hydra`` of a composed configuration.
    """
    sweeper = hydra_config.sweeper
    if not sweeper._target_.endswith("BasicSweeper"):
        return None
    given = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*given, *overrides_of(hydra_config, "task")])
    return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]
