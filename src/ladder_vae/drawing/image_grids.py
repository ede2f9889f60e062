"""Grids of images: they arrive as arrays and leave as PNG files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from ladder_vae.system.files import replacing

if TYPE_CHECKING:  # a report needs no PyTorch
    from torch import Tensor

DPI = 110
GAP = 2  # pixels between images of a strip
MAX_SIDE = 4_000  # pixels: no picture is wider or taller
TALLEST = 30.0  # inches that the strips of a picture may have together
LEAST_SIDE = 0.25  # inches: a narrower or flatter image is stretched, so that it can be seen
MAX_STRIPS = 40
SAMPLE_COLUMNS = 10


def to_bytes(images: Tensor) -> np.ndarray:
    """Convert intensities in [0, 1], ``(n, C, H, W)``, to bytes ``(n, H, W)``, in color ``(n, H, W, 3)``."""
    shown = images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
    return (shown * 255).round().byte().cpu().numpy()


def steps(size: Sequence[int], rows: int, columns: int) -> tuple[int, int]:
    """Every how many pixels, down and across, suffice for a grid of images of ``size`` = (H, W)."""
    return max(1, -(-size[0] * rows // MAX_SIDE)), max(1, -(-size[1] * columns // MAX_SIDE))


def strip(images: np.ndarray, columns: int) -> np.ndarray:
    """Join images, uint8 ``(n, H, W)``, to one image ``(H', W')`` with ``columns`` per row and gray lines.

    Here and below, images in color have a last axis more, of 3.

    Of images that are too large for a picture only every so many pixels are taken (:func:`steps`).
    """
    down, across = steps(images.shape[1:3], -(-len(images) // columns), columns)
    images = images[:, ::down, ::across]
    n, h, w, *color = images.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (h + GAP) - GAP, columns * (w + GAP) - GAP, *color), 128, np.uint8)
    for i, image in enumerate(images):
        r, c = divmod(i, columns)
        canvas[r * (h + GAP) : r * (h + GAP) + h, c * (w + GAP) : c * (w + GAP) + w] = image
    return canvas


def save_strips(
    path: Path,
    rows: Mapping[str, np.ndarray],
    *,
    columns: int,
    title: str,
    headings: Sequence[str] = (),
    notes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Draw labeled strips of images below each other.

    Args:
        path: PNG to write.
        rows: Maps the label of a strip to its images, uint8 ``(n, H, W)``.
        columns: Images per row.
        title: Title of the picture.
        headings: Headings of the columns, from the first column on.
        notes: Maps the label of a strip to short lines of text beside it, on the right.

    Images keep their proportions, unless they would be too narrow or too flat to be seen. The picture shows
    at most ``MAX_STRIPS`` strips and says how many it leaves out.
    """
    if len(rows) > MAX_STRIPS:
        title += f"; {len(rows) - MAX_STRIPS} of {len(rows)} rows are left out"
        rows = dict(list(rows.items())[:MAX_STRIPS])
    strips = {label: strip(images, columns) for label, images in rows.items()}
    labels = [textwrap.fill(label, 20) for label in strips]
    letters = max(len(line) for label in labels for line in label.split("\n"))
    width, margin, gap, top = 7.0, 0.2 + 0.085 * letters, 0.15, 0.65 if headings else 0.45  # inches
    right = 0.085 * max((len(line) for note in notes.values() for line in note.split("\n")), default=0)
    lines = [-(-len(images) // columns) for images in rows.values()]
    # The scale is that of images which fill the width, or of tall ones which together are not too tall.
    h, w = next(iter(rows.values())).shape[1:3]
    wide, tall = columns * (w + GAP) - GAP, sum(n * (h + GAP) - GAP for n in lines)
    scale = min(width / wide, TALLEST / tall)  # inches a pixel
    across = min(width, max(scale * wide, LEAST_SIDE * columns))
    heights = [max(scale * (n * (h + GAP) - GAP), LEAST_SIDE * n) for n in lines]
    height = sum(heights) + gap * len(strips) + top
    whole = width + margin + right
    figure = Figure(figsize=(whole, height), dpi=DPI)
    y = height - top
    named = zip(labels, strips.items(), heights, strict=True)
    for label, (name, image), inches in named:
        left, bottom = margin / whole, (y - inches) / height
        box = (left, bottom, (across - 0.1) / whole, inches / height)
        ax = figure.add_axes(box)
        ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
        beside: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(notes.get(name, ""), (1, 0.5), xycoords="axes fraction", fontsize=9, **beside)
        y -= inches + gap
    pitch = (next(iter(strips.values())).shape[1] + GAP) / columns
    first = figure.axes[0]
    first.xaxis.tick_top()
    first.set_xticks([(i + 0.5) * pitch - 1 for i in range(len(headings))], headings, fontsize=8)
    first.tick_params(length=0)
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / height, va="top")
    save(figure, path)


def save_cross(
    path: Path, left: np.ndarray, top: np.ndarray, cells: np.ndarray, *, labels: tuple[str, str], title: str
) -> None:
    """Draw a table of images whose cells combine the image left of their row with that above their column.

    Args:
        path: PNG to write.
        left: Images on the left, uint8 ``(n, H, W)``.
        top: Images above, uint8 ``(m, H, W)``.
        cells: Images in the table, uint8 ``(n * m, H, W)``, row by row.
        labels: What the images on the left contribute, and what those above do.
        title: Title of the picture.
    """
    n, m = len(left), len(top)
    down, across = steps(left.shape[1:3], n + 1, m + 1)
    left, top, cells = (images[:, ::down, ::across] for images in (left, top, cells))
    corner = np.full_like(left[:1], 255)
    rows = [corner, top, *(part for i in range(n) for part in (left[i : i + 1], cells[i * m : (i + 1) * m]))]
    canvas = strip(np.concatenate(rows), m + 1)
    h, w = left.shape[1:3]
    canvas[h : h + GAP] = canvas[:, w : w + GAP] = 255  # a white gap separates inputs and cells
    canvas = np.insert(np.insert(canvas, [h] * GAP * 2, 255, 0), [w] * GAP * 2, 255, 1)
    natural = 7.0 * canvas.shape[0] / canvas.shape[1]
    height = min(max(natural, LEAST_SIDE * (n + 1)), TALLEST)
    figure = Figure(figsize=(7.0, height + 0.6), dpi=DPI)
    ax = figure.subplots()
    ax.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_aspect("equal" if height == natural else "auto")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.xaxis.set_label_position("top")
    ax.set_ylabel(labels[0])
    ax.set_xlabel(labels[1])
    figure.suptitle(title, fontsize=11)
    figure.set_layout_engine("constrained")
    save(figure, path)


def save_run(directory: Path, images: Mapping[str, np.ndarray]) -> None:
    """Draw ``reconstructions.png`` and ``samples.png`` of a run from the arrays of its ``images.npz``."""
    save_strips(
        directory / "reconstructions.png",
        {"test image": images["originals"], "reconstruction": images["reconstructions"]},
        columns=len(images["originals"]),
        title="Test images as the model sees them, and the decoder's mean for one posterior sample",
    )
    save_strips(
        directory / "samples.png",
        {"prior samples": images["samples"]},
        columns=min(SAMPLE_COLUMNS, len(images["samples"])),
        title="The decoder's mean for latents from the prior",
    )


def read(path: Path) -> np.ndarray:
    """Read a picture that was saved: intensities in [0, 1], ``(H, W, 3)``."""
    return matplotlib.image.imread(path)[..., :3]


def save(figure: Figure, path: Path) -> None:
    """Write a picture, of at most ``MAX_SIDE`` pixels a side, and make its folder if need be."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with dollars is no formula
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, dpi=min(figure.dpi, MAX_SIDE / max(figure.get_size_inches())))
