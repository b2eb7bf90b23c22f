"""One MQTT connection that is kept up for ever: what the source and the uplink share.

Strategy: a connection has a thread of its own that builds a fresh paho client for every attempt, so that
nothing of a lost session survives in it and renewed certificates and passwords are read; all of paho is
used from that one thread. The owner is a :class:`Session`, whose methods are called on that thread; other
threads only call :meth:`Connection.wake`.

Invariants: ``connected`` is true only between an accepted CONNACK and the loss of the connection; every
wait is bounded (TCP, TLS and CONNACK by ``CONNECT_TIMEOUT_S``, a silent broker by the keepalive); every
failure is one line of text.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import structlog
from paho.mqtt import MQTTException
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from models.broker_options import Broker
from models.log_limit import LogLimit
from models.mqtt_access import TlsSocket, explain, explain_close, read_password, tls_context

CONNECT_TIMEOUT_S = 10.0
STABLE_S = 5.0  # a connection that lived this long was a good one: the next attempt follows soon
BRIEF_IN_A_ROW = 3
SAME_ERROR_LOG_S = 30.0
MAX_PACKET_BYTES = 268_435_460  # MQTT section 2.1.4: no packet is larger
SESSION_TAKEN_OVER = 0x8E  # MQTT 5 section 3.14.2.1

# What paho raises when the network fails or the other end does not speak MQTT.
_FAILURES = (OSError, ValueError, struct.error, IndexError, KeyError, MQTTException)

log = structlog.get_logger("linewatch.mqtt")


@dataclass(frozen=True, slots=True)
class Will:
    """The retained message that the broker publishes when this connection is lost."""

    topic: str
    payload: bytes


class Receipt(NamedTuple):
    """How a message came: ``mid`` names it to :meth:`Link.acknowledge`; ``dup``: the broker brings it again."""

    mid: int
    qos: int
    dup: bool


AT_MOST_ONCE = Receipt(0, 0, False)


@dataclass(frozen=True, slots=True)
class Persistence:
    """A session that the broker keeps for ``expiry_s`` after the connection is lost (MQTT 3.1.1: for as long as it likes), in
    which messages at QoS 1 are acknowledged by :meth:`Link.acknowledge`; at most ``max_inflight`` of them wait for that.
    ``clean``: it begins anew with each connection."""

    expiry_s: int
    max_inflight: int
    clean: bool = False


class Session(Protocol):
    """What the owner of a connection does; all of it on the connection's thread. What it raises ends that thread."""

    def on_connected(self, link: Link) -> None:
        """The broker accepted: subscribe, publish."""

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        """A message came; ``topic`` is "" where it was not UTF-8."""

    def on_acked(self, mid: int, refusal: str | None) -> None:
        """The broker acknowledged publication ``mid``, or refused it with a reason."""

    def on_lost(self, blameless: bool) -> None:
        """The connection is gone; ``blameless`` when nothing that was sent can be why: the broker just stopped
        answering, or another client took our place."""

    def on_turn(self, link: Link) -> None:
        """Once a turn of the network loop, at least every second and after every wake()."""


