"""Callbacks around training: totals, early stopping, the progress bar."""

from __future__ import annotations

import sys
import time
from multiprocessing import current_process, parent_process
from typing import Any

import lightning as L
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ladder_vae.system.countdown import duration


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


class ProgressBar(callbacks.ProgressBar):
    """Shows one bar for all epochs, with ELBO and time left; a line an epoch if nobody watches a terminal.

    Args:
        refresh_rate: Steps between two readings of the bar; 0 shows lines on a terminal, too.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self._bar: Progress | None = None
        self._started, self._first = 0.0, 0

    def disable(self) -> None:
        self.refresh_rate = 0

    def enable(self) -> None:
        pass  # rank 0 alone has a bar

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started, self._first = time.perf_counter(), trainer.current_epoch
        console = Console(stderr=True)
        if not console.is_terminal or not self.refresh_rate:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[reached]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        self._bar = Progress(*columns, console=console, speed_estimate_period=600)
        total = (trainer.max_epochs or 0) * int(trainer.num_training_batches)
        self._bar.add_task(self._epoch(trainer), total=total, reached="")
        self._bar.start()
        self._read(trainer, 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Tensor, batch_idx: int
    ) -> None:
        if self._bar is not None and (batch_idx + 1) % self.refresh_rate == 0:
            self._read(trainer, batch_idx + 1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        values, done = {**trainer.callback_metrics}, trainer.current_epoch + 1
        shown = [f"{name} {float(values[name]):.2f}" for name in ("elbo", "val_elbo") if name in values]
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], reached=", ".join(shown))
            self._read(trainer, int(trainer.num_training_batches))
            return
        left = (trainer.max_epochs or 0) - done
        if left > 0:
            passed = time.perf_counter() - self._started
            shown.append(f"{duration(passed * left / (done - self._first))} left")
        job = f"{current_process().name}: " if parent_process() else ""  # one of several at once
        print(f"{job}{self._epoch(trainer)}: {', '.join(shown)}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _epoch(self, trainer: L.Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"

    def _read(self, trainer: L.Trainer, steps: int) -> None:
        """Move the bar to a step of the current epoch."""
        assert self._bar is not None
        completed = trainer.current_epoch * int(trainer.num_training_batches) + steps
        self._bar.update(self._bar.task_ids[0], completed=completed, description=self._epoch(trainer))

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
