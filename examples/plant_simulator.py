"""Publishes the simulated plant over MQTT as its boards and PLCs would: packed float32, JSON and line protocol.

``python -m examples.plant_simulator --port 1883`` plays it in real time, for ``edge-node run -c
examples/simulated_plant.toml`` to watch; ``--speed 20`` in event time that runs twenty times as fast. What is
played when is arithmetic (:func:`payloads`); this module adds the pace and the broker.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from edge_node.sources.payloads import encode_packed
from examples.simulated_plant import FLEET, PLANT, Fault, Plant, Sensor, VibrationBoard

NS_PER_S = 1_000_000_000
CLOCK_TOPIC = "simulator/clock"
CLOCK_EVERY_S = 0.1  # of real time
MAX_READINGS_OUT = 5  # a broker that has not acknowledged so many is waited for

_encoder = msgspec.json.Encoder()


class ClockReading(msgspec.Struct, frozen=True, kw_only=True):
    """Where the simulator is, published as it plays; the counts are since it started."""

    second: int  # the next one to be played
    n_messages: int
    n_bytes: int  # of payload
    n_samples: int
    ended: bool = False


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to play: seconds [``from_s``, ``until_s``) of a plant that began at ``epoch_ns``, at ``speed`` times real time.
    ``machines``: these of the plant and of the fleet; none: the plant. ``swing``: how far vibration follows the load; None: as
    the sensors say. ``seed``: which day. Boards send ``batch_s`` seconds at once."""

    epoch_ns: int
    from_s: int
    until_s: int
    speed: float
    faults: tuple[Fault, ...] = ()
    machines: tuple[str, ...] = ()
    swing: float | None = None
    seed: int = 0
    batch_s: int = 1

    def plant(self) -> Plant:
        """The plant that is meant."""
        sensors = [s for s in (*PLANT, *FLEET) if s.machine in self.machines] if self.machines else PLANT
        if self.swing is not None:
            swing = self.swing
            sensors = [
                dataclasses.replace(s, swing=swing) if isinstance(s, VibrationBoard) else s for s in sensors
            ]
        return Plant(self.faults, sensors, self.seed)


def topic(sensor: Sensor) -> str:
    """Where ``sensor`` publishes."""
    kind = "vibration" if isinstance(sensor, VibrationBoard) else "process"
    return f"plant/{sensor.format}/{kind}/{sensor.device}"


def payload(
    plant: Plant, sensor: Sensor, second: int, epoch_ns: int, n_s: int = 1
) -> tuple[bytes, int] | None:
    """``n_s`` seconds of ``sensor`` as they are sent, and the number of samples; None when it is silent. The plant's second 0 is
    at ``epoch_ns``, Unix UTC."""
    found = [v for s in range(second, second + n_s) if (v := plant.second(sensor, s)) is not None]
    if len(found) < n_s:
        return None
    values = np.concatenate(found)
    start_ns = epoch_ns + second * NS_PER_S
    if sensor.format == "packed":
        return encode_packed(values, start_ns=start_ns, rate_hz=Fraction(sensor.rate_hz)), values.size
    columns = dict(zip(sensor.channels, _shortest(values.T.tolist()), strict=True))
    if sensor.format == "influx":
        fields = ",".join(f"{_escape(name)}={column[0]}" for name, column in columns.items())
        return f"process,machine={sensor.machine} {fields} {start_ns}".encode(), values.size
    if values.shape[0] == 1:
        row = {name: column[0] for name, column in columns.items()}
        return _encoder.encode({"t": start_ns, **row}), values.size
    return _encoder.encode({"t": start_ns, "rate_hz": sensor.rate_hz, **columns}), values.size


