"""``edge-node record`` as a process of its own: nothing that a source delivered goes missing unsaid."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge_node import running_sources
from edge_node.config import load_config
from edge_node.config_schema import MqttSource
from edge_node.recording_daemon import record
from edge_node.sources import Emit, Reach, SourceCounters
from models.recording import read_log
from models.signal import Device, SampleBlock
from tests.brokers import Broker, Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import channels, config, edge_node, rows

START_NS = 1_700_000_000_000_000_000
SAID = re.compile(r"^wrote (\d+) values to .*, dropped (none|(\d+) queue_full)$")


@contextmanager
def recording(path: Path, log: Path, mosquitto: Broker) -> Iterator[subprocess.Popen[str]]:
    """``edge-node record``, subscribed."""
    command = edge_node("record", "-c", path, "-o", log)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: "Sending SUBACK to linewatch-mqtt" in mosquitto.log(), "its subscription")
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def n_written(log: Path) -> int:
    return sum(item.n_samples for item in read_log([log]) if isinstance(item, SampleBlock))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_came_until_the_end_is_written(tmp_path: Path, number: signal.Signals) -> None:
    with broker(tmp_path, "log_type all") as mosquitto, Subscriber(mosquitto.port) as sensors:
        path, log = config(tmp_path, mosquitto.port), tmp_path / "log.jsonl"
        with recording(path, log, mosquitto) as recorder:
            stopped = threading.Event()

            def publish() -> None:
                for message in rows():
                    if stopped.wait(0.0005):
                        return
                    sensors.publish("plant/pump-1", message)

            feeder = threading.Thread(target=publish)
            feeder.start()
            wait_for(lambda: n_written(log) > 100, "the first values")
            recorder.send_signal(number)
            said, complaints = recorder.communicate(timeout=20)
            stopped.set()
            feeder.join()
        assert recorder.returncode == 0, complaints
        found = SAID.match(said.splitlines()[-1])
        assert found is not None, said
        assert int(found[1]) == n_written(log)
        assert found[2] == "none"


class LastGasp:
    """The configured source, which delivers a last block while it is being stopped."""

    def __init__(self, config: MqttSource, devices: Mapping[str, Device], *_: object) -> None:
        self.name = config.name
        self.counters = SourceCounters()
        self.reach = Reach(True, 1, None)
        (self._device,) = devices.values()

    async def run(self, emit: Emit) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            names = self._device.channel_names
            values = np.ones((1, len(names)), np.float32)
            times = np.array([START_NS], np.int64)
            assert emit(SampleBlock(self._device.device_id, names, values, START_NS, time_ns=times))


def test_what_a_source_delivers_while_it_stops_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_sources, "SOURCES", {"mqtt": LastGasp})
    loaded = load_config(config(tmp_path, free_port()), need_models=False)
    log = tmp_path / "log.parquet"
    done = asyncio.run(record(loaded, log, for_s=0.1))
    assert done.n_values == n_written(log) == len(channels())


def test_values_for_which_there_was_no_room_are_said(tmp_path: Path) -> None:
    n = len(channels())
    with broker(tmp_path, "log_type all") as mosquitto, Subscriber(mosquitto.port) as sensors:
        path = config(tmp_path, mosquitto.port, gateway="queue_samples = 128")
        log = tmp_path / "log.jsonl"
        with recording(path, log, mosquitto) as recorder:
            row = rows()[0].decode()
            n_rows = 128 // n + 1
            many = f"[{','.join([row] * n_rows)}]"  # one block of these: never any room for it
            sensors.publish("plant/pump-1", many)
            wait_for(lambda: "plant/pump-1" in mosquitto.log(), "the message")
            sensors.publish("plant/pump-1", row.encode())
            wait_for(lambda: n_written(log) == n, "the row")
            recorder.send_signal(signal.SIGTERM)
            said, complaints = recorder.communicate(timeout=20)
        assert recorder.returncode == 0, complaints
        assert said == f"wrote {n} values to {log}, dropped {n_rows * n} queue_full\n"
        assert f'"dropped": "{n_rows * n} queue_full"' in complaints


def test_what_was_refused_is_said_and_counted(tmp_path: Path) -> None:
    with broker(tmp_path, "log_type all") as mosquitto, Subscriber(mosquitto.port) as sensors:
        path = config(tmp_path, mosquitto.port)
        log = tmp_path / "log.jsonl"
        with recording(path, log, mosquitto) as recorder:
            for payload in (b"{", b"nonsense"):
                sensors.publish("plant/pump-1", payload)
            sensors.publish("plant/pump-9", rows()[0])
            sensors.publish("plant/pump-1", rows()[0])
            wait_for(lambda: n_written(log) == len(channels()), "the row")
            recorder.send_signal(signal.SIGTERM)
            said, complaints = recorder.communicate(timeout=20)
        assert recorder.returncode == 0, complaints
        refused = "2 malformed, 1 unknown_device"
        assert said == f"wrote {len(channels())} values to {log}, dropped none, refused messages: {refused}\n"
        assert f'"refused": "{refused}"' in complaints


def test_a_recording_of_refused_messages_alone_is_a_failure(tmp_path: Path) -> None:
    with broker(tmp_path, "log_type all") as mosquitto, Subscriber(mosquitto.port) as sensors:
        path = config(tmp_path, mosquitto.port)
        log = tmp_path / "log.jsonl"
        with recording(path, log, mosquitto) as recorder:
            sensors.publish("plant/pump-1", b"nonsense")
            wait_for(lambda: "Received PUBACK from linewatch-mqtt" in mosquitto.log(), "the message's end")
            recorder.send_signal(signal.SIGTERM)
            said, complaints = recorder.communicate(timeout=20)
        assert recorder.returncode == 1
        assert said == ""
        why = "all that source mqtt received was refused or dropped"
        assert complaints.splitlines()[-1] == (
            f"edge-node: nothing was recorded: {why} (dropped none, refused messages: 1 malformed)"
        )
        assert not log.exists()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_empty_recording_is_a_failure_that_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    log = tmp_path / f"log.{suffix}"
    with broker(tmp_path, "log_type all") as mosquitto:
        path = config(tmp_path, mosquitto.port)
        with recording(path, log, mosquitto) as recorder:
            recorder.send_signal(signal.SIGTERM)
            said, complaints = recorder.communicate(timeout=20)
        why = "source mqtt was connected, but received nothing"
        assert complaints.splitlines()[-1] == f"edge-node: nothing was recorded: {why} (dropped none)"
        assert (recorder.returncode, said) == (1, "")
    done = subprocess.run(
        edge_node("record", "-c", path, "-o", log, "--for", "1"), capture_output=True, text=True, timeout=30
    )
    assert done.stderr.splitlines()[-1] == (
        "edge-node: nothing was recorded: source mqtt never connected: connection refused: no broker listens "
        "there (dropped none)"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("log.")]


def test_sighup_does_not_end_a_recording(tmp_path: Path) -> None:
    with broker(tmp_path, "log_type all") as mosquitto, Subscriber(mosquitto.port) as sensors:
        path, log = config(tmp_path, mosquitto.port), tmp_path / "log.jsonl"
        with recording(path, log, mosquitto) as recorder:
            recorder.send_signal(signal.SIGHUP)
            sensors.publish("plant/pump-1", rows()[0])
            wait_for(lambda: n_written(log) == len(channels()), "the row")
            recorder.send_signal(signal.SIGTERM)
            _, complaints = recorder.communicate(timeout=20)
        assert recorder.returncode == 0
        assert "SIGHUP is ignored" in complaints