class Link:
    """One accepted connection: what a session may do with it."""

    def __init__(
        self,
        client: paho.Client,
        max_packet_bytes: int | None,
        receive_maximum: int,
        *,
        five: bool = False,
        session_present: bool = False,
    ) -> None:
        self._client = client
        self._five = five
        self.session_present = session_present  # the broker has kept the session of before
        self.max_packet_bytes = max_packet_bytes  # the broker's limit, where it told one (MQTT 5)
        self.receive_maximum = receive_maximum  # unacknowledged publications that the broker takes
        self.filters: dict[int, list[str]] = {}
        self.refused: dict[str, str] = {}  # filters that the broker would not subscribe us to, and why

    @property
    def tls(self) -> tuple[str, float | None] | None:
        """The version of TLS, and until when (Unix time) the broker's certificate is good; None without TLS."""
        sock = self._client.socket()
        if not isinstance(sock, ssl.SSLSocket):
            return None
        until = (sock.getpeercert() or {}).get("notAfter")
        return sock.version() or "TLS", ssl.cert_time_to_seconds(until) if isinstance(until, str) else None

    @property
    def answered(self) -> bool:
        """Whether the broker has answered every subscription: the connection works in both directions."""
        return not self.filters

    def publish(self, topic: str, payload: bytes, *, retain: bool, delayed: bool = False) -> int:
        """Publishes at QoS 1 and returns the message id that on_acked will name. ``delayed``: MQTT 5 says so in a user
        property."""
        properties: Properties | None = None
        if delayed and self._five:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.UserProperty = ("delayed", "true")
        return self._client.publish(topic, payload, qos=1, retain=retain, properties=properties).mid

    def acknowledge(self, mid: int) -> None:
        """Acknowledges a message at QoS 1, over a connection with :class:`Persistence`."""
        self._client.ack(mid, 1)

    def unsubscribe(self, filters: list[str]) -> None:
        """Gives up filters: of this connection, or that the broker's session has kept."""
        self._client.unsubscribe(filters)

    def subscribe(self, filters: list[tuple[str, int]]) -> None:
        """Subscribes to (filter, QoS) pairs; a refusal is logged by the connection."""
        _, mid = self._client.subscribe(filters)
        if mid is not None:
            self.filters[mid] = [f for f, _ in filters]


