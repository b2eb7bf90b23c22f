"""Blocks in, batches out, scores in, events out. The pipeline never scores, so the same core serves inference in the
process, in a worker, on an accelerator, in the cloud, and in replay.

Strategy: every device has a :class:`~edge_node.lane.Lane` that owns its windows and settles them in event-time order; the
pipeline's part is to batch the windows of all lanes that share an engine through one feature extraction and one invoke,
to hand scores back to the lanes they came from, whatever order they come in, and to count.

Invariants (counters, at any instant):
  samples in = windowed + dropped{reason};  windows closed = scored + pending + dropped{reason}.
What comes out depends only on the sequence of ``push``, ``advance`` and scores, never on a clock. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.gating import Gate, GateState
from edge_node.lane import Chunk, Lane, LaneState, PipelineEvent
from edge_node.plans import DevicePlan, ServedModel
from edge_node.settling import Trace
from models import codec, scoring
from models.features import extract
from models.signal import ArtifactTarget, DropReason, SampleBlock

MAX_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class ScoreBatch:
    """Rows to score together: ``inputs`` float32[w, k] go to the graph; ``features`` float32[w, k] are what they were
    normalised from. ``devices`` names the lane of each row's chunk, in order, for logs."""

    batch_id: int
    engine: str
    model_id: str
    features: NDArray[np.float32]
    inputs: NDArray[np.float32]
    devices: tuple[str, ...]

    @property
    def n(self) -> int:
        return int(self.inputs.shape[0])


@dataclass(slots=True)
class Counters:
    """What went through, by kind; every reason is a DropReason."""

    n_samples_in: int
    n_windowed: int
    sample_drops: Counter[DropReason]
    n_windows_closed: int
    n_windows_scored: int
    n_windows_pending: int
    window_drops: Counter[DropReason]
    n_saturated: int


class PipelineState(msgspec.Struct, kw_only=True):
    """Everything a pipeline remembers."""

    lanes: dict[str, LaneState]
    gates: dict[str, GateState]
    unknown_device: int
    n_saturated: int
    next_batch_id: int


