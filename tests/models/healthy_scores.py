"""Scores of healthy machines, simulated: what calibration is tested on."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration, effective_windows, fit_calibration


def ar_scores(n: int, phi: float, seed: int, k: int = 12) -> NDArray[np.float32]:
    """RMS over ``k`` Gaussian AR(1) features, float32[n]: the scores of a healthy machine."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, k)) * math.sqrt(1 - phi * phi)
    x = np.empty((n, k))
    now = rng.normal(size=k)
    for i in range(n):
        now = x[i] = phi * now + noise[i]
    rms: NDArray[np.float32] = np.sqrt(np.mean(x * x, axis=1)).astype(np.float32)
    return rms


@cache
def long_run(phi: float) -> NDArray[np.float32]:
    return ar_scores(200_000, phi, 99)


def fitted(scores: NDArray[np.float32], step_ns: int | None = None) -> Calibration:
    return fit_calibration(scores, effective_windows(np.log(scores), 1.0), step_ns=step_ns)


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)
