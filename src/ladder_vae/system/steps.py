"""The steps of a long command: a bar on a terminal, a line each in a file."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Steps:
    """Shows on standard error which step is being done, of how many. A context, which ends the bar.

    Args:
        name: What is worked on.
        total: Number of steps.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.begun = 0
        self._bar: Progress | None = None

    def __enter__(self) -> Steps:
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(TextColumn("{task.description}"), *columns, console=console)
            self._bar.add_task(escape(self.name), total=self.total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            if error is None:
                self._show(self.name, self.total)
            self._bar.stop()

    def __call__(self, what: str) -> None:
        """The next step begins: say which one it is."""
        self.begun += 1
        if self._bar is not None:
            self._show(f"{self.name}: {what}", self.begun - 1)
        else:
            print(f"{self.name}: {self.begun}/{self.total} {what}", file=sys.stderr, flush=True)

    def _show(self, what: str, completed: int) -> None:
        assert self._bar is not None
        self._bar.update(self._bar.task_ids[0], description=escape(what), completed=completed)
