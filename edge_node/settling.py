"""From settled windows to events: alerts, summaries and the state of one device, in event-time order.

Invariants: what is said is a function of the windows before it, however they were grouped into chunks;
episodes of a machine at rest, silent or with a faulty sensor are frozen, not cleared; only windows without
an open machine episode count as healthy in a summary. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.acceptance import NEED, Present, PresentState, Trial, moved
from edge_node.announcing import Announcer, AnnouncerState, PipelineEvent
from edge_node.check_alerts import CheckAlerts, Said
from edge_node.chunk import Chunk, Silence
from edge_node.drift_alerts import DriftAlerts, DriftState
from edge_node.machine_alerts import Judged, MachineAlerts, MachineState
from edge_node.plans import DevicePlan
from edge_node.summary import Summariser, Tally
from edge_node.what_if import Memory, WhatIf
from models import alerting
from models.alerting import Episodes, EpisodesState
from models.messages import Alert
from models.requests import Refusal
from models.signal import NS_PER_S, DeviceCondition, ScoredOn

__all__ = ["PipelineEvent", "Settler", "SettlerState", "Trace"]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Scored windows of one device, oldest first, for people who want every score: int64[m], float32[m],
    float64[m], and whether a machine alert was open after each, bool[m]. ``doubted`` bool[m]: a suspect sensor is to
    blame, so that it counts for no machine alert, whatever its score (None: none is). ``backend``: what scored them,
    in a batch that took ``latency_ns``."""

    device_id: str
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    score: NDArray[np.float32]
    p: NDArray[np.float64]
    above: NDArray[np.bool_]
    alerting: NDArray[np.bool_]
    doubted: NDArray[np.bool_] | None = None
    backend: ScoredOn | None = None
    latency_ns: int | None = None


class SettlerState(msgspec.Struct, kw_only=True):
    """Everything a :class:`Settler` remembers."""

    announcer: AnnouncerState
    checks: dict[str, EpisodesState]
    machine: MachineState | None
    drift: DriftState | None
    silence: EpisodesState
    tally: Tally | None
    shift: NDArray[np.float64] | None
    idle: bool
    stale: bool
    stale_since_ns: int
    present: PresentState | None = None
    accepted: NDArray[np.float64] | None = None


