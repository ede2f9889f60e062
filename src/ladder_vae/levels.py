"""What each level holds, in numbers: read off its latents, and by what happens when it is drawn anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladder_vae.classifier import Classifier
from ladder_vae.data import ImageData
from ladder_vae.hierarchy import Hierarchy
from ladder_vae.manipulate import innovations, render, resample
from ladder_vae.probes import probe_accuracy
from ladder_vae.randomness import stream_seed

CHUNK = 1000  # images a forward pass


@dataclass(frozen=True)
class Readings:
    """What inference says of N images on each level; lists are by level, z_1 first.

    Args:
        means: Posterior means, the levels that a posterior is conditioned on at their means, ``(N, units)``.
        innovations: Of one posterior sample, ``(N, units)``.
        unit_rates: Rate of each unit under that sample, mean over images, nats, ``(units,)``.
        rates: Rate of each level, nats, ``(N, L)``.
    """

    means: list[Tensor]
    innovations: list[Tensor]
    unit_rates: list[Tensor]
    rates: Tensor


@torch.inference_mode()
def read_levels(model: Hierarchy, data: ImageData, split: str, index: Sequence[int], seed: int) -> Readings:
    """Infer images of a split, on the CPU when done. Meant for a model in eval mode."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(stream_seed(seed, "levels", split))
    means, drawn, units, rates = [], [], [], []
    for batch in data.binary(split, index).split(CHUNK):
        x = batch.to(device)
        features = model.encode(x)
        noise = model.draw_noise(1, len(x), like=x, generator=generator)
        inference = model.infer(x, noise=noise, features=features)
        central = model.infer(x, noise=[torch.zeros_like(e) for e in noise], features=features)
        means.append([level.q.mean.expand_as(level.z)[0].flatten(1).cpu() for level in central.levels])
        drawn.append([e.flatten(1).cpu() for e in innovations(inference)])
        units.append([level.unit_rate()[0].flatten(1).cpu() for level in inference.levels])
        rates.append(inference.rates()[:, 0].T.cpu())

    def joined(chunks: list[list[Tensor]]) -> list[Tensor]:
        return [torch.cat(level) for level in zip(*chunks, strict=True)]

    return Readings(joined(means), joined(drawn), [u.mean(0) for u in joined(units)], torch.cat(rates))


@dataclass(frozen=True)
class Influence:
    """What becomes of M reconstructions when a part of their code is drawn anew.

    Columns: each level alone, z_1 first; all levels, so that nothing of the image is left; and another
    posterior sample, so that all of it is.

    Args:
        pixels: Mean absolute change of a pixel of the decoder's mean, mean over draws, ``(M, L + 2)``.
        classes: Share of the draws in which the judge names another class, ``(M, L + 2)``; None without one.
        kept: Share of the draws in which the judge names the unchanged reconstruction as the image is
            labeled, ``(M,)``; None without a judge.
    """

    pixels: Tensor
    classes: Tensor | None
    kept: Tensor | None


