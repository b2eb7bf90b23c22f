"""``cloud-sink publish`` and ``withdraw``: a signed bundle to gateways, over the broker that they publish to.

Invariants: graphs before the manifest that names them, each acknowledged before the next: a publisher that dies on the way leaves
gateways with what they had. Of those who publish one model at once, the newest version stands in the end (``_Sending`` says how).
"""

from __future__ import annotations

import argparse
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import structlog

from cloud_sink.naming import canaries_of, unheard
from cloud_sink.running import add_config
from models.broker_options import Broker
from models.manifest import ManifestError, ModelManifest, decode
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Receipt
from models.publication import outranks

log = structlog.get_logger("linewatch.publish")

REFUSED = 1
PATIENCE_S = 60.0
LOOK_S = 2.0  # for the broker to say what stands on a topic
_MAX_PACKET_BYTES = 16 << 20  # what the shipped broker takes: a manifest comes back


class NotPublished(Exception):
    """The broker has not taken all of it; the text says why."""


class Outranked(NotPublished):
    """What stands on the topic does not give way, and stands there still."""


def add(commands: Any) -> None:
    """Adds both commands to the subparsers ``commands``."""
    publish = commands.add_parser(
        "publish",
        help="publish a signed bundle to gateways",
        description="Publishes a bundle, retained: to every gateway that runs its model, or as the canary of some. Each one "
        "tries it beside what it has, and says what became of it (`cloud-sink models`).",
    )
    add_config(publish)
    publish.add_argument(
        "bundle", type=Path, metavar="DIR", help="signed: cloud-sink learn --key, train --key, or sign"
    )
    publish.add_argument(
        "--canary",
        action="append",
        default=[],
        metavar="SITE/GATEWAY",
        help="to this gateway alone; repeatable",
    )
    publish.set_defaults(act=_publish)
    withdraw = commands.add_parser(
        "withdraw",
        help="take canaries back",
        description="The gateways that run the canary go back to what they ran before, or to what is for all.",
    )
    add_config(withdraw)
    withdraw.add_argument("model", metavar="MODEL", help="its id")
    withdraw.add_argument(
        "--canary", action="append", required=True, metavar="SITE/GATEWAY", help="repeatable"
    )
    withdraw.set_defaults(act=_withdraw)
    models = commands.add_parser(
        "models",
        help="what became of models",
        description="By model and gateway: which version scores, and what became of the last one that was offered.",
    )
    add_config(models)
    models.set_defaults(act=_models)


def send(
    broker: Broker,
    messages: Iterable[tuple[str, bytes]],
    *,
    client_id: str,
    manifests: Collection[str] = (),
    own: Mapping[str, bytes] = MappingProxyType({}),
    emptied: Collection[str] = (),
) -> frozenset[str]:
    """Publishes ``messages`` (topic, payload), retained, at QoS 1, one after the other. ``manifests``: the topics among them that
    bear one, which must not take the place of a newer version; ``own``: topics that are emptied only of this; ``emptied``: of
    whatever is there. Those of ``emptied`` on which nothing was seen are returned. Raises NotPublished, and of it Outranked."""
    session = _Sending(messages, manifests, own, emptied)
    connection = Connection(
        broker,
        session,
        label="publish",
        client_id=f"{client_id}-{secrets.token_hex(4)}",  # two at once do not take each other's place
        max_packet_bytes=_MAX_PACKET_BYTES,
    )
    connection.start()
    n_done, ends_s = 0, time.monotonic() + PATIENCE_S
    try:
        while not session.finished.wait(0.05):
            if session.n_done > n_done:
                n_done, ends_s = session.n_done, time.monotonic() + PATIENCE_S
            if session.refusal is not None:
                raise session.refusal
            if connection.finished.done() or time.monotonic() > ends_s:
                why = connection.last_error or f"no answer within {PATIENCE_S:g} s"
                raise NotPublished(f"{connection.where}: {why}")
            if connection.last_error is not None and connection.n_failures >= 3:
                raise NotPublished(f"{connection.where}: {connection.last_error}")
    finally:
        connection.stop()
    for topic in session.unseen:
        log.warning(
            f"{topic}: published, but not seen there, so that a newer version may have given way to it: let this user read it: "
            "examples/mosquitto/acl"
        )
    return frozenset(session.empty)


