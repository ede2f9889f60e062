"""Make a release of a run: ``python -m ladder_vae.release``.

A release is a run directory that is small enough to pass on: ``config.yaml``, ``status.json``,
``metrics.json``, ``checksums.json``, and ``weights.safetensors`` in half precision in place of checkpoints.
A release can be opened wherever a run directory can. The releases that come with the package are opened by
name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ladder_vae.runs.checkpoints import load_run
from ladder_vae.runs.compact import write_compact
from ladder_vae.runs.record import checked_record, warn_of_changes
from ladder_vae.settings import command_line, paths
from ladder_vae.system.errors import UserError

KEPT_METRICS = ("model/parameters", "train/epochs", "train/seconds", "train/images_per_second")


def write_release(path: str | Path, directory: str | Path, *, trust: bool = False) -> None:
    """Write the best weights of a finished run, and its record, as a release.

    Args:
        path: The run directory.
        directory: The directory to write, which must not exist yet.
        trust: Whether to import classes that the run names and that are not of this package.

    Raises:
        UserError: If the run has not finished, or the directory exists already.
    """
    path, directory = Path(path), Path(directory)
    run = load_run(path, trust=trust)
    record = checked_record(run.path)
    warn_of_changes(run.path)
    if not record.finished:
        raise UserError(f"{path} has not finished; only a finished run can be released")
    if directory.exists():
        raise UserError(f"{directory} is there already; choose another directory")
    directory.mkdir(parents=True)
    # All other metrics were measured with the weights before rounding.
    metrics = {k: record.metrics[k] for k in KEPT_METRICS if k in record.metrics}
    write_compact(directory, run, metrics, torch.float16)


def _main() -> None:
    parser = command_line.strict(
        argparse.ArgumentParser(
            prog="ladder-vae release",
            description="Write the weights of a run, in half precision, and its record to a small "
            "directory, which every command takes for a run.",
        )
    )
    parser.add_argument("run", type=paths.argument, help="a finished run")
    parser.add_argument("directory", type=paths.argument, help="where to write")
    parser.add_argument("--trust", action="store_true", help="import what the run names beyond this package")
    args = parser.parse_args()
    write_release(args.run, args.directory, trust=args.trust)
    print(args.directory)


def main() -> None:
    """Entry point."""
    command_line.run(_main)


if __name__ == "__main__":
    main()
