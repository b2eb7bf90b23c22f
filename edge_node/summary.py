"""Running statistics of one device's windows: what a fleet's model can be trained from, and nothing more.

Invariants: the same windows give the same bytes however they were grouped into calls (rows are merged in
blocks of a fixed size counted from the start of the span; the reservoir is chosen by a hash of the window's
start); memory is bounded by the block, the reservoir and one float32 score a window. Pure.
"""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

_BLOCK = 64
_WAITING = 4 * _BLOCK
_LEVELS = (0.5, 0.9, 0.99, 1.0)


class Moments(msgspec.Struct, kw_only=True):
    """n, mean float64[k] and co-moment float64[k, k] (sum of products of deviations)."""

    n: int
    mean: NDArray[np.float64]
    comoment: NDArray[np.float64]

    @classmethod
    def empty(cls, k: int) -> Moments:
        return cls(n=0, mean=np.zeros(k), comoment=np.zeros((k, k)))

    def merge(self, rows: NDArray[np.float32]) -> None:
        """Add ``rows`` float32[m, k] (Chan, Golub & LeVeque 1983, pairwise update)."""
        m = rows.shape[0]
        if m == 0:
            return
        wide = rows.astype(np.float64)
        mean = wide.mean(axis=0)
        centred = wide - mean
        delta = mean - self.mean
        total = self.n + m
        self.comoment = self.comoment + centred.T @ centred + np.outer(delta, delta) * (self.n * m / total)
        self.mean = self.mean + delta * (m / total)
        self.n = total


class Tally(msgspec.Struct, kw_only=True):
    """Everything a :class:`Summariser` remembers of the span it is in."""

    span: int  # index of the span: [span, span + 1) * length
    first_ns: int  # end of the first window
    last_ns: int  # end of the last one
    moments: Moments
    block: NDArray[np.float32]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    scores: NDArray[np.float32]
    excluded: dict[str, int]
    reservoir: NDArray[np.float32]
    priorities: NDArray[np.uint64]


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """A finished span, or the part of it that was seen, ready to be put into a Summary."""

    start_ns: int
    end_ns: int
    first_ns: int
    n: int
    mean: NDArray[np.float64]
    comoment: NDArray[np.float64]  # upper triangle, float64[k(k+1)/2]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    score_quantiles: dict[str, float]
    excluded: dict[str, int]
    reservoir: NDArray[np.float32]


class _Rows(msgspec.Struct, eq=False):
    """Scored windows that wait to be counted: int64[w], float32[w, k], float32[w], bool[w]."""

    start_ns: NDArray[np.int64]
    features: NDArray[np.float32]
    score: NDArray[np.float32]
    healthy: NDArray[np.bool_] | None  # None: all are


