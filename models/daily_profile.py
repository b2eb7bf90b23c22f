"""What a value usually is at this time of the day, learned while it is watched.

A day is cut into ``BINS``; of each the profile keeps the mean over its days, the latest ``DAYS`` of them weighing most
(an exponentially weighted mean that is a plain one at first). A bin counts once the next one has begun, so no value is
compared with itself, and what is kept is some numbers a bin, however often values come. Days are those of UTC: a rhythm
that follows a clock with summer time moves by an hour twice a year, and is learned anew within the week.

Invariant: how rows are split over calls does not show, bit for bit. Pure.
"""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.signal import NS_PER_S

BINS = 48
DAYS = 7

_BIN_NS = 86_400 * NS_PER_S // BINS


class ProfileState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a :class:`DailyProfile` carries from row to row: ``usual`` and ``days`` bin by bin, k of each in a bin;
    ``sums`` and ``counts`` of the bin in progress, which is the ``bin``-th since 1970 (None: none is)."""

    usual: tuple[float, ...]
    days: tuple[int, ...]
    sums: tuple[float, ...]
    counts: tuple[int, ...]
    bin: int | None


class DailyProfile:
    """Follows k values, row by row."""

    def __init__(self, k: int) -> None:
        self._usual = np.zeros((BINS, k))
        self._days = np.zeros((BINS, k), dtype=np.int64)
        self._sums = np.zeros(k)
        self._counts = np.zeros(k, dtype=np.int64)
        self._bin: int | None = None

    def apply(
        self, values: NDArray[np.float64], end_ns: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(what is usual at that time of the day, the number of days that this is known from), [w, k] each, of rows
        ``values`` float64[w, k], oldest first, which belong to the instant just before ``end_ns`` int64[w]. Where that is
        0 days, what is usual is 0. A value that is not finite is not learned from."""
        usual, days = np.zeros(values.shape), np.zeros(values.shape, dtype=np.int64)
        bins = (end_ns - 1) // _BIN_NS
        cuts = [0, *(np.flatnonzero(np.diff(bins)) + 1).tolist(), len(bins)]
        for start, stop in pairwise(cuts):
            if start == stop:
                continue
            current = int(bins[start])
            if current != self._bin:
                self._close()
                self._bin = current
            usual[start:stop], days[start:stop] = self._usual[current % BINS], self._days[current % BINS]
            seen = np.isfinite(values[start:stop])
            # One after the other, as they would be in calls of one row each.
            steps = np.vstack([self._sums, np.where(seen, values[start:stop], 0.0)])
            self._sums = np.add.accumulate(steps, axis=0)[-1]
            self._counts = self._counts + np.count_nonzero(seen, axis=0)
        return usual, days

    def state(self) -> ProfileState:
        """Everything that :meth:`restore` needs to go on as if nothing had happened."""
        return ProfileState(
            usual=tuple(self._usual.ravel().tolist()),
            days=tuple(self._days.ravel().tolist()),
            sums=tuple(self._sums.tolist()),
            counts=tuple(self._counts.tolist()),
            bin=self._bin,
        )

    def restore(self, state: ProfileState) -> None:
        """Go on from ``state``. ValueError when it is not of this many values, or not of numbers."""
        k = self._sums.size
        if (len(state.usual), len(state.days), len(state.sums), len(state.counts)) != (
            BINS * k,
            BINS * k,
            k,
            k,
        ):
            raise ValueError(f"the state of a daily profile is not of {k} features")
        usual, sums = np.array(state.usual), np.array(state.sums)
        days, counts = np.array(state.days, dtype=np.int64), np.array(state.counts, dtype=np.int64)
        if (
            not (np.isfinite(usual).all() and np.isfinite(sums).all())
            or (days < 0).any()
            or (counts < 0).any()
        ):
            raise ValueError("the state of a daily profile holds a number that cannot be")
        self._usual, self._days = usual.reshape(BINS, k), days.reshape(BINS, k)
        self._sums, self._counts, self._bin = sums, counts, state.bin

    def _close(self) -> None:
        """The bin in progress is over: what it was is part of what is usual then."""
        known = self._counts > 0
        if self._bin is not None and known.any():
            place = self._bin % BINS
            self._days[place] += known
            mean = self._sums / np.maximum(self._counts, 1)
            step = (mean - self._usual[place]) / np.clip(self._days[place], 1, DAYS)
            self._usual[place] += np.where(known, step, 0.0)
        self._sums, self._counts = np.zeros_like(self._sums), np.zeros_like(self._counts)
