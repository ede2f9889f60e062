"""``python -m benchmarks.gpu [repetitions [folder]]``: how fast one NVIDIA GPU trains and evaluates.

Everything that is compared is measured in turn, in one process and on one card: the plain step in a bare
loop, the step replayed as a CUDA graph, compiled and replayed, and whole runs with Lightning, logging and
checkpoints; then bounds at K = 5,000, plain and replayed. It prints tables, and leaves ``results.json`` and a
picture of the training in the folder (``runs/bench_gpu``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.training import five_levels, settings
from ladder_vae.data import MNIST
from ladder_vae.data.batches import Batches
from ladder_vae.evaluation.parts import PART, compiled_weigher
from ladder_vae.models import LadderVAE
from ladder_vae.models.evaluator import Settings, image_statistics
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.passes import FEW_DRAWS, Passes, draws_per_pass
from ladder_vae.system.compilation import compiled
from ladder_vae.system.devices import choose_precision, fast_products
from ladder_vae.system.errors import UserError
from ladder_vae.system.recording import RECORDERS, REHEARSALS
from ladder_vae.system.self_check import step_doubt
from ladder_vae.training.build import build
from ladder_vae.training.data_module import ImageDataModule
from ladder_vae.training.job import prepare
from ladder_vae.training.objective import Objective
from ladder_vae.training.replay import WholeStep
from ladder_vae.training.settle import settle
from ladder_vae.training.step import batch_values

BATCH = 512
WAYS = {  # in the order of the picture
    "eager": "bare loop, eager step",
    "run_eager": "ladder_vae, cuda_graph=false",
    "graph": "bare loop, CUDA graph",
    "run_graph": "ladder_vae, cuda_graph=true",
    "compiled": "bare loop, compiled and CUDA graph",
    "run_compiled": "ladder_vae, compile=true, cuda_graph=true",
}
DRAWS = 5_000  # K of the bounds
EVALUATIONS = {
    "eager": "eager, 1,000 draws a pass",
    "eager_wide": "eager, passes that fill the device",
    "graph": "ladder_vae, compile=false",
    "compiled": "ladder_vae, compile=true",
}
Step = Callable[[torch.Tensor], Any]


def eager_step(model: LadderVAE, half: bool) -> Step:
    """The plain step: noise, forward and backward pass, update."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    values = batch_values(model, Objective())

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            loss = values(x, x.new_ones(()), *model.draw_noise(1, len(x), like=x)).loss
        loss.backward()
        optimizer.step()

    return step


