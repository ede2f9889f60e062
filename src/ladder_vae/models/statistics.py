"""Statistics of an evaluation: per image, and per latent unit over all images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladder_vae.models.inference import Level


@dataclass(frozen=True)
class UnitStatistics:
    """Statistics of the U latent units of all levels, z_1's first, over M images; parts can be merged.

    Args:
        images: M, ``()``.
        rate: Mean over images and draws of each unit's rate (closed form where that is one), nats, ``(U,)``.
        log_ratio: Mean of log(sigma_q^2 / sigma_p^2), ``(U,)``.
        mean: Mean of the posterior mean, ``(U,)``.
        spread: Sum over images of the squared deviation of an image's posterior mean from ``mean``, ``(U,)``.
        draw_var: Mean over images of the variance that an image's posterior mean has over repetitions
            with other draws, ``(U,)``.
    """

    images: Tensor
    rate: Tensor
    log_ratio: Tensor
    mean: Tensor
    spread: Tensor
    draw_var: Tensor

    @staticmethod
    def merge(parts: Sequence[UnitStatistics]) -> UnitStatistics:
        """Merge statistics of disjoint sets of images (Chan, Golub and LeVeque 1983)."""
        each = {name: torch.stack([getattr(part, name) for part in parts]) for name in UNIT_FIELDS}
        images = each["images"].sum()
        share = (each["images"] / images)[:, None]
        means = {name: (share * each[name]).sum(0) for name in ("rate", "log_ratio", "mean", "draw_var")}
        between = each["images"][:, None] * (each["mean"] - means["mean"]) ** 2
        return UnitStatistics(images=images, spread=(each["spread"] + between).sum(0), **means)

    def variance(self) -> Tensor:
        r"""$Var_x(E_{q(z|x)}[z_u])$ of each unit, ``(U,)`` (Burda et al. 2015, arXiv 1509.00519, sec. 4.2).

        If the posterior mean of a unit depends on draws of other levels, its expectation is estimated by the
        mean over draws. The variance that the finite number of draws adds is subtracted.
        """
        return self.spread / (self.images - 1) - self.draw_var


UNIT_FIELDS = tuple(UnitStatistics.__dataclass_fields__)


@dataclass(frozen=True)
class ImageStatistics:
    """What the draws say of each of M images, and all together of the units.

    Args:
        log_px: L_K, nats, ``(M, number of K)``.
        draw_var: Its variance over draws, ``(M, number of K)``.
        ess: Effective sample size, ``(M, number of K)``.
        khat: Pareto k-hat of all weights of an image (:func:`~ladder_vae.maths.tails.pareto_khat`), ``(M,)``.
        distortion: Mean over draws, nats, ``(M,)``.
        rates: Mean over draws of log q - log p, nats, ``(M, L)``.
        mse: Of the decoder's mean for the first draw, ``(M,)``.
        ssim: The same, ``(M,)``.
        units: From the first block of draws of each image; None if they are not looked at.
    """

    log_px: Tensor
    draw_var: Tensor
    ess: Tensor
    khat: Tensor
    distortion: Tensor
    rates: Tensor
    mse: Tensor
    ssim: Tensor
    units: UnitStatistics | None

    @staticmethod
    def concatenate(parts: Sequence[ImageStatistics]) -> ImageStatistics:
        """All images of the parts, in order."""
        arrays = {name: torch.cat([getattr(part, name) for part in parts]) for name in IMAGE_FIELDS}
        known = [part.units for part in parts if part.units is not None]
        return ImageStatistics(units=UnitStatistics.merge(known) if known else None, **arrays)

    @staticmethod
    def mean(binarizations: Sequence[ImageStatistics]) -> ImageStatistics:
        """Average the statistics of the same images over several binarizations, image by image.

        Unit statistics are those of the first binarization: the variance over images is defined for one set
        of binary images.
        """
        first, n = binarizations[0], len(binarizations)
        means = {
            name: torch.stack([getattr(b, name) for b in binarizations]).mean(0) for name in IMAGE_FIELDS
        }
        return ImageStatistics(units=first.units, **(means | {"draw_var": means["draw_var"] / n}))

    @property
    def elbo(self) -> Tensor:
        """Mean log-weight of each image, nats, ``(M,)``."""
        return -(self.distortion + self.rates.sum(1))


IMAGE_FIELDS = tuple(name for name in ImageStatistics.__dataclass_fields__ if name != "units")


class UnitSums:
    """Sums over draws of the quantities of each unit and image, ``(B, U)``; memory is that of one draw.

    Args:
        levels: Of the first draws; means are summed as deviations from them, which loses no digits.
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        self.origin = _by_unit([level.q.mean for level in levels], levels)[0]
        zeros = torch.zeros_like(self.origin)
        self.draws, self.rate, self.log_ratio, self.moved, self.squared = 0, zeros, zeros, zeros, zeros

    def add(self, levels: Sequence[Level]) -> None:
        """Count the draws of ``(k, B)`` posterior samples."""
        self.draws += len(levels[0].z)
        self.rate = self.rate + _by_unit([level.unit_rate() for level in levels], levels).sum(0)
        ratios = [level.q.log_var - level.p.log_var for level in levels]
        self.log_ratio = self.log_ratio + _by_unit(ratios, levels).sum(0)
        moved = _by_unit([level.q.mean for level in levels], levels) - self.origin
        self.moved = self.moved + moved.sum(0)
        self.squared = self.squared + (moved**2).sum(0)

    def statistics(self) -> UnitStatistics:
        """Means over draws, then over images."""
        n = self.draws
        origin, rate, log_ratio, moved, squared = (
            each.cpu().double() for each in (self.origin, self.rate, self.log_ratio, self.moved, self.squared)
        )
        moved, squared = moved / n, squared / n
        mean = origin + moved  # (B, U)
        return UnitStatistics(
            images=torch.tensor(float(len(mean)), dtype=torch.float64),
            rate=rate.mean(0) / n,
            log_ratio=log_ratio.mean(0) / n,
            mean=mean.mean(0),
            spread=((mean - mean.mean(0)) ** 2).sum(0),
            draw_var=((squared - moved**2) / (n - 1)).clamp(min=0).mean(0),
        )


def _by_unit(values: Sequence[Tensor], levels: Sequence[Level]) -> Tensor:
    """Values of the units of all levels in a row, ``(k, B, U)``."""
    full = [v.expand_as(level.z).flatten(2) for v, level in zip(values, levels, strict=True)]
    return torch.cat(full, -1)
