"""Signals that ask a command to stop, and the one that says that its terminal is gone."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

TERMINATED = 128 + 15  # exit code after SIGTERM
INTERRUPTED = 128 + 2  # after Ctrl-C


class Stops:
    """What was asked for by a signal.

    Attributes:
        terminated: Whether SIGTERM or SIGUSR1 arrived.
    """

    def __init__(self) -> None:
        self.terminated = False

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """End as after Ctrl-C: what can be kept is kept. Process 1 of a container has no other handler."""
        self.terminated = True
        # A script that puts a command behind itself makes it deaf to Ctrl-C.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def gentle_stops() -> Iterator[Stops]:
    """SIGTERM and SIGUSR1 stop as Ctrl-C does, and a closed terminal stops nothing, until the block ends."""
    stops = Stops()
    # Schedulers send the second some time before they end a job. Windows has the first alone.
    wanted: dict[str, Any] = dict.fromkeys(("SIGTERM", "SIGUSR1"), stops.terminate)
    wanted["SIGHUP"] = signal.SIG_IGN
    before = {}
    for name, handler in wanted.items():
        number = getattr(signal, name, None)
        # a handler can be set in the main thread only; what already ignores a signal goes on doing so
        with contextlib.suppress(ValueError):
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, handler)
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back in this process, until the block ends, and in those that it starts within.

    An interrupt would kill a process that is still starting, with a traceback. It calls
    :func:`release_interrupts` once it is ready.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        release_interrupts()


def release_interrupts() -> None:
    """Let Ctrl-C through."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
