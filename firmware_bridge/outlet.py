"""A broker to forward to: messages wait in a bounded queue, and each that is given up is counted.

Strategy: paho keeps the connection; here are the queue, and how many messages may be on their way. What is on its way
when the connection breaks is sent again at QoS 1, and lost at QoS 0, which is how MQTT has it.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

MAX_ON_THE_WAY = 100
RECONNECT_S = (1, 30)
CONNECT_TIMEOUT_S = 10.0
DRAIN_S = 5.0


class BrokerUnavailable(Exception):
    """The broker cannot be reached, or does not let us in: one line that says why."""


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """``mqtt://user@host:port/prefix``; ``mqtts``: with TLS."""

    host: str
    port: int
    tls: bool
    username: str | None
    prefix: str

    def __str__(self) -> str:
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"


def broker_url(text: str) -> BrokerUrl:
    """ValueError, in one line, where ``text`` is none."""
    shape = "write mqtt://user@host:port/prefix (mqtts:// with TLS)"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no broker's URL ({error}): {shape}") from None
    if parts.password is not None:
        raise ValueError(
            "a password on the command line is seen by everybody here: use --password-file or --password-env"
        )
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no broker's URL: {shape}")
    tls = parts.scheme == "mqtts"
    username = None if parts.username is None else unquote(parts.username)
    return BrokerUrl(
        parts.hostname, port or (8883 if tls else 1883), tls, username, unquote(parts.path).strip("/")
    )


def read_password(file: Path | None, variable: str | None) -> str | None:
    """The first line of ``file``, or what the environment holds. BrokerUnavailable where there is none."""
    if file is not None:
        try:
            return next(iter(file.read_text(encoding="utf-8").splitlines()), "")
        except (OSError, UnicodeDecodeError) as error:
            raise BrokerUnavailable(
                f"--password-file {file}: {getattr(error, 'strerror', None) or 'is not text'}"
            ) from None
    if variable is not None and variable not in os.environ:
        raise BrokerUnavailable(f"--password-env {variable}: the environment has no such variable")
    return None if variable is None else os.environ[variable]


@dataclass(frozen=True, slots=True)
class OutletCounters:
    """Rows given = sent + dropped + lost + refused + waiting. Messages and bytes are those sent."""

    n_messages: int = 0
    n_bytes: int = 0
    n_given_rows: int = 0
    n_rows: int = 0  # sent; at QoS 1: acknowledged
    n_dropped_rows: int = 0  # the queue was full
    n_lost_rows: int = 0  # at QoS 0: on the way as the connection broke
    n_refused_rows: int = 0  # the broker refused them
    n_connects: int = 0

    @property
    def n_waiting_rows(self) -> int:
        gone = self.n_rows + self.n_dropped_rows + self.n_lost_rows + self.n_refused_rows
        return self.n_given_rows - gone


