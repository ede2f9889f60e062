"""What becomes of a finished evaluation: printed, drawn, entered into the record of the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from ladder_vae.drawing import charts, image_grids
from ladder_vae.evaluation.parts import Evaluation, plan
from ladder_vae.models.diffusion import Diffusion
from ladder_vae.models.evaluator import Settings, unit_counts
from ladder_vae.models.summary import ACTIVE_KL, ESS_QUANTILES
from ladder_vae.runs.metrics import IMAGES_OF, curves
from ladder_vae.runs.opened import Subject, why_not_final
from ladder_vae.runs.record import read_record, write_metrics
from ladder_vae.system.errors import attempt, printable, warn
from ladder_vae.system.locks import RECORD, locked

# Where these agree, bounds for other K join those that are recorded. Version 6 and earlier did not record it.
SAME_DRAWS = ("draws", "draws_seed", "draws_version", "binarizations")
SECONDS_PER_LINE = 30  # where nobody watches a terminal
PICTURES = ("log_px.png", "units.png")
# These metrics of an earlier evaluation leave metrics.json when another one enters.
EVALUATED = ("log_px/", "ess/", "khat/", "gap/", "active_units", "variance_ratio/", "bits_per_dim/")


@contextmanager
def progress_bar(name: str, total: int) -> Iterator[Callable[[int, bool], None]]:
    """A bar with the time left; where nobody watches a terminal, a line now and then."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    # A long memory for the speed: a single image of a large model may take a while.
    with Progress(
        *columns, console=console, disable=not console.is_terminal, speed_estimate_period=600
    ) as bar:
        task = bar.add_task(escape(name), total=total)
        last = time.monotonic()

        def advance(images: int, kept: bool) -> None:
            nonlocal last
            if kept:  # says nothing of the speed
                bar.reset(task, completed=int(bar.tasks[0].completed) + images)
            else:
                bar.advance(task, images)
            if not console.is_terminal and time.monotonic() - last > SECONDS_PER_LINE:
                last = time.monotonic()
                state = bar.tasks[0]
                left = "unknown" if state.time_remaining is None else f"{state.time_remaining:,.0f} s"
                done = f"{state.completed:,.0f} of {total:,} images"
                print(f"{name}: {done}, {left} left", file=sys.stderr, flush=True)

        yield advance


def keep(subject: Subject, evaluation: Evaluation, settings: Settings) -> None:
    """Write results and figures to the directory of the evaluation, and to the record if they are final."""
    directory, path, metrics = plan(subject, settings), subject.run.path, evaluation.metrics
    with locked(path, RECORD):  # another evaluation of the run may enter its own
        write_metrics(directory, metrics)
        earlier, split = read_record(path).metrics, subject.split
        entered = earlier
        reason = why_not_final(subject)
        kept = earlier.get(f"{split}/draws", 0), earlier.get(f"{split}/binarizations", 1)
        if not reason and kept > (settings.num_samples, settings.binarizations):
            more = "draws" if kept[0] > settings.num_samples else "binarizations"
            reason = f"it keeps an evaluation with more {more}"
        if reason:
            warn(f"the results are in {directory}, not in metrics.json: {reason}")
        else:
            # Of the same draws, bounds for other K add to those that are known; of others, they replace them.
            known = {f"{split}/binarizations": 1} | earlier  # earlier versions had no other number
            same = all(known.get(name) == metrics[name] for name in (f"{split}/{key}" for key in SAME_DRAWS))
            replaced = () if same else tuple(f"{split}/{name}" for name in EVALUATED)
            entered = {k: v for k, v in earlier.items() if not k.startswith(replaced)} | metrics
            if entered != earlier:
                write_metrics(path, entered)
    with attempt(f"drawing {directory}"):  # only now that everything is recorded
        _draw(directory, subject, evaluation, settings)
    if entered != earlier:
        with attempt("writing to TensorBoard"):
            _show_in_tensorboard(subject, metrics, directory)


def _show_in_tensorboard(subject: Subject, metrics: dict[str, float], directory: Path) -> None:
    if not subject.run.config.get("logger"):
        return
    step = int(subject.run.checkpoint.get("global_step", 0))
    # Of these images training has curves already, which a point of other weights would not continue.
    taken = curves(subject.split, subject.run.model.num_layers) if subject.split in ("train", "val") else ()
    with SummaryWriter(str(subject.run.path)) as writer:
        for name, value in metrics.items():
            if name not in taken:
                writer.add_scalar(name, value, step)
        for name in (name for name in PICTURES if (directory / name).exists()):
            picture = image_grids.read(directory / name)
            writer.add_image(f"{subject.split}/{Path(name).stem}", picture, step, dataformats="HWC")


