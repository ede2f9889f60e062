"""Softplus and expm1 from functions that CPUs compute fast.

On the CPU ``log1p`` and ``expm1``, which PyTorch's own ``softplus`` and ``logaddexp`` rest on, take ten times
as long as ``exp``, ``log`` and ``sigmoid``: enough to be a tenth of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return a.clamp(min=0) + _log1p(torch.exp(-a.abs()))

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return grad[0] * torch.sigmoid(a)


class _CoarseSoftplus(_Softplus):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return a.clamp(min=0).sub_(a.abs().sigmoid_().log_())


class _Expm1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        e = torch.exp(a)
        ctx.save_for_backward(e)
        return torch.tanh(0.5 * a) * (e + 1)  # tanh(a / 2) = (e^a - 1) / (e^a + 1) loses nothing near 0

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        (e,) = ctx.saved_tensors
        return grad[0] * e


def softplus(a: Tensor) -> Tensor:
    """log(1 + exp(a)), any shape, to a relative error of a few roundings."""
    return _Softplus.apply(a)


def coarse_softplus(a: Tensor) -> Tensor:
    """log(1 + exp(a)), any shape, to a few roundings of itself or of 1, whichever is larger.

    Enough for a sum over pixels, and half the work: max(a, 0) - log sigmoid(|a|).
    """
    return _CoarseSoftplus.apply(a)


def expm1(a: Tensor) -> Tensor:
    """exp(a) - 1, any shape, to a relative error of a few roundings."""
    return _Expm1.apply(a)


def _log1p(u: Tensor) -> Tensor:
    """log(1 + u) for u in [0, 1].

    w = 1 + u is rounded; log(w) u / (w - 1) takes that back, for log(w) / (w - 1) hardly changes over a
    rounding (Goldberg 1991, "What every computer scientist should know about floating-point arithmetic",
    theorem 4).
    """
    w = 1 + u
    return torch.where(w == 1, u, torch.log(w) * (u / (w - 1)))
