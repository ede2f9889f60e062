"""See what each level encodes: ``python -m ladder_vae.analyze run=<dir>``."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from ladder_vae import cli, configs, figures, level_tables, runs
from ladder_vae.analysis import MAX_SHOWN, Analysis, Settings, analyze, check, write
from ladder_vae.errors import UserError, warn
from ladder_vae.release import own_copy
from ladder_vae.subjects import Subject, choose_device, over_runs, why_not_final

PROJECTOR = "projector_config.pbtxt"  # TensorBoard's, to which every embedding is appended
SPRITE = 8192  # pixels: side of the largest picture of all images that it can show
LEAST = {"draws": 1, "probe_images": 1, "embedded": 1, "seed": 0}


def run(cfg: DictConfig) -> None:
    """Check everything, then analyze run after run."""
    cli.check_settings(cfg, configs.AnalyzeConfig, LEAST)
    for name in ("levels", "show"):
        if cfg[name] is not None and not cfg[name]:
            raise UserError(f"{name}=[] names none; leave it out, or name some: '{name}=[1,2]'")
    if cfg.show is not None and len(cfg.show) > MAX_SHOWN:
        raise UserError(f"show names {len(cfg.show)} images; a picture has room for {MAX_SHOWN}")
    settings = Settings(
        levels=None if cfg.levels is None else tuple(level - 1 for level in cfg.levels),
        show=None if cfg.show is None else tuple(cfg.show),
        draws=cfg.draws,
        probe_images=cfg.probe_images,
        embedded=cfg.embedded,
        seed=cfg.seed,
        classifier_dir=Path(cfg.classifier_dir).expanduser(),
    )
    device = choose_device(cfg.device)

    def work(subject: Subject, name: str) -> None:
        def on_step(what: str) -> None:
            print(f"{name}: {what}", file=sys.stderr, flush=True)

        path = subject.run.path
        try:
            analysis = analyze(subject, settings, device, on_step)
            drawn = write(subject, analysis, settings, on_step)
            _print(subject, analysis)
            _record(subject, analysis, settings, drawn, on_step)
        except torch.OutOfMemoryError:
            raise UserError(f"out of memory on {device}; device=cpu has more") from None
        except OSError as error:
            raise UserError(f"{error.filename or path} cannot be written ({error.strerror})") from None
        print(path / "analysis.html")

    fits = partial(check, settings=settings)
    failed = over_runs(own_copy(cfg.run), cfg.checkpoint, cfg.images, work, fits)
    if failed:
        raise UserError(f"{failed} could not be analyzed")


def _print(subject: Subject, analysis: Analysis) -> None:
    cells = level_tables.numbers(analysis.figures, analysis.readings.unit_rates, "class")
    images = f"{int(analysis.figures['images']):,} test images"
    table = Table(*cells.headings, title=escape(f"{subject.run.path}: {images}"))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in cells.rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def _record(
    subject: Subject,
    analysis: Analysis,
    settings: Settings,
    drawn: list[Path],
    on_step: Callable[[str], None],
) -> None:
    """Figures into ``metrics.json``, everything to TensorBoard, if they belong there."""
    path, prefix = subject.run.path, f"{subject.split}/{runs.LEVELS}/"
    reason = why_not_final(subject)
    earlier = runs.read_record(path).metrics
    if not reason and earlier.get(f"{prefix}draws", 0) > settings.draws:
        reason = "it keeps an analysis with more draws"
    if reason:
        warn(f"the figures are in {path / 'analysis.md'}, not in metrics.json and TensorBoard: {reason}")
        return
    metrics = {prefix + name: value for name, value in analysis.figures.items()}
    kept = {name: value for name, value in earlier.items() if not name.startswith(prefix)}
    runs.write_metrics(path, kept | metrics)
    if subject.run.config.get("logger"):
        on_step("writing to TensorBoard")
        _show_in_tensorboard(subject, analysis, metrics, drawn)


def _show_in_tensorboard(
    subject: Subject, analysis: Analysis, metrics: dict[str, float], drawn: list[Path]
) -> None:
    path, step = subject.run.path, int(subject.run.checkpoint.get("global_step", 0))
    (path / PROJECTOR).unlink(missing_ok=True)
    for pattern in ("[0-9]*", "[0-9]*/z[0-9]*"):  # links in a run that somebody sent lead elsewhere
        for link in filter(Path.is_symlink, list(path.glob(pattern))):
            link.unlink()
    for earlier in path.glob("[0-9]*/z[0-9]*"):  # which would stay beside the new
        shutil.rmtree(earlier)
    x = 1 - subject.data.binary("test", subject.indices)  # dark on light, to be told from the background
    size = max(x.shape[2:])
    x = F.pad(x, (0, size - x.shape[3], 0, size - x.shape[2]), value=1.0)  # it takes square ones only
    images = x if math.ceil(math.sqrt(len(x))) * size <= SPRITE else None
    labels = None if analysis.labels is None else analysis.labels.tolist()
    with SummaryWriter(str(path)) as writer:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        for picture in drawn:
            writer.add_image(f"{runs.LEVELS}/{picture.stem}", figures.read(picture), step, dataformats="HWC")
        for level, means in enumerate(analysis.readings.means, start=1):
            # three decimals: the file is text, and the picture needs no more
            coordinates = torch.round(means.double(), decimals=3)
            writer.add_embedding(
                coordinates, metadata=labels, label_img=images, global_step=step, tag=f"z{level}"
            )


def main() -> None:
    """Entry point."""
    configs.register()
    cli.run(_checked)


def _checked() -> None:
    for cfg in cli.compose("analyze"):
        run(cfg)


if __name__ == "__main__":
    main()
