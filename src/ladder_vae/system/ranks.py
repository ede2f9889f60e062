"""Several processes that train one model together: which images each computes, and sums over all of them.

The processes count from 0; their number in this order is their *rank*. Without others a process has rank 0,
every image is its own, and a sum over all processes is what it has.

Each process computes the loss of the whole batch, and so has a copy of it. Sums go through
:func:`summed`, whose gradient is the sum over the copies; the mean over processes, which
DistributedDataParallel takes of the gradients, is then the gradient of one copy.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together; 1 if this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def share(images: int) -> slice:
    """Which images of a batch this process computes: neighbors, as many as another or one more or less."""
    return slice(rank() * images // world_size(), (rank() + 1) * images // world_size())


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, with a gradient; every process has to call this."""
    return values if world_size() == 1 else _Sum.apply(values)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient)  # of every process's copy of the loss


def stacked(values: Tensor) -> Tensor:
    """The tensors of all processes, which have one shape, ``(processes, *shape)``, with a gradient."""
    rows = [values if i == rank() else torch.zeros_like(values) for i in range(world_size())]
    return summed(torch.stack(rows))


def batch_mean(values: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """The mean over axes of which one counts the images of a batch, whose images the processes share.

    Args:
        values: Of this process's images, of which there may be none.
        dim: Axes; None means all.
    """
    if world_size() == 1:
        return values.mean(dim)
    sums = values.sum(dim)
    count = values.new_tensor([values.numel() / max(sums.numel(), 1)])
    totals = summed(torch.cat([sums.flatten(), count]))
    return (totals[:-1] / totals[-1]).view_as(sums)


def gathered(value: T) -> list[T]:
    """The values of all processes, in order of their ranks. They may be anything that can be pickled."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values
