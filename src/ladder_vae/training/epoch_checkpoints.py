"""Write the checkpoints of a run at the end of each epoch, never half a file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from ladder_vae.system.errors import UserError, one_line
from ladder_vae.system.files import remove_parts, replacing


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint straight to a local file, without the copies that Lightning makes for remote files.

    :class:`EpochCheckpoints` makes sure that a half-written file never replaces a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)


class EpochCheckpoints(Checkpoint):
    """Writes ``last.ckpt`` and ``best.ckpt``, the one with the highest ``val/bound`` (the ELBO, or L_K).

    Both are written at the end of an epoch, the only point from which resuming is exact. Without validation
    ``best.ckpt`` is the last epoch. A run that ends in its first epoch has neither; it begins again.

    Of several processes the first one writes.

    Lightning's ModelCheckpoint would not do: it writes its "last" only when the best improves, and it
    forgets the best score when a run directory is moved.

    Args:
        directory: Where the two files go.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.best = float("-inf")

    @property
    def last(self) -> Path:
        """Path of ``last.ckpt``."""
        return self.directory / "last.ckpt"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        best = self.directory / "best.ckpt"
        if (
            trainer.is_global_zero and self.last.exists() and not best.exists()
        ):  # killed between the two, after its first epoch
            _copy(self.last, best)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        remove_parts(self.directory)  # left by a killed run
        for stale in ("last.part", "best.part"):  # or by one of an earlier version
            (self.directory / stale).unlink(missing_ok=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._write(trainer)
        else:
            trainer.save_checkpoint(self.last)  # in which every rank has a part, and the first one writes
        trainer.strategy.barrier()  # then both files are there for all

    def _write(self, trainer: L.Trainer) -> None:
        best = self.directory / "best.ckpt"
        score = float(trainer.callback_metrics.get("val/bound", "-inf"))
        # Some epochs, or all epochs of a run, may have no validation (trainer.check_val_every_n_epoch).
        validated = trainer.enable_validation and self.best > float("-inf")
        improved = score > self.best or not validated or not best.exists()
        if improved:
            self.best = score
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with replacing(self.last) as part:  # if this is interrupted, both old checkpoints are still whole
                trainer.save_checkpoint(part)
                if improved and self.last.exists():
                    _copy(part, best)
            if not best.exists():  # the first two, the other way round: without last.ckpt no run goes on
                _copy(self.last, best)
        except (OSError, RuntimeError) as error:  # the latter is how PyTorch says that a disk is full
            raise UserError(
                f"{self.last} cannot be written ({one_line(error)[:100]}); make room, then resume= goes on "
                "after the last epoch that was kept"
            ) from None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        key = "best" if "best" in state_dict else "best_elbo"  # key in older checkpoints
        self.best = state_dict[key]


def _copy(source: Path, target: Path) -> None:
    """Give a file a second name, or where the file system has no hard links copy it."""
    with replacing(target) as part:
        part.unlink()
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
