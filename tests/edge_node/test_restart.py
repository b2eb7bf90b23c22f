"""The real daemon, killed and started again: what it remembers, and what it says of the time between."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Subscriber, broker, free_port, retained, wait_for
from tests.edge_node.daemons import (
    N_ROWS,
    NS,
    alerts,
    config,
    connected,
    edge_node,
    feed,
    metrics,
    rows,
    running,
    status,
    summed,
)

DOWN = 'linewatch_device_gaps_total{device="pump-1",reason="down"}'


def balanced(port: int) -> dict[str, float]:
    """The metrics, in which all three equations hold."""
    m = metrics(port)
    assert summed(m, "samples_in_total") == sum(
        summed(m, f"samples_{what}") for what in ("windowed_total", "queued", "dropped_total")
    )
    assert summed(m, "windows_closed_total") == sum(
        summed(m, f"windows_{what}") for what in ("scored_total", "pending", "dropped_total")
    )
    assert summed(m, "events_published_total") + summed(m, "events_republished_total") == sum(
        summed(m, f"events_{what}")
        for what in ("delivered_total", "superseded_total", "dropped_total", "queued")
    )
    return m


def machine(seen: Subscriber) -> list[dict[str, Any]]:
    return [a for a in alerts(seen) if a["kind"] == "machine"]


def later(message: bytes, seconds: int) -> bytes:
    row = json.loads(message)
    return json.dumps({**row, "t": row["t"] + seconds * NS}).encode()


def test_an_open_alert_is_not_raised_anew_and_is_still_cleared(tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port, port, gateway="checkpoint_s = 600")
        path.write_text(path.read_text().replace("alerts_per_week = 100", "alerts_per_week = 1"))
        messages = [later(message, -400) for message in rows()]
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, messages)
            wait_for(lambda: machine(seen), "the alert")
            before = balanced(port)
            daemon.kill()
        n_before = len(machine(seen))
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            after = balanced(port)
            assert summed(after, "samples_windowed_total") > 0
            n_fed = sum(len(json.loads(message)) - 1 for message in messages)
            assert max(summed(m, "samples_windowed_total") for m in (before, after)) <= n_fed
            healthy = [later(message, N_ROWS - 400) for message in rows()[:300]]
            feed(seen, healthy)
            wait_for(lambda: machine(seen)[-1]["state"] == "cleared", "the end of the alert")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        said = machine(seen)
        assert len(said) > n_before
        assert [a["state"] for a in said].count("raised") == 1
        assert len({a["alert_id"] for a in said}) == 1


def test_at_qos_1_nothing_is_lost_whenever_the_gateway_dies(tmp_path: Path) -> None:
    """Killed at four moments, with what it had taken and not committed in memory only."""
    port, total = free_port(), N_ROWS
    with (
        broker(tmp_path, "max_inflight_messages 500") as mosquitto,
        Subscriber(mosquitto.port, "linewatch/#") as seen,
    ):
        path = config(tmp_path, mosquitto.port, port, gateway="checkpoint_s = 600")
        path.write_text(path.read_text().replace('type = "mqtt"', 'type = "mqtt"\nmax_inflight = 500'))
        messages = rows()
        for i in range(4):
            with running(path) as daemon:
                wait_for(lambda: connected(port), "the source's connection")
                feed(seen, messages[i * 250 : (i + 1) * 250])
                daemon.kill()
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, messages[1000:])
            n_values = len(json.loads(messages[0])) - 1

            def windowed() -> float:
                m = balanced(port)
                return summed(m, "samples_windowed_total") + summed(m, "samples_queued")

            wait_for(lambda: windowed() == total * n_values, "all values in windows, each once")
            assert DOWN not in metrics(port)  # nothing was lost, so there is no gap
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0


def test_at_qos_0_the_time_between_is_one_gap(tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port, port, gateway="checkpoint_s = 0.1")
        path.write_text(path.read_text().replace("qos = 1", "qos = 0"))
        for n_gaps in (0, 1, 2):
            with running(path) as daemon:
                wait_for(lambda: connected(port), "the source's connection")
                m = balanced(port)
                assert m.get(DOWN, 0) == n_gaps
                n = summed(m, "checkpoints_total")
                feed(seen, rows()[:200])
                wait_for(lambda n=n: summed(metrics(port), "checkpoints_total") > n, "a checkpoint")
                time.sleep(0.3)
                daemon.kill()
        assert summed(m, "down_seconds_total") > 0


def test_what_waited_says_so_and_keeps_its_own_time(tmp_path: Path) -> None:
    port, cloud_port = free_port(), free_port()
    for name in ("plant", "cloud"):
        (tmp_path / name).mkdir()
    with broker(tmp_path / "plant") as plant, Subscriber(plant.port) as sender:
        path = config(tmp_path, cloud_port, port, uplink="reconnect_min_s = 0.1\nreconnect_max_s = 0.3")
        text = path.read_text()
        at = text.index("[[source]]")
        path.write_text(text[:at] + text[at:].replace(f"port = {cloud_port}", f"port = {plant.port}"))
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed(sender, rows())
            wait_for(lambda: summed(metrics(port), "events_queued") >= 3, "messages that wait")
            wait_for(lambda: summed(metrics(port), "checkpoints_total") > 0, "a checkpoint")
            time.sleep(0.5)
            daemon.kill()  # no broker has been there yet: it is all on disk
        said_before_ns = time.time_ns()
        with (
            broker(tmp_path / "cloud", port=cloud_port) as cloud,
            Subscriber(cloud.port, "linewatch/#") as seen,
            running(path) as daemon,
        ):
            wait_for(lambda: machine(seen), "the alert of before")
            first = machine(seen)[0]
            assert first["state"] == "raised"
            assert first["delivery"]["delayed"] is True
            assert first["delivery"]["emitted_ns"] < said_before_ns
            wait_for(lambda: metrics(port).get("linewatch_events_queued") == 0, "all delivered")
            balanced(port)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        n = len(machine(seen))
        with (
            broker(tmp_path / "cloud", port=cloud_port) as cloud,
            Subscriber(cloud.port, "linewatch/#") as seen,
            running(path) as daemon,
        ):
            wait_for(lambda: status(seen) == "online", "status online")
            assert len(machine(seen)) == 0  # what the broker acknowledged is forgotten
            assert n > 0
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0


def test_a_store_that_is_damaged_is_set_aside_and_the_gateway_runs(tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port, port)
        state = tmp_path / "gateway-state"
        state.mkdir()
        (state / "outbox.sqlite").write_bytes(b"no database" * 5000)
        with running(path) as daemon:
            wait_for(lambda: status(seen) == "online", "status online")
            told = wait_for(
                lambda: [a for a in alerts(seen) if "it was set aside as" in a["message"]], "an alert of it"
            )
            assert told[0]["kind"] == "system"
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, rows())
            wait_for(lambda: machine(seen), "alerts none the less")
            daemon.send_signal(signal.SIGTERM)
            _, log = daemon.communicate(timeout=15)
            assert daemon.returncode == 0
        assert log.count("no database") + log.count("is not a database") > 0
        assert (state / "outbox.sqlite.set-aside").read_bytes().startswith(b"no database")


def test_a_state_that_is_in_use_stops_the_start(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port)
        with running(path):
            wait_for(lambda: status(seen) == "online", "status online")
            second = subprocess.run(edge_node("run", "-c", path), capture_output=True, text=True, timeout=30)
    assert second.returncode == 1
    assert "gateway-state is in use by another gateway process" in second.stderr


@pytest.mark.parametrize("qos", [0, 1])
def test_a_dry_run_prints_and_sends_nothing(tmp_path: Path, qos: int) -> None:
    with (
        broker(tmp_path, "log_type all") as mosquitto,
        Subscriber(mosquitto.port, "linewatch/#") as seen,
    ):
        path = config(tmp_path, mosquitto.port)
        path.write_text(path.read_text().replace("qos = 1", f"qos = {qos}"))
        with running(path, "--dry-run") as daemon:
            wait_for(lambda: "Sending SUBACK to linewatch-mqtt" in mosquitto.log(), "the subscription")
            feed(seen, rows())
            time.sleep(1.0)
            daemon.send_signal(signal.SIGTERM)
            out, _ = daemon.communicate(timeout=15)
            assert daemon.returncode == 0
    lines = out.splitlines()
    topics = {line.split(" ")[0] for line in lines}
    assert {
        "linewatch/s1/g1/alert/pump-1",
        "linewatch/s1/g1/summary/pump-1",
        "linewatch/s1/g1/status",
    } <= topics
    raised = next(line for line in lines if "/alert/" in line)
    assert json.loads(raised[raised.index("{") :])["state"] == "raised"
    assert seen.messages == []
    assert not (tmp_path / "gateway-state").exists()


def test_a_broker_that_sends_fewer_ahead_than_we_were_told_does_not_stall(tmp_path: Path) -> None:
    """mosquitto's default is 20; a checkpoint for every half of 500 messages would never come."""
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port, port, gateway="checkpoint_s = 600")
        path.write_text(path.read_text().replace('type = "mqtt"', 'type = "mqtt"\nmax_inflight = 500'))
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, rows()[:400])
            wait_for(lambda: summed(metrics(port), "source_messages_total") == 400, "all messages")
            daemon.send_signal(signal.SIGTERM)
            _, log = daemon.communicate(timeout=15)
            assert daemon.returncode == 0
    assert (
        "the broker sends no more than 20 messages ahead of their acknowledgement, and max_inflight is 500"
        in log
    )


