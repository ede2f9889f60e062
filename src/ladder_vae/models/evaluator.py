"""Importance-weighted bounds on log p(x), and what each latent unit carries, image by image.

Everything here is measured from posterior draws through ``encode`` and ``infer``; it holds for any model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ladder_vae.maths.bounds import importance_bound
from ladder_vae.maths.image_quality import reconstruction_quality
from ladder_vae.maths.tails import pareto_khat
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.statistics import ImageStatistics, UnitSums
from ladder_vae.system.randomness import stream_seeds

SAMPLE_BLOCK = 100  # draws of an image that share one random stream
FEW_DRAWS = 10  # of them, for which no more noise is drawn
MIN_UNIT_DRAWS = 10  # they average out what a unit inherits from the random draws of other levels


@dataclass(frozen=True)
class Settings:
    """Settings of an evaluation.

    Args:
        num_samples: Number N of draws per image.
        sample_sizes: K of each bound; each divides N. There may be none.
        seed: Of the noise.
        chunk_size: Draws per forward pass, all images together; it changes results by rounding only.
        binarizations: Number of draws of the pixels that results are averaged over.
        binarization: Index of the current draw of the pixels; 0 is the one that training is tested on.
    """

    num_samples: int
    sample_sizes: tuple[int, ...]
    seed: int = 0
    chunk_size: int = 1000
    binarizations: int = 1
    binarization: int = 0

    @property
    def draws(self) -> int:
        """Draws made per image: at least ``MIN_UNIT_DRAWS``; the first ``num_samples`` are weighted."""
        return max(self.num_samples, MIN_UNIT_DRAWS)

    @property
    def images_per_pass(self) -> int:
        """Images that go through the model together."""
        return max(1, self.chunk_size // min(self.draws, SAMPLE_BLOCK))


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
    """Draw, weigh and average: the one evaluator, of what ends a training and of a long evaluation alike.

    What depends on the image alone is computed once. Apart from one number per draw and image, memory does
    not grow with the number of draws.

    Args:
        model: In eval mode.
        x: Images as the likelihood prepares them, ``(B, C, H, W)``, on the model's device.
        indices: Which images of their split they are, ``(B,)``. The noise of an image depends on its index,
            whatever the batch.
        settings: How much is drawn.
        weigh: ``weigher(model)``, if it was made before.
    """
    weigh = weigh or weigher(model)
    features = model.encode(x)
    kept = settings.num_samples
    log_weights: list[Tensor] = []
    distortion = torch.zeros(len(x), dtype=torch.float64)
    rates = torch.zeros(len(x), model.num_layers, dtype=torch.float64)
    units: UnitSums | None = None
    for start in range(0, settings.draws, SAMPLE_BLOCK):
        size = min(SAMPLE_BLOCK, settings.draws - start)
        noise = _keyed_noise(model, x, indices, start // SAMPLE_BLOCK, size, settings)
        samples_per_pass = max(1, settings.chunk_size // len(x))
        for eps in zip(*(e.split(samples_per_pass) for e in noise), strict=True):
            if start == 0:  # of these draws, more than weights is kept
                inference = model.infer(x, noise=eps, features=features)
                if units is None:
                    units = UnitSums(inference.levels)
                    quality = reconstruction_quality(
                        model.likelihood.mean(inference.params[0]), model.likelihood.intensities(x)
                    )
                units.add(inference.levels)
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
    bounds = torch.zeros(3, len(settings.sample_sizes), len(x), dtype=torch.float64)
    for i, k in enumerate(settings.sample_sizes):
        bounds[:, i] = torch.stack(importance_bound(weights, k))
    log_px, draw_var, ess = bounds.mT  # (M, number of K) each
    assert units is not None
    statistics: dict[str, Tensor] = {
        "log_px": log_px,
        "draw_var": draw_var,
        "ess": ess,
        "khat": pareto_khat(weights),
        "distortion": distortion / settings.num_samples,
        "rates": rates / settings.num_samples,
        "mse": quality[0],
        "ssim": quality[1],
    }
    arrays = {name: value.cpu() for name, value in statistics.items()}
    return ImageStatistics(units=units.statistics(), **arrays)


def _keyed_noise(
    model: Hierarchy, x: Tensor, indices: Sequence[int], block: int, size: int, settings: Settings
) -> list[Tensor]:
    """Noise of each level, ``(size, B, *event)``; image, block of draws and level have streams of their own.

    It is drawn on the CPU and in float32 wherever and however the model computes: the draws are the same.
    """
    again = (settings.binarization,) if settings.binarization else ()
    levels: list[list[Tensor]] = [[] for _ in model.event_shapes]
    for index in indices:
        seeds = stream_seeds(len(levels), settings.seed, "evaluate", index, block, *again)
        for drawn, event, seed in zip(levels, model.event_shapes, seeds, strict=True):
            source = torch.Generator().manual_seed(seed)
            noise = torch.randn(FEW_DRAWS, *event, generator=source)
            if size > FEW_DRAWS:
                rest = torch.randn(SAMPLE_BLOCK - FEW_DRAWS, *event, generator=source)
                noise = torch.cat([noise, rest])
            drawn.append(noise[:size])
    return [torch.stack(drawn, 1).to(x.device, x.dtype) for drawn in levels]


def unit_counts(model: Hierarchy) -> list[int]:
    """Number of units of each level, z_1 first."""
    return [math.prod(event) for event in model.event_shapes]
