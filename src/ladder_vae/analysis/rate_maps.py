"""Where the rate is: by resolution, and by place of the levels whose latents are images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from ladder_vae.analysis.manipulations import Gallery
from ladder_vae.analysis.readings import Readings
from ladder_vae.analysis.resolutions import has_places, level_names, places, resolution_name, resolutions
from ladder_vae.drawing import charts, maps
from ladder_vae.drawing.image_grids import to_bytes
from ladder_vae.drawing.pages import Picture, Section, Table
from ladder_vae.system.naming import z_name

EXAMPLES = 5  # images beside their own maps
SHARE_SAID = 0.01  # of the rate: a resolution below it carries hardly any
Rates = dict[tuple[int, int], tuple[float, float]]  # mean and standard error of each resolution, nats


def where_the_rate_is(readings: Readings, gallery: Gallery, levels: Sequence[int]) -> Section:
    """Sentences, a table, a chart and maps of the rate by resolution and place.

    Args:
        readings: Rates of the test images.
        gallery: The images that are shown.
        levels: Levels to draw maps of for single images, ascending.
    """
    events = [rates.shape for rates in readings.unit_rates]
    found = by_resolution(readings)
    pictures = [_chart(readings, found), _maps(readings)]
    if spatial := [level for level in levels if has_places(events[level])]:
        pictures.append(_examples(gallery, spatial))
    return Section(
        "Where the rate is", [_sentence(found, resolutions(events))], _table(found, events), pictures
    )


def by_resolution(readings: Readings) -> Rates:
    """Rate of all levels of each resolution, and its standard error over images (NaN for one image), nats."""
    found = {}
    for size, levels in resolutions([rates.shape for rates in readings.unit_rates]).items():
        rates = readings.rates[:, levels].double().sum(1)
        error = float(rates.std()) / math.sqrt(len(rates)) if len(rates) > 1 else math.nan
        found[size] = (float(rates.mean()), error)
    return found


def _nats(rate: float) -> str:
    """A rate as sentences have it."""
    return f"{rate:.1f}" if rate >= 0.95 else f"{rate:.2f}"


def _sentence(found: Rates, of: dict[tuple[int, int], list[int]]) -> str:
    """Which resolutions carry the rate."""
    total = sum(rate for rate, _ in found.values())
    if len(found) == 1:
        ((size, _),) = found.items()
        return f"All levels are at {resolution_name(size)}; they carry {_nats(total)} nats."
    first, *others = sorted(found, key=lambda size: -found[size][0])

    def said(size: tuple[int, int], of_all: str = "") -> str:
        share = f" ({100 * found[size][0] / total:.0f} %)" if total > 0 else ""
        return f"{_nats(found[size][0])}{of_all}{share}"

    verb = "level at {} carries" if len(of[first]) == 1 else "levels at {} carry"
    which = verb.format(resolution_name(first))
    rest = ", ".join(
        f"{'the one' if len(of[size]) == 1 else 'those'} at {resolution_name(size)} {said(size)}"
        for size in others
    )
    text = f"The {which} {said(first, f' of {_nats(total)} nats')}; {rest}."
    idle = [resolution_name(size) for size in found if found[size][0] < SHARE_SAID * total]
    if idle:
        text += f" Hardly any rate lies at {' and '.join(idle)}, which could be spared."
    return text


def _table(found: Rates, events: Sequence[Sequence[int]]) -> Table:
    """Rates by resolution, the top first."""
    total = sum(rate for rate, _ in found.values())
    rows = []
    for size, levels in reversed(resolutions(events).items()):
        rate, error = found[size]
        share = f"{100 * rate / total:.1f} %" if total > 0 else ""
        rows.append(
            [
                f"{resolution_name(size)} ({level_names(levels)})",
                str(len(levels)),
                f"{rate:.2f}" + (f" ± {error:.2f}" if math.isfinite(error) else ""),
                share,
                f"{rate / len(levels):.2f}",
                f"{rate / math.prod(size):.4f}",
            ]
        )
    headings = ["resolution", "levels", "rate (nats)", "share", "nats per level", "nats per place"]
    note = (
        "The rate of all levels of a resolution, nats per image; divided by their number; and by the number "
        "of places, height times width. ± is the standard error over images."
    )
    return Table(headings, rows, note)


def _chart(readings: Readings, found: Rates) -> Picture:
    """Bars of the rate by resolution, split into levels."""
    events = [rates.shape for rates in readings.unit_rates]
    rates, bars = readings.rates.mean(0).tolist(), {}
    for size, levels in reversed(resolutions(events).items()):
        count = f"{len(levels)} level{'s' if len(levels) > 1 else ''}"
        label = f"{resolution_name(size)}, {count}: {_nats(found[size][0])} nats"
        bars[label] = [rate if level in levels else 0.0 for level, rate in enumerate(rates)]
    draw = partial(
        charts.save_by_level, models=bars, label="rate (nats)", title="The rate of each resolution"
    )
    caption = (
        "One bar for each resolution, the top first; each piece of it is a level. A long bar: here the "
        "model writes down much of what it knows of an image."
    )
    return Picture("rate_by_resolution.png", "Which resolutions carry the rate", caption, draw)


def _maps(readings: Readings) -> Picture:
    """The mean rate of each place, of all levels that have places."""
    cells = [
        maps.Cell(
            f"{z_name(level)}, {resolution_name(places(rates.shape))}\n{rates.sum():.2f} nats",
            rates.sum(0).numpy(),
        )
        for level, rates in reversed(list(enumerate(readings.unit_rates)))
        if has_places(rates.shape)
    ]
    images = len(readings.rates)
    draw = partial(
        maps.save_maps,
        rows=[cells],
        label="nats per place",
        title="Where in the image each level has its rate",
    )
    caption = (
        f"The rate of each place, summed over channels, mean of {images:,} test images, the top level first; "
        "levels of a single place are left out. Above each map stands the rate of the level. All maps have "
        "the same colors; these grow with the root of the rate, so that small rates can be seen beside large "
        "ones. Bright: what the image shows here is told on this level. Dark: what the levels above say is "
        "enough."
    )
    return Picture("rate_maps.png", "Where each level has its rate", caption, draw)


def _examples(gallery: Gallery, levels: Sequence[int]) -> Picture:
    """Single images beside the maps of their own rates."""
    images = to_bytes(gallery.originals[:EXAMPLES])
    rows = []
    for place, image in enumerate(images):
        row = [maps.Cell("" if place else "image", image)]
        for level in reversed(levels[-maps.COLUMNS + 1 :]):
            rates = gallery.unit_rates[level][place].sum(0).cpu().numpy()
            name = f"{z_name(level)}, {resolution_name(rates.shape)}\n"
            row.append(maps.Cell(f"{'' if place else name}{rates.sum():.2f} nats", rates))
        rows.append(row)
    draw = partial(
        maps.save_maps,
        rows=rows,
        label="nats per place",
        title="Where each level has its rate, for single images",
    )
    caption = (
        "Left, a test image as the model sees it; right of it, the rate that each place of a level has for "
        "this image, summed over channels, and the rate of the level. All maps have the same colors, which "
        "grow with the root of the rate."
    )
    return Picture("rate_maps_of_images.png", "Rate by place, of single images", caption, draw)