def _draw(directory: Path, subject: Subject, evaluation: Evaluation, settings: Settings) -> None:
    metrics, statistics, sizes = evaluation.metrics, evaluation.statistics, settings.sample_sizes
    split = subject.split
    errors = [metrics.get(f"{split}/log_px/K={k}_mc_stderr", 0.0) for k in sizes]
    bounds = [metrics[f"{split}/log_px/K={k}"] for k in sizes]
    title = (
        f"{_images(subject)}, {settings.num_samples:,} draws each\n"
        f"bars: error over draws; that over images, {_number(metrics, f'{split}/elbo_stderr', '.2f')} nats, "
        "moves the whole curve"
    )
    curve = charts.BoundCurve(subject.run.path.name, sizes, bounds, errors)
    bits = subject.data.likelihood.bits_per_nat(subject.data.image_shape)
    charts.save_bounds(directory / PICTURES[0], [curve], title=title, bits_per_nat=bits)
    assert statistics.units is not None  # what has bounds has units
    rates = statistics.units.rate.split(unit_counts(subject.run.model))
    charts.save_units(directory / PICTURES[1], [rate.numpy() for rate in rates], ACTIVE_KL)


def print_summary(subject: Subject, evaluation: Evaluation, settings: Settings) -> None:
    """Bounds, levels and what their errors are worth, to the terminal."""
    metrics, path, split = evaluation.metrics, subject.run.path, subject.split
    table = Table("K", "L_K", "± over images", "± over draws", "gap to the ELBO", "effective samples")
    bits = f"{split}/bits_per_dim" in metrics
    if bits:
        table.add_column("bits per dimension")
    table.title = escape(printable(f"{path}: bounds on log p(x), nats per image, {_images(subject)}"))
    for k in settings.sample_sizes:
        bound = f"{split}/log_px/K={k}"
        columns = {bound: ".2f", f"{bound}_stderr": ".2f", f"{bound}_mc_stderr": ".4f"}
        columns |= {f"{split}/gap/K={k}": ".2f", f"{split}/ess/K={k}": ",.1f"}
        columns |= {f"{split}/bits_per_dim/K={k}": ".3f"} if bits else {}
        table.add_row(f"{k:,}", *(_number(metrics, name, form) for name, form in columns.items()))
    levels = Table("level", "rate", "units", "active (KL)", "active (variance)", "σ²q / σ²p")
    for level, units in enumerate(unit_counts(subject.run.model), start=1):
        columns = {"active_units": ".0f", "active_units_var": ".0f", "variance_ratio": ".3f"}
        cells = [_number(metrics, f"{split}/{name}/z{level}", form) for name, form in columns.items()]
        levels.add_row(f"z{level}", _number(metrics, f"{split}/rate/z{level}", ".2f"), str(units), *cells)
    console = Console()
    for shown in (table, levels):
        for column in shown.columns:
            column.justify = "right"
        console.print(shown)
    for line in _on_weights(metrics, split, settings):
        print(line)
    elbo, distortion, rate, mse, ssim, seconds = (
        metrics[f"{split}/{name}"]
        for name in ("elbo", "distortion", "rate", "mse", "ssim", "evaluation_seconds")
    )
    also = f" ({_number(metrics, f'{split}/bits_per_dim', '.3f')} bits per dimension)" if bits else ""
    print(
        f"ELBO {elbo:.2f} = -(distortion {distortion:.2f} + rate {rate:.2f}){also}, MSE {mse:.5f}, "
        f"SSIM {ssim:.4f}; {seconds / 60:.1f} minutes; pictures and numbers of each image in "
        f"{printable(str(plan(subject, settings)))}"
    )


def _on_weights(metrics: dict[str, float], split: str, settings: Settings) -> Iterator[str]:
    """Lines on how far the bound can be trusted, by Pareto k-hat, and how much it depends on binarization."""
    k, tail = settings.sample_sizes[-1], f"{split}/khat/K={settings.num_samples}"
    if f"{tail}/above_0.7" in metrics:
        median, doubtful, hopeless = (
            metrics[f"{tail}/{name}"] for name in ("median", "above_0.7", "above_1")
        )
        yield (
            f"Pareto k-hat of {settings.num_samples:,} weights: median {median:.2f}, "
            f"above 0.7 for {doubtful:.0%} of the images, above 1 for {hopeless:.0%}"
        )
        if doubtful > 0:
            yield (
                "where it is above 0.7 a few draws carry the sum: L_K is a lower bound still, but its error "
                "over draws is too small, and a larger K may raise it by far more"
            )
    if k > 1:
        low, middle, high = (metrics[f"{split}/ess/K={k}/{name}"] for name in ESS_QUANTILES)
        yield (
            f"effective samples of {k:,}: {low:,.1f} at the 5 % quantile over images, "
            f"{middle:,.1f} at the median, {high:,.1f} at the 95 % quantile"
        )
    if settings.binarizations > 1:
        spread = metrics[f"{split}/log_px/K={k}_binarization_std"]
        yield (
            f"mean of {settings.binarizations} draws of the pixels, over which L_{k} "
            f"has a standard deviation of {spread:.3f} nats"
        )


def _images(subject: Subject) -> str:
    """What was evaluated: how many images, and of a diffusion with how many steps."""
    model, images = subject.run.model, f"{len(subject.indices):,} {IMAGES_OF[subject.source]}"
    return f"{images}, T = {model.steps} ({model.transition})" if isinstance(model, Diffusion) else images


def _number(metrics: dict[str, float], name: str, form: str) -> str:
    return format(metrics[name], form) if name in metrics else "–"
