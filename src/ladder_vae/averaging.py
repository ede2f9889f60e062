"""Exponential moving average of the weights, with a decay that warms up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from ladder_vae.errors import UserError


class ExponentialMovingAverage(WeightAveraging):
    """Averages weights and batch-norm statistics with decay min(d, (1 + n) / (10 + n)) at update n.

    The warm-up keeps the random first weights from lingering in the average. Validation and every
    checkpoint's ``state_dict`` use the averaged weights (Lightning's :class:`WeightAveraging`).

    Args:
        decay: d, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"callbacks.averaging.decay={decay} must lie in [0, 1)")
        self.decay = decay
        super().__init__(multi_avg_fn=self._update)

    @property
    def averaged(self) -> nn.Module | None:
        """The averaged copy of the LightningModule while it is fitted, else None."""
        return self._average_model.module if self._average_model is not None else None

    def _update(self, average: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor) -> None:
        n = float(updates)
        if average[0].is_floating_point():
            torch._foreach_lerp_(list(average), list(current), 1 - min(self.decay, (1 + n) / (10 + n)))
        else:  # counters of batch norm
            torch._foreach_copy_(list(average), list(current))
