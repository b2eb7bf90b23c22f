"""How a model fares on blocks of time that it was not fitted on. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.calibration import fit_calibration, p_values

N_FOLDS = 5
FAR_LEVEL = 0.01  # the p-value at which the cross-fit false-alarm rate is stated


def breaks_between(start_ns: NDArray[np.int64], hop_ns: int) -> tuple[int, ...]:
    """Indices of windows before which time is missing. In burst mode the pause between records is no gap."""
    if start_ns.size < 2:
        return ()
    steps = np.diff(start_ns)
    usual = max(float(np.quantile(steps, 0.95)), float(hop_ns))
    return tuple((np.flatnonzero(steps > 1.5 * usual) + 1).tolist())


def all_alike(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """``scores`` float32[w] of rows within their ranges, which are all equally normal: each as high as any such row scores.
    That is more than was seen, for a row may be at the ends of several ranges, and off the mean by their whole width."""
    return np.full_like(scores, 4.0 * scores.max())


def false_alarm_rate(
    out_of_fold: NDArray[np.float32],
    blocks: Sequence[NDArray[np.intp]],
    n_effective: float,
) -> float:
    """Share of healthy windows at or below FAR_LEVEL, each judged by a calibration that has not seen its
    block; ``blocks`` are indices into ``out_of_fold``."""
    n_alarms = 0
    for test in blocks:
        others = np.setdiff1d(np.arange(out_of_fold.size), test)
        calibration = fit_calibration(out_of_fold[others], n_effective * others.size / out_of_fold.size)
        n_alarms += int(np.count_nonzero(p_values(calibration, out_of_fold[test]) <= FAR_LEVEL))
    return n_alarms / out_of_fold.size
