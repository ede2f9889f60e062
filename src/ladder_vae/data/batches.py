"""Binary batches from byte images: drawn pixels, and an order that can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ladder_vae.data.warping import warp
from ladder_vae.system.randomness import stream_seed


def draw_binary(intensities: Tensor, generator: torch.Generator) -> Tensor:
    """Bernoulli draw of each pixel: True with probability ``intensity / 255``, exactly.

    Args:
        intensities: uint8, any shape, on the generator's device.
    """
    # A byte uniform on 0 .. 254 lies below intensity b in exactly b of 255 cases.
    uniform = torch.empty_like(intensities).random_(0, 255, generator=generator)
    return uniform < intensities


def draw_binary_fast(intensities: Tensor, generator: torch.Generator) -> Tensor:
    """The same from other random numbers, in a third of the time; on the CPU.

    Eight bytes a number, and another draw where a byte is 255.
    """
    count = intensities.numel()
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    uniform = words.view(torch.uint8)[:count]
    again = uniform.eq(255).nonzero()[:, 0]
    uniform[again] = torch.empty(len(again), dtype=torch.uint8).random_(0, 255, generator=generator)
    return uniform.view(intensities.shape) < intensities


class Batches:
    """Float batches ``(B, C, H, W)`` in {0, 1} from byte images: an index and a vectorized draw.

    Everything random in an epoch follows from ``(seed, epoch)``, so that a resumed run sees what an
    uninterrupted one would.

    Args:
        images: uint8 ``(N, C, H, W)``. Batches are drawn where they lie: on the CPU, or all on a GPU.
        batch_size: Images a batch; the last batch is smaller where N does not divide.
        seed: Seed of order and draws; None serves the images in order, as they are.
        draw: Whether to draw pixels anew each time; otherwise bytes are taken to be 0 or 255.
        strength: Of the :func:`~ladder_vae.data.warping.warp` of an epoch; 0 leaves the images as they are.
        epoch: Called at the start of an iteration for the number of the epoch.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        *,
        seed: int | None = None,
        draw: bool = False,
        strength: Callable[[int], float] = lambda epoch: 0.0,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.draw = draw
        self.strength = strength
        self.epoch = epoch
        remainder = len(images) % batch_size
        # Batch norm cannot normalize a training batch of one image; it waits for another epoch.
        self._count = len(images) - (remainder if seed is not None and remainder == 1 else 0)

    def __len__(self) -> int:
        return -(-self._count // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        if self.seed is None:
            for batch in self.images.split(self.batch_size):
                yield batch.gt(0).float()
            return
        epoch, device = self.epoch(), self.images.device
        generator = torch.Generator(device).manual_seed(stream_seed(self.seed, "batches", epoch))
        strength = self.strength(epoch)
        draw = draw_binary_fast if device.type == "cpu" else draw_binary
        order = torch.randperm(len(self.images), generator=generator, device=device)[: self._count]
        for index in order.split(self.batch_size):
            batch = self.images.index_select(0, index)
            if strength:
                batch = warp(batch, strength, generator)
            yield (draw(batch, generator) if self.draw else batch.gt(0)).float()
