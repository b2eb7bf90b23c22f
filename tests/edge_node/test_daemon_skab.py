"""A public recording of a real test bench, trained, published row by row, and watched live."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.brokers import HOST, Subscriber, broker, free_port, wait_for
from tests.data import data_path
from tests.edge_node.daemons import NS, channels, config, connected, edge_node, metrics, running

N_HEALTHY = 400


def read(log: Path) -> tuple[list[tuple[int, dict[str, float]]], list[int]]:
    """Rows of a SKAB file as (time in s, readings), and the times that are labelled anomalous."""
    readings, anomalous = [], []
    with log.open() as lines:
        for row in csv.DictReader(lines, delimiter=";"):
            at = int(datetime.fromisoformat(row.pop("datetime")).replace(tzinfo=UTC).timestamp())
            row.pop("changepoint")
            if float(row.pop("anomaly")):
                anomalous.append(at)
            readings.append((at, {name: float(value) for name, value in row.items()}))
    return readings, anomalous


def of_the_signal(line: bytes) -> bytes:
    """An alert without what depends on the run, as the very bytes."""
    said, found, _ = line.rpartition(b',"evidence":')
    assert found, line
    return said


def test_a_recording_published_row_by_row_is_alerted_and_replays_byte_for_byte(tmp_path: Path) -> None:
    if shutil.which("mosquitto_sub") is None:
        if os.environ.get("LINEWATCH_REQUIRE_SERVICES") == "1":
            pytest.fail("mosquitto_sub is not installed: apt-get install mosquitto-clients")
        pytest.skip("mosquitto_sub is not installed: apt-get install mosquitto-clients")
    log = data_path("skab", "data", "other", "11.csv")
    bundle = tmp_path / "model"
    train = f"train {log} --features slow --family mahalanobis --rows {N_HEALTHY} --timezone UTC -o {bundle}"
    subprocess.run([sys.executable, "-m", "cloud_sink.cli", *train.split()], check=True, capture_output=True)
    readings, anomalous = read(log)
    # As if it happened now: the newest row is a moment old.
    shift_s = int(time.time()) - 2 - readings[-1][0]
    with broker(tmp_path) as mosquitto:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port, bundle=bundle)
        recording = tmp_path / "run.jsonl"
        listen = [
            "mosquitto_sub",
            "-h",
            HOST,
            "-p",
            str(mosquitto.port),
            "-q",
            "1",
            "-t",
            "linewatch/+/+/alert/#",
        ]
        heard_file = tmp_path / "heard"
        with heard_file.open("wb") as heard, subprocess.Popen(listen, stdout=heard) as listener:
            try:
                with (
                    Subscriber(mosquitto.port) as sensors,
                    running(path, "--record", str(recording)) as daemon,
                ):
                    wait_for(lambda: "New client" in mosquitto.log(), "the listener's connection")
                    wait_for(lambda: connected(port), "the source")
                    for at, named in readings:
                        sensors.publish("plant/pump-1", json.dumps({"t": (at + shift_s) * NS, **named}))
                    n_values = len(readings) * len(channels(bundle))
                    wait_for(lambda: metrics(port)["linewatch_samples_in_total"] == n_values, "all samples")
                    daemon.send_signal(signal.SIGTERM)
                    assert daemon.wait(15) == 0
                out = tmp_path / "alerts.jsonl"
                replay = edge_node("replay", recording, "-c", path, "--output", out)
                done = subprocess.run(replay, capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, done.stderr
                replayed = out.read_bytes().splitlines()
                wait_for(lambda: len(heard_file.read_bytes().splitlines()) >= len(replayed), "the last alert")
            finally:
                listener.terminate()
    live = heard_file.read_bytes().splitlines()
    assert [of_the_signal(line) for line in live] == [of_the_signal(line) for line in replayed]
    raised = [a for a in map(json.loads, live) if a["kind"] == "machine" and a["state"] == "raised"]
    first, last = ((t + shift_s) * NS for t in (anomalous[0], anomalous[-1]))
    assert any(first <= a["end_ns"] and a["start_ns"] <= last for a in raised)
