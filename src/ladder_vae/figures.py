"""Drawing: everything arrives as arrays and leaves as PNG files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

DPI = 110
GAP = 2  # pixels between images of a strip


@dataclass(frozen=True)
class Series:
    """One line of a plot against depth.

    Args:
        label: What distinguishes it.
        x: Numbers of levels, ascending.
        mean: A value per x.
        std: Standard deviation over seeds per x; zero for a single run.
    """

    label: str
    x: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]


def strip(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 ``(n, H, W)`` in rows of ``columns``, separated by gray lines, as one ``(H', W')``."""
    n, h, w = images.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (h + GAP) - GAP, columns * (w + GAP) - GAP), 128, np.uint8)
    for i, image in enumerate(images):
        r, c = divmod(i, columns)
        canvas[r * (h + GAP) : r * (h + GAP) + h, c * (w + GAP) : c * (w + GAP) + w] = image
    return canvas


def save_strips(path: Path, rows: Mapping[str, np.ndarray], *, columns: int, title: str) -> None:
    """Labeled strips of images below each other.

    Args:
        path: PNG to write.
        rows: Label to images, uint8 ``(n, H, W)``.
        columns: Images a row.
        title: What is to be seen.
    """
    strips = {label: strip(images, columns) for label, images in rows.items()}
    heights = [s.shape[0] / s.shape[1] for s in strips.values()]
    width, margin = 7.0, 1.8  # inches: images, labels
    figure = Figure(figsize=(width + margin, width * sum(heights) + 0.15 * len(strips) + 0.5), dpi=DPI)
    axes = figure.subplots(len(strips), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (label, image) in zip(axes, strips.items(), strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="equal")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(textwrap.fill(label, 20), rotation=0, ha="right", va="center")
    figure.suptitle(title, fontsize=11)
    figure.set_layout_engine("constrained")
    _save(figure, path)


def save_run(directory: Path, images: Mapping[str, np.ndarray]) -> None:
    """``reconstructions.png`` and ``samples.png`` of one run, from its ``images.npz``."""
    columns = len(images["originals"])
    save_strips(
        directory / "reconstructions.png",
        {"test image": images["originals"], "reconstruction": images["reconstructions"]},
        columns=columns,
        title="Binarized test images, and the decoder's mean for one posterior sample",
    )
    save_strips(
        directory / "samples.png",
        {"prior samples": images["samples"]},
        columns=columns,
        title="The decoder's mean for latents from the prior",
    )


def save_against_depth(path: Path, panels: Mapping[str, Sequence[Series]]) -> None:
    """One panel a metric, each against the number of levels, with error bars over seeds.

    Args:
        path: PNG to write.
        panels: Axis label (metric and unit) to its series.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.1 * columns, 3.1 * rows), dpi=DPI)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    # not every line is in every panel, but its color is the same everywhere
    labels = list(dict.fromkeys(line.label for series in panels.values() for line in series))
    handles: dict[str, Any] = {}
    for ax, (label, series) in zip(grid, panels.items(), strict=False):
        for line in series:
            color = f"C{labels.index(line.label)}"
            drawn = ax.errorbar(line.x, line.mean, yerr=line.std, marker="o", capsize=3, color=color)
            handles.setdefault(line.label, drawn)
        _depth_axis(ax, sorted({x for line in series for x in line.x}))
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
        if max(abs(y) for line in series for y in line.mean) >= 1000:
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for ax in grid[len(panels) :]:
        ax.set_visible(False)
    if len(labels) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    figure.set_layout_engine("constrained")
    _save(figure, path)


def save_by_level(path: Path, models: Mapping[str, Sequence[float]], *, label: str, title: str) -> None:
    """Stacked bars: how the total of each model splits over its levels.

    Args:
        path: PNG to write.
        models: Label of a model to a value per level, z_1 first.
        label: Of the axis: what is counted, in which unit.
        title: What is to be seen.
    """
    deepest = max(len(r) for r in models.values())
    colors = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.95, deepest))
    figure = Figure(figsize=(7.6, 0.5 * len(models) + 1.4), dpi=DPI)
    ax = figure.subplots()
    ends, starts = np.zeros(len(models)), np.zeros(len(models))  # bottom-up, a rate may be negative
    visible = 0.05 * max(sum(abs(x) for x in r) for r in models.values())
    for level in range(deepest):
        values = np.array([r[level] if level < len(r) else 0.0 for r in models.values()])
        base = np.where(values >= 0, ends, starts)
        ax.barh(range(len(models)), values, left=base, color=colors[level], label=f"z{level + 1}")
        for i, (value, start) in enumerate(zip(values, base, strict=True)):
            if abs(value) > visible:
                color = "white" if level < deepest * 0.6 else "black"
                ax.text(start + value / 2, i, f"{value:.1f}", ha="center", va="center", color=color)
        ends, starts = ends + values.clip(0), starts + values.clip(None, 0)
    ax.set_yticks(range(len(models)), [textwrap.fill(name, 36) for name in models], fontsize=9)
    ax.invert_yaxis()
    ax.set_xlim(right=1.04 * max(ends.max(), 1e-3))
    ax.set_xlabel(label)
    ax.set_title(title, fontsize=10)
    figure.legend(loc="outside right center", ncols=-(-deepest // 16))
    figure.set_layout_engine("constrained")
    _save(figure, path)


@dataclass(frozen=True)
class BoundCurve:
    """L_K of one model against K.

    Args:
        label: What distinguishes it.
        k: Numbers of samples, ascending.
        log_px: L_K, nats, a value per K.
        error: Its standard error, a value per K.
    """

    label: str
    k: Sequence[int]
    log_px: Sequence[float]
    error: Sequence[float]


def save_bounds(path: Path, curves: Sequence[BoundCurve], *, title: str) -> None:
    """L_K against K, one line a model.

    Args:
        path: PNG to write.
        title: What is to be seen, and what the error bars are.
    """
    figure = Figure(figsize=(6.4, 4.2 + 0.12 * len(curves)), dpi=DPI)
    ax = figure.subplots()
    for curve in curves:
        ax.errorbar(curve.k, curve.log_px, yerr=curve.error, marker="o", capsize=3, label=curve.label)
    sizes = sorted({k for curve in curves for k in curve.k})
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{k:,}" for k in sizes], minor=False)
    ax.set_xticks([], minor=True)
    ax.set_xlabel("samples K")
    ax.set_ylabel("$L_K$, a lower bound on log p(x) (nats)")
    ax.set_title(title, fontsize=10)
    ax.grid(alpha=0.3)
    if len(curves) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    elif curves:
        for k, value in zip(curves[0].k, curves[0].log_px, strict=True):
            ax.annotate(f"{value:.2f}", (k, value), xytext=(0, 8), textcoords="offset points", ha="center")
        ax.margins(0.08, 0.14)
    figure.set_layout_engine("constrained")
    _save(figure, path)


def save_units(path: Path, levels: Sequence[np.ndarray], threshold: float) -> None:
    """The units of each level by what they carry, most first.

    Args:
        path: PNG to write.
        levels: Rate of each unit in nats, one array a level, z_1 first.
        threshold: Above which a unit counts as active.
    """
    figure = Figure(figsize=(max(5.0, 2.2 * len(levels) + 0.8), 3.4), dpi=DPI)
    grid = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    for number, (ax, rates) in enumerate(zip(grid, levels, strict=True), start=1):
        ordered = np.sort(rates)[::-1]
        active = ordered > threshold
        # below zero (possible bottom-up) and at zero, a logarithm shows nothing; a stub marks the place
        heights = ordered.clip(threshold / 10)
        ax.bar(np.arange(len(rates)), heights, color=np.where(active, "tab:blue", "lightgray"), width=1.0)
        ax.axhline(threshold, color="tab:red", linewidth=1, linestyle="--")
        ax.set_yscale("log")
        ax.set_xlabel("units, by rate")
        ax.set_title(f"z{number}: {active.sum()} of {len(rates)} active", fontsize=10)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[0].set_ylabel("rate (nats)")
    figure.suptitle(f"What each unit carries; active above the dashed line ({threshold} nats)", fontsize=10)
    figure.set_layout_engine("constrained")
    _save(figure, path)


def _depth_axis(ax: Axes, depths: Sequence[int]) -> None:
    ax.set_xlabel("latent levels")
    if len(depths) <= 8:
        ax.set_xticks(depths)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def read(path: Path) -> np.ndarray:
    """A picture that was saved, intensities in [0, 1], ``(H, W, 3)``."""
    return matplotlib.image.imread(path)[..., :3]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
