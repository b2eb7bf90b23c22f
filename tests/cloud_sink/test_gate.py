"""The gate: what it accepts, and every reason against; which answers are believed."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_sink.answers import TryAgain, Unbelievable, read
from cloud_sink.evaluating import text_of
from cloud_sink.gate import Answer, Figures, HeldOut, Int8, Limits, judge
from models.backtest import MAX_IDS, Backtest, Side
from models.messages import Response, encode
from models.requests import BacktestRequest, Refusal

SHA = "a" * 64
ASKED = BacktestRequest(transaction="t-1", model_id="press", sha256=SHA, n_bytes=10)


def side(**changes: Any) -> Side:
    fields: dict[str, Any] = {
        "n_windows": 5000,
        "n_alerts": 2,
        "p_quantiles": {"q0.01": 0.01, "q0.1": 0.1, "q0.5": 0.5},
        "invoke_us": 50.0,
    }
    return Side(**(fields | changes))


def backtest(**changes: Any) -> Backtest:
    fields: dict[str, Any] = {
        "model_id": "press",
        "version": 2,
        "against": 1,
        "sha256": SHA,
        "start_ns": 0,
        "end_ns": 7 * 86_400 * 10**9,
        "n_devices": 1,
        "device_hours": 168.0,
        "served": side(),
        "candidate": side(),
        "n_kept": 2,
        "n_gained": 0,
        "n_lost": 0,
    }
    return Backtest(**(fields | changes))


def figures(*found: Backtest, **changes: Any) -> Figures:
    answers = [Answer(gateway=f"s1/g{i}", backtest=b) for i, b in enumerate(found)]
    fields: dict[str, Any] = {
        "answers": tuple(answers),
        "held_out": (HeldOut(anomalies="probes", mean=0.97, worst=0.9, n_devices=3, n_rows=900),),
        "int8": int8(),
    }
    return Figures(**(fields | changes))


def int8(**changes: Any) -> Int8:
    fields: dict[str, Any] = {
        "mean_loss": 0.001,
        "worst_loss": 0.01,
        "mean_share": 0.999,
        "worst_share": 0.99,
        "worst_device": "s1/g1 d1",
        "n_devices": 3,
    }
    return Int8(**(fields | changes))


GOOD = (backtest(), backtest(), backtest())


def test_enough_good_answers_are_accepted() -> None:
    decision = judge(figures(*GOOD), Limits())
    assert decision.verdict == "accept"
    assert decision.reasons[0] == "+0 -0 alerts in 15000 windows of 3 gateways"
    assert "99.9% of the float model's" in decision.reasons[-1]
    assert decision.figures == figures(*GOOD)


REFUSED: list[tuple[str, Figures, str]] = [
    ("two", figures(*GOOD[:2]), "2 of 3 answers with 1000 windows or more"),
    ("none", figures(), "0 of 3 answers"),
    ("short", figures(*GOOD[:2], backtest(served=side(n_windows=12), candidate=side(n_windows=12))), "s1/g2 has 12 windows"),
    ("flood", figures(*GOOD[:2], backtest(candidate=side(n_alerts=40), n_gained=38)), "40 alerts in 168 hours of 1 devices"),
    ("lost", figures(*GOOD[:2], backtest(n_kept=1, n_lost=1, n_lost_true=1, lost_true=("ab",))), "called true (ab)"),
    ("rare", figures(*GOOD[:2], backtest(candidate=side(p_quantiles={"q0.1": 0.001}))), "is rare to it: p <= 0.001"),
    ("slow", figures(*GOOD[:2], backtest(candidate=side(invoke_us=3000.0))), "3e+03 us"),
    ("failed", figures(*GOOD[:2], backtest(candidate=side(n_failed=1))), "inference failed in 1 batches"),
    ("unscored", figures(*GOOD[:2], backtest(candidate=side(n_windows=4000))), "1000 of 5000 windows have no score"),
    ("no rows", figures(*GOOD, held_out=()), "nothing is known of devices that it has not seen"),
    ("auc", figures(*GOOD, held_out=(HeldOut(anomalies="labels", mean=0.7, worst=0.5, n_devices=5, n_rows=9),)), "0.7000"),
    ("few", figures(*GOOD, held_out=(HeldOut(anomalies="labels", mean=0.9, worst=0.5, n_devices=4, n_rows=9),)), "nothing"),
    ("nan auc", figures(*GOOD, held_out=(HeldOut(anomalies="labels", mean=math.nan, worst=0.5, n_devices=2, n_rows=9),)), "nan"),
    ("int8", figures(*GOOD, int8=int8(mean_loss=0.0051)), "int8 loses 0.0051 AUC in the mean"),
    ("int8 worst", figures(*GOOD, int8=int8(worst_loss=0.021)), "0.0210 AUC on s1/g1 d1"),
    ("int8 unknown", figures(*GOOD, int8=None), "int8 could not be compared"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "reason"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_it_refuses_with_its_reason(found: Figures, reason: str) -> None:
    decision = judge(found, Limits())
    assert decision.verdict == "refuse"
    assert [text for text in decision.reasons if reason in text], decision.reasons
    assert len(decision.reasons) == 1


def test_a_gateway_that_refuses_it_decides_and_reasons_add_up() -> None:
    refusing = Answer(gateway="s1/g9", why_not="candidate_refused: not_trusted: key", against=True)
    silent = Answer(gateway="s1/g8", why_not="no answer within 5 s")
    found = figures(*GOOD[:1])
    both = msgspec.structs.replace(
        found, answers=(*found.answers, refusing, silent), int8=int8(worst_loss=0.5)
    )
    decision = judge(both, Limits())
    text = "\n".join(decision.reasons)
    assert "1 of 3 answers" in text
    assert "s1/g8: no answer within 5 s" in text
    assert "s1/g9 refuses it: candidate_refused: not_trusted: key" in text
    assert "0.5000" in text
    assert judge(figures(*GOOD, int8=None, has_int8=False), Limits()).verdict == "accept"


def test_true_alarms_that_it_sees_count_for_no_flood() -> None:
    busy = side(n_alerts=6)
    seen = backtest(served=busy, candidate=busy, n_kept=6, n_kept_true=3)
    assert judge(figures(*GOOD, seen), Limits()).verdict == "accept"
    unseen = msgspec.structs.replace(seen, n_kept_true=0)
    assert judge(figures(*GOOD, unseen), Limits()).verdict == "refuse"


def test_labels_of_few_devices_are_said_and_decide_nothing() -> None:
    probes = figures().held_out[0]
    labels = HeldOut(anomalies="labels", mean=0.45, worst=0.45, n_devices=4, n_rows=9)
    few = judge(figures(*GOOD, held_out=(labels, probes)), Limits())
    assert few.verdict == "accept"
    assert any("AUC 0.4500" in text and "too few to decide by" in text for text in few.reasons)
    enough = msgspec.structs.replace(labels, n_devices=5)
    assert judge(figures(*GOOD, held_out=(enough, probes)), Limits()).verdict == "refuse"


@given(st.integers(0, 5), st.integers(1, 5))
def test_it_never_accepts_with_fewer_answers_than_asked_for(n: int, least: int) -> None:
    decision = judge(figures(*[backtest()] * n), Limits(min_gateways=least))
    assert (decision.verdict == "accept") == (n >= least)


def response(**changes: Any) -> Response:
    fields: dict[str, Any] = {
        "message_id": "m",
        "site": "s1",
        "gateway": "g1",
        "request": "backtest",
        "transaction": "t-1",
        "ok": True,
        "reason": None,
        "text": "done",
        "at_ns": 1,
        "at": "1970-01-01T00:00:00.000000001Z",
        "backtest": backtest(),
    }
    return Response(**(fields | changes))


def test_answers_are_believed_as_far_as_they_can_be() -> None:
    def heard(**changes: Any) -> Answer | None:
        return read(encode(response(**changes)), "s1", "g1", ASKED, 2)

    assert heard() == Answer(gateway="s1/g1", backtest=backtest())
    assert heard(transaction="t-2") is None
    refused = heard(ok=False, reason=Refusal.CANDIDATE_REFUSED, text="not_trusted: key 1", backtest=None)
    assert refused is not None
    assert (refused.against, refused.why_not) == (True, "candidate_refused: not_trusted: key 1")
    for reason in ("no_blob", "overloaded"):
        passing = heard(ok=False, reason=Refusal.CANDIDATE_REFUSED, text=f"{reason}: later", backtest=None)
        assert passing is not None
        assert not passing.against
    nothing = heard(ok=False, reason=Refusal.NOTHING_RECORDED, text="off", backtest=None)
    assert nothing is not None
    assert not nothing.against
    with pytest.raises(TryAgain):
        heard(ok=False, reason=Refusal.BUSY, backtest=None)


LIES: list[tuple[str, dict[str, Any]]] = [
    ("other_name", {"gateway": "g2"}),
    ("inconsistent", {"backtest": None}),
    ("other_model", {"backtest": backtest(version=3)}),
    ("other_model", {"backtest": backtest(sha256="b" * 64)}),
    ("inconsistent", {"backtest": backtest(candidate=side(p_quantiles={"q0.1": 7.0}))}),
    ("inconsistent", {"backtest": backtest(n_kept=-1)}),
    ("inconsistent", {"backtest": backtest(gained=("a" * 16,) * (MAX_IDS + 1))}),
    ("too_large", {"text": "x" * 70_000}),
]


@pytest.mark.parametrize(("reason", "changes"), LIES)
def test_lies_are_named(reason: str, changes: dict[str, Any]) -> None:
    with pytest.raises(Unbelievable) as caught:
        read(encode(response(**changes)), "s1", "g1", ASKED, 2)
    assert caught.value.reason == reason


@pytest.mark.parametrize("number", [b"NaN", b"1e999", b"Infinity", b"null"])
def test_what_is_no_number_is_not_read(number: bytes) -> None:
    payload = encode(response()).replace(b'"device_hours":168.0', b'"device_hours":' + number)
    with pytest.raises(Unbelievable, match=r"cannot be read|hours"):
        read(payload, "s1", "g1", ASKED, 2)


@given(st.binary(max_size=200))
def test_rubbish_is_never_an_answer(payload: bytes) -> None:
    with pytest.raises(Unbelievable):
        read(payload, "s1", "g1", ASKED, 2)


def test_it_is_told_how_much_came_from_features() -> None:
    some = backtest(n_from_features=4321)
    shown = text_of("press", 2, judge(figures(some, *GOOD), Limits())).splitlines()
    assert "of features" in shown[0]
    (row,) = [line for line in shown if line.startswith("s1/g0")]
    assert row.split()[1:3] == ["5000", "4321"]
    assert "5000 windows of 1 devices, 4321 of them from features" in some.text
    assert "features" not in backtest().text


def test_an_answer_of_before_there_were_features_is_read() -> None:
    fields = msgspec.to_builtins(backtest(n_from_features=7))
    fields["of_a_newer_gateway"] = 1
    assert msgspec.convert(fields, Backtest).n_from_features == 7
    del fields["n_from_features"]
    assert msgspec.convert(fields, Backtest).n_from_features == 0
