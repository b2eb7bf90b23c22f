"""From settled windows to events: alerts, summaries and the state of one device, in event-time order.

Invariants: an alert is a function of the windows before it; episodes of a machine at rest, silent or with a faulty sensor
are frozen, not cleared; only windows without an open machine episode count as healthy in a summary. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.plans import DevicePlan
from edge_node.summary import Summariser, Tally, Totals
from models import alerting
from models.alerting import AlertPolicy, Episodes, EpisodesState, Transition
from models.messages import (
    Alert,
    AlertKind,
    Contribution,
    DeviceStateMessage,
    Event,
    Severity,
    Summary,
    episode_id,
    pack_floats,
    rfc3339,
)
from models.sensor_checks import fault_of
from models.signal import NS_PER_S, ArtifactTarget, DeviceCondition

if TYPE_CHECKING:
    from edge_node.lane import Chunk

MAX_FEATURE_ROWS = 8
_AT_ONCE = AlertPolicy(n_raise=1, m_raise=1, n_clear=1, min_duration_s=0, cooldown_s=0)


@dataclass(frozen=True, slots=True)
class PipelineEvent:
    """An event on its way out, with what the run knows about it."""

    event: Event
    arrival_ns: int
    backend: ArtifactTarget | None


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Scored windows of one device, oldest first, for people who want every score: int64[m], float32[m], float64[m], and
    whether a machine alert was open after each, bool[m]."""

    device_id: str
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    score: NDArray[np.float32]
    p: NDArray[np.float64]
    above: NDArray[np.bool_]
    alerting: NDArray[np.bool_]


class Evidence(msgspec.Struct, kw_only=True):
    """The worst window of a machine episode so far, and its last few feature rows."""

    score: float
    p: float
    residual: NDArray[np.float32]
    raw: NDArray[np.float32]
    shift: NDArray[np.float32]  # raw - re-centred
    rows: list[NDArray[np.float32]]


class SettlerState(msgspec.Struct, kw_only=True):
    """Everything a :class:`Settler` remembers."""

    episodes: dict[str, EpisodesState]
    open_alerts: dict[str, str]
    evidence: Evidence | None
    tally: Tally | None
    condition: DeviceCondition
    since_ns: int
    published: tuple[DeviceCondition, tuple[str, ...]] | None
    idle: bool
    stale: bool
    stale_since_ns: int
    centre: NDArray[np.float64]


