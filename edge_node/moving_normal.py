"""What the features of a device are measured from, as it moves: re-centring, or running ranges, beyond what an operator has
accepted as normal. Rows go through in order, each once. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_node.acceptance import Trial, moved
from edge_node.chunk import Chunk
from edge_node.plans import DevicePlan
from models.recentring import Recentring, RecentringState
from models.running_range import RangeState


class MovingNormal:
    """Of a device with the model of ``plan``; without one nothing moves."""

    def __init__(self, plan: DevicePlan) -> None:
        self._model = model = plan.model
        self._recentring = None
        if model is not None and model.manifest.recentring is not None:
            self._recentring = Recentring(
                model.manifest.recentring, model.centre, model.scale, model.recentred, model.start_centre
            )
        self._ranges = None if model is None else model.running_range()

    @property
    def offset(self) -> NDArray[np.float64] | None:
        """How far re-centring stands from the commissioned centre, float64[k]; None where nothing is re-centred."""
        return None if self._recentring is None else self._recentring.offset

    @property
    def stands(self) -> bool:
        """Whether features are what is measured, but for what has been accepted."""
        return self._recentring is None and self._ranges is None

    def apply(self, chunk: Chunk, matrix: NDArray[np.float32], accepted: NDArray[np.float64] | None) -> None:
        """Give ``chunk`` its features, of ``matrix`` float32[m, k] as measured, with the centre where an operator
        ``accepted`` it (float64[k]; None: where it was commissioned)."""
        chunk.features = moved(matrix, accepted)
        if self._recentring is not None:
            chunk.features, drifted = self._recentring.apply(chunk.features)
            if np.count_nonzero(drifted):
                chunk.drifted = drifted
        if self._ranges is not None:
            ends = chunk.end_ns[chunk.rows]
            chunk.features, chunk.low, chunk.high = self._ranges.apply(chunk.features, ends)
            if accepted is not None:
                chunk.low, chunk.high = moved(chunk.low, -accepted), moved(chunk.high, -accepted)

    def try_out(self, trial: Trial) -> None:
        """Give what is tried the features that it would have if all began anew."""
        anew = None if self._model is None else self._model.running_range()
        if anew is not None and trial.features is not None:
            # Of no time of the day: what is usual there is not known to a range that begins anew.
            no_time = np.zeros(len(trial.features), np.int64)
            trial.features, _, _ = anew.apply(trial.features, no_time)

    def begin_anew(self) -> None:
        """An operator has accepted where the device is: nothing has moved from there yet."""
        if self._recentring is not None:
            self._recentring.begin_anew()
        if self._ranges is not None:
            self._ranges.begin_anew()

    def follow(self, before: MovingNormal, *, accepted: bool) -> None:
        """Go on from where ``before``, of the same features, stood. What was ``accepted`` stays where the operators put it, and
        all is measured from there."""
        if self._recentring is not None and before._recentring is not None:
            if accepted:
                self._recentring.restore(before._recentring.state())
            else:
                self._recentring.follow(before._recentring)
        if self._ranges is not None and before._ranges is not None:
            if accepted:
                self._ranges.restore(before._ranges.state())
            else:
                self._ranges.follow(before._ranges)

    def state(self) -> tuple[RecentringState | None, RangeState | None]:
        """Everything that :meth:`restore` needs."""
        recentring, ranges = self._recentring, self._ranges
        return None if recentring is None else recentring.state(), None if ranges is None else ranges.state()

    def restore(self, recentring: RecentringState | None, ranges: RangeState | None) -> None:
        """Go on from a :meth:`state`."""
        if self._recentring is not None and recentring is not None:
            self._recentring.restore(recentring)
        if self._ranges is not None and ranges is not None:
            self._ranges.restore(ranges)
