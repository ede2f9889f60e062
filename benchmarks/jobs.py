"""Whole jobs: from command to first step, and two jobs at once against one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

START = """
import time; t = [time.perf_counter()]
def lap(): t.append(time.perf_counter())
import torch; lap()
import lightning; lap()
import ladder_vae.train as train; lap()
import sys, json, hydra
from ladder_vae.training import callbacks, preflight
check, begin = preflight.check_run, callbacks.Totals.on_train_start
def checked(config): lap(); check(config); lap()
def began(self, *rest): lap(); begin(self, *rest)
def done(self, *rest): lap(); print(json.dumps(t), flush=True); import os; os._exit(0)
preflight.check_run = checked
callbacks.Totals.on_train_start, callbacks.Totals.on_train_batch_end = began, done
sys.argv = ["train", "model.num_layers=5", "trainer.compile=false", "run_dir={run_dir}"]
train.main()
"""
PHASES = (
    "import torch", "import lightning", "import ladder_vae", "compose the configuration",
    "load the data, build and check", "make the run directory and the trainer", "first step",
)  # fmt: skip


def start(directory: Path, repetitions: int) -> list[dict[str, float]]:
    """Seconds of each phase from the command to the end of the first step, in fresh processes."""
    found = []
    for repetition in range(repetitions):
        code = START.replace("{run_dir}", str(directory / str(repetition)))
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        total = time.perf_counter() - began
        laps = json.loads(done.stdout.splitlines()[-1])
        phases = dict(zip(PHASES, (b - a for a, b in pairwise(laps)), strict=True))
        found.append({**phases, "start and end the process": total - (laps[-1] - laps[0]), "total": total})
    return found


def at_once(directory: Path, repetitions: int, epochs: int = 4) -> dict[int, list[float]]:
    """Seconds of two 5-level jobs, one after the other with all threads, and both at once."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for repetition in range(repetitions):
        for jobs in seconds:
            run_dir = directory / f"{repetition}_{jobs}"
            command = [sys.executable, "-m", "ladder_vae.train", "--multirun", "experiment=depth_sweep"]
            more = ["model.num_layers=5", "seed=1,2", f"trainer.max_epochs={epochs}", f"run_dir={run_dir}"]
            began = time.perf_counter()
            subprocess.run([*command, *more, f"hydra.launcher.jobs={jobs}"], check=True, capture_output=True)
            seconds[jobs].append(time.perf_counter() - began)
    return seconds
