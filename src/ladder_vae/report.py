"""Compare any set of runs: ``python -m ladder_vae.report runs/depth_sweep/<time>``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ladder_vae.comparison.reporting import report
from ladder_vae.runs.record import is_run
from ladder_vae.runs.releases import own_copy
from ladder_vae.settings import command_line, paths
from ladder_vae.settings.help import COMMANDS
from ladder_vae.system.errors import UserError


def default_output(directories: Sequence[Path]) -> Path:
    """The folder itself if a single folder of runs is named, otherwise a new folder in ``runs/reports``."""
    if len(directories) == 1 and not is_run(directories[0]):
        return directories[0]
    return Path("runs/reports") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _main() -> None:
    parser = command_line.strict(
        argparse.ArgumentParser(prog="ladder-vae report", description=COMMANDS["report"])
    )
    parser.add_argument(
        "directories", nargs="+", type=paths.argument, help="run directories, or folders of them"
    )
    parser.add_argument(
        "--output",
        type=paths.argument,
        help="where to write (default: the folder named, or runs/reports/<time>)",
    )
    args = parser.parse_args()
    directories = [own_copy(directory) for directory in args.directories]
    output = args.output or default_output(directories)
    groups = report(directories, output)
    if not groups:
        raise UserError("no run has finished; there is nothing to compare")


def main() -> None:
    """Entry point."""
    command_line.run(_main)


if __name__ == "__main__":
    main()
