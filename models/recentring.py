"""Re-centring of slow features: a winsorised EWMA that follows slow drift, bounded around the commissioned
centre.

Invariants. The centre moves with features only, never with scores: what an alert says cannot change what is
normal. It never goes further than ``max_drift_sigma`` from where it was commissioned. A lasting departure is
never silently normal: a feature that stands beyond that distance is reported as drifted long before the
centre has caught up with it. Rows are taken in order, and how they are split over calls does not show, bit
for bit.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

Positive = Annotated[float, msgspec.Meta(gt=0)]

# A feature has drifted when it stood beyond the bound, on one side, for most of the recent rows (an EWMA of
# ±1 and 0 over a quarter of tau), and has come back when it did so for less than a quarter of them.
_DRIFT_TAU_SHARE = 0.25
_DRIFT_RAISE = 0.5
_DRIFT_CLEAR = 0.25


class RecentringSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far and how fast normal may move.

    ``tau_windows``: time constant in windows (rows). ``clip_sigma``: a row pulls the centre as if it were at
    most this far away. ``max_drift_sigma``: the bound. Both in units of the commissioned scale.
    """

    tau_windows: Positive = 600.0
    clip_sigma: Positive = 1.0
    max_drift_sigma: Positive = 3.0


class RecentringState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a :class:`Recentring` carries from row to row; one entry a feature."""

    offset: tuple[float, ...]  # moving centre less the commissioned one
    beyond: tuple[float, ...]  # recent share of rows beyond the bound, signed by side
    drifted: tuple[bool, ...]


class Recentring:
    """Re-centres rows of k features, in order.

    ``centre``, ``scale`` float64[k]: the commissioned centre and healthy spread. ``recentred`` bool[k]:
    which features may move; the others (wear indicators) pass through untouched. ``start_centre``
    float64[k]: where the moving centre stood at the end of training (default: at ``centre``), pulled to the
    bound if it is beyond. ValueError for shapes that do not agree, numbers that are not finite, a negative
    scale.
    """

    def __init__(
        self,
        spec: RecentringSpec,
        centre: NDArray[np.float64],
        scale: NDArray[np.float64],
        recentred: NDArray[np.bool_],
        start_centre: NDArray[np.float64] | None = None,
    ) -> None:
        self._centre = np.array(centre, dtype=np.float64)
        self._recentred = np.array(recentred, dtype=bool)
        wide = np.array(scale, dtype=np.float64)
        start = self._centre if start_centre is None else np.asarray(start_centre, dtype=np.float64)
        shapes = {self._centre.shape, wide.shape, self._recentred.shape, start.shape}
        if len(shapes) != 1 or self._centre.ndim != 1:
            raise ValueError(f"centre, scale, recentred and start_centre must be equally long, not {shapes}")
        if not (np.isfinite(self._centre).all() and np.isfinite(start).all() and np.isfinite(wide).all()):
            raise ValueError("centre, scale and start_centre must be finite")
        if (wide < 0).any():
            raise ValueError("scale must not be negative")
        movable = np.where(self._recentred, wide, 0.0)
        self._clip = spec.clip_sigma * movable
        self._bound = spec.max_drift_sigma * movable
        self._rate = -math.expm1(-1.0 / spec.tau_windows)
        self._drift_rate = -math.expm1(-1.0 / max(1.0, _DRIFT_TAU_SHARE * spec.tau_windows))
        # The state is the offset from the commissioned centre, so the bound holds exactly.
        self._offset = self._bounded(start - self._centre)
        self._beyond = np.zeros_like(self._offset)
        self._drifted = np.zeros(self._offset.shape, dtype=bool)

    @property
    def moving_centre(self) -> NDArray[np.float64]:
        """Where the centre stands now, float64[k]."""
        result: NDArray[np.float64] = self._centre + self._offset
        return result

    def apply(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """(re-centred features float32[w, k], drifted int8[w, k]) of rows float32[w, k], oldest first.

        Row i has subtracted from it how far the centre stood from the commissioned one before row i, and
        then moves it: offset += (1 - exp(-1 / tau)) * clip(x - centre - offset, ±clip_sigma * scale),
        bounded (a winsorised EWMA: Huber's location estimate in recursive form). ``drifted``: after row i
        the feature stands lastingly beyond the bound of the commissioned centre, above it (1) or below (-1);
        0: it does not. A value that is not finite moves nothing. Columns that are not re-centred are returned
        as they came and never drifted: what stays unlike normal there stays visible in the score.
        """
        if features.ndim != 2 or features.shape[1] != self._offset.size:
            raise ValueError(f"features have shape {features.shape}, expected (w, {self._offset.size})")
        deviation = features.astype(np.float64) - self._centre
        finite = np.isfinite(deviation)
        used = np.where(finite, deviation, 0.0)
        weight = np.where(finite & self._recentred, self._rate, 0.0)
        drift_weight = np.where(finite & self._recentred, self._drift_rate, 0.0)
        side = np.sign(used) * (np.abs(used) >= self._bound)
        offsets = np.empty_like(deviation)
        beyond = np.empty_like(deviation)
        offset, recent = self._offset, self._beyond
        low, high = -self._bound, self._bound
        for i in range(len(deviation)):
            offsets[i] = offset
            pull = np.minimum(np.maximum(used[i] - offset, -self._clip), self._clip)
            offset = np.minimum(np.maximum(offset + weight[i] * pull, low), high)
            recent = recent + drift_weight[i] * (side[i] - recent)
            beyond[i] = recent
        self._offset, self._beyond = offset, recent
        moved = np.where(self._recentred, features - offsets, features)
        drifted = np.where(self._latch(np.abs(beyond)), np.sign(beyond), 0.0).astype(np.int8)
        return np.ascontiguousarray(moved, dtype=np.float32), drifted

    @property
    def offset(self) -> NDArray[np.float64]:
        """How far the centre stands from the commissioned one, float64[k]."""
        return self._offset.copy()

    def begin_anew(self) -> None:
        """What is given from here on is measured from a new centre: nothing has moved or drifted yet."""
        self._offset = np.zeros_like(self._offset)
        self._beyond = np.zeros_like(self._offset)
        self._drifted = np.zeros(self._offset.shape, dtype=bool)

    def state(self) -> RecentringState:
        """Everything that :meth:`restore` needs to go on as if nothing had happened."""
        return RecentringState(
            offset=tuple(self._offset.tolist()),
            beyond=tuple(self._beyond.tolist()),
            drifted=tuple(self._drifted.tolist()),
        )

    def restore(self, state: RecentringState) -> None:
        """Go on from ``state``. ValueError when it is not of this many features, or not of numbers."""
        k = self._offset.size
        if not len(state.offset) == len(state.beyond) == len(state.drifted) == k:
            raise ValueError(f"re-centring state is of {len(state.offset)} features, expected {k}")
        offset = np.array(state.offset, dtype=np.float64)
        beyond = np.array(state.beyond, dtype=np.float64)
        if not (np.isfinite(offset).all() and np.isfinite(beyond).all()):
            raise ValueError("re-centring state holds a number that is not finite")
        self._offset = self._bounded(offset)
        self._beyond = beyond
        self._drifted = np.array(state.drifted, dtype=bool)

    def follow(self, before: Recentring) -> None:
        """Go on from where ``before``, of the same features, stood: the centre stays where it is, as near as this bound
        allows, and what had drifted has drifted until the rows to come say otherwise. ValueError for other features."""
        self.restore(before.state())
        self._offset = self._bounded(before.moving_centre - self._centre)

    def _bounded(self, offset: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.minimum(np.maximum(offset, -self._bound), self._bound)
        return result

    def _latch(self, share: NDArray[np.float64]) -> NDArray[np.bool_]:
        """bool[w, k]: set at or above the raise level, reset below the clear level, else as it was."""
        w = len(share)
        if w == 0:
            return np.zeros(share.shape, dtype=bool)
        decided = (share >= _DRIFT_RAISE) | (share < _DRIFT_CLEAR)
        row = np.where(decided, np.arange(w)[:, None], -1)
        latest = np.maximum.accumulate(row, axis=0)
        raised = np.take_along_axis(share >= _DRIFT_RAISE, np.maximum(latest, 0), axis=0)
        result: NDArray[np.bool_] = np.where(latest >= 0, raised, self._drifted)
        self._drifted = result[-1].copy()
        return result
