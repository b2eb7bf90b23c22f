"""``cloud-sink publish`` and ``withdraw``: a signed bundle to gateways, over the broker that they publish to.

Invariant: graphs before the manifest that names them, each acknowledged before the next: a publisher that dies on the way leaves
gateways with what they had.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cloud_sink.naming import canaries_of
from cloud_sink.running import add_config
from models.broker_options import Broker
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Receipt

REFUSED = 1
PATIENCE_S = 60.0
_MAX_PACKET_BYTES = 1 << 20


class NotPublished(Exception):
    """The broker has not taken all of it; the text says why."""


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


def send(broker: Broker, messages: Iterable[tuple[str, bytes]], *, client_id: str) -> int:
    """Publishes ``messages`` (topic, payload), retained, at QoS 1, one after the other; how many. Raises NotPublished."""
    session = _Sending(messages)
    connection = Connection(
        broker, session, label="publish", client_id=client_id, max_packet_bytes=_MAX_PACKET_BYTES
    )
    connection.start()
    ends_s = time.monotonic() + PATIENCE_S
    try:
        while not session.finished.wait(0.05):
            if session.refusal is not None:
                raise NotPublished(session.refusal)
            if connection.finished.done() or time.monotonic() > ends_s:
                why = connection.last_error or f"no answer within {PATIENCE_S:g} s"
                raise NotPublished(f"{connection.where}: {why}")
            if connection.last_error is not None and connection.n_failures >= 3:
                raise NotPublished(f"{connection.where}: {connection.last_error}")
    finally:
        connection.stop()
    return session.n_sent


class _Sending:
    """Sends one message after the other's acknowledgement; what was not acknowledged again after a reconnect."""

    def __init__(self, messages: Iterable[tuple[str, bytes]]) -> None:
        self._left = deque(messages)
        self._mid: int | None = None
        self.refusal: str | None = None
        self.n_sent = 0
        self.finished = threading.Event()

    def on_connected(self, link: Link) -> None:
        self._mid = None

    def on_turn(self, link: Link) -> None:
        if self._mid is None and self.refusal is None:
            if not self._left:
                self.finished.set()
                return
            topic, payload = self._left[0]
            self._mid = link.publish(topic, payload, retain=True)

    def on_acked(self, mid: int, refusal: str | None) -> None:
        if mid != self._mid:
            return
        topic, _ = self._left[0]
        if refusal is not None:
            self.refusal = (
                f"the broker does not take {topic}: {refusal}. Let this user write it: examples/mosquitto/acl"
            )
            return
        self._left.popleft()
        self._mid = None
        self.n_sent += 1

    def on_message(
        self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE
    ) -> None: ...
    def on_lost(self, blameless: bool) -> None: ...


def _publish(given: argparse.Namespace) -> int:
    from cloud_sink.bundle import BundleError, read_bundle
    from cloud_sink.config import load_config
    from models.publication import publication
    from models.topics import ModelTopics

    config = load_config(given.config)
    manifest, artifacts = read_bundle(given.bundle)
    canaries = canaries_of(given.canary, config)
    try:
        topics = ModelTopics(config.broker.prefix, manifest.model_id)
        messages = [
            message
            for gateway in (canaries or [None])
            for message in publication(manifest, artifacts, topics, gateway=gateway)
        ]
    except ValueError as error:
        raise BundleError(f"{given.bundle}: {error}: cloud-sink sign") from error
    try:
        send(config.broker, dict.fromkeys(messages), client_id=f"linewatch-publish-{config.sink.name}")
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
        send(config.broker, messages, client_id=f"linewatch-publish-{config.sink.name}")
    except NotPublished as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    print(f"the canaries of {given.model} at {', '.join(canaries)} are taken back")
    return 0


def _models(given: argparse.Namespace) -> int:
    from sqlalchemy import select
    from tabulate import tabulate

    from cloud_sink import tables
    from cloud_sink.config import load_config
    from cloud_sink.evaluations import evaluations
    from cloud_sink.events import EventStore, EventsUnavailable
    from models.messages import rfc3339

    config = load_config(given.config)
    store = EventStore(config.store.events)
    m = tables.model_states.c
    try:
        store.create()
        with store.read() as connection:
            rows = (
                connection.execute(select(tables.model_states).order_by(m.model_id, m.site, m.gateway))
                .mappings()
                .all()
            )
        judged = evaluations(store)
    except EventsUnavailable as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    finally:
        store.close()
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
    headers = ("model", "gateway", "scores with", "last", "since", "reason", "")
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
        print(tabulate(decided, headers=("model", "version", "gate", "at", "")))
    return 0
