"""One device on its way from windows to events.

Windows become chunks; a chunk is gated (does the machine run?), checked (do its sensors work?), scored
elsewhere, and settled. Invariants: chunks settle in the order in which their windows closed, whatever order
their scores come in, so what a device says depends on its signal alone; no window that closed after an acceptance gets
its features before that is decided, since it may move what they are measured from. Pure.
"""

from __future__ import annotations

from collections import Counter, deque

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.acceptance import Trial, Verdict
from edge_node.chunk import MAX_CHUNK, Chunk, Silence, all_rows
from edge_node.counters import Counters, added
from edge_node.feature_rows import FeatureRows
from edge_node.inspection import Inspection, InspectionState
from edge_node.kept_back import KeptBack
from edge_node.learner import Learner, LearnerState
from edge_node.moving_normal import MovingNormal
from edge_node.plans import DevicePlan
from edge_node.settling import PipelineEvent, Settler, SettlerState
from edge_node.silences import fell_silent, row_that_ends, spoke_again
from models.acceptance import Acceptance
from models.gating import Gate
from models.recentring import RecentringState
from models.requests import Refusal
from models.running_range import RangeState
from models.signal import (
    Clock,
    DeviceCondition,
    DropReason,
    SampleBlock,
    ScoredOn,
    WindowBatch,
)
from models.windowing import ClockEvent, Windower


