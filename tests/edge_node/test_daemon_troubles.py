"""What is wrong with the gateway itself, as the real daemon says it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models.topics import GATEWAY_DEVICE
from tests.brokers import Broker, Subscriber, broker, free_port, retained, wait_for
from tests.edge_node.daemons import (
    alerts,
    channels,
    config,
    connected,
    feed,
    metrics,
    rows,
    running,
    status,
    summed,
)

pytestmark = pytest.mark.tflite_runtime


def system(subscriber: Subscriber, text: str, state: str) -> list[dict[str, Any]]:
    return [
        a
        for a in alerts(subscriber)
        if a["kind"] == "system"
        and a["device"] == GATEWAY_DEVICE
        and text in a["message"]
        and a["state"] == state
    ]


def statuses(subscriber: Subscriber) -> list[dict[str, Any]]:
    return [json.loads(m.payload) for m in subscriber.messages if m.topic.endswith("/status")]


def clone_of(path: Path) -> Path:
    """The configuration on another SD card."""
    other = path.parent / "clone" / path.name
    other.parent.mkdir()
    shutil.copy(path, other)
    return other


def test_two_gateways_of_one_name_report_each_other(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port)
        with running(path) as one:
            wait_for(lambda: status(seen) == "online", "status online")
            with running(clone_of(path)) as other:
                wait_for(
                    lambda: len({s["boot_id"] for s in statuses(seen) if s["conflicts"]}) == 2,
                    "a conflict in the status of both",
                )
                boots = {s["boot_id"] for s in statuses(seen)}
                assert len(boots) == 2
                assert all({s["boot_id"], *s["conflicts"]} == boots for s in statuses(seen) if s["conflicts"])
                wait_for(lambda: len(system(seen, "SD card", "raised")) == 2, "an alert of each")
                for daemon in (other, one):
                    daemon.send_signal(signal.SIGTERM)
                    assert daemon.wait(15) == 0
        assert not system(seen, "SD card", "cleared")  # nothing says that it is over


def test_a_clone_that_is_gone_leaves_the_status_when_its_alert_is_over(tmp_path: Path) -> None:
    uplink = "reconnect_min_s = 0.2\nreconnect_max_s = 1"
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port, gateway="status_s = 1", uplink=uplink)
        with running(path) as one:
            ours = wait_for(lambda: statuses(seen), "a status")[0]["boot_id"]
            with running(clone_of(path)) as other:
                wait_for(lambda: len(system(seen, "SD card", "raised")) == 2, "an alert of each")
                other.send_signal(signal.SIGTERM)
                assert other.wait(15) == 0

            def of_ours() -> list[dict[str, Any]]:
                return [s for s in statuses(seen) if s["boot_id"] == ours and s["state"] == "online"]

            assert any(s["conflicts"] for s in of_ours())
            wait_for(
                lambda: system(seen, "SD card", "cleared"), "the end of the alert of the one that is left"
            )
            wait_for(lambda: not of_ours()[-1]["conflicts"], "a status without it")
            one.send_signal(signal.SIGTERM)
            assert one.wait(15) == 0


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_two_gateways_of_one_client_id_report_each_other(tmp_path: Path, version: Any) -> None:
    """They are never connected at once: either hears nothing of the other but what it left retained."""
    uplink = 'client_id = "hall-3"\nreconnect_min_s = 0.2\nreconnect_max_s = 1'
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port, version=version, uplink=uplink)
        with running(path):
            wait_for(lambda: status(seen) == "online", "status online")
            with running(clone_of(path)):
                wait_for(
                    lambda: len({s["boot_id"] for s in statuses(seen) if s["conflicts"]}) == 2,
                    "a conflict in the status of both",
                )
                boots = {s["boot_id"] for s in statuses(seen)}
                assert len(boots) == 2
                assert all({s["boot_id"], *s["conflicts"]} == boots for s in statuses(seen) if s["conflicts"])
                wait_for(lambda: len(system(seen, "SD card", "raised")) >= 2, "an alert of each")


def test_a_fallback_and_lost_samples_are_alerts_until_they_are_over(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        gateway = 'edgetpu_library = "no-such-edgetpu.so"\nqueue_samples = 128'
        path = config(tmp_path, mosquitto.port, port, gateway=gateway, extra='backend = "auto"')
        with running(path) as daemon:
            raised = wait_for(lambda: system(seen, "Edge TPU", "raised"), "an alert of the fallback")[0]
            assert raised["severity"] == "warning"
            assert raised["machine"] == "g1"
            assert "Scoring on cpu-float32" in raised["message"]
            wait_for(lambda: connected(port), "the source")
            feed(seen, [b"[" + b",".join(rows()[:129]) + b"]"])  # one block, for which there is never room
            wait_for(lambda: system(seen, "samples are dropped", "raised"), "an alert of lost samples")
            path.write_text(path.read_text().replace('backend = "auto"', ""))
            daemon.send_signal(signal.SIGHUP)
            over = wait_for(lambda: system(seen, "Edge TPU", "cleared"), "the end of the fallback")[0]
            assert over["alert_id"] == raised["alert_id"]
            assert not system(seen, "samples are dropped", "cleared")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        assert not system(seen, "samples are dropped", "cleared")  # it was not mended


def test_a_port_that_another_program_has_keeps_nothing_from_being_watched(tmp_path: Path) -> None:
    with (
        broker(tmp_path) as mosquitto,
        Subscriber(mosquitto.port, "linewatch/#") as seen,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        port = other.getsockname()[1]
        path = config(tmp_path, mosquitto.port, port)
        with running(path) as daemon:
            raised = wait_for(lambda: system(seen, "cannot be served", "raised"), "an alert of the port")[0]
            assert f"127.0.0.1:{port}" in raised["message"]
            assert statuses(seen)[-1]["counters"]["http_failed"] == 1
            feed(seen, rows())
            wait_for(lambda: [a for a in alerts(seen) if a["kind"] == "machine"], "an alert of the machine")
            other.close()
            wait_for(lambda: connected(port), "the page")  # within RETRY_S
            wait_for(lambda: system(seen, "cannot be served", "cleared"), "its end")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0


FAILING = """
import sys
import edge_node.daemon
from edge_node.cli import main
from edge_node.inference import Engine
from models.runtime import GraphUnusable

