from __future__ import annotations

import ast
import inspect
import io
import re
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_node
from edge_node import egress, uplink
from edge_node.checkpoints import Checkpoints
from edge_node.config_schema import Uplink as UplinkConfig
from edge_node.continuity import Continuity
from edge_node.departures import Departures
from edge_node.dry_run import DryRun
from edge_node.egress import EgressQueue, Outgoing, outgoing
from edge_node.outbox import Outbox
from models import messages, mqtt_client
from models.messages import Alert, Delivery, Event, ScoreRequest, Status, rfc3339
from models.signal import DeviceCondition, DropReason, SampleBlock, WindowBatch
from tests.edge_node.outgoing_messages import AT, TOPICS, alert, device_state, model_state, status, summary

WINDOWS = WindowBatch(
    "press-4",
    np.zeros(1, np.int64),
    np.ones(1, np.int64),
    np.zeros((1, 4, 1), np.float32),
    np.ones((1, 4, 1), bool),
)
BLOCK = SampleBlock.irregular(
    "press-4", ("x",), np.zeros((1, 1), np.float32), time_ns=np.zeros(1, np.int64), arrival_ns=0
)


class WithRaw(Alert, frozen=True, kw_only=True):
    """An alert that somebody added the raw window to."""

    raw: tuple[float, ...] = (1.0,)


@pytest.mark.parametrize(
    ("event", "topic", "kind", "retain"),
    [
        (alert(), "lw/plant/gw-1/alert/press-4", "alert", False),
        (alert(device="_gateway", kind="system"), "lw/plant/gw-1/alert/_gateway", "alert", False),
        (summary(), "lw/plant/gw-1/summary/press-4", "summary", False),
        (device_state(), "lw/plant/gw-1/device/press-4/state", "device_state", True),
        (status(), "lw/plant/gw-1/status", "status", True),
        (model_state(), "lw/plant/gw-1/model/pump", "model_state", True),
    ],
)
def test_what_may_leave(event: Any, topic: str, kind: str, retain: bool) -> None:
    item = outgoing(event, TOPICS)
    assert (item.topic, item.kind, item.retain) == (topic, kind, retain)
    assert msgspec.json.decode(item.payload, type=type(event)) == event


@pytest.mark.parametrize(
    "event",
    [
        BLOCK,
        WINDOWS,
        BLOCK.values,
        b"raw",
        {"type": "alert", "raw": [1.0]},
        None,
        Delivery(emitted_ns=AT, emitted_at=rfc3339(AT), latency_ms=1.0, backend="cpu"),
        WithRaw(**{f: getattr(alert(), f) for f in Alert.__struct_fields__}),
    ],
)
def test_nothing_else_may_leave(event: Any) -> None:
    with pytest.raises(TypeError, match="may not leave the gateway"):
        outgoing(event, TOPICS)


def test_no_message_of_another_gateway() -> None:
    with pytest.raises(ValueError, match="a message of plant/gw-2 on lw/plant/gw-1"):
        outgoing(alert(gateway="gw-2"), TOPICS)
    with pytest.raises(ValueError, match="a message of here/gw-1 on"):
        outgoing(status(site="here"), TOPICS)


def test_publish_is_the_only_way_out() -> None:
    """Whatever is public on the uplink and takes data takes it as an event."""
    takes: dict[str, list[str]] = {}
    for name, member in inspect.getmembers(uplink.Uplink, inspect.isfunction):
        if not name.startswith(("_", "on_")):
            takes[name] = [str(p.annotation) for p in list(inspect.signature(member).parameters.values())[1:]]
    assert takes == {
        "counters": [],
        "forget": ["str"],
        "forget_conflicts": ["float"],
        "publish": ["Event | Status | Response | ModelState | ScoreRequest"],
        "start": [],
        "stop": ["Status", "float"],
        "wake": [],
    }
    assert set(egress.SENDABLE) >= {Alert, Status}
    assert len(egress.SENDABLE) == 7


