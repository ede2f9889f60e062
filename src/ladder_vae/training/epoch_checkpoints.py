"""The checkpoints of a run: when they are written, and that they stay whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a local file, without Lightning's copies for remote ones.

    :class:`EpochCheckpoints` sees to it that a half-written one replaces nothing.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)


class EpochCheckpoints(Checkpoint):
    """``best.ckpt`` by ``val/bound``, the ELBO or what else is trained on, and ``last.ckpt``.

    Both are written at the end of an epoch, the only point from which resuming is exact.

    Lightning's ModelCheckpoint writes its "last" only when the best improves, and forgets the best
    score when a run directory was moved. Without validation the best is the last.

    On Ctrl-C in the first epoch, ``last.ckpt`` becomes the state before the first step: there is
    always something to resume from, and never half an epoch.

    Args:
        directory: Where the two files go.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.best = float("-inf")
        self._initial: tempfile.TemporaryDirectory | None = None

    @property
    def last(self) -> Path:
        """Path of ``last.ckpt``."""
        return self.directory / "last.ckpt"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.last.exists():
            initial = tempfile.TemporaryDirectory()
            trainer.save_checkpoint(Path(initial.name) / "initial.ckpt")
            self._initial = initial

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best = self.directory / "best.ckpt"
        score = float(trainer.callback_metrics.get("val/bound", "-inf"))
        # an epoch may go unvalidated (trainer.check_val_every_n_epoch); a run may, altogether
        validated = trainer.enable_validation and self.best > float("-inf")
        improved = score > self.best or not validated or not best.exists()
        if improved:
            self.best = score
        # whatever interrupts the writing, both stay whole
        part, best_part = self.directory / "last.part", self.directory / "best.part"
        for stale in (part, best_part):  # of a run that was killed here; best.ckpt may be the same file
            stale.unlink(missing_ok=True)
        trainer.save_checkpoint(part)
        if improved:  # the same bytes under two names, where the file system can do that
            try:
                os.link(part, best_part)
            except OSError:
                shutil.copyfile(part, best_part)
            os.replace(best_part, best)
        os.replace(part, self.last)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        stopped = isinstance(exception, (KeyboardInterrupt, SystemExit))  # Ctrl-C, SIGTERM
        if stopped and self._initial and not self.last.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            initial = Path(self._initial.name) / "initial.ckpt"
            shutil.copy(initial, self.last)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        key = "best" if "best" in state_dict else "best_elbo"  # of runs before L_K was validated
        self.best = state_dict[key]
