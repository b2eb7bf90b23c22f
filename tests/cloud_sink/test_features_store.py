"""Summaries on disk: whole or not there, each once, bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from cloud_sink.features_store import DAY_NS, FeatureStore, Partition, StoreError
from cloud_sink.summaries import SummaryTable
from tests.cloud_sink.gateways import NS, summary

SCHEMA = "0123456789abcdef"


def table(*numbers: int, **more: object) -> SummaryTable:
    return SummaryTable.of([summary(i, **more) for i in numbers])


def names(found: SummaryTable | None) -> list[str]:
    return [] if found is None else [str(name) for name in found.message_id]


def test_what_was_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path / "features"), "sink-1")
    assert store.read("press", SCHEMA) is None
    one = table(*range(20))
    store.append([one])
    found = FeatureStore(str(tmp_path / "features"), "other").read("press", SCHEMA)
    assert found is not None
    for column in (
        "message_id",
        "start_ns",
        "n",
        "mean",
        "comoment",
        "centre",
        "score_quantiles",
        "reservoir",
        "reservoir_of",
    ):
        assert np.array_equal(getattr(found, column), getattr(one, column)), column
    assert (found.class_, found.schema_id, found.feature_names) == ("press", SCHEMA, one.feature_names)


@pytest.mark.parametrize("class_", ["", "a/b", "../..", "ä =%", "x" * 100, "."])
def test_whatever_a_class_is_called(tmp_path: Path, class_: str) -> None:
    store = FeatureStore(str(tmp_path / "features"), "a/b")
    store.append([table(1, class_=class_), table(2)])
    assert names(store.read(class_, SCHEMA)) == ["g1-d1-1"]
    assert all(tmp_path / "features" in path.parents for path in tmp_path.rglob("*.parquet"))


def test_what_comes_twice_is_there_once(tmp_path: Path) -> None:
    here, there = (FeatureStore(str(tmp_path), f"sink-{i}") for i in (1, 2))
    here.append([table(1, 2, 3)])
    there.append([table(2, 3, 4)])
    here.append([table(1)])
    wanted = [f"g1-d1-{i}" for i in (1, 2, 3, 4)]
    assert names(here.read("press", SCHEMA)) == wanted
    for i in range(20):
        here.append([table(i % 5)])
    there.compact(0)
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    assert names(here.read("press", SCHEMA)) == ["g1-d1-0", *wanted]


def test_windows_are_counted_as_summaries_say_without_reading_their_moments(tmp_path: Path) -> None:
    here, there = (FeatureStore(str(tmp_path), f"sink-{i}") for i in (1, 2))
    base = summary(0).start_ns
    said = [
        summary(
            i, gateway=f"g{i % 3}", n=10 + i, model_version=1 + i % 2, start_ns=base - (i // 4) * DAY_NS // 2
        )
        for i in range(24)
    ]
    here.append([SummaryTable.of(said)])
    there.append([SummaryTable.of(said[5:15])])  # which came twice
    there.append([SummaryTable.of([summary(50, model_id="other", model_version=2)]), table(51, n=7)])
    since_ns = base - DAY_NS
    counted = here.windows_of("press", SCHEMA, "press", 2, from_ns=since_ns)
    wanted: dict[str, int] = {}
    for one in said:
        if one.model_version == 2 and one.start_ns >= since_ns:
            name = f"s1/{one.gateway}"
            wanted[name] = wanted.get(name, 0) + one.n + 2  # two of each were anomalous
    assert counted == wanted
    assert len(wanted) == 3
    here.compact(2**62)
    assert here.windows_of("press", SCHEMA, "press", 2, from_ns=since_ns) == wanted
    assert here.windows_of("press", SCHEMA, "press", 9, from_ns=0) == {}
    assert here.windows_of("press", "of no schema", "press", 2, from_ns=0) == {}


def test_of_a_span_of_time(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path), "sink-1")
    one = summary(5)
    days = [summary(i, start_ns=one.start_ns - i * DAY_NS, end_ns=one.end_ns - i * DAY_NS) for i in range(4)]
    store.append([SummaryTable.of(days)])
    assert [p.day for p in store.partitions()] == sorted({d.start_ns // DAY_NS for d in days})
    inside = store.read("press", SCHEMA, from_ns=days[2].start_ns, until_ns=days[0].start_ns)
    assert names(inside) == ["g1-d1-2", "g1-d1-1"]
    assert store.retain(days[0].start_ns + DAY_NS, 2.0) == 2
    assert names(store.read("press", SCHEMA)) == ["g1-d1-1", "g1-d1-0"]
    assert store.compact(days[0].start_ns + 9 * DAY_NS) == 0  # one file a day: nothing to do


def test_one_who_gives_features_other_names_is_left_out(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path), "sink-1")
    store.append([table(1, 2), table(3)])
    store.append([table(4, feature_names=tuple("abcdef"))])
    assert names(store.read("press", SCHEMA)) == ["g1-d1-1", "g1-d1-2", "g1-d1-3"]


WRITER = """
import sys
sys.path.insert(0, {root!r})
from cloud_sink.features_store import FeatureStore
from tests.cloud_sink.test_features_store import table
store = FeatureStore({folder!r}, "sink-1")
for i in range(100000):
    store.append([table(2 * i, 2 * i + 1)])
    print(i, flush=True)
    if i % 7 == 6:
        store.compact(0)
