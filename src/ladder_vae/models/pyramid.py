"""Which resolutions a convolutional hierarchy has, and how many levels each of them.

A *resolution* is named by its longer side in pixels. Each is half the one below it, rounded up: an image of
28 pixels has 28, 14, 7, 4, 2 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ladder_vae.models.sizes import MAX_LAYERS, check_num_layers

LEAST_SIDE, MOST_SIDE = 4, 256  # pixels
MOST_FEATURES = 100_000  # a convolution of as many features as that fits into no memory
LARGEST_DEFAULT = 64  # the largest resolution that gets levels by default
TINY_IMAGE = 8  # images up to this size have levels at their own resolution by default
Pairs = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Stage:
    """A resolution and its levels.

    Args:
        resolution: Its longer side, pixels.
        size: Height and width, pixels.
        halvings: How often the image was halved.
        levels: Number of levels, at least 0.
        width: Features.
        latents: Channels of the latent of each level.
    """

    resolution: int
    size: tuple[int, int]
    halvings: int
    levels: int
    width: int
    latents: int


def pyramid(height: int, width: int) -> dict[int, tuple[int, int]]:
    """Height and width of each resolution, the image's first.

    Raises:
        ValueError: If an image is smaller than 4x4 or larger than 256x256 pixels.
    """
    if not LEAST_SIDE <= min(height, width) <= max(height, width) <= MOST_SIDE:
        raise ValueError(
            f"a convolutional hierarchy takes images of {LEAST_SIDE}x{LEAST_SIDE} to {MOST_SIDE}x{MOST_SIDE} "
            f"pixels, got {height}x{width}"
        )
    sizes = {max(height, width): (height, width)}
    while max(height, width) > 1:
        height, width = -(-height // 2), -(-width // 2)
        sizes[max(height, width)] = (height, width)
    return sizes


def default_levels(resolutions: Sequence[int], num_layers: int) -> list[tuple[int, int]]:
    """How many levels each resolution has if only their number is given.

    The largest resolution with levels is half the image's, and at most 64. One level lies at 1x1, from eight
    on another one at about 4x4, where few are of use; all other levels are shared equally by the larger
    resolutions, the smaller of which come first. A single level lies at the second largest
    resolution that may have levels.
    """
    side = resolutions[0]
    largest = side if side <= TINY_IMAGE else min(LARGEST_DEFAULT, resolutions[1])
    wide = [r for r in resolutions if 4 < r <= largest] or [r for r in resolutions if 2 < r <= largest]
    if num_layers == 1:
        return [(wide[min(1, len(wide) - 1)], 1)]
    counts = dict.fromkeys(wide, 0) | {1: 1}
    small = [r for r in resolutions if 2 < r < min(wide)]
    left = num_layers - 1
    if small and num_layers >= 8:
        counts[small[0]] = 1
        left -= 1
    for place in range(left):
        counts[wide[::-1][place % len(wide)]] += 1
    return [(r, counts[r]) for r in sorted(counts, reverse=True) if counts[r]]


def stages(
    image_size: tuple[int, int],
    num_layers: int,
    levels: Pairs | None,
    width: int,
    widths: Pairs | None = None,
    latent_channels: Pairs | None = None,
) -> list[Stage]:
    """Plan a hierarchy: its resolutions from the image up.

    Args:
        image_size: Height and width of the images, pixels.
        num_layers: Number of levels of all resolutions.
        levels: Pairs of a resolution and its number of levels, the largest first; None takes
            :func:`default_levels`. With 0 levels a resolution has nets alone.
        width: Features at every resolution.
        widths: Pairs of a resolution and its own number of features.
        latent_channels: Pairs of a resolution and its latent channels. The default is 64 / resolution,
            rounded down to a power of 2, at most 16.

    Raises:
        ValueError: If a resolution does not exist, or numbers do not fit.
    """
    sizes = pyramid(*image_size)
    if levels is None:
        check_num_layers(num_layers)
        counts = dict(default_levels(list(sizes), num_layers))
    else:
        counts = _by_resolution("levels", levels, sizes, least=0)
        if list(counts) != sorted(counts, reverse=True):
            raise ValueError(
                f"levels={[list(pair) for pair in levels]} must begin with the largest resolution"
            )
        if not 1 <= sum(counts.values()) <= MAX_LAYERS:
            raise ValueError(
                f"levels={[list(pair) for pair in levels]} are {sum(counts.values())} levels; "
                f"a model has 1 to {MAX_LAYERS}"
            )
    if sum(counts.values()) != num_layers:
        raise ValueError(
            f"levels={[list(pair) for pair in counts.items()]} are {sum(counts.values())} levels, "
            f"and num_layers={num_layers}; set num_layers={sum(counts.values())}, or leave out levels"
        )
    if not list(counts.values())[-1]:
        raise ValueError(
            f"levels={[list(pair) for pair in counts.items()]} has no level at its smallest resolution"
        )
    own_widths = _by_resolution("widths", widths or (), sizes, least=1)
    own_latents = _by_resolution("latent_channels", latent_channels or (), sizes, least=1)
    for name, given in (("widths", own_widths), ("latent_channels", own_latents)):
        if unused := sorted(set(given) - set(counts)):
            raise ValueError(
                f"{name} names resolution {unused[0]}, which has no levels; those are {list(counts)}"
            )
    if width < 1:
        raise ValueError(f"width={width} must be at least 1")
    most = max([width, *own_widths.values(), *own_latents.values()])
    if most > MOST_FEATURES:
        raise ValueError(f"{most} features or latent channels are too many; {MOST_FEATURES:,} are allowed")
    order = list(sizes)
    return [
        Stage(r, sizes[r], order.index(r), n, own_widths.get(r, width), own_latents.get(r, _latents(r)))
        for r, n in counts.items()
    ]


def _latents(resolution: int) -> int:
    return min(16, 1 << max(0, (64 // resolution).bit_length() - 1))


def _by_resolution(
    name: str, pairs: Pairs, sizes: dict[int, tuple[int, int]], *, least: int
) -> dict[int, int]:
    """Pairs as a mapping. Raises ValueError if they are none, or name a resolution that is not there."""
    found: dict[int, int] = {}
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(
                f"{name} must be pairs of a resolution and a number, as in [[14,6],[7,7]], got {pair}"
            )
        resolution, number = (int(each) for each in pair)
        if resolution not in sizes:
            raise ValueError(
                f"{name} names resolution {resolution}, which the image does not have; "
                f"its resolutions are {', '.join(map(str, sizes))}"
            )
        if resolution in found:
            raise ValueError(f"{name} names resolution {resolution} twice")
        if number < least:
            raise ValueError(f"{name} of resolution {resolution} must be at least {least}, got {number}")
        found[resolution] = number
    return found
