"""The plan of a sweep: which jobs it has, wherever it was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ladder_vae.runs.reading import read_json
from ladder_vae.runs.record import PLAN, is_run
from ladder_vae.settings.paths import leaves, shown
from ladder_vae.system.errors import UserError, one_line
from ladder_vae.system.files import write_text


class PlannedJob(NamedTuple):
    """A job of a sweep.

    Args:
        name: Its directory, in that of the sweep; it begins with the number of the job.
        overrides: Its settings, as on a command line.
    """

    name: str
    overrides: list[str]


def write_plan(path: Path, jobs: Sequence[PlannedJob]) -> None:
    """Write what a sweep is going to run, in order."""
    write_text(path / PLAN, json.dumps([job._asdict() for job in jobs], indent=2) + "\n")


def read_plan(path: Path) -> list[PlannedJob]:
    """What a sweep was going to run.

    Raises:
        UserError: If there is no plan, or it cannot be read.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a directory; name the directory of a sweep, which holds {PLAN}")
    if is_run(path):
        raise UserError(f"{path} is a single run, not a sweep; resume={shown(path)} continues it")
    try:
        found = read_json(path / PLAN)
        jobs = [PlannedJob(str(job["name"]), [str(o) for o in job["overrides"]]) for job in found]
        if any(leaves(job.name) or not job.name for job in jobs):
            raise UserError(f"{path / PLAN} names directories outside the sweep")
        return jobs
    except UserError as error:
        raise UserError(f"{error}; name the directory of a sweep") from None
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{path / PLAN} cannot be read ({one_line(error)[:100]}); name the directory of a sweep"
        ) from None


def not_started(path: Path) -> list[str]:
    """Overrides of those jobs of the sweep ``path`` that left no run; none where there is no plan."""
    try:
        jobs = read_plan(path)
    except UserError:
        return []
    return [" ".join(job.overrides) for job in jobs if not is_run(path / job.name)]
