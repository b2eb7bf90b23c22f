"""The plant live: mosquitto, the gateway as a process of its own, and boards that publish to it in real time.

All times are of this process's monotonic clock, in ns.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import Client, MQTTMessage

from benchmarks import plant
from benchmarks.wire import HOST, SAMPLES, SAMPLES_QOS, connect
from edge_node.sources.payloads import encode_packed
from examples.demo.processes import CHOICE, Broker, Child, DemoError, free_port, mosquitto_path
from models.messages import Status
from models.signal import NS_PER_S
from models.topics import DEFAULT_PREFIX, GatewayTopics

N_DEVICES = 20
ROWS = 100  # a message: ten a second from each board
FAULT = 4.0
TOPICS = GatewayTopics(DEFAULT_PREFIX, "default", "bench")
_MESSAGE_NS = ROWS * NS_PER_S // int(plant.RATE_HZ)
_HEARS = 'linewatch_connected{connection="source mqtt"}'
_ROW_NS = NS_PER_S // int(plant.RATE_HZ)


class Listener:
    """Subscribes to ``topics`` (filter, QoS) and hands what comes to ``on_message(topic, payload, received_ns)``, on
    paho's thread."""

    def __init__(
        self,
        port: int,
        topics: Sequence[tuple[str, int]],
        on_message: Callable[[str, bytes, int], None],
    ) -> None:
        self.client = connect(port)
        self._topics = list(topics)
        self._on_message = on_message
        self._subscribed = False
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = self._received

    def __enter__(self) -> Self:
        self.client.loop_start()
        wait_for(lambda: self._subscribed, "the subscription")
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, client: Client, *_: object) -> None:
        client.subscribe(self._topics)

    def _on_subscribe(self, *_: object) -> None:
        self._subscribed = True

    def _received(self, _client: Client, _user: Any, message: MQTTMessage) -> None:
        received_ns = time.perf_counter_ns()
        self._on_message(message.topic, bytes(message.payload), received_ns)


def wait_for(condition: Callable[[], object], what: str, *children: Child, timeout_s: float = 30.0) -> None:
    """Raises DemoError when ``condition`` is not met in ``timeout_s``, or one of ``children`` ends before."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        for child in children:
            child.check()
        if time.monotonic() > deadline:
            raise DemoError(f"{what} did not come about within {timeout_s:g} s")
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Faults:
    """Each board is healthy until ``first_row``, then ``n`` times faulty for ``rows`` rows, once in ``every`` rows;
    the boards out of step."""

    first_row: int
    n: int
    rows: int
    every: int

    def at(self, device: int, n_devices: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether ``device`` of ``n_devices`` is faulty at each of ``rows``."""
        since = rows - self.first_row - device * self.every // n_devices
        faulty: NDArray[np.bool_] = (
            (since >= 0) & (since < self.n * self.every) & (since % self.every < self.rows)
        )
        return faulty

    @property
    def end_s(self) -> float:
        """When all boards have been through theirs, in seconds from the start."""
        return (self.first_row + self.n * self.every + self.rows) / float(plant.RATE_HZ)


HEALTHY = Faults(first_row=0, n=0, rows=1, every=1)


