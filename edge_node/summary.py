"""Running statistics of one device's windows: what a fleet's model can be trained from, and nothing more.

Invariants: the same windows give the same bytes however they were grouped into calls (rows are merged in blocks of a
fixed size counted from the start of the span; the reservoir is chosen by a hash of the window's start); memory is bounded by the
block, the reservoir and one float32 score a window. Pure.
"""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

_BLOCK = 64


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
        self.comoment += centred.T @ centred + np.outer(delta, delta) * (self.n * m / total)
        self.mean = self.mean + delta * (m / total)
        self.n = total


class Tally(msgspec.Struct, kw_only=True):
    """Everything a :class:`Summariser` remembers of the span it is in."""

    span: int  # index of the span: [span, span + 1) * length
    moments: Moments
    block: NDArray[np.float32]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    scores: list[float]
    excluded: dict[str, int]
    reservoir: NDArray[np.float32]
    priorities: NDArray[np.uint64]


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """A finished span, ready to be put into a Summary."""

    start_ns: int
    end_ns: int
    n: int
    mean: NDArray[np.float64]
    comoment: NDArray[np.float64]  # upper triangle, float64[k(k+1)/2]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    score_quantiles: dict[str, float]
    excluded: dict[str, int]
    reservoir: NDArray[np.float32]


class Summariser:
    """Collects windows of one device into spans of ``span_ns`` aligned to the epoch."""

    def __init__(self, k: int, span_ns: int, n_reservoir: int, seed: str) -> None:
        self._k = k
        self._span_ns = span_ns
        self._n_reservoir = n_reservoir
        self._seed = np.uint64(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little"))
        self.tally: Tally | None = None

    def span_of(self, end_ns: int) -> int:
        """Index of the span that a window ending at ``end_ns`` belongs to (a span owns its end, not its start)."""
        return (end_ns - 1) // self._span_ns

    def close_before(self, end_ns: int) -> Totals | None:
        """The span in progress, if a window ending at ``end_ns`` lies beyond it; it is then forgotten."""
        if self.tally is None or self.tally.span == self.span_of(end_ns):
            return None
        return self.close()

    def exclude(self, end_ns: int, reason: str, n: int = 1) -> None:
        """Count ``n`` windows ending in the span of ``end_ns`` that were left out for ``reason``."""
        excluded = self._open(end_ns).excluded
        excluded[reason] = excluded.get(reason, 0) + n

    def add(
        self,
        start_ns: NDArray[np.int64],
        end_ns: NDArray[np.int64],
        features: NDArray[np.float32],
        scores: NDArray[np.float32],
        healthy: NDArray[np.bool_],
    ) -> None:
        """Scored windows of one span, oldest first: float32[w, k], float32[w], bool[w]."""
        tally = self._open(int(end_ns[0]))
        tally.minimum = np.minimum(tally.minimum, features.min(axis=0))
        tally.maximum = np.maximum(tally.maximum, features.max(axis=0))
        tally.scores.extend(scores.tolist())
        n_unhealthy = int(healthy.size - np.count_nonzero(healthy))
        if n_unhealthy:
            tally.excluded["anomalous"] = tally.excluded.get("anomalous", 0) + n_unhealthy
        rows = features[healthy]
        self._sample(tally, start_ns[healthy], rows)
        queue = np.concatenate([tally.block, rows]) if tally.block.shape[0] else rows
        whole = queue.shape[0] // _BLOCK * _BLOCK
        for i in range(0, whole, _BLOCK):
            tally.moments.merge(queue[i : i + _BLOCK])
        tally.block = queue[whole:].copy()

    def close(self) -> Totals | None:
        """End the span in progress, if any, and return it."""
        tally, self.tally = self.tally, None
        if tally is None:
            return None
        tally.moments.merge(tally.block)
        upper = np.triu_indices(self._k)
        quantiles: dict[str, float] = {}
        if tally.scores:
            levels = (0.5, 0.9, 0.99, 1.0)
            values = np.quantile(np.asarray(tally.scores, dtype=np.float64), levels)
            quantiles = {f"q{level:g}": float(v) for level, v in zip(levels, values, strict=True)}
        seen = bool(tally.scores)
        order = np.argsort(tally.priorities, kind="stable")
        return Totals(
            start_ns=tally.span * self._span_ns,
            end_ns=(tally.span + 1) * self._span_ns,
            n=tally.moments.n,
            mean=tally.moments.mean,
            comoment=tally.moments.comoment[upper],
            minimum=tally.minimum if seen else np.zeros(0, np.float32),
            maximum=tally.maximum if seen else np.zeros(0, np.float32),
            score_quantiles=quantiles,
            excluded=dict(sorted(tally.excluded.items())),
            reservoir=tally.reservoir[order],
        )

    def _open(self, end_ns: int) -> Tally:
        if self.tally is None:
            self.tally = Tally(
                span=self.span_of(end_ns),
                moments=Moments.empty(self._k),
                block=np.zeros((0, self._k), np.float32),
                minimum=np.full(self._k, np.inf, np.float32),
                maximum=np.full(self._k, -np.inf, np.float32),
                scores=[],
                excluded={},
                reservoir=np.zeros((0, self._k), np.float32),
                priorities=np.zeros(0, np.uint64),
            )
        return self.tally

    def _sample(self, tally: Tally, start_ns: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Keep the rows whose hashed start is smallest: a uniform sample that does not depend on the grouping."""
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
