"""Importance-weighted bounds on log p(x), and what each latent unit carries, image by image.

Everything here is measured from posterior draws through ``encode`` and ``infer``; it holds for any model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladder_vae.maths.bounds import importance_bound
from ladder_vae.maths.image_quality import reconstruction_quality
from ladder_vae.maths.keyed_normals import fold
from ladder_vae.maths.tails import pareto_khat
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.passes import Passes, place_of_keys
from ladder_vae.models.statistics import ImageStatistics, UnitSums
from ladder_vae.system.randomness import stream_seed
from ladder_vae.system.ranks import gathered, share

UNIT_DRAWS = 100  # of each image, the first ones, tell what its units carry
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
        return max(1, self.chunk_size // min(self.draws, UNIT_DRAWS))


@torch.inference_mode()
def image_statistics(
    model: Hierarchy,
    x: Tensor,
    indices: Sequence[int],
    settings: Settings,
    passes: Passes | None = None,
) -> ImageStatistics:
    """Draw, weigh and average: the one evaluator, of what ends a training and of a long evaluation alike.

    What depends on the image alone is computed once, but in recorded passes, where it costs less than it
    would to keep it in its place. Apart from one number per draw and image, memory does not grow with the
    number of draws, and nothing is read from the device before all are made.

    Args:
        model: In eval mode.
        x: Images as the likelihood prepares them, ``(B, C, H, W)``, on the model's device.
        indices: Which images of their split they are, ``(B,)``. The noise of a draw depends on the index of
            the image and the number of the draw, whatever the batch, the pass and the device.
        settings: How much is drawn.
        passes: ``Passes(model)``, if they were made before.
    """
    if not model.has_weights:
        return _estimated(model, x, indices, settings)
    passes = passes or Passes(model)
    group = passes.group(x, image_keys(indices, settings), settings.num_samples)
    features = model.encode(x)
    per_pass = max(1, settings.chunk_size // len(x))
    units: UnitSums | None = None
    few = min(settings.draws, UNIT_DRAWS)
    for start in range(0, few, per_pass):  # of these draws, more than weights is kept
        inference = model.infer(x, noise=group.noise(min(per_pass, few - start)), features=features)
        if units is None:
            units = UnitSums(inference.levels)
            quality = reconstruction_quality(
                model.likelihood.mean(inference.params[0]), model.likelihood.intensities(x)
            )
        units.add(inference.levels)
        kept = max(0, settings.num_samples - start)
        group.add(inference.log_px, inference.rates(monte_carlo=True), kept)
    left = settings.draws - few
    if left:
        size = math.ceil(left / math.ceil(left / per_pass))  # of passes of one size, but for the last
        for start in range(0, left, size):
            passes(group, features, min(size, left - start))
    weights, distortion, rates = group.sums()
    bounds = weights.new_zeros(3, len(settings.sample_sizes), len(x))
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


def _estimated(model: Hierarchy, x: Tensor, indices: Sequence[int], settings: Settings) -> ImageStatistics:
    """The statistics of a model whose draws have no weights: no bound but the ELBO, and no units."""
    if settings.sample_sizes:
        raise ValueError(f"{type(model).__name__} has no importance weights here, so that there is no L_K")
    keys = image_keys(indices, settings).to(place_of_keys(x.device))
    found = model.estimate(x, keys, settings.draws, max(1, settings.chunk_size // len(x)))
    mse, ssim = reconstruction_quality(found.reconstruction, model.likelihood.intensities(x))
    none = torch.zeros(len(x), 0, dtype=torch.float64)
    return ImageStatistics(
        log_px=none,
        draw_var=none,
        ess=none,
        khat=torch.full((len(x),), math.nan, dtype=torch.float64),
        distortion=found.distortion.cpu(),
        rates=found.rates.T.cpu(),
        mse=mse.cpu(),
        ssim=ssim.cpu(),
        units=None,
    )


def shared_statistics(
    model: Hierarchy, x: Tensor, indices: Sequence[int], settings: Settings
) -> ImageStatistics:
    """:func:`image_statistics` of images of which each process computes its share; each gets those of all.

    Args:
        x: All images, the same in every process.
    """
    mine = share(len(x))
    own = image_statistics(model, x[mine], indices[mine], settings) if len(x[mine]) else None
    return ImageStatistics.concatenate([part for part in gathered(own) if part is not None])


def image_keys(indices: Sequence[int], settings: Settings) -> Tensor:
    """Keys of the images' noise, int64, ``(B,)``, for one seed and one draw of the pixels."""
    again = (settings.binarization,) if settings.binarization else ()
    seed = torch.tensor(stream_seed(settings.seed, "evaluate", *again))
    return fold(seed, torch.tensor(list(indices)))


def unit_counts(model: Hierarchy) -> list[int]:
    """Number of units of each level, z_1 first."""
    return [math.prod(event) for event in model.event_shapes]
