"""The outbox against real files: killed in mid-write, damaged, full, not ours."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_node.egress import Outgoing, outgoing
from edge_node.outbox import FILE_NAME, Cut, Outbox, OutboxError
from tests.edge_node.chaos import fill, small_disk
from tests.edge_node.outgoing_messages import TOPICS, alert, device_state, summary


def item(box: Outbox, n: int = 0, kind: str = "alert") -> Outgoing:
    made = outgoing({"alert": alert, "summary": summary}[kind](n), TOPICS)
    made.row = box.next_row()
    return made


def test_what_is_written_is_there_after_a_restart_in_its_order(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    items = [item(box, n, kind) for n, kind in enumerate(("alert", "summary", "alert"))]
    state = outgoing(device_state(), TOPICS)
    state.row = box.next_row()
    payloads = [i.payload for i in (*items, state)]
    box.write(Cut(messages=[*items, state], state={"a": b"1", "b": b"2"}))
    box.write(Cut(gone=[items[1].row or 0], state={"a": b"3"}))
    box.close()
    again = Outbox(tmp_path)
    _, found = again.load()
    assert [f.row for f in found] == [items[0].row, items[2].row, state.row]
    assert [again.payload(f.row or 0) for f in found] == [payloads[0], payloads[2], payloads[3]]
    assert [f.payload for f in found] == [None, None, payloads[3]]  # of retained ones there are few
    assert [(f.topic, f.rank, f.device, f.n_bytes) for f in found] == [
        (i.topic, i.rank, i.device, i.n_bytes) for i in (items[0], items[2], state)
    ]
    assert again.state()["a"] == b"3"
    assert again.state()["b"] == b"2"
    assert again.next_row() > (state.row or 0)
    assert again.problem is None


def test_of_state_that_is_not_kept_nothing_is_left(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    box.write(Cut(state={"a": b"1", "b": b"2"}))
    box.write(Cut(state={"b": b"3"}, keep={"b"}))
    assert box.state() == {"b": b"3"}


_WRITER = """
import sys
from pathlib import Path
from edge_node.outbox import Cut, Outbox
from tests.edge_node.test_outbox import item
box, before = Outbox(Path(sys.argv[1])), []
for n in range(100_000):
    made = [item(box, n), item(box, n, "summary")]
    rows = [m.row for m in made]
    box.write(Cut(messages=made, gone=before, state={"n": str(n).encode(), "rows": repr(rows).encode()}))
    before = rows
    print(n, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_a_kill_in_mid_write_leaves_one_whole_cut(tmp_path: Path, after: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= after:
            break
    time.sleep(0.003)
    process.send_signal(signal.SIGKILL)
    last = int((process.stdout.read().split() or [line])[-1])
    process.wait()
    box = Outbox(tmp_path)
    assert box.problem is None
    state = box.state()
    assert int(state["n"]) >= last  # whatever was said to be written is
    assert [m.row for m in box.messages()] == eval(state["rows"])  # and of each cut all or nothing


@pytest.mark.parametrize("damage", ["garbage", "torn", "zeroed page", "newer"])
def test_a_file_that_is_not_in_order_is_set_aside(tmp_path: Path, damage: str) -> None:
    box = Outbox(tmp_path)
    box.write(Cut(messages=[item(box, n) for n in range(50)], state={"a": b"x" * 20_000}))
    box._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    box._db.close()
    file = tmp_path / FILE_NAME
    data = bytearray(file.read_bytes())
    if damage == "garbage":
        data = bytearray(b"not a database at all" * 1000)
    elif damage == "torn":
        del data[len(data) // 2 :]
    elif damage == "zeroed page":
        data[4096 : 4 * 4096] = bytes(3 * 4096)
    file.write_bytes(data)
    if damage == "newer":
        with sqlite3.connect(file) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
    again = Outbox(tmp_path)
    assert again.problem is not None
    assert "it was set aside as outbox.sqlite.set-aside" in again.problem
    assert again.durable
    assert again.messages() == []
    again.write(Cut(messages=[item(again)]))
    again.close()
    assert (tmp_path / "outbox.sqlite.set-aside").exists()
    assert len(Outbox(tmp_path).messages()) == 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=300))
def test_no_damage_stops_a_start(tmp_path: Path, at: int, noise: bytes) -> None:
    for old in tmp_path.glob("outbox*"):
        old.unlink()
    box = Outbox(tmp_path)
    items = [item(box, n) for n in range(20)]
    payloads = {i.row: i.payload for i in items}
    box.write(Cut(messages=items, state={"a": os.urandom(9_000)}))
    box._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    box._db.close()
    file = tmp_path / FILE_NAME
    data = bytearray(file.read_bytes())
    at %= len(data)
    data[at : at + len(noise)] = noise
    file.write_bytes(data)
    again = Outbox(tmp_path)
    _, messages = again.load()
    for message in messages:
        assert again.payload(message.row or 0) in (payloads[message.row or 0], None)
    again.write(Cut(messages=[item(again)]))
    again.close()


def test_a_folder_that_cannot_be_written_to_is_done_without(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    (tmp_path / FILE_NAME / "in the way").write_text("")
    (tmp_path / f"{FILE_NAME}.set-aside").mkdir()
    (tmp_path / f"{FILE_NAME}.set-aside" / "too").write_text("")
    box = Outbox(tmp_path)
    assert not box.durable
    assert box.problem is not None
    assert "is kept in memory only" in box.problem
    box.write(Cut(messages=[item(box)]))
    assert len(box.messages()) == 1
    box.close()


def test_a_full_disk_is_an_error_and_loses_nothing_that_was_written(tmp_path: Path) -> None:
    with small_disk(tmp_path) as place:
        if place is None:
            pytest.skip("no file system can be mounted here: this needs root")
        box = Outbox(place)
        box.write(Cut(messages=[item(box)], state={"a": b"1"}))
        assert box.free_bytes == pytest.approx(shutil.disk_usage(place).free, abs=100_000)
        assert box.free_bytes > 1_000_000
        ballast = fill(place)
        with pytest.raises(OutboxError, match="full") as caught:
            box.write(Cut(messages=[item(box, n) for n in range(200)], state={"a": os.urandom(100_000)}))
        assert not caught.value.damaged
        assert box.free_bytes < 1_000_000
        assert box.state() == {"a": b"1"}
        ballast.unlink()
        box.write(Cut(messages=[item(box)], state={"a": b"2"}))
        box.close()
        again = Outbox(place)
        assert (len(again.messages()), again.state()["a"]) == (2, b"2")
        again.close()


def test_its_own_journal_does_not_fill_a_small_disk(tmp_path: Path) -> None:
    """The journal may grow to as much as this disk holds before SQLite folds it into the file by itself."""
    with small_disk(tmp_path) as place:
        if place is None:
            pytest.skip("no file system can be mounted here: this needs root")
        box = Outbox(place)
        for n in range(300):
            box.write(Cut(state={"a": os.urandom(100_000), "n": b"%d" % n}))
        assert box.state()["n"] == b"299"
        box.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_disk_that_is_full_at_the_start_costs_nothing_that_is_stored(tmp_path: Path, damaged: bool) -> None:
    with small_disk(tmp_path) as place:
        if place is None:
            pytest.skip("no file system can be mounted here: this needs root")
        box = Outbox(place)
        box.write(Cut(messages=[item(box, n) for n in range(5)], state={"a": b"1"}))
        box.close()
        if damaged:
            (place / FILE_NAME).write_bytes(b"no database" * 100)
        ballast = fill(place)
        without = Outbox(place)
        assert not without.durable
        assert without.problem is not None
        assert "is kept in memory only" in without.problem
        assert without.load() == ({}, [])
        without.write(Cut(messages=[item(without)]))
        without.close()
        ballast.unlink()
        again = Outbox(place)
        assert again.durable
        assert len(again.load()[1]) == (0 if damaged else 5)
        again.close()
