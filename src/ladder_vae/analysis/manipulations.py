"""Pictures of what each level does: rows of images from manipulated codes, with captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ladder_vae.analysis.level_tables import by_channel
from ladder_vae.analysis.resolutions import has_places
from ladder_vae.drawing import image_grids
from ladder_vae.drawing.image_grids import to_bytes
from ladder_vae.drawing.pages import Picture
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.innovations import (
    Code,
    innovations,
    interpolate,
    keep_above,
    pairs,
    render,
    resample,
    swap,
    traverse,
    traverse_channel,
)
from ladder_vae.system.naming import z_name
from ladder_vae.system.randomness import stream_seed

DRAWS = 5  # of one level, for the same images
GLANCE_IMAGES, GLANCE_DRAWS = 4, 8
SWAPPED = 8  # images that give a level, and images that take it
TRAVERSED_IMAGES, TRAVERSED_UNITS = 2, 6
TRAVERSE_TO, CHANNEL_TO, TRAVERSE_STEPS = 3.0, 1.0, 7
INTERPOLATED_PAIRS, INTERPOLATION_STEPS = 3, 10
TEMPERATURES = (0.25, 0.5, 0.75, 1.0)
SAMPLES = 10


@dataclass(frozen=True)
class Gallery:
    """What all pictures of an analysis share.

    Args:
        model: The hierarchy, in eval mode.
        x: Test images to show, ``(n, C, H, W)``, on the model's device.
        code: The innovations of one posterior sample per image.
        unit_rates: Rate of each unit for that sample, nats, ``(n, *event)`` per level.
        seed: Seed of all draws.
    """

    model: Hierarchy
    x: Tensor
    code: Code
    unit_rates: list[Tensor]
    seed: int

    @property
    def originals(self) -> Tensor:
        """The images as intensities in [0, 1]."""
        return self.model.likelihood.intensities(self.x)

    def generator(self, *keys: int | str) -> torch.Generator:
        """A random generator; equal keys give equal draws."""
        return torch.Generator().manual_seed(stream_seed(self.seed, "pictures", *keys))

    def render(self, code: Sequence[Tensor]) -> np.ndarray:
        """The decoder's mean for each code, bytes ``(n, H, W)``, or ``(n, H, W, 3)`` in color."""
        return to_bytes(render(self.model, code))


