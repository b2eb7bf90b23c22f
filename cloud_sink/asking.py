"""Asks gateways for backtests over the broker, and waits for what they answer.

Invariants: a request goes out once its answer can be heard, and again after a reconnect with the same transaction, which has no
second effect; of every gateway one answer counts; memory is bounded by the gateways that are asked.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from cloud_sink.answers import MAX_BYTES, TryAgain, Unbelievable, read
from cloud_sink.gate import Answer
from cloud_sink.publishing import NotPublished
from models.broker_options import Broker
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Receipt
from models.requests import BacktestRequest
from models.topics import GatewayTopics

AGAIN_S = 5.0  # who is busy is asked again
_SLACK = 4096  # of a packet, beside the payload

Names = tuple[str, str]  # site, gateway


class Asking:
    """The session of a connection. ``asked``: by gateway; ``version``: that the answers are to be about."""

    def __init__(self, prefix: str, asked: Mapping[Names, BacktestRequest], version: int) -> None:
        self._asked = dict(asked)
        self._version = version
        self._topics = {names: GatewayTopics(prefix, *names) for names in asked}
        self._by_topic = {topics.response("backtest"): names for names, topics in self._topics.items()}
        self._due: dict[Names, float] = {}  # who is to be asked, and when
        self._mids: dict[int, Names] = {}
        self.answers: dict[Names, Answer] = {}
        self.unbelieved: Counter[str] = Counter()
        self.finished = threading.Event()

    def on_connected(self, link: Link) -> None:
        link.subscribe([(topic, 1) for topic in self._by_topic])
        self._mids.clear()
        self._due = {names: 0.0 for names in self._asked if names not in self.answers}

    def on_turn(self, link: Link) -> None:
        if not link.answered:
            return
        now_s = time.monotonic()
        for names in [n for n, at_s in self._due.items() if at_s <= now_s]:
            del self._due[names]
            payload = msgspec.json.encode(self._asked[names])
            self._mids[link.publish(self._topics[names].request("backtest"), payload, retain=False)] = names

    def on_acked(self, mid: int, refusal: str | None) -> None:
        names = self._mids.pop(mid, None)
        if names is not None and refusal is not None:
            text = f"the broker does not take the request: {refusal}; let this user write it: examples/mosquitto/acl"
            self._settle(names, Answer(gateway="/".join(names), why_not=text))

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        names = self._by_topic.get(topic)
        if names is None or names in self.answers or retained:
            return
        try:
            answer = read(payload, *names, self._asked[names], self._version)
        except TryAgain:
            self._due[names] = time.monotonic() + AGAIN_S
            return
        except Unbelievable as error:
            self.unbelieved[error.reason] += 1
            answer = Answer(gateway="/".join(names), why_not=f"not believed ({error.reason}): {error}")
        if answer is not None:
            self._settle(names, answer)

    def on_lost(self, blameless: bool) -> None: ...

    def _settle(self, names: Names, answer: Answer) -> None:
        self.answers[names] = answer
        if len(self.answers) == len(self._asked):
            self.finished.set()


def ask(
    broker: Broker,
    prefix: str,
    asked: Mapping[Names, BacktestRequest],
    version: int,
    *,
    wait_s: float,
    client_id: str,
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[Sequence[Answer], Mapping[str, int]]:
    """One answer a gateway, in their order, and how many were not believed, by reason; waits for all, ``wait_s`` at most.
    ``progress`` is told how many there are. Raises NotPublished."""
    session = Asking(prefix, asked, version)
    connection = Connection(
        broker, session, label="evaluate", client_id=client_id, max_packet_bytes=MAX_BYTES + _SLACK
    )
    connection.start()
    ends_s = time.monotonic() + wait_s
    try:
        while not session.finished.wait(0.2) and time.monotonic() < ends_s:
            progress(len(session.answers))
            if connection.last_error is not None and connection.n_failures >= 3 and not session.answers:
                raise NotPublished(f"{connection.where}: {connection.last_error}")
            if connection.finished.done():
                raise NotPublished(f"{connection.where}: {connection.last_error}")
    finally:
        connection.stop()
    progress(len(session.answers))
    found = dict(session.answers)
    silent = f"no answer within {wait_s:g} s"
    return [found.get(n) or Answer(gateway="/".join(n), why_not=silent) for n in asked], dict(
        session.unbelieved
    )
