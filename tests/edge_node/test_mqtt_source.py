from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from edge_node.config_schema import MqttSource, MqttSubscription
from edge_node.sources import SOURCES, Reach, Source
from edge_node.sources.mqtt import MqttSubscriber, max_packet_bytes
from edge_node.sources.payloads import encode_packed
from models.signal import Channel, Device, DropReason, Mode, SampleBlock
from tests.brokers import HOST, Broker, Subscriber, broker, wait_for

T = 1_770_000_000_000_000_000

PRESS = Device(
    device_id="press-4",
    machine="press",
    rate_hz=Fraction(1000),
    channels=(Channel(name="x"), Channel(name="y"), Channel(name="z", scale=0.5)),
)
OVEN = Device(
    device_id="oven",
    machine="oven",
    mode=Mode.IRREGULAR,
    channels=(Channel(name="temp"), Channel(name="hum")),
)
DEVICES = {d.device_id: d for d in (PRESS, OVEN)}

ACCEL = MqttSubscription(topic="acc/{device}", devices={"p4": "press-4"}, time_key="t", rate_key="rate_hz")
TEMPS = MqttSubscription(topic="plant/{device}/+/{channel}", format="number", channels={"temp": "T1"})


def config(port: int, *subscriptions: MqttSubscription, **more: Any) -> MqttSource:
    return MqttSource(
        host=HOST, port=port, subscribe=subscriptions, reconnect_min_s=0.05, reconnect_max_s=0.2, **more
    )


class Collected:
    """Where the daemon has its queue."""

    def __init__(self, capacity: int = 10**9) -> None:
        self.blocks: list[SampleBlock] = []
        self.capacity = capacity

    def __call__(self, block: SampleBlock) -> bool:
        if len(self.blocks) >= self.capacity:
            return False
        self.blocks.append(block)
        return True


