"""What can be read off latents by a linear map (Alain and Bengio 2016, arXiv 1610.01644)."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

MAX_ITERATIONS = 1000


def probe_accuracy(
    features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray
) -> float:
    """Share of test images whose class a logistic regression names.

    Features enter in their own units, not scaled to unit variance: a unit that hardly moves counts as little.

    Args:
        features: Of training images, ``(N, d)``.
        labels: Their classes, ``(N,)``; at least two different ones.
        test_features: Of test images, ``(M, d)``.
        test_labels: Their classes, ``(M,)``.
    """
    probe = LogisticRegression(max_iter=MAX_ITERATIONS)
    return float(probe.fit(features, labels).score(test_features, test_labels))
