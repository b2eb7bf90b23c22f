"""How the benchmarks' own programs speak to the broker. Imports nothing but paho, so that the floor is one."""

from __future__ import annotations

import socket
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

HOST = "127.0.0.1"
SAMPLES_QOS, ALERTS_QOS = 0, 1  # a subscription's default, and what the uplink publishes at
SAMPLES = "plant/{}"  # the device
BARE = "bare"


def connect(port: int) -> Client:
    """A client that connects when its loop runs, and sends at once, as the gateway's do."""
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    client.on_socket_open = _no_delay
    client.connect_async(HOST, port)
    return client


def _no_delay(_client: Client, _user: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
