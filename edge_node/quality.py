"""How well alerts match labels, beside what the same alerts would score at random times, and beside a clock.

A window is *positive* when its last sample is labelled anomalous, and *predicted* when a machine alert is open after
it. A figure that sounds good may mean nothing (a long anomaly is easily hit by chance), so none stands alone:
*random* is the same alerts moved, as a whole, by a random time (mean of the draws); *clock* is a score that looks at
no data and only grows, with as many windows predicted. Memory grows with the number of alerts and labelled
intervals, not with the log. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_node.settling import Trace
from models.labels import Labels
from models.signal import NS_PER_S, Mode, WindowSpec, samples_to_ns

N_DRAWS = 200
_DROPPED_BITS = 13  # of a float32: scores within 0.1 % of each other count as equal in the ROC AUC
_N_BINS = 1 << (31 - _DROPPED_BITS)

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Figures:
    """What can be said of predictions; None where it is undefined (nothing predicted, nothing labelled).

    ``far``: share of the negative windows that were predicted; ``mar``: share of the positive ones that were not. A
    fault is a labelled interval with a scored window in it: *detected* when an alert is raised in it, *covered* when
    one raised before it is still open. ``delay_s``: from a detected fault's start to the end of the window that
    raised, median. A false alert has no positive window in it.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    far: float | None
    mar: float | None
    auc: float | None
    n_detected: float
    n_covered: float
    delay_s: float | None
    n_alerts: float
    n_false_alerts: float


@dataclass(frozen=True, slots=True)
class Quality:
    """The figures of the alerts, of the same at random times, and of a clock; and what they are of."""

    alerts: Figures
    random: Figures
    clock: Figures
    n_windows: int
    n_positive: int
    n_faults: int


@dataclass(frozen=True, slots=True, eq=False)
class _Tally:
    """Counts that add up over devices."""

    n_hit: int  # predicted and positive
    n_predicted: int
    n_detected: int
    n_covered: int
    n_alerts: int
    n_false_alerts: int
    delays_ns: Index


