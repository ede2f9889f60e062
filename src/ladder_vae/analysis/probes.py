"""Linear probes, which tell what a linear map reads off latents (Alain and Bengio 2016, arXiv 1610.01644)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

MAX_CLASSES = 100
MAX_ITERATIONS, MIN_ITERATIONS = 1000, 20
TOLERANCE = (
    1e-3  # of the gradient; a tenth of it takes three times as long, for the same share within its error
)
MAX_PRODUCTS = 1e12  # of a feature and a weight, over all iterations of a probe: minutes on a slow processor


@dataclass(frozen=True)
class Probes:
    """Accuracies of linear probes.

    Args:
        accuracies: By name.
        images: Number of test images that they were scored on.
        remarks: Sentences on what was limited.
    """

    accuracies: dict[str, float] = field(default_factory=dict)
    images: int = 0
    remarks: str = ""


def commonest(labels: np.ndarray) -> np.ndarray:
    """The at most ``MAX_CLASSES`` commonest classes of some images, ascending."""
    classes, counts = np.unique(labels, return_counts=True)
    return np.sort(classes[np.argsort(-counts, kind="stable")[:MAX_CLASSES]])


def probe_accuracy(
    features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray
) -> tuple[float, bool]:
    """Share of test images that a logistic regression classifies correctly, and whether it converged.

    Features are not scaled to unit variance, so that a unit that hardly moves counts little. The number of
    iterations has a limit, which is lower where an iteration takes long.

    Args:
        features: Features of training images, ``(N, d)``.
        labels: Classes of the training images, ``(N,)``; at least two different ones.
        test_features: Features of test images, ``(M, d)``.
        test_labels: Classes of the test images, ``(M,)``.
    """
    products = features.size * len(np.unique(labels))  # in one iteration
    limit = int(np.clip(MAX_PRODUCTS / products, MIN_ITERATIONS, MAX_ITERATIONS))
    probe = LogisticRegression(max_iter=limit, tol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the page says so
        probe.fit(features, labels)
    return float(probe.score(test_features, test_labels)), bool(probe.n_iter_.max() < limit)
