"""One ``error:`` line for whatever goes wrong, and the exit code that goes with it."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn
from unittest.mock import patch

from ladder_vae.errors import UserError

DETAIL = "HYDRA_FULL_ERROR"  # Hydra's own switch


def run(main: Callable[[], None]) -> NoReturn:
    """Call ``main`` and exit: 0, 130 after Ctrl-C, else 1 after one ``error:`` line on stderr.

    ``HYDRA_FULL_ERROR=1`` in the environment adds the traceback.
    """
    detailed = os.environ.get(DETAIL, "0") not in ("", "0")
    try:
        # Hydra prints and exits by itself unless this is set; argparse, unless `error` raises.
        with patch.dict(os.environ, {DETAIL: "1"}), patch.object(argparse.ArgumentParser, "error", _usage):
            main()
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{': ' if str(interrupt) else ''}{interrupt}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if detailed:
            traceback.print_exc()
        if not getattr(error, "reported", False):
            print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def explain(error: BaseException) -> str:
    """One line that says what is wrong."""
    if isinstance(error, UserError):
        return str(error)
    text = " ".join(str(error).split())
    kind = type(error).__module__.split(".")[0]
    if kind in ("hydra", "omegaconf"):
        return text
    return f"{type(error).__name__}: {text} (set {DETAIL}=1 for the traceback)"


def _usage(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    raise UserError(f"{message}; --help explains the usage")