class Pipeline:
    """The gateway's core for a fixed set of devices."""

    def __init__(
        self,
        site: str,
        gateway: str,
        plans: Sequence[DevicePlan],
        *,
        max_batches_out: int = 16,
        max_waiting: int = 8192,
    ) -> None:
        """``max_batches_out`` bounds the batches not yet scored; ``max_waiting`` the windows of one device that wait for
        that (older ones are then dropped as ``backpressure``)."""
        self._gates: dict[str, list[tuple[str, Gate]]] = {}
        by_id = {plan.device.device_id: plan for plan in plans}
        self._lanes: dict[str, Lane] = {}
        self._dirty: dict[str, None] = {}  # lanes with something to collect
        self._ready: dict[str, dict[str, None]] = {}  # engine -> lanes with something to score
        for device_id, plan in by_id.items():
            gate = None
            if plan.gate is not None:
                watched = by_id[plan.gate.device_id].device
                origin = next(c.origin for c in watched.channels if c.name == plan.gate.channel)
                gate = Gate(plan.gate, origin)
                self._gates.setdefault(plan.gate.device_id, []).append((device_id, gate))
            self._lanes[device_id] = Lane(site, gateway, plan, gate, max_waiting)
        self._out: dict[int, tuple[list[Chunk], NDArray[np.float32]]] = {}
        self._next_batch_id = 0
        self._max_batches_out = max_batches_out
        self._unknown_device = 0
        self._n_saturated = 0

    def push(self, block: SampleBlock) -> None:
        """Take a block of samples; one of an unknown device is counted and dropped."""
        lane = self._lanes.get(block.device_id)
        if lane is None:
            self._unknown_device += block.n_samples
            return
        gates = self._gates.get(block.device_id, ())
        if gates and lane.stale:
            self._collect_gated(gates)  # by what was known while the gate was silent
        lane.push(block)
        self._dirty[block.device_id] = None
        for gated, gate in gates:
            gate.push(block)
            self._dirty[gated] = None

    def advance(self, now_ns: int) -> None:
        """Let time pass: silent devices close their last windows and are reported stale."""
        for device_id, lane in self._lanes.items():
            was_stale = lane.stale
            if lane.advance(now_ns):
                self._dirty[device_id] = None
            if lane.stale and not was_stale:
                self._collect_gated(self._gates.get(device_id, ()))

    def take_batches(self) -> list[ScoreBatch]:
        """Windows that are ready, as batches to score: at most ``max_batches_out`` are ever out."""
        dirty, self._dirty = self._dirty, {}
        for device_id in dirty:
            self._collect(self._lanes[device_id])
        batches: list[ScoreBatch] = []
        while self._ready and len(self._out) < self._max_batches_out:
            engine, lanes = next(iter(self._ready.items()))
            chunks: list[Chunk] = []
            n = 0
            for device_id in list(lanes):
                lane = self._lanes[device_id]
                taken = lane.take_ready(MAX_BATCH_ROWS - n)
                chunks += taken
                n += sum(chunk.n for chunk in taken)
                if not lane.has_ready:
                    del lanes[device_id]
                if n >= MAX_BATCH_ROWS:
                    break
            if not lanes:
                del self._ready[engine]
            if chunks:
                batches.append(self._batch(engine, chunks))
        return batches

    def scored(
        self,
        batch_id: int,
        output: NDArray[np.float32],
        backend: ArtifactTarget,
        latency_ns: int,
        n_saturated: int = 0,
    ) -> None:
        """The graph's output float32[w, k] for a batch that is out. KeyError for one that is not; ValueError for a
        wrong shape (the batch then stays out)."""
        chunks, inputs = self._out[batch_id]
        if output.shape != inputs.shape:
            raise ValueError(f"batch {batch_id} has output {output.shape}, expected {inputs.shape}")
        model = self._model(chunks[0])
        residual = scoring.residuals(
            inputs, output, model.manifest.output_kind, model.residual_scale[backend]
        )
        score = scoring.scores(residual)
        del self._out[batch_id]
        self._n_saturated += n_saturated
        begin = 0
        for chunk in chunks:
            end = begin + chunk.n
            self._lanes[chunk.device_id].scored(chunk, residual[begin:end], score[begin:end], backend)
            begin = end

    def failed(self, batch_id: int, reason: DropReason) -> None:
        """A batch that will not be scored: its windows are dropped for ``reason``."""
        chunks, _ = self._out.pop(batch_id)
        for chunk in chunks:
            self._lanes[chunk.device_id].failed(chunk, reason)

    def events(self) -> list[PipelineEvent]:
        """Alerts, summaries and device states since the last call: per device in event-time order."""
        events: list[PipelineEvent] = []
        for lane in self._lanes.values():
            if lane.outbox:
                events.extend(lane.outbox)
                lane.outbox.clear()
        return events

    def trace_scores(self) -> None:
        """Keep every score from now on for :meth:`take_traces` (a replay, a page that draws them)."""
        for lane in self._lanes.values():
            lane.settler.traces = []

    def take_traces(self) -> list[Trace]:
        """Scores settled since the last call, per device in event-time order."""
        traces: list[Trace] = []
        for lane in self._lanes.values():
            if lane.settler.traces:
                traces.extend(lane.settler.traces)
                lane.settler.traces = []
        return traces

    def finish(self) -> None:
        """The end of the signal (a replay's end, a drained daemon): summaries in progress are closed as they are."""
        for lane in self._lanes.values():
            lane.finish()

    @property
    def n_batches_out(self) -> int:
        return len(self._out)

    @property
    def has_ready(self) -> bool:
        """Whether :meth:`take_batches` may have something to hand out."""
        return bool(self._dirty or self._ready)

    def conditions(self) -> dict[str, str]:
        """Each device's state, as last published."""
        return {device_id: lane.condition.value for device_id, lane in self._lanes.items()}

    def counters(self) -> Counters:
        """The counters of section 6.1, summed over devices."""
        sample_drops: Counter[DropReason] = Counter()
        window_drops: Counter[DropReason] = Counter()
        n_in = n_windowed = n_closed = n_scored = n_pending = 0
        for lane in self._lanes.values():
            windower = lane.windower
            n_in += windower.n_samples_in
            n_windowed += windower.n_windowed
            n_closed += windower.n_closed
            n_scored += lane.n_scored
            n_pending += lane.n_pending
            sample_drops.update(windower.sample_drops)
            window_drops.update(windower.window_drops)
            window_drops.update(lane.window_drops)
        if self._unknown_device:
            sample_drops[DropReason.UNKNOWN_DEVICE] += self._unknown_device
        return Counters(
            n_samples_in=n_in + self._unknown_device,
            n_windowed=n_windowed,
            sample_drops=sample_drops,
            n_windows_closed=n_closed,
            n_windows_scored=n_scored,
            n_windows_pending=n_pending,
            window_drops=window_drops,
            n_saturated=self._n_saturated,
        )

    def snapshot(self) -> bytes:
        """All state, batches that are out included: after :meth:`restore` they are handed out again."""
        return codec.pack_state(
            PipelineState(
                lanes={device_id: lane.snapshot() for device_id, lane in self._lanes.items()},
                gates={gated: gate.state for gates in self._gates.values() for gated, gate in gates},
                unknown_device=self._unknown_device,
                n_saturated=self._n_saturated,
                next_batch_id=self._next_batch_id,
            )
        )

    def restore(self, data: bytes, *, only: Collection[str] | None = None) -> None:
        """Continue from a snapshot of a pipeline with the same plans. A device that has since been added starts
        afresh, one that was removed is forgotten. Raises msgspec.ValidationError when ``data`` is not a snapshot."""
        state = codec.unpack_state(data, PipelineState)
        for device_id, lane_state in state.lanes.items():
            if device_id in self._lanes and (only is None or device_id in only):
                self._lanes[device_id].restore(lane_state)
                self._dirty[device_id] = None
        for gates in self._gates.values():
            for gated, gate in gates:
                if gated in state.gates:
                    gate.state = state.gates[gated]
        self._unknown_device = state.unknown_device
        self._n_saturated = state.n_saturated
        self._next_batch_id = state.next_batch_id
        self._out.clear()

    def _collect(self, lane: Lane) -> None:
        gate = lane.plan.gate
        lane.collect(gate_stale=gate is not None and self._lanes[gate.device_id].stale)
        if lane.has_ready:
            self._ready.setdefault(lane.plan.engine, {})[lane.plan.device.device_id] = None

    def _collect_gated(self, gates: Sequence[tuple[str, Gate]]) -> None:
        for gated, _ in gates:
            self._collect(self._lanes[gated])

    def _batch(self, engine: str, chunks: list[Chunk]) -> ScoreBatch:
        model = self._model(chunks[0])
        fresh = [p for p in chunks if p.features is None]
        if fresh:
            spec, window = model.manifest.features, model.manifest.window
            values = _joined([c.values for c in fresh if c.values is not None])
            valid = _joined([c.valid for c in fresh if c.valid is not None])
            matrix = extract(spec, values, valid, window.rate_hz)
            begin = 0
            for chunk in fresh:
                self._lanes[chunk.device_id].put_features(chunk, matrix[begin : begin + chunk.n])
                begin += chunk.n
        features = _joined([c.features for c in chunks if c.features is not None])
        inputs = _joined([c.inputs for c in chunks if c.inputs is not None])
        batch_id = self._next_batch_id
        self._next_batch_id += 1
        self._out[batch_id] = (chunks, inputs)
        return ScoreBatch(
            batch_id, engine, model.model_id, features, inputs, tuple(p.device_id for p in chunks)
        )

    def _model(self, chunk: Chunk) -> ServedModel:
        model = self._lanes[chunk.device_id].plan.model
        assert model is not None
        return model


T = TypeVar("T", bound=np.generic)


def _joined(arrays: list[NDArray[T]]) -> NDArray[T]:
    """``arrays`` one after the other; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
