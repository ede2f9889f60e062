"""Exponential moving average of the weights, with a decay that warms up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ladder_vae.data.data_sets import ImageData
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.inference import Terms
from ladder_vae.system.errors import UserError
from ladder_vae.system.randomness import stream_seed
from ladder_vae.system.ranks import share
from ladder_vae.training.lightning_module import HierarchicalVAE


class ExponentialMovingAverage(WeightAveraging):
    """Averages weights and batch-norm statistics with decay min(d, (1 + n) / (10 + n)) at update n.

    The decay is small at first, so that the random initial weights do not linger in the average. Validation
    and the ``state_dict`` of every checkpoint use averaged weights (Lightning's :class:`WeightAveraging`).

    An average of batch-norm statistics is not the statistics of the averaged weights. Where weights move fast
    these can be measured anew, at the end of every epoch, before validation and checkpoints.

    Args:
        decay: The final decay d, in [0, 1).
        recalibrate_batches: Batches of unwarped training images, evenly spaced, on which the batch-norm
            statistics of the averaged weights are measured; each takes a pass forward. 0: they are averaged.

    Raises:
        UserError: If a number is out of range.
    """

    def __init__(self, decay: float = 0.999, recalibrate_batches: int = 0) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"callbacks.averaging.decay={decay} must lie in [0, 1)")
        if recalibrate_batches < 0:
            raise UserError(
                f"callbacks.averaging.recalibrate_batches={recalibrate_batches} must be at least 0"
            )
        self.decay = decay
        self.recalibrate_batches = recalibrate_batches
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
        if trainer.global_step > self._latest_update_step:
            self._update(trainer.global_step)
        if self.recalibrate_batches and batch_idx + 1 == trainer.num_training_batches:
            self._recalibrate(trainer.datamodule.data, pl_module)  # type: ignore[attr-defined]

    def _update(self, step: int) -> None:
        assert self._average_model is not None
        n = self._updates
        torch._foreach_lerp_(*self._numbers, 1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)
        self._updates += 1
        self._average_model.n_averaged.add_(1)
        self._latest_update_step = step

    def _recalibrate(self, data: ImageData, pl_module: L.LightningModule) -> None:
        """Measure the batch-norm statistics of the averaged weights; in place, for they are listed."""
        averaged = self.averaged
        assert isinstance(averaged, HierarchicalVAE)
        size = data.batch_size
        index = data.sample("train", self.recalibrate_batches * size)
        count = max(1, len(index) // size)  # of few images, all in one: batch norm takes no single one

        def batches() -> Iterator[Tensor]:
            for start in range(count):  # each from all over the split, which may be sorted by class
                yield data.observe("train", index[start::count]).to(pl_module.device)

        noise = torch.Generator(pl_module.device).manual_seed(stream_seed(averaged.seed, "batch norm"))
        update_bn(batches(), _Pass(averaged.model, noise))


class _Pass(nn.Module):
    """A pass of this process's part of a batch through a hierarchy, as ``update_bn`` calls it."""

    def __init__(self, model: Hierarchy, noise: torch.Generator) -> None:
        super().__init__()
        self.model, self.noise = model, noise
        self.training = model.training  # which it is left with

    def forward(self, x: Tensor) -> Terms:
        noise = self.model.terms_noise(1, len(x), like=x, generator=self.noise)
        return self.model.terms(x[share(len(x))], [level[:, share(len(x))] for level in noise])
