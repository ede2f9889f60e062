"""Standard-normal noise as a pure function of integers: the same bits on every device, in any order.

A generator with a state, such as ``torch.Generator``, gives the CPU and a GPU other numbers, and serves one
stream at a time. Here every number is computed from its own key by operations that are exact everywhere:
integers that wrap around, a table, one product that fits into float32, one sum. Nothing is left to a
library's logarithm or cosine, nor to a compiler that fuses the product and the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, made odd and signed: neighboring counters end far apart
FIRST, SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB, signed
STEPS = 10  # bits of the mantissa that choose a row of the table, in each power of two
REST = 23 - STEPS  # its other bits, between which the table is linear


def fold(key: Tensor, number: Tensor) -> Tensor:
    """The key of the stream that has a number within the stream of ``key``; both int64, broadcast.

    It is output ``number`` of the SplitMix64 generator that starts at ``key`` (Steele, Lea and Flood 2014,
    "Fast splittable pseudorandom number generators", with the finalizer "Mix13" of Stafford).
    """
    return _mix(number * GOLDEN + key)


def keyed_normals(keys: Tensor, events: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Draws from N(0, 1) for several levels, ``(*keys.shape, *event)`` each, float32, on the keys' device.

    A number depends on its key, the index of its level and the index of its unit, on nothing else. Each
    64-bit word gives two, from 32 random bits each, by inversion of the normal distribution function: none is
    larger than 6.3. They are off by 5e-7 at most.

    Args:
        keys: int64; unrelated ones, as :func:`fold` makes them.
        events: The shape of a draw on each level.
    """
    words = _mix(keys[..., None] + _unit_keys(tuple(map(math.prod, events)), keys.device))
    normals = _normal(words.view(torch.int32))  # (*keys, two a word)
    widths = [2 * _words(math.prod(event)) for event in events]
    return [
        level[..., : math.prod(event)].unflatten(-1, event)
        for level, event in zip(normals.split(widths, -1), events, strict=True)
    ]


def _mix(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64, in place: a bijection of 64-bit words without visible structure."""
    for shift, factor in ((30, FIRST), (27, SECOND), (31, 1)):
        # PyTorch's shift of int64 repeats the sign, which the mask takes away
        x ^= (x >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        if factor != 1:
            x *= factor
    return x


def _words(units: int) -> int:
    return -(-units // 2)


@cache
def _unit_keys(units: tuple[int, ...], device: torch.device) -> Tensor:
    """What is added to a key for each word of the levels, in a row, int64."""
    each = [
        fold(torch.tensor(level), torch.arange(_words(count), dtype=torch.int64))
        for level, count in enumerate(units)
    ]
    return torch.cat(each).to(device)


def _normal(bits: Tensor) -> Tensor:
    """Turn uniform int32 into draws from N(0, 1), float32 of the same shape.

    Read as a number w, 32 bits give the sign of the draw and the probability |w| / 2^32 of a larger one. The
    table has 1,024 rows for each power of two, so that tails are as exact as the middle (Cheung, Lee, Luk and
    Villasenor 2007, "Hardware generation of arbitrary random number distributions from uniform distributions
    via the inversion method").
    """
    uniform = bits.float()
    pattern = uniform.view(torch.int32)
    # Exponents are from 127 to 158, and 0 for w = 0, which takes the row of w = 2: five bits of them tell.
    row = (pattern >> REST).bitwise_and_((1 << (5 + STEPS)) - 1)
    line = _table(bits.device).index_select(0, row.flatten()).view(torch.float32).view(*bits.shape, 2)
    rest = pattern.bitwise_and((1 << REST) - 1).float()
    return rest.mul_(line[..., 1]).add_(line[..., 0]).copysign_(uniform)


@cache
def _table(device: torch.device) -> Tensor:
    """Value and slope of the quantile function in each row, two float32 that lie in one int64.

    Slopes have 11 bits, so that their product with 13 bits is exact in float32.
    """
    exponent = (torch.arange(32) + 1) % 32  # row 31 is of w = 1, row 0 of w = 2, ..., row 30 of w = 2^31
    start = torch.ldexp(torch.ones(32, dtype=torch.float64), exponent)
    edges = start[:, None] * (1 + torch.arange((1 << STEPS) + 1) / (1 << STEPS))
    values = -torch.special.ndtri((edges / 2**32).clamp(max=0.5))  # (32, 1,025)
    slopes = values.diff(dim=1) / (1 << REST)
    mantissa, power = torch.frexp(slopes)
    slopes = torch.ldexp((mantissa * 2**11).round(), power - 11)
    pairs = torch.stack([values[:, :-1].flatten(), slopes.flatten()], 1).float()
    return pairs.view(torch.int64)[:, 0].contiguous().to(device)
