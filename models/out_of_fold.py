"""How a model fares on blocks of time that it was not fitted on, and the calibration that follows: the same for a sink and for a
gateway. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration, block_folds, effective_windows, fit_calibration, p_values
from models.sample_size import MIN_ROWS, require_enough
from models.signal import WindowSpec

N_FOLDS = 5
FAR_LEVEL = 0.01  # the p-value at which the cross-fit false-alarm rate is stated

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]
Scored = Mapping[str, NDArray[np.float32]]  # by the dtype of the graph


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """``scores`` float32[w'] of the windows that were judged (all but the first block), and the ``calibration`` by them, by the
    dtype of the graph. ``n_effective``: what all windows are worth; ``false_alarm_rate``: of the float32 graph, at FAR_LEVEL."""

    scores: Scored
    calibration: Mapping[str, Calibration]
    n_effective: float
    false_alarm_rate: float


def cut(n_windows: int, window: WindowSpec, step_ns: int) -> list[Fold]:
    """The folds of ``n_windows`` windows, ``step_ns`` apart. FitError where they are too few, saying how much more it takes."""
    overlap = window.overlap
    require_enough(n_windows, n_windows / overlap, window, step_ns)
    try:
        folds = block_folds(n_windows, N_FOLDS, math.ceil(overlap))
    except ValueError:
        folds = []
    if min((train.size for train, _ in folds), default=0) < MIN_ROWS:
        require_enough(n_windows, 0.0, window, step_ns)
    return folds


def cross_fit(
    folds: Sequence[Fold],
    score: Callable[[NDArray[np.bool_], NDArray[np.intp]], Scored],
    start_ns: NDArray[np.int64],
    window: WindowSpec,
    step_ns: int,
    *,
    ranged: bool,
    tick: Callable[[str], None] = lambda _: None,
) -> CrossFit:
    """``score(learn bool[w], test)``: the scores of windows ``test`` by a model fitted on ``learn``, the float32 graph's among
    them; ``start_ns`` int64[w] of all windows. ``ranged``: what is within its ranges is all alike. FitError where the windows
    are worth too few."""
    n, overlap = start_ns.size, window.overlap
    first = int(folds[0][1][0])  # of the windows that are judged
    blocks = [test - first for _, test in folds]
    scores: dict[str, NDArray[np.float32]] = {}
    for i, ((train, test), block) in enumerate(zip(folds, blocks, strict=True)):
        tick(f"cross-fit, block {i + 1} of {len(folds)}")
        learn = np.zeros(n, np.bool_)
        learn[train] = True
        for name, found in score(learn, test).items():
            scores.setdefault(name, np.empty(n - first, np.float32))[block] = found
    tick("calibrating")
    n_judged = effective_windows(np.log(np.maximum(scores["float32"], 1e-12)), overlap)
    n_effective = n_judged * n / (n - first)
    require_enough(n, n_effective, window, step_ns)
    judged = {name: _all_alike(found) if ranged else found for name, found in scores.items()}
    breaks = _breaks_between(start_ns[first:], window.hop_ns)
    step = step_ns if step_ns != window.hop_ns else None
    return CrossFit(
        scores,
        {name: fit_calibration(found, n_judged, breaks, step) for name, found in judged.items()},
        n_effective,
        false_alarm_rate(judged["float32"], blocks, n_judged),
    )


def false_alarm_rate(
    out_of_fold: NDArray[np.float32], blocks: Sequence[NDArray[np.intp]], n_effective: float
) -> float:
    """Share of healthy windows at or below FAR_LEVEL, each judged by a calibration that has not seen its
    block; ``blocks`` are indices into ``out_of_fold``."""
    n_alarms = 0
    for test in blocks:
        others = np.setdiff1d(np.arange(out_of_fold.size), test)
        calibration = fit_calibration(out_of_fold[others], n_effective * others.size / out_of_fold.size)
        n_alarms += int(np.count_nonzero(p_values(calibration, out_of_fold[test]) <= FAR_LEVEL))
    return n_alarms / out_of_fold.size


def _breaks_between(start_ns: NDArray[np.int64], hop_ns: int) -> tuple[int, ...]:
    """Indices of windows before which time is missing. In burst mode the pause between records is no gap."""
    if start_ns.size < 2:
        return ()
    steps = np.diff(start_ns)
    usual = max(float(np.quantile(steps, 0.95)), float(hop_ns))
    return tuple((np.flatnonzero(steps > 1.5 * usual) + 1).tolist())


def _all_alike(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """``scores`` float32[w] of rows within their ranges, which are all equally normal: each as high as any such row scores.
    That is more than was seen, for a row may be at the ends of several ranges, and off the mean by their whole width."""
    return np.full_like(scores, 4.0 * scores.max())
