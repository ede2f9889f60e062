"""Measure how images change when a level is drawn anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ladder_vae.analysis.classifier import Classifier
from ladder_vae.analysis.resolutions import images_per_pass
from ladder_vae.data.data_sets import ImageData
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.innovations import innovations, render, resample
from ladder_vae.system.randomness import stream_seed


@dataclass(frozen=True)
class Influence:
    """How M reconstructions change when a part of their code is drawn anew.

    Args:
        changes: Each change by name, averaged over draws, ``(M, L + 2)``. The first L columns are for
            drawing one level alone, z_1 first. The next is for drawing all levels, which keeps nothing of the
            image. The last is for another posterior sample of the same image. ``pixel_change`` is the mean
            absolute change of a pixel of the decoder's mean; ``ink_change`` is the relative change of the sum
            of its pixels; ``slant_change`` is the change of its :func:`slant`, in degrees;
            ``class_change``, which needs a judge, is how often the judge changes its answer.
        kept: How often the judge gives the unchanged reconstruction the label of the image, ``(M,)``; None
            without a judge or labels.
    """

    changes: dict[str, Tensor]
    kept: Tensor | None


@torch.inference_mode()
def measure_influence(
    model: Hierarchy, data: ImageData, index: Sequence[int], judge: Classifier | None, draws: int, seed: int
) -> Influence:
    """Draw each level of test images anew and keep all other innovations. The model should be in eval mode.

    Args:
        model: The hierarchy.
        data: The data set.
        index: Indices of M images of the test split.
        judge: Names the class of an image; None measures no change of class.
        draws: Draws per image, each with another posterior sample.
        seed: Seed of all draws.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(stream_seed(seed, "influence"))
    labels = data.labels("test")
    parts, kept = [], []
    chunk = images_per_pass(model, math.prod(data.image_shape[1:]))
    for start in range(0, len(index), chunk):
        chosen = list(index[start : start + chunk])
        x = data.observe("test", chosen).to(device)
        features = model.encode(x)
        drawn = [_draw(model, x, features, judge, generator) for _ in range(draws)]
        parts.append(
            {name: torch.stack([changes[name] for changes, _ in drawn]).mean(0) for name in drawn[0][0]}
        )
        if judge and labels is not None:
            right = [torch.eq(named, labels[chosen]) for _, named in drawn]
            kept.append(torch.stack(right).float().mean(0))
    changes = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Influence(changes, torch.cat(kept) if kept else None)


def _draw(
    model: Hierarchy, x: Tensor, features: Any, judge: Classifier | None, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Changes for one draw, ``(B, L + 2)`` each, and the judge's classes of the unchanged reconstructions.

    Both are on the CPU.
    """
    one, other = (
        model.infer(x, noise=model.draw_noise(1, len(x), like=x, generator=generator), features=features)
        for _ in range(2)
    )
    code, every = innovations(one), range(model.num_layers)
    base = render(model, code)  # not from params, so that no change gives exactly 0 and not 1e-9
    anew = [render(model, resample(code, level, generator=generator)) for level in every]
    anew.append(render(model, resample(code, *every, generator=generator)))
    anew.append(model.likelihood.mean(other.params[0]))
    named = judge.predict(base) if judge else torch.empty(0)
    found = {name: [change(image, base) for image in anew] for name, change in CHANGES.items()}
    if judge:
        found["class_change"] = [torch.ne(judge.predict(image), named).float() for image in anew]
    return {name: torch.stack(columns, 1).cpu() for name, columns in found.items()}, named.cpu()


def pixel_change(image: Tensor, base: Tensor) -> Tensor:
    """Mean absolute change of a pixel of each image, ``(n,)``."""
    return (image - base).abs().flatten(1).mean(1)


def ink_change(image: Tensor, base: Tensor) -> Tensor:
    """Absolute change of the sum of pixels, relative to the sum in ``base``, ``(n,)``."""
    weight = base.flatten(1).sum(1)
    return (image.flatten(1).sum(1) - weight).abs() / weight.clamp(min=1.0)


def slant_change(image: Tensor, base: Tensor) -> Tensor:
    """Absolute change of the :func:`slant`, in degrees, ``(n,)``."""
    return (slant(image) - slant(base)).abs()


#: Measures of the change from images ``base`` to the images after a level was drawn anew, ``(n, C, H, W)``
#: both. The key is the name of a :class:`~ladder_vae.runs.metrics.Metric`.
CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pixel_change": pixel_change,
    "ink_change": ink_change,
    "slant_change": slant_change,
}


def slant(images: Tensor) -> Tensor:
    """The angle at which the bright part of an image leans from the vertical, in degrees, ``(n,)``.

    It is positive if the bottom lies to the right of the top. It is computed as a regression of columns on
    rows, weighted by the pixels, so it is 0 for a shape that is round, upright or flat.

    Args:
        images: Intensities, ``(n, C, H, W)``.
    """
    weight = images.sum(1)  # (n, H, W)
    total = weight.sum((1, 2)).clamp(min=1e-6)
    rows = torch.arange(weight.shape[1], device=images.device, dtype=images.dtype)[:, None]
    columns = torch.arange(weight.shape[2], device=images.device, dtype=images.dtype)[None]
    row, column = ((weight * grid).sum((1, 2)) / total for grid in (rows, columns))
    off_row, off_column = rows - row[:, None, None], columns - column[:, None, None]
    together = (weight * off_row * off_column).sum((1, 2))
    return torch.rad2deg(torch.atan2(together, (weight * off_row**2).sum((1, 2)).clamp(min=1e-6)))
