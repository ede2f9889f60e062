"""What a run or a sweep that somebody sent would have us import, call or write elsewhere if it went on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import ladder_vae.data
import ladder_vae.maths
import ladder_vae.models
import ladder_vae.training
from ladder_vae.settings.composition import compose_run, without_hydra
from ladder_vae.settings.paths import OVERRIDE, as_override
from ladder_vae.settings.schema import TrainerConfig
from ladder_vae.training.settle import plain

PACKAGES = (ladder_vae.data, ladder_vae.maths, ladder_vae.models, ladder_vae.training)
TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"  # of earlier versions
TARGET = "_target_"
SINGLE = "hydra.mode=RUN"  # an experiment may ask for a sweep
SETTINGS = {  # others choose where is written, or what is uploaded
    "logger": (TARGET, "default_hp_metric", "name", "version"),
    "trainer": tuple(setting.name for setting in fields(TrainerConfig)),
}


def foreign(config: Mapping[str, Any], trusted: Collection[str] = ()) -> str:
    """The first setting that is not safe in a stranger's run, as ``key=value``; empty if there is none.

    Args:
        config: Plain values. An interpolation may become anything once it is resolved, and is not safe.
        trusted: What may be named beside what is of this package.
    """
    for key, value in _values(config):
        names = TARGET in key.split(".") and value not in trusted and not _is_ours(value)
        if names or (isinstance(value, str) and "${" in value):
            return f"{key}={value}"
    for group, known in SETTINGS.items():
        for key, value in (config.get(group) or {}).items():
            places = group == "logger" and key in ("name", "version")  # a logger makes directories of these
            if key not in known or (places and value not in ("", None)):
                return f"{group}.{key}={value}"
    return ""


def named(config: Mapping[str, Any]) -> list[str]:
    """What a configuration has imported and called."""
    return [str(value) for key, value in _values(config) if TARGET in key.split(".")]


def foreign_job(path: Path, arguments: Sequence[str]) -> str:
    """The first setting that is not safe in a job of a stranger's sweep; empty if there is none.

    The job is composed as Hydra will compose it, because there are many ways to write the same setting.

    Args:
        path: Where the job has to be written.
        arguments: Its command line.

    Raises:
        Exception: If it cannot be composed.
    """
    if flags := [argument for argument in arguments if argument.startswith("-")]:
        return flags[0]
    overrides = [as_override(argument) for argument in arguments]
    for override in OverridesParser.create().parse_overrides(overrides):
        value, written = str(override.value()), str(override.input_line)
        outside = ".." in value and not OVERRIDE.fullmatch(written)  # a file that is not of conf/
        hydras = override.key_or_group.startswith("hydra") and written != SINGLE
        if "${" in value or outside or hydras:
            return written
    config = compose_run(overrides)
    if _hydras_own(config) != _default():
        return "settings of Hydra"
    if config.hydra.run.dir != str(path):
        return f"run_dir={config.hydra.run.dir}"
    return foreign(plain(without_hydra(config)))


@cache
def _default() -> Any:
    return _hydras_own(compose_run([]))


def _hydras_own(config: DictConfig) -> Any:
    """Hydra's settings, without what differs between jobs: its choice of jobs, and what was typed."""
    hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
    return hydra | {
        **dict.fromkeys(("mode", "overrides", "runtime")),
        "sweeper": hydra["sweeper"] | {"params": None},
        "job": hydra["job"] | {"override_dirname": None},
    }


def _values(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All values in a configuration, with their keys: whatever is nested is built, too."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _values(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple, set)):
        for inner in value:
            yield from _values(inner, key)
    else:
        yield key, value


def _is_ours(target: Any) -> bool:
    """Whether the package exports it, or it is what our configurations name of PyTorch and Lightning."""
    module, _, name = str(target).rpartition(".")
    if module == "torch.optim":
        optimizer = vars(torch.optim).get(name)
        return isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)
    return target == TENSORBOARD or any(module == ours.__name__ and name in ours.__all__ for ours in PACKAGES)
