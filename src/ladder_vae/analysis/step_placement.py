r"""Where a few steps of a diffusion cost least, found exactly on a grid of times.

The rate of a step from t down to s depends on z_t alone, whatever other steps there are. So the cost of each
pair of times is known from one look at how well the net denoises, and the best T steps from the top to the
image are a shortest path (Watson, Ho, Norouzi and Chan 2021, arXiv 2106.03802).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ladder_vae.maths.diffusion import mixture_rate, noised
from ladder_vae.models.diffusion import Diffusion

GRID = 129  # times
BINS, LARGEST = 240, 30.0  # of the logit of a pixel's own value
NODES = 24  # of the integral over the noise of a step


@dataclass(frozen=True)
class Look:
    """How well a net denoises at each time of a grid.

    Args:
        gamma: Of each time, ``(G,)``, float64.
        slope: Of gamma at each time, ``(G,)``.
        error: Mean over images of |x - guess|^2, ``(G,)``.
        squared: Mean over images of |x - guess|^4, ``(G,)``.
        logits: Of the value that a pixel has: mean number of pixels of an image in each bin, ``(G, bins)``;
            empty where pixels are not binary.
    """

    gamma: Tensor
    slope: Tensor
    error: Tensor
    squared: Tensor
    logits: Tensor


@torch.inference_mode()
def look(model: Diffusion, x: Tensor, chunk_size: int, generator: torch.Generator) -> Look:
    """Denoise images at each time of the grid, one draw each.

    An image has the same noise at all times, so that what is found changes smoothly over time. With noise of
    its own for each time, the best path would be the one through times whose draws came out well.

    Args:
        model: In eval mode.
        x: Images as the likelihood prepares them, ``(B, C, H, W)``, on its device.
        chunk_size: Images that are denoised at once.
        generator: Source of the noise, on the CPU.
    """
    image = model.scaled(x)
    noise = torch.randn(image.shape, generator=generator).to(image)
    gammas, slopes = model.schedule.at(torch.linspace(0, 1, GRID).to(x))
    error, squared = torch.zeros(2, GRID, dtype=torch.float64)
    logits = torch.zeros(GRID, BINS, dtype=torch.float64)
    for place, gamma in enumerate(gammas):
        for part, e in zip(image.split(chunk_size), noise.split(chunk_size), strict=True):
            z = noised(part, gamma).rsample(e)
            guess, logit = model.denoise(z, gamma.expand(len(part)))
            errors = (part - guess).square().flatten(1).sum(1).cpu().double()
            error[place] += errors.sum()
            squared[place] += errors.square().sum()
            if model.likelihood.binary:
                own = (part * logit).clamp(-LARGEST, LARGEST - 1e-3)
                index = ((own + LARGEST) / (2 * LARGEST) * BINS).long().flatten()
                logits[place] += torch.bincount(index.cpu(), minlength=BINS)
    gammas, slopes = gammas.cpu().double(), slopes.cpu().double()
    return Look(gammas, slopes, error / len(x), squared / len(x), logits / len(x))


def loss_variances(seen: Look) -> tuple[float, float]:
    r"""Variance of the loss of one image at one time, nats squared: with the schedule, and if it were linear.

    It is that of $\frac12 \gamma' e^{-\gamma} |x - \hat x|^2$ over images and uniform times.
    """
    t = torch.linspace(0, 1, len(seen.gamma), dtype=torch.float64)
    weight, rise = 0.5 * torch.exp(-seen.gamma), seen.gamma[-1] - seen.gamma[0]
    mean = torch.trapezoid(weight * seen.error * seen.slope, t)
    own, linear = (
        torch.trapezoid(weight**2 * seen.squared * seen.slope * slope, t) - mean**2
        for slope in (seen.slope, rise)
    )
    return float(own), float(linear)


def costs(seen: Look, transition: str) -> Tensor:
    """Mean rate of the step from each time down to each other, nats, ``(from, to)``; inf where it goes up."""
    precision = torch.exp(-seen.gamma)
    added = precision[None, :] - precision[:, None]  # (from, to)
    down = torch.ones(GRID, GRID).tril(-1).bool()
    if transition == "gaussian":
        cost = 0.5 * added * seen.error[:, None]
    else:
        cost = torch.stack([_mixture_costs(seen.logits[place], added[place]) for place in range(GRID)])
    return torch.where(down, cost, math.inf)


def _mixture_costs(pixels: Tensor, added: Tensor) -> Tensor:
    """Mean rate of steps that add so much precision each, ``(S,)``, where the transition is a mixture.

    Args:
        pixels: Number of pixels in each bin of their own logit, ``(bins,)``.
        added: Precisions, ``(S,)``; where they are negative, the result means nothing.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    e, weight = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    width = 2 * LARGEST / BINS
    a = (torch.arange(BINS, dtype=torch.float64) + 0.5) * width - LARGEST
    used = pixels > 0
    rate = mixture_rate(a[used][:, None, None], added.clamp(min=0)[:, None], e) @ weight  # (bins, S)
    return pixels[used] @ rate


def best_path(seen: Look, steps: int, transition: str) -> list[int]:
    """The places on the grid of the T + 1 levels whose steps cost least, from 0 to the last.

    Raises:
        ValueError: If the grid has no room for so many steps.
    """
    if not 1 <= steps < GRID:
        raise ValueError(f"steps={steps} must be between 1 and {GRID - 1}")
    cost = costs(seen, transition)
    # the cost of the cheapest way from the top to each time, in so many steps as were made
    least = torch.full((GRID,), math.inf, dtype=torch.float64)
    least[-1] = 0
    came = []
    for _ in range(steps):
        least, origin = (least[:, None] + cost).min(0)
        came.append(origin)
    path = [0]
    for origin in reversed(came):
        path.append(int(origin[path[-1]]))
    return path
