"""Replay of logs through the real core: the same alerts however read, and those of the live run for a recording."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_node.assembly import Core
from edge_node.daemon import Daemon
from edge_node.replay import RealTime, as_received, is_recording, play, ticks_within
from models import messages
from models.logs import LogError, LogOptions, Tick
from models.messages import Alert, Event
from models.recording import RecordingWriter, read_log
from models.signal import NS_PER_S, Channel, SampleBlock
from models.time_policy import RecordedDevice
from tests.edge_node.daemons import of_the_signal
from tests.edge_node.replays import CHANNELS, T0_S, at, core, replayed, signal, write_csv
from tests.fixtures.bundle_files import BUNDLE

pytestmark = pytest.mark.tflite_runtime


def encoded(alerts: list[Alert]) -> list[bytes]:
    return [messages.encode(alert) for alert in alerts]


def kinds(alerts: list[Alert]) -> list[tuple[str, str]]:
    return [(alert.kind, alert.state) for alert in alerts]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two faults, a gap, some missing values, rows out of order, one from the future."""
    values = signal(3000, faults=[(900, 1200), (2000, 2300)])
    values[400:420, 0] = np.nan
    times = T0_S + np.arange(3000)
    times[1500:] += 90
    order = np.arange(3000)
    order[[700, 701, 1700]] = [701, 700, 1703]
    order[1701:1704] = [1700, 1701, 1702]
    times[2600] += 86_400
    return write_csv(tmp_path_factory.mktemp("log") / "pump.csv", values[order], times_s=times[order])


def test_a_fault_is_raised_and_cleared_with_no_delivery(faulty: Path) -> None:
    alerts = replayed(faulty)
    machine = [a for a in alerts if a.kind == "machine"]
    assert [a.state for a in machine if a.state != "updated"] == ["raised", "cleared"] * 2
    assert at(900) <= machine[0].end_ns <= at(990)
    assert machine[0].contributions[0].channel == "Pressure"
    assert {a.delivery for a in alerts} == {None}
    assert {a.device for a in alerts} == {"pump"}
    stale = [a for a in alerts if a.kind == "stale"]
    assert [a.state for a in stale] == ["raised", "cleared"]
    assert stale[0].start_ns == at(1499)


@pytest.mark.parametrize(
    ("block_rows", "block_span_s"), [(1, 3600.0), (7, 3600.0), (500, 3600.0), (65_536, 10.0)]
)
def test_alerts_do_not_depend_on_how_the_log_is_read(
    faulty: Path, block_rows: int, block_span_s: float
) -> None:
    whole = encoded(replayed(faulty))
    assert len(whole) > 4
    assert encoded(replayed(faulty, block_rows=block_rows, block_span_s=block_span_s)) == whole


@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_a_paced_replay_says_the_same_and_waits(faulty: Path, speed: float) -> None:
    on = core()
    items = as_received(
        read_log(faulty, LogOptions(device_id="pump"), warn=lambda text: None),
        on,
        recorded=False,
        speed=speed,
    )
    clock = [0.0]

    def sleep(seconds: float) -> None:
        assert seconds > 0
        clock[0] += seconds

    seen: list[tuple[float, Alert]] = []
    for step in play(items, on, recorded=False, pace=RealTime(speed, now_s=lambda: clock[0], sleep=sleep)):
        seen += [(clock[0], alert) for alert in step.alerts]
    assert encoded([alert for _, alert in seen]) == encoded(replayed(faulty))
    for now_s, alert in seen:
        if alert.kind == "machine":
            # a window closes when the lateness after its end has passed
            assert -1 <= now_s - (alert.end_ns - at(0)) / NS_PER_S / speed <= 10 / speed + 1
    assert clock[0] >= 3089 / speed