class _Sending:
    """Sends one message after the other's acknowledgement; what was not acknowledged again after a reconnect.

    It looks at the topic of a manifest once that is acknowledged, and as long as what stands there should have given way to
    anything that it has seen there since it began, puts that back. So whoever writes last has the newest in sight, or somebody
    writes after him.
    """

    def __init__(
        self,
        messages: Iterable[tuple[str, bytes]],
        manifests: Collection[str],
        own: Mapping[str, bytes],
        emptied: Collection[str],
    ) -> None:
        self._left = deque(messages)
        self._n_all = len(self._left)
        self._link: Link | None = None
        self._mid: int | None = None
        self._own, self._emptied = own, frozenset(emptied)
        self._topics = {topic: _Topic() for topic in (*manifests, *own, *emptied)}
        self._connected_s = 0.0
        self._look_until_s: float | None = (
            None  # the manifest is acknowledged, and what stands there is awaited
        )
        self._puts_back = False
        self.refusal: NotPublished | None = None
        self.unseen: list[str] = []
        self.empty: set[str] = set()
        self.finished = threading.Event()

    @property
    def n_done(self) -> int:
        """Messages that need nothing more."""
        return self._n_all - len(self._left)

    def on_connected(self, link: Link) -> None:
        self._link, self._mid, self._connected_s = link, None, time.monotonic()
        if self._topics:
            link.subscribe([(topic, 1) for topic in self._topics])

    def on_turn(self, link: Link) -> None:
        if self.refusal is not None or self._mid is not None or not link.answered:
            return
        if not self._left:
            self.finished.set()
            return
        where, payload = self._left[0]
        if not payload and where in self._own and not self._may_empty(where):
            return
        if not payload and where in self._emptied and not self._looked_at(where):
            return
        topic = self._topics.get(where) if payload else None
        if topic is None:
            self._mid = link.publish(where, payload, retain=True)
        elif self._look_until_s is None:
            self._write(link, where, topic, payload)
        elif topic.stands is not None or time.monotonic() > self._look_until_s:
            self._look_until_s = None
            self._looked(where, topic, payload)

    def _may_empty(self, where: str) -> bool:
        """False: not yet, or there is another's, which stays."""
        stands = self._topics[where].stands
        if stands is None:  # nothing, or it may not be read
            return time.monotonic() > self._connected_s + LOOK_S
        if stands == self._own[where]:
            return True
        self._left.popleft()
        return False

    def _looked_at(self, where: str) -> bool:
        """False: not yet."""
        if self._topics[where].stands is None:
            if time.monotonic() <= self._connected_s + LOOK_S:
                return False
            self.empty.add(where)
        return True

    def _write(self, link: Link, where: str, topic: _Topic, payload: bytes) -> None:
        if self._puts_back:
            payload = topic.newest
        elif topic.outranks(payload):
            self.refusal = topic.refusal(where, payload)
            return
        self._mid = link.publish(where, payload, retain=True)

    def _looked(self, where: str, topic: _Topic, payload: bytes) -> None:
        self._puts_back = topic.stands is not None and topic.outranks(topic.stands)
        if self._puts_back:
            return
        self._left.popleft()
        if topic.outranks(payload):
            self.refusal = topic.refusal(where, payload)
        elif topic.stands is None:
            self.unseen.append(where)

    def on_acked(self, mid: int, refusal: str | None) -> None:
        if mid != self._mid or self._link is None:
            return
        where, payload = self._left[0]
        if refusal is not None:
            self.refusal = NotPublished(
                f"the broker does not take {where}: {refusal}. Let this user write it: examples/mosquitto/acl"
            )
            return
        self._mid = None
        if payload and where in self._topics:
            self._topics[where].stands = None
            self._look_until_s = time.monotonic() + LOOK_S
            self._link.subscribe([(where, 1)])  # brings what is retained there once more
        else:
            self._left.popleft()

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        if topic in self._topics:
            self._topics[topic].take(payload, retained)

    def on_lost(self, blameless: bool) -> None: ...


class _Topic:
    """What was seen on the topic of a manifest: ``newest``, to which all that was published there should have given way, and
    ``stands``, what was retained when it was looked at last."""

    def __init__(self) -> None:
        self.newest = b""
        self.stands: bytes | None = None
        self._manifest: ModelManifest | None = None

    def take(self, payload: bytes, retained: bool) -> None:
        if retained:
            self.stands = payload
        if not self.outranks(payload):
            self.newest, self._manifest = payload, _manifest(payload)

    def outranks(self, payload: bytes) -> bool:
        """Whether ``newest`` does not give way to ``payload``."""
        manifest = _manifest(payload)
        return self._manifest is not None and manifest is not None and outranks(self._manifest, manifest)

    def refusal(self, where: str, payload: bytes) -> Outranked:
        there, ours = self._manifest, _manifest(payload)
        assert there is not None
        assert ours is not None
        back = there.rollback
        if back is not msgspec.UNSET and back.takes_back == ours.version:
            return Outranked(
                f"{where} has the order to go back from version {ours.version} of {there.model_id} to {there.version}, signed by "
                f"{there.key_id}, which stays: gateways refuse what was taken back; give yours a higher version"
            )
        return Outranked(
            f"{where} has version {there.version} of {there.model_id} already, signed by {there.key_id}, which stays: give yours "
            "a higher version, or sign it as the order to go back (cloud-sink sign --takes-back)"
        )