class Scoreboard:
    """The scored windows of one device as they come, against ``labels``."""

    def __init__(self, labels: Labels, window: WindowSpec) -> None:
        self._labels = labels
        self._hop_ns = None if window.mode is Mode.BURST else window.hop_ns
        # A grid's cell holds its last sample; a uniform sample lies up to half a period off its index.
        half_ns = samples_to_ns(1, window.rate_hz) // 2
        self._back_ns = 1 if window.mode is Mode.IRREGULAR else max(1, half_ns)
        self.n = 0
        self._span_ns = [0, 0]  # ends of the first and the last window
        self._alerts: list[list[int]] = []  # start, stop, end_ns of the first window
        self._faults: list[list[int]] = []  # start, stop, end_ns of the first window, interval
        self._scores = np.zeros((2, _N_BINS), np.int64)  # negative, positive

    def add(self, trace: Trace) -> None:
        """Windows later than those before."""
        interval = _interval_of(self._labels, trace.end_ns - self._back_ns)
        bins = np.maximum(trace.score, 0).astype(np.float32).view(np.uint32) >> _DROPPED_BITS
        for i, mask in enumerate((interval < 0, interval >= 0)):
            self._scores[i] += np.bincount(bins[mask], minlength=_N_BINS)
        for i, j in _runs(interval):
            k = int(interval[i])
            if k >= 0 and self._faults and self._faults[-1][3] == k:
                self._faults[-1][1] = self.n + j
            elif k >= 0:
                self._faults.append([self.n + i, self.n + j, int(trace.end_ns[i]), k])
        for i, j in _runs(trace.alerting):
            if trace.alerting[i] and self._alerts and self._alerts[-1][1] == self.n + i:
                self._alerts[-1][1] = self.n + j
            elif trace.alerting[i]:
                self._alerts.append([self.n + i, self.n + j, int(trace.end_ns[i])])
        if trace.score.size:
            self._span_ns = [self._span_ns[0] if self.n else int(trace.end_ns[0]), int(trace.end_ns[-1])]
        self.n += trace.score.size

    @property
    def step_ns(self) -> int:
        """From one window to the next; between bursts lies more than the hop."""
        if self._hop_ns is not None:
            return self._hop_ns
        return (self._span_ns[1] - self._span_ns[0]) // max(1, self.n - 1)

    @property
    def n_positive(self) -> int:
        return int(self._scores[1].sum())

    @property
    def n_faults(self) -> int:
        return len(self._faults)

    @property
    def faults(self) -> list[tuple[int, int]]:
        """[start, stop) of the windows of each fault."""
        return [(fault[0], fault[1]) for fault in self._faults]

    def auc_pairs(self) -> float:
        """Pairs of a negative and a positive window in which the positive one has the higher score; ties half."""
        negative, positive = self._scores
        below = np.cumsum(negative) - negative
        return float(np.dot(positive.astype(np.float64), below + negative / 2))

    def clock_pairs(self) -> float:
        """The same for a score that only grows."""
        starts, stops = self._fault_runs()
        before = starts - np.concatenate([[0], np.cumsum(stops - starts)[:-1]]) if starts.size else starts
        return float(np.dot((stops - starts).astype(np.float64), before))

    def as_alerted(self) -> _Tally:
        """What the device's alerts came to."""
        alerts = np.array(self._alerts, np.int64).reshape(-1, 3)
        return self._tally(alerts[:, 0], alerts[:, 1], alerts[:, 2])

    def shifted(self, by: int) -> _Tally:
        """The alerts ``by`` windows later, the last ones moved to the front."""
        alerts = np.array(self._alerts, np.int64).reshape(-1, 3)
        starts, stops = alerts[:, 0] + by, alerts[:, 1] + by
        wrapped = starts >= self.n
        starts, stops = starts - self.n * wrapped, stops - self.n * wrapped
        over = stops > self.n
        rest = stops[over] - self.n
        starts, stops = np.append(np.zeros_like(rest), starts), np.append(rest, np.minimum(stops, self.n))
        order = np.argsort(starts, kind="stable")
        return self._tally(starts[order], stops[order], None, one=bool(over.any()))

    def clock(self) -> _Tally:
        """As many windows as the alerts have, at the end."""
        n = sum(stop - start for start, stop, _ in self._alerts)
        starts = np.array([self.n - n] if n else [], np.int64)
        return self._tally(starts, starts + n, None)

    def _fault_runs(self) -> tuple[Index, Index]:
        faults = np.array(self._faults, np.int64).reshape(-1, 4)
        return faults[:, 0], faults[:, 1]

    def _tally(self, starts: Index, stops: Index, raised_ns: Index | None, *, one: bool = False) -> _Tally:
        """Of alerts [start, stop). Where nobody knows when one was raised, windows are a step apart. ``one``: the last
        and the first are one alert."""
        begins, ends = self._fault_runs()
        hits = _covered(starts, stops, ends) - _covered(starts, stops, begins)
        first = np.searchsorted(starts, begins)
        detected = np.append(starts, self.n)[first] < ends
        covered = ~detected & (hits > 0)
        delays = []
        for k in np.flatnonzero(detected).tolist():
            _, _, end_ns, interval = self._faults[k]
            i = int(first[k])
            late_ns = int(starts[i] - begins[k]) * self.step_ns
            at_ns = end_ns + late_ns if raised_ns is None else int(raised_ns[i])
            delays.append(at_ns - int(self._labels.intervals[interval, 0]))
        positive = _covered(begins, ends, stops) - _covered(begins, ends, starts)
        if one:
            positive[-1] += positive[0]
            positive = positive[1:]
        return _Tally(
            n_hit=int(hits.sum()),
            n_predicted=int((stops - starts).sum()),
            n_detected=int(detected.sum()),
            n_covered=int(covered.sum()),
            n_alerts=positive.size,
            n_false_alerts=int(np.count_nonzero(positive == 0)),
            delays_ns=np.array(delays, np.int64),
        )


