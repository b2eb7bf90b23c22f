"""The scoring rules of the Numenta Anomaly Benchmark (Lavin & Ahmad 2015, "Evaluating real-time anomaly detection
algorithms"). Pure.

In a labelled window only the best detection counts, the earlier the better; one behind a window costs the more the farther it
is off, up to ``fp``; a window without any costs ``fn``. The first 15 % of a series, of at most 5,000 rows, are for learning:
nothing counts there. 0 is what a detector gets that says nothing, 100 what one gets that is right at the first row of each
window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PROBATION_SHARE, PROBATION_ROWS = 0.15, 5_000
FAR_BEHIND = 3.0  # window widths


@dataclass(frozen=True, slots=True)
class Profile:
    """What a true positive is worth, and what a false positive and a false negative cost."""

    tp: float
    fp: float
    fn: float


PROFILES = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_fp": Profile(1.0, 0.22, 1.0),
    "reward_low_fn": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Anomaly scores float64[n] of one file, and its labelled ``windows``: first and last row of each, in order."""

    scores: NDArray[np.float64]
    windows: tuple[tuple[int, int], ...]


def scaled_sigmoid(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """``position`` in window widths from a window's right end: -1 at its left end (.98661), 0 at the right (0), then
    negative."""
    value = 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, FAR_BEHIND))) - 1.0
    return np.where(position >= FAR_BEHIND, -1.0, value)


def probation(n: int) -> int:
    """Rows at the beginning of a series of ``n`` that do not count."""
    return int(min(np.floor(PROBATION_SHARE * n), PROBATION_SHARE * PROBATION_ROWS))


def worth(
    n: int, windows: Sequence[tuple[int, int]], profile: Profile
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What a detection at each of ``n`` rows is worth, float64[n], and which window it is in, int64[n] (-1: none)."""
    rows = np.arange(n)
    inside = np.full(n, -1)
    position = np.full(n, FAR_BEHIND)
    for i, (left, right) in enumerate(windows):
        width = right - left + 1
        behind = rows > right
        position[behind] = (rows[behind] - right) / max(width - 1, 1)
        within = slice(left, right + 1)
        inside[within] = i
        position[within] = -(right - rows[within] + 1) / width
    value = scaled_sigmoid(position)
    best = float(scaled_sigmoid(np.array([-1.0]))[0])
    return np.where(inside >= 0, value * profile.tp / best, value * profile.fp), inside


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """The normalised score of a corpus with ``n_windows`` windows at each threshold, from the highest: float64[m] both;
    ``score`` 0 above all of them."""

    thresholds: NDArray[np.float64]
    score: NDArray[np.float64]
    n_windows: int

    @property
    def best(self) -> tuple[float, float]:
        """The threshold with the highest score, and that score; infinity and 0 where saying nothing is best."""
        if not self.score.size or self.score.max() <= 0.0:
            return np.inf, 0.0
        i = int(self.score.argmax())
        return float(self.thresholds[i]), float(self.score[i])

    def at(self, threshold: float) -> float:
        """The score of those who alarm from ``threshold`` on."""
        n = int(np.searchsorted(-self.thresholds, -threshold, side="right"))
        return float(self.score[n - 1]) if n else 0.0


def sweep(corpus: Sequence[Series], profile: Profile) -> Sweep:
    """All thresholds of ``corpus`` at once. ValueError where no window lies beyond the rows that do not count."""
    scores, changes, n_windows = [], [], 0
    for series in corpus:
        n = len(series.scores)
        value, inside = worth(n, series.windows, profile)
        counted = np.arange(n) >= probation(n)
        order = np.flatnonzero(counted)[np.argsort(-series.scores[counted], kind="stable")]
        change = value[order].copy()
        for i in np.unique(inside[counted & (inside >= 0)]):
            n_windows += 1
            mine = np.flatnonzero(inside[order] == i)
            best = np.maximum.accumulate(np.concatenate([[-profile.fn], value[order[mine]]]))
            change[mine] = np.diff(best)
        scores.append(series.scores[order])
        changes.append(change)
    if not n_windows:
        raise ValueError("no labelled window lies beyond the rows that do not count")
    score, change = np.concatenate(scores), np.concatenate(changes)
    order = np.argsort(-score, kind="stable")
    score, total = score[order], np.cumsum(change[order])  # above a detector that says nothing
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if score.size else np.zeros(0, np.int64)
    return Sweep(score[last], 100.0 * total[last] / (n_windows * (profile.tp + profile.fn)), n_windows)
