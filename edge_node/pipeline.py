"""Blocks in, batches out, scores in, events out. The pipeline never scores, so the same core serves inference in the
process, in a worker, on an accelerator, in the cloud, and in replay.

Strategy: every device has a :class:`~edge_node.lane.Lane` that owns its windows and settles them in event-time order; the
pipeline's part is to batch the windows of all lanes that share an engine through one feature extraction and one invoke,
to hand scores back to the lanes they came from, whatever order they come in, and to count.

Invariants (counters, at any instant):
  samples in = windowed + dropped{reason};  windows closed = scored + pending + dropped{reason}.
What comes out depends only on the sequence of ``push``, ``advance``, ``accept`` and scores, never on a clock. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.acceptance import Trial, Verdict
from edge_node.announcing import PipelineEvent, SavedEvent, farewells, load_event, save_event
from edge_node.chunk import Chunk
from edge_node.counters import Counters
from edge_node.feature_rows import FeatureRows
from edge_node.lane import Judgement, Lane, LaneState
from edge_node.plans import MAX_BATCHES_OUT, MAX_WAITING, DevicePlan, NotDrained, ServedModel
from edge_node.settling import Trace
from edge_node.what_if import WhatIf
from models import codec, scoring
from models.acceptance import Acceptance
from models.calibration import p_values
from models.features import extract_pieces
from models.gating import Gate, GateState
from models.healthy_rows import HealthyRows
from models.messages import Alert
from models.requests import Refusal
from models.signal import ArtifactTarget, DropReason, SampleBlock, ScoredOn, samples_to_ns

__all__ = ["Counters", "Pipeline", "PipelineEvent", "ScoreBatch"]

MAX_BATCH_ROWS = 1024
VALUES_AT_ONCE = 1 << 17  # whose features are extracted while they are still in the cache


@dataclass(frozen=True, slots=True, eq=False)
class ScoreBatch:
    """Rows to score together: ``inputs`` float32[w, k] go to the graph; ``features`` float32[w, k] are what they were
    normalised from. ``devices`` names the lane of each row's chunk, in order, for logs. ``may_leave``: the features of all of
    them may be scored elsewhere."""

    batch_id: int
    engine: str
    model_id: str
    features: NDArray[np.float32]
    inputs: NDArray[np.float32]
    devices: tuple[str, ...]
    may_leave: bool = False
    version: int = 0
    schema_id: str = ""

    @property
    def n(self) -> int:
        return int(self.inputs.shape[0])


class DevicePart(msgspec.Struct, kw_only=True):
    """Everything a pipeline remembers of one device."""

    lane: LaneState
    gate: GateState | None


class RestPart(msgspec.Struct, kw_only=True):
    """What it remembers beside that."""

    retired: Counters
    parting: list[SavedEvent]
    next_batch_id: int
    verdicts: list[Verdict] = []


class PipelineState(msgspec.Struct, kw_only=True):
    """Everything a pipeline remembers."""

    devices: dict[str, DevicePart]
    rest: RestPart


class Pipeline:
    """The gateway's core for a fixed set of devices."""

    def __init__(
        self,
        site: str,
        gateway: str,
        plans: Sequence[DevicePlan],
        *,
        max_batches_out: int = MAX_BATCHES_OUT,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """``max_batches_out`` bounds the batches not yet scored; ``max_waiting`` the windows of one device
        that still wait for that, or for their gate, when more come (the oldest are then dropped as
        ``backpressure``)."""
        self._gates: dict[str, list[tuple[str, Gate]]] = {}
        self._gate_of: dict[str, Gate] = {}
        by_id = {plan.device.device_id: plan for plan in plans}
        self._lanes: dict[str, Lane] = {}
        self._at_once: dict[str, int] = {}  # engine -> windows whose features are extracted together
        self._fresh: dict[str, list[Chunk]] = {}  # engine -> chunks whose features are due,
        self._n_fresh: dict[str, int] = {}  # and their windows
        self._dirty: dict[str, None] = {}  # lanes with something to collect
        self._changed: dict[str, None] = {}  # devices of which something changed since the last parts()
        # engine, and whether features may leave -> lanes with something to score
        self._ready: dict[tuple[str, bool], dict[str, None]] = {}
        for device_id, plan in by_id.items():
            gate = None
            if plan.gate is not None:
                watched = by_id[plan.gate.device_id]
                origin = next(c.origin for c in watched.device.channels if c.name == plan.gate.channel)
                period_ns = samples_to_ns(1, watched.window.rate_hz)
                gate = Gate(plan.gate, origin, watched.time, period_ns)
                self._gates.setdefault(plan.gate.device_id, []).append((device_id, gate))
                self._gate_of[device_id] = gate
            self._lanes[device_id] = Lane(site, gateway, plan, gate, max_waiting)
            self._expect(plan)
        self._outboxes = self._lane_outboxes()
        self._out: dict[int, tuple[list[Chunk | Trial], NDArray[np.float32]]] = {}
        self._next_batch_id = 0
        self._featured: list[FeatureRows | Acceptance] = []
        self._max_batches_out = max_batches_out
        self._retired = Counters()  # what is not of a lane, or of one that is no more
        self._parting: list[PipelineEvent] = []
        self._verdicts: list[Verdict] = []  # on acceptances of no lane, or of one that is no more

    @property
    def linked(self) -> frozenset[str]:
        """Devices that gate another or are gated: the order of their blocks among each other matters."""
        return frozenset(self._gates) | {gated for gates in self._gates.values() for gated, _ in gates}

    def push(self, block: SampleBlock) -> None:
        """Take a block of samples; one of an unknown device is counted and dropped."""
        lane = self._lanes.get(block.device_id)
        if lane is None:
            n = block.n_samples
            self._retired.add(Counters(n_samples_in=n, sample_drops={DropReason.UNKNOWN_DEVICE: n}))
            return
        gates = self._gates.get(block.device_id, ())
        for gated, gate in gates:
            if gate.silent and gate.hears(block):
                self._collect(self._lanes[gated])  # by what was known while the gate was silent
        restarts = lane.push(block)
        self._dirty[block.device_id] = self._changed[block.device_id] = None
        for gated, gate in gates:
            for restart in restarts:
                gate.fall_silent()  # nobody will know more of the time before
                self._collect(self._lanes[gated])
                gate.restart(restart.to_ns)
            for piece in gate.pieces(block):
                if gate.is_full_for(piece):
                    self._collect(self._lanes[gated])  # while it is known when the machine ran
                gate.push(piece)
            self._dirty[gated] = self._changed[gated] = None

    def advance(self, now_ns: int) -> None:
        """Let time pass: silent devices close their last windows and are reported stale."""
        for device_id, lane in self._lanes.items():
            if lane.advance(now_ns):
                self._dirty[device_id] = self._changed[device_id] = None
            for gated, gate in self._gates.get(device_id, ()):
                if not gate.silent and gate.spec.channel in lane.windower.stale_channels:
                    gate.fall_silent()
                    self._changed[gated] = None
                    self._collect(self._lanes[gated])

    def resume(self, now_ns: int) -> None:
        """After a restore, when time has passed in which nobody could have heard a device: its silence counts from now."""
        for lane in self._lanes.values():
            lane.resume(now_ns)

    def accept(self, acceptance: Acceptance) -> None:
        """An operator says that how a device runs, after all that was pushed, is normal; :meth:`take_verdicts` tells what
        became of it, once the windows until now have their scores."""
        lane = self._lanes.get(acceptance.device_id)
        if lane is None:
            self._refuse(acceptance, Refusal.UNKNOWN_DEVICE, f"there is no device {acceptance.device_id}")
            return
        lane.accept(acceptance)
        self._dirty[acceptance.device_id] = self._changed[acceptance.device_id] = None
        self._register(lane)

    def feed(self, item: FeatureRows | Acceptance) -> None:
        """Take, in place of signal, features as :meth:`take_features` gave them, of a device that is here, and what came
        between; in that order. Nothing else of that device may wait."""
        if isinstance(item, Acceptance):
            self.accept(item)
            return
        lane = self._lanes[item.device_id]
        lane.feed(item)
        self._changed[item.device_id] = None
        self._register(lane)

    def gather(self) -> None:
        """Make windows of what was pushed since the last call, and features of these while they are in the cache.
        :meth:`take_batches` does it as well: calling it before, device by device, only saves time."""
        dirty, self._dirty = self._dirty, {}
        for device_id in dirty:
            lane = self._lanes[device_id]
            self._collect(lane)
            if chunks := lane.take_fresh():
                engine = lane.plan.engine
                self._fresh[engine] += chunks
                for chunk in chunks:
                    self._n_fresh[engine] += chunk.rows.size
                if self._n_fresh[engine] >= self._at_once[engine]:
                    self._extract_fresh(engine)

    def take_batches(self, but: Collection[tuple[str, bool]] = ()) -> list[ScoreBatch]:
        """Windows that are ready, as batches to score: at most ``max_batches_out`` are ever out. Those of ``but``, engines and
        whether features may leave, wait on, and go together later."""
        self.gather()
        for engine in self._fresh:
            self._extract_fresh(engine)
        batches: list[ScoreBatch] = []
        wanted = deque(key for key in self._ready if key not in but)
        while wanted and len(self._out) < self._max_batches_out:
            engine, may_leave = wanted[0]
            lanes = self._ready[engine, may_leave]
            chunks: list[Chunk | Trial] = []
            n = 0
            for device_id in list(lanes):
                lane = self._lanes[device_id]
                for chunk in lane.take_ready(MAX_BATCH_ROWS - n):
                    chunks.append(chunk)
                    n += chunk.n
                if not lane.has_ready:
                    del lanes[device_id]
                if n >= MAX_BATCH_ROWS:
                    break
            if not lanes:
                del self._ready[engine, may_leave]
                wanted.popleft()
            if chunks:
                batches.append(self._batch(engine, may_leave, chunks))
        return batches

    def scored(
        self,
        batch_id: int,
        output: NDArray[np.float32],
        backend: ArtifactTarget,
        latency_ns: int,
        n_saturated: int = 0,
        saturated: NDArray[np.bool_] | None = None,
    ) -> None:
        """The graph's output float32[w, k] for a batch that is out, of which ``n_saturated`` values met an end of their
        range, in the windows ``saturated`` bool[w] (None: in none). KeyError for one that is not; ValueError for a
        wrong shape (the batch then stays out)."""
        chunks, inputs = self._out[batch_id]
        if output.shape != inputs.shape:
            raise ValueError(f"batch {batch_id} has output {output.shape}, expected {inputs.shape}")
        model = self._model(chunks[0])
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is dropped, and counted
            residual = scoring.residuals(
                inputs, output, model.manifest.output_kind, model.residual_scale[backend]
            )
            score = scoring.scores(residual)
        p = p_values(model.calibration[backend], score)
        self._retired.n_saturated += n_saturated
        self._judged(batch_id, residual, score, p, backend, latency_ns, saturated)

    def scored_elsewhere(
        self, batch_id: int, residual: NDArray[np.float32], p: NDArray[np.float64], latency_ns: int
    ) -> None:
        """A sink's model has scored a batch that is out: ``residual`` float32[w, k] in units of that model's healthy spread, and
        ``p`` float64[w] by its calibration. KeyError and ValueError as :meth:`scored` raises them."""
        _, inputs = self._out[batch_id]
        if residual.shape != inputs.shape or p.shape != inputs.shape[:1]:
            raise ValueError(
                f"batch {batch_id} has residuals {residual.shape} and p {p.shape}, expected {inputs.shape}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            score = scoring.scores(residual)
        self._judged(batch_id, residual, score, p, "cloud", latency_ns, None)

    def _judged(
        self,
        batch_id: int,
        residual: NDArray[np.float32],
        score: NDArray[np.float32],
        p: NDArray[np.float64],
        backend: ScoredOn,
        latency_ns: int,
        saturated: NDArray[np.bool_] | None,
    ) -> None:
        finite = np.isfinite(score) & np.isfinite(residual).all(axis=1)
        chunks, _ = self._out.pop(batch_id)
        sizes = [chunk.n for chunk in chunks]
        begins = [0, *accumulate(sizes[:-1])]
        all_finite = bool(finite.all())
        least = np.minimum.reduceat(p, begins).tolist() if all_finite else [0.0] * len(chunks)
        for chunk, begin, n, least_p in zip(chunks, begins, sizes, least, strict=True):
            rows = slice(begin, begin + n)
            which = None if all_finite else finite[rows]
            if saturated is not None and np.count_nonzero(saturated[rows]):
                chunk.saturated = saturated[rows]
            if isinstance(chunk, Chunk):
                chunk.latency_ns = latency_ns
            lane = self._lanes[chunk.device_id]
            self._changed[chunk.device_id] = None
            lane.scored(chunk, residual[rows], score[rows], p[rows], least_p, which, backend)
            self._register(lane)  # an acceptance may have waited for it, and windows for that

    def failed(self, batch_id: int, reason: DropReason) -> None:
        """A batch that will not be scored: its windows are dropped for ``reason``."""
        chunks, _ = self._out.pop(batch_id)
        for chunk in chunks:
            self._changed[chunk.device_id] = None
            lane = self._lanes[chunk.device_id]
            lane.failed(chunk, reason)
            self._register(lane)

    def events(self) -> list[PipelineEvent]:
        """Alerts, summaries and device states since the last call: per device in event-time order."""
        events, self._parting = self._parting, []
        for device_id, outbox in self._outboxes:
            if outbox:
                self._changed[device_id] = None
                events.extend(outbox)
                outbox.clear()
        return events

    def take_verdicts(self) -> list[Verdict]:
        """What became of acceptances since the last call."""
        verdicts, self._verdicts = self._verdicts, []
        for device_id, lane in self._lanes.items():
            if lane.verdicts:
                self._changed[device_id] = None
                verdicts += lane.verdicts
                lane.verdicts = []
        return verdicts

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

    @property
    def learned(self) -> list[str]:
        """Devices that have learned enough: their windows wait until :meth:`adopt` or :meth:`learn_on`."""
        return [d for d, lane in self._lanes.items() if lane.learner is not None and lane.learner.complete]

    def healthy(self, device_id: str) -> HealthyRows:
        """What a device that is among :attr:`learned` has learned from."""
        learner = self._lanes[device_id].learner
        assert learner is not None
        return learner.healthy()

    def learn_on(self, device_id: str) -> None:
        """That did not make a model: the device learns on."""
        lane = self._lanes[device_id]
        lane.learn_on()
        self._changed[device_id] = None
        self._register(lane)

    def learning(self) -> dict[str, tuple[float, float]]:
        """Of each device that learns: how far it is, 0 to 1, and how many seconds that takes yet."""
        return {
            device_id: (lane.learner.progress, lane.learner.left_s)
            for device_id, lane in self._lanes.items()
            if lane.learner is not None
        }

    def keep_features(self) -> None:
        """Keep what features are made from now on, for :meth:`take_features`; whoever asked takes them."""
        self._featured = []
        for lane in self._lanes.values():
            lane.featured = self._featured

    def take_features(self) -> list[FeatureRows | Acceptance]:
        """Features since the last call, per device in the order in which its windows closed, and acceptances where they were
        decided."""
        if not self._featured:
            return []
        found = list(self._featured)
        self._featured.clear()
        return found

    def judgements(self) -> dict[str, Judgement]:
        """What is remembered of each device that has a model, beside its signal."""
        return {d: lane.judgement() for d, lane in self._lanes.items() if lane.plan.model is not None}

    def featured_ns(self, device_id: str) -> int | None:
        """Start of the last window of a device that had got its features; None where nobody knows."""
        return self._lanes[device_id].featured_ns

    def judge_on(self, judgements: Mapping[str, Judgement]) -> set[str]:
        """Go on judging from ``judgements``; the devices of which that was possible, see :meth:`Lane.judge_on`."""
        lanes = self._lanes
        return {d for d, one in judgements.items() if d in lanes and lanes[d].judge_on(one)}

    def finish(self) -> None:
        """The end of the signal (a replay's end, a drained daemon): windows that wait to know whether their
        machine ran are decided by what is known, and may then have to be scored; once none is pending,
        summaries in progress are closed as they are."""
        self._changed = dict.fromkeys(self._lanes)
        for lane in self._lanes.values():
            lane.finish()
            self._register(lane)

    def adopt(self, plans: Collection[DevicePlan]) -> None:
        """Serve each device of ``plans`` by the model that its plan has now, from its next window on: see
        :meth:`Lane.adopt`. What a batch was made for settles it, so none may be out, and no window ready: NotDrained.
        ValueError for a plan that differs by more than that (:meth:`DevicePlan.fits`). Then nothing has changed."""
        lanes = {plan.device.device_id: self._lanes[plan.device.device_id] for plan in plans}
        if self._out or not all(lane.is_drained for lane in lanes.values()):
            raise NotDrained
        for plan in plans:
            if not lanes[plan.device.device_id].plan.fits(plan):
                raise ValueError(f"{plan.device.device_id} cannot go on under that plan")
        for plan in plans:
            self._expect(plan)
            lanes[plan.device.device_id].adopt(plan)
            self._changed[plan.device.device_id] = None
        self._ready = {}
        for lane in lanes.values():
            self._register(lane)  # windows that waited for what the device has learned
        used = {lane.plan.engine for lane in self._lanes.values()}
        for engine in [e for e in self._fresh if e not in used]:
            del self._fresh[engine], self._n_fresh[engine], self._at_once[engine]
        self._outboxes = self._lane_outboxes()

    def tap(self, device_ids: Collection[str]) -> list[Trace]:
        """A list to which every window of these devices that is scored is added from now on, until :meth:`untap`;
        whoever asked empties it."""
        heard: list[Trace] = []
        for device_id in device_ids:
            self._lanes[device_id].settler.taps += (heard,)
        return heard

    def untap(self, heard: list[Trace]) -> None:
        """The inverse of :meth:`tap`."""
        for lane in self._lanes.values():
            lane.settler.taps = tuple(tap for tap in lane.settler.taps if tap is not heard)

    def what_if(self, plan: DevicePlan) -> WhatIf:
        """The alerts of a device from now on under ``plan``, its own but for its levels; it has a model."""
        return self._lanes[plan.device.device_id].settler.what_if(plan)

    def open_alerts(self, device_id: str) -> list[Alert]:
        """The last message of every alert of a device that is open."""
        return self._lanes[device_id].settler.open_alerts

    @property
    def max_batches_out(self) -> int:
        """How many batches may be out at once."""
        return self._max_batches_out

    @property
    def n_batches_out(self) -> int:
        return len(self._out)

    @property
    def has_ready(self) -> bool:
        """Whether :meth:`take_batches` may have something to hand out."""
        return bool(self._dirty or self._ready)

    @property
    def n_unscored(self) -> int:
        """Windows that nothing keeps from being scored, and that are not yet; not those that wait for their gate."""
        return sum(lane.n_unscored for lane in self._lanes.values())

    def conditions(self) -> dict[str, str]:
        """Each device's state, as last published."""
        return {device_id: lane.condition.value for device_id, lane in self._lanes.items()}

    def counters_by_device(self) -> dict[str, Counters]:
        """The counters of each device, since this pipeline began or what it goes on from did."""
        return {device_id: lane.counters() for device_id, lane in self._lanes.items()}

    def counters(self) -> Counters:
        """The counters, summed over devices."""
        total = Counters()
        total.add(self._retired)
        for lane in self._lanes.values():
            total.add(lane.counters())
        return total

    def snapshot(self, only: Collection[str] | None = None) -> bytes:
        """All state (of the devices in ``only``; None: of all), batches that are out included: after :meth:`restore` they
        are handed out again."""
        devices = {d: self._part(d) for d in self._lanes if only is None or d in only}
        return codec.pack_state(PipelineState(devices=devices, rest=self._rest()))

    def restore(self, data: bytes, *, only: Collection[str] | None = None) -> None:
        """Continue from a snapshot, into a pipeline that nothing was pushed to yet.

        A device goes on where it was if it is here, in ``only`` (None: all), and has the channels, windows,
        model and limits that it had. Any other starts afresh or is gone: its open alerts are cleared, its
        pending windows counted as dropped. Raises msgspec.DecodeError when ``data`` is not a snapshot.
        """
        self._go_on_from(codec.unpack_state(data, PipelineState), only)

    @property
    def has_changed(self) -> bool:
        """Whether :meth:`parts` has something to say of a device."""
        return bool(self._changed)

    def parts(self, *, all_devices: bool = False) -> tuple[dict[str, bytes], bytes]:
        """A snapshot in parts, of the devices of which something changed since the last call (or of all): by device, and
        what is of none."""
        changed = self._lanes if all_devices else self._changed
        devices = {device_id: codec.pack_state(self._part(device_id)) for device_id in changed}
        self._changed = {}
        return devices, codec.pack_state(self._rest())

    def restore_parts(self, devices: Mapping[str, bytes], rest: bytes) -> None:
        """As :meth:`restore`, from the latest part of each device."""
        parts = {device_id: codec.unpack_state(part, DevicePart) for device_id, part in devices.items()}
        self._go_on_from(PipelineState(devices=parts, rest=codec.unpack_state(rest, RestPart)), None)

    def _part(self, device_id: str) -> DevicePart:
        gate = self._gate_of.get(device_id)
        return DevicePart(lane=self._lanes[device_id].snapshot(), gate=None if gate is None else gate.state)

    def _rest(self) -> RestPart:
        return RestPart(
            retired=self._retired,
            parting=[save_event(event) for event in self._parting],
            next_batch_id=self._next_batch_id,
            verdicts=list(self._verdicts),
        )

    def _go_on_from(self, state: PipelineState, only: Collection[str] | None) -> None:
        self._retired = state.rest.retired
        self._parting = [load_event(saved) for saved in state.rest.parting]
        self._next_batch_id = state.rest.next_batch_id
        self._verdicts = list(state.rest.verdicts)
        kept = set()
        for device_id, part in state.devices.items():
            lane, lane_state = self._lanes.get(device_id), part.lane
            if lane is not None and (only is None or device_id in only) and lane.fits(lane_state):
                lane.restore(lane_state)
                self._dirty[device_id] = None
                kept.add(device_id)
            else:
                lane_state.counters.retire()
                self._retired.add(lane_state.counters)
                self._parting += farewells(lane_state.settler.announcer)
                self._verdicts += lane_state.verdicts
                for item in lane_state.order:
                    if isinstance(item, Trial):
                        text = f"{device_id} is no longer watched as it was when this was asked"
                        self._refuse(item.acceptance, Refusal.RECONFIGURED, text)
        for watched, gates in self._gates.items():
            for gated, gate in gates:
                was = state.devices[gated].gate if watched in kept and gated in kept else None
                if was is not None:
                    gate.state = was
        self._out.clear()
        self._fresh, self._n_fresh = {engine: [] for engine in self._fresh}, dict.fromkeys(self._fresh, 0)

    def _refuse(self, acceptance: Acceptance, refusal: Refusal, text: str) -> None:
        self._verdicts.append(Verdict(acceptance=acceptance, refusal=refusal, text=text))

    def _expect(self, plan: DevicePlan) -> None:
        """Be ready for windows that ``plan`` scores."""
        values = plan.window.n * max(1, len(plan.device.channels))
        self._at_once[plan.engine] = max(1, VALUES_AT_ONCE // values)
        self._fresh.setdefault(plan.engine, [])
        self._n_fresh.setdefault(plan.engine, 0)

    def _lane_outboxes(self) -> list[tuple[str, list[PipelineEvent]]]:
        return [(device_id, lane.outbox) for device_id, lane in self._lanes.items()]

    def _collect(self, lane: Lane) -> None:
        lane.collect()
        self._register(lane)

    def _register(self, lane: Lane) -> None:
        if lane.has_ready:
            key = (lane.plan.engine, lane.plan.may_leave)
            self._ready.setdefault(key, {})[lane.plan.device.device_id] = None

    def _batch(self, engine: str, may_leave: bool, chunks: list[Chunk | Trial]) -> ScoreBatch:
        model = self._model(chunks[0])
        if lacking := [c for c in chunks if isinstance(c, Chunk) and c.features is None]:
            self._extract(lacking)  # they were collected outside of take_batches
        features = _joined([c.features for c in chunks if c.features is not None])
        inputs = scoring.normalise(features, model.centre, model.scale)
        batch_id = self._next_batch_id
        self._next_batch_id += 1
        self._out[batch_id] = (chunks, inputs)
        return ScoreBatch(
            batch_id,
            engine,
            model.model_id,
            features,
            inputs,
            tuple(p.device_id for p in chunks),
            may_leave,
            model.version,
            model.manifest.schema_id,
        )

    def _extract_fresh(self, engine: str) -> None:
        chunks, self._fresh[engine], self._n_fresh[engine] = self._fresh[engine], [], 0
        self._extract(chunks)

    def _extract(self, chunks: list[Chunk]) -> None:
        """Features of chunks that have none, all of one engine; not of those that were shed."""
        chunks = [c for c in chunks if c.values is not None]
        if not chunks:
            return
        model = self._model(chunks[0])
        values = [c.values for c in chunks if c.values is not None]
        valid = None
        if any(c.valid is not None for c in chunks):
            valid = _joined([_valid(c) for c in chunks])
        matrix = extract_pieces(model.manifest.features, values, valid, model.manifest.window.rate_hz)
        begin = 0
        for chunk in chunks:
            end = begin + chunk.n
            self._lanes[chunk.device_id].put_features(chunk, matrix[begin:end])
            begin = end

    def _model(self, chunk: Chunk | Trial) -> ServedModel:
        model = self._lanes[chunk.device_id].plan.model
        assert model is not None
        return model


def _valid(chunk: Chunk) -> NDArray[np.bool_]:
    assert chunk.values is not None
    return np.ones(chunk.values.shape, np.bool_) if chunk.valid is None else chunk.valid


T = TypeVar("T", bound=np.generic)


def _joined(arrays: list[NDArray[T]]) -> NDArray[T]:
    """``arrays`` one after the other; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
