"""Directories that PyTorch and matplotlib want to write, for users who cannot write the usual ones.

Containers often have a home directory that is ``/``, or a user without a name.
"""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
import sys
import tempfile
from pathlib import Path

from ladder_vae.system.errors import warn

COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # PyTorch's own variable, and matplotlib's:
DRAWING = "MPLCONFIGDIR"


def provide_directories() -> None:
    """Set the two variables if what they name, or else the default, cannot be written.

    Both packages look at them when they are imported. PyTorch then fails, and matplotlib prints warnings.
    """
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:  # nothing can be written at all; whoever needs to write says so
        return
    asked = os.environ.get(COMPILED)
    if asked is not None and not _writable(Path(asked)):
        os.environ[COMPILED] = _fresh("torchinductor_")
        warn(f"{COMPILED}={asked} cannot be written; compiled code is kept in a temporary directory instead")
    elif asked is None:
        try:
            usual = Path(temporary, f"torchinductor_{getpass.getuser()}")
            known = not usual.exists() or _writable(usual)
        except (KeyError, ImportError, OSError):  # this user has no name
            known = False
        if not known:
            os.environ[COMPILED] = _fresh("torchinductor_")
    if not all(_writable(directory) for directory in _of_matplotlib()):
        os.environ[DRAWING] = _fresh("matplotlib_")


def _of_matplotlib() -> list[Path]:
    if DRAWING in os.environ:
        return [Path(os.environ[DRAWING])]
    if sys.platform != "linux":
        return [Path("~/.matplotlib").expanduser()] if os.path.expanduser("~") != "~" else []
    homes = {"XDG_CONFIG_HOME": "~/.config", "XDG_CACHE_HOME": "~/.cache"}
    return [
        Path(os.environ.get(name) or os.path.expanduser(usual), "matplotlib") for name, usual in homes.items()
    ]


def _writable(directory: Path) -> bool:
    """Whether files can be written there. Makes the directory, as whoever uses it would."""
    if str(directory).startswith("~"):  # there is no home directory
        return False
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def _fresh(prefix: str) -> str:
    directory = tempfile.mkdtemp(prefix=prefix)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory
