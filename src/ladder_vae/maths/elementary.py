"""Softplus and exp(d) - 1 - d from functions that are fast on a CPU.

There PyTorch's ``log1p`` and ``expm1``, on which its own softplus rests, take over ten times as long as
``exp`` and ``log`` (benchmarks/README.md). Compiled, and where no gradients are wanted, these are computed
from the latter, as plain expressions of float32 numbers. Elsewhere they are PyTorch's own: step by step,
with a backward pass, expressions take longer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FLAT = 20.0  # from here on softplus(a) is a to the last bit of float32
STEEP = -4.0  # below it 1 + exp(a) would lose digits of exp(a)
TERMS = 9  # of a series
NEAR = 0.5  # below this size of d a series holds exp(d) - 1 - d, whose terms would cancel


def softplus(a: Tensor) -> Tensor:
    """log(1 + exp(a)) of each element."""
    return fast_softplus(a) if _pays(a) else F.softplus(a)


def exp_beyond_line(d: Tensor) -> Tensor:
    """exp(d) - 1 - d of each element, which is never negative; exactly 0 at 0."""
    return fast_exp_beyond_line(d) if _pays(d) else torch.expm1(d) - d


def fast_softplus(a: Tensor) -> Tensor:
    """:func:`softplus` to within 4e-6 of its value, of float32 numbers."""
    e = torch.exp(a.clamp(max=FLAT))
    small = e * (1 - e * (1 / 2 - e * (1 / 3 - e / 4)))
    return torch.where(a >= FLAT, a, torch.where(a < STEEP, small, torch.log(1 + e)))


def fast_exp_beyond_line(d: Tensor) -> Tensor:
    """:func:`exp_beyond_line` of float32 numbers."""
    near = d.clamp(-NEAR, NEAR)  # keeps the unused branch finite
    series = near / math.factorial(TERMS)
    for power in range(TERMS - 1, 1, -1):
        series = near * (1 / math.factorial(power) + series)
    return torch.where(d.abs() < NEAR, near * series, torch.exp(d) - 1 - d)


def _pays(value: Tensor) -> bool:
    """Whether the expressions are faster than PyTorch's own functions, and made for the precision."""
    at_once = torch.compiler.is_compiling() or not torch.is_grad_enabled()
    return at_once and value.dtype == torch.float32 and value.device.type == "cpu"
