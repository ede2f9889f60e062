"""Sizes of a model, either by rule from the number of levels or from given lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ladder_vae.maths.likelihoods import Likelihood
from ladder_vae.models.hierarchy import ImageShape

MAX_LAYERS = 64


def check_num_layers(num_layers: int) -> None:
    """Raises ValueError if a number of levels is not from 1 to 64."""
    if not 1 <= num_layers <= MAX_LAYERS:
        raise ValueError(f"num_layers={num_layers} is not between 1 and {MAX_LAYERS}")


def image_shape(input_shape: Sequence[int]) -> ImageShape:
    """``input_shape`` as (C, H, W). Raises ValueError if it is not three positive numbers."""
    shape = tuple(int(size) for size in input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"input_shape must be (C, H, W), got {list(shape)}")
    return shape


def params_shape(image: ImageShape, likelihood: Likelihood) -> ImageShape:
    """Shape of the decoder's output for one image, (channels, H, W)."""
    channels, height, width = image
    return likelihood.channels(channels), height, width


def published_sizes(
    latent_sizes: Sequence[int] | None, hidden_sizes: Sequence[int] | None, num_layers: int
) -> tuple[list[int], list[int]]:
    """Latents and MLP widths per level as in Sønderby et al. 2016: 64 >> l and 512 >> l, at any depth.

    Raises:
        ValueError: If given sizes do not fit the number of levels.
    """
    latents = level_sizes("latent", latent_sizes, lambda level: max(64 >> level, 4), num_layers)
    hidden = level_sizes("hidden", hidden_sizes, lambda level: max(512 >> level, 32), num_layers)
    return latents, hidden


def level_sizes(
    kind: str, given: Sequence[int] | None, default: Callable[[int], int], num_layers: int
) -> list[int]:
    """Sizes of the levels l = 0, 1, ..., z_1 first: ``given``, or ``default(l)`` if that is None.

    Raises:
        ValueError: If ``num_layers`` is not 1 to 64, the list has another length, or a size is not positive.
    """
    check_num_layers(num_layers)
    if given is None:
        return [default(level) for level in range(num_layers)]
    sizes = [int(size) for size in given]
    if len(sizes) != num_layers:
        raise ValueError(
            f"num_layers={num_layers} needs {num_layers} {kind} sizes, got {len(sizes)}: {sizes}"
        )
    if min(sizes) < 1:
        raise ValueError(f"{kind} sizes must be at least 1, got {sizes}")
    return sizes