class LaneState(msgspec.Struct, kw_only=True):
    """Everything a :class:`Lane` remembers."""

    of: str
    windower: bytes
    order: list[Chunk | Silence | Trial]
    inspection: InspectionState
    recentring: RecentringState | None
    settler: SettlerState
    counters: Counters
    n_taken: int
    window_drops: dict[DropReason, int]
    clock: str
    stale: bool
    finishing: bool
    verdicts: list[Verdict] = []
    ranges: RangeState | None = None
    featured_ns: int | None = None
    learner: LearnerState | None = None
    kept_back: list[WindowBatch | Silence | Trial] = []


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What a :class:`Lane` remembers beside its signal and the summary in progress: all on which it depends what features
    raise. ``featured_ns``: start of the last window that had got its features (None: none had, or nobody knows)."""

    of: str
    schema_id: str
    recentring: RecentringState | None
    settler: SettlerState
    featured_ns: int | None
    ranges: RangeState | None = None


class Lane:
    """See the module's docstring; driven by :class:`~edge_node.pipeline.Pipeline` alone."""

    def __init__(
        self, site: str, gateway: str, plan: DevicePlan, gate: Gate | None, max_waiting: int
    ) -> None:
        self.plan = plan
        self.windower = Windower(plan.device, plan.window, plan.time)
        self.settler = Settler(site, gateway, plan)
        self._n_scored = 0
        self._window_drops: Counter[DropReason] = Counter()
        self._gate = gate
        self._max_waiting = max_waiting
        self._order: deque[Chunk | Silence | Trial] = deque()
        self._gated: deque[Chunk] = deque()
        self._ready: deque[Chunk | Trial] = deque()
        self._held: deque[Chunk] = deque()  # ready but for an acceptance before them
        self._n_trials = 0  # in the order
        self._fresh: list[Chunk] = []  # of those, without features
        self._n_waiting = 0
        self._n_taken = 0
        self._clock = Clock.DEVICE.value
        self._stale = False
        self._finishing = False
        self.verdicts: list[Verdict] = []  # on acceptances, not yet taken
        self.featured: list[FeatureRows | Acceptance] | None = (
            None  # who wants features, and what comes between
        )
        self.featured_ns: int | None = None  # start of the last window that got them
        self._n_fed = 0
        self._inspection = Inspection(plan)
        self.normal = MovingNormal(plan)
        self._learner = _learner(plan)
        self._kept_back = KeptBack()  # of a device that learns

    @property
    def outbox(self) -> list[PipelineEvent]:
        """Events settled and not yet taken."""
        return self.settler.outbox

    @property
    def condition(self) -> DeviceCondition:
        return self.settler.condition

    @property
    def learner(self) -> Learner | None:
        """What learns from the windows; None where nothing does."""
        return self._learner

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    @property
    def n_unscored(self) -> int:
        """Windows that wait to be collected or scored."""
        due = (c.n for c in self._order if isinstance(c, Chunk) and c.stage in ("ready", "out"))
        return self._n_untaken + sum(due)

    def counters(self) -> Counters:
        """What went through."""
        windower = self.windower
        chunks = (c for c in self._order if isinstance(c, Chunk) and c.stage != "done")
        pending = sum(c.n_windows if c.stage == "gated" else c.n for c in chunks)
        return Counters(
            n_samples_in=windower.n_samples_in,
            n_windowed=windower.n_windowed,
            sample_drops=dict(windower.sample_drops),
            n_windows_closed=windower.n_closed + self._n_fed,
            n_windows_scored=self._n_scored,
            n_windows_pending=self._n_untaken + pending + self._kept_back.n,
            window_drops=added(windower.window_drops, self._window_drops),
        )

    @property
    def _n_untaken(self) -> int:
        windower = self.windower
        return windower.n_closed - sum(windower.window_drops.values()) - self._n_taken

    def push(self, block: SampleBlock) -> list[ClockEvent]:
        """Take a block; returns the restarts of event time that it made."""
        if self._stale:
            block = self._resume(block)
        windower = self.windower
        if len(block.values):
            windower.push(block)
            if block.clock != self._clock:
                self._clock = block.clock.value
        return windower.take_clock_events() if windower.restarted else []

    def advance(self, now_ns: int) -> bool:
        """Let time pass; True when there may be something to collect."""
        self.windower.advance(now_ns)
        if self.windower.stale and not self._stale:
            self._stale = True
            self.collect()
            self._hear_silence(fell_silent(self.windower, now_ns, self._clock))
        return self._n_untaken > 0 or bool(self._gated or self._ready)

    def resume(self, now_ns: int) -> None:
        """Silence counts from ``now_ns``, unless the device was silent before."""
        if not self._stale:
            self.windower.resume(now_ns)

    def accept(self, acceptance: Acceptance) -> None:
        """How the device runs after all windows that have closed is normal: the verdict comes once these are settled."""
        self.collect()
        trial = Trial(acceptance=acceptance)
        if self._learner is not None and (self._kept_back or self._learner.complete):
            self._kept_back.add(trial)  # it is of the model that is being made
            return
        self._enqueue(trial)
        self._settle()

    def collect(self) -> None:
        """Turn closed windows into chunks, resolve those whose gate is known, settle what needs no score."""
        n_new = 0
        for batch in self.windower.take():
            n = batch.n
            n_new += n
            self._n_taken += n
            self._n_waiting += n
            if self._learner is None:
                self._inspect(batch)
            else:
                self._kept_back.add(batch)
        self._learn()
        if self._gated:
            self._open_gate()
        if self._n_waiting > self._max_waiting:
            self._shed(max(self._max_waiting, n_new))  # what has just come, nobody could have scored yet
        self._settle()

    def learn_on(self) -> None:
        """What was learned from did not make a model: go on."""
        assert self._learner is not None
        self._learner.go_on()
        self.collect()

    def take_fresh(self) -> list[Chunk]:
        """Chunks that are ready and have no features yet, oldest first; those are due now, by
        :meth:`put_features`."""
        if not self._fresh:
            return []
        fresh, self._fresh = self._fresh, []
        return [chunk for chunk in fresh if chunk.values is not None]  # the others were shed

    def take_ready(self, limit: int) -> list[Chunk | Trial]:
        """Chunks to score, oldest first, until they have ``limit`` rows or more."""
        taken: list[Chunk | Trial] = []
        n = n_waiting = 0
        while self._ready and n < limit:
            chunk = self._ready.popleft()
            chunk.stage = "out"
            n += chunk.n
            n_waiting += chunk.n if isinstance(chunk, Chunk) else 0
            taken.append(chunk)
        self._n_waiting -= n_waiting
        return taken

    def put_features(self, chunk: Chunk, matrix: NDArray[np.float32]) -> None:
        """Features float32[m, k] of the chunk's rows; re-centred, or placed in their running range, here, in order."""
        chunk.raw = matrix
        self.featured_ns = int(chunk.start_ns[chunk.rows[-1]])
        if self.featured is not None:
            self.featured.append(_rows(chunk, matrix))
        self.normal.apply(chunk, matrix, self.settler.accepted)
        chunk.values = chunk.valid = None

    def feed(self, rows: FeatureRows) -> None:
        """Take windows whose features are known, in place of the signal that they were made from: from here on all goes as
        with any other. Those that were closed before are given before."""
        for i in range(0, rows.n, MAX_CHUNK):
            j = min(i + MAX_CHUNK, rows.n)
            suspect = None if rows.suspect is None else rows.suspect[i:j]
            chunk = Chunk(
                device_id=rows.device_id,
                stage="ready",
                arrival_ns=rows.arrival_ns,
                clock=rows.clock,
                start_ns=rows.start_ns[i:j],
                end_ns=rows.end_ns[i:j],
                rows=all_rows(j - i),
                suspect=suspect if suspect is not None and suspect.any() else None,
                raw=rows.raw[i:j],
            )
            self._order.append(chunk)
            self._n_fed += chunk.n
            self._n_waiting += chunk.n
            self._offer(chunk)

    def scored(
        self,
        chunk: Chunk | Trial,
        residual: NDArray[np.float32],
        score: NDArray[np.float32],
        p: NDArray[np.float64],
        least_p: float,
        finite: NDArray[np.bool_] | None,
        backend: ScoredOn,
    ) -> None:
        """What came of the chunk's rows; only those that are ``finite`` (None: all) count. No ``p`` is below
        ``least_p``."""
        if isinstance(chunk, Trial):
            chunk.judge(p, finite, self.plan.level(backend))
            self._settle()
            return
        chunk.residual, chunk.score, chunk.p, chunk.backend = residual, score, p, backend
        chunk.least_p = least_p
        if finite is not None and (n_bad := finite.size - int(np.count_nonzero(finite))):
            self._drop(DropReason.NOT_FINITE_SCORE, n_bad)
            chunk.keep_rows(finite)
        chunk.stage = "done"
        self._n_scored += chunk.n
        self._settle()

    def failed(self, chunk: Chunk | Trial, reason: DropReason) -> None:
        """The chunk's rows will not be scored."""
        if isinstance(chunk, Trial):
            chunk.refuse(Refusal.INFERENCE_FAILED, "its present windows could not be scored")
        else:
            self._forget(chunk, reason)
            chunk.stage = "done"
        self._settle()

    def finish(self) -> None:
        """End of the signal: windows that still wait for their gate are settled with what is known of it, and
        the summary is closed once all are."""
        self._finishing = True
        self.collect()

    @property
    def is_drained(self) -> bool:
        """Whether no window has features and yet to be settled: then nothing depends on the model but what is open."""
        return all(isinstance(item, Silence) or item.stage not in ("ready", "out") for item in self._order)

    def adopt(self, plan: DevicePlan) -> None:
        """Score by the model of ``plan`` from the next window on; of a lane that is drained. It has the features of
        the one before, or was learned here, and all else in ``plan`` is as it was: windows in progress, counts, alerts that
        are open, what operators have accepted and where re-centring stands go on. The summary in progress ends here, for it is
        of one model. Without a model, learning begins anew."""
        assert self.is_drained
        inspection = Inspection(plan)
        inspection.restore(self._inspection.state())
        self.settler.finish(self.windower.last_arrival_ns)
        self.settler = self.settler.adopt(plan)
        normal, before = MovingNormal(plan), self.normal
        normal.follow(before, accepted=self.settler.accepted is not None)
        if normal.offset is not None and before.offset is not None:
            self.settler.recentred(normal.offset)
        self.plan, self._inspection, self.normal = plan, inspection, normal
        learns, self._learner = self._learner is not None, _learner(plan)
        if learns and self._learner is None:
            waiting, self._kept_back = self._kept_back, KeptBack()
            for item in waiting.state():
                self._look_at(item)
            self.collect()

    def judgement(self) -> Judgement:
        """What is remembered beside the signal, of a lane that has a model."""
        model = self.plan.model
        recentring, ranges = self.normal.state()
        return Judgement(
            of=self._identity(),
            schema_id="" if model is None else model.manifest.schema_id,
            recentring=recentring,
            settler=msgspec.structs.replace(self.settler.state(), tally=None),
            featured_ns=self.featured_ns,
            ranges=ranges,
        )

    def judge_on(self, judgement: Judgement) -> bool:
        """Go on judging from ``judgement``, whatever the signal; False, and nothing has changed, where it is not of the same
        device, windows and model."""
        if judgement.of != self._identity():
            return False
        self.settler.restore(judgement.settler)
        self.normal.restore(judgement.recentring, judgement.ranges)
        self.featured_ns = judgement.featured_ns
        return True

    def snapshot(self) -> LaneState:
        recentring, ranges = self.normal.state()
        return LaneState(
            of=self._identity(),
            windower=self.windower.snapshot(),
            order=list(self._order),
            inspection=self._inspection.state(),
            recentring=recentring,
            settler=self.settler.state(),
            counters=self.counters(),
            n_taken=self._n_taken,
            window_drops=dict(self._window_drops),
            clock=self._clock,
            stale=self._stale,
            finishing=self._finishing,
            verdicts=list(self.verdicts),
            ranges=ranges,
            featured_ns=self.featured_ns,
            learner=None if self._learner is None else self._learner.state(),
            kept_back=self._kept_back.state(),
        )

    def fits(self, state: LaneState) -> bool:
        """Whether ``state`` is of the same device, windows and model, so that :meth:`restore` may go on from
        it."""
        return state.of == self._identity()

    def restore(self, state: LaneState) -> None:
        """Continue from ``state``; chunks that were out are ready again."""
        self.windower.restore(state.windower)
        self._order = deque(state.order)
        self._n_trials = sum(isinstance(item, Trial) for item in self._order)
        chunks = [c for c in self._order if isinstance(c, Chunk)]
        for chunk in chunks:
            if chunk.raw is not None and self.normal.stands and state.settler.accepted is None:
                chunk.features = chunk.raw
        self._ready, self._held, self._fresh = deque(), deque(), []
        for item in self._order:
            if isinstance(item, Silence) or item.stage not in ("ready", "out"):
                continue
            item.stage = "ready"
            if isinstance(item, Trial):
                self._ready.append(item)
            else:
                self._offer(item)
        self.verdicts = list(state.verdicts)
        self._gated = deque(c for c in chunks if c.stage == "gated")
        self._kept_back = KeptBack(state.kept_back)
        self._n_waiting = sum(c.n for c in chunks if c.stage in ("gated", "ready"))
        self._n_waiting += self._kept_back.n
        if self._learner is not None and state.learner is not None:
            self._learner.restore(state.learner)
        self._inspection.restore(state.inspection)
        self.normal.restore(state.recentring, state.ranges)
        self.settler.restore(state.settler)
        self._n_scored = state.counters.n_windows_scored
        self._n_taken = state.n_taken
        self._clock = state.clock
        self._window_drops = Counter(state.window_drops)
        self._stale = state.stale
        self._finishing = state.finishing
        self.featured_ns = state.featured_ns

    def _identity(self) -> str:
        plan, model = self.plan, self.plan.model
        channels = ",".join(f"{c.name} {c.unit} {c.origin!r}" for c in plan.device.channels)
        window = f"{plan.window.mode} {plan.window.n}/{plan.window.hop} at {plan.window.rate_hz} Hz"
        scored = "" if model is None else f"{model.model_id} {model.version} {model.manifest.schema_id}"
        if model is None and plan.learn is not None:
            scored = f"learning {plan.learn.feature_set}"
        limits = ",".join(limit.name for limit in plan.limits)
        return f"{plan.device.device_id}[{channels}] {window}; model {scored}; limits {limits}"

    def _resume(self, block: SampleBlock) -> SampleBlock:
        """Push the rows of ``block`` with which the last silent channel speaks again, and note that it does;
        returns the rows after those."""
        while self._stale and block.n:
            silent = self.windower.stale_channels
            last = row_that_ends(block, silent, self.plan.time)
            if last is None:
                break
            self.windower.push(block.slice(0, last + 1))
            self._clock = block.clock.value
            row, block = block.slice(last, last + 1), block.slice(last + 1, block.n)
            if not self.windower.stale:
                self._stale = False
                self.collect()
                self._hear_silence(spoke_again(row))
            elif len(self.windower.stale_channels) >= len(silent):
                break  # by its own reckoning the windower did not hear them
        return block

    def _hear_silence(self, silence: Silence) -> None:
        """After all windows that have closed."""
        if self._kept_back:
            self._kept_back.add(silence)
            return
        self._order.append(silence)
        self._settle()

    def _inspect(self, batch: WindowBatch) -> None:
        for chunk in self._inspection.chunks(batch, self.windower.last_arrival_ns, self._clock):
            self._order.append(chunk)
            if self._gate is None:
                self._resolve(chunk)
            else:
                self._gated.append(chunk)

    def _learn(self) -> None:
        """Learn from what was kept back, until there is enough: how the rest is looked at, the model says that follows."""
        while self._kept_back and self._learner is not None and not self._learner.complete:
            first, n = self._kept_back.first, self._learner.room
            if isinstance(first, WindowBatch) and self._gate is not None and not self._finishing:
                n = min(n, self._gate.n_known(first.end_ns))
                if not n:
                    return
            self._look_at(self._kept_back.take(n))
            self._open_gate()

    def _look_at(self, item: WindowBatch | Silence | Trial) -> None:
        if isinstance(item, WindowBatch):
            self._inspect(item)
        else:
            self._enqueue(item)

    def _enqueue(self, item: Silence | Trial) -> None:
        """After all windows that have been looked at."""
        self._order.append(item)
        self._n_trials += isinstance(item, Trial)

    def _open_gate(self) -> None:
        """Resolve the windows of which it is known whether the machine ran, the oldest first."""
        while self._gated:
            chunk = self._gated[0]
            known = chunk.n_windows
            if self._gate is not None and not self._finishing:
                known = self._gate.n_known(chunk.end_ns)
            if self._learner is not None:
                known = min(known, self._learner.room)
            if known == 0:
                return
            self._gated.popleft()
            if known < chunk.n_windows:
                rest = chunk.split(known)
                self._order.insert(self._order.index(chunk) + 1, rest)
                self._gated.appendleft(rest)
            self._resolve(chunk)

    def _resolve(self, chunk: Chunk) -> None:
        """Decide which of the chunk's windows are scored."""
        if self._gate is None and chunk.faults is None and self.plan.model is not None:
            chunk.stage = "ready"  # as nearly always
            self._offer(chunk)
            return
        before = chunk.n
        if self._gate is not None:
            active = self._gate.active(chunk.start_ns, chunk.end_ns)
            self._gate.forget_before(int(chunk.start_ns[-1]))
            if not active.all():
                chunk.active = active
                self._drop(DropReason.INACTIVE, int(np.count_nonzero(~active)))
                if chunk.faults is not None:  # a sensor of a machine at rest may well be flat
                    chunk.faults[~active] = 0
        if chunk.active is not None or chunk.faults is not None:
            keep = np.ones(chunk.n, np.bool_) if chunk.active is None else chunk.active
            if chunk.faults is not None:
                faulty = np.asarray(chunk.faults.any(axis=1))
                self._drop(DropReason.SENSOR_FAULT, int(np.count_nonzero(faulty)))
                keep = keep & ~faulty
            chunk.keep_rows(keep)
        if self._learner is not None:
            self._learn_from(chunk, self._learner)
        elif self.plan.model is None:
            self._forget(chunk, DropReason.NO_MODEL)
        self._n_waiting -= before - chunk.n
        chunk.stage = "ready" if chunk.n else "done"
        if chunk.n:
            self._offer(chunk)

    def _learn_from(self, chunk: Chunk, learner: Learner) -> None:
        """The chunk's rows, less those in which a limit was exceeded."""
        fine = None
        if chunk.violated is not None:
            fine = learner.sound(chunk.start_ns, chunk.end_ns, np.asarray(chunk.violated.any(axis=1)))
        if chunk.n:
            assert chunk.values is not None
            valid = np.ones(chunk.values.shape, np.bool_) if chunk.valid is None else chunk.valid
            rows, values = chunk.rows, chunk.values
            if fine is not None:
                keep = fine[rows]
                rows, values, valid = rows[keep], values[keep], valid[keep]
            if rows.size:
                start, end = chunk.start_ns[rows], chunk.end_ns[rows]
                learner.add(WindowBatch(chunk.device_id, start, end, values, valid, chunk.valid is None))
        self._forget(chunk, DropReason.LEARNING)
        chunk.progress = learner.progress

    def _offer(self, chunk: Chunk) -> None:
        """``chunk`` is ready to be scored, or will be once the acceptance before it is decided."""
        if self._n_trials and self._follows_trial(chunk):
            self._held.append(chunk)
            return
        self._ready.append(chunk)
        if chunk.features is None:
            if chunk.raw is not None:
                self.put_features(chunk, chunk.raw)
            else:
                self._fresh.append(chunk)

    def _follows_trial(self, chunk: Chunk) -> bool:
        first = next(item for item in self._order if item is chunk or isinstance(item, Trial))
        return first is not chunk

    def _shed(self, bound: int) -> None:
        """Past ``bound`` waiting windows, drop the oldest that are not out."""
        n = self._kept_back.shed(max(0, self._n_waiting - bound))
        self._n_waiting -= n
        self._drop(DropReason.BACKPRESSURE, n)
        for chunk in self._order:
            if self._n_waiting <= bound:
                return
            if isinstance(chunk, Chunk) and chunk.stage in ("gated", "ready"):
                if chunk.stage == "ready":
                    (self._held if chunk in self._held else self._ready).remove(chunk)
                else:
                    self._gated.remove(chunk)
                    chunk.faults = None  # nobody knows whether the machine ran
                self._n_waiting -= chunk.n
                self._forget(chunk, DropReason.BACKPRESSURE)
                chunk.stage = "done"

    def _forget(self, chunk: Chunk, reason: DropReason) -> None:
        self._drop(reason, chunk.n)
        chunk.forget_rows()

    def _drop(self, reason: DropReason, n: int) -> None:
        if n:
            self._window_drops[reason] += n

    def _decided(self, trial: Trial) -> bool:
        """Whether ``trial``, before which everything is settled, is over; then its verdict is told."""
        if trial.stage == "waiting" and self.settler.prepare(trial, self.normal.offset):
            self.normal.try_out(trial)
            self._ready.append(trial)
        if trial.stage != "done":
            return False
        if self.featured is not None:
            self.featured.append(trial.acceptance)
        if trial.refusal is None:
            self.settler.accept(trial)
            self.normal.begin_anew()
        self.verdicts.append(trial.verdict)
        return True

    def _settle(self) -> None:
        order = self._order
        while order:
            first = order[0]
            if isinstance(first, Silence):
                self.settler.settle_silence(first)
            elif isinstance(first, Trial):
                if not self._decided(first):
                    return
            elif first.stage == "done":
                self.settler.settle(first)
            else:
                return
            order.popleft()
            if isinstance(first, Trial):
                self._n_trials -= 1
                held, self._held = self._held, deque()
                for chunk in held:
                    self._offer(chunk)
        if self._finishing and not self._n_untaken:
            self.settler.finish(self.windower.last_arrival_ns)


def _learner(plan: DevicePlan) -> Learner | None:
    return None if plan.learn is None or plan.model is not None else Learner(plan, plan.learn)


def _rows(chunk: Chunk, matrix: NDArray[np.float32]) -> FeatureRows:
    start, end, suspect = chunk.start_ns, chunk.end_ns, chunk.suspect
    if chunk.n != chunk.n_windows:
        start, end = start[chunk.rows], end[chunk.rows]
        suspect = None if suspect is None else suspect[chunk.rows]
    return FeatureRows(chunk.device_id, chunk.arrival_ns or 0, chunk.clock, start, end, matrix, suspect)
