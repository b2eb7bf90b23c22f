"""Do the sensors of a window work, and does it keep to its limits? From windows to chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.chunk import MAX_CHUNK, Chunk, all_rows
from edge_node.plans import DevicePlan
from models.runs import period_ns
from models.sensor_checks import (
    ChannelBaseline,
    LimitChecks,
    LimitState,
    SensorChecks,
    SensorState,
)
from models.signal import NS_PER_S, WindowBatch

_SUSPECT_FACTOR = 2.0  # of the longest healthy run of one value


class InspectionState(msgspec.Struct, kw_only=True):
    """Everything an :class:`Inspection` remembers."""

    sensors: SensorState
    limits: LimitState


class Inspection:
    """The checks of one device's windows, which come in time order."""

    def __init__(self, plan: DevicePlan) -> None:
        channels = plan.device.channels
        baselines = [c.baseline for c in plan.model.manifest.channels] if plan.model is not None else None
        self._plan = plan
        self._sensors = SensorChecks(channels, baselines, plan.window)
        self._limits = LimitChecks(plan.limits, channels, plan.window)
        self._suspect_ns = suspect_limits_ns(baselines, len(channels))
        self._never_suspect = bool((self._suspect_ns >= round(period_ns(plan.window))).all())

    def chunks(self, batch: WindowBatch, arrival_ns: int | None, clock: str) -> Iterable[Chunk]:
        """``batch`` in chunks of at most MAX_CHUNK windows, inspected; they wait for their gate."""
        if batch.n <= MAX_CHUNK:
            return (self._chunk(batch, arrival_ns, clock),)
        return self._chunks(batch, arrival_ns, clock)

    def _chunks(self, batch: WindowBatch, arrival_ns: int | None, clock: str) -> Iterator[Chunk]:
        for i in range(0, batch.n, MAX_CHUNK):
            yield self._chunk(batch.part(slice(i, i + MAX_CHUNK)), arrival_ns, clock)

    def state(self) -> InspectionState:
        return InspectionState(sensors=self._sensors.state(), limits=self._limits.state())

    def restore(self, state: InspectionState) -> None:
        self._sensors.restore(state.sensors)
        self._limits.restore(state.limits)

    def _chunk(self, batch: WindowBatch, arrival_ns: int | None, clock: str) -> Chunk:
        chunk = Chunk(
            device_id=batch.device_id,
            stage="gated",
            arrival_ns=arrival_ns,
            clock=clock,
            start_ns=batch.start_ns,
            end_ns=batch.end_ns,
            rows=all_rows(batch.n),
            values=batch.values,
            valid=None if batch.whole else batch.valid,
        )
        if self._plan.limits:
            chunk.violated, chunk.extreme, chunk.violated_since_ns = self._limits.check(batch)
        if self._never_suspect and self._sensors.plainly_fine(batch):
            return chunk
        codes, since_ns = self._sensors.examine(batch)
        if np.count_nonzero(codes):
            chunk.faults, chunk.fault_since_ns = codes, since_ns
            chunk.reading = self._sensors.readings(batch, codes)
        suspect = batch.end_ns[:, None] - since_ns > self._suspect_ns
        if np.count_nonzero(suspect):
            chunk.suspect = suspect
        return chunk


def suspect_limits_ns(baselines: Sequence[ChannelBaseline] | None, n_channels: int) -> NDArray[np.int64]:
    """How long each channel may read one value, int64[c], before what it reads is no sign of a machine fault.

    A sensor that has just frozen is not known to have until it has stood still for much longer than any
    healthy one; a window that sees the beginning of it looks like nothing the model knows.
    """
    limits = np.full(n_channels, np.iinfo(np.int64).max, dtype=np.int64)
    for j, baseline in enumerate(baselines or ()):
        if not baseline.constant:
            limits[j] = round(_SUSPECT_FACTOR * baseline.longest_run_s * NS_PER_S)
    return limits
