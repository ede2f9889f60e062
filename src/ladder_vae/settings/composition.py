"""Compose the configuration of a command that looks at runs, and check it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ladder_vae.settings import command_line
from ladder_vae.settings.help import help_of
from ladder_vae.settings.hydra_internals import parse_flags
from ladder_vae.settings.schema import register
from ladder_vae.system.errors import UserError
from ladder_vae.system.machine import limit_threads
from ladder_vae.system.randomness import check_seed

CHECKPOINTS = ("best", "last")
MOST = 10**12  # nothing here counts to more


def start(config_name: str, run: Callable[[DictConfig], None]) -> None:
    """The process of a command that looks at runs, from the command line to the exit code.

    Args:
        config_name: The command's file of ``conf/``.
        run: Does what the configuration asks for.
    """

    def work() -> None:
        for cfg in compose(config_name):
            run(cfg)

    register()
    limit_threads()
    command_line.run(work)


def compose(config_name: str) -> list[DictConfig]:
    """The configuration that the command line asks for; an empty list after ``--cfg`` or ``--help``.

    Hydra only composes the configuration and does not run the command, because it would print a line of its
    own before an error.

    Raises:
        UserError: If a flag is unknown, or the command line has ``--multirun``.
    """
    flags = parse_flags()
    if flags.help:
        print(help_of(config_name, config_name, flags.overrides))
        return []
    if flags.multirun:
        raise UserError("--multirun is of training; run= takes a folder of runs")
    composed: list[DictConfig] = []

    @hydra.main(version_base="1.3", config_path="pkg://ladder_vae.conf", config_name=config_name)
    def keep(cfg: DictConfig) -> None:
        composed.append(cfg)

    keep()
    return composed


def compose_run(overrides: Sequence[str]) -> DictConfig:
    """The configuration of training, as Hydra composes it in another process; with its own node ``hydra``."""
    register()
    with hydra.initialize_config_module("ladder_vae.conf", version_base="1.3"):
        return hydra.compose("config", list(overrides), return_hydra_config=True)


def without_hydra(config: DictConfig) -> DictConfig:
    """The part of a composed configuration that a run sees."""
    cfg = config.copy()
    OmegaConf.set_readonly(cfg, False)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra", None)
    OmegaConf.set_struct(cfg, True)
    return cfg


def directory_of(config: DictConfig, number: int) -> str:
    """Where a job of a sweep is written, below the sweep's directory. Its name may refer to any setting.

    Args:
        config: As Hydra composed it, with its own node ``hydra``, which gets the number.
        number: The number of the job.
    """
    with open_dict(config), read_write(config):
        config.hydra.job.id = config.hydra.job.num = number
    current = HydraConfig.instance()  # Hydra resolves ${hydra:...} for its current job
    before = current.cfg
    current.set_config(config.copy())
    try:
        return str(HydraConfig.get().sweep.subdir)
    finally:
        current.cfg = before


def check_settings(cfg: DictConfig, schema: type[Any], least: Mapping[str, int]) -> None:
    """Check the settings of a command that looks at runs.

    Args:
        cfg: The settings.
        schema: The dataclass that lists all settings of the command.
        least: Smallest allowed value by setting, where it is not null.

    Raises:
        UserError: If a setting is unknown, missing, or out of range.
    """
    unknown = set(cfg) - {setting.name for setting in fields(schema)}
    if unknown:  # Hydra accepts any +key=value
        raise UserError(f"there is no setting {sorted(map(str, unknown))[0]}; --cfg job lists all settings")
    if not cfg.run:
        raise UserError("run=<dir> is missing; name a run directory, or a folder of runs")
    if "checkpoint" in cfg and cfg.checkpoint not in CHECKPOINTS:
        raise UserError(f"checkpoint={cfg.checkpoint} is unknown; choose {', '.join(CHECKPOINTS)}")
    check_seed("seed", cfg.seed)
    for name, smallest in least.items():
        if cfg[name] is not None and not smallest <= cfg[name] < MOST:
            raise UserError(f"{name}={str(cfg[name])[:40]} must be at least {smallest} and below {MOST:.0e}")
