"""The place of a feature in the range of all its values so far: what telemetry is judged by.

A value of telemetry (requests a second, the load of a processor, a count of an hour) has no spread that lasts, but it
seldom goes where it has never been. So a feature is read by where it stands between the least and the greatest value
that came before it, and what lies beyond by more than a margin is stretched: a new extreme is far from normal once, and
normal from then on. All that is within counts as next to nothing, in whatever combination.

A daily feature is read less what is usual at its time of the day (:mod:`models.daily_profile`), by a range that is as wide
above as below: a peak, being part of what is usual on the next day, makes that day look low. This range is not
commissioned but learned from nothing, and says nothing before what is usual is known from ``DAYS_TO_KNOW`` days.

Invariants. The range moves with features only, never with scores. It only widens, at most ``WIDEST`` times the width that
it was commissioned with on either side: what stays beyond that stays abnormal. A row is judged by the rows before it
alone, and how rows are split over calls does not show, bit for bit.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.daily_profile import DailyProfile, ProfileState

# In half-widths. Noise reaches a little further now and then: what is beyond by no more than MARGIN is at the end of the
# range. Beyond that a half-width counts like STRETCH of them.
MARGIN = 0.05
STRETCH = 60_000.0
WIDEST = 10.0
# What half the width of a commissioned range is as an input of the graph: so little that a model finds rows within their
# ranges all alike. A half-width beyond is STRETCH times that, 30: int8 resolves a third of MARGIN.
HALF_WIDTH = 1 / 2000
# Of daily features: what is usual in a bin of the day is known from as many days, and no less than LEAST half-widths of
# the range of the values themselves is a departure from it.
DAYS_TO_KNOW = 3
LEAST = 0.05


class RangeState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a :class:`RunningRange` carries from row to row; one entry a feature, less the commissioned centre (of daily
    ones: less what is usual); ``profile`` is that of the daily ones, None where there are none."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    profile: ProfileState | None = None


class RunningRange:
    """Follows the ranges of k features, row by row.

    ``centre`` float64[k]: middle of the commissioned range; ``scale`` float64[k]: half its width, divided by HALF_WIDTH: what a
    feature is normalised by. ``widens`` bool[k]: which
    ranges may widen; the others (wear indicators) stay as they are. ``daily`` bool[k] (None: none): which are read less
    what is usual at their time of the day; these all widen. ValueError for shapes that do not agree, numbers
    that are not finite, a scale that is not positive, a daily feature that does not widen.
    """

    def __init__(
        self,
        centre: NDArray[np.float64],
        scale: NDArray[np.float64],
        widens: NDArray[np.bool_],
        daily: NDArray[np.bool_] | None = None,
    ) -> None:
        self._centre = np.array(centre, dtype=np.float64)
        self._half = np.array(scale, dtype=np.float64) * HALF_WIDTH
        self._widens = np.array(widens, dtype=bool)
        self._daily = np.zeros_like(self._widens) if daily is None else np.array(daily, dtype=bool)
        shapes = {self._centre.shape, self._half.shape, self._widens.shape, self._daily.shape}
        if len(shapes) != 1 or self._centre.ndim != 1:
            raise ValueError(f"centre, scale, widens and daily must be equally long, not {shapes}")
        if not (np.isfinite(self._centre).all() and np.isfinite(self._half).all()):
            raise ValueError("centre and scale must be finite")
        if (self._half <= 0).any():
            raise ValueError("scale must be positive")
        if (self._daily & ~self._widens).any():
            raise ValueError("a daily feature is learned from nothing, so its range must widen")
        self._furthest = np.where(self._widens, (1.0 + 2.0 * WIDEST) * self._half, self._half)
        self._first = np.where(self._daily, LEAST * self._half, self._half)
        self._low, self._high = -self._first, self._first.copy()  # less the centre, so that a state is exact
        self._profile = DailyProfile(int(np.count_nonzero(self._daily)))

    def apply(
        self, features: NDArray[np.float32], end_ns: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """(features by their place in the range, its low end, its high end), float32[w, k] each, of rows float32[w, k],
        oldest first, of windows that end at ``end_ns`` int64[w].

        With u = (x - middle) / half-width of the range as it stood before the row, so -1 to 1 within, and
        s = u within, sign(u) (1 + STRETCH max(0, |u| - 1 - MARGIN)) beyond, the place is centre + s * half the
        commissioned width: in the feature's unit, and the feature itself as long as it and the range are as
        commissioned. A daily feature about which nothing can be said yet is in the middle, or at the end, of its range. A
        value that is not finite gives one that is not, and widens nothing.
        """
        if features.ndim != 2 or features.shape[1] != self._centre.size:
            raise ValueError(f"features have shape {features.shape}, expected (w, {self._centre.size})")
        wide = features.astype(np.float64)
        x, origin = wide - self._centre, np.broadcast_to(self._centre, wide.shape)
        daily = self._daily
        if daily.any():
            usual, days = self._profile.apply(wide[:, daily], end_ns)
            off = np.where((days > 0) | ~np.isfinite(wide[:, daily]), wide[:, daily] - usual, 0.0)
            x[:, daily] = off
            origin = origin.copy()
            origin[:, daily] = np.where(days > 0, usual, self._centre[daily])
        reached = np.where(np.isfinite(x), np.minimum(np.maximum(x, -self._furthest), self._furthest), np.nan)
        size = np.abs(reached)
        lows = np.fmin.accumulate(np.vstack([self._low, np.where(daily, -size, reached)]), axis=0)
        highs = np.fmax.accumulate(np.vstack([self._high, np.where(daily, size, reached)]), axis=0)
        self._low, self._high = lows[-1], highs[-1]
        low, high = lows[:-1], highs[:-1]
        u = (x - (low + high) / 2.0) / ((high - low) / 2.0)
        size = np.abs(u)
        beyond = np.sign(u) * (1.0 + STRETCH * np.maximum(size - 1.0 - MARGIN, 0.0))
        if daily.any():
            told = beyond[:, daily]
            beyond[:, daily] = np.where((days < DAYS_TO_KNOW) & np.isfinite(told), np.sign(told), told)
        place = np.where(size > 1.0, beyond, u)
        return (
            np.ascontiguousarray(self._centre + place * self._half, dtype=np.float32),
            np.ascontiguousarray(origin + low, dtype=np.float32),
            np.ascontiguousarray(origin + high, dtype=np.float32),
        )

    def begin_anew(self) -> None:
        """The range is as commissioned, and what is usual in a day is not known."""
        self._low, self._high = -self._first, self._first.copy()
        self._profile = DailyProfile(int(np.count_nonzero(self._daily)))

    def state(self) -> RangeState:
        """Everything that :meth:`restore` needs to go on as if nothing had happened."""
        return RangeState(
            low=tuple(self._low.tolist()),
            high=tuple(self._high.tolist()),
            profile=self._profile.state() if self._daily.any() else None,
        )

    def restore(self, state: RangeState) -> None:
        """Go on from ``state``. ValueError when it is not of this many features, or not of numbers."""
        k = self._centre.size
        if not len(state.low) == len(state.high) == k:
            raise ValueError(f"the state of a running range is of {len(state.low)} features, expected {k}")
        if (state.profile is None) == self._daily.any():
            raise ValueError("the state of a running range has no daily profile, or one too many")
        low, high = np.array(state.low, dtype=np.float64), np.array(state.high, dtype=np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("the state of a running range holds a number that is not finite")
        if state.profile is not None:
            self._profile.restore(state.profile)
        self._take(low, high)

    def follow(self, before: RunningRange) -> None:
        """Go on from where ``before``, of the same features, stood: the range is wide enough for its own commissioned
        one and for what ``before`` had seen, as far as this bound allows. ValueError for other features."""
        self.restore(before.state())
        moved = np.where(self._daily, 0.0, before._centre - self._centre)
        self._take(before._low + moved, before._high + moved)

    def _take(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        self._low = np.maximum(np.minimum(low, -self._first), -self._furthest)
        self._high = np.minimum(np.maximum(high, self._first), self._furthest)
