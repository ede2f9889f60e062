"""Importance-weighted bounds on log p(x) from log-weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Bound(NamedTuple):
    """The importance-weighted bound L_K of each image.

    Args:
        log_px: L_K, nats, ``(B,)``.
        draw_var: Estimated variance of ``log_px`` if the draws were repeated, ``(B,)``; NaN from one draw.
        ess: Effective sample size of K draws, between 1 and K, ``(B,)``.
    """

    log_px: Tensor
    draw_var: Tensor
    ess: Tensor


def importance_bound(log_weights: Tensor, k: int) -> Bound:
    r"""$L_K = E[\log \frac1K \sum_k w_k]$ (Burda et al. 2015, arXiv 1509.00519, eq. 8).

    The bound is averaged over disjoint blocks of ``k`` draws, in float64. For a fixed set of draws it never
    falls when ``k`` is replaced by a multiple. Its variance is estimated from the spread of the blocks. A
    single block has no spread, so its variance is estimated by the jackknife, which leaves out one draw at a
    time. The jackknife errs on the large side (Efron and Stein 1981); the delta method errs on the small.

    Args:
        log_weights: log p(x, z) - log q(z | x), nats, ``(N, B)``; N is a multiple of ``k``.
        k: Draws per block.
    """
    draws, images = log_weights.shape
    blocks = log_weights.double().view(draws // k, k, images)
    totals = blocks.logsumexp(1)  # (N / k, B)
    ess = torch.exp(2 * totals - (2 * blocks).logsumexp(1))
    values = totals - math.log(k)
    if len(blocks) > 1:
        draw_var = values.var(0) / len(blocks)
    elif k > 1:
        shares = torch.exp(log_weights.double() - totals).clamp(max=1 - 1e-12)  # keeps log1p finite
        draw_var = (k - 1) ** 2 / k * torch.log1p(-shares).var(0)
    else:
        draw_var = torch.full_like(ess[0], math.nan)
    return Bound(values.mean(0), draw_var, ess.mean(0))


def image_bounds(log_weights: Tensor) -> Tensor:
    """L_K of each image from its K log-weights ``(K, B)``, in their precision: nats, ``(B,)``."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def mean_bound(log_weights: Tensor) -> Tensor:
    """L_K from K log-weights of each of B images, ``(K, B)``: the mean over images, nats, shape ``()``."""
    return image_bounds(log_weights).mean()
