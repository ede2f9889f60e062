"""Make sure that Ctrl-C always ends the training."""

from __future__ import annotations

import signal
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerStatus


class Interruption(Callback):
    """Ends the training after Ctrl-C even where Python drops the exception.

    Python prints and ignores an exception that is raised in a callback of a weak reference, and compiling a
    step runs thousands of these. The training then ends before the next step.
    """

    def __init__(self) -> None:
        self._asked = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._ask)  # interruptible restores the old handler

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._asked:
            raise KeyboardInterrupt


def interruptible(trainer: L.Trainer, stage: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a stage of the trainer. After Ctrl-C it raises KeyboardInterrupt, where Lightning exits with 1."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return stage(*args, **kwargs)
    except SystemExit:
        if trainer.state.status == TrainerStatus.INTERRUPTED:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)
