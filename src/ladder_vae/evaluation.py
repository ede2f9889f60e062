"""Evaluate a run on its whole test split, part by part, so that an interruption costs one part.

A run directory keeps ``evaluation/<plan>/``, a plan being everything that a result depends on: while it
lasts ``part-NNNNN.npz`` with what was found of so many images, afterwards ``images.npz`` with all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ladder_vae.data
from ladder_vae.bounds import ImageStatistics, Settings, image_statistics, summarize, unit_counts
from ladder_vae.data import ImageData
from ladder_vae.errors import UserError, one_line
from ladder_vae.runs import Run, checkpoint_path, load_run, read_checkpoint

SAMPLE_SIZES = (1, 10, 100, 1_000, 5_000)
PART = 250  # images a file
DATA_PREFIX = "ladder_vae.data."


def sample_sizes(num_samples: int, given: list[int] | None = None) -> tuple[int, ...]:
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


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Args:
        run: The rebuilt model and its configuration.
        data: The data that it was trained on.
        checkpoint: ``best`` or ``last``.
        global_step: Training steps behind the weights.
    """

    run: Run
    data: ImageData
    checkpoint: str
    global_step: int


def load_subject(path: Path, checkpoint: str) -> Subject:
    """Rebuild a run's model and its data; as safe as :func:`~ladder_vae.runs.load_run`.

    Raises:
        UserError: If either cannot be had, or the data are not those that the run was trained on.
    """
    run = load_run(path, checkpoint)
    settings = dict(run.config.get("data") or {})
    target = str(settings.pop("_target_", ""))
    kind = getattr(ladder_vae.data, target.removeprefix(DATA_PREFIX), None)
    known = target.startswith(DATA_PREFIX) and isinstance(kind, type) and issubclass(kind, ImageData)
    try:
        if not known or kind is None:
            raise TypeError(f"data._target_={target!r} is no data set of ladder_vae")
        data: ImageData = kind(**settings)
    except TypeError as error:
        raise UserError(
            f"{path}: its config.yaml names data that cannot be built: {one_line(error)}"
        ) from None
    data.setup()
    saved = read_checkpoint(checkpoint_path(path, checkpoint))
    data.check_trained_on(saved, path)
    shape = list(data.image_shape)
    if run.config["model"].get("input_shape") != shape:
        raise UserError(
            f"{path} was trained on images of shape {run.config['model'].get('input_shape')}, "
            f"but {kind.__name__} holds images of shape {shape}"
        )
    return Subject(run, data, checkpoint, int(saved.get("global_step", 0)))


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Args:
        metrics: By the names of ``metrics.json``.
        statistics: Of each test image.
    """

    metrics: dict[str, float]
    statistics: ImageStatistics


def evaluate(
    subject: Subject,
    settings: Settings,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Evaluate all test images; those that an earlier call with the same settings has finished are kept.

    Args:
        on_progress: Called with the number of images that were added, kept ones first.
    """
    directory = subject.run.path / "evaluation" / _plan(subject, settings)
    done = directory / "images.npz"
    images = subject.data.split("test")
    finished = _read(done)
    if finished is None:
        directory.mkdir(parents=True, exist_ok=True)
        model = subject.run.model.to(device)
        parts = []
        for start in range(0, len(images), PART):
            path = directory / f"part-{start // PART:05d}.npz"
            indices = range(start, min(start + PART, len(images)))
            part = _read(path)
            if part is None:
                part = _evaluate_part(model, images, indices, settings, device, on_progress)
                _write(path, *part)
            else:
                on_progress(len(indices))
            parts.append(part)
        statistics = ImageStatistics.concatenate([part for part, _ in parts])
        finished = statistics, sum(seconds for _, seconds in parts)
        _write(done, *finished)
        for path in directory.glob("part-*"):
            path.unlink()
    else:
        on_progress(len(images))
    statistics, seconds = finished
    return Evaluation(
        {
            **summarize(statistics, settings.sample_sizes, unit_counts(subject.run.model)),
            "evaluate/num_samples": settings.num_samples,
            "evaluate/seconds": seconds,
        },
        statistics,
    )


def _evaluate_part(
    model: Any,
    images: torch.Tensor,
    indices: range,
    settings: Settings,
    device: torch.device,
    on_progress: Callable[[int], None],
) -> tuple[ImageStatistics, float]:
    began = time.perf_counter()
    parts = []
    for start in range(indices.start, indices.stop, settings.images_per_pass):
        batch = range(start, min(start + settings.images_per_pass, indices.stop))
        x = images[batch.start : batch.stop].gt(0).float().to(device)
        parts.append(image_statistics(model, x, batch, settings))
        on_progress(len(batch))
    return ImageStatistics.concatenate(parts), time.perf_counter() - began


def _plan(subject: Subject, settings: Settings) -> str:
    """Name of everything that a result depends on beyond rounding."""
    checkpoint = checkpoint_path(subject.run.path, subject.checkpoint)
    identity = [
        hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        subject.data.fingerprint,
        subject.run.config["model"],
        subject.run.config["data"].get("binarization"),
        settings.sample_sizes,
        settings.seed,
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{subject.checkpoint}_{settings.num_samples}_{digest[:12]}"


def _write(path: Path, statistics: ImageStatistics, seconds: float) -> None:
    part = path.with_name(path.name + ".part")
    arrays = {name: value.numpy() for name, value in vars(statistics).items()}
    with part.open("wb") as file:
        np.savez(file, seconds=np.float64(seconds), **arrays)
    os.replace(part, path)


def _read(path: Path) -> tuple[ImageStatistics, float] | None:
    """What was written; None where it is missing or damaged, and has to be computed again."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        seconds = float(arrays.pop("seconds"))
        return ImageStatistics(**{name: torch.from_numpy(a) for name, a in arrays.items()}), seconds
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return None
