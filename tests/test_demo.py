"""``make demo``: its short form from beginning to end with the broker that needs no installation, and how it ends otherwise."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
from examples.demo.board_log import sent_by, worn_ns

from edge_node.config import load_config
from edge_node.config_schema import SerialSource
from examples.demo.__main__ import INTERRUPTED, MISSED, run
from examples.demo.findings import PlantClock, Raised, clock_text, judge
from examples.demo.processes import CHOICE, Broker, Child, DemoError
from examples.demo.report import SentByBoard, accounts, fault_table
from examples.demo.scenario import FULL, SHORT, Injected, Scenario, gateway_config, units_of
from examples.demo.screen import Screen
from examples.demo.stages import TEMPLATE
from examples.simulated_plant import Fault, FaultKind
from models.messages import Alert, AlertKind, Contribution, Delivery, rfc3339
from models.signal import NS_PER_S
from tests.brokers import wait_for

ROOT = Path(__file__).parents[1]
ZERO_NS = 1_760_000_000 * NS_PER_S


@contextmanager
def demo(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process with the embedded broker, its files below ``tmp_path``; when it has ended, none of its children may
    run."""
    environment = {**os.environ, CHOICE: "embedded", "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.demo", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
        process.wait(30)
        assert running_below(tmp_path) == []
    finally:
        process.kill()
        for child in running_below(tmp_path):
            child.kill()


def running_below(tmp_path: Path) -> list[psutil.Process]:
    """Processes of this test: those that were told its folder, by the environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(tmp_path) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def recording(tmp_path: Path) -> dict[str, psutil.Process]:
    """The demo's processes by what they are, once the plant is being recorded."""
    names = {"examples.demo": "demo", "record": "recorder", "--order": "simulator", "simulate": "board"}
    names["examples.demo.embedded_broker"] = "broker"

    def found() -> dict[str, psutil.Process] | None:
        running = {p: p.cmdline() for p in running_below(tmp_path)}
        named = {names[word]: p for p, words in running.items() for word in words if word in names}
        return named if len(named) == len(names) else None

    seen: dict[str, psutil.Process] = wait_for(found, "the recording", timeout_s=60)
    return seen


@pytest.mark.timeout(300)
def test_the_short_demo_notices_every_fault_and_leaves_nothing_running(tmp_path: Path) -> None:
    with demo(tmp_path, "--short") as process:
        said, _ = process.communicate(timeout=280)
    assert process.returncode == 0, said
    assert SHORT.worn is not None
    for title in (*(injected.title for injected in SHORT.injected), SHORT.worn.title):
        assert said.count(title) >= 2  # as it begins, and in the table
    assert re.search(r"serial line +\d\d:\d\d +\d\d:\d\d +[\d.]+ s \(real\) +machine ", said)
    assert "MISSED" not in said
    assert "embedded (amqtt)" in said
    assert re.search(
        r"all values that were sent; of the board's [\d,]+, lost or not, and [\d,]+ while its port", said
    )
    assert "\x1b" not in said
    (folder,) = tmp_path.glob("linewatch-demo-*")
    assert said.rstrip().endswith(f"Everything is in {folder}")
    assert {p.name for p in (folder / "models").iterdir()} == set(SHORT.devices)
    alerts = [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]
    assert {a["kind"] for a in alerts} >= {"machine", "sensor", "stale"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_its_processes(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path, "--short") as process:
        assert len(recording(tmp_path)) == len(running_below(tmp_path)) == 5
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "interrupted" in said
    assert "Everything is in" in said


@pytest.mark.timeout(120)
def test_a_program_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with demo(tmp_path, "--short") as process:
        recording(tmp_path)["recorder"].kill()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "edge-node record ended by itself with code -9" in said
    assert "connected to 127.0.0.1:" in said  # from its log


@pytest.mark.timeout(300)
def test_a_fault_that_cannot_be_noticed_is_missed_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHOICE, "embedded")
    monkeypatch.chdir(ROOT)
    invisible = Fault(FaultKind.OVERHEATING, "pump-2-process", 10, growth_s=1e9, channel="flow")
    scenario = Scenario(
        history_s=600,
        vibration_s=60,
        live_s=60,
        speed=20.0,
        machines=("pump-2",),
        injected=(Injected("a fault like no other", invisible, "limit"),),
    )
    out = io.StringIO()
    assert run(scenario, tmp_path, Screen(out)) == MISSED
    assert "1 of 1 faults missed" in out.getvalue()
    (row,) = [line for line in out.getvalue().splitlines() if "MISSED" in line]
    assert row.split("  ")[1:3] == ["a fault like no other", "00:10"]


# What is due to what.


def alert(
    device: str, kind: AlertKind, start_s: float, end_s: float, *, channel: str = "", emitted_ns: int = 0
) -> Alert:
    start_ns, end_ns = (ZERO_NS + round(s * NS_PER_S) for s in (start_s, end_s))
    seen = Contribution(
        channel=channel, feature="", share=1.0, observed=0.0, expected_low=0.0, expected_high=0.0, unit=""
    )
    return Alert(
        alert_id="a",
        seq=0,
        message_id="a-0",
        site="demo",
        gateway="hall-1",
        machine=device,
        class_="",
        device=device,
        state="raised",
        kind=kind,
        severity="warning",
        message=f"{device}: {kind}",
        start_ns=start_ns,
        end_ns=end_ns,
        start_at=rfc3339(start_ns),
        end_at=rfc3339(end_ns),
        score=None,
        p_value=None,
        threshold=None,
        contributions=(seen,) if channel else (),
        features=None,
        model_id=None,
        model_version=None,
        clock="device",
        evidence=None,
        delivery=Delivery(
            emitted_ns=emitted_ns, emitted_at=rfc3339(emitted_ns), latency_ms=2.5, backend="cpu"
        ),
    )


def judged(*alerts: Alert) -> tuple[dict[str, list[str]], list[str]]:
    """({title: kinds of the alerts due to it}, devices of the false alarms) in the full scenario."""
    clock = PlantClock(ZERO_NS)
    window_s = {s.device: 60.0 if s.device.endswith("process") else 1.024 for s in FULL.sensors}
    findings, false_alarms = judge([Raised.of(a, clock) for a in alerts], FULL.injected, window_s)
    return (
        {f.injected.title: [a.alert.kind for a in f.alerts] for f in findings if f.alerts},
        [f"{a.alert.device} {a.alert.kind}" for a in false_alarms],
    )


def test_an_alert_is_due_to_the_fault_of_its_device_kind_and_time() -> None:
    found, false_alarms = judged(
        alert("pump-2-vibration", "machine", 62, 65),
        alert("press-1-process", "machine", 125, 190),
        alert("press-1-process", "limit", 365, 427),
        alert("pump-2-process", "sensor", 239, 299, channel="pressure"),
    )
    assert found == {
        "pump-2: unbalanced impeller": ["machine"],
        "press-1: bearing heats up": ["machine", "limit"],
        "pump-2: pressure gauge sticks": ["sensor"],
    }
    assert false_alarms == []


@pytest.mark.parametrize(
    "wrong",
    [
        alert("pump-2-vibration", "machine", 30, 59),  # before it begins
        alert("pump-2-vibration", "machine", 50, 65),  # began without it
        alert("pump-2-vibration", "machine", 420, 430),  # long over
        alert("fan-3-process", "machine", 200, 260),  # nothing is wrong there
        alert("pump-2-process", "sensor", 239, 299, channel="flow"),  # another gauge
        alert("pump-2-process", "machine", 239, 299, channel="pressure"),  # the gauge, not the machine
        alert("pump-2-vibration", "drift", 62, 65),
    ],
    ids=lambda a: f"{a.device} {a.kind} {a.start_ns - ZERO_NS}",
)
def test_any_other_alert_is_a_false_alarm(wrong: Alert) -> None:
    found, false_alarms = judged(wrong)
    assert (found, false_alarms) == ({}, [f"{wrong.device} {wrong.kind}"])


def test_a_silence_is_noticed_where_the_plant_was_when_the_alert_was_sent() -> None:
    clock = PlantClock(ZERO_NS)
    clock.read(1000 * NS_PER_S, 400.0)
    clock.read(1002 * NS_PER_S, 440.0)
    sent = alert("press-1-vibration", "stale", 330, 335, emitted_ns=1001 * NS_PER_S)
    raised = Raised.of(sent, clock)
    assert raised.at_s == pytest.approx(420.0)
    (finding,) = [f for f in judge([raised], FULL.injected, {})[0] if f.alerts]
    row = next(line for line in fault_table([finding]).splitlines() if "silent" in line)
    assert row.split() == [
        *("press-1:", "vibration", "board", "falls", "silent"), "05:30", "07:00", "90", "s", "stale", "all", "2.5", "ms",
    ]  # fmt: skip


def test_the_early_sign_is_shown_and_the_alert_that_had_to_come_is_missed() -> None:
    clock = PlantClock(ZERO_NS)
    early = Raised.of(alert("press-1-process", "machine", 125, 190, channel="bearing temperature"), clock)
    (finding,) = [f for f in judge([early], FULL.injected, {"press-1-process": 60.0})[0] if f.alerts]
    assert finding.noticed is None
    assert [line.split()[-2:] for line in fault_table([finding]).splitlines()[2:]] == [
        ["2.5", "ms"],
        ["MISSED", "limit"],
    ]


def test_values_that_did_not_arrive_or_were_dropped_are_not_passed_over() -> None:
    counters = {
        "source_samples.mqtt": 90,
        "samples_dropped.late": 5,
        "windows_closed": 3,
        "windows_scored": 3,
    }
    assert accounts(100, counters) == "90 of 100 values that were sent; dropped: 5 late; 3 windows = 3 scored"
    board = SentByBoard("compressor-4", 6_000, 3_000)
    assert accounts(90, {**counters, "source_samples.compressor-4": 2_700}, board) == (
        "all values that were sent; of the board's 2,700, lost or not, and 300 while its port was not open; "
        "dropped: 5 late; 3 windows = 3 scored"
    )


def test_a_boards_fault_is_placed_where_the_plant_was_and_timed_by_the_clock() -> None:
    clock = PlantClock(ZERO_NS, {"compressor-4-vibration"})
    clock.read(1000 * NS_PER_S, 400.0)
    clock.read(1010 * NS_PER_S, 600.0)
    assert FULL.worn is not None
    began_ns = 1002 * NS_PER_S
    fault = FULL.worn.injected(began_ns, clock.of_wall(began_ns))
    assert fault.fault.start_s == pytest.approx(440.0)
    found = alert("compressor-4-vibration", "machine", 0, 0)
    found = msgspec.structs.replace(
        found, start_ns=began_ns - NS_PER_S // 20, end_ns=began_ns + NS_PER_S // 5
    )
    early = msgspec.structs.replace(found, start_ns=began_ns - 2 * NS_PER_S, end_ns=began_ns - NS_PER_S)
    raised = [Raised.of(a, clock) for a in (early, found)]
    (finding,), false_alarms = judge(raised, [fault], {"compressor-4-vibration": 3.0})
    assert [a.alert for a in false_alarms] == [early]
    row = fault_table([finding]).splitlines()[-1]
    assert re.split(r" {2,}", row)[1:4] == ["07:20", "07:24", "0.2 s (real)"]


def test_what_a_board_says_is_read() -> None:
    assert FULL.worn is not None
    said = "board COMP-0004 on /tmp/b\nits bearing is damaged from 2025-10-09T08:53:20.000000250Z on\n"
    assert worn_ns(said) == ZERO_NS + 250
    assert sent_by(FULL.worn, said + "sent 1000 rows, 6500 bytes; 0 bytes changed") == SentByBoard(
        "compressor-4", 6500, 3000
    )
    with pytest.raises(ValueError, match="does not say what it has sent"):
        sent_by(FULL.worn, said)
    with pytest.raises(ValueError, match="does not say when"):
        worn_ns("")


# The parts.


@pytest.mark.parametrize("scenario", [FULL, SHORT, dataclasses.replace(SHORT, worn=None)])
def test_the_gateway_of_a_scenario_has_its_devices_its_broker_and_its_patience(
    tmp_path: Path, scenario: Scenario
) -> None:
    path = tmp_path / "gateway.toml"
    template = TEMPLATE.read_text()
    text = gateway_config(template, scenario, port=12345, version="5", board_port="/tmp/a-board")
    path.write_text(text)
    config = load_config(path, need_models=False)
    assert {d.device.device_id for d in config.devices} == set(scenario.devices)
    assert [s.port for s in config.sources if isinstance(s, SerialSource)] == ["/tmp/a-board"] * (
        scenario.worn is not None
    )
    assert {d.time.stale_after_s for d in config.devices} == {5.0}
    assert config.uplink is not None
    assert (config.uplink.port, config.uplink.version) == (12345, "5")
    for sensor in scenario.sensors:
        assert set(units_of(path.read_text(), sensor.device)) == set(sensor.channels)
    # The plant is as far ahead in the faults that it is given.
    assert [
        f.start_s - i.fault.start_s for f, i in zip(scenario.plant_faults, scenario.injected, strict=True)
    ] == [scenario.history_s] * len(scenario.injected)


def test_every_fault_of_a_scenario_has_time_to_be_noticed() -> None:
    for scenario in (FULL, SHORT):
        for injected in scenario.injected:
            assert injected.fault.device in {s.device for s in scenario.sensors}
            assert injected.fault.start_s + 100 < scenario.live_s
        assert scenario.worn is not None
        assert scenario.worn.worn_s + 4 < scenario.live_s / scenario.speed


def test_a_broker_that_does_not_exist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DemoError, match='LINEWATCH_DEMO_BROKER is \'rabbit\': it may be "mosquitto" or "embedded"'
    ):
        Broker(tmp_path, {CHOICE: "rabbit"})
    monkeypatch.setattr("examples.demo.processes.mosquitto_path", lambda: None)
    with pytest.raises(DemoError, match="apt-get install mosquitto"):
        Broker(tmp_path, {CHOICE: "mosquitto"})


def test_a_child_that_does_not_listen_to_reason_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    child = Child("the deaf", [sys.executable, "-c", deaf], tmp_path / "log")
    deadline = time.monotonic() + 20
    while "deaf" not in child.text() and time.monotonic() < deadline:
        time.sleep(0.01)
    child.stop(patience_s=0.2)
    assert not child.running
    assert child.failed
    with pytest.raises(DemoError, match=r"(?s)the deaf ended by itself with code -9.*    deaf"):
        child.check()


def test_progress_is_rewritten_on_a_terminal_and_rare_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        screen = Screen(out)
        screen.progress("one of two")
        screen.progress("two of two")
        screen.line("done", "green")
    assert file.getvalue() == "  one of two\ndone\n"
    assert terminal.getvalue().count("\r\x1b[2K") == 2
    assert "\x1b[32mdone\x1b[0m\n" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    Screen(plain).line("done", "green")
    assert plain.getvalue() == "done\n"


def test_plant_time_is_minutes_and_seconds() -> None:
    assert [clock_text(s) for s in (-1, 0, 59.9, 61, 3600)] == ["00:00", "00:00", "00:59", "01:01", "60:00"]
