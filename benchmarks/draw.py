"""The pictures of the benchmarks."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

WAYS = {
    "usual": "the usual way",
    "bare": "bare loop, same step",
    "lightning": "Lightning with nothing else, same step",
    "ladder_vae": "ladder_vae",
}
COLORS = ("0.75", "0.55", "0.65", "tab:blue")


def speeds(found: dict[str, Any], path: Path) -> None:
    """Images a second, a dot a repetition, and the seconds from the command to the first step."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for row, (key, name) in enumerate(WAYS.items()):
        values = found["training"][key]
        middle = statistics.median(values)
        left.barh(row, middle, color=COLORS[row])
        left.plot(values, [row] * len(values), ".", color="black", alpha=0.5)
        left.text(200, row, f"{name}: {middle:,.0f}", va="center")
    left.set(yticks=[], xlabel="training images a second", title="5 levels, batch 256; dots: repetitions")
    left.invert_yaxis()
    edge = 0.0
    for phase in (phase for phase in found["start"][0] if phase != "total"):
        seconds = statistics.median(start[phase] for start in found["start"])
        right.barh(0, seconds, left=edge, label=f"{phase}: {seconds:.2f} s")
        edge += seconds
    right.set(yticks=[], ylim=(-2.6, 0.6), xlabel="seconds", title="from command to first step")
    right.legend(loc="lower left", fontsize="small", frameon=False)
    figure.savefig(path, dpi=110)


def growth(found: dict[str, Any], path: Path) -> None:
    """Time and memory of a step against depth and batch size, with a line of slope one."""
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex="col")
    labels = {"depth": "levels, at 256 images", "batch": "images a step, at 5 levels"}
    for column, (axis, label) in enumerate(labels.items()):
        for row, (unit, what) in enumerate({"ms": "ms a step", "MiB": "MiB that steps add"}.items()):
            ax = grid[row][column]
            points = {int(x): [cost[unit] for cost in costs] for x, costs in found["growth"][axis].items()}
            middle = [statistics.median(values) for values in points.values()]
            ax.loglog(list(points), middle, "o-", base=2, label="measured, median")
            for x, values in points.items():
                ax.plot([x] * len(values), values, ".", color="0.5", zorder=0)
            last = max(points)
            ax.plot(list(points), [middle[-1] * x / last for x in points], "--", color="0.6", label="linear")
            ax.set_xticks(list(points), [str(x) for x in points])
            ax.set(ylabel=what, xlabel=label if row else "")
            ax.grid(alpha=0.3)
    grid[0][0].legend(frameon=False)
    figure.suptitle("Growth of an uncompiled training step (each level 256 units wide, 32 latents)")
    figure.savefig(path, dpi=110)
