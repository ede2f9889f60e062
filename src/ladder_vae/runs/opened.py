"""What a command is about: a finished run, its data, and which of its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ladder_vae.data
from ladder_vae.data.data_sets import ImageData
from ladder_vae.runs.checkpoints import Run, construct, load_run, read_checkpoint
from ladder_vae.runs.record import checkpoint_path, find_runs, is_run, read_config, read_record
from ladder_vae.settings.paths import shown
from ladder_vae.system.errors import UserError, warn


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Args:
        run: The rebuilt model and its configuration.
        data: The data that it was trained on.
        checkpoint: ``best`` or ``last``.
        images: How many images, evenly spaced over the split; None: all.
        source: The split: ``test``, ``val`` or ``train``.
    """

    run: Run
    data: ImageData
    checkpoint: str
    images: int | None = None
    source: str = "test"

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
) -> Subject:
    """Rebuild a run's model and its data.

    Like :func:`~ladder_vae.runs.checkpoints.load_run` it builds only classes of this package unless
    ``trust``; a data set that is downloaded on first use is downloaded.

    Args:
        path: The run directory.
        checkpoint: ``best`` or ``last``.
        images: How many images, evenly spaced over the split; None: all.
        source: The split: ``test``, ``val`` or ``train``.
        trust: Whether to import what the run names beyond this package.

    Raises:
        UserError: If either cannot be had, or the data are not those that the run was trained on.
    """
    run = load_run(path, checkpoint, trust=trust)
    data: ImageData = construct(
        run.path, run.config, "data", ladder_vae.data, trust, likelihood=run.model.likelihood
    )
    if not isinstance(data, ImageData):
        raise UserError(
            f"{path}: data._target_={run.config['data'].get('_target_')} does not make an ImageData"
        )
    data.setup()
    data.check_trained_on(run.checkpoint, run.path)
    shape = list(data.image_shape)
    if run.config["model"].get("input_shape") != shape:
        raise UserError(
            f"{path} was trained on images of shape {run.config['model'].get('input_shape')}, "
            f"but {type(data).__name__} holds images of shape {shape}"
        )
    total = len(data.split(source))
    if not total:
        raise UserError(f"{path} has no validation images (data.val_size=0); leave out split={source}")
    if images is not None and not 1 <= images < total:
        raise UserError(
            f"images={images} must be from 1 to {total - 1}; leave it out for all {total} of {path}"
        )
    return Subject(run, data, checkpoint, images, source)


def why_not_final(subject: Subject) -> str:
    """Why results do not belong into ``metrics.json``; empty if they do."""
    path = subject.run.path
    if subject.checkpoint != "best":
        return f"they are of {subject.checkpoint}.ckpt"
    now = read_checkpoint(checkpoint_path(path, "best"))["sha256"]
    if not read_record(path).finished or now != subject.run.checkpoint["sha256"]:
        return f"{path} was trained further meanwhile"
    return ""


def over_runs(
    root: Path,
    checkpoint: str,
    images: int | None,
    work: Callable[[Subject, str], None],
    check: Callable[[Subject], None] = lambda subject: None,
    source: str = "test",
    trust: bool = False,
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

    Returns:
        How many runs of the folder ``work`` failed on, as in "1 of 2 runs"; each was named in a warning.
        Empty if it failed on none.

    Raises:
        UserError: If the run, or each run in the folder, cannot be used, or ``work`` on the run raised it.
    """
    paths = _choose_runs(root, lambda path: check(_open(path, checkpoint, images, source, trust)))
    failed = 0
    for number, path in enumerate(paths, start=1):
        try:
            work(
                load_subject(path, checkpoint, images, source, trust=trust), f"{path} ({number}/{len(paths)})"
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


def _open(path: Path, checkpoint: str, images: int | None, source: str, trust: bool) -> Subject:
    record = read_record(path)
    state = f"{path} has not finished ({f'{record.status} {record.message}'.strip()})"
    if not record.finished and checkpoint == "best":
        read_config(path)  # a better reason, if it has one
        raise UserError(
            f"{state}; finish it (python -m ladder_vae.train resume={shown(path)}), or take it as it is with "
            "checkpoint=last"
        )
    subject = load_subject(path, checkpoint, images, source, trust=trust)
    if not record.finished:
        warn(f"{state}; these are no final numbers")
    return subject
