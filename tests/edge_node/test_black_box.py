"""The black box between the loop and the disk: everything is recorded or counted, and says again what was said."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_node.assembly import Core, assemble
from edge_node.black_box import BlackBox
from edge_node.config import Config, load_config
from edge_node.recordings import NotKept, export, part_of_alert, part_of_span, rows
from edge_node.replay import as_received, play
from edge_node.replay_setup import resume
from edge_node.ring import bounds_of
from edge_node.segments import load
from edge_node.verifying import verify
from models.logs import LogItem, Tick
from models.messages import Alert, encode
from models.recording import read_log
from models.signal import SampleBlock
from tests.brokers import wait_for
from tests.edge_node.disks import filled, small_disk
from tests.edge_node.replays import CHANNELS, at, signal
from tests.fixtures.bundle_files import BUNDLE


def configured(folder: Path, **options: object) -> Config:
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    path = folder / "gateway.toml"
    path.write_text(
        f'[gateway]\nname = "g"\nmetrics_port = 0\n[black_box]\nmin_free_bytes = 0\n{lines}\n'
        f'[[device]]\nid = "pump"\nmode = "irregular"\ninterval_s = 1\nalerts_per_week = 500\nmodel = "{BUNDLE}"\n'
        'channels = [{ name = "Temperature", unit = "°C" }, { name = "Pressure", unit = "bar" }]\n'
    )
    return load_config(path)


def unheard(text: str) -> None:
    pass


def stream(n: int, *, faults: Sequence[tuple[int, int]] = (), begin: int = 0) -> list[LogItem]:
    """Ten rows a block, a tick after each."""
    values = signal(begin + n, faults=faults).astype(np.float32)
    found: list[LogItem] = []
    for i in range(begin, begin + n, 10):
        times = np.array([at(t) for t in range(i, min(i + 10, begin + n))], dtype=np.int64)
        found.append(
            SampleBlock.irregular("pump", CHANNELS, values[i : i + 10], time_ns=times, arrival_ns=at(i + 10))
        )
        found.append(Tick(at(i + 10)))
    return found


class Loop:
    """What the daemon does with a black box, turn by turn, without its sources and its uplink."""

    def __init__(self, state_dir: Path | None, config: Config, **more: Any) -> None:
        self.core: Core = assemble(config, on_notice=unheard)
        self.now_ns = at(0)
        self.box = BlackBox(state_dir, config, self.core, **more)
        self.said: list[Alert] = []
        self.n_given = 0

    def play(self, items: Sequence[LogItem]) -> Loop:
        for item in items:
            self.now_ns = item.now_ns if isinstance(item, Tick) else item.arrival_ns
            self.box.write(item)
            if isinstance(item, SampleBlock):
                self.n_given += item.n_samples
                self.core.push(item)
            else:
                assert isinstance(item, Tick)
                self.core.pipeline.advance(item.now_ns)
                self.core.score()
            for event in self.core.pipeline.events():
                if isinstance(event.event, Alert):
                    self.said.append(self.box.stamped(event.event))
            self.box.end_turn(self.core)
        return self

    def check(self) -> None:
        """Nothing is lost silently."""
        done = self.box.done
        assert done is not None
        assert self.n_given == done.n_recorded + done.n_queued + sum(self.dropped().values())

    def recorded(self) -> int:
        assert self.box.done is not None
        return self.box.done.n_recorded

    def dropped(self) -> dict[str, int]:
        assert self.box.done is not None
        return {reason.value: n for reason, n in self.box.dropped(self.box.done).items() if n}


def signalled(alert: Alert) -> bytes:
    return encode(msgspec.structs.replace(alert, evidence=None))


def replayed(log: Path, config: Config, *, afresh: bool = False) -> list[bytes]:
    on = assemble(config, on_notice=unheard)
    if not afresh:
        resume([log], on, unheard)
    items = as_received(read_log(log, warn=unheard), on, recorded=True)
    return [encode(a) for step in play(items, on, recorded=True) for a in step.alerts]


def test_a_defect_of_its_own_ends_the_black_box_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr("edge_node.segments.SegmentFile.append", broken)
    loop = Loop(tmp_path, configured(tmp_path, flush_s=0.1))
    loop.play(stream(100))
    wait_for(lambda: loop.box.error is not None, "the failure")
    assert "ValueError: a defect" in str(loop.box.error)
    loop.play(stream(50, begin=100))
    loop.check()
    assert (loop.recorded(), loop.dropped()) == (0, {"unwritable": loop.n_given})
    loop.box.close()


def test_a_part_begins_with_what_the_pipeline_remembered_and_says_what_it_said(tmp_path: Path) -> None:
    """A file a turn: whatever the alert, what was kept of the time before it is a few rows and the state."""
    config = configured(tmp_path, before_s=20, after_s=300)
    loop = Loop(tmp_path, config, segment_s=0.0)
    loop.play(stream(2000, faults=[(600, 700), (1500, 1700)]))
    loop.box.close()
    segments = load(tmp_path / "blackbox")
    assert len(segments) == 201
    (one, *_, two) = dict.fromkeys(a.alert_id for a in loop.said if a.kind == "machine")
    assert one != two
    bounds = bounds_of(config.black_box)
    for alert_id in (one, two):
        of_it = [a for a in loop.said if a.alert_id == alert_id]
        assert [a.state for a in of_it][0 :: len(of_it) - 1] == ["raised", "cleared"]
        assert all(a.evidence is not None for a in of_it)
        part = part_of_alert(segments, alert_id, bounds)
        assert len(part.segments) < 75
        log = tmp_path / f"{alert_id}.parquet"
        done = export(part, log, unheard)
        assert done.first_ns <= of_it[0].start_ns - bounds.before_ns
        again = replayed(log, config)
        assert [line for line in again if alert_id.encode() in line] == [signalled(a) for a in of_it]
        assert again == [signalled(a) for a in loop.said if a.alert_id == alert_id]
        marks = [m for s in segments for m in s.contents.marks if m.alert_id == alert_id]
        found = list(verify(part.read(unheard), marks))
        assert [v.finding for v in found] == ["the same"] * len(of_it)
        assert [v.recomputed for v in found] == [a.evidence for a in of_it]
        assert replayed(log, config, afresh=True) != again  # for the rows before the part are not in it


def test_a_span_of_a_device_and_what_is_not_there(tmp_path: Path) -> None:
    config = configured(tmp_path)
    loop = Loop(tmp_path, config, segment_s=0.0).play(stream(300))
    loop.box.close()
    segments = load(tmp_path / "blackbox")
    log = tmp_path / "span.jsonl"
    done = export(part_of_span(segments, "pump", at(100), at(200)), log, unheard)
    assert (done.first_ns, done.last_ns) == (at(100), at(199))
    assert done.n_rows == 100
    with pytest.raises(NotKept, match="nothing of press; there is of pump"):
        part_of_span(segments, "press", at(0), at(1))
    with pytest.raises(NotKept, match="what there is lies between"):
        part_of_span(segments, "pump", at(1000), at(2000))
    with pytest.raises(NotKept, match="no alert none in the black box; the newest in it: none"):
        part_of_alert(segments, "none", bounds_of(config.black_box))


class Disk:
    """A disk that takes what it is given, but answers only while ``answers`` is set; ``asked``: somebody waits for that."""

    def __init__(self) -> None:
        self.answers, self.asked = threading.Event(), threading.Event()
        self.answers.set()

    def sync(self, file: int, real: Callable[[int], None] = os.fdatasync) -> None:
        if not self.answers.is_set():
            self.asked.set()
            self.answers.wait(20)
        real(file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr("edge_node.segments.os.fdatasync", made.sync)
    return made


def test_a_disk_that_is_too_slow_pauses_recording_and_nothing_else(tmp_path: Path, disk: Disk) -> None:
    """What does not fit into the queue is counted, what is judged from it has no evidence, and recording begins anew."""
    config = configured(tmp_path, queue_samples=4096, flush_s=0.1)
    loop = Loop(tmp_path, config)
    loop.play(stream(50))
    wait_for(lambda: loop.recorded() == 100, "fifty rows on the disk")
    disk.answers.clear()
    loop.play(stream(10, begin=50))
    assert disk.asked.wait(20)  # from here on nothing more is taken out of the queue
    loop.play(stream(640, begin=60, faults=[(400, 700)]))
    assert set(loop.dropped()) == {"queue_full"}
    assert loop.box.n_pauses == 1
    assert {a.evidence for a in loop.said if a.kind == "machine"} == {None}
    loop.check()
    disk.answers.set()
    wait_for(lambda: loop.box.done is not None and loop.box.done.n_queued == 0, "an empty queue")
    dropped = loop.dropped()
    loop.box.end_turn(loop.core)
    loop.play(stream(100, begin=700))
    assert loop.dropped() == dropped
    loop.check()
    loop.box.close()
    segments = load(tmp_path / "blackbox")
    assert [segment.head.follows for segment in segments] == [False, False]
    (before, after) = rows(segments, bounds_of(config.black_box), running=False)
    assert before.last_ns < at(400)
    assert (after.first_ns, after.n_rows) == (at(700), 100)
    with pytest.raises(NotKept, match="nothing of pump from"):
        part_of_span(segments, "pump", at(500), at(600))
    assert any(
        "something is missing before" in n for n in part_of_span(segments, "pump", at(0), at(900)).notes
    )


def test_a_full_disk_stops_recording_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path, "1m") as disk:
        config = configured(tmp_path, flush_s=0.1)
        loop = Loop(disk, config, retry_s=0.1)
        loop.play(stream(100))
        wait_for(lambda: loop.recorded() == 200, "a hundred rows on the disk")
        filler = filled(disk)
        n = [100]

        def fails() -> bool:
            loop.play(stream(100, begin=n[0]))
            n[0] += 100
            filled_again = filler.with_name("more")
            if not filled_again.exists():
                filled(disk).rename(filled_again)
            return loop.box.error is not None

        wait_for(fails, "a failure")
        assert "disk_full" in wait_for(lambda: loop.dropped(), "values that are dropped")
        assert str(disk) in (loop.box.error or "")
        for path in disk.iterdir():
            if path.is_file():
                path.unlink()
        done = loop.recorded()

        def again() -> bool:
            loop.play(stream(10, begin=n[0]))
            n[0] += 10
            return loop.recorded() > done and loop.box.error is None

        wait_for(again, "recording again")
        loop.box.close()
        assert loop.box.done is None
        n_kept = sum(s.contents.n_samples for s in load(disk / "blackbox"))
        assert n_kept > 0


def test_a_place_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "blackbox").write_text("in the way")
    loop = Loop(tmp_path, configured(tmp_path, flush_s=0.1), retry_s=0.1)
    wait_for(lambda: loop.box.error, "a failure")
    loop.play(stream(50))
    wait_for(lambda: loop.dropped().get("unwritable", 0) == 100, "all of it dropped")
    loop.check()
    (tmp_path / "blackbox").unlink()
    n = [50]

    def again() -> bool:
        loop.play(stream(10, begin=n[0]))
        n[0] += 10
        return loop.recorded() > 0 and loop.box.error is None

    wait_for(again, "recording")
    done = loop.box.done
    assert done is not None
    assert done.n_failures >= 1
    loop.box.close()


def test_without_a_place_or_where_it_is_off_nothing_is_kept(tmp_path: Path) -> None:
    for state_dir, on in ((None, True), (tmp_path, False)):
        config = configured(tmp_path, enabled=on)
        loop = Loop(state_dir, config).play(stream(700, faults=[(300, 700)]))
        assert loop.said
        assert {a.evidence for a in loop.said} == {None}
        assert loop.box.done is None
        assert loop.box.error is None
        loop.box.close()
    assert not (tmp_path / "blackbox").exists()


def test_a_new_configuration_begins_a_new_file_and_may_turn_it_off_and_on(tmp_path: Path) -> None:
    config = configured(tmp_path)
    loop = Loop(tmp_path, config).play(stream(20))
    off = dataclasses.replace(config, black_box=msgspec.structs.replace(config.black_box, enabled=False))
    for number, new in enumerate((config, off, config)):
        loop.box.go_on_with(new, loop.core)
        loop.play(stream(10, begin=20 + 10 * number))
    loop.box.close()
    segments = load(tmp_path / "blackbox")
    assert [(s.head.follows, s.contents.n_samples) for s in segments] == [
        (False, 40),
        (False, 20),
        (False, 20),
    ]
    assert all(s.head.devices == tuple(d.as_recorded() for d in config.devices) for s in segments)
    (first, second, third) = rows(segments, bounds_of(config.black_box), running=False)
    assert (first.n_rows, second.n_rows, third.n_rows) == (20, 10, 10)


def test_a_model_that_takes_over_begins_a_new_file(tmp_path: Path) -> None:
    loop = Loop(tmp_path, configured(tmp_path)).play(stream(20))
    loop.core.adopt(loop.core.plans, {})
    loop.play(stream(20, begin=20))
    loop.box.close()
    segments = load(tmp_path / "blackbox")
    assert [segment.head.follows for segment in segments] == [False, False]


def test_where_only_the_clock_ticks_no_file_is_begun_for_it(tmp_path: Path) -> None:
    loop = Loop(tmp_path, configured(tmp_path), segment_s=0.0)
    loop.play([item for item in stream(100) if isinstance(item, Tick)])
    loop.play(stream(10, begin=100))
    loop.box.close()
    assert [segment.contents.n_items for segment in load(tmp_path / "blackbox")] == [11, 1]
