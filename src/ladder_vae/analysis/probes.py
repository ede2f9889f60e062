"""Linear probes, which tell what a linear map reads off latents (Alain and Bengio 2016, arXiv 1610.01644)."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

MAX_ITERATIONS = 1000


def probe_accuracy(
    features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray
) -> float:
    """Share of test images that a logistic regression classifies correctly.

    Features are not scaled to unit variance, so that a unit that hardly moves counts little.

    Args:
        features: Features of training images, ``(N, d)``.
        labels: Classes of the training images, ``(N,)``; at least two different ones.
        test_features: Features of test images, ``(M, d)``.
        test_labels: Classes of the test images, ``(M,)``.
    """
    probe = LogisticRegression(max_iter=MAX_ITERATIONS)
    return float(probe.fit(features, labels).score(test_features, test_labels))
