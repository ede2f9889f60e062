"""Callbacks around training: totals, early stopping, the progress bar."""

from __future__ import annotations

import sys
import time
from multiprocessing import current_process, parent_process
from typing import Any

import lightning as L
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from torch import Tensor


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's early stopping, except that a run that it has stopped does not go on when it is resumed."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.stopped_epoch:
            trainer.should_stop = True


class Totals(Callback):
    """Counts epochs, seconds and images of a run, including the time before it was resumed."""

    def __init__(self) -> None:
        self.epochs = 0
        self.images = 0
        self.batch_seconds = 0.0  # inside training epochs, without validation and checkpoints
        self._earlier_seconds = 0.0
        self._started: float | None = None
        self._epoch_started = 0.0
        self._epoch_images = 0

    @property
    def seconds(self) -> float:
        """Wall time of fitting in seconds, including validation and checkpoints."""
        running = time.perf_counter() - self._started if self._started is not None else 0.0
        return self._earlier_seconds + running

    def metrics(self) -> dict[str, float]:
        """``train/epochs``, ``train/seconds``, ``train/images_per_second``."""
        return {
            "train/epochs": self.epochs,
            "train/seconds": self.seconds,
            "train/images_per_second": self.images / max(self.batch_seconds, 1e-9),
        }

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_started = time.perf_counter()
        self._epoch_images = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Tensor, batch_idx: int
    ) -> None:
        self._epoch_images += len(batch)
        if batch_idx + 1 == trainer.num_training_batches:
            self.batch_seconds += time.perf_counter() - self._epoch_started
            self.images += self._epoch_images

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epochs = trainer.current_epoch + 1

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._earlier_seconds, self._started = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        return {
            "epochs": self.epochs,
            "images": self.images,
            "batch_seconds": self.batch_seconds,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]
        self.images = state_dict["images"]
        self.batch_seconds = state_dict["batch_seconds"]
        self._earlier_seconds = state_dict["seconds"]


class ProgressBar(TQDMProgressBar):
    """Shows the ELBO in a progress bar, or in one line per epoch if the output is no terminal."""

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate if sys.stdout.isatty() else 0)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {
            name: f"{value:.2f}" if isinstance(value, float) else value for name, value in metrics.items()
        }

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if not sys.stdout.isatty():
            values = {**trainer.callback_metrics}
            shown = [f"{name} {float(values[name]):.2f}" for name in ("elbo", "val_elbo") if name in values]
            job = f"{current_process().name}: " if parent_process() else ""  # one of several at once
            print(
                f"{job}epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {', '.join(shown)}",
                file=sys.stderr,
                flush=True,
            )
