from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from edge_node.config_schema import Uplink as UplinkConfig
from edge_node.uplink import MAX_LOST, Uplink
from models.broker_options import Tls
from models.messages import Status, encode
from models.signal import DeviceCondition, DropReason
from tests.brokers import HOST, Broker, Subscriber, broker, certificates, free_port, retained, wait_for
from tests.edge_node.outgoing_messages import (
    TOPICS,
    alert,
    device_state,
    message_ids,
    states,
    status,
    summary,
)

ALERTS = "lw/plant/gw-1/alert/press-4"
SUMMARIES = "lw/plant/gw-1/summary/press-4"
STATE = "lw/plant/gw-1/device/press-4/state"


def config(port: int, **more: Any) -> UplinkConfig:
    settings: Any = {"host": HOST, "port": port, "reconnect_min_s": 0.05, "reconnect_max_s": 0.2} | more
    return UplinkConfig(**settings)


@contextmanager
def uplink(settings: UplinkConfig, offline: Status | None = None, **more: Any) -> Iterator[Uplink]:
    """A started uplink, stopped at the end; whatever happened, its books must balance."""
    up = Uplink(settings, TOPICS, offline or status("offline"), **more)
    up.start()
    try:
        yield up
    finally:
        up.stop(status("stopped"), 2.0)
        up.finished.result(10)
    balanced(up)


def balanced(up: Uplink) -> None:
    c = up.counters()
    dropped: Counter[str] = Counter()
    for (kind, _), n in c.drops.items():
        dropped[kind] += n
    assert +(c.n_published + c.n_republished) == +(c.n_delivered + c.n_superseded + dropped)
    assert up.n_queued == 0
    assert up.n_queued_bytes == 0


def connected(up: Uplink) -> None:
    wait_for(lambda: up.connected, "the uplink's connection")


def delivered(up: Uplink) -> None:
    wait_for(lambda: up.n_queued == 0, "delivery")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    with broker(tmp_path) as started:
        yield started


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_publishes_each_type_on_its_topic(mosquitto: Broker, version: Any) -> None:
    with Subscriber(mosquitto.port, "lw/#") as sink, uplink(config(mosquitto.port, version=version)) as up:
        up.publish(status())
        up.publish(alert(1))
        up.publish(summary(1))
        up.publish(device_state())
        delivered(up)
        wait_for(lambda: len(sink.messages) == 4, "four messages")
        assert sink.on(ALERTS) == [encode(alert(1))]
        assert sink.on(SUMMARIES) == [encode(summary(1))]
        c = up.counters()
        assert c.n_delivered == {"status": 1, "alert": 1, "summary": 1, "device_state": 1}
        assert c.n_bytes["alert"] == len(encode(alert(1))) + len(ALERTS)
        with Subscriber(mosquitto.port, "lw/#") as late:  # what is retained, and nothing else
            wait_for(lambda: len(late.messages) == 2, "the retained messages")
            assert states(late.on(STATE)) == ["normal"]
            assert states(late.on(TOPICS.status)) == ["online"]
    wait_for(lambda: states(sink.on(TOPICS.status)) == ["online", "stopped"], "the last word")
    assert not up.connected


def test_the_last_word_comes_after_all_others(mosquitto: Broker) -> None:
    with Subscriber(mosquitto.port, "lw/#") as sink:
        up = Uplink(config(mosquitto.port), TOPICS, status("offline"))
        up.start()
        connected(up)
        for i in range(500):
            up.publish(alert(i))
        assert up.stop(status("stopped"), 30.0) == 0
        wait_for(lambda: sink.on(TOPICS.status), "the last word")
        assert [m.topic for m in sink.messages] == [ALERTS] * 500 + [TOPICS.status]
        assert message_ids(sink.on(ALERTS)) == [f"a{i}-0" for i in range(500)]
    balanced(up)


