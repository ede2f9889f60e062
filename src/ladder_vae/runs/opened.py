"""What a command is about: a finished run, its data, and which of its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ladder_vae.data.data_sets import ImageData
from ladder_vae.runs.checkpoints import load_run, read_checkpoint
from ladder_vae.runs.construction import open_data
from ladder_vae.runs.finding import find_runs
from ladder_vae.runs.record import (
    check_links,
    checked_record,
    checkpoint_path,
    is_run,
    read_record,
    warn_of_changes,
)
from ladder_vae.runs.run import Run
from ladder_vae.settings.paths import shown
from ladder_vae.system.errors import UserError, printable, warn


class Steps(NamedTuple):
    """The steps of a diffusion.

    Args:
        number: T.
        transition: How it makes a step.
    """

    number: int
    transition: str

    def __str__(self) -> str:
        return f"T{self.number}-{self.transition}"


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Args:
        run: The rebuilt model and its configuration.
        data: The data that it was trained on.
        checkpoint: ``best`` or ``last``.
        images: How many images, evenly spaced over the split; None: all.
        source: The split: ``test``, ``val`` or ``train``.
        steps: Of a diffusion as another hierarchy than the one that was trained; None: as it was trained.
    """

    run: Run
    data: ImageData
    checkpoint: str
    images: int | None = None
    source: str = "test"
    steps: Steps | None = None

    @property
    def indices(self) -> Sequence[int]:
        """Which images of the split."""
        total = len(self.data.split(self.source))
        return self.data.sample(self.source, total if self.images is None else self.images)

    @property
    def split(self) -> str:
        """What the metrics are of: ``test``, or ``test_2000`` for 2,000 of its images."""
        return self.source if self.images is None else f"{self.source}_{self.images}"


def load_subject(
    path: str | Path,
    checkpoint: str,
    images: int | None = None,
    source: str = "test",
    *,
    trust: bool = False,
    data: Mapping[str, str | None] = MappingProxyType({}),
) -> Subject:
    """Rebuild a run's model and its data.

    Like :func:`~ladder_vae.runs.checkpoints.load_run` it builds only classes of this package unless
    ``trust``; a data set that is not there yet is downloaded only with ``trust``, since the run names the
    directory.

    Args:
        path: The run directory.
        checkpoint: ``best`` or ``last``.
        images: How many images, evenly spaced over the split; None: all.
        source: The split: ``test``, ``val`` or ``train``.
        trust: Whether to import what the run names beyond this package.
        data: Where its data lie now; see :func:`~ladder_vae.runs.construction.moved_data`.

    Raises:
        UserError: If either cannot be had, or the data are not those that the run was trained on.
    """
    run = load_run(path, checkpoint, trust=trust)
    data_set = open_data(run.path, run.config, run.checkpoint, run.model.likelihood, trust, data)
    total = len(data_set.split(source))
    if not total:
        raise UserError(f"{path} has no validation images (data.val_size=0); leave out split={source}")
    if images is not None and not 1 <= images < total:
        raise UserError(
            f"images={images} must be from 1 to {total - 1}; leave it out for all {total} of {path}"
        )
    return Subject(run, data_set, checkpoint, images, source)


def why_not_final(subject: Subject) -> str:
    """Why results do not belong into ``metrics.json``; empty if they do."""
    path = subject.run.path
    if subject.checkpoint != "best":
        return f"they are of {subject.checkpoint}.ckpt"
    now = read_checkpoint(checkpoint_path(path, "best"))["sha256"]
    if not read_record(path).finished or now != subject.run.checkpoint["sha256"]:
        return f"{path} was trained further meanwhile"
    if subject.steps:
        return "they are of another hierarchy than the one that was trained (steps, transition, or its limit)"
    return ""


def over_runs(
    root: Path,
    checkpoint: str,
    images: int | None,
    work: Callable[[Subject, str], None],
    check: Callable[[Subject], None] = lambda subject: None,
    source: str = "test",
    trust: bool = False,
    data: Mapping[str, str | None] = MappingProxyType({}),
) -> str:
    """Call ``work`` for the run, or for each run of the folder that can be used, with a name to show.

    All runs are opened before work on the first starts, and one that fails does not take the others along.

    Args:
        root: A run directory, or a folder of them.
        checkpoint: ``best`` or ``last``.
        images: How many images, evenly spaced over the split; None: all.
        check: Raises UserError for a run that ``work`` could not be done on.
        source: The split: ``test``, ``val`` or ``train``.
        trust: Whether to import what runs name beyond this package.
        data: Where their data lie now; see :func:`~ladder_vae.runs.construction.moved_data`.

    Returns:
        How many runs of the folder ``work`` failed on, as in "1 of 2 runs"; each was named in a warning.
        Empty if it failed on none.

    Raises:
        UserError: If the run, or each run in the folder, cannot be used, or ``work`` on the run raised it.
    """
    paths = _choose_runs(root, lambda path: check(_open(path, checkpoint, images, source, trust, data)))
    failed = 0
    for number, path in enumerate(paths, start=1):
        try:
            work(
                load_subject(path, checkpoint, images, source, trust=trust, data=data),
                printable(f"{path} ({number}/{len(paths)})"),
            )
        except UserError as error:
            if path == root:
                raise
            failed += 1
            warn(f"{path}: {error}")
    return f"{failed} of {len(paths)} runs" if failed else ""


def _choose_runs(root: Path, check: Callable[[Path], None]) -> list[Path]:
    if is_run(root):
        check(root)
        return [root]
    chosen = []
    for record in find_runs([root]):
        try:
            check(record.path)
            chosen.append(record.path)
        except UserError as error:
            warn(f"left out: {error}")
    if not chosen:
        raise UserError(f"run={root} holds no run that can be used")
    return chosen


def _open(
    path: Path,
    checkpoint: str,
    images: int | None,
    source: str,
    trust: bool,
    data: Mapping[str, str | None],
) -> Subject:
    record = checked_record(path)
    check_links(path)
    state = f"{path} has not finished ({f'{record.status} {record.message}'.strip()})"
    if not record.finished and checkpoint == "best":
        raise UserError(
            f"{state}; finish it (python -m ladder_vae.train resume={shown(path)}), or take it as it is with "
            "checkpoint=last"
        )
    subject = load_subject(path, checkpoint, images, source, trust=trust, data=data)
    warn_of_changes(path)
    if not record.finished:
        warn(f"{state}; these are no final numbers")
    return subject


def check_learned(run: Run) -> None:
    """Raises UserError if the levels of a run have learned nothing that could be looked at."""
    if run.model.estimates_rates:
        raise UserError(
            f"{run.path} is a {type(run.model).__name__}, whose levels are the image with more and more "
            "noise and encode nothing else; python -m ladder_vae.limit shows what its levels do"
        )