def fails(*_):
    raise GraphUnusable("the invoke failed")

def then_fail(*given, **more):
    core = assemble(*given, **more)  # its golden vectors come out
    Engine.run = fails
    return core

assemble, edge_node.daemon.assemble = edge_node.daemon.assemble, then_fail
raise SystemExit(main(sys.argv[1:]))
"""


IMPATIENT = """
import functools
import sys
import edge_node.blindness
import edge_node.daemon
from edge_node.cli import main
from edge_node.outages import Outages

edge_node.daemon.Outages = functools.partial(Outages, 0.5)
edge_node.blindness.EVERY_S = 0.2
edge_node.blindness._patience_s = lambda plan: 1.0
raise SystemExit(main(sys.argv[1:]))
"""


def test_a_device_whose_times_cannot_be_is_told(tmp_path: Path) -> None:
    """It sends seconds where milliseconds are configured: all of it lies in 1970, and it is not silent."""
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port)
        path.write_text(path.read_text().replace('time_key = "t"', 'time_key = "t"\ntime_unit = "ms"'))
        command = [sys.executable, "-c", IMPATIENT, "run", "-c", str(path)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
            wait_for(lambda: connected(port), "the source")
            now_s = time.time()
            values = dict.fromkeys(channels(), 1.0)
            for i in range(400):
                seen.publish("plant/pump-1", json.dumps({"t": now_s + i / 100, **values}))
                if found := system(seen, "nothing is seen of pump-1", "raised"):
                    break
                time.sleep(0.01)
            assert (
                "too_old: their times are more than 604800 s ago; is time_unit right" in found[0]["message"]
            )
            at_once = metrics(port)  # what was published is still coming in
            assert (
                summed(at_once, "device_samples_dropped_total")
                == summed(at_once, "samples_dropped_total")
                > 0
            )
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0


def test_a_source_that_is_out_of_reach_is_in_the_status_and_an_alert(tmp_path: Path) -> None:
    (tmp_path / "sensors").mkdir()
    sensors = Broker(tmp_path / "sensors")
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port)
        uplink, source = path.read_text().split("[[source]]")
        path.write_text(f"{uplink}[[source]]{source.replace(str(mosquitto.port), str(sensors.port))}")
        command = [sys.executable, "-c", IMPATIENT, "run", "-c", str(path)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
            refused = {"connected": False, "error": "connection refused: no broker listens there"}
            wait_for(
                lambda: statuses(seen) and statuses(seen)[-1]["connections"] == {"source mqtt": refused},
                "why",
            )
            raised = wait_for(lambda: system(seen, "in trouble", "raised"), "an alert")[0]
            assert raised["message"] == (
                "g1: source mqtt has been in trouble for 0.5 s: connection refused: no broker listens there"
            )
            sensors.start()
            there = {"source mqtt": {"connected": True, "error": None}}
            wait_for(lambda: statuses(seen)[-1]["connections"] == there, "the connection")
            over = wait_for(lambda: system(seen, "in trouble", "cleared"), "its end")[0]
            assert over["alert_id"] == raised["alert_id"]
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
    sensors.stop()


def test_inference_that_fails_is_an_alert_and_stops_nothing(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port, gateway='inference = "in_process"')
        command = [sys.executable, "-c", FAILING, "run", "-c", str(path)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
            wait_for(lambda: connected(port), "the source")
            feed(seen, rows()[:200])
            raised = wait_for(lambda: system(seen, "inference fails", "raised"), "an alert")[0]
            assert raised["message"] == "g1: windows are not scored, inference fails: the invoke failed"
            assert raised["severity"] == "critical"
            assert daemon.poll() is None
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        final = statuses(seen)[-1]["counters"]
        assert final["windows_scored"] == 0
        assert final["windows_dropped.inference_failed"] == final["windows_closed"] > 0


def test_a_device_that_is_renamed_leaves_no_state_behind(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port)
        topic = "linewatch/s1/g1/device/pump-1/state"
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source")
            feed(seen, rows())
            wait_for(lambda: any(b'"anomalous"' in p for p in seen.on(topic)), "an anomalous device")
            path.write_text(path.read_text().replace('id = "pump-1"', 'id = "pump-2"'))
            daemon.send_signal(signal.SIGHUP)
            wait_for(lambda: seen.on(topic)[-1] == b"", "the end of its state")
            cleared = wait_for(
                lambda: [
                    a for a in alerts(seen) if a["state"] == "cleared" and "no longer watched" in a["message"]
                ],
                "the end of its alerts",
            )
            assert {a["delivery"]["latency_ms"] for a in cleared} == {None}
            assert metrics(port)['linewatch_alert_latency_seconds_sum{kind="machine"}'] < 1e6
            assert set(retained(mosquitto.port, "linewatch")) == {"linewatch/s1/g1/status"}
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        assert seen.on(topic)[-1] == b""


def has_state(port: int, topic: str) -> bool:
    return b'"anomalous"' in retained(port, topic.split("/")[0]).get(topic, b"")


def test_device_states_go_where_the_uplink_goes(tmp_path: Path) -> None:
    """Another prefix, another broker, none, and back: the states are at the present place, and nowhere else."""
    (tmp_path / "other").mkdir()
    with (
        broker(tmp_path) as mosquitto,
        broker(tmp_path / "other") as other,
        Subscriber(mosquitto.port, "linewatch/#") as seen,
    ):
        metrics_port = free_port()
        path = config(tmp_path, mosquitto.port, metrics_port)
        first, end = path.read_text(), "s1/g1/device/pump-1/state"

        def take_up(text: str) -> None:
            path.write_text(text)
            daemon.send_signal(signal.SIGHUP)

        with running(path) as daemon:
            wait_for(lambda: connected(metrics_port), "the source")
            feed(seen, rows())
            wait_for(lambda: any(b'"anomalous"' in p for p in seen.on(f"linewatch/{end}")), "a state")
            take_up(first.replace("[uplink]", "[uplink]\nqueue_messages = 9_999"))
            wait_for(lambda: [s["state"] for s in statuses(seen)].count("online") >= 2, "the same place")
            wait_for(lambda: has_state(mosquitto.port, f"linewatch/{end}"), "its state")
            assert b"" not in seen.on(f"linewatch/{end}")
            take_up(first.replace("[uplink]", '[uplink]\nprefix = "other"'))
            wait_for(lambda: has_state(mosquitto.port, f"other/{end}"), "the state below another prefix")
            assert set(retained(mosquitto.port, "linewatch")) == {"linewatch/s1/g1/status"}
            uplink, source = first.split("[[source]]")
            elsewhere = uplink.replace(f"port = {mosquitto.port}", f"port = {other.port}")
            take_up(f"{elsewhere}[[source]]{source}")
            wait_for(lambda: has_state(other.port, f"linewatch/{end}"), "the state at another broker")
            assert set(retained(mosquitto.port, "other")) == {"other/s1/g1/status"}
            take_up(f"{uplink.split('[uplink]')[0]}[[source]]{source}")
            wait_for(
                lambda: set(retained(other.port, "linewatch")) == {"linewatch/s1/g1/status"}, "no uplink"
            )
            take_up(first)
            wait_for(lambda: has_state(mosquitto.port, f"linewatch/{end}"), "the state, back again")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0


def test_a_gateway_that_is_renamed_ends_under_its_old_name_what_it_said(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port)
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source")
            feed(seen, rows())
            raised = wait_for(lambda: [a for a in alerts(seen) if a["kind"] == "machine"], "an alert")[0]
            path.write_text(path.read_text().replace('name = "g1"', 'name = "g2"'))
            daemon.send_signal(signal.SIGHUP)
            wait_for(
                lambda: [s for s in statuses(seen) if s["gateway"] == "g2" and s["state"] == "online"],
                "the new name",
            )
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        ended = [a for a in alerts(seen) if a["alert_id"] == raised["alert_id"] and a["state"] == "cleared"]
        assert [a["gateway"] for a in ended] == ["g1"]
        last = {s["gateway"]: s["state"] for s in statuses(seen)}
        assert last == {"g1": "stopped", "g2": "stopped"}
