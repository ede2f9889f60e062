"""Trained models that come with the package, opened by name; see ``ladder_vae.release``."""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from pathlib import Path

from ladder_vae.runs.record import WEIGHTS, is_run
from ladder_vae.system.errors import UserError

RELEASES = Path(__file__).parents[1] / "assets" / "models"  # run directories, opened by name; see release.py
COPIES = Path("runs/released")


def released() -> list[str]:
    """Names of the trained models that come with the package."""
    return sorted(path.name for path in RELEASES.glob("*") if is_run(path))


def is_release(path: str | Path) -> bool:
    """Whether ``path`` names a model of the package and there is no file or directory of that name."""
    return str(path) in released() and not Path(path).exists()


def run_directory(run: str | Path) -> Path:
    """The directory of a run: ``run`` itself, or the package's directory if ``run`` names a release.

    Raises:
        UserError: If ``run`` is a bare name, and neither of a release nor of anything here.
    """
    if is_release(run):
        return RELEASES / str(run)
    if len(Path(run).parts) == 1 and not Path(run).exists():
        raise UserError(
            f"{run} is not a directory; name a run directory, a folder of them, or a model of the package "
            f"({', '.join(released())})"
        )
    return Path(run)


def own_copy(run: str | Path) -> Path:
    """A run directory to write into: ``run`` itself, or a copy if ``run`` names a release of the package.

    Copies lie in ``runs/released``. Commands write their results there and leave the package as it is.

    Raises:
        UserError: If a bare name is neither of a release nor of anything here, or an earlier copy holds other
            weights than the package, as after an update.
    """
    if not is_release(run):
        return run_directory(run)
    source, copy = RELEASES / str(run), COPIES / str(run)
    if not copy.exists():
        COPIES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=COPIES) as part:  # no half-made copy is left behind
            shutil.copytree(source, Path(part) / "copy")
            try:
                os.replace(Path(part) / "copy", copy)
            except OSError:
                if not copy.exists():  # else another command was faster
                    raise
    if not _same(source / WEIGHTS, copy / WEIGHTS):
        raise UserError(f"{copy} holds other weights than the package has now; move it away")
    return copy


def _same(a: Path, b: Path) -> bool:
    return b.is_file() and filecmp.cmp(a, b, shallow=False)