def judge(boards: Sequence[Scoreboard], *, seed: int = 0, n_draws: int = N_DRAWS) -> Quality | None:
    """The figures over all devices; None without a scored window. The random ones depend on ``seed``."""
    boards = [board for board in boards if board.n]
    n = sum(board.n for board in boards)
    if n == 0:
        return None
    n_positive = sum(board.n_positive for board in boards)
    pairs = float(sum(board.n_positive * (board.n - board.n_positive) for board in boards))
    aucs = [
        sum(pairs_of) / pairs if pairs else None
        for pairs_of in ([b.auc_pairs() for b in boards], [b.clock_pairs() for b in boards])
    ]
    generator = np.random.default_rng(seed)
    draws = [
        _figures([b.shifted(int(generator.integers(b.n))) for b in boards], n, n_positive, None)
        for _ in range(n_draws)
    ]
    return Quality(
        alerts=_figures([b.as_alerted() for b in boards], n, n_positive, aucs[0]),
        random=_mean(draws, 0.5 if pairs else None),
        clock=_figures([b.clock() for b in boards], n, n_positive, aucs[1]),
        n_windows=n,
        n_positive=n_positive,
        n_faults=sum(b.n_faults for b in boards),
    )


def _figures(tallies: Sequence[_Tally], n: int, n_positive: int, auc: float | None) -> Figures:
    hit = sum(t.n_hit for t in tallies)
    predicted = sum(t.n_predicted for t in tallies)
    delays = np.concatenate([t.delays_ns for t in tallies])
    return Figures(
        precision=hit / predicted if predicted else None,
        recall=hit / n_positive if n_positive else None,
        f1=2 * hit / (predicted + n_positive) if n_positive else None,
        far=(predicted - hit) / (n - n_positive) if n > n_positive else None,
        mar=1 - hit / n_positive if n_positive else None,
        auc=auc,
        n_detected=sum(t.n_detected for t in tallies),
        n_covered=sum(t.n_covered for t in tallies),
        delay_s=float(np.median(delays)) / NS_PER_S if delays.size else None,
        n_alerts=sum(t.n_alerts for t in tallies),
        n_false_alerts=sum(t.n_false_alerts for t in tallies),
    )


def _mean(draws: Sequence[Figures], auc: float | None) -> Figures:
    """Each figure's mean over the draws in which it is defined."""
    means: dict[str, float | None] = {}
    for name in Figures.__slots__:
        found = [value for draw in draws if (value := getattr(draw, name)) is not None]
        means[name] = float(np.mean(found)) if found else None
    return Figures(
        precision=means["precision"],
        recall=means["recall"],
        f1=means["f1"],
        far=means["far"],
        mar=means["mar"],
        auc=auc,
        n_detected=means["n_detected"] or 0.0,
        n_covered=means["n_covered"] or 0.0,
        delay_s=means["delay_s"],
        n_alerts=means["n_alerts"] or 0.0,
        n_false_alerts=means["n_false_alerts"] or 0.0,
    )


def _interval_of(labels: Labels, time_ns: Index) -> Index:
    """Which labelled interval each time lies in, int64[n]; -1: none."""
    index = np.searchsorted(labels.intervals[:, 0], time_ns, side="right") - 1
    inside = labels.at(time_ns)
    return np.where(inside, index, -1)


def _runs(values: NDArray[np.generic]) -> list[tuple[int, int]]:
    """[start, stop) of each stretch of equal ``values``."""
    if not values.size:
        return []
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    return list(zip([0, *edges.tolist()], [*edges.tolist(), values.size], strict=True))


def _covered(starts: Index, stops: Index, index: Index) -> Index:
    """How many indices below each of ``index`` lie in the intervals [start, stop), which ascend and do not meet."""
    if not starts.size:
        return np.zeros(index.size, np.int64)
    lengths = stops - starts
    i = np.searchsorted(starts, index, side="left") - 1
    before = np.concatenate([[0], np.cumsum(lengths)])
    inside = np.minimum(index - starts[np.maximum(i, 0)], lengths[np.maximum(i, 0)])
    return np.where(i < 0, 0, before[np.maximum(i, 0)] + inside)
