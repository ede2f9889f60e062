"""Importance-weighted likelihoods and active units: ``python -m ladder_vae.evaluate run=<dir>``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import matplotlib.image
import torch
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from ladder_vae import cli, configs, figures, runs
from ladder_vae.bounds import ACTIVE_KL, Settings, unit_counts
from ladder_vae.compare import find_runs
from ladder_vae.errors import UserError
from ladder_vae.evaluation import Evaluation, Subject, evaluate, load_subject, sample_sizes

CHECKPOINTS = ("best", "last")
SECONDS_PER_LINE = 30  # where nobody watches a terminal


def run(cfg: DictConfig) -> None:
    """Check everything, then evaluate run after run."""
    if cfg.run is None:
        raise UserError("run=<dir> is missing; name a run directory, or a folder of runs")
    if cfg.checkpoint not in CHECKPOINTS:
        raise UserError(f"checkpoint={cfg.checkpoint} is unknown; choose {', '.join(CHECKPOINTS)}")
    if cfg.chunk_size < 1 or cfg.seed < 0:
        raise UserError(f"chunk_size={cfg.chunk_size} must be at least 1, seed={cfg.seed} at least 0")
    given = None if cfg.k is None else list(cfg.k)
    settings = Settings(cfg.num_samples, sample_sizes(cfg.num_samples, given), cfg.seed, cfg.chunk_size)
    device = _device(cfg.device)
    root = Path(cfg.run)
    subjects = _subjects(root, cfg.checkpoint)
    try:
        for number, subject in enumerate(subjects, start=1):
            name = f"{subject.run.path} ({number}/{len(subjects)})"
            with _progress(name, len(subject.data.split("test"))) as advance:
                evaluation = evaluate(subject, settings, device, advance)
            _record(subject, evaluation, settings)
            _print_summary(subject, evaluation, settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished parts are kept; the same command continues") from None
    print(root)


def _subjects(root: Path, checkpoint: str) -> list[Subject]:
    """What there is to evaluate in a run directory or a folder of them."""
    alone = runs.is_run(root)
    if not alone and root.is_dir() and not any(root.rglob(runs.CONFIG)):
        raise UserError(f"run={root} is not a run directory and holds none; training prints the right one")
    paths = [root] if alone else [record.path for record in find_runs([root])]
    subjects = []
    for path in paths:
        record = runs.read_record(path)
        if checkpoint == "best" and not record.finished:
            remedy = (
                f"finish it (python -m ladder_vae.train resume={path}), or evaluate it as it is with "
                "checkpoint=last"
            )
            if alone:
                runs.read_config(path)  # a better reason, if it has one
                raise UserError(f"{path} has not finished ({_status(record)}); {remedy}")
            print(
                f"warning: {path} was left out: not finished ({_status(record)}); {remedy}", file=sys.stderr
            )
            continue
        subjects.append(load_subject(path, checkpoint))
        if not record.finished:
            print(
                f"warning: {path} has not finished ({_status(record)}); these are no final numbers",
                file=sys.stderr,
            )
    if not subjects:
        raise UserError(f"run={root} holds no finished run; checkpoint=last evaluates unfinished ones")
    return subjects


def _status(record: runs.Record) -> str:
    return f"{record.status}: {record.message}" if record.message else record.status


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError):
        raise UserError(f"device={name} is not here; choose auto or cpu") from None


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left; where nobody watches a terminal, a line now and then."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images,"),
        TimeElapsedColumn(),
        TextColumn("passed,"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)
        last = time.monotonic()

        def advance(images: int) -> None:
            nonlocal last
            bar.advance(task, images)
            if not console.is_terminal and time.monotonic() - last > SECONDS_PER_LINE:
                last = time.monotonic()
                state = bar.tasks[0]
                left = "unknown" if state.time_remaining is None else f"{state.time_remaining:,.0f} s"
                print(
                    f"{name}: {state.completed:,.0f} of {total:,} images, {left} left",
                    file=sys.stderr,
                    flush=True,
                )

        yield advance


def _record(subject: Subject, evaluation: Evaluation, settings: Settings) -> None:
    """``metrics.json``, figures and TensorBoard of the run; of ``last`` in a directory of its own."""
    path = subject.run.path
    if subject.checkpoint == "best":
        earlier = runs.read_record(path).metrics
    else:
        path, earlier = path / "evaluation" / subject.checkpoint, {}
        path.mkdir(parents=True, exist_ok=True)
    metrics, statistics = evaluation.metrics, evaluation.statistics
    sizes = settings.sample_sizes
    stderr = metrics.get("test/elbo_stderr", float("nan"))
    curve = figures.BoundCurve(
        subject.run.path.name,
        sizes,
        [metrics[f"test/log_px/K={k}"] for k in sizes],
        [metrics.get(f"test/log_px/K={k}_mc_stderr", 0.0) for k in sizes],
    )
    title = (
        f"Test split, {len(statistics.elbo):,} images, {settings.num_samples:,} draws each\n"
        f"bars: error over draws; the error over images, {stderr:.2f} nats, moves the whole curve"
    )
    figures.save_bounds(path / "figures" / "log_px.png", [curve], title=title)
    rates = statistics.unit_rate.mean(0).split(unit_counts(subject.run.model))
    figures.save_units(path / "figures" / "units.png", [r.numpy() for r in rates], ACTIVE_KL)
    if subject.run.config.get("logger"):
        with SummaryWriter(str(path)) as writer:
            for name, value in metrics.items():
                writer.add_scalar(name, value, subject.global_step)
            for name in ("log_px", "units"):
                picture = matplotlib.image.imread(path / "figures" / f"{name}.png")
                writer.add_image(f"test/{name}", picture[..., :3], subject.global_step, dataformats="HWC")
    runs.write_metrics(path, {**earlier, **metrics})


def _print_summary(subject: Subject, evaluation: Evaluation, settings: Settings) -> None:
    metrics = evaluation.metrics
    console = Console()
    table = Table("K", "L_K", "± over images", "± over draws", "gap to the ELBO", "effective samples")
    table.title = f"{subject.run.path}: bounds on log p(x), nats per image, test split"
    for k in settings.sample_sizes:
        row = [
            f"test/log_px/K={k}",
            f"test/log_px/K={k}_stderr",
            f"test/log_px/K={k}_mc_stderr",
            f"test/gap/K={k}",
        ]
        cells = [
            _number(metrics, name, form) for name, form in zip(row, (".2f", ".2f", ".4f", ".2f"), strict=True)
        ]
        table.add_row(f"{k:,}", *cells, _number(metrics, f"test/ess/K={k}", ",.1f"))
    levels = Table("level", "rate", "units", "active (KL)", "active (variance)", "σ²q / σ²p")
    for level, units in enumerate(unit_counts(subject.run.model), start=1):
        names = ("rate", "active_units", "active_units_var", "variance_ratio")
        cells = [
            _number(metrics, f"test/{n}/z{level}", f)
            for n, f in zip(names, (".2f", ".0f", ".0f", ".3f"), strict=True)
        ]
        levels.add_row(f"z{level}", cells[0], str(units), *cells[1:])
    for shown in (table, levels):
        for column in shown.columns:
            column.justify = "right"
        console.print(shown)
    console.print(
        f"ELBO {metrics['test/elbo']:.2f} = -(distortion {metrics['test/distortion']:.2f} + rate "
        f"{metrics['test/rate']:.2f}), MSE {metrics['test/mse']:.5f}, SSIM {metrics['test/ssim']:.4f}; "
        f"{metrics['evaluate/seconds'] / 60:.1f} minutes",
        highlight=False,
    )


def _number(metrics: dict[str, float], name: str, form: str) -> str:
    return format(metrics[name], form) if name in metrics else "–"


def main() -> None:
    """Entry point."""
    configs.register()
    cli.run(_checked)


def _checked() -> None:
    cli.strict(get_args_parser()).parse_args()  # flags, before Hydra sees them
    composed: list[DictConfig] = []
    # Hydra composes and no more: it would put a line of its own before that of an error.
    hydra.main(version_base="1.3", config_path="pkg://ladder_vae.conf", config_name="evaluate")(
        composed.append
    )()
    for cfg in composed:
        run(cfg)


if __name__ == "__main__":
    main()
