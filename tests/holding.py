"""A callback for tests that stop a run in the middle of its second epoch, whatever the clock says."""

import time
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class Hold(Callback):
    """Waits in the second epoch to be stopped; not where ``held`` is there already, as after that stop.

    Args:
        held: A file, which is made once the run waits.
    """

    def __init__(self, held: str) -> None:
        self.held = Path(held)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 1 and not self.held.exists():
            self.held.touch()
            for _ in range(30_000):  # and then goes on, so that a test that failed leaves no process behind
                time.sleep(0.01)
