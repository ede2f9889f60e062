"""Run a command so that any error ends with one ``error:`` line and the right exit code."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

from ladder_vae.settings.paths import CLAIMED
from ladder_vae.system.console import lasting_output
from ladder_vae.system.errors import Refusal, UserError, one_line, printable
from ladder_vae.system.memory import keep_freed_memory
from ladder_vae.system.signals import INTERRUPTED, TERMINATED, Stops, gentle_stops, release_interrupts

DETAIL = "HYDRA_FULL_ERROR"  # Hydra's own switch
FULL = (errno.ENOSPC, errno.EDQUOT)
GONE = (errno.EPIPE, errno.EIO)  # the reader had enough, or the terminal was closed: nobody misses it
# What OmegaConf makes of our own refusal while it looks something up.
LOOKED_UP = r"UserError raised while resolving interpolation: (.*?)\s*full_key: (\S+).*"
GROUPS = ("model", "data", "likelihood", "optimizer", "scheduler", "logger", "callbacks")  # name a class


def run(main: Callable[[], None]) -> NoReturn:
    """Call ``main`` and exit.

    The exit code is 0, 130 after Ctrl-C, 143 after SIGTERM (or SIGUSR1), else 1 after one ``error:`` line.
    ``HYDRA_FULL_ERROR=1`` in the environment adds the traceback. Output that cannot be written stops nothing.
    """
    keep_freed_memory()
    CLAIMED.clear()  # of an earlier command in this process
    asked = os.environ.get(DETAIL)
    os.environ[DETAIL] = "1"  # otherwise Hydra prints the error and exits by itself
    try:
        with lasting_output() as (out, _), gentle_stops() as stops:
            code = _outcome(main, stops, detailed=asked not in (None, "", "0"))
            out.flush()
            if out.failure and out.failure.errno not in GONE:
                print(f"error: standard output cannot be written ({out.failure.strerror})", file=sys.stderr)
                code = code or 1
    finally:
        if asked is None:
            del os.environ[DETAIL]
        else:
            os.environ[DETAIL] = asked
    sys.exit(code)


def _outcome(main: Callable[[], None], stops: Stops, *, detailed: bool) -> int:
    """The exit code of ``main``, after what is to be said of its end."""
    try:
        release_interrupts()  # finish= holds them while a job starts
        main()
    except KeyboardInterrupt as interrupt:
        hint = f": {interrupt}" if str(interrupt) else ""
        # a progress bar may stand on the line
        print(printable(f"\ninterrupted{hint}", "\n"), file=sys.stderr)
        return TERMINATED if stops.terminated else INTERRUPTED
    except (Exception, Refusal) as raised:
        error = raised.__cause__ if isinstance(raised, Refusal) and raised.__cause__ else raised
        if detailed:
            traceback.print_exception(error)
        if not getattr(error, "reported", False):
            print(printable(f"error: {explain(error)}"), file=sys.stderr)
        return 1
    return 0


TAKES = {  # OmegaConf's name of a type, and what to say to a user
    "Integer": "a whole number",
    "Float": "a number",
    r"\[int, float\]+'": "a number",
    "Boolean": "true or false",
    "valid bool": "true or false",
    "ListConfig": "a list, as in 'key=[1,2]'",
}


def explain(error: BaseException) -> str:
    """One line that says what went wrong. Of a number of many digits it shows the first."""
    return re.sub(r"(\d{20})\d{20,}", r"\1...", _explain(error))


def _explain(error: BaseException) -> str:
    if looked_up := re.fullmatch(LOOKED_UP, str(error), re.DOTALL):
        return f"{looked_up[2]}: {looked_up[1]}"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error.__cause__, UserError):  # OmegaConf wraps it when a look-up fails
        return str(error.__cause__)
    if type(error).__module__.split(".")[0] in ("hydra", "omegaconf"):
        return _explain_hydra(error)
    if isinstance(error, OSError) and error.errno in FULL:
        where = error.filename or "the directory that is written to"
        return (
            f"{where}: {os.strerror(error.errno).lower()}; make room and start again, with resume= if a run "
            "was being trained"
        )
    if str(error).startswith("Config group override must be"):  # Hydra says so of GROUP=null
        return "a configuration group cannot be null; choose one of its files (logger=none)"
    if setting := re.search(r"full_key: (\S+)", str(error)):  # of OmegaConf, which adds it to any exception
        return f"{setting.group(1)} cannot be set to this ({str(error).splitlines()[0]})"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename} cannot be used ({error.strerror}); change that, or work elsewhere"
    return f"{type(error).__name__}: {one_line(error)} (set {DETAIL}=1 for the traceback)"


def _explain_hydra(error: BaseException) -> str:
    """One line with what a user needs of Hydra's common messages, which span lines and paragraphs."""
    from ladder_vae.settings.launchers import extra_of
    from ladder_vae.settings.schema import known_keys

    text = str(error)
    if unknown := re.match(r"Could not override '([^']+)'", text):
        key = unknown.group(1)
        more = f"; +{key}=... adds one that its class takes" if key.split(".")[0] in GROUPS else ""
        chosen = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
        return no_such_setting(key, known_keys(chosen)) + more
    if missing := re.search(r"Could not (?:find|load) '?([^'\n]+)'?", text):
        if needed := extra_of(missing.group(1).rstrip(".")):
            return needed
        options = re.search(r"Available options in '.*':\n((?:\t.*\n?)+)", text)
        choices = f"; choose {', '.join(options.group(1).split())}" if options else ""
        return f"there is no {missing.group(1).rstrip('.')}{choices}"
    if text.startswith("Error merging override") and error.__cause__ is not None:
        override = text.removeprefix("Error merging override").split("\n")[0].strip()
        return mistyped(override, str(error.__cause__))
    if type(error).__name__ == "OverrideParseException":
        return f"{text.splitlines()[0]}; settings are written key=value, lists 'key=[1,2]' in quotes"
    return one_line(error)


def no_such_setting(key: str, known: Iterable[str]) -> str:
    """The error message for a setting that does not exist; it suggests a setting of similar name."""
    section, _, name = key.rpartition(".")
    others = sorted(set(known) - {key})
    names = {k.rpartition(".")[2]: k for k in others}
    beside = {k.rpartition(".")[2]: k for k in others if k.rpartition(".")[0] == section}
    close = [d[match] for d in (beside, names) for match in difflib.get_close_matches(name, d, n=1)]
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no setting {key}; {hint}--cfg job lists all settings"


def mistyped(override: str, said: str) -> str:
    """The error message for a value of the wrong type.

    Args:
        override: The setting as ``key=value``.
        said: OmegaConf's message.
    """
    said = said.splitlines()[0].rstrip(".")
    takes = [what for kind, what in TAKES.items() if re.search(rf"(to|not a) {kind}\b|\b{kind}$", said)]
    return f"{override}: {said}" + "".join(f"; it takes {what}" for what in takes)


def strict(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Make a parser raise UserError for bad arguments, instead of printing the usage and exiting."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; --help explains the usage")

    parser.error = refuse  # type: ignore[method-assign]
    return parser
