"""The real daemon as a process of its own, against a real mosquitto: what goes in by MQTT comes out as alerts."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from models.recording import read_log, recorded_devices
from models.runtime import runtime_name
from models.signal import SampleBlock
from tests.brokers import Broker, Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import (
    BUNDLE,
    N_ROWS,
    alerts,
    channels,
    config,
    connected,
    edge_node,
    feed,
    metrics,
    of_the_signal,
    replayed,
    rows,
    running,
    status,
    summed,
)
from tests.edge_node.disks import small_disk

pytestmark = pytest.mark.tflite_runtime


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_samples_in_alert_out_and_the_counters_balance(tmp_path: Path, version: str) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        with running(config(tmp_path, mosquitto.port, port, version)) as daemon:
            wait_for(lambda: status(seen) == "online", "status online")
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, rows())
            seen.publish("plant/pump-1", b'{"t": "not a time"')
            seen.publish("plant/nobody", b'{"t": 1}')
            wait_for(lambda: [a for a in alerts(seen) if a["kind"] == "machine"], "a machine alert")
            wait_for(lambda: summed(metrics(port), "source_messages_total") == N_ROWS + 2, "all messages")
            now = metrics(port)
            n_in = summed(now, "samples_in_total")
            assert n_in == N_ROWS * len(channels())
            assert n_in == summed(now, "samples_windowed_total") + summed(
                now, "samples_dropped_total"
            ) + summed(now, "samples_queued")
            assert summed(now, "windows_closed_total") == summed(now, "windows_scored_total") + summed(
                now, "windows_pending"
            ) + summed(now, "windows_dropped_total")
            assert summed(now, "events_published_total") + summed(now, "events_republished_total") == summed(
                now, "events_delivered_total"
            ) + summed(now, "events_superseded_total") + summed(now, "events_dropped_total") + summed(
                now, "events_queued"
            )
            assert summed(now, "source_messages_dropped_total") == 2
            assert daemon.poll() is None
            told = next(json.loads(m.payload) for m in seen.messages if m.topic.endswith("/status"))
            assert told["backend"] == f"cpu-float32 ({runtime_name()})"
            assert told["models"] == [{"model_id": "fixture", "version": 1, "backend": told["backend"]}]
            raised = next(a for a in alerts(seen) if a["kind"] == "machine")
            assert raised["state"] == "raised"
            assert raised["machine"] == "pump"
            assert raised["message"].startswith("pump: ")
            assert raised["delivery"]["backend"] == "cpu-float32"
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        wait_for(lambda: status(seen) == "stopped", "status stopped")


def test_a_recording_of_a_live_run_replays_to_its_alerts(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port)
        log = tmp_path / "run.jsonl"
        with running(path, "--record", str(log)) as daemon:
            wait_for(lambda: status(seen) == "online", "status online")
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, rows())
            wait_for(lambda: [a for a in alerts(seen) if a["kind"] == "machine"], "a machine alert")
            time.sleep(1.0)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        wait_for(lambda: status(seen) == "stopped", "status stopped")
        live = [of_the_signal(a) for a in alerts(seen)]
    out, again = tmp_path / "alerts.jsonl", tmp_path / "again.jsonl"
    assert replayed(log, path, out) == live
    replayed(log, path, again)
    assert again.read_bytes() == out.read_bytes()


def test_a_killed_daemon_is_reported_offline_by_its_last_will(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port)
        with running(path) as daemon:
            wait_for(lambda: status(seen) == "online", "status online")
            daemon.kill()
            wait_for(lambda: status(seen) == "offline", "status offline")


def test_a_broker_that_dies_is_found_again_and_told_the_status(tmp_path: Path) -> None:
    dead = Broker(tmp_path)
    path = config(tmp_path, dead.port, extra="")
    path.write_text(path.read_text().replace('version = "5"', 'version = "5"\nreconnect_max_s = 1.0', 1))
    with running(path) as daemon:
        time.sleep(1.0)
        assert daemon.poll() is None, "a broker that is not there must not stop the start"
        dead.start()
        try:
            with Subscriber(dead.port, "linewatch/#") as seen:
                wait_for(lambda: status(seen) == "online", "status online")
            dead.kill()
            dead.start()
            with Subscriber(dead.port, "linewatch/#") as seen:
                wait_for(lambda: status(seen) == "online", "status online again")
        finally:
            dead.kill()


def test_sighup_takes_up_a_good_configuration_and_refuses_a_bad_one(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port)
        good = path.read_text()

        def config_hash() -> str:
            found = [m for m in seen.messages if m.topic.endswith("/status")]
            return str(json.loads(found[-1].payload)["config_hash"]) if found else ""

        with running(path) as daemon:
            first = wait_for(config_hash, "status")
            path.write_text(good + "nonsense = 1\n")
            daemon.send_signal(signal.SIGHUP)
            time.sleep(1.0)
            assert daemon.poll() is None
            assert config_hash() == first
            path.write_text(good.replace("alerts_per_week = 100", "alerts_per_week = 50"))
            daemon.send_signal(signal.SIGHUP)
            wait_for(lambda: config_hash() != first, "another configuration")
            daemon.send_signal(signal.SIGTERM)
            _, log = daemon.communicate(timeout=15)
        assert "nonsense" in log
        assert "Traceback" not in log


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[[source]]", "[[sourze]]"), "sourze"),
        ((str(BUNDLE), "no/such/bundle"), "no/such/bundle"),
        (("interval_s = 1", "interval_s = 2"), "interval_s"),
    ],
)
def test_what_cannot_start_says_why_in_a_line(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    path = config(tmp_path, free_port())
    path.write_text(path.read_text().replace(*change))
    done = subprocess.run(edge_node("run", "-c", path), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_log_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    command = edge_node("run", "-c", config(tmp_path, free_port()), "--record", "/proc/nowhere/log.jsonl")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ.copy())
    assert done.returncode == 1, done.stderr
    assert "/proc/nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_start_that_fails_leaves_no_recording(tmp_path: Path, suffix: str) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    path = config(tmp_path, free_port())
    with running(path) as daemon:
        wait_for(lambda: (tmp_path / "gateway-state" / "lock").exists(), "its state")
        command = edge_node("run", "-c", path, "--record", logs / f"run.{suffix}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0
    assert done.returncode == 1
    assert "in use by another gateway process" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(logs.iterdir()) == []


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("full", ["disk", "quota"])
def test_a_recording_that_can_not_go_on_is_no_secret(tmp_path: Path, full: str, suffix: str) -> None:
    with ExitStack() as stack:
        mosquitto = stack.enter_context(broker(tmp_path))
        seen = stack.enter_context(Subscriber(mosquitto.port, "linewatch/#"))
        place = stack.enter_context(small_disk(tmp_path)) if full == "disk" else tmp_path
        port, log = free_port(), place / f"run.{suffix}"
        path = config(tmp_path, mosquitto.port, port)
        daemon = stack.enter_context(running(path, "--record", str(log)))
        wait_for(lambda: connected(port), "the source's connection")
        assert metrics(port)["linewatch_recording_failed"] == 0
        if full == "quota":
            limit = 1 << 16
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (limit, limit))
        feed(seen, rows())
        wait_for(lambda: metrics(port)["linewatch_recording_failed"] == 1, "the failure in the metrics")

        def told() -> dict[str, Any]:
            statuses = [m.payload for m in seen.messages if m.topic.endswith("/status")]
            return {} if not statuses else dict(json.loads(statuses[-1]))

        wait_for(lambda: told().get("recording_error"), "the failure in the status")
        assert str(log) in told()["recording_error"]
        assert "cannot be written" in told()["recording_error"]
        assert told()["counters"]["recording_failed"] == 1
        wait_for(lambda: [a for a in alerts(seen) if a["kind"] == "machine"], "a machine alert none the less")
        wait_for(
            lambda: [a for a in alerts(seen) if a["message"].startswith("g1: the recording has ended: ")],
            "an alert of it",
        )
        assert summed(metrics(port), "samples_unrecorded_total") > 0
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=15)
        assert daemon.returncode == 0
        assert said.count("recording stopped") == 1
        assert f"the recording {log} is not whole" in said
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it was cut short
            read = sum(item.n_samples for item in read_log([log]) if isinstance(item, SampleBlock))
        assert read > 0  # what was written before is readable


def test_a_recording_ends_where_its_devices_change(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path, log = config(tmp_path, mosquitto.port, port), tmp_path / "run.parquet"
        text = path.read_text()
        n = len(channels())
        with running(path, "--record", str(log)) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            for message in rows()[:50]:
                seen.publish("plant/pump-1", message)
            wait_for(lambda: summed(metrics(port), "samples_recorded_total") == 50 * n, "50 rows")
            path.write_text(text.replace("alerts_per_week = 100", "alerts_per_week = 50"))
            daemon.send_signal(signal.SIGHUP)
            seen.publish("plant/pump-1", rows()[50])
            wait_for(lambda: summed(metrics(port), "samples_recorded_total") == 51 * n, "a row more")
            assert not log.exists()
            path.write_text(text.replace("interval_s = 1", "interval_s = 1\ntime = { lateness_s = 9 }"))
            daemon.send_signal(signal.SIGHUP)
            wait_for(log.exists, "the recording's end")
            wait_for(lambda: connected(port), "the source's connection")
            seen.publish("plant/pump-1", rows()[51])
            wait_for(lambda: summed(metrics(port), "samples_unrecorded_total") == n, "a row after it")
            daemon.send_signal(signal.SIGTERM)
            _, said = daemon.communicate(timeout=15)
            assert daemon.returncode == 0
    (warning,) = [line for line in said.splitlines() if "the recording" in line and "ends here" in line]
    assert str(log) in warning
    assert "new --record" in warning
    assert sum(item.n_samples for item in read_log([log]) if isinstance(item, SampleBlock)) == 51 * n
    (device,) = recorded_devices(log)
    assert device.time.lateness_s is None


GATED = """
active_when = "motor.speed > 10"
active_settle_s = 5
[[device]]
id = "motor"
interval_s = 1
channels = ["speed"]
[[device.limit]]
name = "overspeed"
channel = "speed"
above = 100
"""


def test_a_recording_of_two_devices_of_which_one_gates_the_other_replays_to_its_alerts(
    tmp_path: Path,
) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port, extra=GATED)
        log = tmp_path / "run.jsonl"
        with running(path, "--record", str(log)) as daemon:
            wait_for(lambda: status(seen) == "online", "status online")
            wait_for(lambda: connected(port), "the source's connection")
            sent = rows()
            for i, message in enumerate(sent):
                # The pump's fault is first hidden by a motor that stands, which later runs too fast, and stands again.
                speed = 0 if 880 <= i < 960 or i >= 1150 else 150 if 1020 <= i < 1080 else 50
                seen.publish("plant/pump-1", message)
                at_ns = json.loads(message)["t"]
                seen.publish("plant/motor", json.dumps({"t": at_ns, "speed": speed}).encode())
                if i % 100 == 99:
                    time.sleep(0.05)

            def kinds() -> set[tuple[str, str, str]]:
                return {(a["device"], a["kind"], a["state"]) for a in alerts(seen)}

            wanted = {
                ("pump-1", "machine", "raised"),
                ("motor", "limit", "raised"),
                ("motor", "limit", "cleared"),
            }
            wait_for(lambda: wanted <= kinds(), "alerts of both devices")
            time.sleep(1.0)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        wait_for(lambda: status(seen) == "stopped", "status stopped")
        live = [of_the_signal(a) for a in alerts(seen)]
    found = replayed(log, path, tmp_path / "alerts.jsonl")
    for device in ("pump-1", "motor"):  # of each device in the order in which it was said
        assert [a for a in found if a["device"] == device] == [a for a in live if a["device"] == device]
    assert len(found) == len(live)
    starts = [a["start_ns"] for a in live if a["kind"] == "machine" and a["state"] == "raised"]
    stood_ns = range(json.loads(sent[880])["t"], json.loads(sent[960])["t"])
    assert not [start_ns for start_ns in starts if start_ns in stood_ns]