def test_several_devices_in_one_log(tmp_path: Path) -> None:
    """Each says what it says alone; what the log has nothing of says nothing."""
    a, b = signal(1500, faults=[(600, 800)]), signal(1500, seed=8, faults=[(1000, 1200)])
    rows = np.stack([a, b], axis=1).reshape(-1, 2)
    times = T0_S + np.repeat(np.arange(1500), 2)
    keep = ~(
        (times - T0_S >= 300) & (times - T0_S < 400) & (np.arange(3000) % 2 == 1)
    )  # b is silent for a while
    path = write_csv(
        tmp_path / "line.csv",
        rows[keep],
        times_s=times[keep],
        devices=[("a", "b")[i % 2] for i in np.flatnonzero(keep)],
    )
    config = tmp_path / "gateway.toml"
    config.write_text(
        '[gateway]\nname = "g"\n[defaults]\nmode = "irregular"\ninterval_s = 1\nalerts_per_week = 500\n'
        f'model = "{BUNDLE}"\nchannels = [{{ name = "Temperature", unit = "°C" }}, {{ name = "Pressure", unit = "bar" }}]\n'
        '[[device]]\nid = "a"\n[[device]]\nid = "b"\n[[device]]\nid = "absent"\n'
    )
    from edge_node.assembly import assemble
    from edge_node.config import load_config

    def both(block_rows: int) -> list[Alert]:
        on = assemble(load_config(config), on_notice=lambda text: None)
        items = as_received(read_log(path, LogOptions(block_rows=block_rows)), on, recorded=False)
        return [alert for step in play(items, on, recorded=False) for alert in step.alerts]

    alerts = both(65_536)
    assert encoded(both(100)) == encoded(alerts)
    assert {(a.device, a.kind) for a in alerts} == {("a", "machine"), ("b", "machine"), ("b", "stale")}
    stale = [a for a in alerts if a.kind == "stale"]
    assert [(a.state, a.start_ns, a.end_ns) for a in stale] == [
        ("raised", at(299), at(299 + 60)),
        ("cleared", at(299), at(400)),
    ]
    alone = write_csv(tmp_path / "a.csv", a)
    own = [a.message.partition(": ")[2] for a in alerts if a.device == "a"]
    assert own == [a.message.partition(": ")[2] for a in replayed(alone, device_id="a")]


def test_every_score_is_traced_once_and_in_order(faulty: Path) -> None:
    on = core()
    items = as_received(read_log(faulty, LogOptions(), warn=lambda text: None), on, recorded=False)
    traces = [trace for step in play(items, on, recorded=False) for trace in step.traces]
    ends = np.concatenate([trace.end_ns for trace in traces])
    assert len(ends) == on.pipeline.counters().n_windows_scored > 200
    assert (np.diff(ends) > 0).all()


def live(on: Core, items: list[SampleBlock | Tick]) -> list[Alert]:
    """What the daemon does with blocks and ticks: everything at once."""
    alerts = []
    for item in items:
        if isinstance(item, Tick):
            on.pipeline.advance(item.now_ns)
            on.score()
        else:
            on.push(item)
        alerts += [e.event for e in on.pipeline.events() if isinstance(e.event, Alert)]
    on.pipeline.finish()
    on.score()
    return alerts + [e.event for e in on.pipeline.events() if isinstance(e.event, Alert)]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_recording_with_ticks_replays_to_the_alerts_of_the_run(tmp_path: Path, suffix: str) -> None:
    """Rows come one by one, late by up to two seconds, sometimes not at all; the clock ticks four times a second."""
    rng = np.random.default_rng(3)
    values = signal(2000, faults=[(700, 900)]).astype(np.float32)
    sent = [i for i in range(2000) if not 1200 <= i < 1300]
    due = [(at(i) + round(float(rng.uniform(0, 2)) * NS_PER_S), i) for i in sent]
    due += [(at(i / 4), -1) for i in range(8000)]
    items: list[SampleBlock | Tick] = []
    for arrival_ns, i in sorted(due):
        if i < 0:
            items.append(Tick(arrival_ns))
            continue
        time_ns = np.array([at(i)])
        items.append(
            SampleBlock.irregular("pump", CHANNELS, values[i : i + 1], time_ns=time_ns, arrival_ns=arrival_ns)
        )
    said = live(core(), items)
    assert {("machine", "raised"), ("machine", "cleared"), ("stale", "raised"), ("stale", "cleared")} <= set(
        kinds(said)
    )
    path = tmp_path / f"run{suffix}"
    with RecordingWriter(path) as log:
        for item in items:
            log.write(item)
    assert is_recording([path])
    on = core()
    again = [
        alert
        for step in play(as_received(read_log(path), on, recorded=True), on, recorded=True)
        for alert in step.alerts
    ]
    assert encoded(again) == encoded(said)


