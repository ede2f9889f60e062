"""Importance-weighted bounds on log p(x), and what each latent unit carries, image by image.

Everything here is measured from posterior draws through ``encode`` and ``infer``; it holds for any model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ladder_vae.maths.bounds import importance_bound
from ladder_vae.maths.image_quality import reconstruction_quality
from ladder_vae.maths.tails import pareto_khat
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.inference import Level
from ladder_vae.system.randomness import stream_seed

SAMPLE_BLOCK = 100  # draws of an image that share one random stream
MIN_UNIT_DRAWS = 10  # over which what a unit inherits from other levels is averaged out


@dataclass(frozen=True)
class Settings:
    """How much is drawn, and from which streams.

    Args:
        num_samples: Draws an image, N.
        sample_sizes: K of each bound; each divides N.
        seed: Of the noise.
        chunk_size: Draws (of all images together) a forward pass. Changes no result beyond rounding.
        binarizations: Draws of binary pixels that the result is a mean over.
        binarization: Which of them this is; 0 is the one that training is tested on.
    """

    num_samples: int
    sample_sizes: tuple[int, ...]
    seed: int = 0
    chunk_size: int = 1000
    binarizations: int = 1
    binarization: int = 0

    @property
    def draws(self) -> int:
        """Draws that are made; more than are weighted if there are too few to judge units by."""
        return max(self.num_samples, MIN_UNIT_DRAWS)

    @property
    def images_per_pass(self) -> int:
        """Images that go through the model together."""
        return max(1, self.chunk_size // min(self.draws, SAMPLE_BLOCK))


@dataclass(frozen=True)
class ImageStatistics:
    """What the draws say of each of M images; U units of all levels stand in a row, z_1's first.

    Args:
        log_px: L_K, nats, ``(M, number of K)``.
        draw_var: Its variance over draws, ``(M, number of K)``.
        ess: Effective sample size, ``(M, number of K)``.
        khat: Pareto k-hat of all weights of an image (:func:`~ladder_vae.maths.tails.pareto_khat`), ``(M,)``.
        distortion: Mean over draws, nats, ``(M,)``.
        rates: Mean over draws of log q - log p, nats, ``(M, L)``.
        mse: Of the decoder's mean for the first draw, ``(M,)``.
        ssim: The same, ``(M,)``.
        unit_rate: Mean over the first block of draws of each unit's rate (closed form where that is one),
            nats, ``(M, U)``.
        unit_mean: Mean over the same draws of the posterior mean, ``(M, U)``.
        unit_mean_var: Variance of that over repetitions with other draws, ``(M, U)``.
        unit_log_ratio: Mean over the same draws of log(sigma_q^2 / sigma_p^2), ``(M, U)``.
    """

    log_px: Tensor
    draw_var: Tensor
    ess: Tensor
    khat: Tensor
    distortion: Tensor
    rates: Tensor
    mse: Tensor
    ssim: Tensor
    unit_rate: Tensor
    unit_mean: Tensor
    unit_mean_var: Tensor
    unit_log_ratio: Tensor

    @staticmethod
    def concatenate(parts: Sequence[ImageStatistics]) -> ImageStatistics:
        """All images of the parts, in order."""
        names = ImageStatistics.__dataclass_fields__
        return ImageStatistics(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})

    @staticmethod
    def mean(binarizations: Sequence[ImageStatistics]) -> ImageStatistics:
        """Of the same images, binarized several times: means image by image, errors of these means.

        What is known of units stays that of the first: a unit's variance over images is one over binary
        images.
        """
        first, n = binarizations[0], len(binarizations)
        names = ("log_px", "draw_var", "ess", "khat", "distortion", "rates", "mse", "ssim")
        means = {name: torch.stack([getattr(b, name) for b in binarizations]).mean(0) for name in names}
        return replace(first, **(means | {"draw_var": means["draw_var"] / n}))

    @property
    def elbo(self) -> Tensor:
        """Mean log-weight of each image, nats, ``(M,)``."""
        return -(self.distortion + self.rates.sum(1))


Weigher = Callable[..., tuple[Tensor, Tensor]]


def weigher(model: Hierarchy) -> Weigher:
    """The inner loop of evaluation as one function, which may be compiled.

    It maps ``x``, ``model.encode(x)`` and the noise of each level to log p(x | z), ``(K, B)``, and the Monte
    Carlo rates, ``(L, K, B)``, nats.
    """

    def weigh(x: Tensor, features: Any, *noise: Tensor) -> tuple[Tensor, Tensor]:
        inference = model.infer(x, noise=noise, features=features)
        return inference.log_px, inference.rates(monte_carlo=True)

    return weigh


@torch.inference_mode()
def image_statistics(
    model: Hierarchy,
    x: Tensor,
    indices: Sequence[int],
    settings: Settings,
    weigh: Weigher | None = None,
) -> ImageStatistics:
    """Draw, weigh, and average. Meant for a model in eval mode.

    What is computed from the image alone is computed once; apart from one number a draw and image,
    memory does not grow with the number of draws.

    Args:
        x: Images as the likelihood prepares them, ``(B, C, H, W)``, on the model's device.
        indices: Which images of the split they are; keys of the noise, ``(B,)``.
        weigh: ``weigher(model)``, if it was made before.
    """
    weigh = weigh or weigher(model)
    features = model.encode(x)
    kept = settings.num_samples
    log_weights: list[Tensor] = []
    distortion = torch.zeros(len(x), dtype=torch.float64)
    rates = torch.zeros(len(x), model.num_layers, dtype=torch.float64)
    units: list[tuple[Tensor, ...]] = []
    for start in range(0, settings.draws, SAMPLE_BLOCK):
        size = min(SAMPLE_BLOCK, settings.draws - start)
        noise = _keyed_noise(model, x, indices, start // SAMPLE_BLOCK, settings)
        samples_per_pass = max(1, settings.chunk_size // len(x))
        for eps in zip(*(e[:size].split(samples_per_pass) for e in noise), strict=True):
            if start == 0:  # of these draws, more than weights is kept
                inference = model.infer(x, noise=eps, features=features)
                if not units:
                    quality = reconstruction_quality(
                        model.likelihood.mean(inference.params[0]), model.likelihood.intensities(x)
                    )
                units.append(_unit_statistics(inference.levels))
                found = inference.log_px, inference.rates(monte_carlo=True)
            else:
                found = weigh(x, features, *eps)
            log_px = found[0][:kept].cpu().double()  # (k, B); not every accelerator has float64
            level_rates = found[1][:, :kept].cpu().double()  # (L, k, B)
            log_weights.append(log_px - level_rates.sum(0))
            distortion -= log_px.sum(0)
            rates += level_rates.sum(1).T
            kept -= len(log_px)
    weights = torch.cat(log_weights)  # (N, B)
    bounds = [importance_bound(weights, k) for k in settings.sample_sizes]
    unit_rate, unit_mean, unit_log_ratio = (torch.cat(parts) for parts in zip(*units, strict=True))
    statistics: dict[str, Tensor] = {
        "log_px": torch.stack([bound.log_px for bound in bounds], 1),
        "draw_var": torch.stack([bound.draw_var for bound in bounds], 1),
        "ess": torch.stack([bound.ess for bound in bounds], 1),
        "khat": pareto_khat(weights),
        "distortion": distortion / settings.num_samples,
        "rates": rates / settings.num_samples,
        "mse": quality[0],
        "ssim": quality[1],
        "unit_rate": unit_rate.mean(0),
        "unit_mean": unit_mean.mean(0),
        "unit_mean_var": unit_mean.var(0) / len(unit_mean),
        "unit_log_ratio": unit_log_ratio.mean(0),
    }
    return ImageStatistics(**{name: value.cpu() for name, value in statistics.items()})


def _unit_statistics(levels: Sequence[Level]) -> tuple[Tensor, Tensor, Tensor]:
    """Rate, posterior mean and log variance ratio of every unit, ``(k, B, U)``."""

    def units(values: Sequence[Tensor]) -> Tensor:
        full = [v.expand_as(level.z).flatten(2) for v, level in zip(values, levels, strict=True)]
        return torch.cat(full, -1)

    return (
        units([level.unit_rate() for level in levels]),
        units([level.q.mean for level in levels]),
        units([level.q.log_var - level.p.log_var for level in levels]),
    )


def _keyed_noise(
    model: Hierarchy, x: Tensor, indices: Sequence[int], block: int, settings: Settings
) -> list[Tensor]:
    """Noise of each level, ``(SAMPLE_BLOCK, B, *event)``; of each image, and draw of its pixels, its own."""
    sizes = unit_counts(model)
    # On the CPU and in float32 wherever and however the model computes, so that the draws are the same.
    again = (settings.binarization,) if settings.binarization else ()

    def draw(index: int) -> Tensor:
        key = stream_seed(settings.seed, "evaluate", index, block, *again)
        return torch.randn(SAMPLE_BLOCK, sum(sizes), generator=torch.Generator().manual_seed(key))

    draws = [draw(index) for index in indices]
    noise = torch.stack(draws, 1).to(x.device, x.dtype)  # (SAMPLE_BLOCK, B, U)
    return [
        e.unflatten(-1, event)
        for e, event in zip(noise.split(sizes, dim=-1), model.event_shapes, strict=True)
    ]


def unit_counts(model: Hierarchy) -> list[int]:
    """Number of units of each level, z_1 first."""
    return [math.prod(event) for event in model.event_shapes]
