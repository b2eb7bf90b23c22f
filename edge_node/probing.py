"""``check --test``: connect to every broker of the configuration once, subscribe to what is read there, and say how it went."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import Future, wait

from edge_node.config import Config
from edge_node.config_schema import MqttSource, Uplink
from edge_node.mqtt_client import Connection, Link
from edge_node.sources.mqtt import filters_of
from models.topics import GatewayTopics

PATIENCE_S = 10.0
STOP_S = 2.0
MAX_PACKET_BYTES = 1 << 20  # of what comes in while we are there


class _Probe:
    """A connection that subscribes, and leaves what comes."""

    def __init__(self, label: str, broker: MqttSource | Uplink, filters: list[tuple[str, int]]) -> None:
        self._label = label
        self._broker = broker
        self._filters = filters
        self._link: Link | None = None
        # Not the configured client id: that would throw the running gateway off.
        self._connection = Connection(
            broker,
            self,
            label=label,
            client_id=f"linewatch-check-{secrets.token_hex(4)}",
            max_packet_bytes=MAX_PACKET_BYTES,
        )

    def start(self) -> None:
        self._connection.start()

    def stop(self) -> Future[None]:
        """Disconnects without waiting for it; returns what completes when that is done."""
        self._connection.stop(0.0)
        return self._connection.finished

    @property
    def answered(self) -> bool:
        """Whether it is known how it went: the broker has answered all that was asked, or there is an error."""
        return self.error is not None or (self._link is not None and self._link.answered)

    @property
    def error(self) -> str | None:
        return self._connection.last_error

    def line(self) -> str:
        """What to say of it, now."""
        went = f"connected with MQTT {self._broker.version}, and may subscribe"
        if not self.answered:
            went = f"no answer within {PATIENCE_S:g} s"
        return f"{self._label}: {self._connection.where}: {self.error or went}"

    def on_connected(self, link: Link) -> None:
        if self._filters:
            link.subscribe(self._filters)
        self._link = link

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None: ...

    def on_acked(self, mid: int, refusal: str | None) -> None: ...

    def on_lost(self, blameless: bool) -> None: ...

    def on_turn(self, link: Link) -> None: ...


def report(config: Config) -> tuple[int, int]:
    """Asks all brokers at once, prints one line each; returns how many cannot be used, and how many there are."""
    probes = [
        _Probe(f"source {s.name}", s, filters_of(s)) for s in config.sources if isinstance(s, MqttSource)
    ]
    if config.uplink is not None:
        topics = GatewayTopics(config.uplink.prefix, config.gateway.site, config.gateway.name)
        probes.append(_Probe("uplink", config.uplink, [(topics.status, 1)]))
    for probe in probes:
        probe.start()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not all(probe.answered for probe in probes):
        time.sleep(0.02)
    failed = 0
    for probe in probes:
        print(probe.line())
        failed += not probe.answered or probe.error is not None
    wait([probe.stop() for probe in probes], STOP_S)
    return failed, len(probes)
