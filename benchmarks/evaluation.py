"""Importance-weighted bounds: draws a second, memory against K, and the distance from float64."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ladder_vae.data import MNIST
from ladder_vae.data.data_sets import spaced
from ladder_vae.evaluation.parts import compiled_weigher
from ladder_vae.models.evaluator import Settings, image_statistics
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.passes import Passes
from ladder_vae.runs.checkpoints import load_run
from ladder_vae.system.devices import fast_products

DRAWS = Settings(num_samples=1000, sample_sizes=(1000,))


def train_a_model(run_dir: Path) -> None:
    """The 5-level ladder of the depth sweep, three epochs."""
    command = [sys.executable, "-m", "ladder_vae.train", "experiment=depth_sweep", "hydra.mode=RUN"]
    more = [
        "model.num_layers=5",
        "trainer.max_epochs=3",
        "objective.beta_warmup_epochs=1",
        f"run_dir={run_dir}",
    ]
    subprocess.run([*command, *more], check=True, capture_output=True)


def bounds(
    model: Hierarchy, indices: Sequence[int], settings: Settings, passes: Passes | None
) -> torch.Tensor:
    """L_K of test images, passes of ten."""
    data = MNIST(val_size=0)
    dtype = next(model.parameters()).dtype
    parts = []
    for start in range(0, len(indices), settings.images_per_pass):
        batch = indices[start : start + settings.images_per_pass]
        x = data.observe("test", batch).to(dtype)
        parts.append(image_statistics(model, x, batch, settings, passes).log_px[:, -1])
    return torch.cat(parts)


def measure(run: str, repetitions: int, images: int = 20) -> dict[str, list[float]]:
    """Draws a second, plain (float32, uncompiled) and as ladder_vae evaluates, in turn."""
    model = load_run(run).model
    fast = Passes(model, compiled_weigher(model))
    speeds: dict[str, list[float]] = {"plain": [], "ladder_vae": []}
    for repetition in range(repetitions + 1):
        indices = range(images * repetition, images * (repetition + 1))
        for name, passes in (("plain", None), ("ladder_vae", fast)):
            began = time.perf_counter()
            if passes:
                with fast_products("cpu"):
                    bounds(model, indices, DRAWS, passes)
            else:
                bounds(model, indices, DRAWS, None)
            if repetition:  # the first compiles
                speeds[name].append(images * DRAWS.num_samples / (time.perf_counter() - began))
    return speeds


def distance_from_float64(run: str, images: int = 40) -> dict[str, float]:
    """How far L_1000, as ladder_vae evaluates, is from float64: the mean over images, and the worst image."""
    model = load_run(run).model
    indices = spaced(10_000, images)
    exact = bounds(copy.deepcopy(model).double(), indices, DRAWS, None)
    with fast_products("cpu"):
        difference = bounds(model, indices, DRAWS, Passes(model, compiled_weigher(model))) - exact
    return {
        "mean": abs(difference.mean().item()),
        "worst image": difference.abs().max().item(),
    }


def peak_memory(run: str, num_samples: int) -> float:
    """Peak memory of a process that evaluates 20 images, MiB."""
    code = (
        "from benchmarks.evaluation import *; from benchmarks.growth import peak_memory; "
        f"bounds(load_run({run!r}).model, range(20), Settings({num_samples}, ({num_samples},)), None); "
        "print(peak_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)
