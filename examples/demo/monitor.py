"""The demo's ears, and its operator's voice: what gateways publish, where the simulator is, and requests to gateways."""

from __future__ import annotations

import queue
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from examples.demo.configuration import SITE
from examples.demo.findings import Traffic
from examples.demo.processes import HOST, DemoError
from examples.plant_simulator import CLOCK_TOPIC, ClockReading
from models.messages import Alert, ModelState, Response, Status
from models.requests import AlertLabel, LabelRequest
from models.topics import DEFAULT_PREFIX, GatewayTopics, ModelTopics

UPSTREAM = f"{DEFAULT_PREFIX}/{SITE}/#"
OPERATOR = "Anna"

Heard = Alert | ClockReading | ModelState | Response | Status


class _Kind(msgspec.Struct):
    type: str


_TYPES: dict[str, type[Alert | ModelState | Response | Status]] = {
    "alert": Alert,
    "model_state": ModelState,
    "response": Response,
    "status": Status,
}


class Monitor:
    """Receives on a thread of its own; :meth:`take` hands over what came, in order, and counts it. Every alert is also
    appended to ``alerts_file`` as it is."""

    def __init__(self, port: int, model_id: str, alerts_file: Path) -> None:
        self.n_messages: Counter[str] = Counter()
        self.n_bytes: Counter[str] = Counter()  # topics included
        self.statuses: dict[str, Status] = {}
        self.models: dict[str, ModelState] = {}
        self.clock: ClockReading | None = None
        self.for_all = False  # whether a model was published to all gateways
        self._played = Counter[str]()  # bytes and values of the simulators before this one
        self._alerts_file = alerts_file
        self._stable = ModelTopics(DEFAULT_PREFIX, model_id).stable
        self._came: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._subscribed: queue.SimpleQueue[None] = queue.SimpleQueue()
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        client.on_connect = lambda c, *_: c.subscribe([(UPSTREAM, 1), (self._stable, 1), (CLOCK_TOPIC, 1)])
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

    def take(self, wait_s: float = 0.0) -> list[Heard]:
        """What came since the last call; waits up to ``wait_s`` for something to come."""
        found: list[Heard] = []
        try:
            while True:
                topic, payload = self._came.get(timeout=0.0 if found else wait_s)
                item = self._read(topic, payload)
                if item is not None:
                    found.append(item)
                wait_s = 0.0
        except queue.Empty:
            return found

    def label(self, alert: Alert, label: AlertLabel, note: str) -> None:
        """Asks the gateway of ``alert`` to note what its operator calls it."""
        request = LabelRequest(
            transaction=f"label-{alert.alert_id}",
            alert_id=alert.alert_id,
            label=label,
            by=OPERATOR,
            note=note,
        )
        topics = GatewayTopics(DEFAULT_PREFIX, alert.site, alert.gateway)
        self._client.publish(topics.request("label"), msgspec.json.encode(request), qos=1)

    def new_simulator(self) -> None:
        """Another one begins, which counts from 0."""
        if self.clock is not None:
            self._played += Counter(bytes=self.clock.n_bytes, values=self.clock.n_samples)
        self.clock = None

    def traffic(self) -> Traffic:
        """What was sent so far, by the last status of every gateway and the simulators' own counts."""
        counters: Counter[str] = Counter()
        for status in self.statuses.values():
            counters.update(status.counters)
        now = self.clock
        return Traffic(
            _by_type(counters, "events_delivered."),
            _by_type(counters, "egress_bytes."),
            self._played["bytes"] + (0 if now is None else now.n_bytes),
            self._played["values"] + (0 if now is None else now.n_samples),
            counters["source_samples.mqtt"],
        )

    def _read(self, topic: str, payload: bytes) -> Heard | None:
        if topic == CLOCK_TOPIC:
            self.clock = msgspec.json.decode(payload, type=ClockReading)
            return self.clock
        if topic == self._stable:
            self.for_all = True
            return None
        if not payload or "/request/" in topic:  # a retained message is taken back; what the operator asks
            return None
        kind = msgspec.json.decode(payload, type=_Kind).type
        self.n_messages[kind] += 1
        self.n_bytes[kind] += len(payload) + len(topic.encode())
        if kind not in _TYPES:
            return None
        item = msgspec.json.decode(payload, type=_TYPES[kind])
        if isinstance(item, Status):
            self.statuses[item.gateway] = item
        elif isinstance(item, ModelState):
            self.models[item.gateway] = item
        elif isinstance(item, Alert):
            with self._alerts_file.open("ab") as file:
                file.write(payload + b"\n")
        return item

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        self._came.put((message.topic, bytes(message.payload)))


def _by_type(counters: Counter[str], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): n for name, n in counters.items() if name.startswith(prefix)}