@torch.inference_mode()
def open_gallery(model: Hierarchy, x: Tensor, seed: int) -> Gallery:
    """Infer the codes of the images ``x`` that are shown."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "pictures"))
    noise = model.draw_noise(1, len(x), like=x, generator=generator)
    inference = model.infer(x, noise=noise)
    return Gallery(
        model, x, innovations(inference), [level.unit_rate()[0] for level in inference.levels], seed
    )


def glance(gallery: Gallery, levels: Sequence[int]) -> Picture:
    """Draw every level anew, for the same few images."""
    some = [e[:GLANCE_IMAGES] for e in gallery.code]
    x, reconstruction = to_bytes(gallery.originals[:GLANCE_IMAGES]), gallery.render(some)
    rows = {}
    for level in reversed(levels):
        draws = _draws(gallery, some, level, GLANCE_DRAWS)  # (draws, n, H, W[, 3])
        cells = np.concatenate([x[None], reconstruction[None], draws])
        rows[f"{z_name(level)} drawn anew"] = cells.swapaxes(0, 1).reshape(-1, *x.shape[1:])
    draw = partial(
        image_grids.save_strips,
        rows=rows,
        columns=2 + GLANCE_DRAWS,
        title="One level drawn anew, the others' innovations kept",
        headings=["image", "recon.", *(f"draw {i + 1}" for i in range(GLANCE_DRAWS))],
    )
    caption = (
        "Each row is one test image: as the model sees it, its reconstruction from one posterior "
        f"sample, then {GLANCE_DRAWS} images for which the innovation of a single level was drawn anew "
        "from the prior and those of all other levels were kept. What changes along a row is that "
        "level's part."
    )
    return Picture("glance.png", "One level drawn anew", caption, draw)


def fewer_levels(gallery: Gallery, levels: Sequence[int]) -> Picture:
    """Reconstruct images from the top levels only."""
    depth = gallery.model.num_layers
    rows = {"test image": to_bytes(gallery.originals), "all levels kept": gallery.render(gallery.code)}
    drawn = resample(gallery.code, *range(depth), generator=gallery.generator("fewer"))
    for lowest in [level + 1 for level in levels]:
        kept = (
            f"{z_name(lowest)} to {z_name(depth - 1)} kept"
            if lowest < depth - 1
            else f"{z_name(lowest)} kept"
        )
        kept = "nothing kept" if lowest == depth else kept
        below = "" if lowest == depth else " below"
        rows[f"{kept}, prior's mean{below}"] = gallery.render(keep_above(gallery.code, lowest))
        rows[f"{kept}, drawn{below}"] = gallery.render(keep_above(gallery.code, lowest, drawn))
    draw = partial(
        image_grids.save_strips,
        rows=rows,
        columns=len(gallery.x),
        title="Reconstructed from ever fewer levels",
    )
    caption = (
        "Levels that are kept have the innovations inferred from the test image in the top row. Those "
        "below them are set to the mean of their prior, or drawn from it."
    )
    if depth - 1 in levels:
        caption += (
            " In the last two rows nothing is kept: one image, always the same, and samples of the model."
        )
    return Picture("fewer_levels.png", "Reconstructed from ever fewer levels", caption, draw)


def resampled(gallery: Gallery, level: int) -> Picture:
    """Draw one level anew, for all shown images."""
    draws = _draws(gallery, gallery.code, level, DRAWS)
    file = f"resample_{z_name(level)}.png"
    draw = partial(
        image_grids.save_strips,
        rows={
            "test image": to_bytes(gallery.originals),
            "reconstruction": gallery.render(gallery.code),
            f"{z_name(level)} drawn anew": draws.reshape(-1, *draws.shape[2:]),
        },
        columns=len(gallery.x),
        title=f"{z_name(level)} drawn anew, all other innovations kept",
    )
    caption = (
        f"The innovation of {z_name(level)} was drawn anew from N(0, 1), {DRAWS} times; those of all "
        "other levels are the test image's. Levels above keep their latents, levels below follow."
    )
    return Picture(file, f"Resample {z_name(level)}", caption, draw)


def swapped(gallery: Gallery, level: int) -> Picture:
    """Take one level from image B and the rest from image A, for every pair."""
    some = [e[:SWAPPED] for e in gallery.code]
    rest, given = pairs(some, some)
    images, file = gallery.render(some), f"swap_{z_name(level)}.png"
    draw = partial(
        image_grids.save_cross,
        left=images,
        top=images,
        cells=gallery.render(swap(rest, given, level)),
        labels=("A: all other levels", f"B: {z_name(level)}"),
        title=f"{z_name(level)} from the image above, the rest from the image to the left",
    )
    caption = (
        f"In each cell, the innovation of {z_name(level)} comes from the reconstruction above its column "
        "(B), those of all other levels from the reconstruction left of its row (A). On the diagonal "
        "A and B are the same. Where a column repeats the image above it, the level makes the image; "
        "where a row repeats the image left of it, the level hardly matters."
    )
    return Picture(file, f"Swap {z_name(level)}", caption, draw)


def traversed(gallery: Gallery, level: int, unit_rates: Tensor) -> Picture:
    """Move the units of the level with the highest rates, one after the other; of a spatial level, channels.

    Args:
        unit_rates: Rate of each unit of the level, nats, ``(*event,)``.
    """
    walk: Callable[[Sequence[Tensor], int, int, Tensor], Code] = traverse
    kind, to, rates = "unit", TRAVERSE_TO, unit_rates.flatten()
    if has_places(unit_rates.shape):
        walk, kind, to, rates = traverse_channel, "channel", CHANNEL_TO, by_channel(unit_rates)
    values = torch.linspace(-to, to, TRAVERSE_STEPS)
    form = "+.0f" if to == TRAVERSE_TO else "+.1f"
    units = rates.argsort(descending=True)[:TRAVERSED_UNITS].tolist()
    shown = range(len(gallery.x))[2::3][:TRAVERSED_IMAGES] or range(1)
    rows, file = {}, f"traverse_{z_name(level)}.png"
    blank = np.full_like(to_bytes(gallery.originals[:1]), 255)
    for unit in units:
        walks = [
            gallery.render(walk([e[i : i + 1] for e in gallery.code], level, unit, values)) for i in shown
        ]
        beside = [part for images in walks for part in (blank, images)][1:]
        rows[f"{kind} {unit}: {rates[unit]:.2f} nats"] = np.concatenate(beside)
    draw = partial(
        image_grids.save_strips,
        rows=rows,
        columns=len(rows[next(iter(rows))]),
        title=f"{kind.capitalize()}s of {z_name(level)}, innovation from -{to:.0f} to +{to:.0f}",
        headings=([*(f"{v:{form}}" if abs(v) > 1e-6 else "0" for v in values.tolist()), ""] * len(shown))[
            :-1
        ],
    )
    second = "; right, of another" if len(shown) > 1 else ""
    everywhere = (
        ", at all places at once (with -1 or +1 everywhere it is as long as a draw from the prior),"
        if kind == "channel"
        else ""
    )
    caption = (
        f"The {len(units)} {kind}s of {z_name(level)} with the highest rate, counted from 0. The "
        f"innovation of that {kind} alone{everywhere} goes from -{to:.0f} to +{to:.0f}; all else "
        f"is that of one test image{second}."
    )
    return Picture(file, f"Traverse {z_name(level)}", caption, draw)


def interpolated(gallery: Gallery, levels: Sequence[int]) -> Picture:
    """Interpolate between two images, in one level at a time. The gallery must show at least two images."""
    count = min(INTERPOLATED_PAIRS, len(gallery.x) // 2)
    weights = torch.linspace(0, 1, INTERPOLATION_STEPS)
    a, b = ([e[start : 2 * count : 2] for e in gallery.code] for start in (0, 1))
    rows = {
        f"only {z_name(level)}": gallery.render(interpolate(a, b, weights, level))
        for level in reversed(levels)
    }
    rows["all levels"] = gallery.render(interpolate(a, b, weights, *range(gallery.model.num_layers)))
    draw = partial(
        image_grids.save_strips,
        rows=rows,
        columns=INTERPOLATION_STEPS,
        title="From one image to another, in one level at a time",
        headings=["A", *[""] * (INTERPOLATION_STEPS - 2), "B's level"],
    )
    caption = (
        "Each row starts at the reconstruction of an image A. The innovation of the levels named goes "
        "over to that of an image B along an arc; the others stay A's. The last block ends at B's "
        "reconstruction."
    )
    return Picture("interpolate.png", "Interpolate in one level at a time", caption, draw)


def heated(gallery: Gallery, level: int) -> Picture:
    """Draw samples of the model with the prior's standard deviation of one level scaled."""
    model, file = gallery.model, f"temperature_{z_name(level)}.png"
    rows = {}
    for t in TEMPERATURES:
        drawn = model.generate(SAMPLES, temperature={level: t}, generator=gallery.generator("temperature"))
        rows[f"t = {t}"] = to_bytes(drawn.mean)
    draw = partial(
        image_grids.save_strips,
        rows=rows,
        columns=SAMPLES,
        title=f"Samples with the prior of {z_name(level)} narrowed by a factor t",
    )
    caption = (
        "Samples of the model, from the same draws in each row; the standard deviation of the prior "
        f"of {z_name(level)} is multiplied by t: the last row is the model itself, the first has the "
        "level nearly at its mean. What changes down a column is the level's part."
    )
    return Picture(file, f"Temperature of {z_name(level)}", caption, draw)


def _draws(gallery: Gallery, code: Sequence[Tensor], level: int, count: int) -> np.ndarray:
    """Images with the level drawn anew, bytes ``(count, n, H, W)``."""
    generator = gallery.generator("resample", level)
    return np.stack([gallery.render(resample(code, level, generator=generator)) for _ in range(count)])
