"""The figures of an analysis as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ladder_vae.analysis.resolutions import has_places
from ladder_vae.drawing.pages import Table
from ladder_vae.models.summary import ACTIVE_KL
from ladder_vae.runs.metrics import OF_LEVELS, REFERENCES, Metric
from ladder_vae.system.naming import z_name

SHARE = Metric("share", "share", 1, "%")
Figures = Mapping[str, float]  # by name, see level_metrics in readings.py


def written(metric: Metric, figures: Figures, name: str) -> str:
    """A figure and its error in the metric's unit; an empty text if there is no such figure."""
    if name not in figures:
        return ""
    error = figures.get(f"{name}_stderr")
    return metric.text(figures[name]) + ("" if error is None else f" ± {metric.text(error)}") + metric.suffix


def share(figures: Figures, name: str) -> str:
    """A share and its error in percent; an empty text if there is no such figure."""
    return written(SHARE, figures, name)


def numbers(figures: Figures, unit_rates: Sequence[Tensor], noun: str) -> Table:
    """A table of all figures, the top level first, followed by references to compare them with."""
    columns = [metric for metric in OF_LEVELS if f"{metric.name}/z1" in figures]
    headings = ["", *(_heading(metric, noun) for metric in columns)]
    kind = kind_of_units(unit_rates)
    headings.insert(2, f"{kind} awake")
    rows = []
    for level, rates in reversed(list(enumerate(unit_rates))):
        cells = [written(metric, figures, f"{metric.name}/{z_name(level)}") for metric in columns]
        count = len(by_channel(rates))
        cells.insert(1, f"{count - len(sleepers(rates))} of {count}")
        rows.append([z_name(level), *cells])
    for place, label in REFERENCES.items():
        if place in figures or f"pixel_change/{place}" in figures:
            names = [
                place if place in figures and metric.name == "probe_mean" else f"{metric.name}/{place}"
                for metric in columns
            ]
            cells = [written(metric, figures, name) for name, metric in zip(names, columns, strict=True)]
            cells.insert(1, "")
            rows.append([label.format(noun=noun), *cells])
    return Table(headings, rows, _reading(figures, noun, kind))


def _heading(metric: Metric, noun: str) -> str:
    """Heading of a column, with the unit if the cells do not show it."""
    title = metric.title.format(noun=noun)
    return f"{title} ({metric.unit})" if metric.unit and not metric.suffix else title


def _reading(figures: Figures, noun: str, kind: str) -> str:
    sentences = [
        f"Rate: nats per image that the level costs; a {kind[:-1]} is awake where its own is more than "
        f"{ACTIVE_KL} from zero."
    ]
    if "probe_pixels" in figures:
        sentences.append(
            f"Probe: share of test images whose {noun} a linear classifier names, from the level's "
            "posterior mean, from one posterior sample z, and from that sample's innovation (z - μp) / "
            "σp, what it adds to what the levels above expect; at the top these two are the same."
        )
    sentences.append(
        "Changes are of a reconstruction, when the innovation of that level alone is drawn anew: of a "
        "pixel (0 to 1), of all ink as a share of it, of the lean of the stroke."
    )
    if "class_change/all" in figures:
        sentences.append(
            f"Changed {noun}: how often a classifier then names another one; it is right on "
            f"{share(figures, 'judge_accuracy')} of the test images, and on "
            f"{share(figures, 'class_kept')} of their reconstructions."
        )
    sentences.append(
        "± is the standard error over images. Below the levels, what to hold them against: all levels "
        "drawn anew at once, and another sample of the same posterior"
        + (
            f"; a probe on the image itself, and naming always the commonest {noun}."
            if "probe_pixels" in figures
            else "."
        )
    )
    return " ".join(sentences)


def sleeping_units(unit_rates: Sequence[Tensor]) -> Table:
    """A table of the units that are asleep, by number; of channels, where levels have places."""
    rows = []
    for level in reversed(range(len(unit_rates))):
        asleep = sleepers(unit_rates[level])
        rows.append([z_name(level), str(len(asleep)), ", ".join(map(str, asleep)) or "none"])
    return Table(["", "asleep", f"{kind_of_units(unit_rates)}, counted from 0"], rows)


def kind_of_units(unit_rates: Sequence[Tensor]) -> str:
    """What is awake or asleep: ``units``; in models with spatial levels, ``channels``."""
    return "channels" if any(has_places(rates.shape) for rates in unit_rates) else "units"


def by_channel(rates: Tensor) -> Tensor:
    """The rate of each channel over all places, nats, ``(C,)``; of each unit where there are no places."""
    return rates.flatten(1).sum(1) if has_places(rates.shape) else rates.flatten()


def sleepers(rates: Tensor) -> list[int]:
    """Units, or channels, whose rate is about zero. One far below zero, possible bottom-up, counts as awake.

    A unit of a spatial level is one channel at one place. Its rate says little: what hundreds of places have
    in common may be a thousandth of a nat at each.
    """
    return (by_channel(rates).abs() <= ACTIVE_KL).nonzero()[:, 0].tolist()