def test_the_last_will_is_seen_when_our_socket_is_cut(
    mosquitto: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[socket.socket] = []
    real = socket.create_connection

    def spy(*args: Any, **kwargs: Any) -> socket.socket:
        opened.append(real(*args, **kwargs))
        return opened[-1]

    with Subscriber(mosquitto.port, TOPICS.status) as sink:
        monkeypatch.setattr(socket, "create_connection", spy)
        with uplink(config(mosquitto.port, reconnect_min_s=0.5, reconnect_max_s=0.5)) as up:
            up.publish(status())
            delivered(up)
            opened[0].shutdown(socket.SHUT_RDWR)
            wait_for(lambda: len(sink.messages) >= 3, "offline, and online again")
            assert states(sink.on(TOPICS.status))[:3] == ["online", "offline", "online"]
            assert up.n_connects == 2


def test_a_will_that_comes_late_is_corrected(mosquitto: Broker) -> None:
    """The broker finds out only now that our former connection, before a power cut, is gone."""
    with Subscriber(mosquitto.port, TOPICS.status) as sink, uplink(config(mosquitto.port)) as up:
        up.publish(status())
        delivered(up)
        sink.publish(TOPICS.status, encode(status("offline", boot_id="boot-before")), retain=True)
        wait_for(lambda: len(sink.messages) == 3, "the correction")
        assert states(sink.on(TOPICS.status)) == ["online", "offline", "online"]
        assert up.conflicts == ()
        assert up.counters().n_republished == {"status": 1}


def test_the_state_of_a_device_that_is_gone_is_taken_back_for_good(mosquitto: Broker) -> None:
    with uplink(config(mosquitto.port)) as up, Subscriber(mosquitto.port, "lw/#") as sink:
        up.publish(status())
        up.publish(device_state(DeviceCondition.ANOMALOUS))
        up.publish(device_state(device="press-5"))
        delivered(up)
        up.forget("press-4")
        delivered(up)
        wait_for(lambda: sink.on(STATE)[1:] == [b""], "the empty message")
        other = STATE.replace("press-4", "press-5")
        assert set(retained(mosquitto.port, "lw")) == {TOPICS.status, other}
        mosquitto.kill()
        wait_for(lambda: not up.connected, "losing the connection")
        mosquitto.start()  # without its memory
        connected(up)
        delivered(up)
        assert set(retained(mosquitto.port, "lw")) == {TOPICS.status, other}


def test_a_state_that_waits_is_never_sent_once_its_device_is_gone(mosquitto: Broker) -> None:
    up = Uplink(config(mosquitto.port), TOPICS, status("offline"))
    up.publish(device_state(DeviceCondition.ANOMALOUS))
    up.forget("press-4")
    assert up.n_queued == 1
    with Subscriber(mosquitto.port, "lw/#") as sink:
        up.start()
        connected(up)
        delivered(up)
        up.publish(device_state())  # it is back
        up.stop(status("stopped"), 5.0)
        wait_for(lambda: len(sink.on(STATE)) == 2, "both messages")
        assert sink.on(STATE) == [b"", encode(device_state())]
    balanced(up)


def test_a_clone_is_reported_and_not_fought(mosquitto: Broker) -> None:
    with capture_logs() as logs, uplink(config(mosquitto.port)) as up:
        up.publish(status())
        delivered(up)
        with uplink(config(mosquitto.port), status("offline", boot_id="boot-of-clone")) as clone:
            clone.publish(status(boot_id="boot-of-clone"))
            wait_for(lambda: up.conflicts, "the conflict")
            assert up.conflicts == ("boot-of-clone",)
            up.publish(status(conflicts=up.conflicts))
            wait_for(lambda: clone.conflicts == ("boot-of-ours",), "the conflict, seen from the clone")
            assert up.connected
            assert clone.connected
            assert up.n_connects == clone.n_connects == 1
            assert up.counters().n_republished == {}
        warned = [
            e["event"] for e in logs if e["log_level"] == "warning" and "boot-of-clone, ours" in e["event"]
        ]
        assert len(warned) == 1
        assert "another computer publishes as plant/gw-1" in warned[0]


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_clones_that_throw_each_other_off_are_reported(mosquitto: Broker, version: Any) -> None:
    """With one client_id they are never connected at once: each finds only what the other left retained."""
    settings = config(mosquitto.port, version=version, client_id="hall-3")
    with capture_logs() as logs, uplink(settings) as up:
        up.publish(status())
        delivered(up)
        assert up.n_foreign == 0
        with uplink(settings, status("offline", boot_id="boot-of-clone")) as clone:
            clone.publish(status(boot_id="boot-of-clone"))
            wait_for(lambda: up.conflicts and clone.conflicts, "the conflict, seen from both")
            assert (up.conflicts, clone.conflicts) == (("boot-of-clone",), ("boot-of-ours",))
            assert up.n_foreign
            for i in range(200):
                up.publish(alert(i))
            wait_for(lambda: up.counters().n_delivered["alert"] == 200, "alerts, in spite of it all", 60)
        assert not up.counters().drops
    text = "\n".join(e["event"] for e in logs)
    assert "another computer publishes as plant/gw-1 (boot id boot-of-clone, ours is boot-of-ours)" in text


def test_what_the_gateway_itself_left_retained_is_no_conflict(mosquitto: Broker) -> None:
    with uplink(config(mosquitto.port, client_id="hall-3")) as up:
        up.publish(status(boot_id="boot-of-ours"))
        delivered(up)
    restarted = status("offline", boot_id="boot-after")
    with uplink(config(mosquitto.port, client_id="hall-3"), restarted) as up:
        up.publish(status(boot_id="boot-after"))
        delivered(up)
        mosquitto.kill()
        mosquitto.start()
        wait_for(lambda: up.n_connects == 2, "the reconnect")
        delivered(up)
        assert up.conflicts == ()
        assert up.n_foreign == 0


@pytest.mark.parametrize("payload", [b"", b"nonsense", b"\xff", b'{"type": "status"}', b'{"type": "alert"}'])
def test_nonsense_on_our_status_topic_is_harmless(mosquitto: Broker, payload: bytes) -> None:
    with capture_logs() as logs, Subscriber(mosquitto.port) as other, uplink(config(mosquitto.port)) as up:
        connected(up)
        up.publish(status())
        delivered(up)
        other.publish(TOPICS.status, payload)
        wait_for(lambda: [e for e in logs if "a message that is no status" in e["event"]], "the line")
        up.publish(alert())
        delivered(up)
        assert up.n_connects == 1


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_broker_that_is_killed_and_restarted(mosquitto: Broker, version: Any) -> None:
    with uplink(config(mosquitto.port, version=version)) as up:
        up.publish(status())
        up.publish(device_state())
        for i in range(20):
            up.publish(alert(i))
        delivered(up)
        mosquitto.kill()
        wait_for(lambda: not up.connected, "losing the connection")
        for i in range(20, 500):
            up.publish(alert(i))
        up.publish(device_state(DeviceCondition.ANOMALOUS))
        wait_for(lambda: up.last_error, "a failed attempt")
        assert up.n_queued == 481
        mosquitto.start()  # without its memory: the retained messages are gone
        with Subscriber(mosquitto.port, "lw/#") as sink:
            # subscribed before, or after we are back: in either case all that was queued comes or is retained
            delivered(up)
            connected(up)
            wait_for(lambda: sink.on(TOPICS.status) and sink.on(STATE), "status and state, again")
            assert states(sink.on(TOPICS.status))[0] == "online"
            assert states(sink.on(STATE))[0] == "anomalous"
        c = up.counters()
        assert c.n_delivered["alert"] == 500
        assert c.n_republished == {"status": 1}
        assert c.n_superseded == {}
        assert not c.drops


def cut(opened: list[socket.socket], n_cuts: int, up: Uplink) -> None:
    """Cuts the uplink's connection, once the one after the last cut has delivered something."""
    wait_for(lambda: up.n_connects == n_cuts + 1, "the reconnect")
    before = up.counters().n_delivered["alert"]
    wait_for(lambda: up.counters().n_delivered["alert"] > before or up.n_queued == 0, "some progress")
    opened[-1].shutdown(socket.SHUT_RDWR)


def test_nothing_is_lost_when_connections_break_under_way(
    mosquitto: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut while messages are in flight, again and again: each comes at least once, and in order where
    first sent."""
    opened: list[socket.socket] = []
    real = socket.create_connection

    def spy(*args: Any, **kwargs: Any) -> socket.socket:
        opened.append(real(*args, **kwargs))
        return opened[-1]

    with Subscriber(mosquitto.port, "lw/#") as sink:
        monkeypatch.setattr(socket, "create_connection", spy)
        with uplink(config(mosquitto.port)) as up:
            for i in range(2_000):
                up.publish(alert(i))
                if i % 400 == 200:
                    cut(opened, i // 400, up)
            delivered(up)
            assert up.n_connects == 6
            assert up.counters().n_delivered == {"alert": 2_000}
        wait_for(lambda: len(set(message_ids(sink.on(ALERTS)))) == 2_000, "every alert at the sink", 30)
        seen = message_ids(sink.on(ALERTS))
    assert list(dict.fromkeys(seen)) == [f"a{i}-0" for i in range(2_000)]


def test_before_anything_else_the_broker_hears_the_present_state(tmp_path: Path) -> None:
    verbose = Broker(tmp_path, "log_type all")
    with uplink(config(verbose.port)) as up:
        for i in range(30):
            up.publish(alert(i))
        up.publish(device_state(DeviceCondition.NORMAL))
        up.publish(device_state(DeviceCondition.STALE))
        up.publish(status())
        assert up.n_queued == 32
        assert up.counters().n_superseded == {"device_state": 1}
        wait_for(lambda: up.last_error, "a failed attempt")
        verbose.start()
        delivered(up)
    verbose.stop()
    received = [line for line in verbose.log().splitlines() if "Received PUBLISH from plant-gw-1" in line]
    assert [line.split("'")[1] for line in received][:3] == [TOPICS.status, STATE, ALERTS]


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_message_that_the_broker_will_not_have(tmp_path: Path, version: Any) -> None:
    """Over 3.1.1 the broker can only close the connection: the culprit is found, dropped and named."""
    with (
        capture_logs() as logs,
        broker(tmp_path, "max_packet_size 5000") as strict,
        Subscriber(strict.port, "lw/#") as sink,
        uplink(config(strict.port, version=version)) as up,
    ):
        up.publish(status())
        for i in range(10):
            up.publish(alert(i))
        up.publish(summary(0, reservoir="x" * 6_000))
        for i in range(10, 20):
            up.publish(alert(i))
        delivered(up)
        c = up.counters()
        assert c.drops == {("summary", DropReason.REFUSED): 1}
        assert c.n_delivered["alert"] == 20
        wait_for(lambda: set(message_ids(sink.on(ALERTS))) >= {f"a{i}-0" for i in range(20)}, "all alerts")
        assert up.n_connects == (1 if version == "5" else MAX_LOST + 1)
    text = next(e["event"] for e in logs if "dropped a message" in e["event"])
    assert text.startswith(f"{SUMMARIES}: dropped a message of ")
    assert text.endswith(
        "the broker takes at most 5000 bytes"
        if version == "5"
        else f"the broker closed the connection {MAX_LOST} times when sent it"
    )


def test_a_publication_that_is_not_authorised(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite lw/+/+/status\ntopic readwrite lw/+/+/alert/#\n")
    with broker(tmp_path, f"acl_file {acl}") as guarded, uplink(config(guarded.port)) as up:
        up.publish(alert())
        up.publish(summary())
        delivered(up)
        assert up.counters().n_delivered == {"alert": 1}
        assert up.counters().drops == {("summary", DropReason.REFUSED): 1}


def test_a_full_queue_gives_up_summaries_first() -> None:
    with capture_logs() as logs:
        up = Uplink(config(free_port(), queue_messages=10), TOPICS, status("offline"))
        for i in range(20):
            up.publish(summary(i))
            up.publish(alert(i))
        assert up.n_queued == 10
        assert up.counters().drops == {
            ("summary", DropReason.EVICTED): 20,
            ("alert", DropReason.EVICTED): 10,
        }
        up.start()
        assert up.stop(status("stopped"), 0.2) == 11  # with the last word
    assert up.counters().drops["alert", DropReason.DOWN] == 10
    balanced(up)
    lines = [e["event"] for e in logs if e["log_level"] == "warning"]
    assert lines[0] == "the queue is full: gave up one message, of type summary"
    assert lines[-1] == "stopped with 11 messages that the broker did not acknowledge"


def test_one_message_is_not_messages() -> None:
    with capture_logs() as logs:
        up = Uplink(config(free_port()), TOPICS, status("offline"))
        up.start()
        assert up.stop(status("stopped"), 0.1) == 1
    assert logs[-1]["event"] == "stopped with 1 message that the broker did not acknowledge"


def test_a_queue_bounded_in_bytes() -> None:
    size = len(encode(summary(0))) + len(SUMMARIES)
    up = Uplink(config(free_port(), queue_bytes=5 * size), TOPICS, status("offline"))
    for i in range(8):
        up.publish(summary(i))
    assert up.n_queued == 5
    assert up.n_queued_bytes == 5 * size


def test_tls_and_password(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    with broker(tmp_path, *files.options, password=("gw", "s3cret")) as secure:
        settings = config(secure.port, username="gw", password_file=secret, tls=Tls(ca_file=files.ca))
        with uplink(settings) as up:
            up.publish(alert())
            delivered(up)
            assert up.counters().n_delivered == {"alert": 1}


def test_publish_never_waits_and_stop_is_bounded() -> None:
    """A broker that takes the connection and says nothing."""
    with socket.create_server((HOST, 0)) as silent:
        up = Uplink(config(silent.getsockname()[1]), TOPICS, status("offline"))
        up.start()
        for i in range(1_000):
            up.publish(alert(i))
        started = time.monotonic()
        assert up.stop(status("stopped"), 0.2) == 1_001
        assert time.monotonic() - started < 15
        up.finished.result(15)
    balanced(up)


def test_the_last_will_must_say_offline() -> None:
    with pytest.raises(ValueError, match="the last will says 'online', not 'offline'"):
        Uplink(config(1), TOPICS, status("online"))


def test_only_messages_are_published() -> None:
    up = Uplink(config(1), TOPICS, status("offline"))
    with pytest.raises(TypeError, match="dict may not leave the gateway"):
        up.publish({"raw": [1.0]})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a message of plant/gw-2"):
        up.publish(msgspec.structs.replace(alert(), gateway="gw-2"))
    assert up.n_queued == 0
    assert up.counters().n_published == {}
