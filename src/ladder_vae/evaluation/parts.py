"""Evaluate a run on its test or validation split, part by part, so that an interruption costs one part.

Results lie in ``evaluation/<plan>/`` of the run directory; a plan is named by everything that a result
depends on. During an evaluation ``part-NNNNN.npz`` holds the statistics of ``PART`` images each; at its end
``images.npz`` holds those of all images.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ladder_vae.models.evaluator import Settings, image_statistics, unit_counts
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.passes import Passes, Weigher, weigher
from ladder_vae.models.statistics import IMAGE_FIELDS, UNIT_FIELDS, ImageStatistics, UnitStatistics
from ladder_vae.models.summary import bits_per_dim, summarize
from ladder_vae.runs.opened import Subject
from ladder_vae.runs.reading import MOST_BYTES
from ladder_vae.system.compilation import compiled
from ladder_vae.system.devices import fast_products
from ladder_vae.system.errors import UserError, one_line, warn
from ladder_vae.system.files import read_npz, replacing
from ladder_vae.system.recording import RECORDERS
from ladder_vae.system.self_check import pass_doubt

SAMPLE_SIZES = (1, 10, 100, 1_000, 5_000)
IMAGES = "images.npz"
PART = 250  # images a file
VERSION = 7  # of draws and statistics; parts that another version kept are not used


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
        subject.run.config["likelihood"],
        subject.data.fingerprint,
        settings.sample_sizes,
        settings.seed,
        *([] if subject.split == "test" else [subject.split]),
        *([f"binarization {settings.binarization}"] if settings.binarization else []),
        *([f"{settings.binarizations} binarizations"] if settings.binarizations > 1 else []),
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    named = subject.checkpoint, settings.num_samples, subject.steps, digest[:12]
    return subject.run.path / "evaluation" / "_".join(str(part) for part in named if part)


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
        compile: Whether to compile the passes.

    Raises:
        UserError: If the run directory cannot be written, or an image has no finite likelihood.
    """
    model = subject.run.model.to(device)
    passes = cache(lambda: make_passes(model, device, compile))  # if anything is left to do
    found = [_evaluate_once(subject, once, passes, on_progress) for once in each_binarization(settings)]
    each, seconds = [statistics for statistics, _ in found], sum(seconds for _, seconds in found)
    statistics, split = each[0], subject.split
    more = {}
    if len(each) > 1:
        statistics = ImageStatistics.mean(each)
        with writing(plan(subject, settings)) as directory:
            _write(directory / IMAGES, statistics, seconds, _identity(subject, settings))
        spread = torch.stack([one.log_px.mean(0) for one in each]).std(0)
        more = {
            f"log_px/K={k}_binarization_std": float(s)
            for k, s in zip(settings.sample_sizes, spread, strict=True)
        }
    more |= {"draws": settings.num_samples, "draws_seed": settings.seed, "evaluation_seconds": seconds}
    more |= {"binarizations": settings.binarizations, "draws_version": VERSION}
    more |= {f"{subject.steps.transition}_steps": subject.steps.number} if subject.steps else {}
    units = unit_counts(model)
    metrics = dict(summarize(statistics, settings, units, split))
    if per_nat := subject.data.likelihood.bits_per_nat(subject.data.image_shape):
        metrics |= bits_per_dim(metrics, per_nat)
    # Shares and quantiles are of single images, not of their means over binarizations, which differ less.
    singly = [summarize(one, settings, units, split) for one in each]
    for name in metrics:
        if name.startswith((f"{split}/khat/", f"{split}/ess/")):
            metrics[name] = sum(one[name] for one in singly) / len(singly)
    return Evaluation({**metrics, **{f"{split}/{name}": n for name, n in more.items()}}, statistics)


def each_binarization(settings: Settings) -> list[Settings]:
    """The settings of the evaluation with each draw of the pixels."""
    return [replace(settings, binarizations=1, binarization=draw) for draw in range(settings.binarizations)]


def _evaluate_once(
    subject: Subject,
    settings: Settings,
    passes: Callable[[], Passes],
    on_progress: Callable[[int, bool], None],
) -> tuple[ImageStatistics, float]:
    """Statistics of all images, binarized once, and the seconds that they took."""
    with writing(plan(subject, settings)) as directory:
        finished = _read(directory / IMAGES, len(subject.indices))
        if finished is None:
            with fast_products(next(subject.run.model.parameters()).device.type):
                finished = _evaluate_parts(subject, settings, passes, on_progress)
            _write(directory / IMAGES, *finished, _identity(subject, settings))
        else:
            on_progress(len(subject.indices), True)
        for path in directory.glob("part-*.npz"):
            path.unlink(missing_ok=True)
    return finished


@contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """The directory, made if need be. Raises UserError if it cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
    except OSError as error:
        raise UserError(f"{directory} cannot be written ({error.strerror or one_line(error)})") from None


def _identity(subject: Subject, settings: Settings) -> dict[str, np.ndarray]:
    """Which images and draw of their pixels (where equal, runs are compared by image), and other steps."""
    words = [
        subject.data.fingerprint,
        subject.source,
        str(settings.binarizations),
        str(settings.binarization),
    ]
    numbers: dict[str, Any] = {"indices": subject.indices, "sample_sizes": settings.sample_sizes}
    numbers |= {"steps": str(subject.steps)} if subject.steps else {}
    return {"identity": np.asarray(" ".join(words)), **{name: np.asarray(n) for name, n in numbers.items()}}


def make_passes(model: Hierarchy, device: torch.device, compile: bool) -> Passes:
    """The passes of an evaluation, recorded where the device can, and compiled if asked for."""
    recorder = RECORDERS[device.type]() if device.type in RECORDERS else None
    return Passes(model, compiled_weigher(model) if compile else None, recorder)


def compiled_weigher(model: Hierarchy) -> Weigher:
    """:func:`~ladder_vae.models.passes.weigher`, compiled, once it has given what the plain one does."""

    def anew(model: Hierarchy) -> Weigher:
        # of its own features: a copy in float64 has others
        return lambda x, features, *noise: weigher(model)(x, model.encode(x), *noise)

    return compiled(weigher(model), pass_doubt(model, anew))


def _evaluate_parts(
    subject: Subject,
    settings: Settings,
    passes: Callable[[], Passes],
    on_progress: Callable[[int, bool], None],
) -> tuple[ImageStatistics, float]:
    """Statistics of all images, and the seconds that they took."""
    parts = []
    for start, path in part_files(subject, settings).items():
        images = len(subject.indices[start : start + PART])
        part = _read(path, images)
        if part is None:
            part = evaluate_part(subject, settings, start, passes(), on_progress)
        else:
            on_progress(images, True)
        parts.append(part)
    return ImageStatistics.concatenate([part for part, _ in parts]), sum(seconds for _, seconds in parts)


def part_files(subject: Subject, settings: Settings) -> dict[int, Path]:
    """Where each part of the images is kept once it is computed, by the place of its first image."""
    directory, starts = plan(subject, settings), range(0, len(subject.indices), PART)
    return {start: directory / f"part-{start // PART:05d}.npz" for start in starts}


def evaluate_part(
    subject: Subject,
    settings: Settings,
    start: int,
    passes: Passes,
    on_progress: Callable[[int, bool], None],
) -> tuple[ImageStatistics, float]:
    """Evaluate ``PART`` images from ``start`` on, binarized once, and keep what is returned in their file.

    Raises:
        UserError: If an image has no finite likelihood, or memory is too small.
    """
    began = time.perf_counter()
    indices = subject.indices[start : start + PART]
    model = subject.run.model
    device = next(model.parameters()).device
    parts = []
    for at in range(0, len(indices), settings.images_per_pass):
        batch = indices[at : at + settings.images_per_pass]
        x = subject.data.observe(subject.source, batch, settings.binarization).to(device)
        try:
            statistics = image_statistics(model, x, batch, settings, passes)
        except torch.OutOfMemoryError:
            raise UserError(f"out of memory with chunk_size={settings.chunk_size}; lower it") from None
        finite = statistics.elbo.isfinite() & statistics.log_px.isfinite().all(1)
        if not finite.all():
            first = batch[int((~finite).nonzero()[0])]
            raise UserError(
                f"the weights of {subject.source} image {first} are not finite; the model has diverged"
            )
        parts.append(statistics)
        on_progress(len(batch), False)
    found = ImageStatistics.concatenate(parts), time.perf_counter() - began
    _write(part_files(subject, settings)[start], *found)
    return found


def _write(
    path: Path,
    statistics: ImageStatistics,
    seconds: float,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    arrays = {name: getattr(statistics, name).numpy() for name in IMAGE_FIELDS}
    arrays |= {f"unit_{name}": getattr(statistics.units, name).numpy() for name in UNIT_FIELDS}
    with replacing(path) as part:
        np.savez(part, seconds=np.float64(seconds), **arrays, **more)


def _read(path: Path, images: int) -> tuple[ImageStatistics, float] | None:
    """What was written of so many images; None where it is missing or damaged, and has to be computed."""
    try:
        kept = read_npz(path, MOST_BYTES[path.suffix])
        arrays = {name: torch.from_numpy(kept[name]) for name in IMAGE_FIELDS}
        units = {name: torch.from_numpy(kept[f"unit_{name}"]) for name in UNIT_FIELDS}
        statistics = ImageStatistics(units=UnitStatistics(**units), **arrays)
        if len(statistics.elbo) != images:
            raise UserError(f"{path} is of another number of images than {images}")
        return statistics, float(kept["seconds"])
    except FileNotFoundError:
        return None
    except Exception as error:  # an array may be missing, or have another shape or type
        said = str(error) if isinstance(error, UserError) else f"{path} is damaged ({one_line(error)})"
        warn(f"{said}; it is computed anew")
        return None
