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
from edge_node.log_limit import LogLimit
from edge_node.mqtt_client import Connection, Link
from edge_node.sources import Emit, Reach, SourceCounters
from edge_node.sources.arrivals import Arrivals
from edge_node.sources.payloads import Decoder, Refusal
from models.signal import Device, DropReason, SampleBlock
from models.topics import filter_matches

MAX_CACHED_TOPICS = 10_000
TOPIC_BYTES = 65_536  # the longest topic, and then some
SAME_FAULT_LOG_S = 60.0

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
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config = config
        self._now_ns = now_ns
        self._routes = [Route.of(s, devices) for s in config.subscribe]
        self._by_topic: dict[str, list[tuple[Route, str | None, str | None]]] = {}
        self._log = log.bind(source=config.name)
        self._log_limit = LogLimit(SAME_FAULT_LOG_S)
        self._emit: Emit = _refuse
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
        client_id = self._config.client_id or f"linewatch-{self.name}-{secrets.token_hex(4)}"
        connection = Connection(
            self._config,
            self,
            label=f"source {self.name}",
            client_id=client_id,
            max_packet_bytes=max_packet_bytes(self._config),
        )
        self._connection = connection
        connection.start()
        try:
            await asyncio.shield(asyncio.wrap_future(connection.finished))
        finally:
            await asyncio.to_thread(connection.stop)

    def on_connected(self, link: Link) -> None:
        filters = filters_of(self._config)
        if filters:
            link.subscribe(filters)

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        arrival_ns = self._now_ns()
        counters = self._counters
        counters.n_messages += 1
        counters.n_bytes += len(payload)
        routes = self._by_topic.get(topic)
        if routes is None:
            routes = self._routes_of(topic)
        if not routes:
            self._refused(topic, Refusal(DropReason.UNKNOWN_TOPIC, "no subscription is for this topic"))
        for route, device, channel in routes:
            blocks, refused = route.decoder.decode(
                payload, arrival_ns, device=device, channel=channel, retained=retained
            )
            for block in route.arrivals.spread(blocks, arrival_ns):
                if self._emit(block):
                    counters.n_blocks += 1
                    counters.n_samples += block.n_samples
                else:
                    counters.sample_drops[DropReason.QUEUE_FULL] += block.n_samples
                    self._log_fault("", DropReason.QUEUE_FULL, "samples dropped: the gateway cannot keep up")
            for refusal in refused:
                self._refused(topic, refusal)

    def on_acked(self, mid: int, refusal: str | None) -> None:
        """A source publishes nothing."""

    def on_lost(self, blameless: bool) -> None:
        """The connection comes back by itself, and on_connected subscribes again."""

    def on_turn(self, link: Link) -> None:
        """Nothing to do between messages."""

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
    """What to subscribe to: each filter once, at the highest QoS that any subscription with it has."""
    qos_of: dict[str, int] = {}
    for subscription in config.subscribe:
        wanted = subscription.filter
        qos_of[wanted] = max(subscription.qos, qos_of.get(wanted, 0))
    return list(qos_of.items())


def max_packet_bytes(config: MqttSource) -> int:
    """Bytes of the largest packet that is taken. Twice what a payload may have: one that is somewhat too large should
    be seen and counted, one that is far too large should cost no memory."""
    return 2 * max((s.max_payload_bytes for s in config.subscribe), default=0) + TOPIC_BYTES


def _refuse(_block: SampleBlock) -> bool:
    """Stands where ``run`` puts the daemon's queue."""
    return False
