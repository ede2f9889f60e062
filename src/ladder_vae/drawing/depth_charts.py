"""Charts of metrics against the number of levels: numbers arrive and leave as PNG files."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from ladder_vae.drawing.charts import bits_axis, legend
from ladder_vae.drawing.image_grids import DPI, save

SPAN = 0.1  # the least height of a large panel, relative to the largest value in it
BESIDE_ARROW = 1.12  # where a second axis stands, in widths of a panel
MAX_LABELED = 12  # means with a number beside them


@dataclass(frozen=True)
class Series:
    """One line of a chart against depth.

    Args:
        label: What distinguishes the line from others.
        x: Numbers of levels, ascending.
        seeds: The values of all seeds at each x, at least one.
    """

    label: str
    x: Sequence[int]
    seeds: Sequence[Sequence[float]]

    @property
    def mean(self) -> list[float]:
        """The mean over seeds at each x."""
        return [statistics.fmean(values) for values in self.seeds]


def save_against_depth(path: Path, panels: Mapping[str, Sequence[Series]]) -> None:
    """Draw one small panel per metric against the number of levels: a point per seed, a line through means.

    Args:
        path: PNG to write.
        panels: Maps an axis label (metric and unit) to the lines of its panel.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.1 * columns, 3.1 * rows), dpi=DPI)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    # A line may be missing in a panel, but it has the same color in all others.
    labels = list(dict.fromkeys(line.label for series in panels.values() for line in series))
    handles: dict[str, Any] = {}
    for ax, (label, series) in zip(grid, panels.items(), strict=False):
        for name, drawn in _lines(ax, series, labels).items():
            handles.setdefault(name, drawn)
        ax.set_ylabel(textwrap.fill(label, 28))
    for ax in grid[len(panels) :]:
        ax.set_visible(False)
    if len(labels) > 1:
        legend(figure, handles, loc="outside upper center", ncols=2)
    figure.set_layout_engine("constrained")
    save(figure, path)


def save_panel(
    path: Path,
    series: Sequence[Series],
    *,
    label: str,
    form: str,
    better: str,
    bits_per_nat: float | None = None,
) -> None:
    """Draw one large panel against the number of levels, in which a small difference looks small.

    Its height is at least :data:`SPAN` of the largest value.

    Args:
        path: PNG to write.
        series: The lines.
        label: What is drawn (metric and unit).
        form: Format of a number, as in ``format(value, form)``.
        better: ``up`` or ``down``, where an arrow points.
        bits_per_nat: Of a bound, bits per dimension in a nat per image, for a second axis; None for none.
    """
    figure = Figure(figsize=(5.6, 4.4), dpi=DPI)
    ax = figure.subplots()
    handles = _lines(ax, series, [line.label for line in series], size=45)
    ax.set_ylim(axis_limits([value for line in series for values in line.seeds for value in values]))
    ax.set_title(label, fontsize=12, fontweight="bold", loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    if sum(len(line.x) for line in series) <= MAX_LABELED:
        for line in series:
            for x, values, mean in zip(line.x, line.seeds, line.mean, strict=True):
                highest = max(values)
                place: dict[str, Any] = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
                place["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
                ax.annotate(format(mean, form), (x, highest), **place)
        ax.margins(x=0.12)
    low, high = (0.3, 0.7) if better == "up" else (0.7, 0.3)
    arrow = {"arrowstyle": "-|>", "color": "tab:green", "linewidth": 2.5, "mutation_scale": 18}
    ends: dict[str, Any] = {"xycoords": "axes fraction", "annotation_clip": False}
    ax.annotate("", (1.03, high), (1.03, low), arrowprops=arrow, **ends)
    ax.annotate("better", (1.05, 0.5), rotation=90, va="center", color="tab:green", **ends)
    if bits_per_nat is not None:
        bits_axis(ax, -bits_per_nat, BESIDE_ARROW)
    if len(series) > 1:
        legend(figure, handles, loc="outside lower center", fontsize=9)
    figure.set_layout_engine("constrained")
    save(figure, path)


def axis_limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits of a panel that values do not fill unless they differ by :data:`SPAN` of the largest or more.

    Example:
        >>> axis_limits([99.0, 101.0])
        (94.95, 105.05)
    """
    low, high = min(values), max(values)
    span = max(1.3 * (high - low), SPAN * max(abs(low), abs(high)), 1e-9)
    middle = (low + high) / 2
    return middle - span / 2, middle + span / 2


def _lines(ax: Axes, series: Sequence[Series], labels: Sequence[str], *, size: float = 20) -> dict[str, Any]:
    """Draw lines through means and points for seeds; returns the lines by label, each in its own color."""
    handles = {}
    for line in series:
        color = f"C{labels.index(line.label)}"
        (handles[line.label],) = ax.plot(line.x, line.mean, color=color, linewidth=1.2, zorder=2)
        places = [x for x, values in zip(line.x, line.seeds, strict=True) for _ in values]
        points = [value for values in line.seeds for value in values]
        ax.scatter(places, points, s=size, color=color, alpha=0.7, linewidths=0, zorder=3)
    _depth_axis(ax, sorted({x for line in series for x in line.x}))
    ax.grid(alpha=0.3)
    if max(abs(y) for line in series for y in line.mean) >= 1000:
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return handles


def _depth_axis(ax: Axes, depths: Sequence[int]) -> None:
    ax.set_xlabel("latent levels")
    if max(depths) > 10 * min(depths):
        ax.set_xscale("log")
        ax.set_xticks(depths, [str(depth) for depth in depths])
        ax.set_xticks([], minor=True)
    elif len(depths) <= 8:
        ax.set_xticks(depths)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
