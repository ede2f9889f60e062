"""Errors that a user can mend, and how they are worded."""

import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

# Kinds of characters that steer a terminal or cannot be written.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


class UserError(Exception):
    """Bad input. The message is one line that names what is wrong and what to do about it."""


class Refusal(BaseException):
    """Carries an error, its ``__cause__``, through code that swallows exceptions, as Hydra's callbacks do."""


def one_line(error: BaseException) -> str:
    """The message of an exception in one line, or the name of its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str, kept: str = "") -> str:
    """The text with escape sequences shown instead of obeyed: it may be from a run that somebody sent.

    Args:
        kept: Characters that stay as they are, such as the end of a line.
    """

    def shown(found: re.Match[str]) -> str:
        c = found[0]
        return ascii(c)[1:-1] if unicodedata.category(c) in UNSEEN and c not in kept else c

    return re.sub(r"[^ -~]", shown, text)


def warn(message: str) -> None:
    """Print one ``warning:`` line on standard error. The command goes on."""
    print(f"warning: {printable(message)}", file=sys.stderr)


@contextmanager
def attempt(what: str) -> Iterator[None]:
    """Turn a failure into one warning line, where nothing that counts depends on the outcome.

    Args:
        what: What is tried, as the subject of a sentence.
    """
    try:
        yield
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
        warn(f"{what} failed, the results are kept ({said})")
