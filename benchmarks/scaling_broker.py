"""What one mosquitto can do: its CPU time for a message at QoS 1 from many connections, and what a connection and a retained
message take.

Speaks MQTT 3.1.1 on bare sockets, so that what limits is the broker: each publication is one packet of one connection, whose
acknowledgement is awaited; what a subscriber receives is acknowledged packet by packet.
"""

from __future__ import annotations

import resource
import select
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil

from benchmarks import live
from benchmarks.wire import HOST
from examples.demo.processes import DemoError

TOPIC = "linewatch/ulm/hall-{:05d}/summary/press-0000000"
RETAINED = "linewatch/ulm/hall-{:05d}/status"
SHARED = "linewatch/+/+/summary/+"
_OTHER_FILES = 100  # that are open besides connections
_PUBACK, _CONNACK, _SUBACK = 4, 4, 5


def measure(sizes: dict[str, int], status_bytes: int, *, quick: bool) -> dict[str, object]:
    """``sizes``: bytes of payloads, by name. Microseconds of the broker's CPU for one message of each that comes in, and that
    goes out to one subscriber, by the difference of both; messages a second that it passed on meanwhile, while the sender took
    its share of the machine; what receiving and sending the same bytes costs without a broker; the same of the largest from as
    many connections as may be; kilobytes of its memory for a connection and for a retained status."""
    n_connections, n_messages, n_many = (20, 400, 50) if quick else (500, 50_000, 5_000)
    n_many = min(n_many, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES)
    found: dict[str, object] = {"connections": n_connections, "messages": n_messages}
    with _broker() as (port, process):
        found |= _held(port, process, n_many, status_bytes)
    by_size = {}
    for what, size in sizes.items():
        with _broker() as (port, process):
            by_size[what] = _by_size(port, process, n_connections, n_messages, size)
        print(f"  broker: {what} done", flush=True)
    with _broker() as (port, process):
        many = _by_size(port, process, n_many, n_messages, max(sizes.values()))
    found |= {"by_size": by_size, "many": {"connections": n_many, **many}}
    return {**found, "broker": live.mosquitto_version()}


@contextmanager
def _broker() -> Iterator[tuple[int, psutil.Process]]:
    """A fresh one, which has freed no memory yet."""
    with tempfile.TemporaryDirectory() as name, live.broker(Path(name)) as broker:
        yield broker.port, psutil.Process(broker.pid)


