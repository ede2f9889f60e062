"""Find runs in folders, and below links."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ladder_vae.runs.record import CONFIG, PLAN, STATUS, Record, is_run, read_record
from ladder_vae.runs.releases import COPIES
from ladder_vae.system.errors import UserError

BELOW_A_LINK = 3  # folders in which runs are looked for below a link, which may lead anywhere


def find_runs(directories: Sequence[Path]) -> list[Record]:
    """Records of all runs in or below the directories, each once, by path.

    Raises:
        UserError: If a directory does not exist or holds no run.
    """
    found: dict[Path, Record] = {}
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory} is not a directory; name run directories, or a folder of them")
        paths = run_paths(directory)
        if not paths and not any(directory.rglob(PLAN)):  # of a sweep that was killed before its first run
            raise UserError(f"{directory} holds no run (no {CONFIG} beside a status.json)")
        found |= {path.resolve(): read_record(path) for path in paths}
    return list(found.values())


def run_paths(directory: Path) -> list[Path]:
    """The run directories in or below a directory, each once, by path; links are followed, but not far."""
    found: dict[Path, Path] = {}
    links = []
    for folder, names, _ in os.walk(directory):  # which follows no link, so that it ends
        found |= {Path(folder).resolve(): Path(folder)} if is_run(Path(folder)) else {}
        links += [path for name in names if (path := Path(folder, name)).is_symlink()]
    for link in sorted(links):
        for depth in range(BELOW_A_LINK + 1):
            for run in filter(is_run, (config.parent for config in link.glob("*/" * depth + CONFIG))):
                found.setdefault(run.resolve(), run)
    return sorted(found.values())


def newest(directory: str | Path, num_layers: int) -> str:
    """Path of the finished run of so many levels that was finished last; empty if there is none.

    Copies of the package's models, which commands leave, are no runs of the user's.
    """
    paths = [
        path for path in run_paths(Path(directory)) if not path.resolve().is_relative_to(COPIES.resolve())
    ]
    records = [read_record(path) for path in paths]
    fitting = [r for r in records if r.finished and r.config["model"].get("num_layers") == num_layers]
    latest = max(fitting, key=lambda r: (r.path / STATUS).stat().st_mtime, default=None)
    return os.path.relpath(latest.path) if latest else ""
