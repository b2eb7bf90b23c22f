"""The event database, in SQLite and in a real PostgreSQL: what is committed twice, out of order, or by two at once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from cloud_sink import alert_retention, tables
from cloud_sink.events import Batch, EventStore, EventsUnavailable
from cloud_sink.features_store import FeatureStore
from cloud_sink.labelled import labelled
from cloud_sink.stores import Stores
from cloud_sink.summaries import SummaryTable
from cloud_sink.unstorable import Unstorable
from models.messages import DeviceStateMessage, ModelState, pack_floats, rfc3339
from models.refusals import RefusalReason
from tests.cloud_sink.gateways import DAY, K, alert, label, status, summary

Make = Callable[[], EventStore]
NOW = time.time_ns()


def rows(store: EventStore, table: Any, *columns: str) -> list[tuple[Any, ...]]:
    with store.read() as connection:
        found = connection.execute(select(*(table.c[name] for name in columns))).all()
    return sorted(tuple(row) for row in found)


def test_the_highest_seq_of_an_alert_stays_whatever_comes_when(make: Make) -> None:
    store = make()
    story = [alert(1), alert(1, seq=1, state="updated"), alert(1, seq=2, state="cleared")]
    for order in ([0], [2], [1], [0, 1], [2, 0]):
        store.commit(Batch(1, alerts=[story[i] for i in order]))
    assert rows(store, tables.alerts, "alert_id", "seq", "state", "score") == [
        ("g1-00000001", 2, "cleared", 6.0)
    ]
    store.commit(Batch(2, alerts=[alert(2), alert(3, gateway="g2")]))
    assert len(rows(store, tables.alerts, "alert_id")) == 3


def test_a_newer_word_on_an_alert_stays(make: Make) -> None:
    store = make()
    store.commit(
        Batch(1, responses=[label("a", "false_alarm", at_ns=10), label("a", "true_alarm", at_ns=20)])
    )
    store.commit(Batch(2, responses=[label("a", "false_alarm", at_ns=15)]))
    assert rows(store, tables.labels, "alert_id", "label", "by") == [("a", "true_alarm", "Anna")]
    store.commit(
        Batch(3, responses=[label("b", "false_alarm", ok=False), label("c", "false_alarm", request="ack")])
    )
    assert len(rows(store, tables.labels, "alert_id")) == 1


def test_a_gateway_has_no_say_in_the_alerts_of_another(make: Make) -> None:
    store = make()
    store.commit(Batch(1, alerts=[alert(1)], responses=[label("g1-00000001", "true_alarm", at_ns=10)]))
    rogue = alert(1, gateway="evil", alert_id="g1-00000001", seq=99, state="cleared")
    lie = label("g1-00000001", "false_alarm", gateway="evil", at_ns=10**18)
    store.commit(Batch(2, alerts=[rogue], responses=[lie]))
    assert rows(store, tables.alerts, "gateway", "seq", "state") == [
        ("evil", 99, "cleared"),
        ("g1", 0, "raised"),
    ]
    assert rows(store, tables.labels, "gateway", "label") == [("evil", "false_alarm"), ("g1", "true_alarm")]


def test_only_who_raised_an_alert_says_what_it_was(make: Make) -> None:
    store = make()
    features = pack_floats(np.ones((2, K), np.float32))
    store.commit(Batch(1, alerts=[alert(1, features=features), alert(2, features=features)]))
    said = [label("g1-00000001", "true_alarm"), label("g1-00000002", "false_alarm", gateway="evil")]
    store.commit(Batch(2, responses=said))
    known = labelled(store, "press", "press", K)
    assert (known.n("true_alarm"), known.n("false_alarm")) == (1, 0)
    assert list(known.by_device("true_alarm")) == [("s1/g1", "d1")]
    assert (len(known.rows("true_alarm")), len(known.rows("false_alarm"))) == (2, 0)


def test_of_gateways_what_was_heard_last(make: Make) -> None:
    store = make()
    store.commit(Batch(10, statuses=[status("g1"), status("g2")]))
    store.commit(Batch(20, statuses=[status("g1", "offline")]))
    store.commit(Batch(15, statuses=[status("g1", "online")]))  # another sink, which was slower
    assert rows(store, tables.gateways, "gateway", "state") == [("g1", "offline"), ("g2", "online")]


def test_a_will_says_that_a_gateway_is_gone_and_nothing_else(make: Make) -> None:
    store = make()
    will = status("g1", "offline", version="0.0.9", counters={})
    store.commit(Batch(10, statuses=[status("g1"), will]))
    for at in (20, 30):
        before = rows(store, tables.gateways, "gateway", "state", "version", "payload")
        assert before[0][:3] == ("g1", "offline", "0.1.0")
        assert b"1000000" in before[0][3]
        store.commit(Batch(at, statuses=[will]))
    assert rows(store, tables.gateways, "heard_ns") == [(30,)]
    store.commit(Batch(40, statuses=[status("g1"), status("g2", "offline")]))
    assert rows(store, tables.gateways, "gateway", "state") == [("g1", "online"), ("g2", "offline")]


def test_devices_by_what_they_last_summed_up_and_said(make: Make) -> None:
    store = make()
    state = DeviceStateMessage(
        message_id="m",
        site="s1",
        gateway="g1",
        machine="press",
        class_="press",
        device="d1",
        state="anomalous",
        since_ns=5,
        since_at=rfc3339(5),
        open_alerts=(),
    )
    key = ("s1", "g1", "d1")
    store.commit(Batch(1, states={key: state}))
    newer = SummaryTable.of([summary(2, model_version=7), summary(1)])
    store.commit(Batch(2, summaries=[newer]))
    store.commit(Batch(3, summaries=[SummaryTable.of([summary(0, model_version=3)])]))
    (row,) = rows(store, tables.devices, "device", "class", "state", "model_version", "last_end_ns")
    assert row == ("d1", "press", "anomalous", 7, summary(2).end_ns)
    store.commit(Batch(4, states={key: None}))  # the gateway watches it no more
    assert rows(store, tables.devices, "device", "state", "model_version") == [("d1", None, 7)]
    store.commit(Batch(3, states={key: state}))  # of another sink, which was slower
    assert rows(store, tables.devices, "state") == [(None,)]
    store.commit(Batch(5, states={key: state}))
    assert rows(store, tables.devices, "state") == [("anomalous",)]


def test_what_became_of_a_model(make: Make) -> None:
    store = make()

    def said(state: Any, since_ns: int, **more: Any) -> ModelState:
        fields: dict[str, Any] = {
            "message_id": "m",
            "site": "s1",
            "gateway": "g1",
            "model_id": "press",
            "state": state,
            "version": 2,
            "running": 1,
            "canary": True,
            "reason": None,
            "text": "t",
            "since_ns": since_ns,
            "since_at": rfc3339(since_ns),
        }
        return ModelState(**(fields | more))

    store.commit(
        Batch(
            1,
            models=[said("shadow", 1), said("refused", 3, reason=RefusalReason.TOO_SLOW), said("shadow", 2)],
        )
    )
    assert rows(store, tables.model_states, "model_id", "state", "reason") == [
        ("press", "refused", "too_slow")
    ]


def test_sinks_that_write_at_once_lose_nothing(make: Make) -> None:
    stores = [make() for _ in range(3)]
    failures: list[BaseException] = []

    def write(number: int, store: EventStore) -> None:
        try:
            for i in range(15):
                batch = Batch(i, statuses=[status(f"g{j}") for j in range(5)])
                batch.alerts = [alert(j, seq=(number + i + j) % 9) for j in range(30)]
                batch.summaries = [SummaryTable.of([summary(i, device=f"d{j}") for j in range(5)])]
                store.commit(batch)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=write, args=pair) for pair in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {seq for (seq,) in rows(stores[0], tables.alerts, "seq")} == {8}
    assert len(rows(stores[0], tables.devices, "device")) == 5


def test_sinks_that_begin_at_once_make_the_tables_once(make: Make) -> None:
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)

    def begin() -> None:
        barrier.wait()
        try:
            make()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert rows(make(), tables.schema_version, "version") == [(tables.VERSION,)]


def test_more_rows_than_one_statement_takes(make: Make) -> None:
    store = make()
    store.commit(Batch(1, alerts=[alert(i) for i in range(3000)]))
    assert len(rows(store, tables.alerts, "alert_id")) == 3000


@pytest.mark.parametrize(("step", "text"), [(1, "of a newer Linewatch"), (-1, "before its first release")])
def test_tables_of_another_program_are_left_alone(make: Make, step: int, text: str) -> None:
    store = make()
    with store.begin() as connection:
        connection.execute(tables.schema_version.update().values(version=tables.VERSION + step))
    with pytest.raises(EventsUnavailable, match=text):
        make()


def test_a_database_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EventsUnavailable, match=r"postgresql\+psycopg://u:\*\*\*@127\.0\.0\.1:1/x"):
        EventStore("postgresql+psycopg://u:secret@127.0.0.1:1/x").create()
    with pytest.raises(EventsUnavailable, match="unable to open"):
        EventStore(f"sqlite:///{tmp_path}/no/such/events.sqlite").create()


def retain(store: EventStore, now_ns: int, days: float, per_gateway: int) -> Counter[tuple[str, str]]:
    gone: Counter[tuple[str, str]] = Counter()
    alert_retention.retain(store, now_ns, days, per_gateway, gone)
    return gone


def kept(store: EventStore, table: Any) -> list[tuple[str, str]]:
    return [(gateway, alert_id[-4:]) for gateway, alert_id in rows(store, table, "gateway", "alert_id")]


def test_what_is_too_old_leaves_the_database(make: Make) -> None:
    store = make()
    old = {"start_ns": NOW - 11 * DAY, "end_ns": NOW - 10 * DAY}
    store.commit(
        Batch(
            1,
            alerts=[alert(i, **old) for i in range(2_500)] + [alert(9_000), alert(3, gateway="g2")],
            responses=[
                label("g1-old", "true_alarm", at_ns=NOW - 10 * DAY),
                label("g1-new", "true_alarm", at_ns=NOW),
            ],
        )
    )
    assert retain(store, NOW, 12.0, 10_000) == {}
    assert retain(store, NOW, 9.0, 10_000) == {("alerts", "age"): 2_500, ("labels", "age"): 1}
    assert kept(store, tables.alerts) == [("g1", "2328"), ("g2", "0003")]
    assert kept(store, tables.labels) == [("g1", "-new")]


def test_of_a_gateway_that_has_too_many_the_oldest_go_and_labelled_ones_last(make: Make) -> None:
    store = make()
    crowd = [alert(i) for i in range(12)]
    said = [label(crowd[i].alert_id, "true_alarm", at_ns=NOW + i) for i in (0, 3)]
    store.commit(Batch(1, alerts=[*crowd, *(alert(i, gateway="g2") for i in range(5))], responses=said))
    assert retain(store, NOW, 30.0, 5) == {("alerts", "count"): 7}
    assert kept(store, tables.alerts) == [
        *(("g1", name) for name in ("0000", "0003", "0009", "000a", "000b")),
        *(("g2", f"000{i}") for i in range(5)),
    ]
    assert retain(store, NOW, 30.0, 1) == {
        ("alerts", "count"): 8,
        ("labels", "count"): 1,
    }
    assert kept(store, tables.alerts) == [("g1", "0003"), ("g2", "0004")]
    assert kept(store, tables.labels) == [("g1", "0003")]


def test_sinks_that_remove_at_once_leave_what_may_stay(make: Make) -> None:
    stores = [make() for _ in range(3)]
    stores[0].commit(Batch(1, alerts=[alert(i) for i in range(5_000)]))
    with ThreadPoolExecutor(3) as pool:
        gone = sum(pool.map(lambda s: retain(s, NOW, 30.0, 1_500), stores), Counter())
    assert gone == {("alerts", "count"): 3_500}
    assert len(kept(stores[0], tables.alerts)) == 1_500


def test_names_that_no_index_takes_are_unstorable(make: Make) -> None:
    store = make()
    if store.where.startswith("sqlite"):
        return  # its indexes take any
    rng = random.Random(1)
    long = "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(1_500))  # which does not compress
    with pytest.raises(Unstorable, match="exceeds"):
        store.commit(Batch(1, alerts=[alert(1, alert_id=long)]))


def test_a_database_that_refuses_a_message_says_so_and_takes_none_of_its_batch(make: Make) -> None:
    store = make()
    refuse_poison(store)
    with pytest.raises(Unstorable, match="poison"):
        store.commit(Batch(1, alerts=[alert(1), alert(2, message="poison")], statuses=[status("g1")]))
    assert rows(store, tables.alerts, "alert_id") == rows(store, tables.gateways, "gateway") == []
    store.commit(Batch(2, alerts=[alert(1)]))
    assert len(rows(store, tables.alerts, "alert_id")) == 1


def test_what_no_driver_can_say_is_unstorable_too(make: Make, tmp_path: Path) -> None:
    stores = Stores(make(), FeatureStore(str(tmp_path / "features"), "sink-1"))
    for batch in (
        Batch(1, alerts=[alert(1, message="half a character: \ud800")]),
        Batch(1, alerts=[alert(1, start_ns=2**70)]),
        Batch(1, summaries=[SummaryTable.of([summary(1, machine="\ud800")])]),
    ):
        with pytest.raises(Unstorable):
            stores.put(batch)


def refuse_poison(store: EventStore) -> None:
    """As a database does whose limits nobody here knows of."""
    with store.begin() as connection:
        if connection.dialect.name == "sqlite":
            rule = (
                "CREATE TRIGGER no_poison BEFORE INSERT ON alerts WHEN NEW.message = 'poison' "
                "BEGIN SELECT RAISE(ABORT, 'no poison here'); END"
            )
        else:
            rule = "ALTER TABLE alerts ADD CONSTRAINT no_poison CHECK (message <> 'poison')"
        connection.exec_driver_sql(rule)
