"""Points in the plane, colored by class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ladder_vae.drawing.charts import MAX_NAMED
from ladder_vae.drawing.image_grids import DPI, save


def save_embedding(
    path: Path, panels: Mapping[str, np.ndarray], classes: np.ndarray | None, *, title: str
) -> None:
    """Draw points in the plane, colored by class, one panel per set of points.

    Of many classes, the ``MAX_NAMED`` commonest are colored and named, and the others are gray.

    Args:
        path: PNG to write.
        panels: Maps the label of a panel to its points, ``(n, 2)``.
        classes: Class of each point, ``(n,)``, the same in every panel; None draws all in one color.
        title: Title of the chart.
    """
    figure = Figure(figsize=(4.2 * len(panels) + 0.8, 4.5), dpi=DPI)
    names = [] if classes is None else sorted(set(classes.tolist()))
    others = len(names) - MAX_NAMED
    if classes is not None and others > 0:
        found, counts = np.unique(classes, return_counts=True)
        names = sorted(found[np.argsort(-counts, kind="stable")[:MAX_NAMED]].tolist())
    colors = matplotlib.colormaps["tab10" if len(names) <= 10 else "turbo"]
    shades = colors(np.arange(len(names)) if len(names) <= 10 else np.linspace(0, 1, len(names)))
    for ax, (label, points) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        if classes is None:
            ax.scatter(*points.T, s=4, linewidths=0)
        elif others > 0:
            rest = points[~np.isin(classes, names)]
            ax.scatter(*rest.T, s=4, linewidths=0, color="silver", label=f"{others:,} others")
        for name, shade in zip(names, shades, strict=True):
            chosen = points[classes == name]
            ax.scatter(*chosen.T, s=5, linewidths=0, color=shade, label=str(name))
        centers = {name: np.median(points[classes == name], axis=0) for name in names}
        apart = np.std(list(centers.values()), axis=0).mean() if names else 0.0
        for name, center in centers.items():
            if apart > 0.4 * points.std(axis=0).mean():  # else the names would lie on top of each other
                ax.text(*center, str(name), ha="center", va="center", fontweight="bold", fontsize=11)
        ax.set_title(label, fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
    if names:
        handles, labels = ax.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", markerscale=3, title="class")
    figure.suptitle(title, fontsize=11)
    figure.set_layout_engine("constrained")
    save(figure, path)
