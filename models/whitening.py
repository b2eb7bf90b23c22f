"""The linear family's graph from a mean and a covariance: shrunk, whitened, one dense layer. Pure.

Oracle-approximating shrinkage (Chen, Wiesel, Eldar & Hero 2010) depends on n, mean and covariance alone, which Ledoit and
Wolf's does not. So it serves where rows are few or far away: on a gateway, and for what a fleet sums up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.export import Dense

MAX_WHITENING_GAIN = 10.0  # collinear features would else be amplified without bound, past float32 and int8
LEAST_VARIANCE = (
    1e-6  # below it rows are all alike (a block of a channel that stood still), and are not whitened
)


def oas(covariance: NDArray[np.float64], n: float) -> tuple[NDArray[np.float64], float]:
    """``covariance`` float64[k, k] of n rows, shrunk towards a multiple of the identity, and by how much (0 to 1)."""
    k = len(covariance)
    mean_square = float(np.mean(covariance**2))
    mu = float(np.trace(covariance)) / k
    numerator = mean_square + mu**2
    denominator = (n + 1.0) * (mean_square - mu**2 / k)
    shrinkage = 1.0 if denominator <= 0.0 else min(numerator / denominator, 1.0)
    shrunk = (1.0 - shrinkage) * covariance
    shrunk.flat[:: k + 1] += shrinkage * mu
    return shrunk, shrinkage


def whitening_layers(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> tuple[Dense, ...]:
    """The layer whose output has, for rows of ``mean`` and ``covariance``, no correlation and spread 1."""
    variance, axes = np.linalg.eigh(covariance)
    mean_variance = float(variance.mean())
    floor = mean_variance / MAX_WHITENING_GAIN**2 if mean_variance >= LEAST_VARIANCE else 1.0
    whitening = (axes / np.sqrt(np.maximum(variance, floor))) @ axes.T
    whitening = (whitening + whitening.T) / 2
    return (dense(whitening, -whitening @ mean, "none"),)


def dense(weights: NDArray[np.float64], bias: NDArray[np.float64], activation: str) -> Dense:
    """The layer of these, as float32."""
    return Dense(
        np.ascontiguousarray(weights, dtype=np.float32),
        np.ascontiguousarray(bias, dtype=np.float32),
        "relu" if activation == "relu" else "none",
    )
