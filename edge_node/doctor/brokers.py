"""Brokers: do they let us in, what do they take, and what may we publish and hear there?

Strategy: a visit under a client id of its own, so that a running gateway is not thrown off; a message that is not retained, on a
topic that nobody waits for (``…/response/doctor``), and empty, which sinks, who hear all responses, take for no message; and
subscriptions that end with the visit. With MQTT 5 the broker's reason
codes say what is forbidden. With 3.1.1 it acknowledges what it throws away: there only a message that comes back is proof.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence

from edge_node.config import Config
from edge_node.config_schema import MqttSource, Uplink
from edge_node.doctor.findings import Finding, fail, ok, warn
from edge_node.sources.mqtt import filters_of
from edge_node.uplink import PACKET_OVERHEAD, WINDOW
from models.mqtt_access import another_s_certificate
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Receipt
from models.topics import GatewayTopics

PATIENCE_S = 12.0  # a connection attempt gives up after 10
ECHO_S = 1.0
_MAX_PACKET_BYTES = 1 << 20

_REMEDIES = (
    ("no broker listens", "start the broker, or correct host and port; does a firewall reject it?"),
    ("cannot be resolved", "correct host, or give this computer a DNS server that knows it"),
    ("timed out", "correct host and port; does a firewall swallow it?"),
    (
        "not trusted",
        "set tls.ca_file to the certificate of the authority that signed the broker's; is the clock right?",
    ),
    ("TLS failed", "correct port (8883 is usual for TLS), or tls"),
    (
        "does it want TLS",
        'add tls = {} (or with ca_file), or correct port; an old broker may need version = "3.1.1"',
    ),
    ("username and password", "correct username and password_file; or the broker lets this client id not in"),
    ("a client certificate", "set tls.cert_file and tls.key_file"),
    (
        "does not trust who signed",
        "give the broker the authority that signed it (mosquitto: cafile), or this gateway another",
    ),
    ("has expired", "renew it: docs/operations.md, Keys; is the clock right?"),
    ("has been revoked", "make another: docs/operations.md, Keys"),
    ("cannot be read", "see keys"),
    ("does not speak MQTT", 'correct port, or set version = "3.1.1"'),
)


class _Visit:
    """One connection, and what the broker answered on it."""

    def __init__(
        self, broker: MqttSource | Uplink, filters: Sequence[tuple[str, int]], publish_to: str | None
    ):
        self.five = broker.version == "5"
        self.link: Link | None = None
        self.tls: tuple[str, float | None] | None = None  # version, and until when its certificate is good
        self.refusal: str | None = None  # of what we published
        self.acked = self.echoed = False
        self._filters, self._publish_to = list(filters), publish_to
        self._mid: int | None = None
        self._done = threading.Event()
        self.connection = Connection(
            broker,
            self,
            label="doctor",
            client_id=f"linewatch-doctor-{secrets.token_hex(4)}",
            max_packet_bytes=_MAX_PACKET_BYTES,
        )

    def start(self) -> None:
        self.connection.start()

    def wait(self) -> None:
        """Until all is answered, or the connection failed; bounded."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s and not self._done.wait(0.05):
            if self.link is None and self.connection.last_error is not None:
                break
        if self.acked and not self.five:
            end_s = time.monotonic() + ECHO_S
            while time.monotonic() < end_s and not self.echoed:
                time.sleep(0.02)
        self.connection.stop()

    @property
    def answered(self) -> bool:
        return self._done.is_set()

    def on_connected(self, link: Link) -> None:
        if self.link is not None:  # a second time: what it answers then is not what it answered
            return
        self.link, self.tls = link, link.tls
        if self._publish_to is not None:
            link.subscribe([(self._publish_to, 1)])
        for wanted in self._filters:
            link.subscribe([wanted])

    def on_turn(self, link: Link) -> None:
        if link is not self.link or not link.answered:
            return
        if self._publish_to is not None and self._mid is None:
            self._mid = link.publish(self._publish_to, b"", retain=False)
        if self._publish_to is None or self.acked:
            self._done.set()

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        self.echoed |= topic == self._publish_to

    def on_acked(self, mid: int, refusal: str | None) -> None:
        if mid == self._mid:
            self.refusal, self.acked = refusal, True

    def on_lost(self, blameless: bool) -> None: ...


