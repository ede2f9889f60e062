"""Publish a finished analysis: print it, enter it into the run's record, show it in TensorBoard."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from ladder_vae.analysis import level_tables
from ladder_vae.analysis.measure import Analysis, Settings
from ladder_vae.analysis.resolutions import on_grid
from ladder_vae.drawing import image_grids
from ladder_vae.runs.metrics import LEVELS
from ladder_vae.runs.opened import Subject, why_not_final
from ladder_vae.runs.record import read_record, write_metrics
from ladder_vae.system.errors import printable, warn
from ladder_vae.system.locks import RECORD, locked
from ladder_vae.system.naming import z_name

PROJECTOR = "projector_config.pbtxt"  # TensorBoard's file, to which it appends every embedding
PROJECTED = 2  # places along a side that a level is pooled to: the files are text
SPRITE = 8192  # pixels: the longest side of a sprite image that TensorBoard can show


def print_table(subject: Subject, analysis: Analysis) -> None:
    """Print the figures of each level to the terminal."""
    cells = level_tables.numbers(analysis.figures, analysis.readings.unit_rates, "class")
    images = f"{int(analysis.figures['images']):,} test images"
    table = Table(*cells.headings, title=escape(printable(f"{subject.run.path}: {images}")))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in cells.rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def record(subject: Subject, analysis: Analysis, settings: Settings) -> bool:
    """Write the figures to ``metrics.json``, or warn why they do not belong there.

    The figures of an unfinished run, or of fewer draws than an earlier analysis, do not belong there.

    Args:
        subject: The run and its images.
        analysis: The figures.
        settings: How they were measured.

    Returns:
        Whether they were written.
    """
    path, prefix = subject.run.path, _prefix(subject)
    with locked(path, RECORD):  # an evaluation may enter its own at the same time
        earlier, reason = read_record(path).metrics, why_not_final(subject)
        if not reason and earlier.get(f"{prefix}draws", 0) > settings.draws:
            reason = "it keeps an analysis with more draws"
        metrics = {prefix + name: value for name, value in analysis.figures.items()}
        if not reason:
            kept = {name: value for name, value in earlier.items() if not name.startswith(prefix)}
            write_metrics(path, kept | metrics)
    if reason:
        warn(f"the figures are in {path / 'analysis.md'}, not in metrics.json and TensorBoard: {reason}")
    return not reason


def _prefix(subject: Subject) -> str:
    """What the names of the figures begin with in ``metrics.json``."""
    return f"{subject.split}/{LEVELS}/"


def show_in_tensorboard(subject: Subject, analysis: Analysis, drawn: Sequence[Path]) -> None:
    """Write pictures and latents to TensorBoard.

    Figures of levels would be charts of one dot each; the pictures and ``analysis.html`` show them.
    """
    path, step = subject.run.path, int(subject.run.checkpoint.get("global_step", 0))
    (path / PROJECTOR).unlink(missing_ok=True)
    for earlier in path.glob("[0-9]*/z[0-9]*"):  # earlier embeddings would stay beside the new ones
        shutil.rmtree(earlier)
    height, width = subject.data.image_shape[1:]
    size, images = max(height, width), None
    if math.ceil(math.sqrt(len(subject.indices))) * size <= SPRITE:
        x = subject.run.model.likelihood.intensities(subject.data.observe("test", subject.indices))
        # Dark on light, images stand out from the background; sprites must be square.
        images = F.pad(1 - x, (0, size - width, 0, size - height), value=1.0)
    labels = None if analysis.labels is None else analysis.labels.tolist()
    with SummaryWriter(str(path)) as writer:
        for picture in drawn:
            writer.add_image(f"{LEVELS}/{picture.stem}", image_grids.read(picture), step, dataformats="HWC")
        for level, means in enumerate(analysis.readings.means):
            # Three decimals are enough for the picture and keep the text file small.
            coordinates = torch.round(on_grid(means, PROJECTED).flatten(1).double(), decimals=3)
            writer.add_embedding(
                coordinates, metadata=labels, label_img=images, global_step=step, tag=z_name(level)
            )
    print(
        "the latents are in TensorBoard's Projector; one that is running shows them after a restart",
        file=sys.stderr,
    )
