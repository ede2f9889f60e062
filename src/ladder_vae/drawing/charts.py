"""Charts: numbers arrive as arrays and leave as PNG files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, MaxNLocator, StrMethodFormatter

from ladder_vae.drawing.image_grids import DPI, save
from ladder_vae.system.naming import z_name

MAX_NAMED = 20  # entries of a legend: nobody tells more colors apart
MAX_BARS = 1_000  # of a panel of units
PANELS, MAX_PANELS = 16, 32  # of units: beside each other, and in all (each takes longer, the more there are)
MAX_ROWS, MAX_ESTIMATES = 60, 100  # bars with a label each, one below the other
TALLEST = 36.0  # inches


def save_by_level(path: Path, models: Mapping[str, Sequence[float]], *, label: str, title: str) -> None:
    """Draw stacked bars that show how the total of each model splits over its levels.

    Colors stand for level numbers. If there are too many levels for a legend, colors stand for the relative
    position between image and top.

    Args:
        path: PNG to write.
        models: Maps the label of a model to one value per level, z_1 first.
        label: Label of the axis: what is counted, in which unit.
        title: Title of the chart.
    """
    models, title = _first(models, title)
    deepest = max(len(r) for r in models.values())
    named = deepest <= 16
    top = np.array([deepest if named else len(r) for r in models.values()])
    shades = ScalarMappable(Normalize(-1 / 18, 19 / 18), "viridis")  # the ends are too dark and too light
    figure = Figure(figsize=(7.6, 0.5 * len(models) + 1.4), dpi=DPI, layout="constrained")
    ax = figure.subplots()
    ends, starts = np.zeros(len(models)), np.zeros(len(models))  # bottom-up, a rate may be negative
    visible = 0.065 * max(sum(abs(x) for x in r) for r in models.values())
    for level in range(deepest):
        values = np.array([r[level] if level < len(r) else 0.0 for r in models.values()])
        base = np.where(values >= 0, ends, starts)
        place = np.minimum(level / np.maximum(top - 1, 1), 1)
        style: dict[str, Any] = {"color": shades.to_rgba(place), "edgecolor": "white", "linewidth": 0.4}
        ax.barh(range(len(models)), values, left=base, label=z_name(level), **style)
        for i, (value, start) in enumerate(zip(values, base, strict=True)):
            if abs(value) > visible:
                color = "white" if place[i] < 0.6 else "black"
                ax.text(start + value / 2, i, f"{value:.1f}", ha="center", va="center", color=color)
        ends, starts = ends + values.clip(0), starts + values.clip(None, 0)
    ax.set_yticks(range(len(models)), [textwrap.fill(name, 36) for name in models], fontsize=9)
    ax.invert_yaxis()
    ax.set_xlim(right=1.04 * max(ends.max(), 1e-3))
    ax.set_xlabel(label)
    ax.set_title(title, fontsize=10)
    if named:
        figure.legend(loc="outside right center")
    else:
        bar = figure.colorbar(shades, ax=ax, ticks=[0, 1], format=FixedFormatter(["z1", "the\ntop level"]))
        bar.ax.set_ylim(0, 1)
    save(figure, path)


@dataclass(frozen=True)
class BoundCurve:
    """L_K of one model against K.

    Args:
        label: What distinguishes the model from others.
        k: Numbers of samples K, ascending.
        log_px: L_K in nats, one value per K.
        error: Standard error of L_K, one value per K.
    """

    label: str
    k: Sequence[int]
    log_px: Sequence[float]
    error: Sequence[float]


def bits_axis(ax: Axes, factor: float, place: Literal["right"] | float = "right") -> None:
    """Give a chart in nats per image a second vertical axis, in bits per dimension.

    Args:
        ax: The chart.
        factor: Bits per dimension in one nat of its axis: negative of a bound, positive of a distance.
        place: Where the axis stands, as Matplotlib's ``secondary_yaxis`` takes it.
    """
    there_and_back = (lambda nats: np.multiply(nats, factor), lambda bits: np.divide(bits, factor))
    bits = ax.secondary_yaxis(place, functions=there_and_back)
    bits.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    bits.set_ylabel("bits per dimension")


def save_bounds(
    path: Path, curves: Sequence[BoundCurve], *, title: str, bits_per_nat: float | None = None
) -> None:
    """Draw L_K against K, one line per model.

    Args:
        path: PNG to write.
        curves: One curve per model.
        title: Title of the chart, which also says what the error bars are.
        bits_per_nat: Bits per dimension in a nat per image, for a second axis; None for none.
    """
    figure = Figure(figsize=(6.4, 4.2 + 0.12 * min(len(curves), MAX_NAMED)), dpi=DPI)
    ax = figure.subplots()
    drawn = [ax.errorbar(curve.k, curve.log_px, yerr=curve.error, marker="o", capsize=3) for curve in curves]
    sizes = sorted({k for curve in curves for k in curve.k})
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{k:,}" for k in sizes], minor=False)
    ax.set_xticks([], minor=True)
    ax.set_xlabel("samples K")
    ax.set_ylabel("L_K, a lower bound on log p(x) (nats)")
    ax.set_title(title, fontsize=10)
    ax.grid(alpha=0.3)
    if len(curves) > 1:
        handles = {curve.label: line for curve, line in zip(curves, drawn, strict=True)}
        legend(figure, handles, loc="outside lower center", ncols=2)
    elif curves:
        for k, value in zip(curves[0].k, curves[0].log_px, strict=True):
            ax.annotate(f"{value:.2f}", (k, value), xytext=(0, 8), textcoords="offset points", ha="center")
        ax.margins(0.08, 0.14)
    if bits_per_nat is not None:
        bits_axis(ax, -bits_per_nat)
    figure.set_layout_engine("constrained")
    save(figure, path)


def save_units(path: Path, levels: Sequence[np.ndarray], threshold: float) -> None:
    """Draw the rates of the units of each level, highest first; of many levels or units, evenly spaced ones.

    Args:
        path: PNG to write.
        levels: Rate of each unit in nats, one array per level, z_1 first.
        threshold: Rate above which a unit counts as active, nats.
    """
    shown = _evenly_spaced(len(levels), MAX_PANELS)
    rows = math.ceil(len(shown) / PANELS)
    columns = math.ceil(len(shown) / rows)
    figure = Figure(figsize=(max(5.0, 2.2 * columns + 0.8), 3.4 * rows), dpi=DPI)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    grid[0].set_yscale("log")  # which all share
    for ax, level in zip(grid, shown, strict=False):
        rates = np.sort(levels[level])[::-1]
        count = (rates > threshold).sum()
        places = _evenly_spaced(len(rates), MAX_BARS)
        # A log axis cannot show rates of zero, or below (possible bottom-up); a short bar marks their place.
        heights, wide = rates[places].clip(threshold / 10), len(rates) / len(places)
        colors = np.where(heights > threshold, "tab:blue", "lightgray")
        ax.bar(places, heights, color=colors, width=wide)
        ax.axhline(threshold, color="tab:red", linewidth=1, linestyle="--")
        ax.minorticks_off()  # hundreds a panel, which take most of the time
        ax.set_xlabel("units, by rate")
        ax.set_title(f"{z_name(level)}: {count} of {len(rates)} active", fontsize=10)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in grid[len(shown) :]:
        ax.set_visible(False)
    for ax in grid[::columns]:
        ax.set_ylabel("rate (nats)")
    title = f"What each unit carries; active above the dashed line ({threshold} nats)"
    if left_out := len(levels) - len(shown):
        title += f"; {left_out} of {len(levels)} levels are left out"
    figure.suptitle(title, fontsize=10)
    figure.set_layout_engine("constrained")
    save(figure, path)


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error, which may be zero.

    Args:
        label: Label of the bar.
        value: The figure.
        error: Its standard error.
        reference: Whether the bar is a reference to compare the others with.
        shade: Index of its color.
    """

    label: str
    value: float
    error: float
    reference: bool = False
    shade: int = 0


