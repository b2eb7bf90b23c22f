"""How much a device says and measures: messages as they will really be, made for its model and encoded, and how often. Pure.

Strategy: numbers of real messages have about as many digits as these random ones, so sizes are right to a few per cent. What is
assumed is the worst that is to be planned for: its machine runs all the time, and is in alarm all the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from edge_node.announcing import Announcer
from edge_node.egress import Outgoing, outgoing
from edge_node.machine_alerts import MAX_FEATURE_ROWS
from edge_node.plans import DevicePlan
from edge_node.summary import Summariser
from models import alerting
from models.episodes import Transition, default_update_s
from models.messages import Delivery, Event, rfc3339
from models.signal import NS_PER_S, Clock, Mode, SampleBlock, samples_to_ns
from models.topics import GatewayTopics

Kind = Literal["summary", "alert"]

_AT_NS = 1_760_000_000_000_000_000
_TIME_BYTES = 8  # of a row whose time no rate tells
_VALUE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Said:
    """Messages of one kind of one device: one as it will be, and how many there are ``every_s``; ``n_more`` in all."""

    kind: Kind
    device_id: str
    message: Outgoing
    every_s: float
    n_more: int = 0

    def n(self, for_s: float) -> int:
        """Messages in ``for_s``."""
        return int(np.ceil(for_s / self.every_s)) + self.n_more


def said(plan: DevicePlan, topics: GatewayTopics, interval_s: float | None) -> list[Said]:
    """All that a device says again and again; ``interval_s``: from one of its records to the next, where it has some.
    Nothing of one that has no model."""
    if plan.model is None:
        return []
    step_s = max(plan.window.hop_ns / NS_PER_S, 0.0 if interval_s is None else interval_s)
    update_s = plan.alert.update_s
    often_s = update_s if update_s is not None else default_update_s(step_s)
    device_id = plan.device.device_id
    return [
        Said("summary", device_id, _summary(plan, topics, step_s), max(plan.summary_s, step_s)),
        Said("alert", device_id, _alert(plan, topics), max(often_s, step_s), 2),  # raised and cleared
    ]


def signal_bytes_per_s(plan: DevicePlan, interval_s: float | None) -> float:
    """Bytes of raw signal a second, as float32."""
    n_channels, window = len(plan.device.channels), plan.window
    row = _VALUE_BYTES * n_channels + (_TIME_BYTES if window.mode is Mode.IRREGULAR else 0)
    if window.mode is Mode.BURST and interval_s is not None:
        return row * window.n / interval_s
    return row * float(window.rate_hz)


def signal(plan: DevicePlan, for_s: float, max_values: int) -> SampleBlock:
    """What ``plan``'s device measures in ``for_s`` while all is well (of one with a model, the window that it was checked with,
    again and again), and at most ``max_values`` of it; at least two windows."""
    n_channels, window = len(plan.device.channels), plan.window
    n = max(2 * window.n, min(round(for_s * float(window.rate_hz)), max_values // n_channels))
    if plan.model is not None and (golden := plan.model.manifest.artifacts[0].golden):
        values = golden[0].arrays(window.n, n_channels)[0]
    else:
        values = np.random.default_rng(0).normal(size=(window.n, n_channels)).astype(np.float32)
    rows = np.tile(values, (-(-n // window.n), 1))[:n]
    return SampleBlock.uniform(
        plan.device.device_id,
        plan.device.channel_names,
        rows,
        start_ns=_AT_NS,
        rate_hz=window.rate_hz,
        arrival_ns=_AT_NS + samples_to_ns(n, window.rate_hz),
    )


def _summary(plan: DevicePlan, topics: GatewayTopics, step_s: float) -> Outgoing:
    model = plan.model
    assert model is not None
    k = len(model.infos)
    n_reservoir = plan.n_reservoir if plan.privacy == "features" else 0
    n = max(2, n_reservoir, min(1024, round(plan.summary_s / step_s)))
    span_ns = round(max(plan.summary_s, step_s) * NS_PER_S)
    summariser = Summariser(k, span_ns, min(n_reservoir, max(1, int(plan.summary_s / step_s))), "size")
    end_ns = _AT_NS // span_ns * span_ns + 1 + np.arange(n, dtype=np.int64)
    rng = np.random.default_rng(0)
    features = (model.centre + model.scale * rng.normal(size=(n, k))).astype(np.float32)
    score = rng.gamma(2.0, size=n).astype(np.float32)
    summariser.add(end_ns - 1, end_ns, features, score, None)
    totals = summariser.close()
    assert totals is not None
    announcer = Announcer(topics.site, topics.gateway, plan)
    announcer.summarise(totals, model.centre + 0.1 * model.scale, None)
    return outgoing(announcer.outbox[0].event, topics)


def _alert(plan: DevicePlan, topics: GatewayTopics) -> Outgoing:
    model = plan.model
    assert model is not None
    k = len(model.infos)
    rng = np.random.default_rng(0)
    observed = (model.centre + 5 * model.scale * rng.normal(size=k)).astype(np.float32)
    blamed = alerting.blame(
        np.ones(k, np.float32),
        model.infos,
        observed,
        model.centre,
        model.scale,
        [c.origin for c in plan.device.channels],
    )
    change = Transition("updated", _AT_NS, _AT_NS + 3600 * NS_PER_S, 10, "warning", "")
    sentence = alerting.machine_sentence(
        plan.device.machine,
        blamed,
        model.infos,
        float(model.centre[0]),
        change.start_ns,
        change.end_ns,
        "updated",
    )
    alert = Announcer(topics.site, topics.gateway, plan).alert(
        "machine",
        "machine",
        change,
        sentence,
        Clock.DEVICE,
        contributions=blamed,
        score=float(rng.gamma(9.0)),
        p_value=float(rng.uniform() * 1e-7),
        threshold=float(rng.gamma(9.0)),
        rows=rng.normal(size=(MAX_FEATURE_ROWS, k)).astype(np.float32)
        if plan.privacy == "features"
        else None,
    )
    delivery = Delivery(
        emitted_ns=_AT_NS, emitted_at=rfc3339(_AT_NS), latency_ms=12.345, backend="cpu-float32", delayed=True
    )
    event: Event = msgspec.structs.replace(alert, delivery=delivery)
    return outgoing(event, topics)