@torch.inference_mode()
def measure_influence(
    model: Hierarchy,
    data: ImageData,
    index: Sequence[int],
    judge: Classifier | None,
    draws: int,
    seed: int,
    on_progress: Callable[[int], None] = lambda images: None,
) -> Influence:
    """Draw each level of test images anew, all other innovations kept. Meant for a model in eval mode.

    Args:
        index: Which images of the test split.
        draws: How often an image; each time from another posterior sample.
        on_progress: Called with a number of images that are done.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(stream_seed(seed, "influence"))
    labels = data.labels("test")
    labels = None if labels is None else labels[list(index)]
    parts, every = [], range(model.num_layers)
    for start in range(0, len(index), CHUNK):
        x = data.binary("test", index[start : start + CHUNK]).to(device)
        features = model.encode(x)
        pixels = torch.zeros(len(x), model.num_layers + 2)
        classes, kept = torch.zeros_like(pixels), torch.zeros(len(x))
        for _ in range(draws):
            one, other = (
                model.infer(
                    x, noise=model.draw_noise(1, len(x), like=x, generator=generator), features=features
                )
                for _ in range(2)
            )
            code = innovations(one)
            base = render(model, code)  # and not from params: what changes nothing is then 0, not 1e-9
            named = judge.predict(base) if judge else None
            for column, changed in enumerate([*([level] for level in every), every, None]):
                if changed is None:
                    image = model.likelihood.mean(other.params[0])
                else:
                    image = render(model, resample(code, *changed, generator=generator))
                pixels[:, column] += (image - base).abs().flatten(1).mean(1).cpu() / draws
                if judge and named is not None:
                    classes[:, column] += torch.ne(judge.predict(image), named).float().cpu() / draws
            if named is not None and labels is not None:
                right = torch.eq(named.cpu(), labels[start : start + CHUNK])
                kept += right.float() / draws
        parts.append((pixels, classes, kept))
        on_progress(len(x))
    pixels, classes, kept = (torch.cat(part) for part in zip(*parts, strict=True))
    return Influence(pixels, classes if judge else None, kept if judge else None)


def level_metrics(
    readings: Readings,
    influence: Influence,
    probes: Mapping[str, float],
    judge: Classifier | None,
    draws: int,
) -> dict[str, float]:
    """All figures by name, each with its standard error over images under ``..._stderr``.

    Args:
        probes: Accuracies by name, see :func:`probe_levels`.
    """
    images, depth = readings.rates.shape
    places = [*(f"z{level}" for level in range(1, depth + 1)), "all", "posterior"]
    metrics: dict[str, float] = {"images": images, "draws": draws}
    columns = [
        ("rate", readings.rates),
        ("pixel_change", influence.pixels),
        ("class_change", influence.classes),
    ]
    for name, values in columns:
        if values is not None:
            for place, column in zip(places, values.T.double(), strict=False):
                metrics |= _estimate(f"{name}/{place}", column)
    if judge and influence.kept is not None:
        metrics |= _estimate("class_kept", influence.kept.double())
        metrics["judge_accuracy"] = judge.accuracy
        metrics["judge_accuracy_stderr"] = _binomial(judge.accuracy, judge.test_images)
    for name, accuracy in probes.items():
        metrics |= {name: accuracy, f"{name}_stderr": _binomial(accuracy, images)}
    return metrics


def probe_levels(
    data: ImageData, train: Sequence[int], trained: Readings, test: Sequence[int], tested: Readings
) -> dict[str, float]:
    """Accuracy of a linear probe for the class on posterior means and on innovations of each level.

    ``probe_pixels`` is of the binarized image itself, ``probe_none`` of always naming the commonest class.
    Empty where the images have no classes, or all the same.

    Args:
        train: Images of the training split that the probes are fitted on, with their readings.
        test: Images of the test split that they are scored on, with theirs.
    """
    y, y_test = (data.labels(name) for name in ("train", "test"))
    if y is None or y_test is None:
        return {}
    y, y_test = y[list(train)], y_test[list(test)]
    if len(y.unique()) < 2:
        return {}

    def accuracy(features: Tensor, test_features: Tensor) -> float:
        return probe_accuracy(features.numpy(), y.numpy(), test_features.numpy(), y_test.numpy())

    pixels = [data.binary(name, index).flatten(1) for name, index in (("train", train), ("test", test))]
    probes = {
        "probe_pixels": accuracy(*pixels),
        "probe_none": float((y_test == y.mode().values).double().mean()),
    }
    for kind in ("mean", "innovation"):
        levels = zip(getattr(trained, f"{kind}s"), getattr(tested, f"{kind}s"), strict=True)
        for level, (features, test_features) in enumerate(levels, start=1):
            probes[f"probe_{kind}/z{level}"] = accuracy(features, test_features)
    return probes


def _estimate(name: str, values: Tensor) -> dict[str, float]:
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {name: float(values.mean())} | ({f"{name}_stderr": error} if math.isfinite(error) else {})


def _binomial(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)
