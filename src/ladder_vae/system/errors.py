"""What a user can mend, and how it is said."""

import sys


class UserError(Exception):
    """Bad input. The message is one line that names what is wrong and what to do about it."""


class Refusal(BaseException):
    """Carries an error (its ``__cause__``) past code that swallows exceptions, as Hydra's callbacks do."""


def one_line(error: BaseException) -> str:
    """The message of an exception without its line breaks; the type's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def warn(message: str) -> None:
    """One ``warning:`` line on standard error, for what a command goes on after."""
    print(f"warning: {message}", file=sys.stderr)