class Outlet:
    """Publishes to the broker at ``url``, from :meth:`connect` until it is left. For one thread."""

    def __init__(self, url: BrokerUrl, password: str | None, *, qos: int, queue_bytes: int) -> None:
        self._url, self._qos, self._queue_bytes = url, qos, queue_bytes
        self._lock = threading.Lock()
        self._queue: deque[tuple[str, bytes, int]] = deque()
        self._n_queued_bytes = 0
        self._on_the_way: dict[int, tuple[int, int]] = {}  # message id -> rows, bytes
        self._early: set[int] = set()  # done before publish() said what id it had
        self._counters = OutletCounters()
        self._connected = threading.Event()
        self._refusal: str | None = None
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"firmware-bridge-{secrets.token_hex(4)}",
            protocol=MQTTProtocolVersion.MQTTv311,
        )
        client.max_inflight_messages_set(0)  # the window is ours
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.reconnect_delay_set(*RECONNECT_S)
        if url.username is not None:
            client.username_pw_set(url.username, password)
        if url.tls:
            client.tls_set_context(ssl.create_default_context())
        client.on_socket_open = _no_delay
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        self._client = client

    def connect(self, *, wait: bool) -> None:
        """Connects; with ``wait`` in the background, again and again. BrokerUnavailable."""
        host, port = self._url.host, self._url.port
        if wait:
            self._client.connect_async(host, port)
            self._client.loop_start()
            return
        try:
            self._client.connect(host, port)
        except OSError as error:
            raise BrokerUnavailable(f"{self._url}: {_why(error)}") from None
        self._client.loop_start()
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while not self._connected.wait(0.05):
            if self._refusal is not None:
                raise BrokerUnavailable(f"{self._url}: the broker refused the connection: {self._refusal}")
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"{self._url}: no answer: is this an MQTT port, and does it want TLS?"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    @property
    def counters(self) -> OutletCounters:
        with self._lock:
            return self._counters

    def put(self, topic: str, payload: bytes, n_rows: int) -> None:
        """Takes a message; where the queue is full the oldest are dropped, counted."""
        with self._lock:
            self._queue.append((topic, payload, n_rows))
            self._n_queued_bytes += len(payload)
            self._add(n_given_rows=n_rows)
            while self._n_queued_bytes > self._queue_bytes:
                _, dropped, n = self._queue.popleft()
                self._n_queued_bytes -= len(dropped)
                self._add(n_dropped_rows=n)
        self.send()

    def drain(self, for_s: float = DRAIN_S) -> None:
        """Waits until all is sent, while there is a connection, at most ``for_s``."""
        deadline = time.monotonic() + for_s
        while self.counters.n_waiting_rows and self.connected and time.monotonic() < deadline:
            self.send()
            time.sleep(0.01)

    def send(self) -> None:
        """Gives paho what it may take now: call it now and then. From one thread only."""
        while True:
            with self._lock:
                if not self._queue or not self.connected or len(self._on_the_way) >= MAX_ON_THE_WAY:
                    return
                topic, payload, n_rows = self._queue.popleft()
                self._n_queued_bytes -= len(payload)
            info = self._client.publish(topic, payload, self._qos)
            with self._lock:
                if info.mid in self._early:
                    self._early.discard(info.mid)
                    self._done(n_rows, len(payload))
                elif info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN and self._qos == 0:
                    self._queue.appendleft((topic, payload, n_rows))
                    self._n_queued_bytes += len(payload)
                    return
                else:
                    self._on_the_way[info.mid] = (n_rows, len(payload))

    def _done(self, n_rows: int, n_bytes: int) -> None:
        self._add(n_rows=n_rows, n_messages=1, n_bytes=n_bytes)

    def _add(self, **more: int) -> None:
        now = self._counters
        self._counters = replace(now, **{name: getattr(now, name) + n for name, n in more.items()})

    def _on_connect(self, _client: Any, _user: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refusal = reason.getName()
            return
        with self._lock:
            self._add(n_connects=1)
            if not self._qos:  # what was on the way went with the connection of before
                self._add(n_lost_rows=sum(n for n, _ in self._on_the_way.values()))
                self._on_the_way.clear()
        self._refusal = None
        self._connected.set()

    def _on_disconnect(self, *_: Any) -> None:
        self._connected.clear()

    def _on_publish(self, _client: Any, _user: Any, mid: int, reason: Any, _properties: Any) -> None:
        with self._lock:
            found = self._on_the_way.pop(mid, None)
            if found is None:
                self._early.add(mid)
            elif reason.is_failure:
                self._add(n_refused_rows=found[0])
            else:
                self._done(*found)


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: no broker listens there"
    if isinstance(error, socket.gaierror):
        return f"the host name cannot be resolved: {error.strerror}"
    if isinstance(error, TimeoutError):
        return "no answer: the connection timed out"
    return error.strerror or str(error)


def _no_delay(_client: Any, _user: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
