"""The Pareto k-hat of an image, which measures how heavy the tail of its importance weights is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEWEST = 5  # a fit needs this many draws in the tail
PRIOR_DRAWS, PRIOR_SHAPE = 10, 0.5  # the fit is pulled toward 0.5, with the weight of ten draws


def tail_length(draws: int) -> int:
    """How many of the largest of N weights form the tail: N / 5 or 3 sqrt(N), whichever is less."""
    return math.ceil(min(draws / 5, 3 * math.sqrt(draws)))


def pareto_khat(log_weights: Tensor) -> Tensor:
    r"""Shape of a generalized Pareto distribution fitted to the largest weights of each image, ``(B,)``.

    A weight exceeds $u$ with a probability that falls like $u^{-1/k}$: moments of order below $1/k$ exist.
    If k is below 0.5, the weights have a finite variance, and the standard error of their average can be
    trusted. Above 0.7 (less for few draws) it cannot. Above 1 the draws show no sign that the mean of the
    weights exists (Vehtari et al. 2015, "Pareto smoothed importance sampling", arXiv 1507.02646). The fit is
    that of Zhang and Stephens (2009, "A new and efficient estimation method for the generalized Pareto
    distribution", Technometrics 51), with the weak prior of Vehtari et al., appendix C.

    Args:
        log_weights: log p(x, z) - log q(z | x), nats, ``(N, B)``.

    Returns:
        k-hat, ``(B,)``; NaN if there are fewer than 21 draws, 0 if the largest weights are all equal.
    """
    draws, images = log_weights.shape
    length = tail_length(draws)
    if length < FEWEST:
        return log_weights.new_full((images,), math.nan)
    largest = log_weights.double().T.topk(length + 1).values.flip(1)  # (B, length + 1), ascending
    weights = torch.exp(largest - largest[:, -1:])
    excess = weights[:, 1:] - weights[:, :1]  # over the largest weight outside the tail
    most = excess[:, -1:]
    smallest = torch.finfo(torch.float64).tiny
    quartile = excess[:, [int(length / 4 + 0.5) - 1]].clamp(min=smallest)
    points = 30 + int(math.sqrt(length))
    at = torch.arange(1, points + 1, device=excess.device, dtype=torch.float64)
    # theta = -k / sigma. Each theta has a known best k; theta itself is averaged over a grid.
    spread = (1 - torch.sqrt(points / (at - 0.5))) / (3 * quartile)
    theta = 1 / most.clamp(min=smallest) + spread  # (B, points)
    shape = torch.log1p(-theta[:, :, None] * excess[:, None, :]).mean(2)
    log_likelihood = length * (torch.log(-theta / shape) - shape - 1)
    best = (log_likelihood.softmax(1) * theta).sum(1, keepdim=True)
    khat = torch.log1p(-best * excess).mean(1)
    khat = (length * khat + PRIOR_DRAWS * PRIOR_SHAPE) / (length + PRIOR_DRAWS)
    return torch.where(most[:, 0] < 1e-12, 0.0, khat)
