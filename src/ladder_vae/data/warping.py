"""Training images sheared and bent a little, so that a model sees more handwriting than there is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def warp(intensities: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    r"""Each image sheared and bent a little, within the box that its ink fills.

    The pixel at p gets what was at $q + d(q)$. The displacement d is a polynomial in x and y, measured from
    the center in halves of the longer side, without a constant term; its coefficients are normal, with
    standard deviation s for x and y, s / 2 for x², xy and y². Were q equal to p, ink would leave the rows and
    columns that it filled; q(p) stretches and moves each axis such that, to first order in d, it does not.
    (Digits of MNIST were scaled to a box of 20 by 20 pixels. A model knows that, and an image scaled
    otherwise costs it some nats.)

    Bicubic interpolation, black outside the image. What blur that leaves is undone by giving all images
    together the histogram of gray levels that they had, so that pixels drawn from them are as certain as
    before.

    Args:
        intensities: uint8 ``(B, C, H, W)``, on the generator's device.
        strength: s.
    """
    count, _, height, width = intensities.shape
    device = intensities.device
    unit = max(height, width) / 2  # pixels
    x = ((torch.arange(width, device=device) + 0.5 - width / 2) / unit).view(1, 1, -1)
    y = ((torch.arange(height, device=device) + 0.5 - height / 2) / unit).view(1, -1, 1)
    spread = strength * torch.tensor([1, 1, 0.5, 0.5, 0.5], device=device)
    coefficients = spread * torch.randn(count, 2, 5, generator=generator, device=device)

    ink = intensities.gt(0).any(1)
    ink |= ~ink.any(-1, keepdim=True).any(-2, keepdim=True)  # a blank image fills itself
    # first order: ink at p goes to p - d(p)
    dx, dy = _displacement(coefficients, x, y)
    source_x = _stretched(x, dx, ink, 1 / unit)  # (B, 1, W)
    source_y = _stretched(y, dy, ink, 1 / unit)  # (B, H, 1)
    dx, dy = _displacement(coefficients, source_x, source_y)
    # grid_sample measures each axis in its own half length
    grid = torch.stack([(source_x + dx) * (2 * unit / width), (source_y + dy) * (2 * unit / height)], -1)
    warped = grid_sample(intensities.float(), grid, mode="bicubic", align_corners=False)
    return _with_histogram(warped.round_().clamp_(0, 255).byte(), intensities)


def _displacement(coefficients: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """d at points x ``(B or 1, 1, W)`` by y ``(B or 1, H, 1)``: along x and along y, each ``(B, H, W)``."""
    terms = torch.stack(torch.broadcast_tensors(x, y, x * x, x * y, y * y), 1)
    along_x, along_y = torch.einsum("bik,bkhw->ibhw", coefficients, terms)
    return along_x, along_y


def _stretched(place: Tensor, displacement: Tensor, ink: Tensor, pixel: float) -> Tensor:
    """An axis, stretched such that ink that went to ``place - displacement`` is seen where it was."""

    def span(where: Tensor) -> tuple[Tensor, Tensor]:
        low = where.where(ink, torch.inf).amin((1, 2), keepdim=True)
        high = where.where(ink, -torch.inf).amax((1, 2), keepdim=True)
        return low, (high - low).clamp(min=pixel)

    low, length = span(place)
    new_low, new_length = span(place - displacement)
    return new_low + (place - low) * (new_length / length)


def _with_histogram(intensities: Tensor, like: Tensor) -> Tensor:
    """Gray levels replaced, in their order, by those at the same quantiles of ``like``."""
    count, wanted = (torch.bincount(levels.flatten(), minlength=256) for levels in (intensities, like))
    middle = count.cumsum(0) - count / 2
    table = torch.searchsorted(wanted.cumsum(0).to(middle), middle).clamp(max=255).byte()
    return table[intensities.int()]
