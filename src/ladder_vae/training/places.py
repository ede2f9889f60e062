"""Where a run or a sweep is written: refuse what would write over something, and make the directory."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

from hydra.types import RunMode
from omegaconf import DictConfig

from ladder_vae.runs.record import CONFIG, METRICS, WEIGHTS, check_links, holds_results, is_run
from ladder_vae.settings.paths import CLAIMED, leaves, shown
from ladder_vae.system.errors import UserError


def check_place(config: DictConfig) -> Path:
    """The directory that a run or a sweep is to be written to. Nothing is made yet.

    Args:
        config: As Hydra composed it, with its own node ``hydra``.

    Raises:
        UserError: If it is no place for a run, or a setting of Hydra's would put files elsewhere.
    """
    sweeps = config.hydra.mode == RunMode.MULTIRUN
    ours = config.run_dir if sweeps or config.resume is None else config.resume
    key, theirs = ("sweep.dir", config.hydra.sweep.dir) if sweeps else ("run.dir", config.hydra.run.dir)
    if str(theirs) != str(ours):
        raise UserError(f"hydra.{key}={theirs} would split the run; set run_dir={shown(theirs)} instead")
    if config.hydra.job.chdir:
        raise UserError("hydra.job.chdir=true would move all relative paths; set run_dir=... instead")
    if config.hydra.output_subdir not in (None, ".hydra"):
        raise UserError(
            f"hydra.output_subdir={config.hydra.output_subdir} could write over the run; leave it out: "
            f"{CONFIG} of the run directory has all settings"
        )
    if not ours:
        raise UserError("run_dir= is empty; name a directory, or leave it out for one below runs/")
    path = Path(ours)
    if not sweeps and config.resume is not None:  # whether it is a run is looked at elsewhere
        return path
    if "://" in ours:
        raise UserError(f"run_dir={ours} is no directory of this machine; name one, and copy it afterwards")
    if (real := Path(os.path.realpath(path))) == real.parent:  # Path.resolve() raises for links in a circle
        raise UserError(f"run_dir={path} is the root of the file system; name a directory, as in run_dir=out")
    if path.exists() and not path.is_dir():
        raise UserError(f"run_dir={path} is a file; name a directory")
    return path


def check_unused(path: Path) -> None:
    """Raises UserError if a new run would write over what is in the directory, or out of it through a link.

    A run that ended in its first epoch may begin again.
    """
    if path.exists():
        check_links(path)
    if is_run(path) and holds_results(path):
        raise UserError(
            f"run_dir={path} already holds a run; resume={shown(path)} continues it, another run_dir starts "
            "anew"
        )
    if is_run(path):
        return
    for name in (CONFIG, METRICS, WEIGHTS, "checkpoints"):
        if (path / name).exists():
            raise UserError(
                f"{path / name} is there already and not of a run; move it away, or choose another run_dir"
            )


def check_subdirectories(names: list[str]) -> None:
    """Raises UserError if two jobs of a sweep would share a directory, or one would leave the sweep's."""
    for name in names:
        if leaves(name) or Path(name) == Path():
            raise UserError(f"hydra.sweep.subdir={name} lies outside the sweep; leave it out")
    shared = [name for name in names if names.count(name) > 1]
    if shared:
        raise UserError(
            f"hydra.sweep.subdir={shared[0]} is the same for {len(shared)} jobs, of which one would be left; "
            "leave it out, or let it begin with ${hydra.job.num}_"
        )


def prepare_directory(path: Path) -> Path:
    """Make the directory of the run or sweep and try to write to it.

    By default it is named after the second. Of two runs that start in the same one, the second gets a name
    with a number.

    Returns:
        The directory, which ``run_dir`` now is.

    Raises:
        UserError: If that cannot be done.
    """
    try:
        if str(path) in CLAIMED:
            path.parent.mkdir(parents=True, exist_ok=True)
            CLAIMED[str(path)] = str(own := _make_own(path))
            path = own
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"run_dir={path} cannot be written ({error.strerror}: {error.filename}); choose another run_dir"
        ) from None
    return path


def _make_own(path: Path) -> Path:
    """Make a directory that was not there, which no other process then makes, and return its path."""
    for number in itertools.count(1):
        own = path if number == 1 else path.with_name(f"{path.name}_{number}")
        try:
            own.mkdir()
            return own
        except FileExistsError:
            continue
    raise AssertionError