def uplink(config: Config, largest_bytes: int) -> Iterator[Finding]:
    """``largest_bytes``: what the largest message takes that the gateway will publish."""
    if config.uplink is None:
        yield warn("uplink", "none: alerts are only logged", "add an [uplink]")
        return
    topics = GatewayTopics(config.uplink.prefix, config.gateway.site, config.gateway.name)
    hears = {
        topics.status: "another computer of this name is not noticed",
        topics.requests: "what operators ask of it is not heard",
    }
    publish_to = topics.response("doctor")  # where a gateway may publish that is let do no more than it must
    visit = _Visit(config.uplink, [(f, 1) for f in hears], publish_to)
    visit.start()
    visit.wait()
    yield from _entry("uplink", config.uplink, visit)
    if visit.link is None:
        return
    yield from _limits(visit.link, visit.five, largest_bytes)
    if not visit.answered and visit.acked is False:
        yield fail("access", "the broker took the connection and then did not answer", "see the broker's log")
        return
    grant = f"let it write below {topics.root} and read {topics.status} and {topics.requests}: examples/mosquitto/acl"
    if (another := another_s_certificate(config.uplink.tls, topics.site, topics.gateway)) is not None:
        grant = f"{another}: use its own, or correct [gateway] site and name; or {grant}"
    denied = [f for f in hears if f in visit.link.refused]
    for wanted in denied:
        yield warn("access", f"may not subscribe to {wanted}: {hears[wanted]}", grant)
    if visit.refusal is not None:
        yield fail("access", f"may not publish below {topics.root}: {visit.refusal}", grant)
    elif not visit.five and not visit.echoed:
        text = (
            f"whether it may publish below {topics.root} is not said with MQTT 3.1.1, and nothing came back"
        )
        yield warn("access", text, 'version = "5" tells; or look whether its status arrives')
    elif not denied:
        yield ok("access", f"may publish and subscribe below {topics.root}")


def source(of: MqttSource) -> Iterator[Finding]:
    """A broker that sensors publish to."""
    name = f"source {of.name}"
    visit = _Visit(of, filters_of(of), None)
    visit.start()
    visit.wait()
    yield from _entry(name, of, visit)
    if visit.link is None:
        return
    for wanted, why in visit.link.refused.items():
        yield fail(name, f"may not subscribe to {wanted}: {why}", "let this user read it (the broker's ACL)")


def _entry(name: str, broker: MqttSource | Uplink, visit: _Visit) -> Iterator[Finding]:
    where = visit.connection.where
    if visit.link is None:
        why = visit.connection.last_error or "no answer"
        remedy = next((text for sign, text in _REMEDIES if sign in why), "see the broker's log")
        yield fail(name, f"{where}: {why}", remedy)
        return
    text = f"{where}, MQTT {broker.version}"
    if visit.tls is not None:
        version, until_s = visit.tls
        text += f", {version}"
        if until_s is not None:
            days = (until_s - time.time()) / 86_400
            text += f", the broker's certificate is good for {days:.0f} days"
            if days < 14:
                yield warn(name, text, "renew the broker's certificate")
                return
    yield ok(name, text)
    if broker.tls is None and broker.username is not None and not _near(broker.host):
        yield warn(name, f"the password goes to {where} in the clear", "use TLS: docs/operations.md")


def _limits(link: Link, five: bool, largest_bytes: int) -> Iterator[Finding]:
    if not five:
        return
    limit = link.max_packet_bytes
    if limit is not None and largest_bytes + PACKET_OVERHEAD > limit:
        yield fail(
            "uplink",
            f"the broker takes packets of {limit} bytes, and summaries or alerts here are up to {largest_bytes}",
            "raise the broker's limit (mosquitto: max_packet_size), or privacy, n_reservoir, fewer channels a device",
        )
    elif link.receive_maximum < WINDOW:
        yield warn(
            "uplink",
            f"the broker takes {link.receive_maximum} messages at a time: after an outage it takes long to catch up",
            f"set it to {WINDOW} or more (mosquitto: max_inflight_messages)",
        )
    else:
        packets = "packets of any size" if limit is None else f"packets of up to {limit} bytes"
        yield ok("uplink", f"takes {packets}, {link.receive_maximum} messages at a time")


def _near(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
