"""Between whoever hears a request, on threads of their own, and the daemon's loop."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from edge_node.acceptance import Verdict
from edge_node.config_schema import Gateway
from edge_node.request_desk import MAX_WAITING, Effects, RequestDesk
from edge_node.requests import MAX_BYTES
from models.acceptance import Acceptance
from models.messages import Alert, DeviceStateMessage, Response
from models.requests import BacktestRequest, Refusal
from models.topics import GatewayTopics
from tests.brokers import wait_for
from tests.edge_node.outgoing_messages import AT, TOPICS, alert, device_state, status

A1 = "0123456789abcdef"


class Floor:
    """A desk, and all that it has done."""

    def __init__(self, **limits: Any) -> None:
        self.accepted: list[Acceptance] = []
        self.said: list[Response] = []
        self.states: list[str] = []
        self.backtests: list[BacktestRequest] = []
        self.n_reloads = self.n_wakes = 0
        effects = Effects(
            self.accepted.append,
            self.reload,
            status,
            self.said.append,
            self.states.append,
            self.backtests.append,
        )
        self.desk = RequestDesk(Gateway(name="gw-1", site="plant", **limits), effects, self.wake)
        self.inbox = self.desk.inbox(TOPICS)

    def reload(self) -> None:
        self.n_reloads += 1

    def wake(self) -> None:
        self.n_wakes += 1

    def hear(self, name: str, body: Any, *, retained: bool = False) -> None:
        payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self.inbox.hear(f"{TOPICS.root}/request/{name}", payload, retained)

    def work(self, now_s: float = 0.0) -> list[Response]:
        """What is said in a turn."""
        before = len(self.said)
        self.desk.work(AT, now_s)
        return self.said[before:]


def accept(transaction: str = "t") -> bytes:
    return msgspec.json.encode({"transaction": transaction, "device": "press-4", "by": "Anna"})


def test_the_inbox_listens_to_the_requests_of_its_gateway_alone() -> None:
    floor = Floor()
    assert list(floor.inbox.filters) == [("lw/plant/gw-1/request/+", 1)]
    assert floor.inbox.max_bytes >= MAX_BYTES
    assert list(floor.desk.inbox(GatewayTopics("a/b", "s", "g")).filters) == [("a/b/s/g/request/+", 1)]


def test_hearing_does_nothing_but_wake_the_loop() -> None:
    floor = Floor()
    floor.hear("accept_as_normal", accept())
    floor.hear("reload", {"transaction": "r"})
    assert (floor.n_wakes, floor.accepted, floor.n_reloads, floor.said) == (2, [], 0, [])
    assert floor.work() == []
    assert floor.accepted == [
        Acceptance(device_id="press-4", arrival_ns=AT, transaction="t", by="Anna", note="")
    ]
    assert floor.n_reloads == 1
    verdict = Verdict(acceptance=floor.accepted[0], refusal=None, text="done")
    floor.desk.concluded([verdict], AT + 1)
    floor.desk.reloaded("line 3", AT + 2)
    assert [(a.request, a.ok, a.reason) for a in floor.said] == [
        ("accept_as_normal", True, None),
        ("reload", False, Refusal.BAD_CONFIG),
    ]
    floor.desk.reloaded(None, AT + 3)
    assert len(floor.said) == 2, "a SIGHUP is nobody's request"


def test_what_waits_is_bounded_in_number_and_in_bytes() -> None:
    floor = Floor()
    for i in range(MAX_WAITING + 10):
        floor.hear("status", {"transaction": f"t-{i}"})
    floor.work()
    counters = floor.desk.counters()
    assert counters.refused[Refusal.QUEUE_FULL] == 10
    assert counters.heard == {"status": MAX_WAITING, "unread": 10}
    assert sum(a.ok for a in floor.said) == 20
    floor.hear("status", b"x" * (MAX_BYTES + 1))
    assert floor.desk._waiting[0].payload == b""
    floor.work(now_s=100.0)
    assert floor.desk.counters().refused[Refusal.OVERSIZE] == 1
    assert sum(counters.heard.values()) == 20 + sum(counters.refused.values())


def test_alerts_are_noted_and_states_are_stamped() -> None:
    floor = Floor()
    raised = alert(alert_id=A1)
    assert floor.desk.noted(raised) is raised
    floor.hear("ack", {"transaction": "t", "alert_id": A1, "by": "Anna"})
    assert [a.ok for a in floor.work()] == [True]
    assert floor.states == ["press-4"]
    state = msgspec.structs.replace(device_state(), open_alerts=(A1,))
    stamped = floor.desk.noted(state)
    assert isinstance(stamped, DeviceStateMessage)
    assert stamped.acked == (A1,)
    assert isinstance(floor.desk.noted(alert(alert_id=A1, state="cleared")), Alert)


def test_someone_on_this_computer_asks_from_a_thread_and_all_hear_the_answer() -> None:
    floor = Floor()
    floor.desk.noted(alert(alert_id=A1))
    label = {"transaction": "local-1", "alert_id": A1, "label": "false_alarm", "by": "Anna"}
    answers: list[Response] = []
    thread = threading.Thread(
        target=lambda: answers.append(
            floor.desk.ask("label", msgspec.json.encode(label)).result(10)  # as a page's thread would
        )
    )
    thread.start()
    wait_for(lambda: floor.n_wakes, "the question")
    floor.work()
    thread.join(10)
    assert answers == floor.said
    assert (answers[0].ok, answers[0].label, answers[0].transaction) == (True, "false_alarm", "local-1")
    assert set(floor.desk.requests.labelled_false) == {A1}


def test_who_asks_here_is_told_when_it_is_done_or_will_not_be() -> None:
    floor = Floor()
    told = floor.desk.ask("accept_as_normal", accept())
    floor.work()
    assert not told.done()
    twice = floor.desk.ask("accept_as_normal", accept())
    floor.work()
    assert twice.cancelled()
    floor.desk.concluded([Verdict(acceptance=floor.accepted[0], refusal=None, text="done")], AT)
    assert told.result(0).ok
    late = floor.desk.ask("reload", b'{"transaction": "r"}')
    floor.work()
    never = floor.desk.ask("accept_as_normal", accept("u"))
    floor.work()
    floor.desk.close(AT, 0.0)
    assert late.result(0).reason is Refusal.STOPPING
    with pytest.raises(CancelledError):
        never.result(0)
    for i in range(MAX_WAITING):
        floor.hear("status", {"transaction": f"t-{i}"})
    assert floor.desk.ask("status", b'{"transaction": "one too many"}').cancelled()


def test_a_page_that_has_given_up_waiting_breaks_nothing() -> None:
    floor = Floor()
    told = floor.desk.ask("accept_as_normal", accept())
    floor.work()
    assert told.cancel()
    floor.desk.concluded([Verdict(acceptance=floor.accepted[0], refusal=None, text="done")], AT)
    assert [a.ok for a in floor.said] == [True]


def test_what_waits_at_the_end_is_refused_and_may_be_asked_again() -> None:
    floor = Floor()
    floor.desk.noted(alert(alert_id=A1))
    body = {"transaction": "t", "alert_id": A1, "by": "Anna"}
    floor.hear("ack", body)
    floor.desk.close(AT, 0.0)
    assert [(a.request, a.reason) for a in floor.said] == [("ack", Refusal.STOPPING)]
    after = Floor()
    after.desk.requests.restore(floor.desk.requests.state())
    after.hear("ack", body)
    assert [a.ok for a in after.work()] == [True]


def test_refusals_do_not_fill_the_log() -> None:
    floor = Floor(max_requests_per_minute=0.1, max_requests_burst=1)
    with capture_logs() as logs:
        for i in range(50):
            floor.hear("status", {"transaction": f"t-{i}"})
            floor.work()
    warned = [e["event"] for e in logs if e["log_level"] == "warning"]
    assert len(warned) == 1
    assert "rate_limited" in warned[0]


def test_a_new_configuration_has_its_own_limits_and_name() -> None:
    floor = Floor(max_requests_per_minute=0.1, max_requests_burst=1)
    for i in range(2):
        floor.hear("status", {"transaction": f"t-{i}"})
    assert [a.ok for a in floor.work()] == [True, False]
    floor.desk.configure(Gateway(name="gw-2", site="plant"))
    floor.hear("status", {"transaction": "t-3"})
    floor.hear("status", {"transaction": "t-4", "gateway": "gw-1"})
    assert [(a.gateway, a.reason) for a in floor.work()] == [("gw-2", None), ("gw-2", Refusal.WRONG_GATEWAY)]


def test_a_backtest_is_answered_once_it_is_known_and_asked_again_only_where_that_may_help() -> None:
    floor = Floor()
    body = {"transaction": "b", "model_id": "m", "sha256": "0" * 64, "n_bytes": 10}
    floor.hear("backtest", body)
    floor.hear("backtest", body)
    assert floor.work() == []
    (asked,) = floor.backtests
    floor.desk.backtested(asked, None, Refusal.BUSY, "later", AT)
    floor.hear("backtest", body)
    floor.work()
    assert len(floor.backtests) == 2
    floor.desk.backtested(asked, None, Refusal.NOTHING_RECORDED, "empty", AT)
    floor.hear("backtest", body)
    assert [(a.reason, a.text) for a in floor.work()] == [(Refusal.NOTHING_RECORDED, "empty")]
    assert len(floor.backtests) == 2


def test_a_backtest_that_went_down_with_the_process_is_done_when_asked_again() -> None:
    floor, after = Floor(), Floor()
    body = {"transaction": "b", "model_id": "m", "sha256": "0" * 64, "n_bytes": 10}
    floor.hear("backtest", body)
    floor.work()
    after.desk.requests.restore(floor.desk.requests.state())
    after.hear("backtest", body)
    after.work()
    assert len(after.backtests) == 1
    for wrong in ({"hours": 0}, {"sha256": "x"}, {"n_bytes": 0}, {"raw": True}):
        after.hear("backtest", {**body, "transaction": "w", **wrong})
        assert [a.reason for a in after.work()] == [Refusal.MALFORMED]
