"""Measure what each level of a run holds."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ladder_vae.analysis.classifier import trained_classifier
from ladder_vae.analysis.influence import measure_influence
from ladder_vae.analysis.readings import Readings, level_metrics, probe_levels, read_levels
from ladder_vae.runs.opened import Subject, check_learned
from ladder_vae.system.errors import UserError
from ladder_vae.system.naming import z_name

PROBE_IMAGES, EMBEDDED = 20_000, 1_000  # of an analysis of all test images


@dataclass(frozen=True)
class Settings:
    """Settings of an analysis.

    Args:
        levels: Indices of the levels in the pictures; None means all, or, of many, those with the highest
            rates.
        show: Indices of the test images in the pictures; None means the first of each class.
        draws: Draws per image when a level is drawn anew.
        probe_images: Number of training images that probes are fitted on; None means :data:`PROBE_IMAGES`, or
            of a part of the test images the same part of that.
        embedded: Number of test images in the embedding; None means :data:`EMBEDDED`, or its part as above.
        seed: Seed of all draws.
        classifier_dir: Directory that keeps the judge.
    """

    levels: tuple[int, ...] | None
    show: tuple[int, ...] | None
    draws: int
    probe_images: int | None
    embedded: int | None
    seed: int
    classifier_dir: Path


@dataclass(frozen=True)
class Analysis:
    """The result of an analysis.

    Args:
        figures: Figures by name; see :func:`~ladder_vae.analysis.readings.level_metrics`.
        readings: Latents and rates of the N test images.
        labels: Classes of these images, ``(N,)``, or None.
        remarks: Sentences on what was limited in measuring, or an empty text.
    """

    figures: dict[str, float]
    readings: Readings
    labels: Tensor | None
    remarks: str = ""


def share(subject: Subject, settings: Settings) -> tuple[int, int]:
    """How many training images probes are fitted on, and how many test images are embedded."""
    part = len(subject.indices) / len(subject.data.split("test"))
    return (
        settings.probe_images or math.ceil(part * PROBE_IMAGES),
        settings.embedded or math.ceil(part * EMBEDDED),
    )


def check(subject: Subject, settings: Settings) -> None:
    """Raises UserError if the settings name a level or an image that the run does not have."""
    model = subject.run.model
    check_learned(subject.run)
    depth, total = model.num_layers, len(subject.data.split("test"))
    for level in settings.levels or ():
        if not 0 <= level < depth:
            has = "one level, z1" if depth == 1 else f"the levels z1 to z{depth}"
            raise UserError(f"levels names {z_name(level)}, but {subject.run.path} has {has}")
    for index in settings.show or ():
        if not 0 <= index < total:
            raise UserError(
                f"show names test image {index}, but {subject.run.path} has images 0 to {total - 1}"
            )


def analyze(
    subject: Subject, settings: Settings, device: torch.device, on_step: Callable[[str], None]
) -> Analysis:
    """Measure what each level holds.

    Args:
        subject: The run and its images.
        settings: How much to measure.
        device: Where to compute.
        on_step: Called with a message before each step.

    Raises:
        UserError: If the judge cannot be written to disk, or the model has diverged.
    """
    data, index = subject.data, subject.indices
    model = subject.run.model.to(device)
    probe_images, _ = share(subject, settings)
    train = data.sample("train", probe_images)
    on_step("the classifier that judges images")
    judge = trained_classifier(data, settings.classifier_dir, _announce)
    on_step(f"inferring {len(index):,} test and {len(train):,} training images")
    tested = read_levels(model, data, "test", index, settings.seed)
    trained = read_levels(model, data, "train", train, settings.seed)
    _check_finite(subject, tested.rates)
    for readings in (tested, trained):
        _check_finite(subject, *readings.means, *readings.samples, *readings.innovations)
    on_step("fitting linear probes")
    probes = probe_levels(data, train, trained, index, tested)
    on_step("drawing each level anew")
    influence = measure_influence(model, data, index, judge, settings.draws, settings.seed)
    _check_finite(subject, *influence.changes.values())
    labels = data.labels("test")
    return Analysis(
        level_metrics(tested, influence, probes, judge, settings.draws),
        tested,
        None if labels is None else labels[list(index)],
        probes.remarks,
    )


def _announce(what: str) -> None:
    """Say something within a step."""
    print(what, file=sys.stderr, flush=True)


def _check_finite(subject: Subject, *values: Tensor) -> None:
    if not all(value.isfinite().all() for value in values):
        raise UserError(f"what {subject.run.path} infers is not finite; the model has diverged")
