"""Publishes alerts, summaries, device states and status: the gateway's only way out.

Strategy: :meth:`Uplink.publish` encodes a message and queues it (``egress.py``); the connection's thread
hands at most ``WINDOW`` messages at a time to the broker at QoS 1 and forgets each when it is
acknowledged. What was unacknowledged when a connection broke goes back to the front of the queue. A
message that was in flight then is next sent alone, and after ``MAX_LOST`` times it is the broker that will
not have it: it is dropped, counted and named, so that one message that is too large cannot hold up the
others for ever.

Invariants: ``n_published + n_republished == n_delivered + n_superseded + sum(drops) + n_queued`` at any
instant, by type as in total; on every connect the status, then each device's state, go out before anything
else.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import structlog

from edge_node.clones import Clones
from edge_node.config_schema import Uplink as UplinkConfig
from edge_node.egress import EgressQueue, Outgoing, clearing, outgoing
from edge_node.log_limit import LogLimit
from edge_node.mqtt_client import Connection, Link, Will
from models.messages import Event, Status, encode
from models.signal import DropReason
from models.topics import GatewayTopics, filter_matches

WINDOW = 20  # unacknowledged messages; the default of brokers
MAX_LOST = 5
PACKET_OVERHEAD = 16  # fixed header, message id and properties of a PUBLISH, at most
MAX_STATUS_BYTES = 1 << 20
FAULT_LOG_S = 60.0

log = structlog.get_logger("linewatch.uplink")


@dataclass(slots=True)
class UplinkCounters:
    """By message type. ``n_bytes`` counts payload and topic of every transmission, also of repeated ones."""

    n_published: Counter[str] = field(default_factory=Counter)
    n_republished: Counter[str] = field(default_factory=Counter)
    n_superseded: Counter[str] = field(default_factory=Counter)
    n_delivered: Counter[str] = field(default_factory=Counter)
    n_bytes: Counter[str] = field(default_factory=Counter)
    drops: Counter[tuple[str, DropReason]] = field(default_factory=Counter)


class Inbound(Protocol):
    """Who hears what comes in over the uplink's connection. ``filters``: (topic filter, QoS), subscribed on every connect;
    ``max_bytes``: what a message may take at most, topic included."""

    @property
    def filters(self) -> Sequence[tuple[str, int]]: ...

    @property
    def max_bytes(self) -> int: ...

    def hear(self, topic: str, payload: bytes, retained: bool) -> None:
        """On the connection's thread; bad input never raises, what does ends the uplink."""


