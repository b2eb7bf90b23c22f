"""The tails fitted to the scores of healthy windows: how high a score must be to be seen that rarely. Pure."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_MAX_SHAPE = 0.5
# Prior on the Pareto shape: 0 +- .15. Forty excesses alone know it to +- .2, which is a factor of ten in a
# far level.
_PRIOR_EXCESSES = 67.0
_LEAST_TAIL = 1e-6  # a tail's width relative to where it begins: constant scores still have p-values
_LEAST_LOG_P = -700.0  # of which the exponential is not yet 0
_NORMAL = NormalDist()


def log_gaussian_tail(
    s: NDArray[np.float64], u: float, n_effective: float, log_p: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Scores at ``log_p``, none below ``u``, and the standard deviation of the log score."""
    log_s = np.log(s)
    median = float(np.median(log_s))
    above = np.maximum(log_s - median, 0.0)
    spread = math.sqrt(2.0 * float(np.mean(above * above)))
    # The standard error of a prediction, for where the median is. That the spread is estimated too needs no caution more: scores
    # out of fold are of models of fewer windows, and so spread further than those of the model that is served.
    spread = max(spread * math.sqrt(1.0 + 1.0 / max(n_effective, 1.0)), _LEAST_TAIL)
    z = np.array([-_NORMAL.inv_cdf(math.exp(q)) for q in log_p.tolist()])
    return np.maximum(np.exp(median + spread * z), u), spread


def pareto_tail(
    excess: NDArray[np.float64], u: float, effective_share: float, log_q: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Scores where the generalised Pareto fitted to sorted ``excess`` over ``u`` is exceeded with log
    probability ``log_q``, and its shape."""
    m = excess.size
    mean, shape = 0.0, 0.0
    if m >= 2:
        mean = float(excess.mean())
        weighted = float(np.mean(excess * (1.0 - (np.arange(1, m + 1) - 0.35) / m)))
        raw = 2.0 - mean / (mean - 2.0 * weighted) if mean > 2.0 * weighted else _MAX_SHAPE
        m_effective = m * min(effective_share, 1.0)
        shape = min(max(raw, 0.0), _MAX_SHAPE) * m_effective / (m_effective + _PRIOR_EXCESSES)
    scale = max(mean * (1.0 - shape), _LEAST_TAIL * u)  # keeps the mean excess
    if shape < 1e-6:
        return u - scale * log_q, shape
    return u + scale / shape * np.expm1(-shape * log_q), shape


def shape_of(
    tail: Literal["log_gaussian", "pot"], scores: NDArray[np.float64], log_p: NDArray[np.float64]
) -> float:
    """The shape of a tail, as the functions above give it, told from the end of its table: ``scores`` float64[m] at
    ``log_p``, m >= 2, evenly spaced there; NaN where the table is of no such tail."""
    if tail == "log_gaussian":
        if scores[-2] <= 0.0 or log_p[-2] >= 0.0:
            return math.nan
        if log_p[-1] < _LEAST_LOG_P:
            return math.nan
        near, far = (-_NORMAL.inv_cdf(math.exp(q)) for q in log_p[-2:].tolist())
        return float(np.log(scores[-1] / scores[-2])) / (far - near)
    if scores.size < 3:
        return math.nan
    near, far = np.diff(scores[-3:]).tolist()
    return math.log(far / near) / float(log_p[-2] - log_p[-1])
