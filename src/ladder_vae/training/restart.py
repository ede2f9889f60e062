"""A job of a sweep that is started a second time: SLURM puts it back into its queue, Ray tries it again."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.types import RunMode
from omegaconf import DictConfig

from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.runs.record import flat, last_checkpoint, read_config
from ladder_vae.system.errors import UserError
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.settle import settle

# What "auto" means depends on the machine: a run goes on with what it meant where it began.
OF_THE_MACHINE = ("trainer.precision", "trainer.compile", "trainer.cuda_graph")


def started_again(cfg: DictConfig, path: Path, mode: RunMode) -> DictConfig:
    """The configuration by which a job of a sweep goes on with what it left when it was stopped.

    Args:
        cfg: Of the job.
        path: Its directory, which holds results.
        mode: Whether Hydra runs a sweep.

    Raises:
        UserError: If the directory holds another run than that of this job.
    """
    if mode != RunMode.MULTIRUN or _settings(settle(cfg).config) != _settings(read_config(path)):
        # whatever Hydra was told, no job writes over a run
        raise UserError(f"{path} already holds a run; remove it, or choose another run_dir")
    again = cfg.copy()
    again.resume, again.trust = str(path), True  # its settings are those that this job names itself
    return again


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(config).items() if key not in OF_THE_MACHINE}


def validation_bound(path: Path) -> float | None:
    """What a finished run returned: the bound that its best checkpoint was chosen by; None without one."""
    last = last_checkpoint(path)
    states = read_checkpoint(last).get("callbacks") or {} if last else {}
    bound = float(states.get(EpochCheckpoints.__name__, {}).get("best", -math.inf))
    return bound if math.isfinite(bound) else None


@contextmanager
def as_started(directory: str) -> Iterator[None]:
    """Work in a directory, and leave that and PyTorch's threads as they were: workers do many jobs.

    Args:
        directory: Where the command was started, of which relative paths in settings are. A machine that has
            no such directory stays where it is.
    """
    here, threads = os.getcwd(), torch.get_num_threads()
    if os.path.isdir(directory):
        os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(here)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
