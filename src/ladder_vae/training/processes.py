"""Start the processes that train one model together, and end them with the one that started them."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed as dist

from ladder_vae.settings.command_line import explain
from ladder_vae.system.errors import UserError
from ladder_vae.system.processes import be_a_worker, end_all, ended, fresh_processes
from ladder_vae.system.signals import interrupts_held

PATIENCE = timedelta(minutes=30)  # that a process waits for another: a disk may be slow
LAST_WORDS = 2.0  # seconds in which a process that has failed says why
FAREWELL = 60.0  # seconds in which one that is done ends by itself
BACKENDS = {"cuda": "nccl"}  # by the device that trains; else gloo


class _Worker(NamedTuple):
    """One of the other processes.

    Args:
        process: The process.
        connection: On which it says that it is ready, and why it failed.
    """

    process: BaseProcess
    connection: Connection


class _Failure(NamedTuple):
    """Why a process failed.

    Args:
        follows: Whether it may have failed only because another did, and was lost to it.
        said: What it said of it.
        traceback: Where; empty if it was killed.
    """

    follows: bool
    said: str
    traceback: str = ""


@contextmanager
def together(count: int, device: str, work: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """Within the block, this process is rank 0 of ``count`` processes of this machine.

    The others call ``work(*arguments)`` and print nothing. They share the threads of this process with it,
    for threads that wait for each other's processor would slow all of them. However the block ends, they end.

    Args:
        count: Number of processes; with 1, nothing changes.
        device: Type of the device that trains.
        work: Importable, as are the arguments' classes; it makes the same sums over processes as the block.

    Raises:
        UserError: If another process failed, which then says why.
    """
    if count == 1:
        yield
        return
    threads = torch.get_num_threads()
    share, backend = max(1, threads // count), BACKENDS.get(device, "gloo")
    context = fresh_processes("ladder_vae.training.fit")
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory() as directory:
        meeting = Path(directory) / "ranks"
        try:
            for rank in range(1, count):
                ours, theirs = context.Pipe()
                place = (rank, count, backend, meeting)
                process = context.Process(
                    target=_be_a_worker, args=(theirs, place, share, work, arguments), name=f"rank {rank}"
                )
                with interrupts_held():
                    process.start()
                    workers.append(_Worker(process, ours))
                theirs.close()
            torch.set_num_threads(share)
            for rank, worker in enumerate(workers, start=1):
                _await(worker, rank, count)
            with joined(0, count, backend, meeting):
                try:
                    yield
                except UserError:  # which all of them have found
                    raise
                except Exception as error:  # before this process leaves, which the others would call an error
                    if failure := _first_failure(workers):
                        raise UserError(failure.said) from RuntimeError(failure.traceback or str(error))
                    raise
            for worker in workers:
                worker.process.join(FAREWELL)
        finally:
            end_all([worker.process for worker in workers])
            for worker in workers:
                worker.connection.close()
            torch.set_num_threads(threads)


@contextmanager
def joined(rank: int, count: int, backend: str, meeting: Path) -> Iterator[None]:
    """Within the block, this process is one of ``count`` that compute together.

    Args:
        rank: Which one it is, from 0.
        count: How many there are.
        backend: ``gloo`` or ``nccl``.
        meeting: A file that does not exist yet, by which they find each other.
    """
    if backend == "nccl":
        torch.cuda.set_device(rank)
    store = dist.FileStore(str(meeting), count)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _await(worker: _Worker, rank: int, count: int) -> None:
    """Wait until a process is ready. Raises UserError if it will not be."""
    with contextlib.suppress(EOFError, OSError):
        worker.connection.recv()
        return
    worker.process.join()
    raise UserError(f"process {rank + 1} of {count} could not start (code {worker.process.exitcode})")


def _first_failure(workers: list[_Worker]) -> _Failure | None:
    """Why one of the processes has failed; None if none has, so that the error is this process's own."""
    wait([worker.connection for worker in workers], LAST_WORDS)  # of one that has ended, too
    failures = []
    for number, worker in enumerate(workers, start=2):
        name = f"process {number} of {len(workers) + 1}"
        if worker.connection.poll():
            try:
                failure = worker.connection.recv()
                failures.append(failure._replace(said=f"{name}: {failure.said}"))
            except (EOFError, OSError):
                worker.process.join()
                failures.append(_Failure(False, f"{name} {ended(worker.process.exitcode)}"))
    return min(failures, default=None)


def _be_a_worker(
    connection: Connection,
    place: tuple[int, int, str, Path],
    threads: int,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """The whole life of one of the other processes."""
    be_a_worker(threads)
    connection.send("ready")
    try:
        with joined(*place):
            work(*arguments)
    except BaseException as error:
        with contextlib.suppress(OSError):  # rank 0 is gone
            connection.send(_Failure(isinstance(error, RuntimeError), explain(error), traceback.format_exc()))
        sys.exit(1)