def ids(items: Any) -> list[str]:
    return [msgspec.json.decode(item.payload)["message_id"] for item in items]


def drain(queue: EgressQueue) -> list[Outgoing]:
    return [queue.take() for _ in range(len(queue))]


def test_gives_up_old_summaries_first_and_alerts_last() -> None:
    queue = EgressQueue(4, 10**6)
    events: list[Event] = [
        alert(0),
        summary(0),
        alert(1, "updated"),
        summary(1),
        alert(2),
        alert(3, "cleared"),
        alert(4),
        alert(5),
    ]
    given_up = []
    for event in events:
        dropped, superseded = queue.put(outgoing(event, TOPICS))
        given_up += dropped
        assert superseded == []
    assert ids(given_up) == ["s0", "s1", "a1-0", "a0-0"]
    assert ids(drain(queue)) == ["a2-0", "a3-0", "a4-0", "a5-0"]
    assert queue.n_bytes == 0


def test_bounded_in_bytes() -> None:
    size = outgoing(summary(), TOPICS).n_bytes
    queue = EgressQueue(10**6, 3 * size)
    dropped = [ids(queue.put(outgoing(summary(i), TOPICS))[0]) for i in range(5)]
    assert dropped == [[], [], [], ["s0"], ["s1"]]
    assert queue.n_bytes == 3 * size
    huge = outgoing(summary(9, reservoir="x" * 5 * size), TOPICS)
    assert queue.put(huge) == ([huge], [])  # alone too large: it displaces nobody
    assert ids(drain(queue)) == ["s2", "s3", "s4"]


def test_a_retained_message_waits_once_with_its_latest_text() -> None:
    queue = EgressQueue(10, 10**6)
    for condition in DeviceCondition:
        queue.put(outgoing(device_state(condition), TOPICS))
    other = outgoing(device_state(device="oven"), TOPICS)
    queue.put(other)
    assert ids(drain(queue)) == [f"d-press-4-{list(DeviceCondition)[-1]}", "d-oven-normal"]


def test_what_is_put_back_goes_first_unless_something_newer_waits() -> None:
    queue = EgressQueue(10, 10**6)
    events: list[Event] = [alert(0), device_state(), alert(1), summary(0)]
    for event in events:
        queue.put(outgoing(event, TOPICS))
    taken = [queue.take(), queue.take(), queue.take()]
    queue.put(outgoing(device_state(DeviceCondition.STALE), TOPICS))
    _, superseded = queue.put_back(taken)
    assert ids(superseded) == ["d-press-4-normal"]
    assert ids(drain(queue)) == ["a0-0", "a1-0", "s0", "d-press-4-stale"]


def test_put_first() -> None:
    queue = EgressQueue(10, 10**6)
    queue.put(outgoing(alert(0), TOPICS))
    states = [outgoing(device_state(device=name), TOPICS) for name in ("a", "b")]
    queue.put(states[1])
    assert not queue.holds(states[0])
    assert queue.put_first(states) == ([], [])
    assert queue.holds(states[0])
    newer = outgoing(device_state(DeviceCondition.STALE, "a"), TOPICS)
    assert queue.put_first([newer]) == ([], [states[0]])
    assert drain(queue)[:2] == [newer, states[1]]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["summary", "updated", "raised", "state"]),
            st.integers(1, 3),  # take so many
            st.just("back"),  # put back what was taken
        ),
        max_size=60,
    )
)
def test_nothing_is_lost_or_reordered(steps: list[str | int]) -> None:
    """Everything put in is taken, given up or superseded, once; what is taken of one rank comes in order."""
    queue = EgressQueue(5, 10**6)
    out: deque[Outgoing] = deque()
    gone: list[Outgoing] = []
    put: list[Outgoing] = []
    for n, step in enumerate(steps):
        if isinstance(step, int):
            out += [queue.take() for _ in range(min(step, len(queue)))]
            continue
        if step == "back":
            given_up, superseded = queue.put_back(out)
            out.clear()
        else:
            events: dict[str, Event] = {
                "summary": summary(n),
                "updated": alert(n, "updated"),
                "raised": alert(n),
                "state": device_state(),
            }
            put.append(outgoing(events[step], TOPICS))
            given_up, superseded = queue.put(put[-1])
        gone += given_up + superseded
        assert len(queue) <= 5 + 1  # the retained one does not count
    left = [*out, *drain(queue)]
    assert sorted(map(id, left + gone)) == sorted(map(id, put))
    assert queue.n_bytes == 0
    for rank in range(3):
        order = [put.index(item) for item in left if item.rank == rank]
        assert order == sorted(order)


