"""Finish a sweep that was broken off: keep finished runs, go on with those begun, start the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from ladder_vae.runs.plan import PlannedJob, read_plan
from ladder_vae.runs.record import PLAN, in_use, is_run, read_record, threads_of
from ladder_vae.settings.command_line import DETAIL, explain
from ladder_vae.settings.paths import expanded
from ladder_vae.system.countdown import Countdown
from ladder_vae.system.devices import share_cores
from ladder_vae.system.errors import UserError, printable
from ladder_vae.system.files import refuse_link_out
from ladder_vae.system.locks import TRAINING, locked
from ladder_vae.system.signals import interrupts_held
from ladder_vae.training.trust import SINGLE, foreign_job

TRUST = "trust=true"
POLL = 0.5  # seconds between two looks at the processes
DETAILED = os.environ.get(DETAIL) not in (None, "", "0")  # before this process sets it for itself


@dataclass
class _Process:
    """A job that is being trained.

    Args:
        job: What the plan says of it.
        process: Its process, in a session of its own, so that it gets Ctrl-C once, from here.
        printed: What it prints.
    """

    job: PlannedJob
    process: subprocess.Popen[Any]
    printed: IO[Any]


def finish(sweep: Path, *, trust: bool = False) -> str:
    """Train what is left of a sweep, on as many threads a job as it did, as many at once as that allows.

    Each job ends as it would have ended without the stop. A run that another process of this machine trains
    at this moment is waited for.

    Args:
        sweep: The directory of the sweep.
        trust: Whether to import what its plan and its runs name beyond this package.

    Returns:
        How many jobs failed, as in "1 of 4 jobs"; empty if none did.

    Raises:
        UserError: If there is no plan of the sweep, it needs trust, or another machine trains what is left.
        KeyboardInterrupt: After Ctrl-C, once every job has stopped.
    """
    plan = read_plan(sweep)
    for job in plan:
        _check_safe(sweep, job, trust)
    noted = [threads for job in plan if (threads := job.threads or threads_of(sweep / job.name))]
    most, share = share_cores("auto", "auto", len(plan))
    threads = noted[0] if noted else share
    at_once = max(1, min(most, torch.get_num_threads() // threads))
    with locked(sweep, TRAINING):
        waiting = [job for job in plan if not _finished(sweep / job.name)]
        running: list[_Process] = []
        failed: list[PlannedJob] = []
        told = set()
        countdown = Countdown(len(waiting))
        try:
            while waiting or running:
                for training in [training for training in running if training.process.poll() is not None]:
                    running.remove(training)
                    if not _end(training):
                        countdown.count(len(running))
                    else:
                        path = sweep / training.job.name
                        # a process that an earlier finish= started may have been faster, and is waited for
                        taken = in_use(path) or _finished(path)
                        (waiting if taken else failed).append(training.job)
                elsewhere = []
                for job in list(waiting):
                    path = sweep / job.name
                    if len(running) == at_once:
                        break
                    if user := in_use(path):
                        if user.elsewhere:
                            elsewhere.append(f"{path} is {user.who}")
                        elif job.name not in told:
                            told.add(job.name)
                            print(printable(f"{path} is {user.who}; it is waited for"), file=sys.stderr)
                        continue
                    waiting.remove(job)
                    if not _finished(path):
                        with interrupts_held():  # until the job is listed here, and listens to them
                            running.append(_start(job, _arguments(path, job.overrides, trust), threads))
                if waiting and not running and len(elsewhere) == len(waiting):
                    raise UserError(elsewhere[0])  # it may be long until that ends, if it does
                time.sleep(POLL)
        except BaseException:  # such as Ctrl-C, or a process that cannot be started
            for training in running:
                _stop(training.process)
            for training in running:
                training.process.wait()
                _end(training)
            raise
    return f"{len(failed)} of {len(plan)} jobs" if failed else ""


def _check_safe(sweep: Path, job: PlannedJob, trust: bool) -> None:
    """Raises UserError if going on with a job writes outside the sweep or, unless ``trust``, needs trust."""
    path = sweep / job.name
    if _finished(path):
        return
    refuse_link_out(path, sweep)
    if trust:
        return
    try:
        foreign = foreign_job(path, _arguments(path, job.overrides, trust))
    except Exception as error:  # of Hydra's, or whatever a stranger's values make of it
        raise UserError(
            f"{sweep / PLAN} has a job {job.name} that cannot start: {explain(error)}; with trust=true the "
            "others start"
        ) from None
    if foreign:
        raise UserError(
            f"{sweep / PLAN} has {foreign}, which may run or write anything; if you trust it, trust=true "
            "finishes the sweep"
        )


def _finished(path: Path) -> bool:
    return is_run(path) and read_record(path).finished


def _arguments(path: Path, overrides: Sequence[str], trust: bool) -> list[str]:
    """The command line of a job: it goes on if it was begun."""
    if is_run(path):
        return [f"resume={path}", *([TRUST] if trust else [])]
    settings = [o for o in overrides if not o.startswith("run_dir=")]
    return [*settings, f"trust={str(trust).lower()}", SINGLE, f"run_dir={path}"]


def _start(job: PlannedJob, arguments: list[str], threads: int) -> _Process:
    printed = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  closed by _end
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if not DETAILED:
        environment.pop(DETAIL, None)  # which this process set for itself
    command = [sys.executable, "-m", "ladder_vae.train", *arguments]
    process = subprocess.Popen(command, stdout=printed, env=environment, start_new_session=True)
    return _Process(job, process, printed)


def _stop(process: subprocess.Popen[Any]) -> None:
    """Ask the process to end as after Ctrl-C; Windows knows no such request to a single process."""
    if os.name == "nt":
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)


def _end(job: _Process) -> bool:
    """Print the last line that the job printed, its directory; returns whether it failed."""
    job.printed.seek(0)
    for line in job.printed.read().splitlines()[-1:]:  # the report has the tables
        print(line, flush=True)
    job.printed.close()
    return job.process.returncode != 0


def asked(arguments: Sequence[str]) -> tuple[Path, bool] | None:
    """The sweep that ``finish=DIR`` names, and whether it is trusted; None where none is named.

    Raises:
        UserError: If there is anything else on the command line.
    """
    named = [argument for argument in arguments if argument.startswith("finish=")]
    if not named:
        return None
    others = [argument for argument in arguments if argument not in (named[-1], TRUST)]
    if others:
        raise UserError(f"finish= takes the settings of the sweep; leave out {others[0]}")
    value = named[-1].partition("=")[2].strip("'\"")
    if not value:
        raise UserError("finish= names no sweep; name its directory, the one that holds jobs.json")
    return Path(expanded("finish", value)), TRUST in arguments
