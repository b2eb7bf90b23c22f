"""mosquitto as examples/mosquitto/ ships it: its files with other paths and another port, and keys that its script made."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.authority import Own
from tests.brokers import HOST, Broker, free_port, wait_for

SHIPPED = Path(__file__).parents[1] / "examples" / "mosquitto"


class Keys:
    """The folder in which keys.sh is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run("authority")
        self.run("server", "localhost", HOST)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(SHIPPED / "keys.sh"), *arguments]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=True, timeout=60
        )

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def client(self, name: str) -> Own:
        stem = self.folder / name.replace("/", "@")
        if not stem.with_suffix(".pem").exists():
            self.run("client", name)
        return Own(stem.with_suffix(".pem"), stem.with_suffix(".key"))

    def toml(self, name: str) -> str:
        """``tls = …`` for gateway.toml."""
        own = self.client(name)
        return f'tls = {{ ca_file = "{self.ca}", cert_file = "{own.cert}", key_file = "{own.key}" }}'


def configuration(keys: Keys, port: int) -> str:
    """mosquitto.conf with the paths and the port of a test."""
    text = (SHIPPED / "mosquitto.conf").read_text()
    for shipped, here in (
        ("/etc/mosquitto/linewatch/acl", str(SHIPPED / "acl")),
        ("/etc/mosquitto/linewatch/", f"{keys.folder}/"),
        ("/var/lib/mosquitto/", f"{keys.folder}/"),
        ("listener 8883", f"listener {port} {HOST}"),
    ):
        assert shipped in text
        text = text.replace(shipped, here)
    if os.geteuid() == 0:
        text += "user root\n"  # else it gives up the right to read the test's folder
    return text


@contextmanager
def shipped_broker(keys: Keys) -> Iterator[Broker]:
    """It runs."""
    port = free_port()
    started = Broker(keys.folder, port=port, whole=configuration(keys, port))
    started.start()
    try:
        yield started
    finally:
        started.kill()


class Account:
    """Somebody with a certificate: hears what it may of all that there is, and publishes with MQTT 5."""

    def __init__(self, broker: Broker, keys: Keys, name: str) -> None:
        own = keys.client(name)
        self.heard: list[tuple[str, bytes, bool]] = []
        self._acked: dict[int, str] = {}
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        context = ssl.create_default_context(cafile=str(keys.ca))
        context.load_cert_chain(own.cert, own.key)
        self._client.tls_set_context(context)
        self._client.on_socket_open = lambda _c, _u, s: s.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self._client.on_connect = lambda c, *_: c.subscribe("#", 1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _c, _u, m: self.heard.append((m.topic, bytes(m.payload), m.retain))
        self._client.on_publish = self._on_publish
        self._client.connect(HOST, broker.port)
        self._client.loop_start()

    def __enter__(self) -> Account:
        wait_for(self._ready.is_set, "the account's subscription")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes | str = b"x", *, retain: bool = False) -> bool:
        """Whether the broker takes it."""
        mid = self._client.publish(topic, payload, qos=1, retain=retain).mid
        wait_for(lambda: mid in self._acked, "the broker's answer")
        return self._acked[mid] != "Not authorized"

    def on(self, topic: str) -> list[bytes]:
        return [payload for where, payload, _ in self.heard if where == topic]

    def topics(self) -> set[str]:
        return {topic for topic, _, _ in self.heard}

    def _on_publish(self, _client: Any, _user: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._acked[mid] = reason.getName()