def _manifest(payload: bytes) -> ModelManifest | None:
    """None: withdrawn, or nothing that a gateway would read."""
    try:
        return decode(payload) if payload else None
    except ManifestError:
        return None


def _publish(given: argparse.Namespace) -> int:
    from cloud_sink.bundle import BundleError, read_bundle
    from cloud_sink.config import load_config
    from models.publication import publication
    from models.topics import ModelTopics

    config = load_config(given.config)
    manifest, artifacts = read_bundle(given.bundle)
    canaries = canaries_of(given.canary, config)
    for problem in unheard(canaries, config):
        print(f"cloud-sink: WARNING: {problem}", file=sys.stderr)
    try:
        topics = ModelTopics(config.broker.prefix, manifest.model_id)
        messages = [
            message
            for gateway in (canaries or [None])
            for message in publication(manifest, artifacts, topics, gateway=gateway)
        ]
        manifests = [topics.canary(gateway) for gateway in canaries] or [topics.stable]
    except ValueError as error:
        raise BundleError(f"{given.bundle}: {error}: cloud-sink sign") from error
    try:
        send(
            config.broker,
            dict.fromkeys(messages),
            client_id=f"linewatch-publish-{config.sink.name}",
            manifests=manifests,
        )
    except NotPublished as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    to = f"to {', '.join(canaries)} as canaries" if canaries else "to all gateways"
    print(
        f"published {manifest.model_id} version {manifest.version} {to}, {len(artifacts)} graphs, key {manifest.key_id}"
    )
    return 0


def _withdraw(given: argparse.Namespace) -> int:
    from cloud_sink.config import load_config
    from models.cli_values import UsageError
    from models.publication import withdrawal
    from models.topics import ModelTopics

    config = load_config(given.config)
    canaries = canaries_of(given.canary, config)
    try:
        topics = ModelTopics(config.broker.prefix, given.model)
        messages = [withdrawal(topics, gateway) for gateway in canaries]
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        empty = send(
            config.broker,
            messages,
            client_id=f"linewatch-publish-{config.sink.name}",
            emptied=[topic for topic, _ in messages],
        )
    except NotPublished as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    there = [gateway for gateway in canaries if topics.canary(gateway) not in empty]
    if there:
        print(f"the canaries of {given.model} at {', '.join(there)} are taken back")
    for gateway in canaries:
        if gateway not in there:
            print(
                f"cloud-sink: there was no canary of {given.model} at {gateway}, as far as this user may read: cloud-sink models",
                file=sys.stderr,
            )
    return 0 if len(there) == len(canaries) else REFUSED


def _models(given: argparse.Namespace) -> int:
    from sqlalchemy import select
    from tabulate import tabulate

    from cloud_sink import tables
    from cloud_sink.config import load_config
    from cloud_sink.evaluations import evaluations
    from cloud_sink.events import EventsUnavailable, opened
    from models.messages import rfc3339

    config = load_config(given.config)
    m = tables.model_states.c
    wanted = select(tables.model_states).order_by(m.model_id, m.site, m.gateway)
    try:
        with opened(config.store.events) as store:
            with store.read() as connection:
                rows = connection.execute(wanted).mappings().all()
            judged = evaluations(store)
    except EventsUnavailable as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    table = [
        (
            row["model_id"],
            f"{row['site']}/{row['gateway']}",
            row["running"],
            f"version {row['version']} {row['state']}" + (" (canary)" if row["canary"] else ""),
            f"{rfc3339(row['since_ns'])[:19]}Z",
            row["reason"] or "",
            row["text"],
        )
        for row in rows
    ]
    headers = ("model", "gateway", "scores with", "last", "since", "reason", "what it says")
    print(tabulate(table, headers=headers) if table else "no gateway has said anything of a model yet")
    if judged:
        decided = [
            (
                e.model_id,
                e.version,
                e.decision.verdict,
                f"{rfc3339(e.at_ns)[:19]}Z",
                "; ".join(e.decision.reasons),
            )
            for e in judged
        ]
        print()
        print(tabulate(decided, headers=("model", "version", "gate", "at", "reasons")))
    return 0
