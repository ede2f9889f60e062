"""Time and memory of a training step against depth and batch size, each point in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from ladder_vae.models import LadderVAE
from ladder_vae.system.devices import choose_precision
from ladder_vae.system.memory import keep_freed_memory
from ladder_vae.training.objective import Objective
from ladder_vae.training.step import batch_values

DEPTHS = (1, 2, 4, 8, 16, 32)  # at 256 images
BATCHES = (64, 128, 256, 512, 1024, 2048)  # at 5 levels


def peak_memory() -> float:
    """Of this process, MiB, by Linux. ``getrusage`` counts the process that started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def step_cost(depth: int, batch: int) -> dict[str, float]:
    """Median milliseconds of an uncompiled step, and peak memory added, MiB. All levels are equally wide."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = LadderVAE((1, 28, 28), depth, latent_sizes=[32] * depth, hidden_sizes=[256] * depth)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    values = batch_values(model, Objective())
    half = choose_precision("auto", "cpu") == "bf16-mixed"
    x = (torch.rand(batch, 1, 28, 28) < 0.2).float()
    before = peak_memory()
    times = []
    for _ in range(30):
        began = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = values(x, torch.ones(()), *model.draw_noise(1, batch, like=x))[0]
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
    added = peak_memory() - before
    return {"ms": sorted(times[5:])[12] * 1e3, "MiB": added}


def measure(repetitions: int) -> dict[str, dict[int, list[dict[str, float]]]]:
    """``depth`` and ``batch``: for each value, the cost in each repetition."""
    points = [("depth", d, d, 256) for d in DEPTHS] + [("batch", b, 5, b) for b in BATCHES]
    found: dict[str, dict[int, list[dict[str, float]]]] = {"depth": {}, "batch": {}}
    for _ in range(repetitions):
        for axis, value, depth, batch in points:
            code = f"from benchmarks.growth import *; print(json.dumps(step_cost({depth}, {batch})))"
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            found[axis].setdefault(value, []).append(json.loads(done.stdout))
    return found
