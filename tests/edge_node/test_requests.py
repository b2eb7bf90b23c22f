"""What is exactly a request of ours has its effect once; all else has none, and says why."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node import requests as module
from edge_node.acceptance import Verdict
from edge_node.requests import MAX_ALERTS, MAX_ANSWERS, Heard, Requests, TokenBucket
from models.acceptance import Acceptance
from models.messages import Response
from models.requests import AcceptRequest, Refusal, ReloadRequest, StatusRequest
from tests.edge_node.outgoing_messages import AT, alert, device_state, status

A1, A2 = "0123456789abcdef", "fedcba9876543210"


def fresh(per_minute: float = 6000.0, burst: int = 1000) -> Requests:
    requests = Requests("plant", "gw-1", per_minute, burst)
    requests.noted(alert(alert_id=A1))
    return requests


def ack(**more: Any) -> dict[str, Any]:
    return {"transaction": "t-1", "alert_id": A1, "by": "Anna"} | more


def ask(requests: Requests, name: str, body: Any, now_s: float = 0.0, **more: Any) -> Heard:
    payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return requests.hear(name, payload, AT + round(now_s * 1e9), now_s, **more)


def answered(heard: Heard) -> Response:
    assert heard.answer is not None
    return heard.answer


def refusal(heard: Heard) -> Refusal | None:
    answer = answered(heard)
    assert answer.ok == (answer.reason is None)
    assert heard.todo is None
    return answer.reason


def test_an_acknowledgement_is_remembered_with_the_alert_while_it_is_open() -> None:
    requests = fresh()
    heard = ask(requests, "ack", ack(note="on my way"))
    assert answered(heard) == Response(
        message_id=answered(heard).message_id,
        site="plant",
        gateway="gw-1",
        request="ack",
        transaction="t-1",
        ok=True,
        reason=None,
        text="seen by Anna",
        at_ns=AT,
        at="2026-02-02T02:40:00.000000000Z",
        by="Anna",
        note="on my way",
        alert_id=A1,
        device="press-4",
    )
    assert heard.acked == "press-4"
    state = msgspec.structs.replace(device_state(), message_id="0" * 16, open_alerts=(A1, A2))
    stamped = requests.stamped(state)
    assert (stamped.acked, stamped.message_id) == ((A1,), "0" * 16 + "-1")
    assert requests.stamped(stamped) == stamped
    assert set(requests.acked) == {A1}
    requests.noted(alert(alert_id=A1, state="cleared"))
    assert set(requests.acked) == set()
    assert refusal(ask(requests, "ack", ack(transaction="t-2"))) is Refusal.NOT_OPEN


def test_a_state_of_which_nothing_is_acknowledged_stays_as_it_is() -> None:
    state = msgspec.structs.replace(device_state(), message_id="0" * 16, open_alerts=(A1,))
    assert fresh().stamped(state) == state


def test_a_label_is_remembered_also_after_the_alert_is_over_and_the_latest_holds() -> None:
    requests = fresh()
    body = {"transaction": "t-1", "alert_id": A1, "label": "false_alarm", "by": "Anna", "note": "belt swap"}
    answer = answered(ask(requests, "label", body))
    assert (answer.ok, answer.label, answer.alert_id, answer.by, answer.note, answer.at_ns) == (
        True,
        "false_alarm",
        A1,
        "Anna",
        "belt swap",
        AT,
    )
    assert set(requests.labelled_false) == {A1}
    requests.noted(alert(alert_id=A1, state="cleared"))
    assert set(requests.labelled_false) == {A1}
    assert answered(
        ask(requests, "label", body | {"transaction": "t-2", "label": "true_alarm", "by": "Ben"})
    ).ok
    assert set(requests.labelled_false) == set()


GOOD = {
    "ack": ack(),
    "label": ack(label="true_alarm"),
    "accept_as_normal": {"transaction": "t", "device": "press-4", "by": "Anna"},
    "reload": {"transaction": "t"},
    "status": {"transaction": "t"},
}


@pytest.mark.parametrize("name", GOOD)
def test_a_request_may_name_its_gateway_and_no_other(name: str) -> None:
    for more, expected in (
        ({}, None),
        ({"site": "plant", "gateway": "gw-1", "type": "request"}, None),
        ({"gateway": "gw-2"}, Refusal.WRONG_GATEWAY),
        ({"site": "elsewhere"}, Refusal.WRONG_GATEWAY),
    ):
        heard = ask(fresh(), name, GOOD[name] | more)
        if expected is None:
            assert heard.answer is None or heard.answer.ok
            assert heard.answer is not None or heard.todo is not None
        else:
            assert refusal(heard) is expected
            assert answered(heard).transaction == GOOD[name]["transaction"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ack", {"alert_id": "0123"}),
        ("ack", {"alert_id": A1 + "\n"}),
        ("ack", {"by": ""}),
        ("ack", {"by": "x" * 65}),
        ("ack", {"by": "Anna\nalert cleared"}),
        ("ack", {"by": None}),
        ("ack", {"note": "x" * 501}),
        ("ack", {"note": "\x1b[2J"}),
        ("ack", {"reply_to": "linewatch/plant/gw-2/response/ack"}),
        ("ack", {"type": "alert"}),
        ("label", {"label": "maybe"}),
        ("accept_as_normal", {"device": ""}),
        ("accept_as_normal", {"device": 3}),
        ("reload", {"config": "/etc/passwd"}),
        ("status", {"by": 1}),
    ],
)
def test_what_is_not_exactly_a_request_is_malformed_and_has_no_effect(
    name: str, change: dict[str, Any]
) -> None:
    requests = fresh()
    before = requests.state()
    heard = ask(requests, name, GOOD[name] | change)
    assert refusal(heard) is Refusal.MALFORMED
    assert heard.publish
    assert requests.state() == before
    assert requests.counters.refused == {Refusal.MALFORMED: 1}


def test_what_may_stand_there_instead_is_said() -> None:
    heard = ask(fresh(), "label", GOOD["label"] | {"label": "nonsense"})
    assert heard.answer is not None
    assert heard.answer.text.endswith("expected 'true_alarm' or 'false_alarm'")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"transaction": "t"',
        b'{"transaction": 7}',
        b'{"transaction": ""}',
        b'{"transaction": "a b"}',
        b'{"transaction": "%s"}' % (b"x" * 65),
        b'{"transaction": "t\\u0000"}',
        b'{"transaction": "\\ud800"}',
        b"[" * 8192,
        b'{"x": ' + b"[" * 8000,
    ],
)
def test_a_refusal_without_a_transaction_is_counted_and_not_told(payload: bytes) -> None:
    requests = fresh()
    heard = ask(requests, "ack", payload)
    assert refusal(heard) is Refusal.MALFORMED
    assert answered(heard).transaction == ""
    assert not heard.publish
    assert requests.counters.n_untold == 1


def test_an_unknown_request_is_told_where_it_can_be_a_topic() -> None:
    requests = fresh()
    heard = ask(requests, "open_door", {"transaction": "t"})
    assert refusal(heard) is Refusal.UNKNOWN_REQUEST
    assert (heard.publish, answered(heard).request) == (True, "open_door")
    assert not ask(requests, "x" * 1000, {"transaction": "t"}).publish
    assert not ask(requests, "Ack", {"transaction": "t"}).publish
    assert requests.counters.heard == {"unknown": 3}


def test_what_comes_again_is_answered_alike_and_has_no_second_effect() -> None:
    requests = fresh()
    first = ask(requests, "ack", ack())
    again = ask(requests, "ack", ack(), now_s=5.0)
    assert again.answer == first.answer
    assert again.acked is None
    assert again.again
    assert requests.counters.n_repeated == 1
    # A label that was given in the meantime is not undone by a first one that is delivered again.
    one = {"transaction": "l-1", "alert_id": A1, "label": "false_alarm", "by": "Anna"}
    ask(requests, "label", one)
    ask(requests, "label", one | {"transaction": "l-2", "label": "true_alarm"})
    ask(requests, "label", one)
    assert set(requests.labelled_false) == set()
    # Also what was refused once it was understood.
    wrong = ack(transaction="t-9", alert_id=A2)
    assert ask(requests, "ack", wrong).answer == ask(requests, "ack", wrong, now_s=3.0).answer
    assert requests.counters.refused == {Refusal.UNKNOWN_ALERT: 1}


def test_a_transaction_is_of_one_request() -> None:
    requests = fresh()
    ask(requests, "ack", ack())
    heard = ask(requests, "ack", ack(by="Ben"))
    assert refusal(heard) is Refusal.TRANSACTION_REUSED
    assert ask(requests, "ack", ack()).answer == answered(ask(requests, "ack", ack()))
    assert answered(ask(requests, "ack", ack())).ok
    assert answered(ask(requests, "label", ack(label="true_alarm"))).ok, "of one name, too"


def word(transaction: str = "t", device: str = "press-4") -> Acceptance:
    return Acceptance(device_id=device, arrival_ns=AT, transaction=transaction, by="Anna", note="")


def test_what_takes_a_while_is_done_once_and_answered_once_it_is_done() -> None:
    requests = fresh()
    body = GOOD["accept_as_normal"]
    heard = ask(requests, "accept_as_normal", body)
    assert isinstance(heard.todo, AcceptRequest)
    again = ask(requests, "accept_as_normal", body)
    assert (again.answer, again.todo) == (None, None)
    reused = ask(requests, "accept_as_normal", body | {"by": "Ben"})
    assert refusal(reused) is Refusal.TRANSACTION_REUSED
    verdict = Verdict(acceptance=word(), refusal=Refusal.TOO_SOON, text="ask again in 2 min")
    answer = requests.concluded(verdict, AT + 1)
    assert (answer.ok, answer.reason, answer.text, answer.device) == (
        False,
        "too_soon",
        "ask again in 2 min",
        "press-4",
    )
    assert ask(requests, "accept_as_normal", body).answer == answer


def test_a_reload_says_what_is_wrong() -> None:
    requests = fresh()
    heard = ask(requests, "reload", {"transaction": "t", "by": "Anna"})
    assert isinstance(heard.todo, ReloadRequest)
    answer = requests.reloaded(heard.todo, "gateway.toml:3: nonsense", AT)
    assert (answer.ok, answer.reason, answer.text) == (False, "bad_config", "gateway.toml:3: nonsense")
    assert ask(requests, "reload", {"transaction": "t", "by": "Anna"}).answer == answer
    assert requests.reloaded(ReloadRequest(transaction="u"), None, AT).ok


def test_a_status_is_that_of_each_moment_and_takes_no_memory() -> None:
    requests = fresh()
    before = requests.state()
    for _ in range(2):
        heard = ask(requests, "status", {"transaction": "t"})
        assert isinstance(heard.todo, StatusRequest)
        assert requests.told_status(heard.todo, status(), AT).status == status()
    assert requests.state() == before


def test_a_token_bucket() -> None:
    bucket = TokenBucket(2.0, 3)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(10.4), bucket.take(10.5), bucket.take(10.6)] == [False, True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_more_than_may_come_is_refused_and_refusals_do_not_flood_the_broker() -> None:
    requests = fresh(per_minute=60.0, burst=5)
    told = [ask(requests, "status", {"transaction": f"t-{i}"}) for i in range(100)]
    assert sum(h.todo is not None for h in told) == 5
    assert all(refusal(h) is Refusal.RATE_LIMITED for h in told[5:])
    assert sum(h.publish for h in told[5:]) == 5
    assert requests.counters.refused == {Refusal.RATE_LIMITED: 95}
    assert requests.counters.n_untold == 90
    assert ask(requests, "status", {"transaction": "later"}, now_s=1.0).todo is not None
    garbage = [ask(requests, "ack", {"transaction": "g"}, now_s=2.0) for _ in range(20)]
    assert sum(h.publish for h in garbage) <= 5
    # What comes again costs nobody a request, and is told as seldom.
    again = fresh(per_minute=60.0, burst=5)
    repeats = [ask(again, "ack", ack()) for _ in range(100)]
    assert sum(h.publish for h in repeats) == 6
    assert again.counters.n_repeated == 99
    assert answered(ask(again, "ack", ack(transaction="t-2"))).ok


def test_memory_is_bounded_and_open_alerts_are_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ALERTS", 50)
    requests = fresh()
    for i in range(200):
        requests.noted(alert(alert_id=f"{i:016x}"))
        requests.noted(alert(alert_id=f"{i:016x}", state="cleared"))
    assert answered(ask(requests, "ack", ack())).ok, "the oldest of all, still open"
    assert (
        refusal(ask(requests, "label", ack(label="true_alarm", alert_id=f"{149:016x}")))
        is Refusal.UNKNOWN_ALERT
    )
    assert answered(
        ask(requests, "label", ack(transaction="k", label="true_alarm", alert_id=f"{150:016x}"))
    ).ok
    size = len(requests.state())
    for i in range(2 * MAX_ANSWERS):
        ask(requests, "ack", ack(transaction=f"n-{i}", note="x" * 500), now_s=float(i))
    grown = len(requests.state())
    for i in range(2 * MAX_ANSWERS):
        ask(requests, "ack", ack(transaction=f"m-{i}", note="x" * 500), now_s=2000.0 + i)
    assert size < grown
    assert len(requests.state()) == pytest.approx(grown, rel=0.01)
    assert MAX_ALERTS == 4096


def test_a_restart_goes_on_with_all_that_is_remembered() -> None:
    requests = fresh()
    first = ask(requests, "ack", ack())
    ask(requests, "label", {"transaction": "l", "alert_id": A1, "label": "false_alarm", "by": "Anna"})
    ask(requests, "accept_as_normal", GOOD["accept_as_normal"])
    ask(requests, "reload", GOOD["reload"])
    after = Requests("plant", "gw-1", 60.0, 5)
    after.restore(requests.state())
    assert ask(after, "ack", ack()).answer == first.answer
    assert set(after.acked) == {A1}
    assert set(after.labelled_false) == {A1}
    assert ask(after, "accept_as_normal", GOOD["accept_as_normal"]).todo is None, "the pipeline still has it"
    assert ask(after, "reload", GOOD["reload"]).todo is not None, "whether it was done died with the process"
    verdict = Verdict(acceptance=word(), refusal=None, text="done")
    assert after.concluded(verdict, AT).ok
    with pytest.raises(msgspec.DecodeError):
        after.restore(b"\xc1")


def test_a_retained_or_oversize_request_is_refused_whatever_it_says() -> None:
    requests = fresh()
    before = requests.state()
    heard = ask(requests, "ack", ack(), refusal=Refusal.RETAINED)
    assert refusal(heard) is Refusal.RETAINED
    assert (heard.publish, answered(heard).transaction) == (True, "t-1")
    assert refusal(ask(requests, "ack", b"", refusal=Refusal.OVERSIZE)) is Refusal.OVERSIZE
    assert requests.state() == before
    assert answered(ask(requests, "ack", ack())).ok, "it was not taken up, so it may come again"


@settings(max_examples=300, deadline=None)
@given(
    name=st.one_of(st.sampled_from(list(GOOD)), st.text(max_size=40)),
    payload=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.one_of(
                st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=5), st.sampled_from([A1, "t"])
            ),
            lambda inner: st.dictionaries(
                st.sampled_from(["transaction", "alert_id", "by", "label", "device", "gateway", "x"]), inner
            ),
            max_leaves=8,
        ).map(msgspec.json.encode),
    ),
)
def test_nothing_that_comes_raises_or_goes_uncounted(name: str, payload: bytes) -> None:
    requests = fresh()
    heard = requests.hear(name, payload, AT, 0.0)
    counters = requests.counters
    assert sum(counters.heard.values()) == 1
    done = heard.todo is not None or (heard.answer is not None and heard.answer.ok)
    assert sum(counters.refused.values()) == (not done)
    assert heard.publish or counters.n_untold == 1
