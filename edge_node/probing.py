"""``check --test``: connect to every broker of the configuration once, and say how it went."""

from __future__ import annotations

import secrets
import time

from edge_node.config import Config
from edge_node.config_schema import MqttSource, Uplink
from edge_node.mqtt_client import Connection, Link

PATIENCE_S = 10.0


class _Nothing:
    """A session that only connects."""

    def on_connected(self, link: Link) -> None: ...

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None: ...

    def on_acked(self, mid: int, refusal: str | None) -> None: ...

    def on_lost(self, blameless: bool) -> None: ...

    def on_turn(self, link: Link) -> None: ...


def report(config: Config) -> int:
    """Prints one line a broker; returns how many could not be reached."""
    brokers: list[tuple[str, MqttSource | Uplink]] = [
        (f"source {s.name}", s) for s in config.sources if isinstance(s, MqttSource)
    ]
    if config.uplink is not None:
        brokers.append(("uplink", config.uplink))
    failed = 0
    for label, broker in brokers:
        error = _connect(broker, label)
        host, port = broker.address
        print(f"{label}: {host}:{port}: {error or f'connected with MQTT {broker.version}'}")
        failed += error is not None
    return failed


def _connect(broker: MqttSource | Uplink, label: str) -> str | None:
    """None once the broker accepted us, else why not."""
    # Not the configured client id: that would throw the running gateway off.
    connection = Connection(
        broker,
        _Nothing(),
        label=label,
        client_id=f"linewatch-check-{secrets.token_hex(4)}",
        max_packet_bytes=1 << 20,
    )
    connection.start()
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            if connection.connected:
                return None
            if connection.last_error is not None:
                return connection.last_error
            time.sleep(0.02)
        return f"no answer within {PATIENCE_S:g} s"
    finally:
        connection.stop()