def replayed_step(model: LadderVAE, half: bool, *, compile: bool) -> Step:
    """The same, recorded and replayed."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    values: Callable[..., Any] = batch_values(model, Objective())
    if compile:
        values = compiled(values, step_doubt(model, lambda twin: batch_values(twin, Objective())))
    device = next(model.parameters()).device.type
    whole = WholeStep(model, values, optimizer, 1, None, RECORDERS[device]())

    def step(x: torch.Tensor) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            whole(x, 1.0)

    return step


def bare_speed(step: Step, model: LadderVAE, steps: int) -> float:
    """Images a second of a loop with average and drawn pixels, without Lightning."""
    device = next(model.parameters()).device
    images = MNIST(batch_size=BATCH, val_size=0).split("train").to(device)
    current = [v for v in model.state_dict().values() if v.is_floating_point()]
    average = [v.clone() for v in current]
    drawn = (x for epoch in range(10**6) for x in Batches(images, BATCH, seed=epoch, draw=True))
    batches = (x for x in drawn if len(x) == BATCH)
    began = 0.0
    for number in range(REHEARSALS + 2 + steps):
        if number == REHEARSALS + 2:
            _wait(device)
            began = time.perf_counter()
        step(next(batches))
        torch._foreach_lerp_(average, current, 0.001)
    _wait(device)
    return steps * BATCH / (time.perf_counter() - began)


class EpochSpeeds(Callback):
    """Images a second of each epoch of a run, validation and checkpoints left out."""

    def __init__(self) -> None:
        self.speeds: list[float] = []
        self._began = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _wait(pl_module.device)
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _wait(pl_module.device)
        images = len(trainer.datamodule.data.split("train"))  # type: ignore[attr-defined]
        self.speeds.append(images / (time.perf_counter() - self._began))


def run_speed(epochs: int, device: str, *more: str) -> float:
    """Images a second of a whole run: the median of its epochs but the first, which warms up and compiles."""
    with tempfile.TemporaryDirectory() as directory:
        cfg = settings(
            Path(directory), f"trainer.max_epochs={epochs}", "callbacks.progress=null",
            f"data.batch_size={BATCH}", f"trainer.accelerator={device}", *more,
        )  # fmt: skip
        assembly, speeds = build(settle(cfg), directory), EpochSpeeds()
        assembly.trainer.callbacks.insert(0, speeds)  # type: ignore[attr-defined]
        assembly.trainer.fit(assembly.module, datamodule=ImageDataModule(assembly.data))
    return statistics.median(speeds.speeds[1:])


def measure(repetitions: int, device: str, steps: int, epochs: int) -> dict[str, list[float]]:
    """Images a second of each way, a number a repetition."""
    prepare()
    half = choose_precision("auto", device) == "bf16-mixed"
    models = {name: five_levels().to(device) for name in ("eager", "graph", "compiled")}
    bare = {
        "eager": eager_step(models["eager"], half),
        "graph": replayed_step(models["graph"], half, compile=False),
        "compiled": replayed_step(models["compiled"], half, compile=True),
    }
    runs = {"run_eager": ("false", "false"), "run_graph": ("false", "true"), "run_compiled": ("true", "true")}
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for repetition in range(repetitions):
        for name, step in bare.items():
            found[name].append(bare_speed(step, models[name], steps))
        for name, (compile, graph) in runs.items():
            how = (f"trainer.compile={compile}", f"trainer.cuda_graph={graph}")
            found[name].append(run_speed(epochs, device, *how))
        print(f"repetition {repetition + 1} of {repetitions}", file=sys.stderr)
    return found


def evaluation_speed(model: Hierarchy, passes: Passes, images: int, chunk_size: int) -> float:
    """Images a second of bounds on test images, as a whole evaluation computes them."""
    device = next(model.parameters()).device
    how = Settings(DRAWS, (1, DRAWS), chunk_size=chunk_size)
    data, group = MNIST(val_size=0), min(PART, images, how.images_per_pass)
    with fast_products(device.type):
        began = time.perf_counter()
        for start in range(0, images, group):
            cut = range(start, min(start + group, images))
            image_statistics(model, data.observe("test", cut).to(device), cut, how, passes)
    return images / (time.perf_counter() - began)


def measure_evaluation(repetitions: int, device: str, images: int) -> dict[str, list[float]]:
    """Images a second of each way of evaluation, a number a repetition.

    Args:
        images: How many there are; the ways that take long get a tenth.
    """
    model = five_levels().to(device).eval()
    wide = draws_per_pass(model, (1, 28, 28), torch.device("cuda"))
    ways = {
        "eager": (Passes(model), images // 10, FEW_DRAWS),
        "eager_wide": (Passes(model), images // 2, wide),
        "graph": (Passes(model, None, RECORDERS[device]()), images, wide),
        "compiled": (Passes(model, compiled_weigher(model), RECORDERS[device]()), images, wide),
    }
    found: dict[str, list[float]] = {name: [] for name in EVALUATIONS}
    for repetition in range(repetitions + 1):
        for name, given in ways.items():
            speed = evaluation_speed(model, *given)
            if repetition:  # the first compiles and records
                found[name].append(speed)
        print(f"evaluation {repetition} of {repetitions}", file=sys.stderr)
    return found


def rows(found: dict[str, list[float]], ways: dict[str, str] = WAYS) -> list[tuple[str, str, str]]:
    """Name, images a second with their range, and the ratio to the eager way, of each way."""
    table = []
    for name, label in ways.items():
        speeds = found[name]
        ratios = [a / b for a, b in zip(speeds, found["eager"], strict=True)]
        range_ = f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"
        table.append((label, range_, f"{statistics.median(ratios):.2f}"))
    return table


def draw(found: dict[str, list[float]], title: str, path: Path) -> None:
    """A bar a way, a dot a repetition."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    ax = figure.subplots()
    for row, name in enumerate(WAYS):
        middle = statistics.median(found[name])
        ax.barh(row, middle, color="tab:blue" if name.startswith("run") else "0.7")
        ax.plot(found[name], [row] * len(found[name]), ".", color="black", alpha=0.5)
        ax.annotate(f" {middle:,.0f}", (max(found[name]), row), va="center")
    ax.set_yticks(range(len(WAYS)), list(WAYS.values()))
    ax.set(xlabel="training images a second", title=title)
    ax.margins(x=0.15)
    ax.invert_yaxis()
    figure.savefig(path, dpi=110)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure, print, keep."""
    if not torch.cuda.is_available():
        raise UserError("there is no NVIDIA GPU here; make bench measures a CPU")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repetitions", type=int, nargs="?", default=5)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/bench_gpu"))
    given = parser.parse_args()
    repetitions, folder = given.repetitions, given.folder
    folder.mkdir(parents=True, exist_ok=True)
    found = measure(repetitions, "cuda", steps=400, epochs=4)
    card = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, 5 levels, batch {BATCH}"
    bounds = measure_evaluation(repetitions, "cuda", images=1000)
    results = {"machine": card, "training": found, "evaluation": bounds}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for what, lines in (("training", rows(found)), (f"K = {DRAWS:,}", rows(bounds, EVALUATIONS))):
        table = Table(what, f"images/s, median of {repetitions} (range)", "/ eager", title=card)
        for line in lines:
            table.add_row(*line)
        Console(width=110).print(table)
    draw(found, card, folder / "gpu.png")
    print(folder / "results.json")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
