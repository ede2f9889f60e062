"""Shear and bend training images a little, so that a model sees a larger variety of handwriting."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def warp(intensities: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    r"""Shear and bend each image a little, within the box that its ink fills; uint8 ``(B, C, H, W)``.

    The pixel at p gets the gray level from $q + d(q)$. The displacement d is a polynomial without a constant
    term in x and y, which are measured from the center in units of half the longer side. Its coefficients are
    normal, with standard deviation s for x and y, and s / 2 for x², xy and y². With q = p, ink would leave
    the rows and columns that it filled. Therefore q(p) stretches and moves each axis such that, to first
    order in d, the ink stays in its box. (MNIST's digits were scaled to a box of 20 by 20 pixels. Models
    learn that, and an image scaled otherwise costs them some nats.)

    Interpolation is bicubic, and outside the image its outermost pixels go on. Interpolation blurs, so in the
    end each channel of the batch as a whole gets back its histogram of gray levels; pixels drawn from it are
    then as certain as before.

    Args:
        intensities: uint8 ``(B, C, H, W)``, on the generator's device.
        strength: The standard deviation s.
        generator: Source of the coefficients.
    """
    count, _, height, width = intensities.shape
    device = intensities.device
    unit = max(height, width) / 2  # pixels
    x = ((torch.arange(width, device=device) + 0.5 - width / 2) / unit).view(1, 1, -1)
    y = ((torch.arange(height, device=device) + 0.5 - height / 2) / unit).view(1, -1, 1)
    spread = strength * torch.tensor([1, 1, 0.5, 0.5, 0.5], device=device)
    coefficients = spread * torch.randn(count, 2, 5, generator=generator, device=device)

    ink = intensities.gt(0).any(1)
    ink |= ~ink.any(-1, keepdim=True).any(-2, keepdim=True)  # a blank image counts as full of ink
    # to first order, ink at p goes to p - d(p)
    dx, dy = _displacement(coefficients, x, y)
    source_x = _stretched(x, dx, ink, 1 / unit)  # (B, 1, W)
    source_y = _stretched(y, dy, ink, 1 / unit)  # (B, H, 1)
    dx, dy = _displacement(coefficients, source_x, source_y)
    # grid_sample measures each axis in units of its own half length
    grid = torch.stack([(source_x + dx) * (2 * unit / width), (source_y + dy) * (2 * unit / height)], -1)
    warped = grid_sample(
        intensities.float(), grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    warped = warped.round_().clamp_(0, 255).byte()
    channels = zip(warped.unbind(1), intensities.unbind(1), strict=True)
    return torch.stack([_with_histogram(channel, like) for channel, like in channels], 1)


def _displacement(coefficients: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """d at points x ``(B or 1, 1, W)`` by y ``(B or 1, H, 1)``: along x and along y, each ``(B, H, W)``."""
    terms = torch.stack(torch.broadcast_tensors(x, y, x * x, x * y, y * y), 1)
    along_x, along_y = torch.einsum("bik,bkhw->ibhw", coefficients, terms)
    return along_x, along_y


def _stretched(place: Tensor, displacement: Tensor, ink: Tensor, pixel: float) -> Tensor:
    """Stretch an axis so that ink which moved to ``place - displacement`` fills the same span as before."""

    def span(where: Tensor) -> tuple[Tensor, Tensor]:
        low = where.where(ink, torch.inf).amin((1, 2), keepdim=True)
        high = where.where(ink, -torch.inf).amax((1, 2), keepdim=True)
        return low, (high - low).clamp(min=pixel)

    low, length = span(place)
    new_low, new_length = span(place - displacement)
    return new_low + (place - low) * (new_length / length)


def _with_histogram(intensities: Tensor, like: Tensor) -> Tensor:
    """Replace each gray level by the one at the same quantile of ``like``; both are uint8."""
    count, wanted = (torch.bincount(levels.flatten(), minlength=256) for levels in (intensities, like))
    middle = count.cumsum(0) - count / 2
    table = torch.searchsorted(wanted.cumsum(0).to(middle), middle).clamp(max=255).byte()
    return table[intensities.int()]
