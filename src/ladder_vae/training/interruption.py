"""Make sure that Ctrl-C, and what schedulers send, always end the training."""

from __future__ import annotations

import signal
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class Interruption(Callback):
    """Ends the training after Ctrl-C even where Python drops the exception.

    Python prints and ignores an exception that is raised in a callback of a weak reference, and compiling a
    step runs thousands of these. The training then ends before the next step.

    Of several processes, Lightning has the one that gets SIGTERM tell the others in the midst of whatever it
    was telling them, and both then wait forever. Here it gets what it had: the first process stops, and the
    others end with it.
    """

    def __init__(self) -> None:
        self._asked = False
        self._on_sigterm: Any = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._ask)  # interruptible restores the old handler
        self._on_sigterm = signal.getsignal(signal.SIGTERM)  # Lightning's own handler comes later

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._take_back(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._take_back(trainer)

    def _take_back(self, trainer: L.Trainer) -> None:
        if trainer.world_size > 1 and self._on_sigterm is not None:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._asked:
            raise KeyboardInterrupt


def interruptible(trainer: L.Trainer, stage: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a stage of the trainer. After Ctrl-C it raises KeyboardInterrupt, where Lightning exits with 1.

    An exit that somebody else asks for, as submitit once it has put a job back into the queue, stays one.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        return stage(*args, **kwargs)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)