class Uplink:
    """``offline`` is the status that the broker publishes as last will; its ``boot_id`` is ours."""

    def __init__(
        self,
        config: UplinkConfig,
        topics: GatewayTopics,
        offline: Status,
        inbound: Sequence[Inbound] = (),
    ) -> None:
        if offline.state != "offline":
            raise ValueError(f"the last will says {offline.state!r}, not 'offline'")
        self._topics = topics
        self._boot_id = offline.boot_id
        self._reconnect_max_s = config.reconnect_max_s
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)  # the queue or the connection changed
        self._queue = EgressQueue(config.queue_messages, config.queue_bytes)
        self._in_flight: dict[int, Outgoing] = {}
        self._retained: dict[str, Outgoing] = {}
        self._counters = UplinkCounters()
        self._clones = Clones(offline.boot_id)
        self._n_taken_over = 0
        self._inbound = tuple(inbound)
        self._log_limit = LogLimit(FAULT_LOG_S)
        # The boot id keeps clones of one gateway from throwing each other off the broker for ever.
        client_id = config.client_id or f"{topics.site}-{topics.gateway}-{offline.boot_id}"
        self._connection = Connection(
            config,
            self,
            label="uplink",
            client_id=client_id,
            max_packet_bytes=max([MAX_STATUS_BYTES, *(i.max_bytes for i in self._inbound)]),
            will=Will(topics.status, encode(offline)),
        )
        self.finished = self._connection.finished

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection stands."""
        return self._connection.connected

    @property
    def last_error(self) -> str | None:
        """Why not, in one line."""
        return self._connection.last_error

    @property
    def n_connects(self) -> int:
        return self._connection.n_connects

    @property
    def n_queued(self) -> int:
        """Messages that the broker has not acknowledged."""
        with self._lock:
            return len(self._queue) + len(self._in_flight)

    @property
    def n_queued_bytes(self) -> int:
        with self._lock:
            return self._queue.n_bytes + sum(item.n_bytes for item in self._in_flight.values())

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Boot ids of other computers that say they are this gateway (a cloned SD card)."""
        with self._lock:
            return self._clones.conflicts

    def forget_conflicts(self, unheard_s: float) -> None:
        """Those that were not heard for so long are no conflict any more; :attr:`n_foreign` keeps what it counted."""
        with self._lock:
            self._clones.forget(time.monotonic() - unheard_s)

    @property
    def n_foreign(self) -> int:
        """How often we have met them: statuses of theirs, and connections of ours that they took over."""
        with self._lock:
            return self._clones.n_heard + self._connection.n_taken_over

    @property
    def reconnect_max_s(self) -> float:
        """Seconds from one attempt to connect to the next, at most."""
        return self._reconnect_max_s

    def counters(self) -> UplinkCounters:
        """A copy of the counters."""
        with self._lock:
            c = self._counters
            return UplinkCounters(
                Counter(c.n_published),
                Counter(c.n_republished),
                Counter(c.n_superseded),
                Counter(c.n_delivered),
                Counter(c.n_bytes),
                Counter(c.drops),
            )

    def start(self) -> None:
        """Connects, for ever, on a thread of its own; returns at once."""
        self._connection.start()

    def publish(self, event: Event | Status) -> None:
        """Queues ``event``; never waits. From any thread. The only way out of data: raises TypeError for any other
        type and ValueError for a message of another gateway."""
        item = outgoing(event, self._topics)
        with self._lock:
            self._counters.n_published[item.kind] += 1
            if item.retain:
                self._retained[item.topic] = item
            self._settle(*self._queue.put(item))
        self._connection.wake()

    def forget(self, device_id: str) -> None:
        """The device is no more: its retained state is taken back. Never waits; from any thread."""
        item = clearing(device_id, self._topics)
        with self._lock:
            self._counters.n_published[item.kind] += 1
            self._retained.pop(item.topic, None)
            self._settle(*self._queue.put(item))
        self._connection.wake()

    def stop(self, final: Status, timeout_s: float = 5.0) -> int:
        """Waits for the queue to empty, publishes ``final`` (state "stopped") and disconnects; at most
        ``timeout_s`` and a second for the last. Returns how many messages were not acknowledged; they are
        counted as dropped (``down``)."""
        with self._moved:
            # Without a connection there is little hope, but a reconnect may be under way.
            patience_s = timeout_s if self.connected else min(timeout_s, 1.0)
            self._moved.wait_for(lambda: not self._in_flight and not len(self._queue), patience_s)
            item = outgoing(final, self._topics)
            self._counters.n_published[item.kind] += 1
            self._retained[item.topic] = item
            self._settle(*self._queue.put_first([item]))
        self._connection.wake()
        with self._moved:
            if self.connected:
                self._moved.wait_for(lambda: not self._waiting(item), 1.0)
        self._connection.stop()
        with self._lock:
            left = [*self._in_flight.values()]
            self._in_flight.clear()
            while len(self._queue):
                left.append(self._queue.take())
            for lost in left:
                self._counters.drops[lost.kind, DropReason.DOWN] += 1
        if left:
            messages = "1 message" if len(left) == 1 else f"{len(left)} messages"
            log.warning(f"stopped with {messages} that the broker did not acknowledge")
        return len(left)

    def on_connected(self, link: Link) -> None:
        n_taken_over = self._connection.n_taken_over
        with self._lock:
            self._clones.connected(
                ours_before=self._counters.n_delivered["status"] > 0,
                taken_over=n_taken_over > self._n_taken_over,
            )
            again = [item for item in self._retained.values() if item.n_lost < MAX_LOST]
            again.sort(key=lambda item: item.topic != self._topics.status)
            for item in again:
                if not self._queue.holds(item):
                    self._counters.n_republished[item.kind] += 1
            self._settle(*self._queue.put_first(again))
        self._n_taken_over = n_taken_over
        link.subscribe([(self._topics.status, 1)])
        for inbound in self._inbound:
            link.subscribe(list(inbound.filters))

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic == self._topics.status:
            self._hear_status(topic, payload, retained)
            return
        for inbound in self._inbound:
            if any(filter_matches(f, topic) for f, _ in inbound.filters):
                inbound.hear(topic, payload, retained)

    def _hear_status(self, topic: str, payload: bytes, retained: bool) -> None:
        """Our own status topic: whoever else publishes there says it is this gateway."""
        with self._lock:
            last = self._retained.get(topic)
        if last is not None and payload == last.payload:
            return  # our own words, come back
        try:
            status = _status.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if not retained:
                self._log_fault("status", f"{topic}: a message that is no status: {error}")
            return
        with self._lock:
            other = self._clones.hear(status, time.monotonic(), retained=retained)
        if other:
            self._log_fault(
                f"conflict {status.boot_id}",
                f"another computer publishes as {self._topics.site}/{self._topics.gateway} (boot id "
                f"{status.boot_id}, ours is {self._boot_id}): was an SD card cloned?",
            )
        elif not retained and (status.state == "offline" or status.boot_id != self._boot_id):
            self._republish_status()  # the last will of a connection that is gone, or a clone's farewell

    def on_acked(self, mid: int, refusal: str | None) -> None:
        with self._moved:
            item = self._in_flight.pop(mid, None)
            if item is None:
                return
            item.n_lost = 0
            if refusal is None:
                self._counters.n_delivered[item.kind] += 1
            else:
                self._drop(item, f"the broker refused it: {refusal}")
            self._moved.notify_all()

    def on_lost(self, blameless: bool) -> None:
        with self._moved:
            back = []
            for item in self._in_flight.values():
                item.n_lost += not blameless
                if item.n_lost >= MAX_LOST:
                    self._drop(item, f"the broker closed the connection {item.n_lost} times when sent it")
                else:
                    back.append(item)
            self._in_flight.clear()
            self._settle(*self._queue.put_back(back))
            self._moved.notify_all()

    def on_turn(self, link: Link) -> None:
        with self._moved:
            while (item := self._queue.peek()) is not None and self._may_send(item, link):
                self._queue.take()
                limit = link.max_packet_bytes
                if limit is not None and item.n_bytes + PACKET_OVERHEAD > limit:
                    self._drop(item, f"the broker takes at most {limit} bytes")
                    self._moved.notify_all()
                    continue
                self._counters.n_bytes[item.kind] += item.n_bytes
                self._in_flight[link.publish(item.topic, item.payload, retain=item.retain)] = item

    def _may_send(self, item: Outgoing, link: Link) -> bool:
        """What was in flight when a connection broke goes alone, and over a connection that is known to
        work: then it is known which message breaks it."""
        if item.n_lost or any(i.n_lost for i in self._in_flight.values()):
            return link.answered and not self._in_flight
        return len(self._in_flight) < min(WINDOW, link.receive_maximum)

    def _waiting(self, item: Outgoing) -> bool:
        return self._queue.holds(item) or item in self._in_flight.values()

    def _republish_status(self) -> None:
        with self._lock:
            item = self._retained.get(self._topics.status)
            if item is not None and not self._waiting(item):
                self._counters.n_republished[item.kind] += 1
                self._settle(*self._queue.put_first([item]))

    def _settle(self, given_up: list[Outgoing], superseded: list[Outgoing]) -> None:
        for item in superseded:
            self._counters.n_superseded[item.kind] += 1
        for item in given_up:
            self._counters.drops[item.kind, DropReason.EVICTED] += 1
        if given_up:
            first, n = given_up[0].kind, len(given_up)
            what = f"one message, of type {first}" if n == 1 else f"{n} messages, first of type {first}"
            self._log_fault("evicted", f"the queue is full: gave up {what}")

    def _drop(self, item: Outgoing, why: str) -> None:
        self._counters.drops[item.kind, DropReason.REFUSED] += 1
        self._log_fault(
            f"refused {item.kind}", f"{item.topic}: dropped a message of {item.n_bytes} bytes: {why}"
        )

    def _log_fault(self, key: str, text: str) -> None:
        n_held = self._log_limit.due(key, time.monotonic())
        if n_held is not None:
            log.warning(text + (f" ({n_held} more since it was last logged)" if n_held else ""))


_status = msgspec.json.Decoder(Status)
