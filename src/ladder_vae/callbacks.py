"""What happens around training: checkpoints, totals, the progress bar."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing import current_process, parent_process
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback, Checkpoint, TQDMProgressBar
from torch import Tensor


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a local file, without Lightning's copies for remote ones.

    :class:`EpochCheckpoints` sees to it that a half-written one replaces nothing.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)


class EpochCheckpoints(Checkpoint):
    """``best.ckpt`` by ``val/bound``, the ELBO or what else is trained on, and ``last.ckpt``.

    Both after an epoch, where resuming is exact.

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


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, of which a run that had stopped does not train on when it is resumed."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.stopped_epoch:
            trainer.should_stop = True


class Interruption(Callback):
    """Has Ctrl-C end the training where Python alone would drop it.

    An exception in a callback of a weak reference, of which compiling a step runs thousands, is printed and
    ignored. What was asked for there happens before the next step.
    """

    def __init__(self) -> None:
        self._asked = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._ask)  # train.py puts the other one back

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._asked:
            raise KeyboardInterrupt


class Totals(Callback):
    """Epochs, seconds and images of a run, added up over every time it was resumed."""

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
        """Wall time of fitting, with validation and checkpoints."""
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
    """A bar that shows the ELBO; where nobody watches a terminal, a line an epoch."""

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
