"""Standard output and standard error that outlive their reader.

A pipe may be closed (``| head``), a disk be full, a terminal be gone or know few characters. What a command
computes does not depend on whether it can be shown.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any


class Lasting:
    """A text stream that swallows what can no longer be written, and remembers why.

    Args:
        stream: The stream, of which everything but writing is passed on; None, as of a process that began
            with a closed one, is a reader who wants nothing.
    """

    def __init__(self, stream: Any) -> None:
        if stream is None:
            stream = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        self.stream = stream
        self.failure: OSError | None = None
        if hasattr(stream, "reconfigure"):  # a character that cannot be shown is described
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write the text, if that is still possible."""
        self._try(self.stream.write, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all lines, if that is still possible."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream, if that is still possible."""
        self._try(self.stream.flush)

    def _try(self, call: Any, *arguments: Any) -> None:
        if self.failure is None:
            try:
                call(*arguments)
            except BlockingIOError:  # a slow reader, who misses this and reads on
                return
            except OSError as error:
                self.failure = error
                self._discard()

    def _discard(self) -> None:
        """Have what is still in the buffer go nowhere, or Python would complain as it exits."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def lasting_output() -> Iterator[tuple[Lasting, Lasting]]:
    """Standard output and standard error as :class:`Lasting` streams until the block ends."""
    before = sys.stdout, sys.stderr
    out, err = Lasting(sys.stdout), Lasting(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out, err
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
