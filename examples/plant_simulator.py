"""Publishes the simulated plant over MQTT as its boards and PLCs would: packed float32, JSON and line protocol.

``python -m examples.plant_simulator --port 1883`` plays it in real time, for ``edge-node run -c
examples/simulated_plant.toml`` to watch; ``--speed 20`` in event time that runs twenty times as fast. What is
played when is arithmetic (:func:`payloads`); this module adds the pace and the broker.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import msgspec
from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from edge_node.sources.payloads import encode_packed
from examples.simulated_plant import PLANT, Fault, Plant, Sensor, VibrationBoard

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
    """What to play: seconds [``from_s``, ``until_s``) of a plant that began at ``epoch_ns``; vibration from ``vibration_from_s``
    on. At ``speed`` times real time; before ``vibration_from_s``, where there is little to send, ``quiet_speed``.
    ``machines``: only these; none: all."""

    epoch_ns: int
    from_s: int
    until_s: int
    speed: float
    quiet_speed: float
    vibration_from_s: int
    faults: tuple[Fault, ...] = ()
    machines: tuple[str, ...] = ()

    def plant(self) -> Plant:
        """The plant that is meant."""
        return Plant(self.faults, [s for s in PLANT if not self.machines or s.machine in self.machines])


def topic(sensor: Sensor) -> str:
    """Where ``sensor`` publishes."""
    kind = "vibration" if isinstance(sensor, VibrationBoard) else "process"
    return f"plant/{sensor.format}/{kind}/{sensor.device}"


def payload(plant: Plant, sensor: Sensor, second: int, epoch_ns: int) -> tuple[bytes, int] | None:
    """One second of ``sensor`` as it is sent, and its number of samples; None when it is silent. The plant's second 0 is at
    ``epoch_ns``, Unix UTC."""
    values = plant.second(sensor, second)
    if values is None:
        return None
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
    """(topic, payload, number of samples) of every sensor that sends in ``second``."""
    for sensor in plant.sensors:
        if isinstance(sensor, VibrationBoard) and second < order.vibration_from_s:
            continue
        sent = payload(plant, sensor, second, order.epoch_ns)
        if sent is not None:
            yield topic(sensor), *sent


def play(plant: Plant, order: Order, client: Client) -> ClockReading:
    """Publish ``order`` through a connected ``client`` whose loop runs; returns the last reading of the clock.

    Raises ConnectionError when the broker goes away.
    """
    out: deque[MQTTMessageInfo] = deque()
    n_messages = n_bytes = n_samples = 0
    reading = ClockReading(second=order.from_s, n_messages=0, n_bytes=0, n_samples=0)
    due = read = time.monotonic()
    for second in range(order.from_s, order.until_s):
        for where, what, samples in payloads(plant, second, order):
            info = client.publish(where, what, qos=0)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise ConnectionError(f"the broker is gone (code {int(info.rc)})")
            n_messages, n_bytes, n_samples = n_messages + 1, n_bytes + len(what), n_samples + samples
        ended = second + 1 == order.until_s
        if ended or time.monotonic() - read >= CLOCK_EVERY_S:
            read = time.monotonic()
            reading = ClockReading(
                second=second + 1, n_messages=n_messages, n_bytes=n_bytes, n_samples=n_samples, ended=ended
            )
            out.append(client.publish(CLOCK_TOPIC, _encoder.encode(reading), qos=1))
        while len(out) > (0 if ended else MAX_READINGS_OUT):  # a slow broker slows the plant down
            acknowledged = out.popleft()
            acknowledged.wait_for_publish(10.0)
            if not acknowledged.is_published():
                raise ConnectionError("the broker has not acknowledged anything for 10 s")
        due += 1.0 / (order.quiet_speed if second < order.vibration_from_s else order.speed)
        ahead_s = due - time.monotonic()
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
            quiet_speed=given.speed,
            vibration_from_s=0,
        )
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    client.on_socket_open = _send_at_once
    try:
        client.connect(given.host, given.port)
        client.loop_start()
        try:
            reading = play(order.plant(), order, client)
        finally:
            client.disconnect()
            client.loop_stop()
    except OSError as error:
        print(f"plant_simulator: {given.host}:{given.port}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
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
