"""Evaluate on several devices: a process for each computes whole parts, and this one puts them together."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch

from ladder_vae.evaluation.parts import (
    IMAGES,
    PART,
    Evaluation,
    each_binarization,
    evaluate,
    evaluate_part,
    make_passes,
    part_files,
    plan,
    writing,
)
from ladder_vae.models.evaluator import Settings
from ladder_vae.runs.opened import Subject
from ladder_vae.system.devices import choose_device, fast_products
from ladder_vae.system.errors import UserError, one_line, warn
from ladder_vae.system.processes import be_a_worker, end_all, ended, fresh_processes
from ladder_vae.system.signals import interrupts_held

# One draw of the pixels, the place of the first image, and the file to write.
Part = tuple[Settings, int, Path]


class _Failure(NamedTuple):
    """Why a process failed.

    Args:
        said: In one line.
        foreseen: Whether it is a UserError, after which other runs may be evaluated.
        traceback: Where.
    """

    said: str
    foreseen: bool
    traceback: str


def evaluate_on(
    devices: Sequence[torch.device],
    subject: Subject,
    settings: Settings,
    reopen: Callable[[], Subject],
    on_progress: Callable[[int, bool], None] = lambda images, kept: None,
    *,
    compile: bool = False,
) -> Evaluation:
    """Do what :func:`~ladder_vae.evaluation.parts.evaluate` does, on several devices of one kind.

    Parts hold the same images whatever the number of devices, and each is computed by one of them, so that
    no image counts twice and the numbers are those of one device. On a CPU the processes share the threads of
    this one, and another number of threads may change a result by rounding.

    Args:
        devices: One for each process; those of a CPU are all ``cpu``.
        reopen: Gives the same subject in another process; has to be importable there, with its arguments.
        on_progress: See ``evaluate``.
        compile: Whether to compile the passes.

    Raises:
        UserError: As ``evaluate`` does, or if a process failed, which then says why.
    """
    left = [
        (once, start, file)
        for once in each_binarization(settings)
        if not (plan(subject, once) / IMAGES).exists()
        for start, file in part_files(subject, once).items()
        if not file.exists()
    ]
    if 0 < len(left) < len(devices):
        count = len(devices)
        warn(f"devices={count}: images are shared {PART} at a time, so that {len(left)} of them have work")
    devices = devices[: len(left)] or devices[:1]
    if len(devices) == 1:
        return evaluate(subject, settings, devices[0], on_progress, compile=compile)
    images = len(subject.indices)
    kept = settings.binarizations * images - sum(min(PART, images - start) for _, start, _ in left)
    on_progress(kept, True)
    _compute(devices, left, reopen, on_progress, compile)
    # All is there now, but for a part that was kept and turns out to be damaged.
    return evaluate(
        subject, settings, devices[0], lambda n, kept: None if kept else on_progress(n, kept), compile=compile
    )


def _compute(
    devices: Sequence[torch.device],
    left: Sequence[Part],
    reopen: Callable[[], Subject],
    on_progress: Callable[[int, bool], None],
    compile: bool,
) -> None:
    """Have a process for each device compute its share of the parts; however this ends, they end."""
    # What the command imports, but for its own module, which each process runs anew as a script's.
    context = fresh_processes("ladder_vae.evaluation.sharing", "ladder_vae.evaluation.results")
    count = len(devices)
    threads = max(1, torch.get_num_threads() // count)
    running: dict[Connection, BaseProcess] = {}
    printed: set[str] = set()
    try:
        for number, device in enumerate(devices):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_work,
                args=(theirs, threads, reopen, left[number::count], device, compile),
                name=f"process {number + 1} of {count}",
            )
            with interrupts_held():
                process.start()
                running[ours] = process
            theirs.close()  # so that the pipe ends when the process does
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                try:
                    said = connection.recv()
                except (EOFError, OSError):  # the latter where it was killed while it sent something
                    process = running.pop(connection)
                    process.join()
                    connection.close()
                    if process.exitcode:
                        raise UserError(
                            f"{process.name} {ended(process.exitcode)}; finished parts are kept, and the "
                            "same command continues, with fewer devices or a smaller chunk_size if memory "
                            "ran out"
                        ) from None
                    continue
                if isinstance(said, _Failure):
                    kind = UserError if said.foreseen else RuntimeError
                    raise kind(f"{running[connection].name}: {said.said}") from RuntimeError(said.traceback)
                if isinstance(said, int):
                    on_progress(said, False)
                elif said not in printed:  # all of them may have the same to say
                    printed.add(said)
                    print(said, end="", file=sys.stderr, flush=True)
    finally:
        end_all(running.values())
        for connection in running:
            connection.close()


def _work(
    connection: Connection,
    threads: int,
    reopen: Callable[[], Subject],
    parts: Sequence[Part],
    device: torch.device,
    compile: bool,
) -> None:
    """The whole life of a process: it sends numbers of finished images, then its warnings, or its failure."""
    be_a_worker(threads)

    def report(images: int, kept: bool) -> None:
        connection.send(images)

    try:
        with contextlib.redirect_stderr(io.StringIO()) as warnings:
            subject = reopen()
            model = subject.run.model.to(choose_device(str(device)))  # which makes a GPU the current one
            passes = make_passes(model, device, compile)
            with fast_products(device.type):
                for settings, start, file in parts:
                    if part_files(subject, settings)[start] != file:
                        raise UserError(f"{subject.run.path} has been trained further meanwhile; start again")
                    with writing(plan(subject, settings)):
                        evaluate_part(subject, settings, start, passes, report)
        connection.send(warnings.getvalue())
    except BaseException as error:
        foreseen = isinstance(error, UserError)
        said = str(error) if foreseen else f"{type(error).__name__}: {one_line(error)}"
        with contextlib.suppress(OSError):  # the parent is gone
            connection.send(_Failure(said, foreseen, traceback.format_exc()))
        sys.exit(1)
