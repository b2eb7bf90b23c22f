"""``make demo``: its short form from beginning to end on either broker, and how it ends otherwise."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloud_sink.config import load_config as load_sink
from edge_node.config import load_config
from edge_node.model_watch import MIN_ALERTS
from examples.demo.__main__ import BROKEN, INTERRUPTED, run
from examples.demo.configuration import CHECKPOINT_S, STATUS_S, BrokerAddress, gateway_toml, sink_toml
from examples.demo.findings import Day, Episode, Traffic, clock_text, episodes, judge, strip
from examples.demo.processes import CHOICE, Broker, Child, DemoError, raise_when_asked_to_end, stop_all
from examples.demo.report import Outcome, facts, faults_table, notes, promises, strips, table
from examples.demo.scenario import FULL, SHORT, Injected, Scenario
from examples.demo.screen import Screen
from examples.demo.stages import start_broker
from examples.simulated_plant import FLEET, PLANT, Fault, FaultKind
from models.messages import Alert, AlertKind, AlertState, rfc3339
from models.signal import NS_PER_S
from tests.brokers import HOST, Subscriber, free_port, mosquitto_path, wait_for

ROOT = Path(__file__).parents[1]
ZERO_NS = 1_760_000_000 * NS_PER_S
ADDRESS = BrokerAddress("127.0.0.1", 1883, "5")


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


def of_the_demo(tmp_path: Path, *words: str) -> psutil.Process:
    """The one process of the demo whose command line has ``words``, once it is there."""

    def found() -> psutil.Process | None:
        for process in running_below(tmp_path):
            with suppress(psutil.NoSuchProcess):  # it has just ended
                if set(words) <= set(process.cmdline()):
                    return process
        return None

    seen: psutil.Process = wait_for(found, f"{' '.join(words)}", timeout_s=120)
    return seen


def raised(folder: Path) -> Counter[int]:
    """Machine alerts that were raised, by version of the model."""
    alerts = [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]
    return Counter(
        a["model_version"] for a in {a["alert_id"]: a for a in alerts if a["kind"] == "machine"}.values()
    )


@pytest.mark.timeout(400)
def test_the_short_demo_holds_what_it_promises_and_leaves_nothing_running(tmp_path: Path) -> None:
    with demo(tmp_path, "--short") as process:
        said, _ = process.communicate(timeout=380)
    assert process.returncode == 0, said
    assert "embedded (amqtt)" in said
    assert "\x1b" not in said
    assert said.count("✓") == 4
    assert "✗" not in said
    assert "MISSED" not in said
    assert "all of it arrived" in said
    assert "3 of 3 gateways run the newer version, and none of them began anew" in said
    (folder,) = tmp_path.glob("linewatch-demo-*")
    assert said.rstrip().endswith(f"Everything is in {folder}")
    # The table says what was heard.
    before, after = re.search(r"^  alerts +(\d+) +(\d+)$", said, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert raised(folder) == {1: int(before), 2: int(after)}
    saved = re.search(r"^  saved +([\d.]+)% of the signal", said, re.MULTILINE)
    assert saved is not None
    assert 95.0 <= float(saved[1]) < 100.0
    assert {p.name for p in (folder / "models").iterdir()} >= {"blower", "blower-2"}


@pytest.mark.timeout(400)
def test_a_fault_that_cannot_be_noticed_is_missed_and_what_was_promised_did_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mosquitto_path()
    monkeypatch.setenv(CHOICE, "mosquitto")
    monkeypatch.chdir(ROOT)
    invisible = Fault(FaultKind.BEARING, "blower-1", 100, growth_s=1e9)
    scenario = dataclasses.replace(SHORT, injected=(Injected("a fault like no other", invisible),))
    out = io.StringIO()
    assert run(scenario, tmp_path, Screen(out)) == BROKEN
    said = out.getvalue()
    assert "What was promised did not hold." in said
    assert "✗ it notices 0 of 1 faults" in said
    (row,) = [line for line in said.splitlines() if "MISSED" in line]
    assert re.split(r" {2,}", row.strip())[::3] == ["a fault like no other", "MISSED"]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("number", "while_there_is"),
    [(signal.SIGINT, ("edge_node.cli", "record")), (signal.SIGTERM, ("edge_node.cli", "run"))],
)
def test_an_interrupted_demo_ends_its_processes(
    tmp_path: Path, number: signal.Signals, while_there_is: tuple[str, ...]
) -> None:
    with demo(tmp_path, "--short") as process:
        of_the_demo(tmp_path, *while_there_is)
        assert len(running_below(tmp_path)) >= 3
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "interrupted" in said
    assert "Everything is in" in said


@pytest.mark.timeout(200)
def test_a_program_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with demo(tmp_path, "--short") as process:
        simulator = of_the_demo(tmp_path, "examples.plant_simulator")
        recorder = of_the_demo(tmp_path, "edge_node.cli", "record")
        assert simulator.is_running()
        recorder.kill()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == BROKEN
    assert "edge-node record ended by itself with code -9" in said
    assert "connected to 127.0.0.1:" in said  # from its log


# What is due to what.


def alert(
    device: str,
    start_s: float,
    end_s: float,
    *,
    kind: AlertKind = "machine",
    state: AlertState = "raised",
    alert_id: str = "a",
    version: int = 1,
) -> Alert:
    start_ns, end_ns = (ZERO_NS + round(s * NS_PER_S) for s in (start_s, end_s))
    return Alert(
        alert_id=alert_id,
        seq=0,
        message_id="a-0",
        site="demo",
        gateway="hall-1",
        machine=device,
        class_="",
        device=device,
        state=state,
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
        contributions=(),
        features=None,
        model_id="blower",
        model_version=version,
        clock="device",
        evidence=None,
        delivery=None,
    )


def day_of(*alerts: Alert, length_s: float = 1200.0) -> Day:
    return judge(episodes(alerts, ZERO_NS), FULL.injected, length_s)


def test_an_alert_is_due_to_the_fault_of_its_machine_and_time() -> None:
    day = day_of(alert("blower-4", 339.2, 350), alert("blower-6", 730, 733, alert_id="b"))
    found = {f.injected.fault.device: f.delay_s for f in day.findings}
    assert found == {"blower-4": pytest.approx(10.0), "blower-2": None, "blower-6": pytest.approx(13.0)}
    assert (day.n_found, day.false_alarms, day.median_delay_s) == (2, (), pytest.approx(11.5))


@pytest.mark.parametrize(
    "wrong",
    [
        alert("blower-4", 310, 339),  # before it begins
        alert("blower-4", 330, 350),  # began without it
        alert("blower-4", 830, 833),  # long over
        alert("blower-1", 400, 403),  # nothing is wrong there
        alert("blower-4", 350, 353, kind="drift"),
    ],
    ids=lambda a: f"{a.device} {a.kind} {a.start_ns - ZERO_NS}",
)
def test_any_other_alert_is_a_false_alarm(wrong: Alert) -> None:
    day = day_of(wrong)
    assert (day.n_found, [e.device for e in day.false_alarms]) == (0, [wrong.device])


def test_an_episode_is_from_its_first_window_until_it_is_cleared_and_of_the_day_in_which_it_was_raised() -> (
    None
):
    said = [
        alert("blower-1", -20, -10, alert_id="yesterday"),
        alert("blower-1", -20, 15, alert_id="yesterday", state="cleared"),
        alert("blower-1", 100, 103, alert_id="c"),
        alert("blower-1", 100, 120, alert_id="c", state="updated"),
        alert("blower-1", 100, 140, alert_id="c", state="cleared"),
        alert("blower-3", 50, 60, alert_id="d"),
    ]
    assert episodes(said, ZERO_NS) == (
        Episode("d", "blower-3", "machine", 1, 50.0, 60.0, None),
        Episode("c", "blower-1", "machine", 1, 100.0, 103.0, 140.0),
    )


def test_a_strip_shows_false_alarms_and_faults_noticed_or_not() -> None:
    day = day_of(
        alert("blower-4", 110, 113, alert_id="c"),
        alert("blower-4", 110, 190, alert_id="c", state="cleared"),
        alert("blower-4", 420, 423),
    )
    assert strip(day, "blower-4", 12) == "·█·○▲▲▲▲▲▲▲▲"
    assert strip(day, "blower-2", 12) == "····○○○○○○○·"
    assert strip(day, "blower-1", 12) == "·" * 12
    lines = strips(day, day_of(), FULL.gateways)
    assert len(lines) == 2 + len(FULL.machines)
    assert "(50 s each)" in lines[-1]
    (line,) = [line for line in lines if "blower-4" in line]
    assert (line.count("█"), line.count("○")) == (2, 12)


def test_a_strip_shows_an_alert_from_when_it_was_told_as_the_table_does() -> None:
    day = day_of(
        alert("blower-4", 340, 640),  # its first windows were in the rest after an earlier one
        alert("blower-1", 110, 310, alert_id="f"),
        alert("blower-1", 110, 390, alert_id="f", state="cleared"),
    )
    assert strip(day, "blower-4", 12) == "···○○○▲▲▲▲▲▲"
    assert strip(day, "blower-1", 12) == "···█········"
    assert {f.injected.fault.device: f.delay_s for f in day.findings}["blower-4"] == pytest.approx(300.0)


def outcome(*alerts: Alert, upstream: int = 20, raw: int = 1000) -> Outcome:
    return Outcome(day_of(*alerts), Traffic({"alert": 2}, {"alert": upstream}, raw, raw // 4, raw // 4))


FOUND = tuple(
    alert(i.fault.device, i.fault.start_s + 2, i.fault.start_s + 5, alert_id=i.title, version=2)
    for i in FULL.injected
)
FLOOD = tuple(alert("blower-1", s, s + 3, alert_id=f"f{s}") for s in range(0, 1000, 100))


def test_what_was_promised_is_what_was_measured() -> None:
    before, after = outcome(*FLOOD), outcome(*FOUND, FLOOD[0])
    names = list(FULL.gateways)
    held = promises(before, after, after.traffic, adopted=names, gateways=4, restarted=0)
    assert [p.held for p in held] == [True] * 4
    assert [p.text.partition(" (")[0] for p in held] == [
        "4 of 4 gateways run the newer version, and none of them began anew for it",
        "it notices 3 of 3 faults, where the first one noticed 0",
        "false alarms went from 10 to 1",
        "98.0% of the signal's bytes stayed where they were",
    ]


@pytest.mark.parametrize(
    ("which", "before", "after", "names", "restarted"),
    [
        (0, outcome(*FLOOD), outcome(*FOUND), ["hall-1"], 0),
        (0, outcome(*FLOOD), outcome(*FOUND), list(FULL.gateways), 1),
        (1, outcome(*FLOOD), outcome(*FOUND[1:]), list(FULL.gateways), 0),
        (2, outcome(*FLOOD), outcome(*FOUND, *FLOOD[:2]), list(FULL.gateways), 0),
        (2, outcome(*FOUND), outcome(*FOUND), list(FULL.gateways), 0),  # no flood, no promise kept
        (3, outcome(*FLOOD), outcome(*FOUND, upstream=51), list(FULL.gateways), 0),
    ],
)
def test_each_promise_can_be_broken(
    which: int, before: Outcome, after: Outcome, names: list[str], restarted: int
) -> None:
    found = promises(before, after, after.traffic, adopted=names, gateways=4, restarted=restarted)
    assert [p.held for p in found] == [i != which for i in range(4)]


def test_the_tables_say_what_was_missed_and_what_did_not_arrive() -> None:
    before, after = outcome(*FLOOD, alert("blower-4", 420, 423)), outcome(*FOUND, upstream=24)
    rows = {
        r[0]: r[1:] for line in table(before, after).splitlines() if (r := re.split(r" {2,}", line.strip()))
    }
    assert rows["faults noticed"] == ["1 of 3", "3 of 3"]
    assert rows["of these false"] == ["10", "0"]
    assert rows["saved"] == ["98.0%", "97.6%"]
    faults = faults_table(before.day, after.day).splitlines()
    assert re.split(r" {2,}", faults[0].strip()) == [
        "fault",
        "begins",
        "before: version 1",
        "after: version 2",
    ]
    assert re.split(r" {2,}", faults[2]) == ["blower-4: unbalanced", "05:40", "83 s", "5 s"]
    assert re.split(r" {2,}", faults[4])[2:] == ["MISSED", "5 s"]
    assert dict(facts(before.traffic))["signal"] == "1 kB: 250 values; all of it arrived"
    lossy = dataclasses.replace(before.traffic, received_values=240)
    assert dict(facts(lossy))["signal"] == "1 kB: 250 values; 240 values of 250 arrived"
    assert facts(lossy)[1] == ("upstream", "20 B, topics included: 20 B in 2 alert messages")
    types = {f"type_{i}": i for i in range(1, 7)}
    many = [text for _, text in facts(dataclasses.replace(lossy, n_bytes=types, n_messages=types))]
    assert many[1].endswith(": 6 B in 6 type 6 messages, 5 B in 5 type 5 messages, 4 B in 4 type 4 messages")
    assert many[2].count("messages") == 3


def test_the_readme_shows_what_the_demo_says() -> None:
    shown = (
        (ROOT / "README.md")
        .read_text()
        .split("<!-- of `make demo`, from here -->")[1]
        .partition("<!-- to here")[0]
    )
    before, after = outcome(*FLOOD), outcome(*FOUND)
    held = promises(before, after, after.traffic, adopted=["hall-1"], gateways=4, restarted=0)
    said = [
        *strips(before.day, after.day, FULL.gateways),
        *faults_table(before.day, after.day).splitlines(),
        *table(before, after).splitlines(),
        *notes(FULL.speed),
        *(name for name, _ in facts(after.traffic) if name),
        *(f"✓ {p.text}" for p in held),
    ]
    begins = [re.split(r" {2,}|\d", line.strip())[0] for line in shown.splitlines()]
    assert [b for b in (re.split(r" {2,}|\d", line.strip())[0] for line in said) if b not in begins] == []
    assert re.search(r"The demo took (\d+) s\.", shown)


def test_traffic_is_counted_from_any_moment_on() -> None:
    early = Traffic({"alert": 1}, {"alert": 10}, 100, 25, 20)
    late = Traffic({"alert": 3, "status": 2}, {"alert": 30, "status": 8}, 400, 100, 100)
    since = late.since(early)
    assert since == Traffic({"alert": 2, "status": 2}, {"alert": 20, "status": 8}, 300, 75, 80)
    assert since.saved == pytest.approx(1 - 28 / 300)
    assert Traffic({}, {}, 0, 0, 0).saved < 0


# The parts.


@pytest.mark.parametrize("scenario", [FULL, SHORT])
def test_the_files_of_a_scenario_are_good_and_what_is_not_default_is_for_the_speed(
    tmp_path: Path, scenario: Scenario
) -> None:
    (tmp_path / "plant.pub").write_text("hKbMWfHUTFS+5UmMQgxyTmzmOZtNg3CLFHMBHBFb8cs=\n")
    devices = []
    for name, machines in scenario.gateways.items():
        path = tmp_path / f"{name}.toml"
        path.write_text(gateway_toml(name, machines, ADDRESS, page_port=0, speed=scenario.speed))
        config = load_config(path, need_models=False)
        assert (config.gateway.status_s * scenario.speed, config.gateway.checkpoint_s * scenario.speed) == (
            pytest.approx(STATUS_S),
            pytest.approx(CHECKPOINT_S),
        )
        devices += [d.device.device_id for d in config.devices]
    assert tuple(devices) == scenario.machines
    (tmp_path / "sink.toml").write_text(sink_toml(ADDRESS))
    assert load_sink(tmp_path / "sink.toml").broker.version == "5"


@pytest.mark.parametrize("scenario", [FULL, SHORT])
def test_a_scenario_has_time_for_its_faults_and_no_gateway_has_as_many_as_would_look_like_a_bad_model(
    scenario: Scenario,
) -> None:
    by_gateway = Counter[str]()
    for injected in scenario.injected:
        assert injected.fault.end_s is not None
        assert injected.fault.start_s + 200 < injected.fault.end_s <= scenario.day_s - 60
        by_gateway.update(g for g, machines in scenario.gateways.items() if injected.fault.device in machines)
    assert by_gateway.total() == len(scenario.injected)
    assert max(by_gateway.values()) + 1 < MIN_ALERTS
    assert scenario.canary in scenario.gateways
    periods = (scenario.history, scenario.first_day, scenario.night, scenario.second_day)
    assert all(a.until_s == b.from_s for a, b in pairwise(periods))
    later = scenario.second_day.from_s
    assert [f.start_s - later for f in scenario.faults_in(scenario.second_day)] == [
        i.fault.start_s for i in scenario.injected
    ]
    assert set(scenario.machines) <= {s.machine for s in FLEET} - {s.machine for s in PLANT}


def test_a_broker_that_does_not_exist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DemoError, match='LINEWATCH_DEMO_BROKER is \'rabbit\': it may be "mosquitto" or "embedded"'
    ):
        Broker(tmp_path, {CHOICE: "rabbit"})
    monkeypatch.setattr("examples.demo.processes.mosquitto_path", lambda: None)
    with pytest.raises(DemoError, match="apt-get install mosquitto"):
        Broker(tmp_path, {CHOICE: "mosquitto"})


def test_a_port_that_was_taken_meanwhile_is_another_one_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mosquitto_path()
    with socket.socket() as taken, ExitStack() as stack:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        ports = [taken.getsockname()[1], free_port()]
        monkeypatch.setattr("examples.demo.processes.free_port", iter(ports).__next__)
        out = io.StringIO()
        broker = start_broker(stack, tmp_path, Screen(out), {CHOICE: "mosquitto"})
        assert (broker.port, broker.running) == (ports[1], True)
        assert out.getvalue() == f"broker: mosquitto on 127.0.0.1:{ports[1]}\n"


def test_who_interrupts_while_a_process_is_born_finds_it_among_those_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    born: list[psutil.Process] = []
    begin = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = begin(*arguments, **options)
        born.append(psutil.Process(process.pid))
        signal.raise_signal(signal.SIGTERM)
        return process

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        raise_when_asked_to_end()
        monkeypatch.setattr(subprocess, "Popen", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Child("sleep", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
        assert born[0].is_running()
        stop_all()
        assert not psutil.pid_exists(born[0].pid)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in born:
            with suppress(psutil.NoSuchProcess):
                process.kill()


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
    assert file.getvalue() == "done\n"  # what is soon over is not said
    assert terminal.getvalue().count("\r\x1b[2K") == 2
    assert "\x1b[32mdone\x1b[0m\n" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    Screen(plain).line("done", "green")
    assert plain.getvalue() == "done\n"


def test_plant_time_is_minutes_and_seconds() -> None:
    assert [clock_text(s) for s in (-1, 0, 59.9, 61, 3600)] == ["00:00", "00:00", "00:59", "01:01", "60:00"]


def test_on_the_embedded_broker_who_publishes_and_leaves_at_once_is_heard(tmp_path: Path) -> None:
    """As a sink does that promotes a model. amqtt as it comes acknowledges what it then forgets: while it is still busy with what
    is retained for others, and there is much of that here."""

    def text(value: str) -> bytes:
        return len(value).to_bytes(2, "big") + value.encode()

    def hasty(n: int) -> None:
        """Publishes six messages at QoS 1, each when the one before was acknowledged, and leaves."""
        with socket.create_connection((HOST, broker.port)) as sock, sock.makefile("rb") as came:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            hello = text("MQTT") + b"\x04\x02\x00\x3c" + text(f"hasty{n}")
            sock.sendall(bytes([0x10, len(hello)]) + hello)
            for i in range(6):
                body = text(f"models/{n}/{i}") + (i + 1).to_bytes(2, "big") + b"v2"
                sock.sendall(bytes([0x33, len(body)]) + body)
                while came.read(1) != b"\x40":  # what it is not
                    size, shift = 0, 0
                    while (byte := came.read(1)[0]) & 0x80:
                        size, shift = size | (byte & 0x7F) << shift, shift + 7
                    came.read(size | byte << shift)
                came.read(3)
            sock.sendall(b"\xe0\x00")

    filters = [f"plant/+/state{i}" for i in range(20)] + ["plant/+/+", "plant/#"]
    with Broker(tmp_path, {CHOICE: "embedded"}) as broker:
        broker.wait_until_listening()
        with Subscriber(broker.port, *filters) as others, Subscriber(broker.port, "models/#") as seen:
            for i in range(40):
                others.publish(f"plant/g/state{i}", b"x" * 2000, retain=True)
            for n in range(20):
                hasty(n)
            wait_for(lambda: len({m.topic for m in seen.messages}) == 120, "all that was said")
