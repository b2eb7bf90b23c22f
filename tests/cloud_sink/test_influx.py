"""Points: encoded as the library does it, kept on disk, written to real databases, whatever happens to these."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from influxdb_client.client.write.point import Point
from line_protocol_parser import parse_line

from cloud_sink import influx
from cloud_sink.events import Batch
from cloud_sink.influx_options import Influx
from cloud_sink.influx_queue import PointQueue
from cloud_sink.influx_writer import NotNow, Refused, Version1, Writer
from cloud_sink.stores import points_of
from cloud_sink.summaries import SummaryTable
from tests.brokers import wait_for
from tests.cloud_sink.gateways import alert, status, summary
from tests.influxes import influx1, victoria

# Line feeds are what the library cannot write so that it is read as it was.
texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda t: not t.endswith("\\") and not t.startswith("#") and "\\" not in t
)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    texts,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(texts, texts, max_size=4),
    st.dictionaries(texts, values, min_size=1, max_size=4),
    st.integers(0, 2**62),
)
def test_a_line_is_what_the_library_would_write(
    tags: dict[str, str], fields: dict[str, Any], time_ns: int
) -> None:
    point = Point("m")
    for name, value in tags.items():
        point.tag(name, value)
    for name, value in fields.items():
        point.field(name, value)
    ours = parse_line(influx.line("m", tags, fields, time_ns))
    theirs = parse_line(point.time(time_ns).to_line_protocol())
    assert ours == theirs


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_a_machine_is_called_a_line_is_one_line(name: str, text: str) -> None:
    try:
        name.encode(), text.encode()
    except UnicodeEncodeError:
        return
    (one,) = influx.alert_lines([alert(1, device="d", machine=name, message=text.replace("\n", " "))])
    assert "\n" not in one.split('message="')[0]
    assert one.startswith("linewatch_alert,")


def test_the_same_message_is_the_same_point_and_another_one_another() -> None:
    twice = [alert(1), alert(1)]
    assert len(set(influx.alert_lines(twice))) == 1
    # two limits of one device, exceeded in one window
    hot, tight = (
        alert(1, alert_id="a", message_id="a-0", kind="limit"),
        alert(1, alert_id="b", message_id="b-0", kind="limit"),
    )
    keys = [(one.split(" ")[0], one.rsplit(" ", 1)[1]) for one in influx.alert_lines([hot, tight])]
    assert keys[0][0] == keys[1][0]
    assert keys[0] != keys[1]
    times = [int(at) for _, at in keys]
    assert all(0 <= at - hot.end_ns < 1_000_000 for at in times)


def test_tags_are_few_and_what_is_not_known_is_left_out() -> None:
    (one,) = influx.alert_lines([alert(1, score=None, p_value=float("nan"), class_="")])
    tags = one.split(" ")[0]
    assert tags == "linewatch_alert,site=s1,gateway=g1,machine=press,device=d1,kind=machine,severity=warning"
    assert "score=" not in one
    assert "p_value=" not in one
    assert list(influx.status_lines([status(updated_at="yesterday")])) == []
    assert influx.line("m", {}, {"x": float("inf")}, 1) == ""


def test_a_text_of_several_lines_is_one_line(tmp_path: Path) -> None:
    """Else who may write an alert could write a point of another gateway."""
    odd = alert(1, message="x\nlinewatch_health,site=B,gateway=B online=0i 1795000000000000000\r\ny")
    (line,) = influx.alert_lines([odd])
    assert line is not None
    assert "\n" not in line
    assert "\r" not in line
    queue = PointQueue(tmp_path / "q", 1 << 20)
    queue.put([line])
    assert queue.oldest(10)[1] == [line]


def test_the_queue_survives_a_kill(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path\nfrom cloud_sink.influx_queue import PointQueue\n"
        f"queue = PointQueue(Path({str(tmp_path / 'q')!r}), 1 << 30)\n"
        "for i in range(100000):\n    queue.put([f'm x={i}i {i}', 'n y=1 2'])\n    print(i, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) > 40:
            break
    os.kill(writer.pid, signal.SIGKILL)
    said = [41, *map(int, writer.stdout.read().split())][-1]
    writer.wait()
    queue = PointQueue(tmp_path / "q", 1 << 30)
    lines: list[str] = []
    while (found := queue.oldest(100))[0]:
        lines += found[1]
        queue.written(found[0], len(found[1]))
    assert len(lines) in (2 * (said + 1), 2 * (said + 2))
    assert lines[::2] == [f"m x={i}i {i}" for i in range(len(lines) // 2)]
    assert queue.counts()["written"] == len(lines)


def test_what_waits_is_bounded_and_what_goes_is_counted(tmp_path: Path) -> None:
    queue = PointQueue(tmp_path / "q", 20_000)
    for i in range(200):
        queue.put([f"m,t={os.urandom(200).hex()} x={i}i {i}"])
    counts = queue.counts()
    assert counts["waiting_bytes"] <= 20_000
    assert counts["dropped"] + counts["waiting"] == 200
    assert queue.oldest(1)[1][0].endswith(f"x={counts['dropped']}i {counts['dropped']}")  # the oldest went


class Flaky:
    """A database that refuses lines with ``bad`` in them, and can be away."""

    def __init__(self) -> None:
        self.away = False
        self.lines: list[str] = []
        self.n_requests = 0

    def write(self, lines: Sequence[str]) -> None:
        self.n_requests += 1
        if self.away:
            raise NotNow("503")
        if any("bad" in line for line in lines):
            raise Refused("400 partial write: field type conflict")
        self.lines += lines

    def close(self) -> None: ...


def test_a_bad_line_holds_up_nobody(tmp_path: Path) -> None:
    queue, database = PointQueue(tmp_path / "q", 1 << 20), Flaky()
    for i in range(10):
        queue.put([f"m x={j}i {i}" if (i, j) not in ((3, 7), (8, 0)) else "bad" for j in range(50)])
    writer = Writer(Influx(url="http://x"), queue, make=lambda options, token: database)
    writer.start()
    wait_for(lambda: queue.counts()["written"] == 498, "all good ones")
    writer.stop()
    assert queue.counts()["rejected"] == 2
    assert len(database.lines) == 498
    assert database.n_requests < 100


def messages() -> Batch:
    batch = Batch(1, alerts=[alert(i) for i in range(20)], statuses=[status()])
    batch.alerts += [alert(i, seq=1, state="cleared", gateway="g1") for i in range(5)]
    batch.summaries = [SummaryTable.of([summary(i) for i in range(30)])]
    return batch


def test_influxdb_1_away_and_back(tmp_path: Path) -> None:
    queue = PointQueue(tmp_path / "q", 1 << 24)
    with influx1(tmp_path) as server:
        writer = Writer(Influx(url=server.url, version="1"), queue)
        writer.start()
        queue.put(points_of(messages()))
        wait_for(lambda: queue.counts()["waiting"] == 0, "the points")
        (found,) = server.query(
            "linewatch", 'SELECT count("score") AS n, sum("open") AS opened FROM linewatch_alert'
        )
        assert (found["n"], found["opened"]) == (25, 20)
        server.stop()
        later = Batch(1, alerts=[alert(i) for i in range(100, 140)])
        queue.put(points_of(later))
        wait_for(lambda: writer.problem is not None, "its absence")
        assert queue.counts()["waiting"] == 40
        server.start()
        wait_for(lambda: queue.counts()["waiting"] == 0, "what waited", 30)
        (found,) = server.query("linewatch", 'SELECT count("score") AS n FROM linewatch_alert')
        assert found["n"] == 65
        queue.put(points_of(messages()))  # all of it again
        queue.put(
            [
                f'linewatch_alert,site=s1 score="text" {alert(1).end_ns + 7}',
                "no line at all",
                "linewatch_score,site=x q50=1 7",
            ]
        )
        wait_for(lambda: queue.counts()["rejected"] == 2, "what it refuses")
        wait_for(lambda: queue.counts()["waiting"] == 0, "the rest")
        (found,) = server.query("linewatch", 'SELECT count("score") AS n FROM linewatch_alert')
        assert found["n"] == 65, "equal points are one"
        assert server.query("linewatch", "SELECT q50 FROM linewatch_score WHERE site = 'x'")[0]["q50"] == 1
        writer.stop()


def test_the_write_api_of_version_2(tmp_path: Path) -> None:
    queue = PointQueue(tmp_path / "q", 1 << 24)
    (tmp_path / "token").write_text("secret\n")
    with victoria(tmp_path) as server:
        writer = Writer(Influx(url=server.url, token_file=tmp_path / "token"), queue)
        writer.start()
        queue.put(points_of(messages()))
        wait_for(lambda: queue.counts()["waiting"] == 0, "the points", 30)
        writer.stop()
        scores = server.exported('{__name__="linewatch_score_q90"}')
        assert sum(len(s["values"]) for s in scores) == 30
        assert {s["metric"]["device"] for s in scores} == {"d1"}
        (sent,) = wait_for(
            lambda: server.exported('{__name__="linewatch_egress_bytes",type="alert"}'), "what is of just now"
        )
        assert sent["values"] == [1_000_000]


def test_a_token_that_is_not_there_is_named_and_not_told(tmp_path: Path) -> None:
    queue = PointQueue(tmp_path / "q", 1 << 20)
    queue.put(["m x=1 1"])
    writer = Writer(Influx(url="http://127.0.0.1:1", token_file=tmp_path / "none"), queue)
    writer.start()
    told = wait_for(lambda: writer.problem, "a problem")
    writer.stop()
    assert "cannot be read" in told
    api = Version1(Influx(url="http://127.0.0.1:1", version="1", username="u"), "secret")
    with pytest.raises(NotNow):
        api.write(["m x=1 1"])
