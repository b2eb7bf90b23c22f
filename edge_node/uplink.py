"""Publishes alerts, summaries, device states and status: the gateway's only way out.

Strategy: what is said waits in :class:`~edge_node.departures.Departures`; the connection's thread
hands at most ``WINDOW`` messages at a time to the broker at QoS 1 and forgets each when it is
acknowledged. What was unacknowledged when a connection broke goes back to the front of the queue. A
message that was in flight then is next sent alone, and after ``MAX_LOST`` times (an alert: ``MAX_LOST_ALERT``) it is the broker
that will not have it: it is dropped, counted and named, so that one message that is too large cannot hold up the
others for ever. What had to wait for a connection leaves at once when it comes, at most ``drain_per_s`` of it a second and
never in more than half of the window, so that what is said meanwhile finds room; it says that it is delayed.

Invariants: those of ``Departures``; on every connect the status, then each device's state, go out before anything
else; what a device said leaves in the order in which it was said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog

from edge_node.clones import Clones
from edge_node.config_schema import Uplink as UplinkConfig
from edge_node.departures import Departures, UplinkCounters
from edge_node.egress import Outgoing, clearing, marked_delayed, outgoing
from models.messages import Event, ModelState, Response, ScoreRequest, Status, encode
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Receipt, Will
from models.signal import DropReason
from models.topics import GatewayTopics, filter_matches

WINDOW = 20  # unacknowledged messages; the default of brokers
DRAIN_WINDOW = WINDOW // 2  # of which those that waited for a connection may take up so many
MAX_LOST = 5
MAX_LOST_ALERT = 20  # connections are cut on flaky lines, too
PAUSE_S = 5.0
_PASSING = frozenset(
    {"Quota exceeded", "Unspecified error", "Implementation specific error"}
)  # MQTT 5 section 3.4.2.1
PACKET_OVERHEAD = 32  # fixed header, message id and properties of a PUBLISH, at most
MAX_STATUS_BYTES = 1 << 20

log = structlog.get_logger("linewatch.uplink")


class Inbound(Protocol):
    """Who hears what comes in over the uplink's connection. ``filters``: (topic filter, QoS), subscribed on every connect,
    and followed, within a second, when they change; ``max_bytes``: what a message may take at most, topic included."""

    @property
    def filters(self) -> Sequence[tuple[str, int]]: ...

    @property
    def max_bytes(self) -> int: ...

    def again(self) -> Sequence[tuple[str, int]]:
        """Those of ``filters`` on which what is retained is wanted once more; each is said once. On the connection's thread."""

    def hear(self, topic: str, payload: bytes, retained: bool) -> None:
        """On the connection's thread; bad input never raises, what does ends the uplink."""


