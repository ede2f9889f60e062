"""Ctrl-C: what was asked for happens, whatever stands in the way."""

from __future__ import annotations

import signal
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerStatus


class Interruption(Callback):
    """Has Ctrl-C end the training where Python alone would drop it.

    An exception in a callback of a weak reference, of which compiling a step runs thousands, is printed and
    ignored. What was asked for there happens before the next step.
    """

    def __init__(self) -> None:
        self._asked = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._ask)  # interruptible puts the other one back

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._asked:
            raise KeyboardInterrupt


def interruptible(trainer: L.Trainer, stage: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a stage of the trainer. Lightning turns Ctrl-C into exit code 1; this turns it back."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return stage(*args, **kwargs)
    except SystemExit:
        if trainer.state.status == TrainerStatus.INTERRUPTED:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)