def test_what_is_said_now_goes_before_what_has_waited_but_not_before_its_own_past() -> None:
    queue = EgressQueue(100, 10**6)
    for n in range(3):
        queue.put(outgoing(summary(n, device="oven"), TOPICS))
        queue.put(outgoing(summary(10 + n), TOPICS))
    queue.all_have_waited()
    assert queue.next(may_drain=False) is None
    queue.put(outgoing(alert(7), TOPICS))
    queue.put(outgoing(alert(9, device="fan"), TOPICS))
    queue.put(outgoing(summary(8, device="press"), TOPICS))  # no hurry
    assert ids([queue.take(may_drain=False)]) == ["a9-0"]  # of its device nothing has waited
    assert queue.next(may_drain=False) is None  # the rate holds for what has waited, whoever speaks
    assert ids([queue.take() for _ in range(4)]) == ["s10", "s11", "s12", "a7-0"]
    assert ids(drain(queue)) == ["s0", "s1", "s2", "s8"]
    assert queue.n_bytes == 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["summary", "updated", "raised", "state"]), st.sampled_from("abc")),
            st.integers(1, 3),
            st.sampled_from(["connect", "lose", "deny", "allow"]),
        ),
        max_size=80,
    )
)
def test_whatever_is_chosen_next_a_device_keeps_its_order(steps: list[Any]) -> None:
    queue = EgressQueue(8, 10**6)
    out: list[Outgoing] = []
    sent: list[Outgoing] = []
    put: list[Outgoing] = []
    may_drain = True
    for n, step in enumerate(steps):
        match step:
            case int():
                while step and (item := queue.next(may_drain=may_drain)) is not None:
                    out.append(queue.take(may_drain=may_drain))
                    assert out[-1] is item
                    step -= 1
            case "connect":
                sent += out
                out.clear()
                queue.all_have_waited()
            case "lose":
                queue.put_back(out)
                out.clear()
            case "deny" | "allow":
                may_drain = step == "allow"
            case kind, device:
                made: dict[str, Event] = {
                    "summary": summary(n, device=device),
                    "updated": alert(n, "updated", device=device),
                    "raised": alert(n, device=device),
                    "state": device_state(device=device),
                }
                put.append(outgoing(made[kind], TOPICS))
                queue.put(put[-1])
    left = [*sent, *out, *drain(queue)]
    for device in "abc":
        order = [put.index(item) for item in left if item.device == device]
        assert order == sorted(order)


def test_what_is_too_old_is_given_up_by_the_time_that_the_gateway_ran() -> None:
    queue = EgressQueue(100, 10**6)
    for ran_s in (10.0, 20.0, 30.0):
        item = outgoing(summary(int(ran_s)), TOPICS)
        item.ran_s = ran_s
        queue.put(item)
    queue.put(outgoing(device_state(), TOPICS))
    assert ids(queue.expire(20.0)) == ["s10"]
    assert ids(queue.expire(1000.0)) == ["s20", "s30"]
    assert ids(drain(queue)) == ["d-press-4-normal"]  # how a device is now is never too old


