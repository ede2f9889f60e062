"""Maps over the places of an image, beside images: they arrive as arrays and leave as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ladder_vae.drawing.image_grids import DPI, save

COLUMNS, SIDE = 8, 1.25  # maps beside each other, and inches of each
COLORS = "magma"


@dataclass(frozen=True)
class Cell:
    """A map, or an image.

    Args:
        title: What stands above it.
        values: A map, floats ``(H, W)``; or an image, uint8 ``(H, W)`` or ``(H, W, 3)``.
        outline: Rows and columns to outline, as in ``(first row, rows, first column, columns)``; or none.
    """

    title: str
    values: np.ndarray
    outline: tuple[float, float, float, float] | None = None

    @property
    def is_map(self) -> bool:
        """Whether it is a map, and no image."""
        return self.values.dtype != np.uint8


def save_maps(path: Path, rows: Sequence[Sequence[Cell]], *, label: str, title: str) -> None:
    """Draw rows of maps and images. All maps have the same scale of colors, from 0 to the greatest value.

    Colors grow with the square root of a value, so that small ones can be told from 0; with the value itself
    if some are negative. A row of more than ``COLUMNS`` cells goes on below.

    Args:
        path: PNG to write.
        rows: Cells from left to right; at least one is a map.
        label: What the colors stand for, with the unit.
        title: Title of the picture.
    """
    lines = [row[i : i + COLUMNS] for row in rows for i in range(0, len(row), COLUMNS)]
    columns = max(map(len, lines))
    maps = [cell.values for line in lines for cell in line if cell.is_map]
    low, high = min(0.0, *(m.min() for m in maps)), max(m.max() for m in maps)
    high = max(high, low + 1e-9)
    colors = ScalarMappable(Normalize(low, high) if low < 0 else PowerNorm(0.5, low, high), COLORS)
    titles = [max(cell.title.count("\n") + 1 for cell in line) for line in lines]
    side = max(SIDE, 4.0 / columns)
    size = (side * columns + 1.1, side * len(lines) + 0.16 * sum(titles) + 0.5)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False)
    for line, axes in zip(lines, grid, strict=True):
        for ax in axes[len(line) :]:
            ax.set_visible(False)
        for cell, ax in zip(line, axes, strict=False):
            if cell.is_map:
                ax.imshow(cell.values, cmap=colors.cmap, norm=colors.norm, interpolation="nearest")
            else:
                ax.imshow(cell.values, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            if cell.outline is not None:
                top, height, left, width = cell.outline
                box = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, color="cyan", linewidth=1)
                ax.add_patch(box)
            ax.set_title(cell.title, fontsize=8)
            ax.set_xticks([])
            ax.set_yticks([])
    figure.colorbar(colors, ax=grid, label=label, shrink=min(1.0, 3.0 / size[1] + 0.3), aspect=25)
    figure.suptitle(title, fontsize=11)
    save(figure, path)
