"""What we use of Hydra beyond its public interface. No other file imports from ``hydra._internal``."""

from __future__ import annotations

import argparse

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from ladder_vae.settings.command_line import strict

__all__ = ["BasicLauncher", "Callbacks", "jobs_of", "parse_flags"]


def parse_flags() -> argparse.Namespace:
    """Parse the flags of a Hydra command line before Hydra does.

    Raises:
        UserError: If a flag is unknown.
    """
    return strict(get_args_parser()).parse_args()


def jobs_of(hydra_config: DictConfig) -> list[list[str]] | None:
    """The overrides of each job of a multirun; None for a sweeper that chooses its jobs on the way.

    Args:
        hydra_config: The node ``hydra`` of a composed configuration.
    """
    sweeper = hydra_config.sweeper
    if not sweeper._target_.endswith("BasicSweeper"):
        return None
    given = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*given, *hydra_config.overrides.task])
    return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]
