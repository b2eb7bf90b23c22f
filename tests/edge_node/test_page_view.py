"""What the page is told: an allow-list, so that no signal leaves through it; and that it is true, of one instant."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_node.assembly import Core
from edge_node.config_schema import (
    ModbusRegister,
    ModbusSource,
    MqttSource,
    MqttSubscription,
    ReplaySource,
    SerialSource,
    Source,
)
from edge_node.requests import Requests
from edge_node.web import page as page_module
from edge_node.web.page import MAX_DRAWN, MAX_OVER, Page, Query, Sight
from edge_node.web.view import Live
from models.gating import GateSpec
from models.messages import Alert, DeviceStateMessage
from models.sensor_checks import LimitSpec
from models.signal import Channel
from tests.edge_node.outgoing_messages import alert, status
from tests.edge_node.plant import POLICY, T0_S, Identity, Plant, S, block, device, healthy, plan

ASK = Query("", "", {})
STRUCTS = {
    "Live",
    "DeviceInfo",
    "ChannelInfo",
    "DeviceNow",
    "ShownAlert",
    "Said",
    "Contribution",
    "Scores",
    "Health",
    "ModelState",
    # as it is published
    "Status",
    "ModelStatus",
    "ConnectionStatus",
}
NUMBERS = {  # lists of numbers, which a signal would be
    "Scores.at",
    "Scores.score",
    "Scores.level",
    "Scores.log_p",
    "Scores.alerting",
}


def test_the_page_is_told_nothing_that_could_hold_a_signal() -> None:
    structs: set[str] = set()
    numbers: set[str] = set()

    def walk(kind: Any, place: str) -> None:
        if isinstance(kind, msgspec.inspect.StructType):
            structs.add(kind.cls.__name__)
            for field in kind.fields:
                walk(field.type, f"{kind.cls.__name__}.{field.name}")
        elif isinstance(kind, msgspec.inspect.UnionType):
            for each in kind.types:
                walk(each, place)
        elif isinstance(kind, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
            if isinstance(kind.item_type, msgspec.inspect.FloatType | msgspec.inspect.IntType):
                numbers.add(place)
            walk(kind.item_type, place)
        elif isinstance(kind, msgspec.inspect.TupleType):
            for each in kind.item_types:
                walk(each, place)
        elif isinstance(kind, msgspec.inspect.DictType):
            walk(kind.value_type, place)
        else:
            plain = (
                msgspec.inspect.IntType,
                msgspec.inspect.FloatType,
                msgspec.inspect.StrType,
                msgspec.inspect.BoolType,
                msgspec.inspect.NoneType,
                msgspec.inspect.EnumType,
                msgspec.inspect.LiteralType,
            )
            assert isinstance(kind, plain), f"{place}: {kind} could hold anything"

    walk(msgspec.inspect.type_info(Live), "Live")
    assert structs == STRUCTS
    assert numbers == NUMBERS


class Floor:
    """A plant whose pipeline a page looks at."""

    def __init__(self, *plans: Any, sources: tuple[Source, ...] = ()) -> None:
        self.plant = Plant(*plans)
        self.core = Core(
            self.plant.pipeline,
            {"identity": Identity()},
            plans,  # type: ignore[dict-item]
        )
        self.core.engines["identity"].target = "cpu-float32"
        self.page = Page()
        self.requests = Requests("site", "gw", 60.0, 20)
        self.states: dict[str, DeviceStateMessage] = {}
        self.sources = sources
        self.gateway_alerts: list[Alert] = []
        self.n_statuses = 0
        self.n_seen = 0

    def look(self, query: Query = ASK) -> Live:
        """The answer, after it was sent and read."""
        for event in self.plant.events[self.n_seen :]:
            message = event.event
            self.page.noted(message)
            if isinstance(message, Alert):
                self.requests.noted(message)
            elif isinstance(message, DeviceStateMessage):
                self.states[message.device] = message
        self.n_seen = len(self.plant.events)
        sight = Sight(
            self.core,
            self.sources,
            self.states,
            self.gateway_alerts,
            self.requests,
            None,
            None,
            {"machine": (2, 0.004)},
            self.status,
        )
        live = self.page.look(query, sight, T0_S * S)
        return msgspec.json.decode(msgspec.json.encode(live), type=Live)

    def status(self) -> Any:
        self.n_statuses += 1
        return status()

    def say(self, *words: Any) -> None:
        self.requests.hear(words[0], msgspec.json.encode(words[1]), T0_S * S, 0.0)


@pytest.fixture
def floor() -> Floor:
    one = Floor(plan(), plan(device("e")))
    one.page.open()
    one.look()
    return one


def at_once(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are never old enough to be told again."""
    monkeypatch.setattr(page_module, "FRESH_S", 0.0)
    monkeypatch.setattr(page_module, "GATHERING_SHARE", 1e9)
    floor.page._gather_s = 0.0


