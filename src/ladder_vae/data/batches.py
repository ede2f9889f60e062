"""Batches of model inputs from byte images, with random pixels and a random order that can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ladder_vae.data.warping import warp
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.system.randomness import stream_seed


def spaced(total: int, count: int) -> Sequence[int]:
    """``count`` evenly spaced integers from 0 to ``total - 1``, or all of them if there are fewer."""
    return range(total) if count >= total else [i * total // count for i in range(count)]


class Batches:
    """Iterates over model inputs ``(B, C, H, W)``. Each batch is cut from memory and drawn in one piece.

    Everything random in an epoch follows from ``(seed, epoch)``, so that a resumed run sees the same batches
    as an uninterrupted one.

    Args:
        images: uint8 ``(N, C, H, W)``, in any order of memory. Batches are drawn on the device that holds the
            images.
        batch_size: Images per batch. The last batch is smaller if N is not a multiple.
        likelihood: Draws and prepares the pixels; None means Bernoulli.
        seed: Seed of order and draws. None serves the images in order, without warping or drawing.
        draw: Whether to draw pixels anew each time. If not, ``images`` must hold drawn pixels already.
        strength: Gives the strength of :func:`~ladder_vae.data.warping.warp` in an epoch; 0 does not warp.
        epoch: Called at the start of an iteration; returns the number of the epoch.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        likelihood: Likelihood | None = None,
        *,
        seed: int | None = None,
        draw: bool = False,
        strength: Callable[[int], float] = lambda epoch: 0.0,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.likelihood = likelihood or Bernoulli()
        self.seed = seed
        self.draw = draw
        self.strength = strength
        self.epoch = epoch
        remainder = len(images) % batch_size
        # Batch norm cannot normalize a training batch of one image, so an epoch leaves such an image out.
        self._count = len(images) - (remainder if seed is not None and remainder == 1 else 0)

    def __len__(self) -> int:
        return -(-self._count // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        if self.seed is None:
            for batch in self.images.split(self.batch_size):
                yield self.likelihood.prepare(batch.contiguous())
            return
        epoch, device = self.epoch(), self.images.device
        generator = torch.Generator(device).manual_seed(stream_seed(self.seed, "batches", epoch))
        strength = self.strength(epoch)
        order = torch.randperm(len(self.images), generator=generator, device=device)[: self._count]
        for index in order.split(self.batch_size):
            batch = self.images.index_select(0, index).contiguous()
            if strength:
                batch = warp(batch, strength, generator)
            if self.draw:
                batch = self.likelihood.draw_anew(batch, generator)
            yield self.likelihood.prepare(batch)