@contextmanager
def running(source: Source, emit: Callable[[SampleBlock], bool], *, connected: bool = True) -> Iterator[None]:
    """``source`` in an event loop of its own thread, as the daemon would run it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running: Coroutine[Any, Any, None] = source.run(lambda block, /, *, kept=False: int(emit(block)))
    task = asyncio.run_coroutine_threadsafe(running, loop)
    try:
        if connected:
            wait_for(lambda: source.reach.connected or task.done(), "the source's connection")
        yield
        assert not task.done() or task.result() is None
    finally:
        task.cancel()
        ended = asyncio.run_coroutine_threadsafe(_others_done(), loop)
        ended.result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _others_done() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    with broker(tmp_path) as started:
        yield started


def test_the_map_builds_the_source() -> None:
    source = SOURCES["mqtt"](config(1883, ACCEL, name="plant"), DEVICES)
    assert (source.name, source.reach) == ("plant", Reach(False, 0, None))


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_messages_become_blocks(mosquitto: Broker, version: Any) -> None:
    packed = MqttSubscription(topic="raw/press", device="press-4", format="packed", qos=1)
    source = MqttSubscriber(config(mosquitto.port, ACCEL, TEMPS, packed, version=version), DEVICES)
    got = Collected()
    batch = {"t": T, "rate_hz": 1000, "x": [1, 2], "y": [3, 4], "z": [5, 6]}
    with running(source, got), Subscriber(mosquitto.port) as sensor:
        sensor.publish("acc/p4", json.dumps(batch))
        sensor.publish("plant/oven/a/T1", "21.5")
        sensor.publish("plant/oven/a/hum", "40")
        values = np.arange(6.0).reshape(2, 3)
        sensor.publish("raw/press", encode_packed(values, start_ns=T, rate_hz=Fraction(1000)))
        wait_for(lambda: len(got.blocks) == 4, "four blocks")
    first, temp, hum, raw = got.blocks
    assert first.device_id == "press-4"
    assert first.values.tolist() == [[1, 3, 2.5], [2, 4, 3]]
    assert (temp.device_id, temp.channels, temp.values.tolist()) == ("oven", ("temp",), [[21.5]])
    assert hum.channels == ("hum",)
    assert raw.values.tolist() == [[0, 1, 1], [3, 4, 2.5]]
    assert not source.reach.connected
    counters = source.counters
    assert (counters.n_messages, counters.n_blocks, counters.n_samples) == (4, 4, 14)
    assert not counters.message_drops
    assert not counters.sample_drops


def test_bad_messages_are_counted_named_and_harmless(mosquitto: Broker) -> None:
    some = MqttSubscription(topic="acc/{device}", time_key="t", max_payload_bytes=100_000)
    source = MqttSubscriber(config(mosquitto.port, some, TEMPS), DEVICES)
    got = Collected()
    bad = [
        ("acc/press-4", b'{"t": 1, "x": [1, 2', DropReason.MALFORMED, "not JSON: Input data was truncated"),
        (
            "acc/press-4",
            b'{"t": 1, "x": "1"}',
            DropReason.MALFORMED,
            None,
        ),  # same topic and reason: held back
        ("acc/press-4", b"[" + b"1," * 2_500_000 + b"1]", DropReason.OVERSIZE, "5000003 bytes"),
        ("acc/kiln", b'{"t": 1, "x": 1}', DropReason.UNKNOWN_DEVICE, "no device 'kiln'"),
        ("plant/oven/a/volume", b"11", DropReason.UNKNOWN_CHANNEL, "device oven has no channel 'volume'"),
        ("plant/oven/a/T1", b"\xff\xfe", DropReason.MALFORMED, "not UTF-8 text: byte 0 is 0xff"),
        ("plant/oven/a/T1", b"", DropReason.MALFORMED, None),
    ]
    with capture_logs() as logs, running(source, got), Subscriber(mosquitto.port) as sensor:
        for topic, payload, _, _ in bad:
            sensor.publish(topic, payload)
        sensor.publish("plant/oven/a/T1", "7")
        wait_for(lambda: got.blocks, "the good message behind the bad ones", 60)
        assert source.reach.connected
    assert len(got.blocks) == 1
    assert source.counters.n_messages == len(bad) + 1
    reasons = [reason for _, _, reason, _ in bad]
    assert source.counters.message_drops == {reason: reasons.count(reason) for reason in reasons}
    warned = [e["event"] for e in logs if e["log_level"] == "warning"]
    expected = [(topic, text) for topic, _, _, text in bad if text is not None]
    assert len(warned) == len(expected)
    for line, (topic, text) in zip(warned, expected, strict=True):
        assert line.startswith(f"{topic}: {text}")


def test_over_mqtt_5_the_broker_keeps_back_what_is_far_too_large(mosquitto: Broker) -> None:
    """What a message can cost in memory is bounded; somewhat too large a message is still seen, counted and named."""
    some = MqttSubscription(topic="acc/{device}", time_key="t", max_payload_bytes=100_000)
    settings = config(mosquitto.port, some, TEMPS, version="5")
    largest = max_packet_bytes(settings)
    assert largest == 2 * TEMPS.max_payload_bytes + 65_536
    source = MqttSubscriber(settings, DEVICES)
    got = Collected()
    with running(source, got), Subscriber(mosquitto.port) as sensor:
        sensor.publish("acc/press-4", bytes(largest))
        sensor.publish("acc/press-4", bytes(2 * TEMPS.max_payload_bytes))
        sensor.publish("plant/oven/a/T1", "7")
        wait_for(lambda: got.blocks, "the good message behind the large ones", 60)
    assert source.counters.n_messages == 2
    assert source.counters.n_bytes == 2 * TEMPS.max_payload_bytes + 1
    assert source.counters.message_drops == {DropReason.OVERSIZE: 1}


def test_a_topic_that_nobody_asked_for() -> None:
    source = MqttSubscriber(config(1, TEMPS), DEVICES)
    source.on_message("other/topic", b"1", False)
    source.on_message("", b"1", False)  # a topic that was not UTF-8
    assert source.counters.message_drops == {DropReason.UNKNOWN_TOPIC: 2}


def test_blocks_that_the_queue_refuses_are_counted(mosquitto: Broker) -> None:
    source = MqttSubscriber(config(mosquitto.port, ACCEL), DEVICES)
    got = Collected(capacity=1)
    with running(source, got), Subscriber(mosquitto.port) as sensor:
        for i in range(3):
            batch = {"t": T + i, "rate_hz": 1000, "x": [1, 2], "y": [1, 2], "z": [1, 2]}
            sensor.publish("acc/press-4", json.dumps(batch))
        wait_for(lambda: source.counters.n_messages == 3, "three messages")
    assert source.counters.n_samples == 6
    assert source.counters.sample_drops == {DropReason.QUEUE_FULL: 12}


def test_a_retained_reading_is_of_unknown_age(mosquitto: Broker) -> None:
    with Subscriber(mosquitto.port) as sensor:
        sensor.publish("plant/oven/a/T1", "99", retain=True)
        source = MqttSubscriber(config(mosquitto.port, TEMPS), DEVICES)
        got = Collected()
        with running(source, got):
            wait_for(lambda: source.counters.n_messages, "the retained message")
            sensor.publish("plant/oven/a/T1", "21")
            wait_for(lambda: got.blocks, "the live message")
    assert [b.values.tolist() for b in got.blocks] == [[[21.0]]]
    assert source.counters.message_drops == {DropReason.TOO_OLD: 1}


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_broker_that_dies_and_comes_back(mosquitto: Broker, version: Any) -> None:
    source = MqttSubscriber(config(mosquitto.port, TEMPS, version=version), DEVICES)
    got = Collected()
    with capture_logs() as logs, running(source, got):
        with Subscriber(mosquitto.port) as sensor:
            sensor.publish("plant/oven/a/T1", "1")
            wait_for(lambda: len(got.blocks) == 1, "the first message")
        mosquitto.kill()
        wait_for(lambda: not source.reach.connected, "losing the connection")
        wait_for(lambda: "connection refused" in (source.reach.last_error or ""), "a failed attempt")
        mosquitto.start()
        wait_for(lambda: source.reach.connected, "the reconnect")
        assert source.reach.last_error is None
        with Subscriber(mosquitto.port) as sensor:

            def heard() -> bool:
                sensor.publish("plant/oven/a/T1", "2")
                return len(got.blocks) > 1

            wait_for(heard, "the subscription")
    assert got.blocks[-1].values.tolist() == [[2.0]]
    refused = [e["event"] for e in logs if "connection refused: no broker listens there" in e["event"]]
    assert len(refused) == 1  # the same failure again and again is one line
