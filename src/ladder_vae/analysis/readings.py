"""Read the latents of every level and turn them into figures: rates, changes, probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ladder_vae.analysis.classifier import Classifier
from ladder_vae.analysis.influence import Influence
from ladder_vae.analysis.probes import Probes, commonest, probe_accuracy
from ladder_vae.analysis.resolutions import PASS, images_per_pass, on_grid, pooled
from ladder_vae.data.data_sets import ImageData
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.innovations import innovations
from ladder_vae.system.naming import z_name
from ladder_vae.system.randomness import stream_seed

PROBED = ("mean", "sample", "innovation")  # of each level
PROBED_SIDE = 32  # places along a side of an image as a probe reads it, at most


@dataclass(frozen=True)
class Readings:
    """Latents and rates of N images. Lists have one entry per level, z_1 first.

    Args:
        means: Posterior means, ``(N, *event)``, of large levels
            :func:`~ladder_vae.analysis.resolutions.pooled`, as are the next two. The levels that a posterior
            reads are at their means, too.
        samples: One posterior sample, ``(N, *event)``.
        innovations: Innovations of that sample, ``(N, *event)``. At the top they equal the sample.
        unit_rates: Rate of each unit for that sample, averaged over images, nats, ``(*event,)``.
        rates: Rate of each level for that sample, nats, ``(N, L)``.
    """

    means: list[Tensor]
    samples: list[Tensor]
    innovations: list[Tensor]
    unit_rates: list[Tensor]
    rates: Tensor


@torch.inference_mode()
def read_levels(model: Hierarchy, data: ImageData, split: str, index: Sequence[int], seed: int) -> Readings:
    """Infer images of a split; the result is on the CPU. The model should be in eval mode."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(stream_seed(seed, "levels", split))
    means, samples, added, rates = [], [], [], []
    unit_rates = [torch.zeros(event, dtype=torch.float64) for event in model.event_shapes]
    chunk = images_per_pass(model, math.prod(data.image_shape[1:]))

    def kept(level: Tensor) -> Tensor:
        return pooled(level, model.num_layers).cpu()

    for start in range(0, len(index), chunk):
        x = data.observe(split, index[start : start + chunk]).to(device)
        features = model.encode(x)
        noise = model.draw_noise(1, len(x), like=x, generator=generator)
        inference = model.infer(x, noise=noise, features=features)
        central = model.infer(x, noise=[torch.zeros_like(e) for e in noise], features=features)
        means.append([kept(level.q.mean.expand_as(level.z)[0]) for level in central.levels])
        samples.append([kept(level.z[0]) for level in inference.levels])
        added.append([kept(e) for e in innovations(inference)])
        for total, level in zip(unit_rates, inference.levels, strict=True):
            total += level.unit_rate()[0].cpu().double().sum(0)
        rates.append(inference.rates()[:, 0].T.cpu())

    def joined(chunks: list[list[Tensor]]) -> list[Tensor]:
        return [torch.cat(level) for level in zip(*chunks, strict=True)]

    of_units = [(total / len(index)).float() for total in unit_rates]
    return Readings(joined(means), joined(samples), joined(added), of_units, torch.cat(rates))


def level_metrics(
    readings: Readings,
    influence: Influence,
    probes: Probes,
    judge: Classifier | None,
    draws: int,
) -> dict[str, float]:
    """All figures by name, each with its standard error over images under ``..._stderr``.

    Args:
        readings: Latents and rates of the test images.
        influence: How these images change when a level is drawn anew.
        probes: See :func:`probe_levels`.
        judge: The classifier, if there is one.
        draws: Draws per image that ``influence`` is averaged over.
    """
    images, depth = readings.rates.shape
    places = [*map(z_name, range(depth)), "all", "posterior"]
    metrics: dict[str, float] = {"images": images, "draws": draws}
    for name, values in {"rate": readings.rates, **influence.changes}.items():
        for place, column in zip(places, values.T.double(), strict=False):
            metrics |= _estimate(f"{name}/{place}", column)
    if judge and influence.kept is not None:
        metrics |= _estimate("class_kept", influence.kept.double())
        metrics |= _share("judge_accuracy", judge.accuracy, judge.test_images)
    for name, accuracy in probes.accuracies.items():
        metrics |= _share(name, accuracy, probes.images)
    return metrics


def probe_levels(
    data: ImageData, train: Sequence[int], trained: Readings, test: Sequence[int], tested: Readings
) -> Probes:
    """Accuracies of linear probes that read the class off each level's mean, sample and innovation.

    ``probe_pixels`` is the accuracy of a probe on the image as the model sees it, ``probe_none`` that of
    always naming the commonest class. Of many classes, only images of the commonest are used. There are no
    probes if the images have no classes or only one.

    Args:
        data: The data set.
        train: Indices of the training images that probes are fitted on.
        trained: Readings of these images.
        test: Indices of the test images that probes are scored on.
        tested: Readings of these images.
    """
    every, every_test = (data.labels(name) for name in ("train", "test"))
    if every is None or every_test is None:
        return Probes()
    y, y_test = every[list(train)].numpy(), every_test[list(test)].numpy()
    classes = commonest(y)
    used, used_test = (np.isin(labels, classes).nonzero()[0] for labels in (y, y_test))
    if len(classes) < 2 or not len(used_test):
        return Probes()
    remarks = []
    if count := len(np.unique(y)) - len(classes):
        remarks.append(
            f"Probes tell the {len(classes)} commonest classes apart, on {len(used_test):,} test images of "
            f"these; {count:,} other classes are left out."
        )
    y, y_test = y[used], y_test[used_test]
    pixels = [
        _probed_pixels(data, name, np.asarray(index)[chosen].tolist())
        for name, index, chosen in (("train", train, used), ("test", test, used_test))
    ]
    sets = {"probe_pixels": pixels}
    for kind in PROBED:
        levels = zip(getattr(trained, f"{kind}s"), getattr(tested, f"{kind}s"), strict=True)
        for level, (features, test_features) in enumerate(levels):
            sets[f"probe_{kind}/{z_name(level)}"] = [
                features[used].flatten(1),
                test_features[used_test].flatten(1),
            ]
    found = {name: probe_accuracy(a.numpy(), y, b.numpy(), y_test) for name, (a, b) in sets.items()}
    if stopped := sum(not converged for _, converged in found.values()):
        remarks.append(f"{stopped} of {len(found)} probes were stopped before they had converged.")
    labels, counts = np.unique(y, return_counts=True)
    accuracies = {name: accuracy for name, (accuracy, _) in found.items()}
    accuracies["probe_none"] = float((y_test == labels[counts.argmax()]).mean())
    return Probes(accuracies, len(y_test), " ".join(remarks))


def _probed_pixels(data: ImageData, split: str, index: Sequence[int]) -> Tensor:
    """Images as vectors; large ones as means over the cells of a grid."""
    parts = (data.observe(split, index[start : start + PASS]) for start in range(0, len(index), PASS))
    return torch.cat([on_grid(part, PROBED_SIDE).flatten(1) for part in parts])


def _estimate(name: str, values: Tensor) -> dict[str, float]:
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {name: float(values.mean())} | ({f"{name}_stderr": error} if math.isfinite(error) else {})


def _share(name: str, share: float, count: int) -> dict[str, float]:
    error = {f"{name}_stderr": math.sqrt(share * (1 - share) / count)} if count > 1 else {}
    return {name: share, **error}
