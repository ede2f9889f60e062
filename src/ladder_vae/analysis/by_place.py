"""Pictures of spatial hierarchies: the top levels kept and the rest drawn, and some places drawn anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from ladder_vae.analysis.manipulations import Gallery
from ladder_vae.analysis.resolutions import covered, has_places, places, resolution_name, resolutions
from ladder_vae.data.batches import spaced
from ladder_vae.drawing import image_grids, maps
from ladder_vae.drawing.image_grids import to_bytes
from ladder_vae.drawing.pages import Picture, Section
from ladder_vae.models.innovations import keep_above, render, resample, resample_places
from ladder_vae.system.naming import z_name

KEPT_IMAGES, KEPT_DRAWS = 5, 3
FEW, STEPS = 6, 8  # up to FEW levels every number of them is kept in turn; else about STEPS numbers
PLACE_DRAWS, HALF_DRAWS = 4, 2  # draws per image and place
CORNERS = (1, 2, 3)  # quarters of the way down and across, where a place is drawn anew


def kept_levels(gallery: Gallery) -> Picture:
    """Samples that keep the top k levels of an image and draw the rest (Child 2021, figure 4)."""
    depth, some = gallery.model.num_layers, [e[:KEPT_IMAGES] for e in gallery.code]
    originals, generator = to_bytes(gallery.originals[:KEPT_IMAGES]), gallery.generator("kept")
    counts = numbers_kept(gallery.model.event_shapes)
    columns = []
    for _ in range(KEPT_DRAWS):
        drawn = resample(some, *range(depth), generator=generator)  # the same for every number of levels
        columns.append([gallery.render(keep_above(some, depth - k, drawn)) for k in counts])
    rows = {}
    for i, image in enumerate(originals):
        beside = [image, *[np.full_like(image, 255)] * (KEPT_DRAWS - 1)]
        cells = [
            each
            for first, of in zip(beside, columns, strict=True)
            for each in (first, *(images[i] for images in of))
        ]
        rows[f"image {i + 1}, {KEPT_DRAWS} draws"] = np.stack(cells)
    draw = partial(
        image_grids.save_strips,
        rows=rows,
        columns=1 + len(counts),
        title="The top levels kept, all others drawn from the prior",
        headings=["image", *(_kept(gallery.model.event_shapes, k) for k in counts)],
    )
    caption = (
        "Left, a test image; then samples for which its innovations were kept in the top k levels and drawn "
        f"from the prior in all others, {KEPT_DRAWS} times, one below the other; the same draws in each "
        "column. What the samples of a column share, the top k levels decide; where they differ, the levels "
        "below do. With no level kept they are samples of the model, with all kept the reconstruction "
        "(after Child 2021, arXiv 2011.10650, figure 4)."
    )
    return Picture("kept_levels.png", "The top levels kept, the rest drawn", caption, draw)


def numbers_kept(events: Sequence[Sequence[int]]) -> list[int]:
    """Numbers of top levels to keep, from none to all: every one; of many levels, where resolutions end.

    Of a few resolutions with many levels, evenly spaced numbers are among them.
    """
    depth = len(events)
    if depth <= FEW:
        return list(range(depth + 1))
    ends = list(accumulate((len(levels) for levels in reversed(resolutions(events).values())), initial=0))
    if len(ends) < FEW:  # within a resolution, too
        ends = sorted({*ends, *spaced(depth, STEPS - 3)})
    return ends


def _kept(events: Sequence[Sequence[int]], count: int) -> str:
    if not count:
        return "none kept"
    return f"top {count},\nto {resolution_name(places(events[-count]))}"


@dataclass(frozen=True)
class Touched:
    """How pixels change when one place of a level is drawn anew.

    Args:
        place: Row and column.
        change: Mean absolute change of each pixel, ``(H, W)``.
        box: First row, rows, first column and columns of the pixels that the place covers.
    """

    place: tuple[int, int]
    change: Tensor
    box: tuple[int, int, int, int]

    @property
    def inside(self) -> float:
        """Share of all change that falls onto these pixels."""
        top, height, left, width = self.box
        part = self.change[top : top + height, left : left + width]
        return float(part.sum() / self.change.sum().clamp(min=1e-12))


def touched(gallery: Gallery, level: int, place: tuple[int, int]) -> Touched:
    """Draw one place of a level anew, for all shown images."""
    height, width = places(gallery.model.event_shapes[level])
    where = torch.zeros(height, width, dtype=torch.bool)
    where[place] = True
    generator, base = gallery.generator("place", level, *place), render(gallery.model, gallery.code)
    total = torch.zeros(base.shape[2:], device=base.device)
    for _ in range(PLACE_DRAWS):
        changed = render(gallery.model, resample_places(gallery.code, where, level, generator=generator))
        total += (changed - base).abs().mean((0, 1))
    down, across = covered(base.shape[2], height), covered(base.shape[3], width)
    box = (place[0] * down, down, place[1] * across, across)
    return Touched(place, (total / PLACE_DRAWS).cpu(), box)


def what_a_place_does(gallery: Gallery, rates: Tensor) -> Section:
    """Sentences and pictures of innovations drawn anew at some places only.

    Args:
        gallery: The images that are shown.
        rates: Mean rate of each level, nats, ``(L,)``, which chooses a level of each resolution.
    """
    events = gallery.model.event_shapes
    chosen = [
        max(levels, key=lambda level: float(rates[level]))
        for levels in reversed(resolutions(events).values())
        if has_places(events[levels[0]])
    ]
    found = {}
    for level in chosen:
        height, width = places(events[level])
        spots = dict.fromkeys((height * q // 4, width * q // 4) for q in CORNERS)
        found[level] = [touched(gallery, level, place) for place in spots]
    inside = [
        f"{100 * sum(t.inside for t in of) / len(of):.0f} % onto the {_pixels(of[0])} of "
        f"a place at {resolution_name(places(events[level]))} ({z_name(level)})"
        for level, of in found.items()
    ]
    sentence = (
        f"Drawn anew, a single place of a level changes the pixels that it covers, and some around them. "
        f"Of all change there falls {', '.join(inside)}."
    )
    paragraphs, pictures = [sentence], [_fields(gallery, found)]
    if wide := [level for level in chosen if places(events[level])[1] > 1]:  # a single column has no halves
        half, text = _half(gallery, wide)
        paragraphs.append(text)
        pictures.append(half)
    return Section("What a place does", paragraphs, None, pictures)


def _pixels(of: Touched) -> str:
    return f"{of.box[1]}x{of.box[3]} pixels"


def _fields(gallery: Gallery, found: dict[int, list[Touched]]) -> Picture:
    """Maps of the change that one place makes."""
    rows = []
    for level, of in found.items():
        size = resolution_name(places(gallery.model.event_shapes[level]))
        rows.append(
            [
                maps.Cell(
                    f"{z_name(level)}, {size}\nrow {t.place[0] + 1}, column {t.place[1] + 1}\n"
                    f"at most {float(t.change.max()):.3f}",
                    (t.change / t.change.max().clamp(min=1e-12)).numpy(),
                    t.box,
                )
                for t in of
            ]
        )
    draw = partial(
        maps.save_maps,
        rows=rows,
        label="change of a pixel,\nas a share of the greatest",
        title="Which pixels one place of a level changes",
    )
    caption = (
        "The innovation of a level was drawn anew at one place, in all channels; all else was kept. Colors: "
        f"the mean absolute change of each pixel over {len(gallery.x)} test images and {PLACE_DRAWS} draws, "
        "as a share of the greatest in the map, which stands above it; colors grow with the root of it. The "
        "box outlines the pixels that the place covers. Of each resolution the level of the highest rate is "
        "shown."
    )
    return Picture("one_place.png", "Which pixels one place changes", caption, draw)


def _half(gallery: Gallery, levels: Sequence[int]) -> tuple[Picture, str]:
    """Draw levels anew in the left half of their places; the picture and what changed."""
    events = gallery.model.event_shapes
    base = render(gallery.model, gallery.code)
    rows = {"test image": to_bytes(gallery.originals), "reconstruction": to_bytes(base)}
    said = []
    for level in levels:
        height, width = places(events[level])
        where = (torch.arange(width) < width // 2).expand(height, width)
        generator = gallery.generator("half", level)
        drawn = [
            render(gallery.model, resample_places(gallery.code, where, level, generator=generator))
            for _ in range(2)
        ]
        size = resolution_name((height, width))
        rows[f"left half of {z_name(level)} ({size}) drawn anew"] = to_bytes(torch.cat(drawn))
        change = torch.stack([(image - base).abs() for image in drawn]).mean((0, 1, 2, 3))
        middle = width // 2 * covered(base.shape[3], width)
        left, right = float(change[:middle].mean()), float(change[middle:].mean())
        said.append(f"{z_name(level)} ({size}) by {left:.4f} and {right:.4f}")
    draw = partial(
        image_grids.save_strips,
        rows=rows,
        columns=len(gallery.x),
        title="One level drawn anew in its left half only",
    )
    caption = (
        "The innovation of one level was drawn anew at the places of the left half, twice; the right half "
        "and all other levels are the test image's. What changes in the right half was carried there by "
        "the nets."
    )
    text = (
        "Drawn anew in the left half of its places alone, a level changes in the mean a pixel that these "
        f"places cover, and one that they do not: {', '.join(said)}."
    )
    return Picture("left_half.png", "One level drawn anew in its left half", caption, draw), text
