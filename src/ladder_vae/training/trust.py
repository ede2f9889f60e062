"""What a run that somebody sent would have us import, call or write elsewhere if it were resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

import ladder_vae.data
import ladder_vae.maths
import ladder_vae.models
import ladder_vae.training

PACKAGES = (ladder_vae.data, ladder_vae.maths, ladder_vae.models, ladder_vae.training)
LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"
LOGGER_SETTINGS = ("_target_", "default_hp_metric", "name", "version")  # others choose where it writes


def foreign(config: Mapping[str, Any]) -> str:
    """The first setting that is not safe in a stranger's run, as ``key=value``; empty if there is none."""
    for key, target in _targets(config, ""):
        if not _is_ours(target):
            return f"{key}={target}"
    logger = config.get("logger") or {}
    for key, value in logger.items():
        if key not in LOGGER_SETTINGS or (key in ("name", "version") and value not in ("", None)):
            return f"logger.{key}={value}"
    return ""


def _targets(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """What is named anywhere in a configuration: whatever is nested is built, too."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "_target_":
                yield f"{prefix}{key}", str(inner)
            else:
                yield from _targets(inner, f"{prefix}{key}.")
    elif isinstance(value, list):
        for inner in value:
            yield from _targets(inner, prefix)


def _is_ours(target: str) -> bool:
    """Whether the package exports it, or it is what our configurations name of PyTorch and Lightning."""
    module, _, name = target.rpartition(".")
    if module == "torch.optim":
        named = vars(torch.optim).get(name)
        return isinstance(named, type) and issubclass(named, torch.optim.Optimizer)
    return target == LOGGER or any(module == ours.__name__ and name in ours.__all__ for ours in PACKAGES)
