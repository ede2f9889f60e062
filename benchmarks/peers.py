"""``python -m benchmarks.peers --ladder-vae-pytorch DIR --pytorch-vae DIR``: two other projects, and ours.

DIR is a checkout of github.com/addtt/ladder-vae-pytorch, which needs ``pip install --no-deps boilr==0.7.4
multiobject==0.0.3``, or of github.com/AntixK/PyTorch-VAE. Their own training loops run in turn with a
convolutional model of ours that has as many levels, at the same resolutions, and about as many weights and
operations; what was changed is in :mod:`benchmarks.peer_loops`. It prints tables, and leaves
``results.json`` in the folder (``runs/bench_peers``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import machine
from benchmarks.peer_loops import BATCH, ladder_vae, ladder_vae_pytorch, pytorch_vae, write_large
from benchmarks.turns import WARM_UP, Clock, Loop
from ladder_vae.system.errors import UserError

PACKAGES = ("boilr", "multiobject")  # that ladder-vae-pytorch imports
MODELS = {  # ours, by what each is compared with: as many weights and operations within 4 %
    "ladder-vae-pytorch": (
        "model.levels=[[14,0],[7,1],[4,1],[2,1]]",
        "model.latent_channels=[[7,32],[4,32],[2,32]]",
        "model.widths=[[14,192],[7,80],[4,56],[2,48]]",
        "model.blocks=4",
        "model.encoder_blocks=4",
        "model.decoder_blocks=4",
        "model.norm=none",
        "objective.free_bits=0.5",
    ),
    "PyTorch-VAE": (
        "model.levels=[[32,1],[16,1],[8,1],[4,1],[2,1]]",
        "model.widths=[[32,16],[16,32],[8,64],[4,160],[2,704]]",
        "model.norm=none",
    ),
}
EAGER = ("trainer.compile=false", "trainer.precision=32-true")
COMPILED = ("trainer.compile=true",)
Train = Callable[[Clock], None]
Found = dict[str, dict[str, Any]]


def checked(given: Path | None, option: str, script: str, address: str) -> Path | None:
    """The checkout. Raises UserError if it is none."""
    if given is not None and not (given / script).is_file():
        raise UserError(f"{option}={given} has no {script}; give a checkout of {address}")
    return given and given.absolute()


def check_packages() -> None:
    """Raises UserError if ladder-vae-pytorch could not import what it needs."""
    if any(importlib.util.find_spec(name) is None for name in PACKAGES):
        raise UserError(
            "ladder-vae-pytorch needs two packages: pip install --no-deps boilr==0.7.4 multiobject==0.0.3"
        )


def loops(first: Path | None, second: Path | None, directory: Path) -> dict[str, dict[str, Train]]:
    """What is measured: for each peer its own loops, and ours.

    Args:
        first: The checkout of ladder-vae-pytorch, if there is one.
        second: That of PyTorch-VAE.
        directory: For images.
    """
    found: dict[str, dict[str, Train]] = {}
    if first:
        found["ladder-vae-pytorch"] = {"ladder-vae-pytorch": partial(ladder_vae_pytorch, first)}
    if second:
        write_large(large := directory / "large.npz")
        found["PyTorch-VAE"] = {
            "PyTorch-VAE": partial(pytorch_vae, second),
            "PyTorch-VAE, no workers": partial(pytorch_vae, second, workers=0),
        }
    for peer, ways in found.items():
        data = ("data=mnist",) if peer == "ladder-vae-pytorch" else ("data=npz", f"data.path={large}")
        for name, how in (("ladder_vae, eager float32", EAGER), ("ladder_vae", COMPILED)):
            ways[name] = partial(ladder_vae, (*data, *MODELS[peer], *how))
    return found


def measure(
    ways: dict[str, Train], repetitions: int, seconds: float, directory: Path, warm_up: int = WARM_UP
) -> Found:
    """Size of each loop, and images a second; equal positions were measured one after the other."""
    ready: dict[str, Loop] = {}
    try:
        for number, (name, train) in enumerate(ways.items()):
            print(f"starting {name}", file=sys.stderr)
            ready[name] = Loop(name, train, directory / str(number))
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for repetition in range(repetitions):
            for name, loop in ready.items():
                speeds[name].append(loop.turn(seconds, warm_up))
            print(f"turn {repetition + 1} of {repetitions}", file=sys.stderr)
    finally:
        for loop in ready.values():
            loop.end()
    return {
        name: {"weights": loop.weights, "operations": loop.operations, "speeds": speeds[name]}
        for name, loop in ready.items()
    }


def rows(found: Found) -> list[tuple[str, str, str, str, str]]:
    """Name, weights, GFLOP an image, images a second, and times the peer's fastest loop, of each."""
    peers = [name for name in found if not name.startswith("ladder_vae")]
    fastest = max(peers, key=lambda name: statistics.median(found[name]["speeds"]))
    table = []
    for name, loop in found.items():
        speeds, operations = loop["speeds"], loop["operations"]
        ratios = [a / b for a, b in zip(speeds, found[fastest]["speeds"], strict=True)]
        cost = "" if operations is None else f"{operations / 1e9:.2f}"
        table.append((name, f"{loop['weights']:,}", cost, _range(speeds, ",.0f"), _range(ratios, ".2f")))
    return table


def _range(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description="Training loops of other projects, and ours, in turn.")
    parser.add_argument(
        "--ladder-vae-pytorch", type=Path, help="checkout of github.com/addtt/ladder-vae-pytorch"
    )
    parser.add_argument("--pytorch-vae", type=Path, help="checkout of github.com/AntixK/PyTorch-VAE")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20, help="of a turn")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_peers"))
    given = parser.parse_args()
    first = checked(
        given.ladder_vae_pytorch, "--ladder-vae-pytorch", "main.py", "github.com/addtt/ladder-vae-pytorch"
    )
    second = checked(given.pytorch_vae, "--pytorch-vae", "run.py", "github.com/AntixK/PyTorch-VAE")
    if first is None and second is None:
        raise UserError("give --ladder-vae-pytorch, --pytorch-vae or both")
    if given.repetitions < 1 or given.seconds <= 0:
        raise UserError("--repetitions must be at least 1, and --seconds above 0")
    if first:
        check_packages()
    given.folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(), "batch": BATCH, "seconds": given.seconds, "peers": {}}
    console = Console(width=110)
    console.print(f"{results['machine']}; {BATCH} images a step")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for peer, ways in loops(first, second, directory).items():
            found = measure(ways, given.repetitions, given.seconds, directory / peer)
            results["peers"][peer] = found
            (given.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
            speeds = f"images/s, median of {given.repetitions} (range)"
            table = Table(peer, "weights", "GFLOP an image", speeds, "times theirs")
            for row in rows(found):
                table.add_row(*row)
            console.print(table)
    print(given.folder / "results.json")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