def payloads(plant: Plant, second: int, order: Order) -> Iterator[tuple[str, bytes, int]]:
    """(topic, payload, number of samples) of every sensor that sends what begins at ``second``."""
    until_s = min(second + order.batch_s, order.until_s)
    for sensor in plant.sensors:
        step_s = until_s - second if isinstance(sensor, VibrationBoard) else 1
        for begin_s in range(second, until_s, step_s):
            sent = payload(plant, sensor, begin_s, order.epoch_ns, step_s)
            if sent is not None:
                yield topic(sensor), *sent


def play(
    plant: Plant, order: Order, client: Client, stop: Callable[[], bool] = lambda: False
) -> ClockReading:
    """Publish ``order`` through a connected ``client`` whose loop runs, to its end or until ``stop`` says so; returns the last
    reading of the clock.

    Raises ConnectionError when the broker goes away.
    """
    out: deque[MQTTMessageInfo] = deque()
    n_messages = n_bytes = n_samples = 0
    reading = ClockReading(second=order.from_s, n_messages=0, n_bytes=0, n_samples=0)
    due = read = time.monotonic()
    for second in range(order.from_s, order.until_s, order.batch_s):
        for where, what, samples in payloads(plant, second, order):
            info = client.publish(where, what, qos=0)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise ConnectionError(f"the broker is gone (code {int(info.rc)})")
            n_messages, n_bytes, n_samples = n_messages + 1, n_bytes + len(what), n_samples + samples
        next_s = min(second + order.batch_s, order.until_s)
        ended = next_s == order.until_s or stop()
        if ended or time.monotonic() - read >= CLOCK_EVERY_S:
            read = time.monotonic()
            reading = ClockReading(
                second=next_s, n_messages=n_messages, n_bytes=n_bytes, n_samples=n_samples, ended=ended
            )
            out.append(client.publish(CLOCK_TOPIC, _encoder.encode(reading), qos=1))
        while len(out) > (0 if ended else MAX_READINGS_OUT):  # a slow broker slows the plant down
            acknowledged = out.popleft()
            acknowledged.wait_for_publish(10.0)
            if not acknowledged.is_published():
                raise ConnectionError("the broker has not acknowledged anything for 10 s")
        due += (next_s - second) / order.speed
        ahead_s = due - time.monotonic()
        if ended:
            break
        if ahead_s > 0.002:
            time.sleep(ahead_s)
        elif ahead_s < -0.5:
            due = time.monotonic()  # what was lost is not made up for in a burst
    return reading


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    if given.order is not None:
        order = msgspec.json.decode(given.order, type=Order)
    else:
        seconds = round(60 * given.minutes)
        # Event time ends now, however fast it runs, and a second is sent when it is over: nothing comes from the future.
        epoch_ns = time.time_ns() - round((1 + seconds * (1 - 1 / given.speed)) * NS_PER_S)
        order = Order(
            epoch_ns=epoch_ns,
            from_s=0,
            until_s=seconds,
            speed=given.speed,
        )
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    client.on_socket_open = _send_at_once
    stopping = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    try:
        client.connect(given.host, given.port)
        client.loop_start()
        try:
            reading = play(order.plant(), order, client, stopping.is_set)
        finally:
            client.disconnect()
            client.loop_stop()
    except OSError as error:
        print(f"plant_simulator: {given.host}:{given.port}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"sent {reading.n_samples:,} values in {reading.n_messages:,} messages, {reading.n_bytes:,} bytes")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.plant_simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--speed", type=float, default=1.0, help="times real time; default: %(default)s")
    parser.add_argument("--minutes", type=float, default=60.0, help="of plant time; default: %(default)s")
    parser.add_argument("--order", help="JSON of what to play, faults included, in place of the two above")
    return parser


def _send_at_once(_client: Client, _userdata: object, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _shortest(columns: list[list[float]]) -> list[list[float]]:
    """Floats that came through float32, at the three decimals that the sensors have."""
    return [[round(value, 3) for value in column] for column in columns]


def _escape(name: str) -> str:
    return name.replace(" ", "\\ ")


if __name__ == "__main__":
    sys.exit(main())