def test_a_recording_of_the_daemon_replays_to_its_alerts(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "pump.csv", signal(1500, faults=[(600, 900)]))
    config = tmp_path / "gateway.toml"
    config.write_text(
        f'[gateway]\nname = "g"\nmetrics_port = 0\n'
        f'[[source]]\ntype = "replay"\npaths = ["{log}"]\nspeed = "max"\n'
        f'[[device]]\nid = "pump"\nmode = "irregular"\ninterval_s = 1\nalerts_per_week = 500\nmodel = "{BUNDLE}"\n'
        'channels = [{ name = "Temperature", unit = "°C" }, { name = "Pressure", unit = "bar" }]\n'
    )
    said: list[Event] = []
    recording = tmp_path / "run.jsonl"
    daemon = Daemon(config, record=recording, on_event=said.append)
    asyncio.run(daemon.run(end_with_sources=True))
    alerts = [messages.encode(e) for e in said if isinstance(e, Alert)]
    assert any(b'"machine"' in alert for alert in alerts)

    from edge_node.cli import main

    out = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in out:
        assert main(["replay", str(recording), "-c", str(config), "--output", str(path)]) == 0
    assert out[0].read_bytes() == out[1].read_bytes()

    live = [of_the_signal(json.loads(a)) for a in alerts]
    assert live == [json.loads(a) for a in out[0].read_bytes().splitlines()]


@pytest.mark.parametrize("changes", [{"unit": "Pa"}, {"origin": 3.0}])
def test_a_recording_of_other_values_is_refused(
    tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from edge_node.cli import main

    channels = [Channel(name="Temperature", unit="°C"), Channel(name="Pressure", unit="bar")]
    for name, pressure in (("same", channels[1]), ("other", msgspec.structs.replace(channels[1], **changes))):
        device = RecordedDevice(device_id="pump", machine="pump", channels=(channels[0], pressure))
        with RecordingWriter(tmp_path / f"{name}.jsonl", [device]) as log:
            log.write(
                SampleBlock.irregular(
                    "pump", CHANNELS, np.ones((1, 2)), time_ns=np.array([at(1)]), arrival_ns=at(1)
                )
            )
    assert main(["replay", str(tmp_path / "same.jsonl"), "--model", str(BUNDLE)]) == 0
    assert main(["replay", str(tmp_path / "other.jsonl"), "--model", str(BUNDLE)]) == 1
    assert "pump: channel 'Pressure' was recorded with unit" in capsys.readouterr().err


def test_recordings_and_other_logs_are_not_mixed(tmp_path: Path, faulty: Path) -> None:
    with RecordingWriter(tmp_path / "run.jsonl"):
        pass
    with pytest.raises(LogError, match=r"pump\.csv: is no recording"):
        is_recording([tmp_path / "run.jsonl", faulty])


def test_a_part_of_a_recording_is_not_silent_where_it_was_not_asked_for() -> None:
    def row(device: str, t: int) -> SampleBlock:
        return SampleBlock.irregular(
            device, ("x",), np.ones((1, 1)), time_ns=np.array([at(t)]), arrival_ns=at(t)
        )

    items: list[SampleBlock | Tick] = [
        Tick(at(1)),
        row("a", 2),
        Tick(at(3)),
        row("b", 4),
        Tick(at(5)),
        row("b", 6),
        Tick(at(7)),
        Tick(at(9)),
    ]
    assert list(ticks_within(items)) == items[1:]
    assert list(ticks_within(items, until_ns=at(7))) == items[1:6]
    assert list(ticks_within(items[:5], n_rows=1)) == [items[1], items[3]]
    assert list(ticks_within(items, n_rows=2)) == items[1:]