class Connection:
    """Keeps one connection to ``broker`` up. ``label`` names it in the log ("uplink", "source plant").

    ``max_packet_bytes``: what is larger an MQTT 5 broker keeps back; with 3.1.1 nothing but the broker's own limit
    bounds what it sends, and so what a message can cost in memory. ``finished`` completes when the thread ends:
    normally after :meth:`stop`, with the exception if it failed.
    """

    def __init__(
        self,
        broker: Broker,
        session: Session,
        *,
        label: str,
        client_id: str,
        max_packet_bytes: int,
        will: Will | None = None,
        persistence: Persistence | None = None,
        jitter: Callable[[], float] = random.random,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._broker = broker
        self._session = session
        self._client_id = client_id
        self._will = will
        self._persistence = persistence
        self._max_packet_bytes = min(max_packet_bytes, MAX_PACKET_BYTES)
        self._jitter = jitter
        self._connect_timeout_s = connect_timeout_s
        self._log = log.bind(connection=label)
        self._log_limit = LogLimit(SAME_ERROR_LOG_S)
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._thread = threading.Thread(target=self._main, name=f"mqtt {label}", daemon=True)
        self._link: Link | None = None
        self._why = ""  # why the present connection ended or was refused, as paho tells it
        self._blameless = False
        self._n_brief = 0  # connections in a row that were lost within seconds, nobody knows why
        self.finished: Future[None] = Future()
        self.last_error: str | None = (
            None  # what is wrong: with a connection that stands, a refused subscription
        )
        self.n_connects = 0
        self.n_failures = 0
        self.n_taken_over = 0  # connections that the broker gave to another client of our id (MQTT 5 says so)

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection stands."""
        return self._link is not None

    @property
    def where(self) -> str:
        """host:port of the broker."""
        host, port = self._broker.address
        return f"{host}:{port}"

    def start(self) -> None:
        """Starts the thread; returns at once."""
        self._thread.start()

    def wake(self) -> None:
        """Makes the network loop take a turn now. From any thread."""
        try:
            self._wake_write.send(b"\0")
        except BlockingIOError:
            pass  # it is about to wake up already
        except OSError:
            pass  # stopped

    def stop(self, timeout_s: float = 2.0) -> None:
        """Disconnects cleanly (no last will) and ends the thread, waiting at most ``timeout_s``."""
        self._stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _main(self) -> None:
        try:
            self._run()
        except _SessionFailed as wrapped:
            self.finished.set_exception(wrapped.__cause__)
            raise
        except BaseException as error:
            self.finished.set_exception(error)
            raise
        else:
            self.finished.set_result(None)
        finally:
            self._wake_read.close()
            self._wake_write.close()

    def _run(self) -> None:
        n_retries = 0
        down_s: float | None = None  # since when
        while not self._stopping.is_set():
            accepted_at = self._attempt()
            if self._stopping.is_set():
                return
            if accepted_at is not None and time.monotonic() - accepted_at >= STABLE_S:
                n_retries = 0
            self.n_failures += 1
            delay = self._delay_s(n_retries)
            n_retries += 1
            now_s = time.monotonic()
            if accepted_at is not None or down_s is None:
                down_s = now_s
            n_held = self._log_limit.due(self.last_error, now_s)
            if n_held is not None:
                since = f" (for {now_s - down_s:.0f} s now, {n_held + 1} attempts)" if n_held else ""
                self._log.warning(f"{self.where}: {self.last_error}{since}; trying again in {delay:.1f} s")
            self._stopping.wait(delay)

    def _delay_s(self, n_retries: int) -> float:
        return backoff_s(
            self._broker.reconnect_min_s, self._broker.reconnect_max_s, n_retries, self._jitter()
        )

    def _attempt(self) -> float | None:
        """One connection, from TCP to its end; the monotonic time at which it was accepted, or None. Sets
        ``last_error``."""
        self._why, self._blameless = "", False
        accepted_at: float | None = None
        client: paho.Client | None = None
        sock: Any = None
        try:
            client = self._client()
            host, port = self._broker.address
            client.connect(host, port, keepalive=self._broker.keepalive_s, **self._connect_options())
            deadline = time.monotonic() + self._connect_timeout_s
            poll = select.poll()
            poll.register(self._wake_read, select.POLLIN)
            while (now_open := client.socket()) is not None:
                sock = now_open
                if self._stopping.is_set():
                    client.disconnect()
                    break
                rc = self._turn(client, sock, poll)
                if self._link is not None and accepted_at is None:
                    accepted_at = time.monotonic()
                if rc == MQTTErrorCode.MQTT_ERR_PROTOCOL and not self._why:
                    self._why = f"it does not speak MQTT {self._broker.version}"
                if accepted_at is None and time.monotonic() > deadline:
                    self._why = f"it took the connection but did not answer in {self._connect_timeout_s:g} s"
                    break
            if not self._why and isinstance(sock, TlsSocket) and sock.failure is not None:
                self._why = explain(sock.failure, self._broker.tls)
            if accepted_at is None and not self._why:
                self._why = explain_close(self._broker.address, self._broker.tls)
            self.last_error = self._why or self._lost(accepted_at)
        except _FAILURES as error:
            self.last_error = explain(error, self._broker.tls)
        finally:
            self._drop(client)
        return accepted_at

    def _lost(self, accepted_at: float | None) -> str:
        """What may be wrong where nobody says it: mosquitto 2.0 gives a session to the next who has its id without a word."""
        brief = accepted_at is not None and time.monotonic() - accepted_at < STABLE_S
        self._n_brief = self._n_brief + 1 if brief else 0
        if self._n_brief < BRIEF_IN_A_ROW:
            return "the connection was lost"
        return f"the connection is lost within seconds, again and again: has another client the client_id {self._client_id!r}?"

    def _turn(self, client: paho.Client, sock: Any, poll: select.poll) -> MQTTErrorCode:
        mask = select.POLLIN | (select.POLLOUT if client.want_write() else 0)
        poll.register(sock, mask)
        pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        ready = dict(poll.poll(0 if pending else 1_000))
        poll.unregister(sock)
        if self._wake_read.fileno() in ready:
            self._wake_read.recv(4_096)
        rc = MQTTErrorCode.MQTT_ERR_SUCCESS
        mask = ready.get(sock.fileno(), 0)
        if pending or mask & ~select.POLLOUT:
            rc = client.loop_read()
        if client.socket() is not None and client.want_write():
            client.loop_write()
        client.loop_misc()
        if self._link is not None and client.socket() is not None:
            with _session_code():
                self._session.on_turn(self._link)
        return rc

    def _drop(self, client: paho.Client | None) -> None:
        link, self._link = self._link, None
        if client is not None and (sock := client.socket()) is not None:
            sock.close()
        if link is not None:
            with _session_code():
                self._session.on_lost(self._blameless)

    def _client(self) -> paho.Client:
        broker = self._broker
        five = broker.version == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if five else self._persistence is None or self._persistence.clean,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=self._persistence is not None,
        )
        client.connect_timeout = self._connect_timeout_s
        client.max_inflight_messages_set(0)  # the uplink keeps its own window
        if broker.username is not None:
            client.username_pw_set(broker.username, read_password(broker))
        if broker.tls is not None:
            client.tls_set_context(tls_context(broker.tls))
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        client.on_socket_open = _no_delay
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    def _connect_options(self) -> dict[str, Any]:
        if self._broker.version != "5":
            return {}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = self._max_packet_bytes
        if self._persistence is not None:
            properties.SessionExpiryInterval = self._persistence.expiry_s
            properties.ReceiveMaximum = min(self._persistence.max_inflight, 65_535)
        clean = self._persistence is None or self._persistence.clean
        return {"clean_start": clean, "properties": properties}

    def _on_connect(self, client: paho.Client, _user: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            hint = ": check username and password" if reason.getName() in _CREDENTIALS else ""
            self._why = f"the broker refused the connection: {reason.getName()}{hint}"
            return
        self._link = Link(
            client,
            getattr(properties, "MaximumPacketSize", None),
            getattr(properties, "ReceiveMaximum", 65_535),
            five=self._broker.version == "5",
            session_present=flags.session_present,
        )
        self.n_connects += 1
        self.last_error = None
        self._log.info(f"connected to {self.where} with MQTT {self._broker.version}")
        with _session_code():
            self._session.on_connected(self._link)

    def _on_disconnect(self, _client: Any, _user: Any, flags: Any, reason: Any, _properties: Any) -> None:
        name = reason.getName()
        if self._why or self._stopping.is_set():
            return
        if flags.is_disconnect_packet_from_server and reason.value == SESSION_TAKEN_OVER:
            self._blameless = True
            self.n_taken_over += 1
            self._why = f"the broker closed the connection: {name}: another client has the client_id {self._client_id!r}"
        elif flags.is_disconnect_packet_from_server:
            self._why = f"the broker closed the connection: {name}"
        elif name == "Keep alive timeout":
            self._blameless = True
            self._why = f"the broker did not answer for {self._broker.keepalive_s} s"

    def _on_message(self, _client: Any, _user: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        with _session_code():
            receipt = Receipt(message.mid, message.qos, message.dup)
            self._session.on_message(topic, bytes(message.payload), message.retain, receipt)

    def _on_publish(self, _client: Any, _user: Any, mid: int, reason: Any, _properties: Any) -> None:
        with _session_code():
            self._session.on_acked(mid, reason.getName() if reason.is_failure else None)

    def _on_subscribe(self, _client: Any, _user: Any, mid: int, reasons: list[Any], _properties: Any) -> None:
        filters = self._link.filters.pop(mid, []) if self._link is not None else []
        for wanted, reason in zip(filters, reasons, strict=False):
            if reason.is_failure:
                why = f"the broker refused the subscription to {wanted!r}: {reason.getName()}"
                self.last_error = why
                self._log.error(f"{self.where}: {why}")
                if self._link is not None:
                    self._link.refused[wanted] = reason.getName()


class _SessionFailed(Exception):
    """The session raised its ``__cause__``, of whatever type: not to be taken for a failure of the network."""


@contextmanager
def _session_code() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _SessionFailed from error


_CREDENTIALS = ("Bad user name or password", "Not authorized")


def backoff_s(minimum_s: float, maximum_s: float, n_retries: int, jitter: float) -> float:
    """Seconds before the next attempt: doubling up to ``maximum_s``, of which ``jitter`` in [0, 1) takes up
    to half off, so that gateways that lost one broker do not come back all at once."""
    longest = min(maximum_s, minimum_s * 2.0 ** min(n_retries, 32))
    return longest * (1.0 - jitter / 2)


def _no_delay(_client: Any, _user: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