class Uplink:
    """``offline`` is the status that the broker publishes as last will; its ``boot_id`` is ours. ``departures``: what waits
    to leave, if that outlives this uplink; ``payload_of``: reads what only the outbox has, None where it cannot be read."""

    def __init__(
        self,
        config: UplinkConfig,
        topics: GatewayTopics,
        offline: Status,
        inbound: Sequence[Inbound] = (),
        *,
        departures: Departures | None = None,
        payload_of: Callable[[int], bytes | None] = lambda _row: None,
    ) -> None:
        if offline.state != "offline":
            raise ValueError(f"the last will says {offline.state!r}, not 'offline'")
        self._topics = topics
        self._boot_id = offline.boot_id
        self._reconnect_max_s = config.reconnect_max_s
        self._departures = departures or Departures(config.queue_messages, config.queue_bytes)
        self._departures.go_to(topics.prefix)
        self._payload_of = payload_of
        self._moved = self._departures.moved
        self._queue = self._departures.queue
        self._in_flight = self._departures.in_flight
        self._retained = self._departures.retained
        self._status_place = topics.status.removeprefix(f"{topics.prefix}/")
        self._n_waited_in_flight = 0
        self._drain_per_s = config.drain_per_s
        self._may_drain = config.drain_per_s  # how many more that waited may leave now
        self._drained_at_s = time.monotonic()
        self._paused_until_s = 0.0
        self._clones = Clones(offline.boot_id)
        self._status_delivered = False
        self._n_taken_over = 0
        self._inbound = tuple(inbound)
        self._subscribed: tuple[tuple[str, int], ...] = ()
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
    def topics(self) -> GatewayTopics:
        """Where it publishes."""
        return self._topics

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
        return self._departures.n_queued

    @property
    def n_queued_bytes(self) -> int:
        return self._departures.n_queued_bytes

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Boot ids of other computers that say they are this gateway (a cloned SD card)."""
        with self._moved:
            return self._clones.conflicts

    def forget_conflicts(self, unheard_s: float) -> None:
        """Those that were not heard for so long are no conflict any more; :attr:`n_foreign` keeps what it counted."""
        with self._moved:
            self._clones.forget(time.monotonic() - unheard_s)

    @property
    def n_foreign(self) -> int:
        """How often we have met them: statuses of theirs, and connections of ours that they took over."""
        with self._moved:
            return self._clones.n_heard + self._connection.n_taken_over

    @property
    def reconnect_max_s(self) -> float:
        """Seconds from one attempt to connect to the next, at most."""
        return self._reconnect_max_s

    def counters(self) -> UplinkCounters:
        """A copy of the counters."""
        return self._departures.snapshot()

    def start(self) -> None:
        """Connects, for ever, on a thread of its own; returns at once."""
        self._connection.start()

    def wake(self) -> None:
        """Something was released."""
        self._connection.wake()

    def publish(self, event: Event | Status | Response | ModelState | ScoreRequest) -> None:
        """Queues ``event``; never waits. From any thread. Raises TypeError for what may not leave the gateway, and ValueError
        for a message of another gateway."""
        self._departures.put(outgoing(event, self._topics))
        self.wake()

    def forget(self, device_id: str) -> None:
        """The device is no more: its retained state is taken back. Never waits; from any thread."""
        self._departures.put(clearing(device_id, self._topics))
        self.wake()

    def stop(self, final: Status, timeout_s: float = 5.0) -> int:
        """Waits for the queue to empty, publishes ``final`` (state "stopped") and disconnects; at most
        ``timeout_s`` and a second for the last. Returns how many messages were not acknowledged: those that are in the outbox
        stay there, the others are counted as dropped (``down``)."""
        with self._moved:
            # Without a connection there is little hope, but a reconnect may be under way.
            patience_s = timeout_s if self.connected else min(timeout_s, 1.0)
            self._moved.wait_for(lambda: not self._in_flight and not len(self._queue), patience_s)
            item = outgoing(final, self._topics)
            self._departures.counters.n_published[item.kind] += 1
            self._retained[item.place] = item
            self._departures.settle(*self._queue.put_first([item]))
        self._connection.wake()
        with self._moved:
            if self.connected:
                self._moved.wait_for(lambda: not self._waiting(item), 1.0)
        self._connection.stop()
        with self._moved:
            self._departures.settle(*self._queue.put_back(self._in_flight.values()))
            self._in_flight.clear()
            n_kept, n_lost = self._departures.give_up_unstored()
        if n_kept or n_lost:
            kept = f"; {n_kept} are kept for the next start" if n_kept else ""
            log.warning(
                f"stopped with {_count(n_kept + n_lost)} that the broker did not acknowledge{kept}",
                n_kept=n_kept,
                n_lost=n_lost,
            )
        return n_kept + n_lost

    def on_connected(self, link: Link) -> None:
        n_taken_over = self._connection.n_taken_over
        with self._moved:
            self._clones.connected(
                ours_before=self._status_delivered,
                taken_over=n_taken_over > self._n_taken_over,
            )
            self._departures.withdraw("score_request")  # nobody waits for the answer any more
            self._queue.all_have_waited()
            again = [item for item in self._retained.values() if item.n_lost < _patience(item)]
            again.sort(key=lambda item: item.place != self._status_place)
            for item in again:
                if not self._queue.holds(item):
                    self._departures.counters.n_republished[item.kind] += 1
            self._departures.settle(*self._queue.put_first(again))
        self._n_taken_over = n_taken_over
        link.subscribe([(self._topics.status, 1)])
        self._subscribed = ()
        self._subscribe(link)

    def _subscribe(self, link: Link) -> None:
        """Follow what those who hear want to hear."""
        wanted = tuple(pair for inbound in self._inbound for pair in inbound.filters)
        again = {pair for inbound in self._inbound for pair in inbound.again()}
        if wanted == self._subscribed and not again:
            return
        before, self._subscribed = self._subscribed, wanted
        if more := [pair for pair in wanted if pair not in before or pair in again]:
            link.subscribe(more)
        if less := [pair[0] for pair in before if pair not in wanted]:
            link.unsubscribe(less)

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        if topic == self._topics.status:
            self._hear_status(topic, payload, retained)
            return
        for inbound in self._inbound:
            if any(filter_matches(f, topic) for f, _ in inbound.filters):
                inbound.hear(topic, payload, retained)

    def _hear_status(self, topic: str, payload: bytes, retained: bool) -> None:
        """Our own status topic: whoever else publishes there says it is this gateway."""
        with self._moved:
            last = self._retained.get(self._status_place)
        if last is not None and payload == last.payload:
            return  # our own words, come back
        try:
            status = _status.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if not retained:
                self._departures.log_fault("status", f"{topic}: a message that is no status: {error}")
            return
        with self._moved:
            other = self._clones.hear(status, time.monotonic(), retained=retained)
        if other:
            self._departures.log_fault(
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
            self._n_waited_in_flight -= item.waited
            if refusal is None:
                self._departures.counters.n_delivered[item.kind] += 1
                self._departures.leave(item)
                self._status_delivered |= item.kind == "status"
            elif refusal in _PASSING:
                self._departures.log_fault(
                    f"passing {refusal}", f"{item.topic}: not taken for now: {refusal}"
                )
                self._paused_until_s = time.monotonic() + PAUSE_S
                self._departures.settle(*self._queue.put_back([item]))
            else:
                self._drop(item, f"the broker refused it: {refusal}")
            self._moved.notify_all()

    def on_lost(self, blameless: bool) -> None:
        with self._moved:
            back = []
            for item in self._in_flight.values():
                item.n_lost += not blameless
                if item.n_lost >= _patience(item):
                    self._drop(item, f"the broker closed the connection {item.n_lost} times when sent it")
                else:
                    back.append(item)
            self._in_flight.clear()
            self._n_waited_in_flight = 0
            self._departures.settle(*self._queue.put_back(back))
            self._moved.notify_all()

    def on_turn(self, link: Link) -> None:
        self._subscribe(link)
        lacking = self._send(link, None)
        while lacking is not None and lacking.row is not None:
            # Not while holding the lock, for which the loop waits: a disk may not answer.
            payload = self._payload_of(lacking.row)
            with self._moved:
                lacking.payload = payload
            lacking = self._send(link, lacking if payload is None else None)

    def _send(self, link: Link, unreadable: Outgoing | None) -> Outgoing | None:
        """Sends what may leave now; returns what would be next, if only the outbox has its payload."""
        with self._moved:
            if time.monotonic() < self._paused_until_s:
                return None
            self._allow_drain()
            while True:
                may_drain = self._may_drain >= 1 and self._n_waited_in_flight < DRAIN_WINDOW
                item = self._queue.next(may_drain=may_drain)
                if item is None or not self._may_send(item, link):
                    return None
                payload, limit = item.payload, link.max_packet_bytes
                if payload is None and item.row is not None and item is not unreadable:
                    return item
                self._queue.take(may_drain=may_drain)
                if payload is None:
                    self._drop(item, "it cannot be read back from the outbox", DropReason.CORRUPT)
                    self._moved.notify_all()
                    continue
                if limit is not None and item.n_bytes + PACKET_OVERHEAD > limit:
                    self._drop(item, f"the broker takes at most {limit} bytes")
                    self._moved.notify_all()
                    continue
                if item.waited:
                    self._may_drain -= 1
                    self._n_waited_in_flight += 1
                    payload = marked_delayed(item.kind, payload)
                self._departures.counters.n_bytes[item.kind] += item.n_bytes
                mid = link.publish(item.topic, payload, retain=item.retain, delayed=item.waited)
                self._in_flight[mid] = item

    def _allow_drain(self) -> None:
        """A token bucket that holds one second's worth."""
        now_s = time.monotonic()
        gained = (now_s - self._drained_at_s) * self._drain_per_s
        self._may_drain = min(self._drain_per_s, self._may_drain + gained)
        self._drained_at_s = now_s

    def _may_send(self, item: Outgoing, link: Link) -> bool:
        """What was in flight when a connection broke goes alone, and over a connection that is known to
        work: then it is known which message breaks it."""
        if item.n_lost or any(i.n_lost for i in self._in_flight.values()):
            return link.answered and not self._in_flight
        return len(self._in_flight) < min(WINDOW, link.receive_maximum)

    def _waiting(self, item: Outgoing) -> bool:
        return self._queue.holds(item) or item in self._in_flight.values()

    def _republish_status(self) -> None:
        with self._moved:
            item = self._retained.get(self._status_place)
            if item is not None and not self._waiting(item):
                self._departures.counters.n_republished[item.kind] += 1
                self._departures.settle(*self._queue.put_first([item]))

    def _drop(self, item: Outgoing, why: str, reason: DropReason = DropReason.REFUSED) -> None:
        self._departures.counters.drops[item.kind, reason] += 1
        self._departures.leave(item)
        self._departures.log_fault(
            f"{reason} {item.kind}", f"{item.topic}: dropped a message of {item.n_bytes} bytes: {why}"
        )


def _patience(item: Outgoing) -> int:
    """After how many lost connections it is taken for their cause."""
    return MAX_LOST_ALERT if item.kind == "alert" else MAX_LOST


def _count(n: int) -> str:
    return "1 message" if n == 1 else f"{n} messages"


_status = msgspec.json.Decoder(Status)