"""


@pytest.mark.parametrize("n", [1, 9, 23])
def test_a_kill_at_any_moment_leaves_what_was_said_to_be_there(tmp_path: Path, n: int) -> None:
    root = str(Path(__file__).parents[2])
    program = WRITER.format(root=root, folder=str(tmp_path))
    writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = -1
    for line in writer.stdout:
        said = int(line)
        if said >= n:
            break
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    said = int(rest[-1]) if rest else said
    found = names(FeatureStore(str(tmp_path), "sink-2").read("press", SCHEMA))
    wanted = [f"g1-d1-{i}" for i in range(2 * (said + 1))]
    assert found[: len(wanted)] == wanted
    assert len(found) <= len(wanted) + 2  # and perhaps what it was just writing


def test_who_reads_while_others_compact_misses_nothing(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path), "sink-1")
    store.append([table(*range(50))])
    stop = threading.Event()

    def churn() -> None:
        busy = FeatureStore(str(tmp_path), "sink-2")
        while not stop.is_set():
            for i in range(10):
                busy.append([table(i)])
            busy.compact(0)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(30):
            assert len(names(store.read("press", SCHEMA))) == 50
    finally:
        stop.set()
        thread.join()


def test_what_is_no_file_of_ours_is_named(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path), "sink-1")
    store.append([table(1)])
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match="cannot be read"):
        store.read("press", SCHEMA)


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        FeatureStore(str(tmp_path / "file" / "features"), "sink-1")
    with pytest.raises(StoreError, match="nosuch"):
        FeatureStore("nosuch://bucket/features", "sink-1")


def test_an_object_store(tmp_path: Path) -> None:
    """Through fsspec alone: what appears, appears whole."""
    store = FeatureStore(f"memory://features-{os.getpid()}", "sink-1")
    store.append([table(1, 2)])
    store.append([table(2, 3)])
    assert names(store.read("press", SCHEMA)) == ["g1-d1-1", "g1-d1-2", "g1-d1-3"]
    assert store.compact(2**62) == 2
    assert names(store.read("press", SCHEMA)) == ["g1-d1-1", "g1-d1-2", "g1-d1-3"]
    assert store.retain(2**62, 1.0) == 1


def test_partitions_are_named_after_what_they_hold() -> None:
    one = Partition("press/4", SCHEMA, 20_000)
    assert one.path == f"class=_press%2F4/schema=_{SCHEMA}/day=2024-10-04"
    assert Partition.at(f"/somewhere/{one.path}") == one
    assert Partition.at("/somewhere/else/that/is") is None
    assert NS * 86_400 == DAY_NS
