"""What is said of one device, and what has been said: alerts by episode, its state, summaries.

Invariant: whatever was raised is remembered until it is cleared, over restarts too, so that nothing stays
open upstream because a configuration changed. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.plans import DevicePlan
from edge_node.summary import Totals
from models import alerting, messages
from models.alerting import Transition
from models.messages import (
    Alert,
    AlertKind,
    Contribution,
    DeviceStateMessage,
    Event,
    Summary,
    episode_id,
    pack_floats,
    rfc3339,
)
from models.signal import DeviceCondition, ScoredOn

_STEPS = 10  # in which it is said how far learning is


@dataclass(frozen=True, slots=True)
class PipelineEvent:
    """An event on its way out, with what the run knows about it: when the last samples that it needed
    arrived (None: it follows from no sample's arrival), what scored them, and how long that took."""

    event: Event
    arrival_ns: int | None
    backend: ScoredOn | None
    scoring_ns: int | None = None


class SavedEvent(msgspec.Struct, kw_only=True):
    """A :class:`PipelineEvent` as it is kept: its JSON, and which message it is."""

    type: Literal["alert", "summary", "device_state"]
    json: bytes
    arrival_ns: int | None
    backend: ScoredOn | None
    scoring_ns: int | None = None


class AnnouncerState(msgspec.Struct, kw_only=True):
    """Everything an :class:`Announcer` remembers."""

    open: dict[str, Alert]
    condition: DeviceCondition
    since_ns: int
    published: tuple[DeviceCondition, tuple[str, ...]] | None
    n_states: int
    outbox: list[SavedEvent]
    step: int | None = None


class Announcer:
    """The voice of one device."""

    def __init__(self, site: str, gateway: str, plan: DevicePlan) -> None:
        self.site = site
        self.gateway = gateway
        self._plan = plan
        self._open: dict[str, Alert] = {}  # the last of each open episode, by its key
        self._since_ns = 0
        self._published: tuple[DeviceCondition, tuple[str, ...]] | None = None
        self._n_states = 0  # published: tells apart equal states at one instant, where a clock went back
        self._step: int | None = None  # how far it was said that learning is
        self.progress: float | None = None  # how far it is, 0 to 1; None: the device does not learn
        self.condition = DeviceCondition.LEARNING
        self.outbox: list[PipelineEvent] = []

    @property
    def open_alerts(self) -> list[Alert]:
        """The last message of every episode that is open."""
        return list(self._open.values())

    @property
    def spoke(self) -> bool:
        """Whether the device's state has been published yet."""
        return self._published is not None

    @property
    def settled(self) -> bool:
        """Whether it has, is not that it learns, and need not become that."""
        return self.spoke and self.condition is not DeviceCondition.LEARNING and self.progress is None

    def last(self, key: str) -> Alert | None:
        """What was last said of the episode ``key``, while that is open."""
        return self._open.get(key)

    def alert(
        self,
        kind: AlertKind,
        key: str,
        change: Transition,
        text: str,
        clock: str,
        *,
        contributions: tuple[Contribution, ...] = (),
        score: float | None = None,
        p_value: float | None = None,
        threshold: float | None = None,
        rows: NDArray[np.float32] | None = None,
    ) -> Alert:
        """The message of ``change`` in the episode ``key`` = kind or kind:subject."""
        device, model = self._plan.device, self._plan.model
        subject = key.partition(":")[2]
        alert_id = episode_id(self.gateway, device.device_id, kind, change.start_ns, subject)
        return Alert(
            alert_id=alert_id,
            seq=change.seq,
            message_id=f"{alert_id}-{change.seq}",
            site=self.site,
            gateway=self.gateway,
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
            clock=clock,
            evidence=None,
            delivery=None,
        )

    def emit(
        self,
        key: str,
        alert: Alert,
        arrival_ns: int | None,
        backend: ScoredOn | None,
        scoring_ns: int | None = None,
    ) -> None:
        """Send ``alert`` of the episode ``key``."""
        if alert.state == "cleared":
            self._open.pop(key, None)
        else:
            self._open[key] = alert
        self.outbox.append(PipelineEvent(alert, arrival_ns, backend, scoring_ns))

    def accept(self, key: str, change: Transition, by: str) -> None:
        """Send the end of the episode ``key``, which is open: ``by`` says that it is normal."""
        before = self._open[key]
        self._end(key, change, alerting.accepted_sentence(before.machine, by, before.message))

    def let_go(self, key: str, change: Transition) -> None:
        """Send the end of the episode ``key``, which is open: nobody can tell any more whether it lasts."""
        before = self._open[key]
        text = f"{before.machine}: the model that said this scores no more: {before.message}"
        self._end(key, change, text)

    def _end(self, key: str, change: Transition, text: str) -> None:
        before = self._open[key]
        alert = msgspec.structs.replace(
            before,
            state=change.state,
            seq=change.seq,
            message_id=f"{before.alert_id}-{change.seq}",
            severity=change.severity,
            message=text,
            end_ns=change.end_ns,
            end_at=rfc3339(change.end_ns),
        )
        self.emit(key, alert, None, None)

    def publish_state(self, at_ns: int, arrival_ns: int | None, *, stale: bool, idle: bool) -> None:
        """Say what the device is now, where that has changed."""
        kinds = {alert.kind for alert in self._open.values()}
        if stale:
            condition = DeviceCondition.STALE
        elif idle:
            condition = DeviceCondition.IDLE
        elif "sensor" in kinds:
            condition = DeviceCondition.SENSOR_FAULT
        elif kinds:
            condition = DeviceCondition.ANOMALOUS
        elif self.progress is not None:
            condition = DeviceCondition.LEARNING
        else:
            condition = DeviceCondition.NORMAL
        if condition != self.condition or self._published is None:
            self._since_ns = at_ns
        self.condition = condition
        now = (condition, tuple(sorted(alert.alert_id for alert in self._open.values())))
        step = None
        if condition is DeviceCondition.LEARNING and self.progress is not None:
            step = math.floor(_STEPS * self.progress)
        if now == self._published and step == self._step:
            return
        self._step = step
        self._published = now
        device = self._plan.device
        self._n_states += 1
        subject = "/".join((str(self._n_states), condition, *now[1]))
        message = DeviceStateMessage(
            message_id=episode_id(self.gateway, device.device_id, "state", at_ns, subject),
            site=self.site,
            gateway=self.gateway,
            machine=device.machine,
            class_=device.class_,
            device=device.device_id,
            state=condition,
            since_ns=self._since_ns,
            since_at=rfc3339(self._since_ns),
            open_alerts=now[1],
            progress=None if step is None else step / _STEPS,
        )
        self.outbox.append(PipelineEvent(message, arrival_ns, None))

    def summarise(self, totals: Totals, centre: NDArray[np.float64], arrival_ns: int | None) -> None:
        """Send the summary ``totals``, at whose end re-centring stood at ``centre``."""
        device, model = self._plan.device, self._plan.model
        assert model is not None
        # A span may be summarised in parts (around a silence, a restart): its first window tells them apart.
        subject = f"{model.manifest.schema_id}/{totals.first_ns}"
        summary = Summary(
            message_id=episode_id(self.gateway, device.device_id, "summary", totals.start_ns, subject),
            site=self.site,
            gateway=self.gateway,
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
            centre=centre.tolist(),
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

    def state(self) -> AnnouncerState:
        return AnnouncerState(
            open=dict(self._open),
            condition=self.condition,
            since_ns=self._since_ns,
            published=self._published,
            n_states=self._n_states,
            step=self._step,
            outbox=[save_event(event) for event in self.outbox],
        )

    def restore(self, state: AnnouncerState) -> None:
        self._open = dict(state.open)
        self.condition = state.condition
        self._since_ns = state.since_ns
        self._published = state.published
        self._n_states, self._step = state.n_states, state.step
        if self._plan.model is None and state.step is not None:
            self.progress = state.step / _STEPS
        self.outbox[:] = restored_outbox(state)


def restored_outbox(state: AnnouncerState) -> list[PipelineEvent]:
    """The events that nobody had taken."""
    return [load_event(saved) for saved in state.outbox]


def farewells(state: AnnouncerState) -> list[PipelineEvent]:
    """What a device still has to say when it is no longer watched as it was: events that nobody had taken,
    and the end of everything open."""
    events = restored_outbox(state)
    for alert in state.open.values():
        seq = alert.seq + 1
        cleared = msgspec.structs.replace(
            alert,
            state="cleared",
            seq=seq,
            message_id=f"{alert.alert_id}-{seq}",
            message=f"{alert.machine}: no longer watched as it was when this was said: {alert.message}",
        )
        events.append(PipelineEvent(cleared, None, None))
    return events


def save_event(event: PipelineEvent) -> SavedEvent:
    """``event`` in a form that a snapshot can hold."""
    message = event.event
    return SavedEvent(
        type=message.type,
        json=messages.encode(message),
        arrival_ns=event.arrival_ns,
        backend=event.backend,
        scoring_ns=event.scoring_ns,
    )


_KINDS: dict[str, type[Alert] | type[Summary] | type[DeviceStateMessage]] = {
    "alert": Alert,
    "summary": Summary,
    "device_state": DeviceStateMessage,
}


def load_event(saved: SavedEvent) -> PipelineEvent:
    """The inverse of :func:`save_event`."""
    event: Event = msgspec.json.decode(saved.json, type=_KINDS[saved.type])
    return PipelineEvent(event, saved.arrival_ns, saved.backend, saved.scoring_ns)
