"""What a sink believes of a gateway, and what it does not."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sink.ingest import Refusal, Refused, believable, decode, filters, place_of
from cloud_sink.limits import Limits
from cloud_sink.summaries import SummaryTable, concatenated
from models.messages import Summary, encode, pack_floats
from models.topics import filter_matches
from tests.cloud_sink.gateways import NS, K, alert, label, status, summary, topic_of

NOW = time.time_ns()


def taken(
    message: Any, *, topic: str | None = None, limits: Limits | None = None, payload: bytes | None = None
) -> Any:
    place = place_of(topic or topic_of(message), "linewatch")
    return decode(place, encode(message) if payload is None else payload, NOW, limits or Limits())


def refusal(message: Any, **more: Any) -> str:
    with pytest.raises(Refused) as caught:
        taken(message, **more)
    assert str(caught.value)
    return caught.value.reason.value


def bad(*summaries: Summary, limits: Limits | None = None) -> dict[int, str]:
    return {i: refused.reason.value for i, refused in believable(summaries, limits or Limits())[1]}


def test_what_gateways_publish_is_taken() -> None:
    for message in (summary(1), alert(1), status(), label("a", "false_alarm", at_ns=NOW)):
        assert taken(message) == message
        assert any(filter_matches(f, topic_of(message)) for f, _ in filters("linewatch", None))
    shared = [f for f, _ in filters("linewatch", "all")]
    assert "$share/all/linewatch/+/+/summary/+" in shared
    assert "linewatch/+/+/status" in shared  # retained, which a shared subscription is not given


@pytest.mark.parametrize(
    "topic",
    [
        "other/s1/g1/status",
        "linewatch/s1/g1",
        "linewatch/s1/g1/raw/d1",
        "linewatch/s1/g1/device/d1/signal",
        "linewatch/s1/g1/summary/d1/x",
        "",
    ],
)
def test_topics_that_no_gateway_has(topic: str) -> None:
    with pytest.raises(Refused) as caught:
        place_of(topic, "linewatch")
    assert caught.value.reason is Refusal.UNKNOWN_TOPIC


def test_a_gateway_speaks_for_itself_alone() -> None:
    assert refusal(summary(1), topic="linewatch/s1/g2/summary/d1") == "other_name"
    assert refusal(summary(1), topic="linewatch/s2/g1/summary/d1") == "other_name"
    assert refusal(summary(1), topic="linewatch/s1/g1/summary/d2") == "other_name"
    assert refusal(alert(1), topic="linewatch/s1/g1/alert/d2") == "other_name"
    assert refusal(status(), topic="linewatch/s1/g2/status") == "other_name"


def test_what_is_no_message() -> None:
    place = place_of("linewatch/s1/g1/summary/d1", "linewatch")
    for payload in (
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        encode(alert(1)),
        encode(summary(1)).replace(b'"n":40', b'"n":NaN'),
    ):
        with pytest.raises(Refused) as caught:
            decode(place, payload, NOW, Limits())
        assert caught.value.reason is Refusal.UNREADABLE
    assert refusal(summary(1), limits=Limits(max_message_bytes=1024)) == "too_large"


def test_times_that_cannot_be() -> None:
    ahead = NOW + 400 * NS
    assert refusal(summary(1, end_ns=ahead)) == "future"
    assert refusal(alert(1, end_ns=ahead)) == "future"
    assert refusal(alert(1, start_ns=NOW, end_ns=NOW - NS)) == "inconsistent"
    old = NOW - 91 * 86_400 * NS
    assert refusal(summary(1, start_ns=old - NS, end_ns=old)) == "too_old"


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.0] * (K - 1)},
        {"comoment": [0.0] * K},
        {"centre": []},
        {"minimum": [0.0]},
        {"n": -1},
        {"excluded": {"x": -1}},
        {"feature_names": ()},
        {"reservoir": "!"},
        {"reservoir": pack_floats(np.zeros((1, K + 1)))},
        {"reservoir": pack_floats(np.zeros((41, K)))},  # of 40 windows
        {"comoment": [-1.0] + [0.0] * (K * (K + 1) // 2 - 1)},
        {"comoment": [1.0, 2.0] + [0.0] * (K - 2) + [1.0] + [0.0] * (K * (K + 1) // 2 - K - 1)},
        {"n": 0, "reservoir": None},  # and co-moments all the same
    ],
)
def test_numbers_that_no_rows_have(change: dict[str, Any]) -> None:
    good = summary(1)
    assert bad(good, msgspec.structs.replace(summary(2), **change), summary(3)) == {1: "inconsistent"}
    tables, _ = believable([good, msgspec.structs.replace(summary(2), **change), summary(3)], Limits())
    assert [list(t.message_id) for t in tables] == [["g1-d1-1", "g1-d1-3"]]


def test_a_reservoir_that_its_own_moments_have_no_room_for() -> None:
    rows = np.random.default_rng(1).normal(size=(40, K))
    mean = rows.mean(axis=0)
    moments = {
        "mean": mean.tolist(),
        "comoment": ((rows - mean).T @ (rows - mean))[np.triu_indices(K)].tolist(),
    }
    alone = np.zeros((3, K), np.float32)
    alone[:] = mean
    reach = np.sqrt(np.diag((rows - mean).T @ (rows - mean)))
    alone[1] += (0.99 * reach).astype(np.float32)
    assert bad(summary(1, reservoir=pack_floats(alone), **moments)) == {}
    alone[2, 4] += 1.01 * reach[4]
    assert bad(summary(1, reservoir=pack_floats(alone), **moments)) == {0: "inconsistent"}
    still = {"mean": [1e6] * K, "comoment": [0.0] * (K * (K + 1) // 2)}
    one = np.full((1, K), 1e6 + 0.3, np.float32)
    assert bad(summary(1, n=1, reservoir=pack_floats(one), **still)) == {}  # float32 has no more digits


def test_numbers_that_are_not_finite() -> None:
    rows = np.zeros((2, K), np.float32)
    rows[1, 2] = np.nan
    assert bad(summary(1, reservoir=pack_floats(rows))) == {0: "not_finite"}
    assert refusal(alert(1, features=pack_floats(rows))) == "not_finite"
    assert refusal(alert(1, features="?")) == "inconsistent"
    most = float(np.finfo(np.float32).max)
    far = summary(1, mean=[most] * K, comoment=[most**2] * (K * (K + 1) // 2), reservoir=None)
    assert bad(far) == {}  # far off, and no nonsense: training leaves it out
    assert bad(msgspec.structs.replace(far, mean=[1e200] * K)) == {0: "inconsistent"}
    assert bad(msgspec.structs.replace(far, comoment=[1e90] * len(far.comoment))) == {0: "inconsistent"}


@pytest.mark.parametrize(
    "message",
    [
        alert(1, seq=2**31),
        alert(1, start_ns=-(2**64)),
        alert(1, message="a\x00b"),
        alert(1, machine="x" * 601),
        alert(1, message="x" * 8193),
        alert(1, model_version=2**31),
        msgspec.structs.replace(summary(1), n=2**63),
        summary(1, model_version=2**40),
        summary(1, start_ns=-(10**20)),
        summary(1, excluded={"anomalous": 2**62, "gap": 2**62}),
        summary(1, message_id="x" * 900_000),
        summary(1, class_="x" * 300),
        summary(1, class_="ä" * 40),
        summary(1, schema_id="x" * 300),
        label("a", "true_alarm", note="\x00"),
        label("x" * 601, "true_alarm"),
        status("g1", counters={"egress_bytes.alert": 2**70}),
    ],
    ids=lambda m: type(m).__name__,
)
def test_what_no_array_and_no_database_takes(message: Any) -> None:
    assert refusal(message) == "inconsistent"


def test_nesting_without_end_is_unreadable() -> None:
    assert refusal(status("g1"), payload=b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}") == "unreadable"


def test_states_and_labels_from_the_future() -> None:
    assert refusal(label("a", "true_alarm", at_ns=NOW + 400 * 86_400 * NS)) == "future"
    taken(label("a", "true_alarm", at_ns=NOW))


def test_more_than_is_believed() -> None:
    assert bad(summary(1), limits=Limits(max_features=K - 1)) == {0: "inconsistent"}
    assert bad(summary(1), limits=Limits(max_reservoir=3)) == {0: "inconsistent"}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_comes_is_taken_or_refused_with_a_reason(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from([summary(1), alert(1), status(), label("a", "true_alarm")]))
    payload = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        if not payload:
            break
    place = place_of(topic_of(message), "linewatch")
    try:
        found = decode(place, bytes(payload), NOW, Limits())
    except Refused:
        return
    if isinstance(found, Summary):
        tables, refused = believable([found], Limits())
        assert len(tables) + len(refused) == 1


def test_tables_are_taken_apart_and_put_together() -> None:
    many = [summary(i, device=f"d{i % 3}") for i in range(12)]
    table = SummaryTable.of(many)
    chosen = table.take(np.array([7, 2]))
    assert list(chosen.message_id) == [many[7].message_id, many[2].message_id]
    assert np.array_equal(
        chosen.reservoir[chosen.reservoir_of == 0], table.reservoir[table.reservoir_of == 7]
    )
    assert np.array_equal(chosen.comoment[1], np.array(many[2].comoment))
    both = concatenated([table, chosen, SummaryTable.of([summary(0, reservoir=None, device="d0")])])
    assert len(both) == 15
    once = both.distinct()
    assert list(once.message_id) == [m.message_id for m in many]
    assert np.array_equal(once.reservoir, table.reservoir)
    assert json.dumps(once.mean.tolist()) == json.dumps([m.mean for m in many])