class Boards:
    """``n`` boards that publish packed blocks of :data:`ROWS` rows, evenly out of step, each as soon as its last sample has
    been taken. ``seconds``: as long as they can play. Their time begins at a multiple of the hop and is up to a hop
    behind the clock, so that the windows of every run are the same."""

    def __init__(self, client: Client, n: int, seconds: float, faults: Faults = HEALTHY) -> None:
        n_rows = int(seconds * plant.RATE_HZ) + ROWS
        self._client = client
        self._n = n
        self._faults = faults
        self._shift = 37  # rows by which each board is further into the signal than the one before
        self._healthy = plant.vibration(n_rows + n * self._shift, plant.SEED)
        self._sick = plant.vibration(n_rows + n * self._shift, plant.SEED, fault=FAULT)
        self._began_ns = self._epoch_ns = 0
        self._index = {plant.device_id(i): i for i in range(n)}
        self.published_ns: list[int] = []  # of each message, in order
        self.last: bytes = b""

    @property
    def n_samples(self) -> int:
        """Values published."""
        return len(self.published_ns) * ROWS * len(plant.AXES)

    def play(self, until_s: float, between: Callable[[], None] = lambda: None) -> None:
        """Publish what is due before ``until_s`` since the start; ``between`` messages, half way to the next, do something
        else too."""
        if not self.published_ns:
            self._began_ns = time.perf_counter_ns()
            self._epoch_ns = time.time_ns() // plant.WINDOW.hop_ns * plant.WINDOW.hop_ns
        step_ns = _MESSAGE_NS // self._n
        while True:
            k = len(self.published_ns)
            block, device = divmod(k, self._n)
            since_ns = (block + 1) * _MESSAGE_NS + self._offset_ns(device)
            if since_ns > until_s * NS_PER_S:
                return
            payload = self._payload(device, block)
            _sleep_until(self._began_ns + since_ns)
            self.published_ns.append(time.perf_counter_ns())
            self._client.publish(SAMPLES.format(plant.device_id(device)), payload, qos=SAMPLES_QOS)
            self.last = payload
            _sleep_until(self._began_ns + since_ns + step_ns // 2)
            between()
            _sleep_until(self._began_ns + since_ns + step_ns * 3 // 4)  # what was just sent is not in the way

    def published(self, device_id: str, sample_ns: int) -> int:
        """When the message with the sample of ``device_id`` taken at ``sample_ns`` (Unix) was published."""
        device = self._index[device_id]
        block = (sample_ns - self._epoch_ns - self._offset_ns(device)) // _MESSAGE_NS
        return self.published_ns[block * self._n + device]

    def _payload(self, device: int, block: int) -> bytes:
        rows = np.arange(block * ROWS, (block + 1) * ROWS)
        faulty = self._faults.at(device, self._n, rows)
        at = rows + device * self._shift
        values = np.where(faulty[:, None], self._sick[at], self._healthy[at])
        start_ns = self._epoch_ns + self._offset_ns(device) + block * _MESSAGE_NS
        return encode_packed(values, start_ns=start_ns, rate_hz=plant.RATE_HZ)

    def _offset_ns(self, device: int) -> int:
        """Whole sampling periods, so that windows lie alike in every run."""
        return device * _MESSAGE_NS // self._n // _ROW_NS * _ROW_NS


def _sleep_until(at_ns: int) -> None:
    while (left_ns := at_ns - time.perf_counter_ns()) > 0:
        time.sleep(left_ns / NS_PER_S)


@contextmanager
def publisher(port: int) -> Iterator[Client]:
    """A client that is connected, for :class:`Boards`."""
    client = connect(port)
    client.loop_start()
    try:
        wait_for(client.is_connected, "the boards' connection")
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """A mosquitto that listens. Raises DemoError where there is none."""
    with Broker(folder, {CHOICE: "mosquitto"}) as started:
        started.wait_until_listening()
        yield started


def mosquitto_version() -> str:
    """As it says itself; "" where there is none."""
    program = mosquitto_path()
    if program is None:
        return ""
    said = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=10).stdout
    return said.partition("\n")[0].strip()


class Gateway:
    """A running ``edge-node run`` for :data:`N_DEVICES` boards."""

    def __init__(self, child: Child, config: Path, statuses: list[Status], metrics_port: int) -> None:
        self.child = child
        self.config = config
        self._statuses = statuses
        self._metrics_port = metrics_port

    def metric(self, name: str) -> float:
        """Its present value on /metrics, labels in the name; 0 where it has none yet."""
        with urllib.request.urlopen(f"http://{HOST}:{self._metrics_port}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        return next((float(line.removeprefix(name)) for line in lines if line.startswith(f"{name} ")), 0.0)

    def end(self) -> Status:
        """Asks it to end and waits for that. Its last words."""
        self.child.interrupt()
        self.child.finish(timeout_s=20.0)
        wait_for(lambda: self._statuses[-1].state == "stopped", "the gateway's last status")
        return self._statuses[-1]


@contextmanager
def gateway(
    folder: Path,
    model: Path,
    port: int,
    device_more: str = "",
    n_devices: int = N_DEVICES,
    *,
    black_box: bool = True,
) -> Iterator[Gateway]:
    """A gateway that hears its boards and publishes to the broker at ``port``. Raises DemoError where it does not start."""
    metrics_port = free_port()
    config = plant.write_config(
        folder,
        model,
        n_devices,
        port=port,
        metrics_port=metrics_port,
        device_more=device_more,
        black_box=black_box,
    )
    command = [sys.executable, "-m", "edge_node.cli", "run", "-c", str(config)]
    statuses: list[Status] = []

    def heard(_topic: str, payload: bytes, _received_ns: int) -> None:
        statuses.append(msgspec.json.decode(payload, type=Status))

    with (
        Listener(port, [(TOPICS.status, 1)], heard),
        Child("the gateway", command, folder / "gateway.log") as child,
    ):
        running = Gateway(child, config, statuses, metrics_port)
        wait_for(lambda: statuses, "the gateway's being online", child, timeout_s=60.0)
        wait_for(lambda: running.metric(_HEARS) == 1.0, "the gateway's hearing its boards", child)
        yield running
