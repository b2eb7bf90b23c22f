"""A real mosquitto for tests: started on a free port of 127.0.0.1 with a configuration of its own,
stopped, started again.

Without mosquitto the tests that need it skip and say how to get it; with ``LINEWATCH_REQUIRE_SERVICES=1``
they fail instead.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

HOST = "127.0.0.1"
PORTS = range(12_000, 32_000)
HOW_TO_GET_IT = "mosquitto is not installed: apt-get install mosquitto"


def mosquitto_path() -> str:
    """The mosquitto program; skips (or fails) the test where it is missing."""
    path = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        if os.environ.get("LINEWATCH_REQUIRE_SERVICES") == "1":
            pytest.fail(HOW_TO_GET_IT)
        pytest.skip(HOW_TO_GET_IT)
    return path


def free_port() -> int:
    """A TCP port that nothing listens on now. None of those that the system gives to outgoing connections (from 32768 on, as
    Linux is set up): one of another test could be given it before it is used."""
    for _ in range(1000):
        port = secrets.choice(PORTS)
        with socket.socket() as sock, suppress(OSError):
            sock.bind((HOST, port))
            return port
    pytest.fail("there is no free port")


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 40.0) -> Any:
    """What ``condition`` returns as soon as it is true; fails the test, naming ``what``, when it does not
    become so."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(0.01)
    return result


KEEP_ALL = "max_queued_messages 0"  # mosquitto drops what a slow subscriber has waiting beyond 1,000


class Broker:
    """One mosquitto. ``options`` are lines of its configuration; the default lets anybody in. ``whole``: all of it."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        port: int | None = None,
        password: tuple[str, str] | None = None,
        whole: str | None = None,
    ) -> None:
        self.port = port or free_port()
        self._program = mosquitto_path()
        self._log = folder / "mosquitto.log"
        lines = [f"listener {self.port} {HOST}", "allow_anonymous " + ("false" if password else "true")]
        if password is not None:
            passwords = folder / "passwords"
            passwords.write_text(":".join(password) + "\n")
            subprocess.run(["mosquitto_passwd", "-U", passwords], check=True)
            lines.append(f"password_file {passwords}")
        if os.geteuid() == 0:
            lines.append("user root")  # else it gives up the right to read the test's folder
        self._config = folder / "mosquitto.conf"
        text = "\n".join([*lines, "set_tcp_nodelay true", KEEP_ALL, *options]) + "\n"
        self._config.write_text(text if whole is None else whole)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", self._config], stdout=log, stderr=log)
        wait_for(self._listens, f"mosquitto listening ({self._log.read_text()})")

    def stop(self) -> None:
        """Ends it as an administrator would."""
        self._end("terminate")

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._end("kill")

    def freeze(self) -> None:
        """Stops it where it is: its connections stand, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"mosquitto ended: {self.log()}")
        with socket.socket() as sock:
            return sock.connect_ex((HOST, self.port)) == 0

    def _end(self, how: str) -> None:
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(10)
            self._process = None


@contextmanager
def broker(folder: Path, *options: str, **more: Any) -> Iterator[Broker]:
    """A running broker; see :class:`Broker`."""
    started = Broker(folder, *options, **more)
    started.start()
    try:
        yield started
    finally:
        started.kill()


@dataclass(frozen=True, slots=True)
class Received:
    """A message as a subscriber got it."""

    topic: str
    payload: bytes
    retained: bool


class Subscriber:
    """Collects what is published under ``topics``, and publishes. Reconnects by itself when the broker
    comes back."""

    def __init__(self, port: int, *topics: str) -> None:
        self.messages: list[Received] = []
        self._subscribed = threading.Event()
        self._topics = topics
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        self._client.reconnect_delay_set(1, 1)
        # Without this each publication waits for the acknowledgement of the one before.
        self._client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = lambda _c, _u, m: self.messages.append(
            Received(m.topic, bytes(m.payload), m.retain)
        )
        self._client.connect(HOST, port)
        self._client.loop_start()

    def __enter__(self) -> Subscriber:
        self.ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def ready(self) -> None:
        """Waits until the subscriptions stand."""
        if self._topics:
            wait_for(self._subscribed.is_set, "the test's subscription")
        else:
            wait_for(self._client.is_connected, "the test's connection")

    def publish(self, topic: str, payload: bytes | str, *, retain: bool = False) -> None:
        """Publishes at QoS 1 and waits for the broker's acknowledgement."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def on(self, topic: str) -> list[bytes]:
        """Payloads received on ``topic`` so far."""
        return [m.payload for m in self.messages if m.topic == topic]

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        if self._topics:
            client.subscribe([(topic, 1) for topic in self._topics])


def retained(port: int, root: str) -> dict[str, bytes]:
    """What the broker has retained below ``root``: payload by topic."""
    with Subscriber(port, f"{root}/#") as late:
        end = f"{root}/end-of-what-is-retained"
        late.publish(end, b"")
        wait_for(lambda: late.on(end), "what comes after all that is retained")
        return {m.topic: m.payload for m in late.messages if m.retained}


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of a certificate authority and of a server at 127.0.0.1 that it vouches for."""

    ca: Path
    server: Path
    server_key: Path
    other_ca: Path  # that vouches for nobody

    @property
    def options(self) -> tuple[str, ...]:
        """Lines of the broker's configuration."""
        return (f"cafile {self.ca}", f"certfile {self.server}", f"keyfile {self.server_key}")


def certificates(folder: Path) -> Certificates:
    """Fresh certificates, valid for a day."""
    files = Certificates(
        folder / "ca.pem", folder / "server.pem", folder / "server.key", folder / "other.pem"
    )
    ca_key, other_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    for path, name, key in ((files.ca, "Test CA", ca_key), (files.other_ca, "Other CA", other_key)):
        path.write_bytes(_pem(_certificate(name, name, key.public_key(), key, ca=True)))
    server = _certificate("localhost", "Test CA", server_key.public_key(), ca_key, ca=False)
    files.server.write_bytes(_pem(server))
    files.server_key.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


def _certificate(
    name: str, issuer: str, public: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    names = [x509.IPAddress(ip_address(HOST)), x509.DNSName("localhost")]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