def save_estimates(path: Path, panels: Mapping[str, Sequence[Estimate]], *, title: str) -> None:
    """Draw one panel per quantity with one bar per estimate, from top to bottom. References are gray.

    Args:
        path: PNG to write.
        panels: Maps an axis label (quantity and unit) to the estimates of its panel.
        title: Title of the chart.
    """
    longest = max(len(estimates) for estimates in panels.values())
    if longest > MAX_ESTIMATES:
        panels = {label: estimates[:MAX_ESTIMATES] for label, estimates in panels.items()}
        title += f"; {longest - MAX_ESTIMATES} of {longest} bars a panel are left out"
    height = 0.28 * min(longest, MAX_ESTIMATES) + 0.7  # inches of a panel
    columns = min(max(2, math.ceil(len(panels) / max(1, TALLEST // height))), len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.9 * columns, height * rows + 0.3), dpi=DPI)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (label, estimates) in zip(grid, panels.items(), strict=False):
        values = [estimate.value for estimate in estimates]
        ax.barh(
            range(len(values)),
            values,
            xerr=[estimate.error for estimate in estimates],
            color=["silver" if e.reference else f"C{e.shade}" for e in estimates],
            capsize=2,
        )
        limit = max(*(abs(e.value) + e.error for e in estimates), 1e-9)
        for i, e in enumerate(estimates):
            ax.text(max(e.value + e.error, 0) + 0.03 * limit, i, f"{e.value:.3g}", va="center", fontsize=8)
        ax.set_xlim(min(0, *values), 1.25 * limit)
        ax.set_yticks(range(len(values)), [estimate.label for estimate in estimates], fontsize=9)
        ax.invert_yaxis()
        ax.set_xlabel(label, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in grid[len(panels) :]:
        ax.set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.set_layout_engine("constrained")
    save(figure, path)


def _evenly_spaced(total: int, most: int) -> np.ndarray:
    """Indices from the first to the last of ``total``, at most ``most``, ascending."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(int))


def legend(figure: Figure, handles: Mapping[str, Any], **style: Any) -> None:
    """Name the first ``MAX_NAMED`` handles, and say how many are left out."""
    named = dict(list(handles.items())[:MAX_NAMED])
    if left_out := len(handles) - len(named):
        named[f"and {left_out:,} more, not named"] = Line2D([], [], linestyle="none")
    figure.legend(named.values(), named.keys(), **style)


def _first(models: Mapping[str, Any], title: str) -> tuple[Mapping[str, Any], str]:
    """The first ``MAX_ROWS`` models, and a title that says how many are left out."""
    if len(models) <= MAX_ROWS:
        return models, title
    left_out = len(models) - MAX_ROWS
    return dict(list(models.items())[:MAX_ROWS]), f"{title}; {left_out} of {len(models)} models are left out"
