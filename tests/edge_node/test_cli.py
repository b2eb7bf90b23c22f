"""``edge-node`` as its user meets it: what it says, where, and its exit code."""

from __future__ import annotations

import json
import logging
import os
import pty
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from edge_node import probing
from edge_node.cli import main
from models.logs import Tick
from models.recording import read_log
from models.signal import SampleBlock
from tests.brokers import HOST, Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import BUNDLE, channels, config, edge_node, rows

pytestmark = pytest.mark.tflite_runtime
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """main() sets up logging for a process of its own."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_check_says_what_would_run(tmp_path: Path, capsys: Capture) -> None:
    path = config(tmp_path, free_port())
    assert main(["check", "-c", str(path)]) == 0
    said = capsys.readouterr().out
    assert "pump-1" in said
    assert "cpu-float32" in said
    assert "alerts a week" in said
    assert said.splitlines()[-1] == f"{path}: ok, 1 device, 1 source"


def test_check_takes_a_configuration_for_replay_alone(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "gateway.toml"
    device = '[[device]]\nid = "{}"\ninterval_s = 1\nchannels = ["x"]\n'
    path.write_text('[gateway]\nname = "g"\n' + device.format("a") + device.format("b"))
    assert main(["check", "-c", str(path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{path}: ok, 2 devices, 0 sources; `edge-node run` needs a [[source]], replay does not"


@pytest.mark.parametrize(
    ("wrong", "more"),
    [('interval_s = "often"\n', True), ('interval_s = 1\nactive_when = "b.x > 1"\n', False), ("=\n", True)],
)
def test_check_says_when_more_problems_may_show(
    tmp_path: Path, wrong: str, more: bool, capsys: Capture
) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('[gateway]\nname = "g"\n[[device]]\nid = "a"\nchannels = ["x"]\n' + wrong)
    assert main(["check", "-c", str(path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert (lines[-1] == "more may show once these are corrected") is more
    assert lines[0].startswith(f"{path}:6: ") or lines[0].startswith(f"{path}:7: ")


def test_check_test_connects_to_every_broker(tmp_path: Path, capsys: Capture) -> None:
    with broker(tmp_path) as mosquitto:
        path = config(tmp_path, mosquitto.port)
        assert main(["check", "-c", str(path), "--test"]) == 0
        said = capsys.readouterr().out
        assert f"source mqtt: {HOST}:{mosquitto.port}: connected with MQTT 3.1.1" in said
        assert f"uplink: {HOST}:{mosquitto.port}: connected with MQTT 5" in said
    assert said.splitlines()[-1] == f"{path}: ok, 1 device, 1 source"
    assert main(["check", "-c", str(path), "--test"]) == 1
    refused = capsys.readouterr()
    reached = [line for line in refused.out.splitlines() if f"{HOST}:{mosquitto.port}" in line]
    assert reached == [
        f"{who}: {HOST}:{mosquitto.port}: connection refused: no broker listens there"
        for who in ("source mqtt", "uplink")
    ]
    assert refused.out.splitlines()[-1] == f"{path}: 2 of 2 connections cannot be used"
    assert refused.err == ""


@contextmanager
def brokers_that_wait_for_each_other(answers: Sequence[bytes]) -> Iterator[list[int]]:
    """Ports of as many servers, each of which answers a client (by one of ``answers``) once all have one."""
    all_here = threading.Barrier(len(answers))
    stop = threading.Event()

    def serve(listening: socket.socket, answer: bytes) -> None:
        try:
            client, _ = listening.accept()
            with client:
                client.recv(4096)
                all_here.wait(20)
                client.sendall(answer)
                stop.wait(20)
        except (OSError, threading.BrokenBarrierError):
            pass  # the test says what is missing

    listening = [socket.create_server((HOST, 0)) for _ in answers]
    threads = [threading.Thread(target=serve, args=pair) for pair in zip(listening, answers, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield [server.getsockname()[1] for server in listening]
    finally:
        stop.set()
        all_here.abort()
        for server in listening:
            server.close()
        for thread in threads:
            thread.join()


def test_check_test_asks_all_brokers_at_once_and_tells_a_refused_subscription(
    tmp_path: Path, capsys: Capture
) -> None:
    connack, granted, refused = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x01", b"\x90\x03\x00\x01\x80"
    with brokers_that_wait_for_each_other([connack + refused, connack + granted]) as (source, uplink):
        path = config(tmp_path, uplink, version="3.1.1")
        head, tail = path.read_text().split("[[source]]")
        path.write_text(f"{head}[[source]]{tail.replace(str(uplink), str(source))}")
        assert main(["check", "-c", str(path), "--test"]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[-3:] == [
        f"source mqtt: {HOST}:{source}: the broker refused the subscription to 'plant/+': Unspecified error",
        f"uplink: {HOST}:{uplink}: connected with MQTT 3.1.1, and may subscribe",
        f"{path}: 1 of 2 connections cannot be used",
    ]
    assert said.err == ""


def test_check_test_ends_when_brokers_hang(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "PATIENCE_S", 0.3)
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        path = config(tmp_path, port)
        assert main(["check", "-c", str(path), "--test"]) == 1
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"source mqtt: {HOST}:{port}: no answer within 0.3 s",
        f"uplink: {HOST}:{port}: no answer within 0.3 s",
        f"{path}: 2 of 2 connections cannot be used",
    ]


def test_record_for_a_while_writes_what_came(tmp_path: Path) -> None:
    with broker(tmp_path, "log_type all") as mosquitto, Subscriber(mosquitto.port) as sensors:
        path = config(tmp_path, mosquitto.port)
        log = tmp_path / "log.jsonl"
        command = edge_node("record", "-c", path, "-o", log, "--for", "2.5")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as recorder:
            wait_for(lambda: "Sending SUBACK to linewatch-mqtt" in mosquitto.log(), "its subscription")
            for message in rows()[:50]:
                sensors.publish("plant/pump-1", message)
            said, complaints = recorder.communicate(timeout=20)
        assert recorder.returncode == 0, complaints
    n_values = 50 * len(channels())
    assert said == f"wrote {n_values} values to {log}, dropped none\n"
    items = list(read_log([log]))
    assert sum(item.n_samples for item in items if isinstance(item, SampleBlock)) == n_values
    assert sum(isinstance(item, Tick) for item in items) >= 5


@pytest.mark.parametrize("terminal", [False, True])
def test_logs_are_for_people_on_a_terminal_and_json_elsewhere(tmp_path: Path, terminal: bool) -> None:
    path = config(tmp_path, free_port())
    ours, theirs = pty.openpty() if terminal else os.pipe()
    command = edge_node("record", "-c", path, "-o", tmp_path / "log.jsonl", "--for", "0.5")
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, timeout=20)
    said = os.read(ours, 65_536).decode()
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 1  # there is no broker: nothing is recorded
    lines = said.splitlines()
    complaint = lines.pop()
    assert complaint.startswith("edge-node: nothing was recorded: source mqtt never connected")
    if terminal:
        assert not any(line.startswith("{") for line in lines)
        assert any("n_values" in line for line in lines)
    else:
        logged = [json.loads(line) for line in lines]
        assert all({"event", "level", "timestamp"} <= entry.keys() for entry in logged)
        assert any(entry.get("n_values") == 0 for entry in logged)


def truncated(bundle: Path) -> None:
    graph = bundle / "cpu-float32.tflite"
    graph.write_bytes(graph.read_bytes()[:-100])


def flipped(bundle: Path) -> None:
    graph = bundle / "cpu-float32.tflite"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 0x10
    graph.write_bytes(data)


def of_another_schema(bundle: Path) -> None:
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["schema_id"] = "0" * 16
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "extra", "expected"),
    [
        (truncated, "", "bytes"),
        (flipped, "", "SHA-256"),
        (of_another_schema, "", "schema"),
        (lambda _bundle: None, "window = 30", "window"),
        (lambda _bundle: None, "hop = 7", "hop"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_model_that_cannot_serve_is_refused_in_one_line(
    tmp_path: Path, capsys: Capture, command: str, spoil: Callable[[Path], None], extra: str, expected: str
) -> None:
    bundle = tmp_path / "model"
    shutil.copytree(BUNDLE, bundle)
    spoil(bundle)
    path = config(tmp_path, free_port(), bundle=bundle, extra=extra)
    assert main([command, "-c", str(path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    more = ["more may show once these are corrected"] if command == "check" else []
    assert lines[1:] == more
    assert lines[0].startswith(f"{path}:")
    assert expected in lines[0]


def test_a_refused_model_is_shown_as_the_file_has_it(tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(BUNDLE, tmp_path / "m" / "bad")
    truncated(tmp_path / "m" / "bad")
    path = config(tmp_path, free_port())
    for given in ("m/bad", "../" + tmp_path.name + "/m/bad"):
        path.write_text(path.read_text().replace(f'model = "{BUNDLE}"', f'model = "{given}"'))
        assert main(["check", "-c", str(path)]) == 1
        assert f'"pump-1": model = "{given}": ' in capsys.readouterr().err
        path.write_text(path.read_text().replace(f'model = "{given}"', f'model = "{BUNDLE}"'))