class Settler:
    """See the module's docstring; driven by :class:`~edge_node.lane.Lane` alone."""

    def __init__(self, site: str, gateway: str, plan: DevicePlan) -> None:
        self._site = site
        self._gateway = gateway
        self._plan = plan
        self._hop_ns = plan.window.hop_ns
        self._episodes: dict[str, Episodes] = {}
        self._channels = {c.name: c for c in plan.device.channels}
        model = plan.model
        self._summariser: Summariser | None = None
        self._feature_channel: NDArray[np.intp] = np.zeros(0, np.intp)
        self._column_channels: list[str] = []
        if model is not None:
            self._summariser = Summariser(
                len(model.infos),
                round(plan.summary_s * NS_PER_S),
                plan.n_reservoir if plan.privacy == "features" else 0,
                f"{gateway}/{plan.device.device_id}",
            )
            self._column_channels = list(dict.fromkeys(i.channel for i in model.infos))
            self._feature_channel = np.array([self._column_channels.index(i.channel) for i in model.infos])
        self._open: dict[str, str] = {}
        self._evidence: Evidence | None = None
        self._idle = False
        self._stale = False
        self._stale_since_ns = 0
        self._since_ns = 0
        self._centre = model.start_centre if model is not None else np.zeros(0)
        self._published: tuple[DeviceCondition, tuple[str, ...]] | None = None
        self.condition = DeviceCondition.LEARNING
        self.outbox: list[PipelineEvent] = []
        self.traces: list[Trace] | None = None  # None: nobody asked

    def settle(self, chunk: Chunk) -> None:
        """Every window of ``chunk`` has its score or will never have one: say what follows from it."""
        if chunk.silence is not None:
            self._silence(chunk)
            return
        w = chunk.n_windows
        if chunk.centre is not None:
            self._centre = chunk.centre
        events: list[tuple[int, Alert]] = []
        changed = np.zeros(w, np.bool_)
        self._sensor_alerts(chunk, events)
        self._limit_alerts(chunk, events)
        healthy = self._machine_alerts(chunk, events)
        self._drift_alerts(chunk, events)
        events.sort(key=lambda item: item[0])
        idle = ~chunk.active
        changed[0] = idle[0] != self._idle
        changed[1:] = idle[1:] != idle[:-1]
        for row, _ in events:
            changed[row] = True
        if self._published is None:
            changed[0] = True
        position = 0
        done = 0
        for row in np.flatnonzero(changed).tolist():
            self._summarise(chunk, healthy, done, row)
            done = row
            while position < len(events) and events[position][0] == row:
                self._emit(events[position][1], chunk)
                position += 1
            self._idle = bool(idle[row])
            self._publish_state(int(chunk.end_ns[row]), chunk)
        self._summarise(chunk, healthy, done, w)
        self._idle = bool(idle[-1])

    def finish(self) -> None:
        """Close the summary in progress."""
        if self._summariser is not None and (totals := self._summariser.close()) is not None:
            self._emit_summary(totals, 0)

    def state(self) -> SettlerState:
        return SettlerState(
            episodes={key: episodes.state() for key, episodes in self._episodes.items()},
            open_alerts=dict(self._open),
            evidence=self._evidence,
            tally=self._summariser.tally if self._summariser is not None else None,
            condition=self.condition,
            since_ns=self._since_ns,
            published=self._published,
            idle=self._idle,
            stale=self._stale,
            stale_since_ns=self._stale_since_ns,
            centre=self._centre,
        )

    def restore(self, state: SettlerState) -> None:
        for key, episodes in state.episodes.items():
            self._episode(key).restore(episodes)
        self._open = dict(state.open_alerts)
        self._evidence = state.evidence
        if self._summariser is not None:
            self._summariser.tally = state.tally
        self.condition = state.condition
        self._since_ns = state.since_ns
        self._published = state.published
        self._idle = state.idle
        self._stale = state.stale
        self._stale_since_ns = state.stale_since_ns
        self._centre = state.centre

    def _episode(self, key: str) -> Episodes:
        """The machine of ``key`` = kind or kind:subject, made when first needed."""
        found = self._episodes.get(key)
        if found is None:
            policy = self._plan.alert if key == "machine" else _AT_ONCE
            found = self._episodes[key] = Episodes(policy, self._hop_ns)
        return found

    def _quiet(self, key: str, above: NDArray[np.bool_]) -> bool:
        """Whether stepping through would change nothing: no window above, and no episode open or forming."""
        found = self._episodes.get(key)
        return not above.any() and (found is None or found.quiet)

    def _sensor_alerts(self, chunk: Chunk, events: list[tuple[int, Alert]]) -> None:
        for c, channel in enumerate(self._plan.device.channels):
            codes = chunk.faults[:, c]
            key = f"sensor:{channel.name}"
            if self._quiet(key, codes > 0):
                continue
            episodes = self._episode(key)
            for row in np.flatnonzero(chunk.active).tolist():
                fault = fault_of(int(codes[row]))
                start, end = int(chunk.start_ns[row]), int(chunk.end_ns[row])
                change = episodes.step(
                    start, end, fault is not None, fault is None, "warning", fault.value if fault else ""
                )
                if change is None:
                    continue
                value = float(chunk.last[row, c]) + channel.origin
                since = min(int(chunk.fault_since_ns[row, c]), change.start_ns)
                text = alerting.sensor_sentence(
                    self._plan.device.machine, channel, change.detail, value, since, end, change.state
                )
                low, high = channel.valid_range or (value, value)
                seen = Contribution(
                    channel=channel.name,
                    feature=change.detail,
                    share=1.0,
                    observed=value,
                    expected_low=low,
                    expected_high=high,
                    unit=channel.unit,
                )
                events.append((row, self._alert(chunk, "sensor", change, text, key, contributions=(seen,))))

    def _limit_alerts(self, chunk: Chunk, events: list[tuple[int, Alert]]) -> None:
        for j, limit in enumerate(self._plan.limits):
            violated = chunk.violated[:, j]
            key = f"limit:{limit.name}"
            if self._quiet(key, violated):
                continue
            channel = self._channels[limit.channel]
            episodes = self._episode(key)
            for row in range(chunk.n_windows):
                start, end = int(chunk.start_ns[row]), int(chunk.end_ns[row])
                above = bool(violated[row])
                change = episodes.step(start, end, above, not above, limit.severity, "")
                if change is None:
                    continue
                value = float(chunk.extreme[row, j])
                text = alerting.limit_sentence(
                    self._plan.device.machine, channel, limit, value, change.start_ns, end, change.state
                )
                seen = Contribution(
                    channel=channel.name,
                    feature=limit.name,
                    share=1.0,
                    observed=value,
                    expected_low=limit.below,
                    expected_high=limit.above,
                    unit=channel.unit,
                )
                events.append((row, self._alert(chunk, "limit", change, text, key, contributions=(seen,))))

    def _machine_alerts(self, chunk: Chunk, events: list[tuple[int, Alert]]) -> NDArray[np.bool_]:
        """Step the machine episode through the scored windows; which of them are healthy, bool[m]."""
        m = chunk.n
        healthy = np.ones(m, np.bool_)
        is_open = np.zeros(m, np.bool_)
        if m == 0:
            return healthy
        assert chunk.p is not None
        assert chunk.score is not None
        assert chunk.residual is not None
        assert chunk.backend is not None
        level = self._plan.levels[chunk.backend]
        above = chunk.p <= level.p_raise
        if self._quiet("machine", above):
            self._trace(chunk, above, is_open)
            return healthy
        episodes = self._episode("machine")
        critical = chunk.p <= level.p_raise / self._plan.alert.critical_p_ratio
        below = chunk.p > level.p_clear
        for i in range(m):
            row = int(chunk.rows[i])
            if above[i] or not episodes.quiet:
                self._remember(chunk, i)
            severity: Severity = "critical" if critical[i] else "warning"
            detail = self._top_channel(chunk.residual[i]) if above[i] else ""
            change = episodes.step(
                int(chunk.start_ns[row]),
                int(chunk.end_ns[row]),
                bool(above[i]),
                bool(below[i]),
                severity,
                detail,
            )
            if change is not None:
                events.append((row, self._machine_alert(chunk, change, level.score_raise)))
            is_open[i] = episodes.open
            healthy[i] = not above[i] and not episodes.open
            if episodes.quiet:
                self._evidence = None
        self._trace(chunk, above, is_open)
        return healthy

    def _trace(self, chunk: Chunk, above: NDArray[np.bool_], is_open: NDArray[np.bool_]) -> None:
        if self.traces is None:
            return
        assert chunk.p is not None
        assert chunk.score is not None
        start, end = chunk.start_ns[chunk.rows], chunk.end_ns[chunk.rows]
        self.traces.append(Trace(chunk.device_id, start, end, chunk.score, chunk.p, above, is_open))

    def _remember(self, chunk: Chunk, i: int) -> None:
        assert chunk.p is not None
        assert chunk.score is not None
        assert chunk.residual is not None
        assert chunk.raw is not None
        assert chunk.features is not None
        rows = self._evidence.rows if self._evidence is not None else []
        rows = [*rows[1 - MAX_FEATURE_ROWS :], chunk.features[i].copy()]
        score, p = float(chunk.score[i]), float(chunk.p[i])
        if self._evidence is None or score >= self._evidence.score:
            self._evidence = Evidence(
                score=score,
                p=p,
                residual=chunk.residual[i].copy(),
                raw=chunk.raw[i].copy(),
                shift=chunk.raw[i] - chunk.features[i],
                rows=rows,
            )
        else:
            self._evidence.rows = rows

    def _top_channel(self, residual: NDArray[np.float32]) -> str:
        power = residual.astype(np.float64) ** 2
        by_channel = np.zeros(len(self._column_channels))
        np.add.at(by_channel, self._feature_channel, power)
        return self._column_channels[int(by_channel.argmax())]

    def _machine_alert(self, chunk: Chunk, change: Transition, threshold: float) -> Alert:
        model, evidence = self._plan.model, self._evidence
        assert model is not None
        assert evidence is not None
        centre = model.centre + evidence.shift
        contributions = alerting.blame(
            evidence.residual,
            model.infos,
            evidence.raw,
            centre,
            model.scale,
            [self._channels[name].origin for name in self._column_channels],
        )
        top = next(j for j, info in enumerate(model.infos) if info.name == contributions[0].feature)
        text = alerting.machine_sentence(
            self._plan.device.machine,
            contributions,
            model.infos,
            float(centre[top]),
            change.start_ns,
            change.end_ns,
            change.state,
        )
        rows = np.stack(evidence.rows) if self._plan.privacy == "features" else None
        return self._alert(
            chunk,
            "machine",
            change,
            text,
            "machine",
            contributions=contributions,
            score=evidence.score,
            p_value=evidence.p,
            threshold=threshold,
            rows=rows,
        )

    def _drift_alerts(self, chunk: Chunk, events: list[tuple[int, Alert]]) -> None:
        model = self._plan.model
        if model is None or chunk.n == 0:
            return
        drifted = chunk.drifted
        above: NDArray[np.bool_] = np.zeros(chunk.n, np.bool_)
        if drifted is not None:
            above = np.asarray(drifted.any(axis=1))
        if self._quiet("drift", above):
            return
        episodes = self._episode("drift")
        for i in range(chunk.n):
            row = int(chunk.rows[i])
            column = int(drifted[i].argmax()) if drifted is not None and above[i] else 0
            change = episodes.step(
                int(chunk.start_ns[row]),
                int(chunk.end_ns[row]),
                bool(above[i]),
                not above[i],
                "warning",
                str(column) if above[i] else "",
            )
            if change is None:
                continue
            assert chunk.raw is not None
            j = int(change.detail)
            info = model.infos[j]
            origin = self._channels[info.channel].origin
            seen = alerting.contribution(
                info, float(chunk.raw[i, j]), float(model.centre[j]), float(model.scale[j]), 1.0, origin
            )
            text = alerting.drift_sentence(
                self._plan.device.machine, seen, info, change.start_ns, change.end_ns, change.state
            )
            events.append((row, self._alert(chunk, "drift", change, text, "drift", contributions=(seen,))))

    def _silence(self, chunk: Chunk) -> None:
        """The device fell silent, or spoke again."""
        stale = chunk.silence == "stale"
        episodes = self._episode("stale")
        if stale:
            self._stale_since_ns = chunk.at_ns
        start, end = int(self._stale_since_ns), max(chunk.at_ns, self._stale_since_ns)
        change = episodes.step(start, end, stale, not stale, "warning", "")
        self._stale = stale
        if change is not None:
            text = alerting.stale_sentence(
                self._plan.device.machine,
                self._plan.device.device_id,
                chunk.channels,
                start,
                end,
                change.state,
            )
            self._emit(self._alert(chunk, "stale", change, text, "stale"), chunk)
        self._publish_state(end, chunk)

    def _alert(
        self,
        chunk: Chunk,
        kind: AlertKind,
        change: Transition,
        text: str,
        key: str,
        *,
        contributions: tuple[Contribution, ...] = (),
        score: float | None = None,
        p_value: float | None = None,
        threshold: float | None = None,
        rows: NDArray[np.float32] | None = None,
    ) -> Alert:
        device, model = self._plan.device, self._plan.model
        subject = key.partition(":")[2]
        alert_id = episode_id(self._gateway, device.device_id, kind, change.start_ns, subject)
        return Alert(
            alert_id=alert_id,
            seq=change.seq,
            message_id=f"{alert_id}-{change.seq}",
            site=self._site,
            gateway=self._gateway,
            machine=device.machine,
            class_=device.class_,
            device=device.device_id,
            state=change.state,
            kind=kind,
            severity=change.severity,
            message=text,
            start_ns=change.start_ns,
            end_ns=change.end_ns,
            start_at=rfc3339(change.start_ns),
            end_at=rfc3339(change.end_ns),
            score=score,
            p_value=p_value,
            threshold=threshold,
            contributions=contributions,
            features=pack_floats(rows) if rows is not None else None,
            model_id=model.model_id if model is not None else None,
            model_version=model.version if model is not None else None,
            clock=chunk.clock,
            evidence=None,
            delivery=None,
        )

    def _emit(self, alert: Alert, chunk: Chunk) -> None:
        if alert.state == "cleared":
            self._open.pop(alert.alert_id, None)
        else:
            self._open[alert.alert_id] = alert.kind
        self.outbox.append(PipelineEvent(alert, chunk.arrival_ns, chunk.backend))

    def _publish_state(self, at_ns: int, chunk: Chunk) -> None:
        """Say what the device is now, where that has changed."""
        kinds = set(self._open.values())
        if self._stale:
            condition = DeviceCondition.STALE
        elif self._idle:
            condition = DeviceCondition.IDLE
        elif "sensor" in kinds:
            condition = DeviceCondition.SENSOR_FAULT
        elif kinds:
            condition = DeviceCondition.ANOMALOUS
        else:
            condition = DeviceCondition.NORMAL
        if condition != self.condition or self._published is None:
            self._since_ns = at_ns
        self.condition = condition
        now = (condition, tuple(sorted(self._open)))
        if now == self._published:
            return
        self._published = now
        device = self._plan.device
        message = DeviceStateMessage(
            message_id=episode_id(
                self._gateway, device.device_id, "state", at_ns, "/".join((condition, *now[1]))
            ),
            site=self._site,
            gateway=self._gateway,
            machine=device.machine,
            class_=device.class_,
            device=device.device_id,
            state=condition,
            since_ns=self._since_ns,
            since_at=rfc3339(self._since_ns),
            open_alerts=now[1],
        )
        self.outbox.append(PipelineEvent(message, chunk.arrival_ns, None))

    def _summarise(self, chunk: Chunk, healthy: NDArray[np.bool_], begin: int, end: int) -> None:
        """Windows begin..end of the chunk into the summary, closing spans that they lie beyond."""
        summariser = self._summariser
        if summariser is None or begin == end:
            return
        spans = np.array([summariser.span_of(t) for t in chunk.end_ns[begin:end].tolist()])
        cuts = [begin, *(np.flatnonzero(np.diff(spans)) + 1 + begin).tolist(), end]
        for i, j in pairwise(cuts):
            last_ns = int(chunk.end_ns[i])
            if (totals := summariser.close_before(last_ns)) is not None:
                self._emit_summary(totals, chunk.arrival_ns)
            inside = (chunk.rows >= i) & (chunk.rows < j)
            if inside.any():
                assert chunk.features is not None
                assert chunk.score is not None
                rows = chunk.rows[inside]
                summariser.add(
                    chunk.start_ns[rows],
                    chunk.end_ns[rows],
                    chunk.features[inside],
                    chunk.score[inside],
                    healthy[inside],
                )
            n_idle = int(np.count_nonzero(~chunk.active[i:j]))
            n_faulty = int(np.count_nonzero(chunk.faults[i:j].any(axis=1)))
            n_lost = (j - i) - int(np.count_nonzero(inside)) - n_idle - n_faulty
            for reason, n in (("inactive", n_idle), ("sensor_fault", n_faulty), ("not_scored", n_lost)):
                if n:
                    summariser.exclude(last_ns, reason, n)

    def _emit_summary(self, totals: Totals, arrival_ns: int) -> None:
        device, model = self._plan.device, self._plan.model
        assert model is not None
        summary = Summary(
            message_id=episode_id(
                self._gateway, device.device_id, "summary", totals.start_ns, model.manifest.schema_id
            ),
            site=self._site,
            gateway=self._gateway,
            machine=device.machine,
            class_=device.class_,
            device=device.device_id,
            start_ns=totals.start_ns,
            end_ns=totals.end_ns,
            start_at=rfc3339(totals.start_ns),
            end_at=rfc3339(totals.end_ns),
            n=totals.n,
            mean=totals.mean.tolist(),
            comoment=totals.comoment.tolist(),
            centre=self._centre.tolist(),
            minimum=totals.minimum.tolist(),
            maximum=totals.maximum.tolist(),
            excluded=totals.excluded,
            score_quantiles=totals.score_quantiles,
            reservoir=pack_floats(totals.reservoir) if self._plan.privacy == "features" else None,
            feature_names=tuple(i.name for i in model.infos),
            schema_id=model.manifest.schema_id,
            model_id=model.model_id,
            model_version=model.version,
        )
        self.outbox.append(PipelineEvent(summary, arrival_ns, None))
