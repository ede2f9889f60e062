"""``python -m benchmarks [repetitions [folder]]``: measure everything, side by side.

A table, and in the folder (``runs/bench``) ``results.json`` and two pictures.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import draw, evaluation, growth, jobs, training
from ladder_vae.system.compilation import compiler
from ladder_vae.system.devices import has_bfloat16
from ladder_vae.system.memory import keep_freed_memory

OTHERS = {"usual": "usual way", "bare": "bare loop", "lightning": "bare Lightning"}
DRAWS_OF_ALL = 5_000 * 10_000  # K = 5,000 on the test split


def machine() -> str:
    """What it was measured on, in a line."""
    name = platform.processor() or platform.machine()
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        units = "AMX" if capabilities.get("amx_bf16") else "AVX-512"
        name = str(capabilities.get("cpu_name", name))
        name += f", bfloat16 by {units}" if has_bfloat16("cpu") else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{name}, {torch.get_num_threads()} threads; {versions}; {compiler() or 'no compiler'}"


def measure(repetitions: int, directory: Path) -> dict[str, Any]:
    """All numbers, as plain values."""
    found: dict[str, Any] = {"machine": machine()}
    print("training", file=sys.stderr)
    found["training"] = training.measure(repetitions)
    print("evaluation", file=sys.stderr)
    run = str(directory / "evaluated")
    evaluation.train_a_model(Path(run))
    found["evaluation"] = evaluation.measure(run, repetitions)
    found["distance"] = evaluation.distance_from_float64(run)
    found["memory"] = {k: evaluation.peak_memory(run, k) for k in (100, 5000)}
    print("jobs", file=sys.stderr)
    found["start"] = jobs.start(directory / "start", repetitions)
    found["at_once"] = jobs.at_once(directory / "jobs", max(1, repetitions // 2))
    print("growth", file=sys.stderr)
    found["growth"] = growth.measure(max(1, repetitions // 2))
    return found


def ratio(name: str, a: Sequence[float], b: Sequence[float]) -> tuple[str, str]:
    """A row: the median of the ratios a / b of what was measured side by side, and their range."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    return name, f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The table."""
    speeds, draws = found["training"], found["evaluation"]
    minutes = DRAWS_OF_ALL / statistics.median(draws["ladder_vae"]) / 60
    starts = [phases["total"] for phases in found["start"]]
    return [
        *(
            (f"images/s, {name}", f"{statistics.median(v):,.0f} ({min(v):,.0f} to {max(v):,.0f})")
            for name, v in speeds.items()
        ),
        *(
            ratio(f"training: ladder_vae / {name}", speeds["ladder_vae"], speeds[way])
            for way, name in OTHERS.items()
            if way in speeds  # older results know fewer
        ),
        ratio("evaluation: ladder_vae / plain float32", draws["ladder_vae"], draws["plain"]),
        ("K = 5,000 on 10,000 images, at this speed", f"{minutes:.1f} minutes"),
        ("L_1000 from float64, mean of 40 images", f"{found['distance']['mean']:.5f} nats"),
        ("L_1000 from float64, worst image", f"{found['distance']['worst image']:.5f} nats"),
        ("peak memory, K = 100 and 5,000", " and ".join(f"{m:,.0f} MiB" for m in found["memory"].values())),
        (
            "command to first step",
            f"{statistics.median(starts):.1f} s ({min(starts):.1f} to {max(starts):.1f})",
        ),
        ratio("two jobs: one after the other / at once", found["at_once"]["1"], found["at_once"]["2"]),
    ]


def main() -> None:
    """Measure, print, keep."""
    keep_freed_memory()
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/bench")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        found = json.loads(json.dumps(measure(repetitions, Path(directory))))
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    table = Table("measure", f"median of {repetitions} (range)", title=found["machine"])
    for row in rows(found):
        table.add_row(*row)
    Console(width=110).print(table)
    draw.speeds(found, folder / "speed.png")
    draw.growth(found, folder / "growth.png")
    print(folder / "results.json")


if __name__ == "__main__":
    main()
