"""The real sink, a real broker: what is acknowledged is stored, whoever dies when; nothing is lost, nothing is there twice."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from cloud_sink.features_store import FeatureStore
from models.messages import encode
from tests.brokers import HOST, Subscriber, broker, free_port, wait_for
from tests.cloud_sink.gateways import alert, label, status, summary, topic_of
from tests.cloud_sink.sinks import cloud_sink, config, database, fetched, metric, running
from tests.cloud_sink.test_events import refuse_poison
from tests.edge_node.disks import filled, small_disk
from tests.influxes import influx1
from tests.postgres import postgres
from tests.shipped_broker import SHIPPED

SCHEMA = "0123456789abcdef"
LIMITS = ("max_inflight_messages 0",)
COUNTERS = {
    "egress_bytes.alert": 1_000_000,
    "egress_bytes.summary": 500_000,
    "disk_free_bytes": 3_200_000_000,
    "black_box_bytes.ring": 70_000_000,
    "black_box_bytes.alerts": 10_000_000,
}


def publish(port: int, messages: Sequence[Any], *, version: str = "5") -> None:
    """Over a connection of its own, each at QoS 1, and waits until the broker has taken all."""
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        protocol=MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311,
    )
    client.max_inflight_messages_set(500)
    client.connect(HOST, port)
    client.loop_start()
    sent = [client.publish(topic_of(m), encode(m), qos=1, retain=m.type == "status") for m in messages]
    for one in sent:
        one.wait_for_publish(30)
    client.disconnect()
    client.loop_stop()


def stored(folder: Path) -> list[str]:
    """Ids of the summaries that are there."""
    found = FeatureStore(str(folder / "features"), "test").read("press", SCHEMA)
    return [] if found is None else sorted(map(str, found.message_id))


def queried(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    try:
        with sqlite3.connect(f"file:{folder / 'events.sqlite'}?mode=ro", uri=True, timeout=10) as database:
            return database.execute(sql).fetchall()
    except sqlite3.OperationalError:  # not made yet
        return []


def shipped_queues() -> tuple[str, ...]:
    """What examples/mosquitto/mosquitto.conf says of what waits for a client."""
    lines = (SHIPPED / "mosquitto.conf").read_text().splitlines()
    return tuple(line for line in lines if line.startswith(("max_inflight", "max_queued")))


def ready(port: int) -> None:
    wait_for(lambda: fetched(port, "/healthz")[0] == 200, "a sink that is connected")


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_what_gateways_publish_is_stored_and_shown(tmp_path: Path, version: str) -> None:
    port = free_port()
    with broker(tmp_path, *LIMITS) as mosquitto:
        publish(mosquitto.port, [status("g2")])  # retained, before there was a sink
        path = config(tmp_path, mosquitto.port, metrics_port=port, broker=f'version = "{version}"')
        with running(path) as sink:
            ready(port)
            publish(
                mosquitto.port,
                [
                    status("g1", counters=COUNTERS),
                    *(summary(i) for i in range(30)),
                    alert(1),
                    alert(1, seq=1),
                    label("g1-00000001", "false_alarm"),
                ],
            )
            wait_for(lambda: len(stored(tmp_path)) == 30, "the summaries")
            wait_for(lambda: queried(tmp_path, "SELECT seq FROM alerts") == [(1,)], "the alert")
            wait_for(lambda: queried(tmp_path, "SELECT label FROM labels") == [("false_alarm",)], "its label")
            wait_for(lambda: len(queried(tmp_path, "SELECT 1 FROM gateways")) == 2, "both gateways")
            assert metric(port, "sink_messages_stored_total") >= 35
            shown = subprocess.run(
                cloud_sink("gateways", "-c", path), capture_output=True, text=True, timeout=60
            )
            assert shown.returncode == 0, shown.stderr
            lines = {line.split()[0]: line for line in shown.stdout.splitlines()[2:]}
            assert set(lines) == {"s1/g1", "s1/g2"}
            assert lines["s1/g1"].endswith("1.5 MB  3.2 GB       80 MB")
            assert "online" in lines["s1/g2"]
            few = subprocess.Popen(
                cloud_sink("gateways", "-c", path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert few.stdout is not None
            few.stdout.close()
            assert few.communicate(timeout=60)[1] == b"", "whoever reads has seen enough"
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0


def test_two_sinks_share_the_load_and_one_of_them_dies_for_good(tmp_path: Path) -> None:
    """What the broker has kept for the dead one is taken over by its name."""
    ports = [free_port(), free_port()]
    messages = [summary(i % 300, device=f"d{i // 300}") for i in range(3000)]
    messages += [alert(i) for i in range(500)]
    with broker(tmp_path, *LIMITS) as mosquitto:
        paths = [
            config(
                tmp_path,
                mosquitto.port,
                f"sink-{i}",
                metrics_port=port,
                broker="shared = true\nmax_inflight = 50",
            )
            for i, port in enumerate(ports)
        ]
        with running(paths[0]) as one, running(paths[1]) as other:
            for port in ports:
                ready(port)
            publish(mosquitto.port, messages[:1000])
            wait_for(lambda: len(stored(tmp_path)) == 1000, "the first thousand")
            assert all(metric(port, "sink_messages_stored_total") > 200 for port in ports), "they share"
            one.send_signal(signal.SIGSTOP)  # it holds what it has been given, and will never say so
            publish(mosquitto.port, messages[1000:])
            one.kill()
            wait_for(lambda: metric(ports[1], "sink_messages_waiting") == 0, "what the other one got")
            time.sleep(1.0)
            assert len(stored(tmp_path)) < 3000, "the dead one had some"
            other.send_signal(signal.SIGTERM)
            assert other.wait(20) == 0
        with running(paths[1], "--takeover", "sink-0") as heir:
            ready(ports[1])
            wait_for(lambda: len(stored(tmp_path)) == 3000, "all summaries", 40)
            wait_for(lambda: len(queried(tmp_path, "SELECT 1 FROM alerts")) == 500, "all alerts")
            assert heir.stderr is not None
            wait_for(lambda: "has been taken over" in heir.stderr.readline(), "the end of it", 30)  # type: ignore[union-attr]
            publish(mosquitto.port, [summary(i, device="late") for i in range(40)])
            wait_for(lambda: len(stored(tmp_path)) == 3040, "what comes later comes to the heir alone")


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_sink_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, version: str) -> None:
    port = free_port()
    messages = [summary(i % 300, device=f"d{i // 300}") for i in range(1500)] + [alert(i) for i in range(300)]
    with broker(tmp_path, *LIMITS) as mosquitto:
        path = config(tmp_path, mosquitto.port, metrics_port=port, broker=f'version = "{version}"')
        with running(path):
            ready(port)  # its session is there
        for i in range(6):
            with running(path) as sink:
                publish(mosquitto.port, messages[i * 300 : (i + 1) * 300])
                if i % 2:
                    wait_for(lambda: fetched(port, "/healthz")[0] == 200, "it")
                sink.kill()
        with running(path):
            wait_for(lambda: len(stored(tmp_path)) == 1500, "all summaries", 40)
            wait_for(lambda: len(queried(tmp_path, "SELECT 1 FROM alerts")) == 300, "all alerts")
            assert len(set(stored(tmp_path))) == 1500


def test_a_database_that_is_away_for_an_hour_keeps_all_waiting(tmp_path: Path) -> None:
    """As many messages as 80 gateways send in an hour, through the queues of the broker that is shipped; and the sink is killed
    in the midst of it."""
    port = free_port()
    alerts = [alert(i) for i in range(800)]
    summaries = [summary(i % 100, gateway=f"g{i // 100}") for i in range(4_000)]
    with broker(tmp_path, *shipped_queues()) as mosquitto, postgres(tmp_path) as database:
        url = database.url("linewatch")
        path = config(tmp_path, mosquitto.port, metrics_port=port, store=f'events = "{url}"')
        with running(path) as sink:
            ready(port)
            publish(mosquitto.port, alerts[:50])
            wait_for(lambda: metric(port, "sink_messages_stored_total") >= 50, "what came before")
            database.stop()
            publish(mosquitto.port, [*alerts[50:], *summaries[:2_000]])
            wait_for(lambda: fetched(port, "/healthz")[0] == 503, "a sink that says so")
            assert "PostgreSQL" not in fetched(port, "/healthz")[1]
            assert metric(port, "sink_commit_failures_total") >= 1
            sink.kill()
        publish(mosquitto.port, summaries[2_000:])
        early = subprocess.run(cloud_sink("run", "-c", path), capture_output=True, text=True, timeout=60)
        assert early.returncode == 1  # and is started anew by its service, until there is a database
        database.start()
        with running(path) as sink:
            wait_for(lambda: len(stored(tmp_path)) == 4_000, "all summaries", 60)
            with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
                count = "SELECT count(*) FROM alerts"
                wait_for(lambda: connection.execute(count).fetchone() == (800,), "all alerts", 60)
            assert fetched(port, "/healthz") == (200, "ok\n")
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0


def test_gateways_that_lie_cost_a_count(tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path, *LIMITS) as mosquitto, Subscriber(mosquitto.port) as liar:
        path = config(tmp_path, mosquitto.port, metrics_port=port, limits="max_devices_per_gateway = 3")
        with running(path) as sink:
            ready(port)
            for payload in (b"", b"{}", b"\x00\xff", encode(alert(1)), encode(summary(1, gateway="g9"))):
                liar.publish("linewatch/s1/g1/summary/d1", payload)
            publish(
                mosquitto.port, [summary(1, device=f"d{i}") for i in range(1000)]
            )  # a million devices, to begin with
            publish(mosquitto.port, [summary(2), summary(3, end_ns=2**62)])
            wait_for(
                lambda: stored(tmp_path)[-1:] == ["g1-d2-1"] and "g1-d1-2" in stored(tmp_path),
                "what is believed",
            )
            assert len(stored(tmp_path)) == 4
            refused = (("too_many_devices", 997), ("future", 1), ("unreadable", 3), ("other_name", 1))
            lines = [f'linewatch_sink_messages_refused_total{{reason="{r}"}} {n}.0' for r, n in refused]
            # What was sent last may be refused after what is believed has been stored.
            wait_for(lambda: all(x in fetched(port, "/metrics")[1] for x in lines), "every refusal's count")
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0
            assert sink.stderr is not None
            said = sink.stderr.read()
            assert said.count("too_many_devices") == 1  # a line a minute, with how many were held back


def test_a_device_that_is_no_more_makes_room_for_another(tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path, *LIMITS) as mosquitto, Subscriber(mosquitto.port) as gateway:
        path = config(tmp_path, mosquitto.port, metrics_port=port, limits="max_devices_per_gateway = 2")
        with running(path):
            ready(port)
            publish(mosquitto.port, [summary(1, device=d) for d in ("d0", "d1", "d2")])
            wait_for(lambda: stored(tmp_path) == ["g1-d0-1", "g1-d1-1"], "those that there is room for")
            wait_for(
                lambda: 'reason="too_many_devices"' in fetched(port, "/metrics")[1], "the third's refusal"
            )
            gateway.publish("linewatch/s1/g1/device/d0/state", b"")
            publish(mosquitto.port, [summary(2, device="d1"), summary(2, device="d2")])
            wait_for(lambda: stored(tmp_path)[-1] == "g1-d2-2", "the third")


def test_a_message_that_a_database_refuses_costs_itself_alone(tmp_path: Path) -> None:
    port = free_port()
    with database(config(tmp_path, 1)) as events:
        refuse_poison(events)
    alerts = [alert(i, message="poison" if i in (17, 18, 199) else "fine") for i in range(200)]
    with broker(tmp_path, *LIMITS) as mosquitto:
        path = config(tmp_path, mosquitto.port, metrics_port=port)
        with running(path) as sink:
            ready(port)
            publish(mosquitto.port, [*alerts, *(summary(i) for i in range(50))])
            count = "SELECT count(*) FROM alerts"
            wait_for(lambda: queried(tmp_path, count) == [(197,)], "all that it takes")
            wait_for(lambda: len(stored(tmp_path)) == 50, "all summaries")
            refused = 'linewatch_sink_messages_refused_total{reason="unstorable"} 3.0'
            wait_for(lambda: refused in fetched(port, "/metrics")[1], "a count of what it does not take")
            assert fetched(port, "/healthz") == (200, "ok\n")
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0
            assert sink.stderr is not None
            assert "no poison here" in sink.stderr.read()
        with running(path):  # what is refused is acknowledged, too: it does not come again
            ready(port)
            publish(mosquitto.port, [alert(500)])
            wait_for(lambda: queried(tmp_path, count) == [(198,)], "one more")
            assert 'reason="unstorable"' not in fetched(port, "/metrics")[1]


@pytest.mark.parametrize("what", ["events.sqlite", "features"])
def test_what_is_written_to_is_what_is_there(tmp_path: Path, what: str) -> None:
    """Somebody removes the database, or the folder, under a running sink: what it acknowledged after that would be lost."""
    port = free_port()
    with broker(tmp_path, *LIMITS) as mosquitto:
        path = config(tmp_path, mosquitto.port, metrics_port=port)
        with running(path):
            ready(port)
            publish(mosquitto.port, [alert(1), summary(1)])
            wait_for(lambda: len(stored(tmp_path)) == 1, "the first")
            wait_for(lambda: len(queried(tmp_path, "SELECT 1 FROM alerts")) == 1, "the first")
            (tmp_path / what).rename(tmp_path / "away")
            publish(mosquitto.port, [alert(2), summary(2)])
            wait_for(lambda: fetched(port, "/healthz")[0] == 503, "a sink that says so")
            assert "was removed or replaced: put it back" in fetched(port, "/healthz")[1]
            time.sleep(1.5)  # the thread that judges rollouts looks, too
            (tmp_path / "away").rename(tmp_path / what)
            wait_for(lambda: len(stored(tmp_path)) == 2, "all summaries")
            wait_for(lambda: len(queried(tmp_path, "SELECT 1 FROM alerts")) == 2, "all alerts")
            assert fetched(port, "/healthz") == (200, "ok\n")


def test_places_are_looked_at_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for store, text in (
        (f'events = "sqlite:///{tmp_path}/nowhere/events.sqlite"', "[store] events: there is no folder"),
        ('features = "file"', "is a file: name a folder"),
    ):
        asked = cloud_sink("check", "-c", config(tmp_path, 1, store=store))
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        assert (done.returncode, text in done.stderr) == (1, True), done.stderr


def test_who_only_looks_makes_no_database(tmp_path: Path) -> None:
    for command in ("gateways", "models", "rollouts"):
        asked = cloud_sink(command, "-c", config(tmp_path, 1))
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "there is no such file: a running sink makes it" in done.stderr
    assert not (tmp_path / "events.sqlite").exists()


def test_old_alerts_leave_the_database(tmp_path: Path) -> None:
    port = free_port()
    keeps = "max_alerts_per_gateway = 10\ncompact_s = 0.2"
    with (
        broker(tmp_path, *LIMITS) as mosquitto,
        running(config(tmp_path, mosquitto.port, metrics_port=port, store=keeps)),
    ):
        ready(port)
        publish(mosquitto.port, [alert(i) for i in range(60)])
        wait_for(lambda: queried(tmp_path, "SELECT count(*) FROM alerts") == [(10,)], "ten")
        removed = 'linewatch_sink_rows_removed_total{reason="count",table="alerts"} 50.0'
        wait_for(lambda: removed in fetched(port, "/metrics")[1], "a count of it")


def test_a_shared_subscription_of_one(tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path, *LIMITS) as mosquitto:
        path = config(tmp_path, mosquitto.port, metrics_port=port, broker="shared = true")
        with running(path):
            ready(port)
            publish(mosquitto.port, [summary(1)])
            wait_for(lambda: stored(tmp_path) == ["g1-d1-1"], "the summary")


def test_a_sink_that_comes_to_share_hears_its_share_alone(tmp_path: Path) -> None:
    """The broker keeps its session, and in it what it subscribed to when it did not share."""
    port = free_port()
    with broker(tmp_path, *LIMITS) as mosquitto:
        n = 0
        for shared in ("false", "true", "false"):
            path = config(tmp_path, mosquitto.port, metrics_port=port, broker=f"shared = {shared}")
            with running(path) as sink:
                ready(port)
                publish(mosquitto.port, [alert(i) for i in range(n, n + 40)])
                n += 40
                wait_for(lambda: len(queried(tmp_path, "SELECT 1 FROM alerts")) == n, "all alerts")  # noqa: B023
                time.sleep(0.3)  # for what would come twice
                assert metric(port, "sink_messages_heard_total") == 40
                sink.send_signal(signal.SIGTERM)
                assert sink.wait(20) == 0


def test_what_cannot_be_started_says_why(tmp_path: Path) -> None:
    path = config(tmp_path, free_port(), store='events = "postgresql://nobody@127.0.0.1:1/x"')
    done = subprocess.run(cloud_sink("run", "-c", path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "postgresql+psycopg://nobody@127.0.0.1:1/x" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        cloud_sink("run", "-c", path, "--takeover", "sink-1"), capture_output=True, text=True, timeout=60
    )
    assert "that is this sink itself" in done.stderr


def test_points_reach_their_database_after_it_was_away(tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path, *LIMITS) as mosquitto, influx1(tmp_path) as database:
        influx = f'url = "{database.url}"\nversion = "1"'
        path = config(tmp_path, mosquitto.port, metrics_port=port, influx=influx)
        with running(path) as sink:
            ready(port)
            database.stop()
            publish(
                mosquitto.port,
                [status("g1"), *(alert(i) for i in range(30)), *(summary(i) for i in range(20))],
            )
            wait_for(
                lambda: metric(port, "sink_messages_stored_total") >= 51,
                "the messages, which do not wait for it",
            )
            wait_for(lambda: metric(port, "sink_point_failures_total") >= 1, "an attempt")
            assert metric(port, "sink_points_waiting") >= 51
            sink.kill()  # what waits is on disk
        database.start()
        with running(path) as sink:
            ready(port)
            wait_for(lambda: metric(port, "sink_points_waiting") == 0, "the points", 30)
            assert database.query("linewatch", 'SELECT sum("raised") FROM linewatch_alert')[0]["sum"] == 30
            assert (
                database.query("linewatch", 'SELECT sum("windows") FROM linewatch_score')[0]["sum"] == 20 * 40
            )
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """Nothing is acknowledged that is not on it; once there is room, all of it is."""
    port = free_port()
    with broker(tmp_path, *LIMITS) as mosquitto, small_disk(tmp_path, "6m") as disk:
        path = config(
            disk, mosquitto.port, metrics_port=port, influx='url = "http://127.0.0.1:1"\nversion = "1"'
        )
        with running(path) as sink:
            ready(port)
            publish(mosquitto.port, [summary(i) for i in range(20)])
            wait_for(lambda: len(stored(disk)) == 20, "what there was room for")
            filled(disk)
            messages = [summary(i, device=f"d{i % 40}") for i in range(20, 400)] + [
                alert(i) for i in range(200)
            ]
            publish(mosquitto.port, messages)
            wait_for(lambda: fetched(port, "/healthz")[0] == 503, "a sink that says so")
            assert metric(port, "sink_messages_stored_total") < 600
            (disk / "filler").unlink()
            wait_for(lambda: len(stored(disk)) == 400, "all summaries", 60)
            wait_for(lambda: len(queried(disk, "SELECT 1 FROM alerts")) == 200, "all alerts", 60)
            wait_for(lambda: fetched(port, "/healthz")[0] == 200, "its health")
            assert [p for p in disk.rglob("*") if p.name.endswith(".new")] == []
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0


def test_a_broker_that_is_stopped_and_frozen_costs_nothing(tmp_path: Path) -> None:
    """Stopped in order, so that it has on disk what it took from us: one that is killed may have acknowledged more. It keeps
    plain subscriptions over that, and no shared ones."""
    port = free_port()
    kept = (
        "persistence true",
        f"persistence_location {tmp_path}/",
        "autosave_interval 1",
        "autosave_on_changes true",
    )
    with broker(tmp_path, *LIMITS, *kept) as mosquitto:
        path = config(tmp_path, mosquitto.port, metrics_port=port, broker="keepalive_s = 2")
        with running(path) as sink:
            ready(port)
            for i in range(4):
                publish(mosquitto.port, [summary(j, device=f"e{i}") for j in range(100)])
                if i % 2:
                    mosquitto.freeze()
                    time.sleep(0.5)
                    mosquitto.thaw()
                else:
                    mosquitto.stop()
                    mosquitto.start()
            wait_for(lambda: len(stored(tmp_path)) == 400, "all of it", 60)
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0
