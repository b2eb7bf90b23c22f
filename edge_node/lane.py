"""One device on its way from windows to events.

Windows become chunks; a chunk is gated (does the machine run?), checked (do its sensors work?), scored elsewhere, and
settled. Invariant: chunks settle in the order in which their windows closed, whatever order their scores come in, so
what a device says depends on its signal alone. Pure.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.gating import Gate
from edge_node.plans import DevicePlan
from edge_node.settling import PipelineEvent, Settler, SettlerState
from models import scoring
from models.calibration import p_values
from models.recentring import Recentring, RecentringState
from models.sensor_checks import LimitChecks, LimitState, SensorChecks, SensorState
from models.signal import ArtifactTarget, Clock, DeviceCondition, DropReason, SampleBlock, WindowBatch
from models.windowing import Windower

__all__ = ["Chunk", "Lane", "LaneState", "PipelineEvent"]

MAX_CHUNK = 256

Stage = Literal["gated", "ready", "out", "done"]


class Chunk(msgspec.Struct, kw_only=True, eq=False):
    """Consecutive windows of one device, [w] of them, of which the rows ``rows`` int64[m] are scored.

    ``silence`` marks an entry without windows: the device fell silent (or spoke again) at ``at_ns``.
    """

    device_id: str
    stage: Stage
    arrival_ns: int
    clock: str
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    active: NDArray[np.bool_]
    faults: NDArray[np.uint8]
    fault_since_ns: NDArray[np.int64]
    last: NDArray[np.float32]
    violated: NDArray[np.bool_]
    extreme: NDArray[np.float64]
    rows: NDArray[np.int64]
    values: NDArray[np.float32] | None = None
    valid: NDArray[np.bool_] | None = None
    raw: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None
    inputs: NDArray[np.float32] | None = None
    drifted: NDArray[np.bool_] | None = None
    centre: NDArray[np.float64] | None = None  # where re-centring stood after the chunk
    residual: NDArray[np.float32] | None = None
    score: NDArray[np.float32] | None = None
    p: NDArray[np.float64] | None = None
    backend: ArtifactTarget | None = None
    silence: Literal["stale", "resumed"] | None = None
    at_ns: int = 0
    channels: tuple[str, ...] = ()  # that are silent

    @property
    def n(self) -> int:
        """Number of rows to score."""
        return int(self.rows.size)

    @property
    def n_windows(self) -> int:
        return int(self.start_ns.size)


class LaneState(msgspec.Struct, kw_only=True):
    """Everything a :class:`Lane` remembers."""

    windower: bytes
    chunks: list[Chunk]
    sensors: SensorState
    limits: LimitState
    recentring: RecentringState | None
    settler: SettlerState
    n_scored: int
    n_taken: int
    window_drops: dict[str, int]
    clock: str
    stale: bool


class Lane:
    """See the module's docstring; driven by :class:`~edge_node.pipeline.Pipeline` alone."""

    def __init__(
        self, site: str, gateway: str, plan: DevicePlan, gate: Gate | None, max_waiting: int
    ) -> None:
        self.plan = plan
        self.windower = Windower(plan.device, plan.window, plan.time)
        self.n_scored = 0
        self.window_drops: Counter[DropReason] = Counter()
        self._gate = gate
        self._max_waiting = max_waiting
        self._order: deque[Chunk] = deque()
        self._ready: deque[Chunk] = deque()
        self._n_waiting = 0
        self._n_taken = 0
        self._clock = Clock.DEVICE.value
        self._stale = False
        model = plan.model
        baselines = [c.baseline for c in model.manifest.channels] if model is not None else None
        self._sensors = SensorChecks(plan.device.channels, baselines, plan.window)
        self._limits = LimitChecks(plan.limits, plan.device.channels, plan.window)
        self._recentring: Recentring | None = None
        if model is not None and model.manifest.recentring is not None:
            self._recentring = Recentring(
                model.manifest.recentring, model.centre, model.scale, model.recentred, model.start_centre
            )
        self._settler = Settler(site, gateway, plan)

    @property
    def outbox(self) -> list[PipelineEvent]:
        """Events settled and not yet taken."""
        return self._settler.outbox

    @property
    def settler(self) -> Settler:
        return self._settler

    @property
    def condition(self) -> DeviceCondition:
        return self._settler.condition

    @property
    def stale(self) -> bool:
        """Whether the device is silent."""
        return self._stale

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    @property
    def n_pending(self) -> int:
        """Windows closed and neither scored nor dropped yet."""
        return self._n_untaken + sum(
            c.n_windows if c.stage == "gated" else c.n for c in self._order if c.stage != "done"
        )

    @property
    def _n_untaken(self) -> int:
        windower = self.windower
        return windower.n_closed - sum(windower.window_drops.values()) - self._n_taken

    def push(self, block: SampleBlock) -> None:
        self.windower.push(block)
        self._clock = block.clock.value
        if self._stale and not self.windower.stale:
            self._stale = False
            self.collect(gate_stale=False)
            self._mark("resumed", block)
            self._settle()

    def advance(self, now_ns: int) -> bool:
        """Let time pass; True when there may be something to collect."""
        self.windower.advance(now_ns)
        if self.windower.stale and not self._stale:
            self._stale = True
            self.collect(gate_stale=False)
            self._mark("stale", None)
            self._settle()
        return self._n_untaken > 0 or bool(self._order)

    def collect(self, *, gate_stale: bool) -> None:
        """Turn closed windows into chunks, resolve those whose gate is known, settle what needs no score."""
        for batch in self.windower.take():
            self._n_taken += batch.n
            for part in _parts(batch):
                self._admit(part)
        for chunk in self._order:
            if chunk.stage == "gated":
                if not self._gate_known(chunk, gate_stale):
                    break
                self._resolve(chunk)
        self._shed()
        self._settle()

    def take_ready(self, limit: int) -> list[Chunk]:
        """Chunks to score, oldest first, until they have ``limit`` rows or more."""
        taken: list[Chunk] = []
        n = 0
        while self._ready and n < limit:
            chunk = self._ready.popleft()
            chunk.stage = "out"
            self._n_waiting -= chunk.n
            n += chunk.n
            taken.append(chunk)
        return taken

    def put_features(self, chunk: Chunk, matrix: NDArray[np.float32]) -> None:
        """Features float32[m, k] of the chunk's rows; re-centred and normalised here, in order."""
        model = self.plan.model
        assert model is not None
        chunk.raw = matrix
        chunk.features = matrix
        if self._recentring is not None:
            chunk.features, drifted = self._recentring.apply(matrix)
            chunk.centre = self._recentring.moving_centre.copy()
            if drifted.any():
                chunk.drifted = drifted
        chunk.inputs = scoring.normalise(chunk.features, model.centre, model.scale)
        chunk.values = chunk.valid = None

    def scored(
        self, chunk: Chunk, residual: NDArray[np.float32], score: NDArray[np.float32], backend: ArtifactTarget
    ) -> None:
        """Scores of the chunk's rows."""
        model = self.plan.model
        assert model is not None
        finite = np.isfinite(score)
        if not finite.all():
            self._drop(DropReason.NOT_FINITE_SCORE, int(np.count_nonzero(~finite)))
            self._keep_rows(chunk, finite)
            residual, score = residual[finite], score[finite]
        chunk.residual, chunk.score = residual, score
        chunk.p = p_values(model.calibration[backend], score)
        chunk.backend = backend
        chunk.stage = "done"
        self.n_scored += chunk.n
        self._settle()

    def failed(self, chunk: Chunk, reason: DropReason) -> None:
        """The chunk's rows will not be scored."""
        self._forget_rows(chunk, reason)
        chunk.stage = "done"
        self._settle()

    def finish(self) -> None:
        """End of the signal: windows that still wait for their gate are settled with what is known of it."""
        self.collect(gate_stale=True)
        self._settler.finish()

    def snapshot(self) -> LaneState:
        return LaneState(
            windower=self.windower.snapshot(),
            chunks=list(self._order),
            sensors=self._sensors.state(),
            limits=self._limits.state(),
            recentring=self._recentring.state() if self._recentring is not None else None,
            settler=self._settler.state(),
            n_scored=self.n_scored,
            n_taken=self._n_taken,
            clock=self._clock,
            window_drops={reason.value: n for reason, n in self.window_drops.items()},
            stale=self._stale,
        )

    def restore(self, state: LaneState) -> None:
        """Continue from ``state``; chunks that were out are ready again."""
        self.windower.restore(state.windower)
        self._order = deque(state.chunks)
        for chunk in self._order:
            if chunk.stage == "out":
                chunk.stage = "ready"
        self._ready = deque(c for c in self._order if c.stage == "ready")
        self._n_waiting = sum(c.n for c in self._order if c.stage in ("gated", "ready"))
        self._sensors.restore(state.sensors)
        self._limits.restore(state.limits)
        if self._recentring is not None and state.recentring is not None:
            self._recentring.restore(state.recentring)
        self._settler.restore(state.settler)
        self.n_scored = state.n_scored
        self._n_taken = state.n_taken
        self._clock = state.clock
        self.window_drops = Counter({DropReason(reason): n for reason, n in state.window_drops.items()})
        self._stale = state.stale

    def _admit(self, batch: WindowBatch) -> None:
        faults, since_ns = self._sensors.examine(batch)
        violated, extreme = self._limits.check(batch)
        chunk = Chunk(
            device_id=self.plan.device.device_id,
            stage="gated",
            arrival_ns=self.windower.last_arrival_ns or 0,
            clock=self._clock,
            start_ns=batch.start_ns,
            end_ns=batch.end_ns,
            active=np.ones(batch.n, np.bool_),
            faults=faults,
            fault_since_ns=since_ns,
            last=batch.values[:, -1, :].copy(),
            violated=violated,
            extreme=extreme,
            rows=np.arange(batch.n),
            values=batch.values,
            valid=batch.valid,
        )
        self._n_waiting += chunk.n
        self._order.append(chunk)

    def _gate_known(self, chunk: Chunk, gate_stale: bool) -> bool:
        if self._gate is None or gate_stale or chunk.n_windows == 0:
            return True
        known = self._gate.known_until_ns
        return known is not None and known >= chunk.end_ns[-1]

    def _resolve(self, chunk: Chunk) -> None:
        """Decide which of the chunk's windows are scored."""
        if self._gate is not None:
            spans = zip(chunk.start_ns.tolist(), chunk.end_ns.tolist(), strict=True)
            chunk.active = np.array([self._gate.active(s, e) for s, e in spans], dtype=np.bool_)
            self._gate.forget_before(int(chunk.start_ns[0]))
            if not chunk.active.all():
                self._drop(DropReason.INACTIVE, int(np.count_nonzero(~chunk.active)))
                chunk.faults[~chunk.active] = 0  # a sensor of a machine at rest may well be flat
        faulty = chunk.faults.any(axis=1)
        if faulty.any():
            self._drop(DropReason.SENSOR_FAULT, int(np.count_nonzero(faulty)))
        before = chunk.n
        self._keep_rows(chunk, chunk.active & ~faulty)
        self._n_waiting -= before - chunk.n
        if self.plan.model is None:
            self._n_waiting -= chunk.n
            self._forget_rows(chunk, DropReason.NO_MODEL)
        chunk.stage = "ready" if chunk.n else "done"
        if chunk.n:
            self._ready.append(chunk)

    def _shed(self) -> None:
        """Past the bound of waiting windows, drop the oldest that are not out."""
        for chunk in self._order:
            if self._n_waiting <= self._max_waiting:
                return
            if chunk.stage in ("gated", "ready"):
                if chunk.stage == "ready":
                    self._ready.remove(chunk)
                self._n_waiting -= chunk.n
                self._forget_rows(chunk, DropReason.BACKPRESSURE)
                chunk.stage = "done"

    def _keep_rows(self, chunk: Chunk, keep: NDArray[np.bool_]) -> None:
        if keep.all():
            return
        chunk.rows = chunk.rows[keep]
        for name in ("values", "valid", "raw", "features", "inputs", "drifted"):
            array = getattr(chunk, name)
            if array is not None:
                setattr(chunk, name, np.ascontiguousarray(array[keep]))

    def _forget_rows(self, chunk: Chunk, reason: DropReason) -> None:
        self._drop(reason, chunk.n)
        chunk.rows = chunk.rows[:0]
        chunk.values = chunk.valid = chunk.raw = chunk.features = chunk.inputs = chunk.drifted = None

    def _drop(self, reason: DropReason, n: int) -> None:
        if n:
            self.window_drops[reason] += n

    def _mark(self, silence: Literal["stale", "resumed"], block: SampleBlock | None) -> None:
        at_ns = self.windower.last_event_ns if block is None else int(block.times().min())
        n_channels = len(self.plan.device.channels)
        no_time, none = np.zeros(0, np.int64), np.zeros((0, n_channels), np.uint8)
        self._order.append(
            Chunk(
                device_id=self.plan.device.device_id,
                stage="done",
                arrival_ns=self.windower.last_arrival_ns or 0,
                clock=self._clock,
                start_ns=no_time,
                end_ns=no_time,
                active=np.zeros(0, np.bool_),
                faults=none,
                fault_since_ns=none.astype(np.int64),
                last=none.astype(np.float32),
                violated=np.zeros((0, len(self.plan.limits)), np.bool_),
                extreme=np.zeros((0, len(self.plan.limits))),
                rows=no_time,
                silence=silence,
                at_ns=at_ns or 0,
                channels=self.windower.stale_channels,
            )
        )

    def _settle(self) -> None:
        while self._order and self._order[0].stage == "done":
            self._settler.settle(self._order.popleft())


def _parts(batch: WindowBatch) -> Iterator[WindowBatch]:
    """``batch`` in pieces of at most MAX_CHUNK windows."""
    if batch.n <= MAX_CHUNK:
        yield batch
        return
    for i in range(0, batch.n, MAX_CHUNK):
        j = i + MAX_CHUNK
        yield WindowBatch(
            batch.device_id, batch.start_ns[i:j], batch.end_ns[i:j], batch.values[i:j], batch.valid[i:j]
        )