class Summariser:
    """Collects windows of one device into spans of ``span_ns`` aligned to the epoch."""

    def __init__(self, k: int, span_ns: int, n_reservoir: int, seed: str) -> None:
        self._k = k
        self._span_ns = span_ns
        self._n_reservoir = n_reservoir
        self._seed = np.uint64(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little"))
        self._tally: Tally | None = None
        # Windows mostly come one by one: they are counted many at a time.
        self._waiting: list[_Rows] = []
        self._n_waiting = 0

    def span_of(self, end_ns: int) -> int:
        """Index of the span that a window ending at ``end_ns`` belongs to (a span owns its end, not its
        start)."""
        return (end_ns - 1) // self._span_ns

    def holds(self, end_ns: NDArray[np.int64]) -> bool:
        """Whether windows that end at ``end_ns`` int64[w] all lie in the span in progress."""
        if self._tally is None:
            return False
        after = self._tally.span * self._span_ns
        return bool(after < end_ns.item(0) and end_ns.item(-1) <= after + self._span_ns)

    def close_before(self, end_ns: int) -> Totals | None:
        """The span in progress, if a window ending at ``end_ns`` lies outside it; it is then forgotten."""
        if self._tally is None or self._tally.span == self.span_of(end_ns):
            return None
        return self._close((self._tally.span + 1) * self._span_ns)

    def exclude(self, end_ns: NDArray[np.int64], reason: str, n: int) -> None:
        """Count ``n`` of the windows of one span that end at ``end_ns`` int64[w] as left out for ``reason``."""
        excluded = self._open(int(end_ns[0]), int(end_ns[-1])).excluded
        excluded[reason] = excluded.get(reason, 0) + n

    def add(
        self,
        start_ns: NDArray[np.int64],
        end_ns: NDArray[np.int64],
        features: NDArray[np.float32],
        score: NDArray[np.float32],
        healthy: NDArray[np.bool_] | None,
    ) -> None:
        """Scored windows of one span, oldest first: float32[w, k], float32[w], bool[w] (None: all are)."""
        self._open(end_ns.item(0), end_ns.item(-1))
        self._waiting.append(_Rows(start_ns, features, score, healthy))
        self._n_waiting += start_ns.size
        if self._n_waiting >= _WAITING:
            self._count()

    def close(self) -> Totals | None:
        """End the span in progress, if any, at its last window, and return it."""
        return None if self._tally is None else self._close(self._tally.last_ns)

    def state(self) -> Tally | None:
        """What :meth:`restore` goes on from. Of the co-moment only the upper triangle: it is most of what a device remembers,
        and is written to disk again and again."""
        self._count()
        if self._tally is None:
            return None
        moments = self._tally.moments
        half = Moments(n=moments.n, mean=moments.mean, comoment=moments.comoment[np.triu_indices(self._k)])
        return msgspec.structs.replace(self._tally, moments=half)

    def restore(self, tally: Tally | None) -> None:
        """Go on from ``tally``."""
        self._tally = None
        if tally is not None:
            half, whole, upper = tally.moments, np.zeros((self._k, self._k)), np.triu_indices(self._k)
            whole[upper] = half.comoment
            whole.T[upper] = half.comoment
            moments = Moments(n=half.n, mean=half.mean, comoment=whole)
            self._tally = msgspec.structs.replace(tally, moments=moments)
        self._waiting, self._n_waiting = [], 0

    def _close(self, end_ns: int) -> Totals:
        self._count()
        tally, self._tally = self._tally, None
        assert tally is not None
        tally.moments.merge(tally.block)
        quantiles: dict[str, float] = {}
        seen = tally.scores.size > 0
        if seen:
            values = np.quantile(tally.scores.astype(np.float64), _LEVELS)
            quantiles = {f"q{level:g}": float(v) for level, v in zip(_LEVELS, values, strict=True)}
        order = np.argsort(tally.priorities, kind="stable")
        return Totals(
            start_ns=tally.span * self._span_ns,
            end_ns=end_ns,
            first_ns=tally.first_ns,
            n=tally.moments.n,
            mean=tally.moments.mean,
            comoment=tally.moments.comoment[np.triu_indices(self._k)],
            minimum=tally.minimum if seen else np.zeros(0, np.float32),
            maximum=tally.maximum if seen else np.zeros(0, np.float32),
            score_quantiles=quantiles,
            excluded=dict(sorted(tally.excluded.items())),
            reservoir=tally.reservoir[order],
        )

    def _open(self, first_ns: int, last_ns: int) -> Tally:
        if self._tally is None:
            self._tally = Tally(
                span=self.span_of(first_ns),
                first_ns=first_ns,
                last_ns=last_ns,
                moments=Moments.empty(self._k),
                block=np.zeros((0, self._k), np.float32),
                minimum=np.full(self._k, np.inf, np.float32),
                maximum=np.full(self._k, -np.inf, np.float32),
                scores=np.zeros(0, np.float32),
                excluded={},
                reservoir=np.zeros((0, self._k), np.float32),
                priorities=np.zeros(0, np.uint64),
            )
        tally = self._tally
        if first_ns < tally.first_ns:
            tally.first_ns = first_ns
        if last_ns > tally.last_ns:
            tally.last_ns = last_ns
        return tally

    def _count(self) -> None:
        """Count the rows that wait."""
        waiting, self._waiting, self._n_waiting = self._waiting, [], 0
        if not waiting:
            return
        tally = self._tally
        assert tally is not None
        features = np.concatenate([rows.features for rows in waiting])
        tally.minimum = np.minimum(tally.minimum, features.min(axis=0))
        tally.maximum = np.maximum(tally.maximum, features.max(axis=0))
        tally.scores = np.concatenate([tally.scores, *(rows.score for rows in waiting)])
        start_ns = np.concatenate([rows.start_ns for rows in waiting])
        if any(rows.healthy is not None for rows in waiting):
            healthy = np.concatenate(
                [
                    np.ones(rows.score.size, np.bool_) if rows.healthy is None else rows.healthy
                    for rows in waiting
                ]
            )
            if n_unhealthy := int(healthy.size - np.count_nonzero(healthy)):
                tally.excluded["anomalous"] = tally.excluded.get("anomalous", 0) + n_unhealthy
            features, start_ns = features[healthy], start_ns[healthy]
        self._sample(tally, start_ns, features)
        queue = np.concatenate([tally.block, features])
        whole = queue.shape[0] // _BLOCK * _BLOCK
        for i in range(0, whole, _BLOCK):
            tally.moments.merge(queue[i : i + _BLOCK])
        tally.block = queue[whole:].copy()

    def _sample(self, tally: Tally, start_ns: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Keep the rows whose hashed start is smallest: a uniform sample that does not depend on the
        grouping."""
        if not self._n_reservoir:
            return
        priority = _mix(start_ns.astype(np.uint64) ^ self._seed)
        priorities = np.concatenate([tally.priorities, priority])
        reservoir = np.concatenate([tally.reservoir, rows])
        if priorities.size > self._n_reservoir:
            kept = np.sort(np.argsort(priorities, kind="stable")[: self._n_reservoir])
            priorities, reservoir = priorities[kept], reservoir[kept]
        tally.priorities, tally.reservoir = priorities, reservoir


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): a bijection whose bits look random."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
