"""Names of metrics, and what they are of."""

from __future__ import annotations

import re
from typing import Any

LEVELS = "levels"  # what the analysis of levels enters into METRICS is named <split>/levels/...
IMAGES_OF = {"test": "test images", "val": "validation images", "train": "training images"}


def z_name(level: int) -> str:
    """``z3`` for level index 2."""
    return f"z{level + 1}"


def named_terms(stage: str, terms: Any) -> dict[str, Any]:
    """ELBO, rate, distortion and the rate of each level, by the names of TensorBoard and ``metrics.json``.

    Args:
        stage: First part of every name.
        terms: Means of :class:`~ladder_vae.models.inference.Terms`.
    """
    return {
        f"{stage}/elbo": terms.elbo,
        f"{stage}/rate": terms.rate,
        f"{stage}/distortion": terms.distortion,
        **{f"{stage}/rate/z{level}": rate for level, rate in enumerate(terms.rates, start=1)},
    }


def curves(stage: str, num_layers: int) -> list[str]:
    """Names of the terms that training logs of ``train`` or ``val``."""
    rates = [f"rate/z{level}" for level in range(1, num_layers + 1)]
    return [f"{stage}/{name}" for name in ("elbo", "rate", "distortion", *rates)]


def level_keys(metric: str) -> list[str | int]:
    """Sort key that puts ``rate/z2`` before ``rate/z10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", metric)]


def images_of(split: str) -> str:
    """``test_2000`` in words: "2000 test images, evenly spaced"."""
    name, _, count = split.partition("_")
    kind = IMAGES_OF[name]
    return f"{count} {kind}, evenly spaced" if count else f"all {kind}"
