"""The configuration that a command line asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import hydra
from omegaconf import DictConfig

from ladder_vae.settings.hydra_internals import parse_flags
from ladder_vae.system.errors import UserError

CHECKPOINTS = ("best", "last")


def compose(config_name: str) -> list[DictConfig]:
    """The configuration that the command line asks for; none where it only asked to be shown something.

    For commands that look at runs. Hydra composes and no more: it would put a line of its own before that of
    an error.
    """
    flags = parse_flags()
    if flags.multirun:
        raise UserError("--multirun is of training; run= takes a folder of runs")
    composed: list[DictConfig] = []

    @hydra.main(version_base="1.3", config_path="pkg://ladder_vae.conf", config_name=config_name)
    def keep(cfg: DictConfig) -> None:
        composed.append(cfg)

    keep()
    return composed


def check_settings(cfg: DictConfig, schema: type[Any], least: Mapping[str, int]) -> None:
    """Refuse what a command over runs cannot mean.

    Args:
        schema: The dataclass that lists its settings.
        least: Smallest value of each number that has one.

    Raises:
        UserError: If a setting is unknown, missing, or out of range.
    """
    unknown = set(cfg) - {setting.name for setting in fields(schema)}
    if unknown:  # Hydra lets +key=value through
        raise UserError(f"there is no setting {sorted(map(str, unknown))[0]}; --cfg job lists all settings")
    if not cfg.run:
        raise UserError("run=<dir> is missing; name a run directory, or a folder of runs")
    if cfg.checkpoint not in CHECKPOINTS:
        raise UserError(f"checkpoint={cfg.checkpoint} is unknown; choose {', '.join(CHECKPOINTS)}")
    for name, smallest in least.items():
        if cfg[name] < smallest:
            raise UserError(f"{name}={cfg[name]} must be at least {smallest}")