def test_an_alert_says_that_it_is_delayed_and_nothing_else_of_it_changes() -> None:
    said = alert(delivery=Delivery(emitted_ns=AT, emitted_at=rfc3339(AT), latency_ms=1.0, backend="cpu"))
    payload = egress.marked_delayed("alert", messages.encode(said))
    late = msgspec.json.decode(payload, type=Alert)
    assert late.delivery is not None
    assert late.delivery.delayed
    assert msgspec.structs.replace(late, delivery=said.delivery) == said
    assert egress.marked_delayed("summary", b"{}") == b"{}"


def calls(name: str) -> dict[str, list[str]]:
    """Functions of the gateway that call something whose text ends in ``name``, by module."""
    found: dict[str, list[str]] = {}
    package = Path(edge_node.__file__).parent
    for path in (*sorted(package.rglob("*.py")), Path(mqtt_client.__file__)):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and re.search(rf"\b{name}$", ast.unparse(node.func)):
                        module = path.relative_to(package) if package in path.parents else Path(path.name)
                        found.setdefault(module.as_posix(), []).append(function.name)
    return found


def test_what_is_sent_was_made_by_the_allow_list() -> None:
    """Only two places make what can be sent: the allow-list, and the outbox from what that had made (a plan numbers some to see
    how large they are); only one hands it to a broker, whoever tries a broker out sends what it makes up itself, and a
    plan, which asks a sink about a model's own examples, what the allow-list made."""
    assert calls("Outgoing") == {
        "egress.py": ["_item"],
        "outbox.py": ["messages"],
        "planning.py": ["_numbered"],
    }
    assert calls("_item")["egress.py"] == ["outgoing", "clearing"]
    assert calls(r"_client\.publish") == {"mqtt_client.py": ["publish"]}
    assert calls(r"link\.publish") == {
        "doctor/brokers.py": ["on_turn"],
        "placing.py": ["on_turn"],
        "probing.py": ["ask", "on_turn"],
        "uplink.py": ["_send"],
    }


@pytest.mark.parametrize("raw", [BLOCK, BLOCK.values, WINDOWS, WINDOWS.values.tobytes()])
def test_raw_signal_is_refused_on_every_path(raw: Any, tmp_path: Path) -> None:
    waiting = Departures(10, 10**6)
    up = uplink.Uplink(config(), TOPICS, status("offline"), departures=waiting)
    rehearsed = DryRun(config(), TOPICS, status("offline"), departures=waiting, out=io.StringIO())
    box = Outbox(tmp_path)
    box.load()
    checkpoints = Checkpoints(
        box, waiting, every_s=1.0, released=lambda: None, committed=lambda _ticket: None
    )
    kept = Continuity.__new__(Continuity)
    kept.checkpoints = checkpoints
    for way in (up.publish, rehearsed.publish, lambda item: kept.hold(item, TOPICS)):
        with pytest.raises(TypeError, match="may not leave the gateway"):
            way(raw)
    assert waiting.n_queued == 0


def config() -> UplinkConfig:
    return UplinkConfig(host="127.0.0.1", port=1)


def test_what_was_asked_of_a_sink_before_a_connection_is_not_sent_over_it() -> None:
    waiting = Departures(10, 10**6)
    request = ScoreRequest(
        transaction="t", site=TOPICS.site, gateway=TOPICS.gateway, model_id="m", model_version=1, schema_id="s",
        deadline_ms=1.0, n=1, features="",
    )  # fmt: skip
    up = uplink.Uplink(config(), TOPICS, status("offline"), departures=waiting)
    for event in (request, alert(0), request):
        up.publish(event)
    waiting.withdraw("score_request")
    counters, n_queued, _ = waiting.figures()
    assert counters.drops == {("score_request", DropReason.EXPIRED): 2}
    assert n_queued == 1
    assert [item.kind for item in waiting.queue.items()] == ["alert"]
    said = counters.n_published + counters.n_republished
    assert said.total() == n_queued + counters.drops.total()
