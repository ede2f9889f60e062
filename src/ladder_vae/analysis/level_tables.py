"""The figures of an analysis as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ladder_vae.drawing.pages import Table
from ladder_vae.models.summary import ACTIVE_KL

Figures = Mapping[str, float]  # by name, see level_metrics in levels.py


def value(figures: Figures, name: str, digits: int) -> str:
    """A figure and its error; empty if it is not there."""
    if name not in figures:
        return ""
    error = figures.get(f"{name}_stderr")
    return f"{figures[name]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def share(figures: Figures, name: str) -> str:
    """A share and its error, in percent; empty if it is not there."""
    if name not in figures:
        return ""
    error = figures.get(f"{name}_stderr")
    return f"{100 * figures[name]:.1f}" + ("" if error is None else f" ± {100 * error:.1f}") + " %"


# figure of a level, heading, how it is written
COLUMNS: tuple[tuple[str, str, Callable[[Figures, str], str]], ...] = (
    ("rate", "rate (nats)", lambda figures, name: value(figures, name, 2)),
    ("probe_mean", "probe: mean", share),
    ("probe_sample", "probe: sample", share),
    ("probe_innovation", "probe: innovation", share),
    ("pixel_change", "pixel change", lambda figures, name: value(figures, name, 4)),
    ("ink_change", "ink change", share),
    ("slant_change", "slant change", lambda figures, name: f"{value(figures, name, 2)}°"),
    ("class_change", "changed {noun}", share),
)
REFERENCES = {
    "all": "all levels",
    "posterior": "same posterior",
    "probe_pixels": "the pixels",
    "probe_none": "the commonest {noun}",
}


def numbers(figures: Figures, unit_rates: Sequence[Tensor], noun: str) -> Table:
    """All figures, the top level first, and what to hold them against."""
    columns = [column for column in COLUMNS if f"{column[0]}/z1" in figures]
    headings = ["", *(heading.format(noun=noun) for _, heading, _ in columns)]
    headings.insert(2, "units awake")
    rows = []
    for level, rates in reversed(list(enumerate(unit_rates, start=1))):
        cells = [write(figures, f"{metric}/z{level}") for metric, _, write in columns]
        cells.insert(1, f"{len(rates) - len(sleepers(rates))} of {len(rates)}")
        rows.append([f"z{level}", *cells])
    for place, label in REFERENCES.items():
        if place in figures or f"pixel_change/{place}" in figures:
            names = [
                place if place in figures and metric == "probe_mean" else f"{metric}/{place}"
                for metric, *_ in columns
            ]
            cells = [
                write(figures, name) if name in figures else ""
                for name, (_, _, write) in zip(names, columns, strict=True)
            ]
            cells.insert(1, "")
            rows.append([label.format(noun=noun), *cells])
    return Table(headings, rows, _reading(figures, noun))


def _reading(figures: Figures, noun: str) -> str:
    sentences = [
        f"Rate: nats per image that the level costs; a unit is awake where its own is more than "
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
    """Which units are asleep, by number."""
    rows = []
    for level in reversed(range(len(unit_rates))):
        asleep = sleepers(unit_rates[level])
        rows.append([f"z{level + 1}", str(len(asleep)), ", ".join(map(str, asleep)) or "none"])
    return Table(["", "asleep", "units, counted from 0"], rows)


def sleepers(rates: Tensor) -> list[int]:
    """Units whose rate is about zero; bottom-up, one far below zero is awake."""
    return (rates.abs() <= ACTIVE_KL).nonzero()[:, 0].tolist()
