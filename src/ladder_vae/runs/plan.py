"""The plan of a sweep: which jobs it has, wherever it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ladder_vae.runs.checksums import refuse_changed, write_checked
from ladder_vae.runs.reading import read_json
from ladder_vae.runs.record import MOST_THREADS, PLAN, is_run
from ladder_vae.settings.paths import leaves, shown
from ladder_vae.system.errors import UserError, one_line
from ladder_vae.system.locks import TRAINING, locked


class PlannedJob(NamedTuple):
    """A job of a sweep.

    Args:
        name: Its directory, in that of the sweep; it begins with the number of the job.
        overrides: Its settings, as on a command line.
        threads: Of its training, on which its last bits depend; None in plans of earlier versions.
        data: Fingerprint of its images; empty in plans of earlier versions.
    """

    name: str
    overrides: list[str]
    threads: int | None = None
    data: str = ""


def write_plan(path: Path, jobs: Sequence[PlannedJob]) -> None:
    """Write what a sweep is going to run, in order. Raises UserError if there is a plan of another sweep."""
    with locked(path, TRAINING):  # of two sweeps that start at once, one gets the directory
        if (path / PLAN).exists():
            raise UserError(
                f"run_dir={path} already holds a sweep; finish={shown(path)} trains what is left of it, "
                "another run_dir starts anew"
            )
        write_checked(path / PLAN, (json.dumps([job._asdict() for job in jobs], indent=2) + "\n").encode())


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
    except UserError as error:
        raise UserError(f"{error}; name the directory of a sweep") from None
    refuse_changed(path / PLAN, (path / PLAN).read_bytes())
    try:
        jobs = [_planned(job) for job in found]
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{path / PLAN} cannot be read ({one_line(error)[:100]}); name the directory of a sweep"
        ) from None
    if not jobs or any(leaves(job.name) or not job.name for job in jobs):
        what = "directories outside the sweep" if jobs else "no job"
        raise UserError(f"{path / PLAN} names {what}; name the directory of a sweep")
    return jobs


def _planned(job: Mapping[str, Any]) -> PlannedJob:
    name, overrides = str(job["name"]), [str(override) for override in job["overrides"]]
    threads = job.get("threads")
    known = type(threads) is int and 0 < threads <= MOST_THREADS
    return PlannedJob(name, overrides, threads if known else None, str(job.get("data") or ""))


def check_planned(path: Path, data: str) -> None:
    """Raises UserError if a job of a sweep would be trained on other images than the sweep was planned with.

    Args:
        path: The directory of the run.
        data: Fingerprint of its images.
    """
    plan = path.parent / PLAN
    if not plan.is_file():
        return
    for job in read_plan(path.parent):
        if job.name == path.name and job.data not in ("", data):
            raise UserError(
                f"{plan} was made with other images than the data of {path.name} hold now; put the former "
                "images back, or begin another sweep"
            )


def not_started(path: Path) -> list[PlannedJob]:
    """Those jobs of the sweep ``path`` that left no run; none where there is no plan."""
    try:
        return [job for job in read_plan(path) if not is_run(path / job.name)]
    except UserError:
        return []
