"""The least and the greatest of a signal over time, in a bounded number of bins however long it gets.

Bins lie on multiples of their width since the epoch; when there would be too many, neighbours are joined and the width
doubles. So no peak is lost, whatever the length, and nothing depends on how the rows were grouped. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BINS = 1024
_FIRST_WIDTH_NS = 1_000_000
_GAP = 3.0  # times the usual distance between bins that hold something

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """Bins that hold something: ``time_ns`` int64[m] of their middles, ``low`` and ``high`` float64[m]; ``fresh`` bool[m]:
    time is missing before it, so no line leads there."""

    time_ns: NDArray[np.int64]
    low: Floats
    high: Floats
    fresh: NDArray[np.bool_]


class Envelope:
    """Of ``n_columns`` signals with common times."""

    def __init__(self, n_columns: int) -> None:
        self._width_ns = _FIRST_WIDTH_NS
        self._first = 0  # number of the bin in row 0
        self._used: tuple[int, int] | None = None  # numbers of the first and the last bin
        self._low = np.full((MAX_BINS, n_columns), np.nan)
        self._high = self._low.copy()

    def add(self, time_ns: NDArray[np.int64], values: NDArray[np.floating]) -> None:
        """``values`` [n, n_columns] at ``time_ns`` int64[n], in any order; NaN is none."""
        if not time_ns.size:
            return
        self._make_room(int(time_ns.min()), int(time_ns.max()))
        rows = time_ns // self._width_ns - self._first
        if np.count_nonzero(rows[1:] < rows[:-1]):
            order = np.argsort(rows, kind="stable")
            rows, values = rows[order], values[order]
        cuts = np.flatnonzero(np.diff(rows, prepend=-1))
        at = rows[cuts]
        self._low[at] = np.fmin(self._low[at], np.fmin.reduceat(values, cuts, axis=0))
        self._high[at] = np.fmax(self._high[at], np.fmax.reduceat(values, cuts, axis=0))

    def outline(self, column: int) -> Outline:
        """What is known of one signal; infinite values are left out."""
        low, high = self._low[:, column], self._high[:, column]
        filled = np.flatnonzero(np.isfinite(low) & np.isfinite(high))
        steps = np.diff(filled)
        usual = float(np.median(steps)) if steps.size else 1.0
        fresh = np.append(True, steps > max(_GAP * usual, 1.0))[: filled.size]
        times = (self._first + filled) * self._width_ns + self._width_ns // 2
        return Outline(times, low[filled], high[filled], fresh)

    def _make_room(self, first_ns: int, last_ns: int) -> None:
        width = self._width_ns
        begin, end = first_ns // width, last_ns // width
        if self._used is not None:
            begin, end = min(begin, self._used[0]), max(end, self._used[1])
        while end - begin >= MAX_BINS:
            self._join()
            begin, end = begin // 2, end // 2
        if self._used is None:
            self._first = begin
        elif begin < self._first or end >= self._first + MAX_BINS:
            self._move_to(begin)
        self._used = begin, end

    def _join(self) -> None:
        """Bins of twice the width."""
        odd = self._first % 2
        for name, least in (("_low", np.fmin), ("_high", np.fmax)):
            pad = np.full((2, getattr(self, name).shape[1]), np.nan)
            padded = np.concatenate([pad[:odd], getattr(self, name), pad[: 2 - odd]])
            joined = least(padded[0::2], padded[1::2])
            rest = np.full((MAX_BINS - len(joined), joined.shape[1]), np.nan)
            setattr(self, name, np.concatenate([joined, rest]))
        self._width_ns *= 2
        self._first //= 2
        if self._used is not None:
            self._used = self._used[0] // 2, self._used[1] // 2

    def _move_to(self, first: int) -> None:
        """Row 0 is bin ``first``; what there is still fits."""
        by = self._first - first
        for name in ("_low", "_high"):
            old = getattr(self, name)
            new = np.full_like(old, np.nan)
            source = slice(max(0, -by), MAX_BINS - max(0, by))
            new[max(0, by) : MAX_BINS - max(0, -by)] = old[source]
            setattr(self, name, new)
        self._first = first
