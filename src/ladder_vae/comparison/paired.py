"""Two models on the same images: their difference image by image has a far smaller error than either mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ladder_vae.comparison.groups import Group
from ladder_vae.runs.reading import MOST_BYTES
from ladder_vae.runs.record import METRICS, Record, read_metrics
from ladder_vae.system.errors import UserError, warn
from ladder_vae.system.files import read_npz

MOST_GROUPS = 5  # of which every pair is compared; of more, each with the best


@dataclass(frozen=True)
class ImageBounds:
    """What an evaluation found of each of M images.

    Args:
        identity: Which data, split and draw of the pixels they are of.
        indices: Which images of the split, ``(M,)``.
        elbo: Nats, ``(M,)``.
        log_px: L_K, nats, ``(M,)``.
    """

    identity: str
    indices: np.ndarray
    elbo: np.ndarray
    log_px: np.ndarray

    def same_images(self, other: ImageBounds) -> bool:
        """Whether both are of the same binary images, in the same order."""
        return self.identity == other.identity and np.array_equal(self.indices, other.indices)


@dataclass(frozen=True)
class Difference:
    """How much better the second group of runs is than the first, in nats, on the images that both saw.

    Args:
        first: Finished runs that differ in nothing but their seed.
        second: The same.
        images: Number of images.
        elbo: Mean of the differences of the ELBO.
        elbo_error: Its standard error over images.
        log_px: Mean of the differences of L_K.
        log_px_error: Its standard error over images.
        unpaired_error: What the errors of the two means would make of it.
    """

    first: Group
    second: Group
    images: int
    elbo: float
    elbo_error: float
    log_px: float
    log_px_error: float
    unpaired_error: float


def read_image_bounds(run: Record, split: str, k: int) -> ImageBounds | None:
    """The evaluation that the bound in the run's ``metrics.json`` is from; None if it is not there."""
    name = f"{split}/log_px/K={k}"
    for path in sorted(run.path.glob("evaluation/*/images.npz")):
        if not (path.parent / METRICS).exists():  # one draw of several, of which metrics say the mean
            continue
        try:
            if read_metrics(path.parent).get(name) != run.metrics[name]:
                continue
            kept = read_npz(path, MOST_BYTES[path.suffix])
            return _bounds(kept, k)
        except (UserError, OSError) as error:
            warn(f"{error}; it is left out of what is compared image by image")
        except (ValueError, KeyError, IndexError, TypeError):
            warn(f"{path} is of an earlier version, or damaged; it is left out of the comparison by image")
    return None


def _bounds(kept: Mapping[str, np.ndarray], k: int) -> ImageBounds:
    column = list(kept["sample_sizes"]).index(k)
    elbo = -(kept["distortion"] + kept["rates"].sum(1))
    log_px, indices = kept["log_px"][:, column], kept["indices"]
    if not len(elbo) == len(log_px) == len(indices):
        raise ValueError("an array is of another number of images than the others")
    return ImageBounds(str(kept["identity"]), indices, elbo, log_px)


def paired_differences(groups: Sequence[Group], split: str, k: int) -> list[Difference]:
    """The difference of each pair of groups; of more than five, of each and the one with the best L_K.

    Left out are groups of which images or their evaluations differ.
    """
    known = [(group, bounds) for group in groups if (bounds := _mean_over_seeds(group, split, k))]
    if len(known) > MOST_GROUPS:
        best = max(known, key=lambda pair: float(pair[1].log_px.mean()))
        pairs = [(other, best) for other in known if other is not best]
    else:
        pairs = list(combinations(known, 2))
    return [
        _difference(first, second, a, b)
        for (first, a), (second, b) in pairs
        if a.same_images(b) and len(a.indices) > 1
    ]


def _mean_over_seeds(group: Group, split: str, k: int) -> ImageBounds | None:
    found = [read_image_bounds(run, split, k) for run in group.runs]
    seeds = [bounds for bounds in found if bounds is not None]
    if len(seeds) < len(found) or not all(seeds[0].same_images(other) for other in seeds):
        return None
    elbo, log_px = (np.mean([getattr(seed, name) for seed in seeds], axis=0) for name in ("elbo", "log_px"))
    return ImageBounds(seeds[0].identity, seeds[0].indices, elbo, log_px)


def _difference(first: Group, second: Group, a: ImageBounds, b: ImageBounds) -> Difference:
    elbo, log_px = b.elbo - a.elbo, b.log_px - a.log_px
    unpaired = math.hypot(_error(a.log_px), _error(b.log_px))
    return Difference(
        first,
        second,
        len(elbo),
        float(elbo.mean()),
        _error(elbo),
        float(log_px.mean()),
        _error(log_px),
        unpaired,
    )


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
