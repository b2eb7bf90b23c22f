"""Re-centring of slow features: a winsorised EWMA that follows slow drift, bounded around the commissioned centre."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

Positive = Annotated[float, msgspec.Meta(gt=0)]


class RecentringSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``tau_windows``: time constant in windows; clip and bound in units of the commissioned scale."""

    tau_windows: Positive = 600.0
    clip_sigma: Positive = 1.0
    max_drift_sigma: Positive = 3.0


class RecentringState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a :class:`Recentring` carries from row to row; one entry a feature."""

    moving_centre: tuple[float, ...]
    beyond: tuple[float, ...]
    drifted: tuple[bool, ...]


class Recentring:
    """Re-centres rows of features, in order."""

    def __init__(
        self,
        spec: RecentringSpec,
        centre: NDArray[np.float64],
        scale: NDArray[np.float64],
        recentred: NDArray[np.bool_],
        start_centre: NDArray[np.float64] | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def moving_centre(self) -> NDArray[np.float64]:
        """Where the centre stands now, float64[k]."""
        raise NotImplementedError

    def apply(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(re-centred features float32[w, k], drifted bool[w, k])."""
        raise NotImplementedError

    def state(self) -> RecentringState:
        raise NotImplementedError

    def restore(self, state: RecentringState) -> None:
        raise NotImplementedError
