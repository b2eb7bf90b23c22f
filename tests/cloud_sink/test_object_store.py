"""Summaries in an object store: a real server of the S3 protocol, that goes away and comes back, and sinks that are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from cloud_sink.features_store import DAY_NS, FeatureStore, StoreError
from cloud_sink.summaries import SummaryTable
from tests.brokers import broker, free_port, wait_for
from tests.cloud_sink.gateways import alert, summary
from tests.cloud_sink.sinks import config, fetched, metric, running
from tests.cloud_sink.test_sink_live import SCHEMA, publish, ready
from tests.object_store import ObjectStore, object_store

URL = "s3://bucket/features"
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # which knows the server of the test before
        yield store


def ids() -> list[str]:
    found = FeatureStore(URL, "reader").read("press", SCHEMA)
    return [] if found is None else sorted(map(str, found.message_id))


def test_two_sinks_write_one_bucket(there: ObjectStore) -> None:
    one, other = FeatureStore(URL, "sink-1"), FeatureStore(URL, "sink-2")
    some = [summary(i) for i in range(40)]
    assert one.append([SummaryTable.of(some[:30])]) == 1
    assert other.append([SummaryTable.of(some[20:])]) == 1
    assert ids() == sorted(s.message_id for s in some)
    (partition,) = one.partitions("press")
    assert len(other.read_partition(partition)) == 2
    assert one.compact((partition.day + 1) * DAY_NS) == 2
    assert len(other.read_partition(partition)) == 1
    assert ids() == sorted(s.message_id for s in some)
    assert other.retain((partition.day + 3) * DAY_NS, 3.0) == 0
    assert other.retain((partition.day + 4) * DAY_NS, 3.0) == 1
    assert one.partitions() == []


def test_a_store_that_is_away_is_an_error_in_words(there: ObjectStore) -> None:
    store = FeatureStore(URL, "sink-1")
    there.door.shut()
    with pytest.raises(StoreError, match=r"s3://bucket/features cannot be written to: .*connect"):
        store.append([SummaryTable.of([summary(1)])])
    with pytest.raises(StoreError, match="cannot be read"):
        store.partitions()
    there.door.open()
    store.append([SummaryTable.of([summary(1)])])
    assert len(ids()) == 1


def test_a_bucket_that_is_not_there_is_named(there: ObjectStore) -> None:
    with pytest.raises(StoreError, match="s3://none/x cannot be written to"):
        FeatureStore("s3://none/x", "sink-1").append([SummaryTable.of([summary(1)])])


def test_a_sink_loses_nothing_while_its_store_is_away(there: ObjectStore, tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path, "max_inflight_messages 0") as mosquitto:
        path = config(tmp_path, mosquitto.port, metrics_port=port, store=f'features = "{URL}"')
        with running(path) as sink:
            ready(port)
            publish(mosquitto.port, [summary(i) for i in range(50)])
            wait_for(lambda: len(ids()) == 50, "what came before")
            there.door.shut()
            publish(mosquitto.port, [*(summary(i) for i in range(50, 200)), *(alert(i) for i in range(20))])
            wait_for(lambda: fetched(port, "/healthz")[0] == 503, "a sink that says so", 60)
            assert metric(port, "sink_commit_failures_total") >= 1
            assert sink.poll() is None
            there.door.open()
            wait_for(lambda: len(ids()) == 200, "all of it", 90)
            wait_for(lambda: fetched(port, "/healthz")[0] == 200, "its health", 60)


def test_a_sink_that_is_killed_again_and_again_loses_nothing(there: ObjectStore, tmp_path: Path) -> None:
    port = free_port()
    messages = [summary(i % 100, device=f"d{i // 100}") for i in range(800)]
    with broker(tmp_path, "max_inflight_messages 0") as mosquitto:
        path = config(tmp_path, mosquitto.port, metrics_port=port, store=f'features = "{URL}"')
        with running(path):
            ready(port)  # its session is there
        for i in range(4):
            with running(path) as sink:
                publish(mosquitto.port, messages[i * 200 : (i + 1) * 200])
                if i % 2:
                    n = len(ids())
                    wait_for(lambda n=n: len(ids()) > n, "some of it")  # type: ignore[misc]
                sink.kill()
        with running(path):
            wait_for(lambda: len(ids()) == 800, "all of it", 60)
        assert len(set(ids())) == 800
