"""Images as people hold them, NumPy or PyTorch, bytes or floats: to bytes, and to what a model takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladder_vae.maths.likelihoods import Bernoulli, Likelihood


def binarize(images: Any, seed: int = 0) -> Tensor:
    """Draw binary pixels, each 1 with the probability of its gray value, as training and test images are.

    Args:
        images: Gray images of any shape, in a form that :func:`gray_bytes` takes.
        seed: Seed of the draw.

    Returns:
        Zeros and ones, float32, of the shape of ``images``.

    Raises:
        ValueError: If ``images`` are no gray values.

    Example:
        >>> binarize([[0, 255], [255, 0]])
        tensor([[0., 1.],
                [1., 0.]])
    """
    likelihood = Bernoulli()
    drawn = likelihood.draw(gray_bytes(images), torch.Generator().manual_seed(seed))
    return likelihood.prepare(drawn)


def gray_bytes(images: Any) -> Tensor:
    """Images as bytes, uint8 of the same shape.

    They are integers or floats from 0 to 255, floats from 0 to 1, or booleans. Of arrays that hold nothing
    above 1, 1 is white.

    Raises:
        ValueError: If a value is none of these.
    """
    values = _tensor(images)
    if values.dtype == torch.bool:
        return values.byte() * 255
    low, high = (float(value) for value in values.double().aminmax())
    if not 0 <= low <= high <= 255:
        raise ValueError(
            f"images hold values from {low:g} to {high + 0.0:g}; gray values are from 0 to 1, or "
            "from 0 to 255"
        )
    return (values.double() * (255 if high <= 1 else 1)).round().byte()


def model_inputs(images: Any, image_shape: Sequence[int], likelihood: Likelihood) -> Tensor:
    """Images as the likelihood prepares them, float32 ``(N, C, H, W)``.

    Images that are prepared stay as they are. Floats from -1 to 1 for a likelihood of 256 values count as
    prepared if one is negative, or if each is one of the 256 values that are prepared.

    Args:
        images: In a form that :func:`gray_bytes` takes. The shape is ``(N, C, H, W)``, ``(N, C * H * W)``,
            ``(N, H, W, C)``, without N for a single image, or, if C is 1, without C.
        image_shape: (C, H, W).
        likelihood: Prepares them.

    Raises:
        ValueError: If the shape is another one, values are no gray values, or they are gray and the
            likelihood has binary pixels.
    """
    values = _shaped(_tensor(images), tuple(image_shape))
    if values.is_floating_point() and _prepared(values, likelihood):
        likelihood.check(values)
        return values.float()
    drawn = gray_bytes(values)
    if likelihood.random:
        between = (drawn > 0) & (drawn < 255)
        if between.any():
            image = int(between.flatten(1).any(1).nonzero()[0])
            raise ValueError(
                f"image {image} has gray pixels, and the pixels of this model are 0 or 1; "
                "ladder_vae.binarize(images) draws them"
            )
    return likelihood.prepare(drawn)


def _tensor(images: Any) -> Tensor:
    """The images as a tensor on the CPU. Raises ValueError if they are none, or no numbers."""
    if isinstance(images, Tensor):
        values = images.detach().cpu()
    else:
        array = np.array(images)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"images are of type {array.dtype}; they are numbers or booleans")
        values = torch.from_numpy(array)
    if not values.numel():
        raise ValueError(f"there are no images: the shape is {tuple(values.shape)}")
    return values


def _prepared(values: Tensor, likelihood: Likelihood) -> bool:
    """Whether floats are what the likelihood prepares rather than gray values."""
    if likelihood.span is None:
        return True
    if likelihood.span[0] >= 0:
        return False
    # Of bytes, 255 x is whole for gray values x, and odd for prepared ones, x = byte / 127.5 - 1.
    return bool(values.min() < 0) or bool(((255 * values).round() % 2 == 1).all())


def _shaped(values: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """The values as ``(N, C, H, W)``. Raises ValueError if they cannot be images of this shape."""
    channels, height, width = image_shape
    forms = [(channels, height, width), (math.prod(image_shape),), (height, width, channels)]
    forms += [(height, width)] if channels == 1 else []
    shape = tuple(values.shape)
    for form in forms:
        if shape in (form, (*shape[:1], *form)):
            if form == forms[2]:
                return values.reshape(-1, *form).permute(0, 3, 1, 2).contiguous()
            return values.reshape(-1, *image_shape)
    first, second, third = (f"(N, {', '.join(map(str, form))})" for form in (forms[0], forms[-1], forms[1]))
    raise ValueError(f"images of shape {shape} do not fit; this model takes {first}, {second} or {third}")
