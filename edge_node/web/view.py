"""What the page is told, all of it: an allow-list as ``egress.SENDABLE`` is one for what goes upstream.

Invariants: an alert loses its feature rows on the way here; of a signal there is nothing but scores; times are whole
milliseconds of Unix UTC, which JavaScript keeps. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from edge_node.config_schema import ModbusSource, MqttSource, SerialSource, Source
from edge_node.plans import DevicePlan
from edge_node.requests import Known, Word
from edge_node.web.scores import POINTS, Scores
from models.limits import LimitSpec
from models.messages import (
    Alert,
    AlertKind,
    AlertState,
    ConnectionStatus,
    Contribution,
    ModelState,
    Severity,
    Status,
)
from models.requests import AlertLabel
from models.signal import NS_PER_S, DeviceCondition

NS_PER_MS = 1_000_000


class ChannelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's name and unit."""

    name: str
    unit: str


class DeviceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of a device. ``level``: where its scores begin to count, in words; ``span_s``: how much
    of it the page can draw; ``gate``: when its machine runs; ``sources``: those that may feed it."""

    id: str
    machine: str
    class_: str = msgspec.field(name="class")
    channels: tuple[ChannelInfo, ...]
    window_s: float
    hop_s: float
    span_s: float
    model: str | None
    model_version: int | None
    level: str
    limits: tuple[str, ...]
    gate: str
    sources: tuple[str, ...]


class DeviceNow(msgspec.Struct, frozen=True, array_like=True):
    """A device now. ``progress``: how much of its first window is there, 0 to 1, while it is learning; or, where it learns its
    model by itself, of what that takes, which needs ``left_s`` yet of running machine; ``at_s``: of the newest score, in event
    time."""

    state: DeviceCondition
    since_ms: int | None
    at_s: int | None
    score: float | None
    level: float | None
    progress: float | None
    left_s: float | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator said of an alert."""

    by: str
    note: str
    at_ms: int


class ShownAlert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as the page shows it, with what operators said of it."""

    id: str
    device: str
    machine: str
    kind: AlertKind
    severity: Severity
    state: AlertState
    message: str
    start_ms: int
    end_ms: int
    score: float | None
    threshold: float | None
    p_value: float | None
    contributions: tuple[Contribution, ...]
    ack: Said | None
    label: AlertLabel | None
    labelled: Said | None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway itself: its status as it is published, and what that cannot say. ``uplink`` None: none is configured;
    ``problem``: why a restart would forget something; ``model_states``: what became last of models that were offered;
    ``latency_ms``: kind of alert -> (how many, milliseconds in all)."""

    status: Status
    uplink: ConnectionStatus | None
    problem: str | None
    latency_ms: dict[str, tuple[int, float]]
    model_states: tuple[ModelState, ...] = ()


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. ``layout`` names the devices that ``now`` lists; ``devices`` says what they are, for who knows another
    layout; so do ``over_tag`` and ``over`` with the alerts that are over, the latest first. ``scores``: by device, of those
    that were asked for."""

    now_ms: int
    layout: str
    devices: tuple[DeviceInfo, ...] | None
    now: tuple[DeviceNow, ...]
    open: tuple[ShownAlert, ...]
    over_tag: str
    over: tuple[ShownAlert, ...] | None
    health: Health
    scores: dict[str, Scores]


def device_info(plan: DevicePlan, level: str, sources: Iterable[Source]) -> DeviceInfo:
    device, window, model = plan.device, plan.window, plan.model
    hop_s = window.hop_ns / NS_PER_S
    return DeviceInfo(
        id=device.device_id,
        machine=device.machine,
        class_=device.class_,
        channels=tuple(ChannelInfo(name=c.name, unit=c.unit) for c in device.channels),
        window_s=window.window_ns / NS_PER_S,
        hop_s=hop_s,
        span_s=POINTS * max(hop_s, 1.0),
        model=None if model is None else model.model_id,
        model_version=None if model is None else model.version,
        level=level,
        limits=tuple(limit_text(limit, plan) for limit in plan.limits),
        gate="" if plan.gate is None else plan.gate.text,
        sources=tuple(source.name for source in sources if _may_feed(source, device.device_id)),
    )


def _may_feed(source: Source, device_id: str) -> bool:
    if isinstance(source, SerialSource):
        return source.device == device_id
    if isinstance(source, ModbusSource):
        return any(register.device == device_id for register in source.register)
    if isinstance(source, MqttSource):
        return any(topic.device in (None, device_id) for topic in source.subscribe)
    return True


def limit_text(limit: LimitSpec, plan: DevicePlan) -> str:
    """ "bearing hot: bearing above 85 °C for 60 s"."""
    unit = next((f" {c.unit}" for c in plan.device.channels if c.name == limit.channel and c.unit), "")
    bounds = [
        f"{word} {bound:g}{unit}"
        for word, bound in (("above", limit.above), ("below", limit.below))
        if bound is not None
    ]
    lasting = f" for {limit.for_s:g} s" if limit.for_s else ""
    return f"{limit.name}: {limit.channel} {' or '.join(bounds)}{lasting}"


def shown(alert: Alert, known: Known | None) -> ShownAlert:
    return ShownAlert(
        id=alert.alert_id,
        device=alert.device,
        machine=alert.machine,
        kind=alert.kind,
        severity=alert.severity,
        state=alert.state,
        message=alert.message,
        start_ms=alert.start_ns // NS_PER_MS,
        end_ms=alert.end_ns // NS_PER_MS,
        score=alert.score,
        threshold=alert.threshold,
        p_value=alert.p_value,
        contributions=alert.contributions,
        ack=None if known is None else _said(known.ack),
        label=None if known is None else known.label,
        labelled=None if known is None else _said(known.labelled),
    )


def _said(word: Word | None) -> Said | None:
    return None if word is None else Said(by=word.by, note=word.note, at_ms=word.at_ns // NS_PER_MS)


def latency_ms(latency_s: Mapping[str, tuple[int, float]]) -> dict[str, tuple[int, float]]:
    return {kind: (n, round(total * 1000, 3)) for kind, (n, total) in latency_s.items()}