def _by_size(
    port: int, process: psutil.Process, n_connections: int, n_messages: int, size: int
) -> dict[str, float]:
    rounds = max(2, n_messages // n_connections)
    heard = _passed_on(port, process, n_connections, rounds, size, 1)
    alone = _passed_on(port, process, n_connections, rounds, size, 0)
    return {
        "payload_bytes": size,
        "in_us": alone["cpu_us"],
        "out_us": max(0.0, heard["cpu_us"] - alone["cpu_us"]),
        "in_and_out_us": heard["cpu_us"],
        "per_s": heard["per_s"],
        "floor_us": _floor(n_messages, size),
    }


def _floor(n: int, size: int) -> float:
    """Microseconds of CPU that a program takes to receive a message over TCP, acknowledge it, send it, and have it
    acknowledged: two sends and two receptions."""
    with socket.create_server((HOST, 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            data, ack = b"x" * size, b"acks"
            began_s = time.process_time()
            for _ in range(n):
                one.sendall(data)
                _read(other, size)
                other.sendall(ack)
                _read(one, len(ack))
            return 1e6 * (time.process_time() - began_s) / n


def packet(kind: int, body: bytes) -> bytes:
    """An MQTT packet: its first byte, the length of ``body`` in groups of seven bits, and that."""
    length, left = bytearray(), len(body)
    while True:
        left, low = divmod(left, 128)
        length.append(low | (0x80 if left else 0))
        if not left:
            return bytes([kind]) + bytes(length) + body


def publication(topic: str, payload: bytes, *, retain: bool = False, mid: int = 1) -> bytes:
    """A PUBLISH at QoS 1."""
    return packet(0x33 if retain else 0x32, _text(topic) + struct.pack(">H", mid) + payload)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def _connected(port: int, name: str) -> socket.socket:
    sock = socket.create_connection((HOST, port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(packet(0x10, _text("MQTT") + b"\x04\x02\x00\x00" + _text(name)))
    _read(sock, _CONNACK)
    return sock


def _read(sock: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        more = sock.recv(n - len(data))
        if not more:
            raise DemoError("the broker closed a connection")
        data += more
    return data


class _Subscriber:
    """Takes packets of one size at QoS 1, and acknowledges all that have come whole."""

    def __init__(self, port: int, size: int, topic_bytes: int) -> None:
        self.sock = _connected(port, f"subscriber-{size}")
        self.sock.sendall(packet(0x82, b"\x00\x01" + _text(SHARED) + b"\x01"))
        _read(self.sock, _SUBACK)
        self._whole = len(packet(0x32, b"\0" * (2 + topic_bytes + 2 + size)))
        self._mid_at = self._whole - size - 2
        self._rest = b""
        self._poll = select.poll()
        self._poll.register(self.sock, select.POLLIN)
        self.n = 0

    def take(self, timeout_s: float) -> None:
        if not self._poll.poll(1e3 * timeout_s):
            return
        data = self._rest + self.sock.recv(1 << 20)
        n = len(data) // self._whole
        self._rest = data[n * self._whole :]
        if n:
            packets = np.frombuffer(data, np.uint8, n * self._whole).reshape(n, self._whole)
            acks = np.empty((n, 4), np.uint8)
            acks[:, :2] = (0x40, 2)
            acks[:, 2:] = packets[:, self._mid_at : self._mid_at + 2]
            self.sock.sendall(acks.tobytes())
            self.n += n


@contextmanager
def _connections(port: int, n: int, name: str) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(_connected(port, f"{name}-{i}")) for i in range(n)]


def _passed_on(
    port: int, process: psutil.Process, n_connections: int, rounds: int, size: int, n_subscribers: int
) -> dict[str, float]:
    payload = np.random.default_rng(1).integers(32, 127, size, np.uint8).tobytes()
    with _connections(port, n_connections, f"gateway-{size}-{n_subscribers}") as socks, ExitStack() as stack:
        subscribers = [_Subscriber(port, size, len(TOPIC.format(0))) for _ in range(n_subscribers)]
        for subscriber in subscribers:
            stack.enter_context(subscriber.sock)
        packets = [publication(TOPIC.format(i), payload) for i in range(n_connections)]
        _round(socks, packets, subscribers)
        began_s, began_cpu_s = time.perf_counter(), _cpu_s(process)
        for i in range(rounds):
            _round(socks, packets, subscribers)
            for subscriber in subscribers:
                ends_s = time.monotonic() + 30
                while subscriber.n < (i + 2) * n_connections:
                    subscriber.take(0.1)
                    if time.monotonic() > ends_s:
                        raise DemoError("the broker passed on no more")
        wall_s, cpu_s = time.perf_counter() - began_s, _cpu_s(process) - began_cpu_s
    n = rounds * n_connections
    return {"cpu_us": 1e6 * cpu_s / n, "per_s": n / wall_s}


def _round(socks: list[socket.socket], packets: list[bytes], subscribers: list[_Subscriber]) -> None:
    """Each connection publishes once, and has its acknowledgement."""
    for sock, data in zip(socks, packets, strict=True):
        sock.sendall(data)
        for subscriber in subscribers:
            subscriber.take(0)
    for sock in socks:
        _read(sock, _PUBACK)


def _held(port: int, process: psutil.Process, n: int, status_bytes: int) -> dict[str, float]:
    """Of ``n`` connections that do nothing, and of as many retained messages."""
    before = process.memory_info().rss
    began_s, began_cpu_s = time.perf_counter(), _cpu_s(process)
    with _connections(port, n, "idle") as socks:
        per_s = n / (time.perf_counter() - began_s)
        cpu_us = 1e6 * (_cpu_s(process) - began_cpu_s) / n
        connected = process.memory_info().rss
        payload = np.random.default_rng(2).integers(32, 127, status_bytes, np.uint8).tobytes()
        for i, sock in enumerate(socks):
            sock.sendall(publication(RETAINED.format(i), payload, retain=True))
        for sock in socks:
            _read(sock, _PUBACK)
        retained = process.memory_info().rss
    return {
        "idle_connections": n,
        "connects_per_s": per_s,
        "connect_us": cpu_us,
        "connection_kb": max(0.0, (connected - before) / n / 1e3),
        "retained_kb": max(0.0, (retained - connected) / n / 1e3),
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