def faulty(n: int = 200, begin: int = 120) -> list[Any]:
    values = healthy(n, seed=3)
    values[begin:] += 5.0
    return [block(values[i : i + 10], i) for i in range(0, n, 10)]


def test_of_a_run_nothing_of_the_signal_is_told(floor: Floor) -> None:
    blocks = faulty()
    floor.plant.play(blocks)
    text = msgspec.json.encode(floor.look(Query("", "", {"d": 0, "e": 0}))).decode()
    told = {float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", text)}
    signal = {float(v) for b in blocks for v in b.values.ravel()}
    signal |= {float(f"{v:.4g}") for v in signal if f"{v:.4g}" != f"{v:.3g}"}
    assert len(told & signal) <= 4, "but what an alert says of it"
    assert '"features"' not in text
    assert floor.plant.alerts()[0].features is not None, "which upstream has"


def test_alerts_are_shown_with_what_operators_said(floor: Floor) -> None:
    floor.plant.play(faulty())
    live = floor.look()
    (shown,) = live.open
    raised = floor.plant.alerts("machine")[-1]
    assert (shown.id, shown.message, shown.severity) == (raised.alert_id, raised.message, raised.severity)
    assert shown.contributions == raised.contributions
    assert shown.start_ms == raised.start_ns // 1_000_000
    assert (shown.ack, shown.label, live.over) == (None, None, ())
    floor.say("ack", {"transaction": "1", "alert_id": shown.id, "by": "Anna", "note": "seen"})
    floor.say("label", {"transaction": "2", "alert_id": shown.id, "by": "Ben", "label": "true_alarm"})
    (shown,) = floor.look().open
    assert shown.ack is not None
    assert (shown.ack.by, shown.ack.note, shown.label) == ("Anna", "seen", "true_alarm")
    assert shown.labelled is not None
    assert shown.labelled.by == "Ben"


def test_what_is_over_is_listed_the_latest_first_and_sent_once(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(floor, monkeypatch)
    for n in range(MAX_OVER + 3):
        floor.page.noted(alert(n, "cleared"))
        floor.page.noted(alert(n, "updated"))
    live = floor.look()
    assert live.over is not None
    assert [a.id for a in live.over] == [f"a{n}" for n in range(MAX_OVER + 2, 2, -1)]
    assert floor.look(Query("", live.over_tag, {})).over is None
    floor.page.noted(alert(7_000, "cleared"))
    again = floor.look(Query("", live.over_tag, {}))
    assert again.over is not None
    assert again.over[0].id == "a7000"


def test_the_gateways_own_alerts_are_among_them(floor: Floor) -> None:
    floor.gateway_alerts = [alert(1, kind="system")]
    assert [a.kind for a in floor.look().open] == ["system"]


def test_what_the_devices_are_is_said_once(floor: Floor) -> None:
    live = floor.look()
    assert live.devices is not None
    assert [d.id for d in live.devices] == ["d", "e"]
    assert [c.unit for c in live.devices[0].channels] == ["bar", "A"]
    assert (live.devices[0].window_s, live.devices[0].hop_s, live.devices[0].span_s) == (20.0, 5.0, 3000.0)
    assert floor.look(Query(live.layout, "", {})).devices is None
    floor.core = Core(floor.plant.pipeline, floor.core.engines, floor.core.plans)
    assert floor.look(Query(live.layout, "", {})).devices is not None, "the configuration may be another"


def test_limits_gates_and_sources_in_words() -> None:
    limits = (
        LimitSpec(name="hot", channel="Pressure", above=9.5, for_s=60),
        LimitSpec(name="odd", channel="Current", above=2, below=-2),
    )
    serial = SerialSource(name="board", device="d", port="/dev/x")
    modbus = ModbusSource(
        name="bus", host="h", register=(ModbusRegister(device="e", channel="c", slave=1, address=0),)
    )
    mqtt = MqttSource(host="h", subscribe=(MqttSubscription(topic="a/{device}"),))
    other = MqttSource(name="other", host="h", subscribe=(MqttSubscription(topic="a", device="e"),))
    gate = GateSpec(device_id="e", channel="Current", comparison=">", value=2.0)
    one = Floor(
        plan(limits=limits, model=None, gate=gate),
        plan(device("e", (Channel(name="Current"),)), model=None),
        sources=(serial, modbus, mqtt, other, ReplaySource(paths=())),
    )
    one.page.open()
    devices = one.look().devices
    assert devices is not None
    assert devices[0].limits == (
        "hot: Pressure above 9.5 bar for 60 s",
        "odd: Current above 2 A or below -2 A",
    )
    assert devices[0].gate == "e.Current > 2"
    assert (devices[0].model, devices[0].level) == (None, "")
    assert devices[0].sources == ("board", "mqtt", "replay")
    assert devices[1].sources == ("bus", "mqtt", "other", "replay")


def test_a_device_that_learns_says_how_far_it_is(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(floor, monkeypatch)
    now = floor.look().now
    assert [(d.state, d.progress, d.score) for d in now] == [("learning", 0.0, None)] * 2
    values = healthy(60)
    floor.plant.play([block(values[:5], 0)])
    assert floor.look().now[0].progress == 0.25
    floor.plant.play([block(values[5:], 5)])
    d, e = floor.look().now
    assert (d.state, d.progress, e.progress) == ("normal", None, 0.0)
    assert d.score is not None
    assert d.level == pytest.approx(floor.plant.plans[0].levels["cpu-float32"].score_raise)
    assert d.since_ms is not None


def test_scores_come_for_whom_they_are_asked(floor: Floor) -> None:
    floor.plant.play([block(healthy(100), 0)])
    assert floor.look().scores == {}
    scores = floor.look(Query("", "", {"d": 0, "e": 0, "nobody": 0})).scores
    assert list(scores) == ["d"]
    assert scores["d"].at == list(range(T0_S + 20, T0_S + 101, 5))
    last = scores["d"].at[-1]
    assert floor.look(Query("", "", {"d": last})).scores["d"].at == [last]
    many = Query("", "", {f"x{i}": 0 for i in range(MAX_DRAWN)} | {"d": 0})
    assert floor.look(many).scores == {}


def test_however_many_look_the_figures_are_gathered_once(floor: Floor) -> None:
    before = floor.n_statuses
    for _ in range(20):
        assert floor.look().health.latency_ms == {"machine": (2, 4.0)}
    assert floor.n_statuses <= before + 1


def test_nothing_is_kept_where_nobody_can_look() -> None:
    one = Floor(plan())
    one.page.step(one.core)
    one.plant.play(faulty())
    assert one.plant.pipeline._lanes["d"].settler.taps == ()
    one.page.noted(alert(1, "cleared"))
    one.page.open()
    assert one.look().over == ()


def test_a_model_that_is_adopted_has_levels_of_its_own(floor: Floor) -> None:
    floor.plant.play([block(healthy(100), 0)])
    before = floor.look()
    one, other = floor.core.plans
    level = msgspec.structs.replace(one.levels["cpu-float32"], score_raise=7.5)
    floor.core.plans = (dataclasses.replace(one, levels={"cpu-float32": level}), other)
    live = floor.look(Query(before.layout, "", {"d": 0}))
    assert live.devices is not None
    assert "7.5" in live.devices[0].level
    n = len(live.scores["d"].at)
    assert set(live.scores["d"].level) != {7.5}
    floor.plant.play([block(healthy(20), 100)])
    levels = floor.look(Query("", "", {"d": 0})).scores["d"].level
    assert 7.5 not in levels[:n]
    assert levels[n:] == [7.5] * 4


def test_a_new_configuration_keeps_the_scores_of_devices_that_stay(floor: Floor) -> None:
    floor.plant.play([block(healthy(100), 0), block(healthy(100), 0, to="e")])
    assert list(floor.look(Query("", "", {"d": 0, "e": 0})).scores) == ["d", "e"]
    plans = (plan(alert=POLICY),)
    other = Plant(*plans)
    other.pipeline.restore(floor.plant.pipeline.snapshot())
    floor.plant, floor.n_seen = other, 0
    floor.core = Core(other.pipeline, floor.core.engines, plans)
    live = floor.look(Query("", "", {"d": 0, "e": 0}))
    assert list(live.scores) == ["d"]
    n = len(live.scores["d"].at)
    other.play([block(healthy(20), 100)])
    assert len(floor.look(Query("", "", {"d": 0})).scores["d"].at) == n + 4
    assert np.all(np.diff(floor.look(Query("", "", {"d": 0})).scores["d"].at) == 5)
