"""Evaluate a run on its test or validation split, part by part, so that an interruption costs one part.

A run directory keeps ``evaluation/<plan>/``, a plan being everything that a result depends on: while it
lasts ``part-NNNNN.npz`` with what was found of so many images, afterwards ``images.npz`` with all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ladder_vae.bounds import (
    ImageStatistics,
    Settings,
    Weigher,
    image_statistics,
    unit_counts,
    weigher,
)
from ladder_vae.data import ImageData
from ladder_vae.errors import UserError, one_line
from ladder_vae.hardware import compiled, fast_products
from ladder_vae.hierarchy import Hierarchy
from ladder_vae.subjects import Subject
from ladder_vae.summary import summarize

SAMPLE_SIZES = (1, 10, 100, 1_000, 5_000)
PART = 250  # images a file
VERSION = 2  # of what is computed; another one makes nothing of what was kept


def choose_sample_sizes(num_samples: int, given: list[int] | None = None) -> tuple[int, ...]:
    """Each K of the bounds, ascending: ``given``, or those of the usual ones that divide ``num_samples``.

    Raises:
        UserError: If a number is below 1, or a given K does not divide ``num_samples``.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples} must be at least 1")
    if given is None:
        return tuple(sorted({k for k in (*SAMPLE_SIZES, num_samples) if num_samples % k == 0}))
    for k in given:
        if k < 1:
            raise UserError(f"k={given} asks for K={k}; every K must be at least 1")
        if num_samples % k:
            raise UserError(
                f"num_samples={num_samples} is not a multiple of K={k}; L_K is the mean over whole "
                f"blocks of K draws: choose num_samples={-(-num_samples // k) * k}, or another k"
            )
    if not given:
        raise UserError("k=[] names no bound; leave it out, or name some: 'k=[1,50]'")
    return tuple(sorted(set(given)))


def plan(subject: Subject, settings: Settings) -> Path:
    """Directory of an evaluation, named by all that its result depends on beyond rounding."""
    identity = [
        VERSION,
        PART,
        subject.run.checkpoint["sha256"],
        subject.run.config["model"],
        subject.data.fingerprint,
        settings.sample_sizes,
        settings.seed,
        *([] if subject.split == "test" else [subject.split]),
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    name = f"{subject.checkpoint}_{settings.num_samples}_{digest[:12]}"
    return subject.run.path / "evaluation" / name


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Args:
        metrics: By the names of ``metrics.json``.
        statistics: Of each image.
    """

    metrics: dict[str, float]
    statistics: ImageStatistics


def evaluate(
    subject: Subject,
    settings: Settings,
    device: torch.device,
    on_progress: Callable[[int, bool], None] = lambda images, kept: None,
    *,
    compile: bool = False,
) -> Evaluation:
    """Evaluate the images; those that an earlier call with the same settings has finished are kept.

    Args:
        on_progress: Called with a number of images that are done, and whether they were before.
        compile: Whether to compile the inner loop.

    Raises:
        UserError: If the run directory cannot be written, or an image has no finite likelihood.
    """
    directory = plan(subject, settings)
    done = directory / "images.npz"
    finished = _read(done, len(subject.indices))
    try:
        if finished is None:
            directory.mkdir(parents=True, exist_ok=True)
            with fast_products():
                finished = _evaluate_parts(subject, settings, device, on_progress, compile)
            _write(done, *finished)
        else:
            on_progress(len(subject.indices), True)
        for path in directory.glob("part-*.npz"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{directory} cannot be written ({error.strerror or one_line(error)})") from None
    statistics, seconds = finished
    split = subject.split
    metrics = summarize(statistics, settings.sample_sizes, unit_counts(subject.run.model), split)
    how = {"draws": settings.num_samples, "draws_seed": settings.seed, "evaluation_seconds": seconds}
    return Evaluation({**metrics, **{f"{split}/{name}": n for name, n in how.items()}}, statistics)


def _evaluate_parts(
    subject: Subject,
    settings: Settings,
    device: torch.device,
    on_progress: Callable[[int, bool], None],
    compile: bool,
) -> tuple[ImageStatistics, float]:
    """Statistics of all images, and the seconds that they took."""
    model = subject.run.model.to(device)
    weigh = compiled(weigher(model)) if compile else weigher(model)
    parts = []
    for start in range(0, len(subject.indices), PART):
        path = plan(subject, settings) / f"part-{start // PART:05d}.npz"
        indices = subject.indices[start : start + PART]
        part = _read(path, len(indices))
        if part is None:
            part = _evaluate_part(model, weigh, subject.data, subject.source, indices, settings, on_progress)
            _write(path, *part)
        else:
            on_progress(len(indices), True)
        parts.append(part)
    return ImageStatistics.concatenate([part for part, _ in parts]), sum(seconds for _, seconds in parts)


def _evaluate_part(
    model: Hierarchy,
    weigh: Weigher,
    data: ImageData,
    source: str,
    indices: Sequence[int],
    settings: Settings,
    on_progress: Callable[[int, bool], None],
) -> tuple[ImageStatistics, float]:
    began = time.perf_counter()
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(indices), settings.images_per_pass):
        batch = indices[start : start + settings.images_per_pass]
        x = data.binary(source, batch).to(device)
        try:
            statistics = image_statistics(model, x, batch, settings, weigh)
        except torch.OutOfMemoryError:
            raise UserError(f"out of memory with chunk_size={settings.chunk_size}; lower it") from None
        finite = statistics.elbo.isfinite() & statistics.log_px.isfinite().all(1)
        if not finite.all():
            first = batch[int((~finite).nonzero()[0])]
            raise UserError(f"the weights of {source} image {first} are not finite; the model has diverged")
        parts.append(statistics)
        on_progress(len(batch), False)
    return ImageStatistics.concatenate(parts), time.perf_counter() - began


def _write(path: Path, statistics: ImageStatistics, seconds: float) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")  # another process may do the same
    arrays = {name: value.numpy() for name, value in vars(statistics).items()}
    try:
        with unfinished.open("wb") as file:
            np.savez(file, seconds=np.float64(seconds), **arrays)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read(path: Path, images: int) -> tuple[ImageStatistics, float] | None:
    """What was written of so many images; None where it is missing or damaged, and has to be computed."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        seconds = float(arrays.pop("seconds"))
        statistics = ImageStatistics(**{name: torch.from_numpy(a) for name, a in arrays.items()})
        return (statistics, seconds) if len(statistics.elbo) == images else None
    except Exception:  # damage takes any form: zip, deflate, header, a missing array, another shape
        return None