@pytest.mark.parametrize(("told", "code"), [(20, 0), (100, 1)])
def test_check_measures_how_many_messages_the_broker_sends_ahead(
    tmp_path: Path, told: int, code: int
) -> None:
    with broker(tmp_path) as mosquitto:
        path = config(tmp_path, mosquitto.port)
        path.write_text(path.read_text().replace('type = "mqtt"', f'type = "mqtt"\nmax_inflight = {told}'))
        checked = subprocess.run(
            edge_node("check", "-c", path, "--test"), capture_output=True, text=True, timeout=60
        )
    assert checked.returncode == code, checked.stdout
    if code:
        assert (
            "the broker sends only 20 messages ahead of their acknowledgement, and max_inflight is 100: set "
            "max_inflight_messages to 100 or more there" in checked.stdout
        )
    else:
        assert "it sends 20 messages ahead of their acknowledgement" in checked.stdout


def test_of_a_device_that_is_no_more_after_a_restart_nothing_is_left(tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port, port)
        path.write_text(path.read_text().replace("alerts_per_week = 100", "alerts_per_week = 1"))
        topic = "linewatch/s1/g1/device/pump-1/state"
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, rows())
            wait_for(lambda: machine(seen), "the alert")
            wait_for(lambda: [m for m in seen.messages if m.topic == topic], "the device's state")
            daemon.kill()
        path.write_text(path.read_text().replace('id = "pump-1"', 'id = "pump-2"'))
        with running(path) as daemon:
            wait_for(lambda: machine(seen)[-1]["state"] == "cleared", "the end of its alert")
            assert "no longer watched as it was" in machine(seen)[-1]["message"]
            wait_for(lambda: seen.on(topic)[-1] == b"", "the end of its state")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        assert topic not in retained(mosquitto.port, "linewatch")
