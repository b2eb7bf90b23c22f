"""Sensors that publish to an MQTT broker.

Messages are decoded on the connection's thread, where paho hands them over, and leave it as blocks.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from edge_node.config_schema import MqttSource, MqttSubscription
from edge_node.sources import Emit, Reach, SessionState, SourceCounters, refuse
from edge_node.sources.arrivals import Arrivals
from edge_node.sources.payloads import Decoder, Refusal
from edge_node.sources.receipts import Receipts, digest_of
from models.log_limit import LogLimit
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Persistence, Receipt
from models.signal import Device, DropReason, SampleBlock
from models.topics import filter_matches

MAX_CACHED_TOPICS = 10_000
TOPIC_BYTES = 65_536  # the longest topic, and then some
SAME_FAULT_LOG_S = 60.0
MAX_AHEAD = 1000  # acknowledged messages that are remembered
STALLED_AT, STALLED_S = (
    10,
    1.0,
)  # no broker sends fewer ahead by default; silence for so long may be its waiting for us

log = structlog.get_logger("linewatch.sources.mqtt")


@dataclass(frozen=True, slots=True)
class Route:
    """A subscription, its decoder, and the times of its rows that have none; ``device_level`` and ``channel_level`` are
    the levels of the topic that name them."""

    subscription: MqttSubscription
    decoder: Decoder
    arrivals: Arrivals
    device_level: int | None
    channel_level: int | None

    @classmethod
    def of(cls, subscription: MqttSubscription, devices: Mapping[str, Device]) -> Route:
        levels = subscription.topic.split("/")
        decoder = Decoder(
            subscription,
            devices,
            device=subscription.device,
            channel=subscription.channel,
            renames=subscription.devices,
        )
        device, channel = (levels.index(n) if n in levels else None for n in ("{device}", "{channel}"))
        return cls(subscription, decoder, Arrivals(devices), device, channel)

    def names_in(self, topic: str) -> tuple[str | None, str | None]:
        """Device and channel that a matching topic names."""
        levels = topic.split("/")
        device = None if self.device_level is None else levels[self.device_level]
        channel = None if self.channel_level is None else levels[self.channel_level]
        return device, channel


class MqttSubscriber:
    """The ``mqtt`` source. Raises ValueError for a subscription that can't be decoded (an unknown time
    zone)."""

    def __init__(
        self,
        config: MqttSource,
        devices: Mapping[str, Device],
        *,
        owner: str | None = None,
        session: SessionState | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``owner``: who subscribes, so that the broker keeps messages at QoS 1 for it until they are committed; None:
        nothing is ever committed, and each is acknowledged as it comes. ``session``: what is left of the one before."""
        self._config = config
        self._owner = owner if any(s.qos for s in config.subscribe) else None
        self._former = session.filters if session is not None else []
        self._window = config.max_inflight  # messages that the broker sends ahead of their acknowledgement
        self._n_stalled = 0
        self._heard_s = 0.0
        self._acknowledged_s: float | None = None
        self._receipts = Receipts(
            session.marks if session is not None else None, min(config.max_inflight, MAX_AHEAD)
        )
        self._now_ns = now_ns
        self._routes = [Route.of(s, devices) for s in config.subscribe]
        self._by_topic: dict[str, list[tuple[Route, str | None, str | None]]] = {}
        self._log = log.bind(source=config.name)
        self._log_limit = LogLimit(SAME_FAULT_LOG_S)
        self._emit: Emit = refuse
        self._counters = SourceCounters()
        self._connection: Connection | None = None

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def counters(self) -> SourceCounters:
        return self._counters.copy()

    @property
    def reach(self) -> Reach:
        connection = self._connection
        if connection is None:
            return Reach(False, 0, None)
        return Reach(
            connection.connected, connection.n_connects, connection.last_error, connection.n_failures
        )

    async def run(self, emit: Emit) -> None:
        """Keeps the connection up and emits blocks until cancelled."""
        self._emit = emit
        # A session that is to be found again needs a name that stays.
        ours = f"{self._owner}-{self.name}" if self._owner else f"{self.name}-{secrets.token_hex(4)}"
        client_id = self._config.client_id or f"linewatch-{ours}"
        connection = Connection(
            self._config,
            self,
            label=f"source {self.name}",
            client_id=client_id,
            max_packet_bytes=max_packet_bytes(self._config),
            persistence=None
            if self._owner is None
            else Persistence(round(self._config.session_expiry_s), self._config.max_inflight),
        )
        self._connection = connection
        connection.start()
        try:
            await asyncio.shield(asyncio.wrap_future(connection.finished))
        finally:
            await asyncio.to_thread(connection.stop)

    @property
    def wants_commit(self) -> bool:
        if self._owner is None or not (n := self._receipts.n_waiting):
            return False
        if 2 * n >= self._window:
            return True
        # A broker that sends fewer ahead than we were told would wait for us, and we for it.
        stalled = n >= STALLED_AT and time.monotonic() - self._heard_s > STALLED_S
        if stalled:
            self._n_stalled = n
        return stalled

    def splits(self, ticket: int) -> bool:
        return self._owner is not None and self._receipts.splits(ticket)

    def committed(self, ticket: int) -> None:
        self._receipts.commit(ticket)
        if self._owner is not None and self._connection is not None:
            self._connection.wake()

    def session(self, ticket: int) -> SessionState | None:
        if self._owner is None:
            return None
        filters = {f for f, _ in filters_of(self._config)} | set(self._former)
        return SessionState(filters=sorted(filters), marks=self._receipts.marks(ticket))

    def on_connected(self, link: Link) -> None:
        filters = filters_of(self._config)
        if self._owner is not None:
            self._receipts.connected(session_present=link.session_present)
            wanted = {f for f, _ in filters}
            if no_more := [f for f in self._former if f not in wanted]:
                link.unsubscribe(no_more)
            self._former = []
        if filters:
            link.subscribe(filters)

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        counters = self._counters
        counters.n_messages += 1
        counters.n_bytes += len(payload)
        if self._owner is None or not receipt.qos:
            self._take(topic, payload, retained, kept=False)
            return
        digest = digest_of(topic, payload)
        if self._receipts.came_again(receipt.mid, digest, dup=receipt.dup):
            counters.message_drops[DropReason.DUPLICATE] += 1
            return
        self._heard_s = time.monotonic()
        if self._n_stalled and self._acknowledged_s is not None:
            self._learn_window(self._heard_s - self._acknowledged_s)
        first, last = self._take(topic, payload, retained, kept=True)
        self._receipts.take(receipt.mid, digest, last, first)

    def _take(self, topic: str, payload: bytes, retained: bool, *, kept: bool) -> tuple[int, int]:
        """Decodes and emits; returns the tickets of the first and the last block, 0 if there is none."""
        arrival_ns, counters = self._now_ns(), self._counters
        routes = self._by_topic.get(topic)
        if routes is None:
            routes = self._routes_of(topic)
        if not routes:
            self._refused(topic, Refusal(DropReason.UNKNOWN_TOPIC, "no subscription is for this topic"))
        found: list[SampleBlock] = []
        for route, device, channel in routes:
            blocks, refused = route.decoder.decode(
                payload, arrival_ns, device=device, channel=channel, retained=retained
            )
            found += route.arrivals.spread(blocks, arrival_ns)
            for refusal in refused:
                self._refused(topic, refusal)
        if kept and len(found) > 1:
            self._receipts.begin()
        tickets: list[int] = []
        for block in found:
            if ticket := self._emit(block, kept=kept):
                tickets.append(ticket)
                counters.n_blocks += 1
                counters.n_samples += block.n_samples
            else:
                counters.sample_drops[DropReason.QUEUE_FULL] += block.n_samples
                self._log_fault("", DropReason.QUEUE_FULL, "samples dropped: the gateway cannot keep up")
        return (tickets[0], tickets[-1]) if tickets else (0, 0)

    def on_acked(self, mid: int, refusal: str | None) -> None:
        """A source publishes nothing."""

    def on_lost(self, blameless: bool) -> None:
        """The connection comes back by itself, and on_connected subscribes again."""

    def on_turn(self, link: Link) -> None:
        if self._owner is not None:
            for mid in self._receipts.due():
                link.acknowledge(mid)
                self._acknowledged_s = time.monotonic()

    def _learn_window(self, after_s: float) -> None:
        """A message came ``after_s`` an acknowledgement that ended a silence: at once, and it was the broker that had waited."""
        n, self._n_stalled, self._acknowledged_s = self._n_stalled, 0, None
        if after_s < STALLED_S / 2 and n < self._window:
            self._window = n
            self._log.warning(
                f"the broker sends no more than {n} messages ahead of their acknowledgement, and max_inflight is "
                f"{self._config.max_inflight}: a checkpoint is made for every {(n + 1) // 2} messages. Raise the broker's limit "
                f"(mosquitto: max_inflight_messages), or set max_inflight = {n}"
            )

    def _routes_of(self, topic: str) -> list[tuple[Route, str | None, str | None]]:
        matching = [r for r in self._routes if topic and filter_matches(r.subscription.filter, topic)]
        routes = [(r, *r.names_in(topic)) for r in matching]
        if len(self._by_topic) < MAX_CACHED_TOPICS:
            self._by_topic[topic] = routes
        return routes

    def _refused(self, topic: str, refusal: Refusal) -> None:
        self._counters.message_drops[refusal.reason] += 1
        self._log_fault(topic, refusal.reason, refusal.told)

    def _log_fault(self, topic: str, reason: DropReason, text: str) -> None:
        n_held = self._log_limit.due((topic, reason), time.monotonic())
        if n_held is None:
            return
        named = f"{topic if topic.isprintable() else ascii(topic)}: " if topic else ""
        more = f" ({n_held} more since it was last logged)" if n_held else ""
        self._log.warning(f"{named}{text}{more}", reason=str(reason))


def filters_of(config: MqttSource) -> list[tuple[str, int]]:
    """What to subscribe to: each filter once, at the highest QoS that any subscription with it has. QoS 2 is asked for as 1: its
    handshake ends before a checkpoint, and what is brought twice is told by its packet id."""
    qos_of: dict[str, int] = {}
    for subscription in config.subscribe:
        wanted = subscription.filter
        qos_of[wanted] = max(min(subscription.qos, 1), qos_of.get(wanted, 0))
    return list(qos_of.items())


def max_packet_bytes(config: MqttSource) -> int:
    """Bytes of the largest packet that is taken. Twice what a payload may have: one that is somewhat too large should
    be seen and counted, one that is far too large should cost no memory."""
    return 2 * max((s.max_payload_bytes for s in config.subscribe), default=0) + TOPIC_BYTES
