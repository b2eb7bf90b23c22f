"""The demo's subscriber: what the gateway publishes, and where the simulator is."""

from __future__ import annotations

import queue
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from examples.demo.processes import HOST, DemoError
from examples.demo.report import Upstream
from examples.plant_simulator import CLOCK_TOPIC, ClockReading
from models.messages import Alert, Status
from models.topics import DEFAULT_PREFIX

UPSTREAM = f"{DEFAULT_PREFIX}/#"


class _Kind(msgspec.Struct):
    type: str


class Monitor:
    """Receives on a thread of its own; :meth:`take` hands over what came, in order, and counts it. Every alert is also
    appended to ``alerts_file`` as it is."""

    def __init__(self, port: int, alerts_file: Path) -> None:
        self.n_messages: Counter[str] = Counter()
        self.n_bytes: Counter[str] = Counter()
        self.status: Status | None = None
        self.clock: ClockReading | None = None
        self._alerts_file = alerts_file
        self._came: queue.SimpleQueue[tuple[int, str, bytes]] = queue.SimpleQueue()
        self._subscribed: queue.SimpleQueue[None] = queue.SimpleQueue()
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        client.on_connect = lambda c, *_: c.subscribe([(UPSTREAM, 1), (CLOCK_TOPIC, 1)])
        client.on_subscribe = lambda *_: self._subscribed.put(None)
        client.on_message = self._on_message
        self._client = client
        try:
            client.connect(HOST, port)
        except OSError as error:
            raise DemoError(f"the broker on port {port} cannot be reached: {error}") from error
        client.loop_start()

    def __enter__(self) -> Monitor:
        try:
            self._subscribed.get(timeout=10.0)
        except queue.Empty:
            self.__exit__()
            raise DemoError("the broker does not acknowledge a subscription") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def take(self, wait_s: float = 0.0) -> list[tuple[int, Alert | ClockReading | Status]]:
        """What came since the last call, each with the wall-clock time it came at; waits up to ``wait_s`` for something to
        come."""
        found: list[tuple[int, Alert | ClockReading | Status]] = []
        try:
            while True:
                at_ns, topic, payload = self._came.get(timeout=0.0 if found else wait_s)
                found += [(at_ns, item) for item in self._read(topic, payload)]
                wait_s = 0.0
        except queue.Empty:
            return found

    def upstream(self) -> Upstream:
        """What the gateway published so far."""
        return Upstream(
            self.n_messages, self.n_bytes, self.status.counters if self.status is not None else {}
        )

    def _read(self, topic: str, payload: bytes) -> list[Alert | ClockReading | Status]:
        if topic == CLOCK_TOPIC:
            self.clock = msgspec.json.decode(payload, type=ClockReading)
            return [self.clock]
        if not payload:  # a retained message is taken back
            return []
        kind = msgspec.json.decode(payload, type=_Kind).type
        self.n_messages[kind] += 1
        self.n_bytes[kind] += len(payload)
        if kind == "status":
            self.status = msgspec.json.decode(payload, type=Status)
            return [self.status]
        if kind == "alert":
            with self._alerts_file.open("ab") as file:
                file.write(payload + b"\n")
            return [msgspec.json.decode(payload, type=Alert)]
        return []

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        self._came.put((time.time_ns(), message.topic, bytes(message.payload)))
