"""Levels whose latents are images ``(C, H, W)``: their resolutions, and features small enough to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.system.naming import z_name

MOST_OF_LEVEL, MOST_OF_ALL = 1_000, 10_000  # features of an image that are kept
GRIDS = (4, 2, 1)  # places along a side that larger levels are pooled to
PASS = 1_000  # images of a forward pass
PASS_PIXELS = PASS * 28 * 28  # their pixels, at most, where levels are images


def places(event: Sequence[int]) -> tuple[int, int]:
    """Height and width of a level; a latent that is no image ``(C, H, W)`` has a single place."""
    return (event[1], event[2]) if len(event) == 3 else (1, 1)


def has_places(event: Sequence[int]) -> bool:
    """Whether the level has more than one place."""
    return math.prod(places(event)) > 1


def resolutions(events: Sequence[Sequence[int]]) -> dict[tuple[int, int], list[int]]:
    """The levels of each resolution, as indices, ascending; the resolution of z_1 first.

    Args:
        events: Shape of one image's latent of each level.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for level, event in enumerate(events):
        found.setdefault(places(event), []).append(level)
    return found


def resolution_name(size: tuple[int, int]) -> str:
    """``7x7``: height and width."""
    return f"{size[0]}x{size[1]}"


def level_names(levels: Sequence[int]) -> str:
    """``z3``, ``z1 to z12``, or, of levels that do not follow each other, all names."""
    if len(levels) > 2 and list(levels) == [*range(levels[0], levels[-1] + 1)]:
        return f"{z_name(levels[0])} to {z_name(levels[-1])}"
    return ", ".join(map(z_name, levels))


def covered(pixels: int, count: int) -> int:
    """Pixels along a side that one of ``count`` places covers, where each resolution is half the one below.

    A resolution of an odd number of pixels is half of one more, of which the last are cut off: of 28 pixels,
    each of 4 places covers 8, the last only 4.
    """
    side = 1 << max(0, -(-pixels // count) - 1).bit_length()
    return side if -(-pixels // side) == count else -(-pixels // count)


def images_per_pass(model: Hierarchy, pixels: int) -> int:
    """How many images of so many pixels fit a forward pass: fewer large ones where levels have places."""
    if not any(map(has_places, model.event_shapes)):
        return PASS
    return max(1, min(PASS, PASS_PIXELS // pixels))


def pooled(features: Tensor, depth: int) -> Tensor:
    """Features of a level as they are kept: as they are, or, of a large level, means over places.

    A level of more than 1,000 units, or 10,000 / L in a model of L levels, is averaged over the cells of a
    grid, 4x4 if that is small enough, else 2x2, else over all places. Only latents with places are.

    Args:
        features: Of N images, ``(N, *event)``.
        depth: Number of levels L.

    Returns:
        ``(N, *event)``, or ``(N, C, g, g)`` of a grid.
    """
    most = min(MOST_OF_LEVEL, MOST_OF_ALL // depth)
    event = features.shape[1:]
    if not has_places(event) or event.numel() <= most:
        return features
    return on_grid(features, next((side for side in GRIDS if event[0] * side**2 <= most), GRIDS[-1]))


def on_grid(features: Tensor, side: int) -> Tensor:
    """Means over a grid of at most ``side`` x ``side`` cells, ``(N, C, g, g)``; vectors stay as they are."""
    if not has_places(features.shape[1:]):
        return features
    height, width = features.shape[2:]
    return F.adaptive_avg_pool2d(features, (min(side, height), min(side, width)))
