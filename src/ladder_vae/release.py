"""Trained models that come with the package; and how a run becomes one: ``python -m ladder_vae.release``.

A release is a run directory small enough to pass on: ``config.yaml``, ``status.json``, ``metrics.json``,
and ``weights.safetensors``, in half precision, in place of checkpoints. Wherever a run directory is opened,
a release can be; the package's own by name.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save

from ladder_vae import cli, runs
from ladder_vae.errors import UserError

COPIES = Path("runs/released")
KEPT_METRICS = ("model/parameters", "train/epochs", "train/seconds", "train/images_per_second")


def own_copy(run: str | Path) -> Path:
    """The run directory that is meant: ``run`` itself, or a copy of the release of that name.

    Commands that write beside what they read work on the copy, in ``runs/released``.

    Raises:
        UserError: If the copy is of another version of the package, whose weights differ.
    """
    if not runs.is_release(run):
        return Path(run)
    source, copy = runs.RELEASES / str(run), COPIES / str(run)
    if not copy.exists():
        COPIES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=COPIES) as part:  # a copy is whole, or is not there
            shutil.copytree(source, Path(part) / "copy")
            os.replace(Path(part) / "copy", copy)
    elif not _same(source / runs.WEIGHTS, copy / runs.WEIGHTS):
        raise UserError(f"{copy} holds other weights than the package has now; move it away")
    return copy


def _same(a: Path, b: Path) -> bool:
    return b.is_file() and filecmp.cmp(a, b, shallow=False)


def write_release(path: str | Path, directory: str | Path) -> None:
    """Write the best weights of a finished run, and its record, as a release.

    Args:
        path: The run directory.
        directory: Where to write; does not exist yet.

    Raises:
        UserError: If the run has not finished, or the directory is there already.
    """
    path, directory = Path(path), Path(directory)
    run = runs.load_run(path)
    record = runs.read_record(run.path)
    if not record.finished:
        raise UserError(f"{path} has not finished; only a finished run can be released")
    if directory.exists():
        raise UserError(f"{directory} is there already; choose another directory")
    directory.mkdir(parents=True)
    weights = {
        name: value.to(torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in run.model.state_dict().items()
    }
    kept = {key: str(run.checkpoint[key]) for key in runs.RELEASED_FACTS if key in run.checkpoint}
    (directory / runs.WEIGHTS).write_bytes(save(weights, metadata=kept))
    # Paths of the machine that trained it say nothing to anybody else.
    runs.write_config(directory, {**run.config, "init_from": None})
    # All others are of weights that were not rounded.
    runs.write_metrics(directory, {k: record.metrics[k] for k in KEPT_METRICS if k in record.metrics})
    runs.write_status(directory, "finished")


def _main() -> None:
    parser = cli.strict(
        argparse.ArgumentParser(
            prog="python -m ladder_vae.release",
            description="Write the weights of a run, in half precision, and its record to a small "
            "directory, which every command takes for a run.",
        )
    )
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("directory", type=Path, help="where to write")
    args = parser.parse_args()
    write_release(args.run, args.directory)
    print(args.directory)


def main() -> None:
    """Entry point."""
    cli.run(_main)


if __name__ == "__main__":
    main()
