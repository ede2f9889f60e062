"""Exponential moving average of the weights, with a decay that warms up."""

from __future__ import annotations

from itertools import chain
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from ladder_vae.system.errors import UserError


class ExponentialMovingAverage(WeightAveraging):
    """Averages weights and batch-norm statistics with decay min(d, (1 + n) / (10 + n)) at update n.

    The decay is small at first, so that the random initial weights do not linger in the average. Validation
    and the ``state_dict`` of every checkpoint use averaged weights (Lightning's :class:`WeightAveraging`).

    Args:
        decay: The final decay d, in [0, 1).

    Raises:
        UserError: If the decay is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"callbacks.averaging.decay={decay} must lie in [0, 1)")
        self.decay = decay
        super().__init__()
        self._updates = 0
        self._numbers: tuple[list[Tensor], list[Tensor]] = ([], [])  # averaged, current
        self._counters: tuple[list[Tensor], list[Tensor]] = ([], [])  # of batch norm

    @property
    def averaged(self) -> nn.Module | None:
        """The averaged copy of the LightningModule while it is fitted, else None."""
        return self._average_model.module if self._average_model is not None else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # The tensors are listed once, because walking through all modules takes longer than averaging.
        assert self._average_model is not None
        self._updates = int(self._average_model.n_averaged)
        average, current = (
            [value.detach() for value in chain(module.parameters(), module.buffers())]
            for module in (self._average_model.module, pl_module)
        )
        for kept, floating in ((self._numbers, True), (self._counters, False)):
            kept[0][:] = [value for value in average if value.is_floating_point() == floating]
            kept[1][:] = [value for value in current if value.is_floating_point() == floating]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._latest_update_step:
            return
        assert self._average_model is not None
        n = self._updates
        torch._foreach_lerp_(*self._numbers, 1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)
        self._updates += 1
        self._average_model.n_averaged.add_(1)
        self._latest_update_step = trainer.global_step
