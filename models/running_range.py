"""The place of a feature in the range of all its values so far: what telemetry is judged by.

A value of telemetry (requests a second, the load of a processor, a count of an hour) has no spread that lasts, but it
seldom goes where it has never been. So a feature is read by where it stands between the least and the greatest value
that came before it, and what lies beyond by more than a margin is stretched: a new extreme is far from normal once, and
normal from then on.

Invariants. The range moves with features only, never with scores. It only widens, at most ``WIDEST`` times the width that
it was commissioned with on either side: what stays beyond that stays abnormal. A row is judged by the rows before it
alone, and how rows are split over calls does not show, bit for bit.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

# In half-widths. Noise reaches a little further now and then: what is beyond by no more than MARGIN is at the end of the
# range. Beyond that a half-width counts like STRETCH of them.
MARGIN = 0.01
STRETCH = 1000.0
WIDEST = 10.0


class RangeState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a :class:`RunningRange` carries from row to row; one entry a feature, less the commissioned centre."""

    low: tuple[float, ...]
    high: tuple[float, ...]


class RunningRange:
    """Follows the ranges of k features, row by row.

    ``centre``, ``scale`` float64[k]: middle and half the width of the commissioned range. ``widens`` bool[k]: which
    ranges may widen; the others (wear indicators) stay as they are. ValueError for shapes that do not agree, numbers
    that are not finite, a scale that is not positive.
    """

    def __init__(
        self, centre: NDArray[np.float64], scale: NDArray[np.float64], widens: NDArray[np.bool_]
    ) -> None:
        self._centre = np.array(centre, dtype=np.float64)
        self._scale = np.array(scale, dtype=np.float64)
        self._widens = np.array(widens, dtype=bool)
        shapes = {self._centre.shape, self._scale.shape, self._widens.shape}
        if len(shapes) != 1 or self._centre.ndim != 1:
            raise ValueError(f"centre, scale and widens must be equally long, not {shapes}")
        if not (np.isfinite(self._centre).all() and np.isfinite(self._scale).all()):
            raise ValueError("centre and scale must be finite")
        if (self._scale <= 0).any():
            raise ValueError("scale must be positive")
        self._furthest = np.where(self._widens, (1.0 + 2.0 * WIDEST) * self._scale, self._scale)
        self._low, self._high = -self._scale, self._scale.copy()  # less the centre, so that a state is exact

    def apply(
        self, features: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """(features by their place in the range, its low end, its high end), float32[w, k] each, of rows float32[w, k],
        oldest first.

        With u = (x - middle) / half-width of the range as it stood before the row, so -1 to 1 within, and
        s = u within, sign(u) (1 + STRETCH max(0, |u| - 1 - MARGIN)) beyond, the place is centre + s * scale: in the
        feature's unit, and the feature itself as long as it and the range are as commissioned. A value that is not finite
        gives one that is not, and widens nothing.
        """
        if features.ndim != 2 or features.shape[1] != self._centre.size:
            raise ValueError(f"features have shape {features.shape}, expected (w, {self._centre.size})")
        x = features.astype(np.float64) - self._centre
        reached = np.where(np.isfinite(x), np.minimum(np.maximum(x, -self._furthest), self._furthest), np.nan)
        lows = np.fmin.accumulate(np.vstack([self._low, reached]), axis=0)
        highs = np.fmax.accumulate(np.vstack([self._high, reached]), axis=0)
        self._low, self._high = lows[-1], highs[-1]
        low, high = lows[:-1], highs[:-1]
        u = (x - (low + high) / 2.0) / ((high - low) / 2.0)
        size = np.abs(u)
        beyond = np.sign(u) * (1.0 + STRETCH * np.maximum(size - 1.0 - MARGIN, 0.0))
        place = np.where(size > 1.0, beyond, u)
        return (
            np.ascontiguousarray(self._centre + place * self._scale, dtype=np.float32),
            np.ascontiguousarray(self._centre + low, dtype=np.float32),
            np.ascontiguousarray(self._centre + high, dtype=np.float32),
        )

    def begin_anew(self) -> None:
        """The range is as commissioned."""
        self._low, self._high = -self._scale, self._scale.copy()

    def state(self) -> RangeState:
        """Everything that :meth:`restore` needs to go on as if nothing had happened."""
        return RangeState(low=tuple(self._low.tolist()), high=tuple(self._high.tolist()))

    def restore(self, state: RangeState) -> None:
        """Go on from ``state``. ValueError when it is not of this many features, or not of numbers."""
        k = self._centre.size
        if not len(state.low) == len(state.high) == k:
            raise ValueError(f"the state of a running range is of {len(state.low)} features, expected {k}")
        low, high = np.array(state.low, dtype=np.float64), np.array(state.high, dtype=np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("the state of a running range holds a number that is not finite")
        self._take(low, high)

    def follow(self, before: RunningRange) -> None:
        """Go on from where ``before``, of the same features, stood: the range is wide enough for its own commissioned
        one and for what ``before`` had seen, as far as this bound allows. ValueError for other features."""
        self.restore(before.state())
        moved = before._centre - self._centre
        self._take(before._low + moved, before._high + moved)

    def _take(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        self._low = np.maximum(np.minimum(low, -self._scale), -self._furthest)
        self._high = np.minimum(np.maximum(high, self._scale), self._furthest)
