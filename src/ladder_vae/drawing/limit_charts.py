"""Charts of a diffusion: the bound against the number of steps, and the rates of its levels over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from PIL import Image

from ladder_vae.drawing.charts import bits_axis
from ladder_vae.drawing.image_grids import DPI, save
from ladder_vae.system.files import replacing

MOST_LABELS = 12
GRAYS = 6  # of a channel of an animation: noise is large
POINTS = 32  # of a curve over time, at most
LEAST_GAP = 0.01  # nats, that a logarithmic axis shows
DEEP = 10  # nats below the limit that the plain axis shows, at least


@dataclass(frozen=True)
class Curve:
    """A bound against the number of steps.

    Args:
        label: What distinguishes it.
        steps: Ascending.
        elbo: Nats.
        error: Of the difference to the limit, image by image, nats.
        dashed: Whether the line is dashed.
    """

    label: str
    steps: Sequence[int]
    elbo: Sequence[float]
    error: Sequence[float]
    dashed: bool = False


def save_bounds_by_steps(
    path: Path,
    curves: Sequence[Curve],
    limit: float,
    others: Mapping[str, tuple[int, float]],
    *,
    title: str,
    bits_per_nat: float | None = None,
) -> None:
    """Draw the gap to the limit on a logarithmic axis, and the bounds near it on a plain one.

    Args:
        path: PNG to write.
        curves: One for each kind of step.
        limit: The bound of infinitely many steps, nats.
        others: Number of levels and bound of other models, by their names.
        title: Title of the chart.
        bits_per_nat: Bits per dimension in a nat per image, for a second axis of both; None for none.
    """
    figure = Figure(figsize=(10.4, 5.0), dpi=DPI, layout="constrained")
    near, gap = figure.subplots(1, 2)
    colors = list(dict.fromkeys(curve.label.split(",")[0] for curve in curves))
    for curve in curves:
        style: dict[str, Any] = {
            "color": f"C{colors.index(curve.label.split(',')[0])}",
            "linestyle": "--" if curve.dashed else "-",
            "marker": "o" if not curve.dashed else "s",
            "markersize": 4,
        }
        near.plot(np.array(curve.steps) + 1, curve.elbo, label=curve.label, **style)
        gaps = limit - np.array(curve.elbo)
        gap.errorbar(
            curve.steps, np.where(gaps > LEAST_GAP, gaps, np.nan), yerr=curve.error, capsize=2, **style
        )
    near.axhline(limit, color="black", linewidth=1, label=f"T = infinity: {limit:.2f}")
    for place, (name, (levels, elbo)) in enumerate(others.items()):
        near.plot(levels, elbo, "*", color=f"C{len(colors) + place}", markersize=11, label=name)
    lowest = min([limit, *(elbo for _, elbo in others.values())])
    near.set_ylim(lowest - DEEP, max([limit, *(elbo for _, elbo in others.values())]) + 1)
    near.set_ylabel("ELBO (nats per image; up is better)")
    near.set_title("the bound; what is far lower is not shown", fontsize=9)
    gap.set_yscale("log")
    gap.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    gap.set_ylabel("nats below the limit (down is better)")
    gap.set_title("how far it is from the limit", fontsize=9)
    steps = sorted({steps for curve in curves for steps in curve.steps})
    _powers_axis(near, [2**i for i in range((max(steps) + 1).bit_length())])
    near.set_xlabel("number of levels (a diffusion of T steps has T + 1)")
    _powers_axis(gap, steps)
    gap.set_xlabel("number of steps T")
    if bits_per_nat is not None:
        bits_axis(near, -bits_per_nat)
        bits_axis(gap, bits_per_nat)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def save_rates_over_time(
    path: Path, levels: Mapping[int, tuple[np.ndarray, np.ndarray]], density: np.ndarray, *, title: str
) -> None:
    """Draw the rate of each level against its time, and the rate per unit of time, which has a limit.

    Args:
        path: PNG to write.
        levels: Times and rates (nats) of the levels, without the top, by the number of steps.
        density: In the limit, nats per unit of time in equal parts of [0, 1].
        title: Title of the chart.
    """
    figure = Figure(figsize=(10.4, 3.9), dpi=DPI, layout="constrained")
    each, per_time = figure.subplots(1, 2)
    for place, (steps, (times, rates)) in enumerate(levels.items()):
        shade = 0.15 + 0.7 * place / max(1, len(levels) - 1)
        style: dict[str, Any] = {
            "color": (0.1 + 0.5 * shade, 0.75 - 0.6 * shade, 0.9 - 0.3 * shade),
            "marker": "o",
        }
        style |= {"markersize": 3.5, "linewidth": 1.2}
        times, rates = (_pooled(values) for values in (times, rates))
        each.plot(times, np.maximum(rates, 1e-6), label=f"T = {steps:,}", **style)
        per_time.plot(times, rates * steps, label=f"T = {steps:,}", **style)
    middle = (np.arange(len(density)) + 0.5) / len(density)
    per_time.plot(middle, density, color="black", linewidth=1.5, label="T = infinity")
    each.set_yscale("log")
    each.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    each.set_ylim(bottom=max(1e-3, each.get_ylim()[0]))
    each.set_ylabel("rate of a level (nats)")
    per_time.set_ylabel("rate of a level times T (nats per unit of time)")
    per_time.set_ylim(0, 1.3 * float(density.max()))
    for ax in (each, per_time):
        ax.set_xlabel("t of the level: 0 is the image, 1 is noise")
        ax.grid(alpha=0.3)
    each.legend(fontsize=8)
    per_time.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def save_animation(
    path: Path, frames: np.ndarray, *, columns: int, scale: int = 2, seconds: float = 6
) -> None:
    """Write an animation that runs for ever, in the format that the name of the file ends with.

    Args:
        path: ``.gif`` or ``.webp``.
        frames: uint8 ``(frames, n, H, W)``, in color ``(frames, n, H, W, 3)``.
        columns: Images in a row.
        scale: Pixels of a pixel.
        seconds: How long it takes.
    """
    pictures = []
    for images in frames:
        rows = [np.concatenate(list(images[i : i + columns]), 1) for i in range(0, len(images), columns)]
        whole = np.concatenate(rows, 0)
        whole = (whole.astype(np.uint16) * (GRAYS - 1) // 255 * 255 // (GRAYS - 1)).astype(np.uint8)
        pictures.append(
            Image.fromarray(whole).resize(
                (whole.shape[1] * scale, whole.shape[0] * scale), Image.Resampling.NEAREST
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix[1:].upper()
    with replacing(path) as part:
        pictures[0].save(
            part,
            format=kind,
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 * seconds / len(pictures)),
            loop=0,
        )


def _pooled(values: np.ndarray) -> np.ndarray:
    """Means of neighbors, ``POINTS`` at most: each of many levels has few draws."""
    return np.array([part.mean() for part in np.array_split(values, min(POINTS, len(values)))])


def _powers_axis(ax: Axes, marked: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    shown = marked[:: max(1, -(-len(marked) // MOST_LABELS))]
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.grid(alpha=0.3)
