"""Locks of directories, which end with the process that holds them, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ladder_vae.system.errors import UserError, one_line

TRAINING, RECORD = ".lock", ".record.lock"  # who trains in a directory; who changes its metrics
PATIENCE = 2.0  # seconds; a report that looks whether a lock is held holds it for a moment


@contextmanager
def locked(directory: Path, name: str, *, patience: float = PATIENCE) -> Iterator[None]:
    """Hold a lock of a directory.

    Args:
        name: ``TRAINING`` or ``RECORD``.
        patience: Seconds to wait for another process.

    Raises:
        UserError: If another process keeps holding it, or it cannot be made.
    """
    lock = _lock(directory, name)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise UserError(f"{directory} is in use by another process; wait until it ends, or stop it") from None
    except (OSError, NotImplementedError) as error:  # the latter where a file system has no locks
        raise UserError(f"{directory} cannot be locked ({one_line(error)}: {directory / name})") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(directory: Path, name: str) -> bool:
    """Whether a process holds the lock; true where that cannot be told."""
    if not (directory / name).is_file():
        return False
    try:
        with _lock(directory, name).acquire(timeout=0):
            return False
    except (Timeout, OSError, NotImplementedError, UserError):
        return True


def _lock(directory: Path, name: str) -> FileLock:
    path = directory / name
    if path.is_symlink() or (path.exists() and not path.is_file()):  # opening it might change another file
        raise UserError(f"{path} is no file of ours; remove it")
    return FileLock(path)
