"""Locks of directories, which end with the process that holds them, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ladder_vae.system.errors import UserError, one_line

TRAINING, RECORD = ".lock", ".record.lock"  # who trains in a directory; who changes its record
# Seconds; a report that looks whether a lock is held holds it for a moment, and so does who changes a record.
PATIENCE = {TRAINING: 2.0, RECORD: 60.0}


class InUse(UserError):
    """Another process holds a lock."""


@contextmanager
def locked(directory: Path, name: str, *, patience: float | None = None) -> Iterator[None]:
    """Hold a lock of a directory.

    Args:
        name: ``TRAINING`` or ``RECORD``.
        patience: Seconds to wait for another process; None: as many as it may take.

    Raises:
        InUse: If another process keeps holding it.
        UserError: If it cannot be made.
    """
    lock = _lock(directory, name)
    try:
        lock.acquire(timeout=PATIENCE[name] if patience is None else patience)
    except Timeout:
        raise InUse(f"{directory} is in use by another process; wait until it ends, or stop it") from None
    except (OSError, NotImplementedError) as error:  # the latter where a file system has no locks
        raise UserError(f"{directory} cannot be locked ({one_line(error)}: {directory / name})") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(directory: Path, name: str) -> bool:
    """Whether a process holds the lock. Raises UserError where that cannot be told."""
    if not (directory / name).is_file():
        return False
    try:
        with locked(directory, name, patience=0):
            return False
    except InUse:
        return True


def _lock(directory: Path, name: str) -> FileLock:
    path = directory / name
    if path.is_symlink() or (path.exists() and not path.is_file()):  # opening it might change another file
        raise UserError(f"{path} is no file of ours; remove it")
    return FileLock(path)