class Settler:
    """See the module's docstring; driven by :class:`~edge_node.lane.Lane` alone."""

    def __init__(self, site: str, gateway: str, plan: DevicePlan) -> None:
        self._plan = plan
        self._announcer = Announcer(site, gateway, plan)
        self._checks = CheckAlerts(plan, self._announcer)
        at_once = msgspec.structs.replace(
            plan.alert, n_raise=1, m_raise=1, n_clear=1, min_duration_s=0.0, cooldown_s=0.0
        )
        self._silence = Episodes(at_once, plan.window.hop_ns)
        self._machine: MachineAlerts | None = None
        self._drift: DriftAlerts | None = None
        self._summariser: Summariser | None = None
        self._present = Present()
        self.accepted: NDArray[np.float64] | None = None  # how far operators moved the commissioned centre
        self._shift: NDArray[np.float64] | None = None  # how far re-centring had moved at the last row
        if (model := plan.model) is not None:
            self._machine = MachineAlerts(plan, model, self._announcer)
            if (spec := model.manifest.recentring) is not None:
                self._drift = DriftAlerts(plan, model, spec, self._announcer)
            self._summariser = Summariser(
                len(model.infos),
                round(plan.summary_s * NS_PER_S),
                plan.n_reservoir if plan.privacy == "features" else 0,
                f"{gateway}/{plan.device.device_id}",
            )
        self._idle = False
        self._stale = False
        self._stale_since_ns = 0
        self.traces: list[Trace] | None = None  # None: nobody asked
        self.taps: tuple[list[Trace], ...] = ()  # who else hears them
        self._what_ifs: list[WhatIf] = []

    def adopt(self, plan: DevicePlan) -> Settler:
        """What settles on under ``plan``, whose model has the same features: all that was said and is open goes on, and a
        centre that operators have moved stays where it is. Without a model, what is open of the machine ends. The caller has
        called :meth:`finish`."""
        if plan.model is None:
            for key, alerts in (("machine", self._machine), ("drift", self._drift)):
                if alerts is not None and (change := alerts.end()) is not None:
                    self._announcer.let_go(key, change)
            self.accepted = None
        state = self.state()
        if self.accepted is not None and self._plan.model is not None and plan.model is not None:
            state.accepted = self.accepted + self._plan.model.centre - plan.model.centre
        state.shift = state.accepted
        if state.machine is not None:  # scores of two models are not compared
            state.machine.episodes.size = state.machine.episodes.cleared_size = 0.0
        other = Settler(self._announcer.site, self._announcer.gateway, plan)
        other.restore(state)
        other.traces, other.taps = self.traces, self.taps
        return other

    def recentred(self, offset: NDArray[np.float64]) -> None:
        """Re-centring has moved by ``offset`` float64[k] from the commissioned centre, or where operators have put that."""
        self._shift = offset if self.accepted is None else self.accepted + offset

    def what_if(self, plan: DevicePlan) -> WhatIf:
        """The alerts that there would be from now on under ``plan``, this device's own but for its levels. It has a model."""
        assert self._machine is not None
        other = WhatIf(self._announcer.site, self._announcer.gateway, plan)
        drift = None if self._drift is None else self._drift.state()
        other.recall(Memory(self._machine.state(), drift, self.accepted))
        self._what_ifs.append(other)
        return other

    @property
    def open_alerts(self) -> list[Alert]:
        """The last message of every alert that is open."""
        return self._announcer.open_alerts

    @property
    def outbox(self) -> list[PipelineEvent]:
        """Events not yet taken."""
        return self._announcer.outbox

    @property
    def condition(self) -> DeviceCondition:
        return self._announcer.condition

    def settle(self, chunk: Chunk) -> None:
        """Every window of ``chunk`` has its score or will never have one: say what follows from it."""
        said: Said = []
        self._checks.settle(chunk, said)
        if chunk.progress is not None or self._plan.model is not None:
            self._announcer.progress = chunk.progress
        judged: Judged | None = None
        if self._machine is not None and chunk.n:
            judged = self._machine.settle(chunk, said, self._drift)
            if self._drift is not None and judged is None:
                self._drift.settle(chunk, said)
            self._note_present(chunk, judged)
            for other in self._what_ifs:
                other.settle(chunk)
        if self.traces is not None or self.taps:
            self._trace(chunk, judged)
        idle = None if chunk.active is None else ~chunk.active
        done = 0
        if said or idle is not None or self._idle or not self._announcer.settled:
            done = self._speak(chunk, judged, said, idle)
        self._summarise(chunk, judged, done, chunk.n_windows)
        self._idle = bool(idle is not None and idle[-1])

    def settle_silence(self, silence: Silence) -> None:
        """The device fell silent, or spoke again."""
        self._stale = silence.kind == "stale"
        if self._stale:
            self._stale_since_ns = silence.start_ns
            self.finish(silence.arrival_ns)
        start = self._stale_since_ns
        end = max(silence.end_ns, start)
        if not self._stale and (said := self._announcer.last("stale")) is not None:
            end = max(
                end, said.end_ns
            )  # what was kept back elsewhere came after all: the silence was one none the less
        change = self._silence.step(start, end, self._stale, not self._stale, "warning", "")
        if change is not None:
            device = self._plan.device
            text = alerting.stale_sentence(
                device.machine, device.device_id, silence.channels, start, end, change.state
            )
            alert = self._announcer.alert("stale", "stale", change, text, silence.clock)
            self._announcer.emit("stale", alert, silence.arrival_ns, None)
        self._announcer.publish_state(end, silence.arrival_ns, stale=self._stale, idle=self._idle)

    def prepare(self, trial: Trial, recentred: NDArray[np.float64] | None) -> bool:
        """Decide ``trial``, or make it ready to be scored; whether it is. ``recentred`` float64[k]: how far re-centring has
        moved from :attr:`accepted` (None: it does not)."""
        model, name = self._plan.model, self._plan.device.device_id
        if model is None or self._machine is None:
            trial.refuse(Refusal.NO_MODEL, f"{name} has no model, so there is no centre to move")
        elif self._machine.is_open or (self._drift is not None and self._drift.is_open):
            rows, window = self._present.rows, self._plan.window
            if (n_lack := NEED - len(rows)) > 0:
                lasts = alerting.duration(n_lack * max(window.window_ns, window.hop_ns))
                trial.refuse(
                    Refusal.TOO_SOON,
                    f"how {name} runs now is not known yet, for its alert has just been raised: ask again in {lasts}",
                )
                return False
            present = np.stack(rows)
            trial.shift = present.mean(axis=0, dtype=np.float64) - model.centre
            trial.features, trial.stage = moved(present, trial.shift), "ready"
            return True
        elif recentred is None:
            trial.refuse(Refusal.NOTHING_OPEN, f"no machine or drift alert of {name} is open")
        else:
            trial.grant(
                recentred if self.accepted is None else self.accepted + recentred,
                "the centre is now where re-centring had it",
            )
        return False

    def accept(self, trial: Trial) -> None:
        """The centre moves as ``trial`` says, and what is open of the machine is over. Re-centring begins anew."""
        assert trial.shift is not None
        self.finish(None)  # its windows were measured from the centre before
        self.accepted = self._shift = trial.shift
        end_ns = None
        for key, alerts in (("machine", self._machine), ("drift", self._drift)):
            if alerts is not None and (change := alerts.end()) is not None:
                self._announcer.accept(key, change, trial.acceptance.by)
                end_ns = change.end_ns
        if self._drift is not None:
            self._drift.move(trial.shift)
        for other in self._what_ifs:
            other.accept(trial.shift)
        self._present.forget()
        if end_ns is not None:
            self._announcer.publish_state(end_ns, None, stale=self._stale, idle=self._idle)

    def finish(self, arrival_ns: int | None) -> None:
        """Close the summary in progress at its last window."""
        if self._summariser is not None and (totals := self._summariser.close()) is not None:
            self._announcer.summarise(totals, self._centre(), arrival_ns)

    def state(self) -> SettlerState:
        return SettlerState(
            announcer=self._announcer.state(),
            checks=self._checks.state(),
            machine=self._machine.state() if self._machine is not None else None,
            drift=self._drift.state() if self._drift is not None else None,
            silence=self._silence.state(),
            tally=self._summariser.state() if self._summariser is not None else None,
            shift=self._shift,
            idle=self._idle,
            stale=self._stale,
            stale_since_ns=self._stale_since_ns,
            present=self._present.state(),
            accepted=self.accepted,
        )

    def restore(self, state: SettlerState) -> None:
        self._announcer.restore(state.announcer)
        self._checks.restore(state.checks)
        if self._machine is not None and state.machine is not None:
            self._machine.restore(state.machine)
        if self._drift is not None and state.drift is not None:
            self._drift.restore(state.drift)
        self._silence.restore(state.silence)
        if self._summariser is not None:
            self._summariser.restore(state.tally)
        self._shift = state.shift
        self._idle = state.idle
        self._stale = state.stale
        self._stale_since_ns = state.stale_since_ns
        self.accepted = state.accepted
        if state.present is not None:
            self._present.restore(state.present)
        if self._drift is not None and state.accepted is not None:
            self._drift.move(state.accepted)

    def _note_present(self, chunk: Chunk, judged: Judged | None) -> None:
        drifting = None if self._drift is None else self._drift.open_rows
        if judged is None and drifting is None:  # as nearly always
            self._present.forget()
            return
        is_open = np.zeros(chunk.n, np.bool_)
        for rows in (drifting, None if judged is None else judged.is_open):
            if rows is not None:
                is_open |= rows
        self._present.note(chunk, is_open)

    def _speak(self, chunk: Chunk, judged: Judged | None, said: Said, idle: NDArray[np.bool_] | None) -> int:
        """Alerts, states and the summaries before them, window by window; how many windows are summarised."""
        w = chunk.n_windows
        idle = np.zeros(w, np.bool_) if idle is None else idle
        changed = np.zeros(w, np.bool_)
        changed[0] = idle[0] != self._idle or not self._announcer.settled
        changed[1:] = idle[1:] != idle[:-1]
        said.sort(key=lambda item: item[0])
        for row, _, _ in said:
            changed[row] = True
        position = done = 0
        for row in np.flatnonzero(changed).tolist():
            self._summarise(chunk, judged, done, row)
            done = row
            while position < len(said) and said[position][0] == row:
                _, key, alert = said[position]
                self._announcer.emit(key, alert, chunk.arrival_ns, chunk.backend, chunk.latency_ns)
                position += 1
            self._announcer.publish_state(
                int(chunk.end_ns[row]), chunk.arrival_ns, stale=self._stale, idle=bool(idle[row])
            )
        return done

    def _trace(self, chunk: Chunk, judged: Judged | None) -> None:
        if chunk.n == 0:
            return
        assert chunk.p is not None
        assert chunk.score is not None
        no = np.zeros(chunk.n, np.bool_)
        trace = Trace(
            chunk.device_id,
            chunk.start_ns[chunk.rows],
            chunk.end_ns[chunk.rows],
            chunk.score,
            chunk.p,
            no if judged is None else judged.above,
            no if judged is None else judged.is_open,
            None if self._machine is None else self._machine.doubted(chunk),
            chunk.backend,
            chunk.latency_ns,
        )
        for heard in self.taps if self.traces is None else (self.traces, *self.taps):
            heard.append(trace)

    def _summarise(self, chunk: Chunk, judged: Judged | None, begin: int, end: int) -> None:
        """Windows begin..end of the chunk into the summary, closing spans that they lie beyond."""
        summariser = self._summariser
        if summariser is None or begin == end:
            return
        n = chunk.n_windows
        if judged is None and end - begin == n == chunk.n and summariser.holds(chunk.end_ns):
            assert chunk.features is not None  # as nearly always: all in one piece
            assert chunk.score is not None
            summariser.add(chunk.start_ns, chunk.end_ns, chunk.features, chunk.score, None)
            self._note_shift(chunk, n)
            return
        cuts = [begin, end]
        if summariser.span_of(int(chunk.end_ns[begin])) != summariser.span_of(int(chunk.end_ns[end - 1])):
            spans = [summariser.span_of(t) for t in chunk.end_ns[begin:end].tolist()]
            cuts[1:1] = (np.flatnonzero(np.diff(spans)) + 1 + begin).tolist()
        healthy = None if judged is None else ~(judged.above | judged.is_open)
        all_scored = chunk.n == chunk.n_windows
        for i, j in pairwise(cuts):
            if (totals := summariser.close_before(int(chunk.end_ns[i]))) is not None:
                self._announcer.summarise(totals, self._centre(), chunk.arrival_ns)
            a, b = (i, j) if all_scored else np.searchsorted(chunk.rows, (i, j)).tolist()
            if a < b:
                assert chunk.features is not None
                assert chunk.score is not None
                rows = slice(i, j) if all_scored else chunk.rows[a:b]
                summariser.add(
                    chunk.start_ns[rows],
                    chunk.end_ns[rows],
                    chunk.features[a:b],
                    chunk.score[a:b],
                    None if healthy is None else healthy[a:b],
                )
                self._note_shift(chunk, b)
            if b - a < j - i:
                self._exclude(summariser, chunk, i, j, b - a)

    def _note_shift(self, chunk: Chunk, n: int) -> None:
        """The first ``n`` rows of ``chunk`` are in the summary. A place in a running range is no shift."""
        if chunk.low is None and chunk.raw is not chunk.features:
            assert chunk.raw is not None
            assert chunk.features is not None
            self._shift = chunk.raw[n - 1].astype(np.float64) - chunk.features[n - 1]

    def _exclude(self, summariser: Summariser, chunk: Chunk, i: int, j: int, n_scored: int) -> None:
        n_idle = 0 if chunk.active is None else int(np.count_nonzero(~chunk.active[i:j]))
        n_faulty = 0 if chunk.faults is None else int(np.count_nonzero(chunk.faults[i:j].any(axis=1)))
        n_lost = (j - i) - n_scored - n_idle - n_faulty
        for reason, n in (("inactive", n_idle), ("sensor_fault", n_faulty), ("not_scored", n_lost)):
            if n:
                summariser.exclude(chunk.end_ns[i:j], reason, n)

    def _centre(self) -> NDArray[np.float64]:
        """Where re-centring stood, as the last summarised row shows it: exact to float32."""
        model = self._plan.model
        assert model is not None
        return model.start_centre if self._shift is None else model.centre + self._shift
