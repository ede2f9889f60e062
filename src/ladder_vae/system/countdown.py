"""How much of a sweep is done, and about how long the rest takes."""

from __future__ import annotations

import sys
import time


def duration(seconds: float) -> str:
    """Seconds in words, with two digits or so.

    Example:
        >>> duration(7), duration(100), duration(4000)
        ('7 s', '2 min', '1 h 7 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Countdown:
    """Counts the jobs of a sweep as they end.

    Args:
        total: How many there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._started = time.perf_counter()

    def count(self, running: int = 0) -> None:
        """One more job has ended; say so in a line on standard error.

        Args:
            running: How many others are running. They count as half done.
        """
        self.done += 1
        line = f"{self.done} of {self.total} runs done"
        if self.done < self.total:
            passed, work = time.perf_counter() - self._started, self.done + running / 2
            line += f", about {duration(passed * (self.total - work) / work)} left"
        print(line, file=sys.stderr, flush=True)
