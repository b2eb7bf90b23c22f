"""Scores for gateways: requests from the broker, answers back to the gateway that asked, in time or not at all.

Strategy: a session of its own, which the broker forgets when it is lost (an answer to what was asked before would come too
late), so that nothing of it delays what is stored, nor the other way round. The connection's thread reads a request and puts it
into a bounded queue; a thread of its own scores, the oldest first, skips what has missed its deadline, and hands answers to
the connection. Invariants: whoever can be answered is, if only with a reason; what waits is bounded; an answer goes to the
topic beside its request's, whatever the payload names. With several sinks that share nothing each answers, and the gateway
takes the first.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from cloud_sink.config import Config
from cloud_sink.scoring_model import ScoringModel, answer, refusal
from cloud_sink.watched import WatchedThread
from models.log_limit import LogLimit
from models.messages import ScoreReply, ScoreRequest, encode
from models.metrics import Family
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Receipt
from models.refusals import ScoreRefusal
from models.score_exchange import MAX_BYTES, Unreadable, read_request
from models.topics import GatewayTopics

FINISH_S = 5.0
SAME_REFUSAL_LOG_S = 60.0
_OVERHEAD = 65_536  # of a packet beside its payload: the longest topic

log = structlog.get_logger("linewatch.scoring")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    request: ScoreRequest
    features: NDArray[np.float32]
    topics: GatewayTopics
    heard_s: float


class Scoring:
    """For the models of ``config``, which are loaded already, by what gateways call theirs."""

    def __init__(
        self, config: Config, models: dict[str, ScoringModel], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._prefix = config.broker.prefix
        self._group = config.broker.group if config.broker.shared else None
        self._max_waiting = config.scoring.queue_requests
        self._models = models
        self._clock = clock
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._waiting: deque[_Waiting] = deque()
        self._answers: deque[tuple[str, bytes]] = deque()
        self._stopping = False
        self._log_limit = LogLimit(SAME_REFUSAL_LOG_S)
        self._outcomes: Counter[str] = Counter()
        self._n_windows = 0
        self._n_unanswered: Counter[str] = Counter()
        self._scoring_s = 0.0
        self.listens = False  # the broker has taken the subscription
        self.connection = Connection(
            config.broker,
            self,
            label="scoring",
            client_id=f"linewatch-scoring-{config.sink.name}",
            max_packet_bytes=MAX_BYTES + _OVERHEAD,
        )
        self._thread = WatchedThread(self._run, "score")

    @property
    def failure(self) -> BaseException | None:
        """What ended its thread that nobody foresaw."""
        return self._thread.failure

    def start(self) -> None:
        self._thread.start()
        self.connection.start()

    def stop(self) -> None:
        """What waits is not answered. Bounded."""
        with self._lock:
            self._stopping = True
            self._more.notify()
        self._thread.join(FINISH_S)
        self.connection.stop()

    def families(self) -> list[Family]:
        """For ``/metrics``."""
        with self._lock:
            outcomes, unanswered = Counter(self._outcomes), Counter(self._n_unanswered)
            n_windows, scoring_s, n_waiting = self._n_windows, self._scoring_s, len(self._waiting)
        return [
            Family(
                "sink_score_requests",
                "Requests to score that were answered: scored, or why not.",
                "counter",
                ("outcome",),
                {(name,): n for name, n in outcomes.items()},
            ),
            Family(
                "sink_score_requests_unanswered",
                "Requests that nobody could be told about.",
                "counter",
                ("reason",),
                {(name,): n for name, n in unanswered.items()},
            ),
            Family("sink_score_requests_waiting", "Requests that wait.", "gauge", (), {(): n_waiting}),
            Family("sink_windows_scored", "Windows scored for gateways.", "counter", (), {(): n_windows}),
            Family(
                "sink_scoring_seconds",
                "From when a request was heard to its scores.",
                "summary",
                (),
                {(): scoring_s},
                {(): outcomes["scored"]},
            ),
        ]

    # What the connection calls, on its thread.

    def on_connected(self, link: Link) -> None:
        share = "" if self._group is None else f"$share/{self._group}/"
        with self._lock:
            self._answers.clear()
        link.subscribe([(f"{share}{self._prefix}/+/+/score/request", 1)])

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        heard_s = self._clock()
        levels = topic.removeprefix(f"{self._prefix}/").split("/")
        if retained or len(levels) != 4:
            self._unanswered("retained" if retained else "unknown_topic", topic)
            return
        try:
            topics = GatewayTopics(self._prefix, levels[0], levels[1])
            request, features = read_request(payload)
        except ValueError as error:  # Unreadable as well
            told = _told(payload) if isinstance(error, Unreadable) else None
            if told is None or (told.site, told.gateway) != (levels[0], levels[1]):
                self._unanswered("malformed", f"{topic}: {error}")
            else:
                self._reply(topics, refusal(told, ScoreRefusal.MALFORMED, str(error)[:500]), 0.0)
            return
        if (request.site, request.gateway) != (topics.site, topics.gateway):
            self._unanswered("other_name", f"{topic}: the payload is of another gateway")
            return
        with self._lock:
            full = len(self._waiting) >= self._max_waiting
            if not full:
                self._waiting.append(_Waiting(request, features, topics, heard_s))
                self._more.notify()
        if full:
            text = f"{self._max_waiting} requests wait already: [scoring] queue_requests"
            self._reply(topics, refusal(request, ScoreRefusal.BUSY, text), 0.0)

    def on_acked(self, mid: int, refusal: str | None) -> None:
        if refusal is not None:
            self._unanswered("refused", f"the broker refused an answer: {refusal}")

    def on_lost(self, blameless: bool) -> None:
        """What was asked before will be asked again, if it still matters."""
        self.listens = False

    def on_turn(self, link: Link) -> None:
        self.listens = link.answered
        while True:
            with self._lock:
                if not self._answers:
                    return
                topic, payload = self._answers.popleft()
            link.publish(topic, payload, retain=False)

    # What follows is of the scoring thread.

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._stopping:
                    self._more.wait(1.0)
                if self._stopping:
                    return
                item = self._waiting.popleft()
            waited_s = self._clock() - item.heard_s
            said = answer(self._models.get(item.request.model_id), item.request, item.features, waited_s)
            took_s = self._clock() - item.heard_s
            if said.reason is None:
                with self._lock:
                    self._n_windows += item.request.n
            self._reply(item.topics, said, took_s)

    def _reply(self, topics: GatewayTopics, said: ScoreReply, took_s: float) -> None:
        said = msgspec.structs.replace(said, latency_ms=round(took_s * 1e3, 3))
        outcome = "scored" if said.reason is None else said.reason.value
        with self._lock:
            self._outcomes[outcome] += 1
            if said.reason is None:
                self._scoring_s += took_s
            self._answers.append((topics.score_response, encode(said)))
        self.connection.wake()
        if said.reason is not None:
            n_held = self._log_limit.due((topics.root, outcome), time.monotonic())
            if n_held is not None:
                log.warning(f"not scored: {outcome}: {said.text}", gateway=topics.root, n_held=n_held)

    def _unanswered(self, reason: str, text: str) -> None:
        with self._lock:
            self._n_unanswered[reason] += 1
        n_held = self._log_limit.due(("unanswered", reason), time.monotonic())
        if n_held is not None:
            log.warning(f"a request to score was not taken: {reason}: {text}", n_held=n_held)


def _told(payload: bytes) -> ScoreRequest | None:
    """The request in ``payload``, if only its rows are bad: then its asker can be told."""
    if len(payload) > MAX_BYTES:
        return None
    try:
        return msgspec.json.decode(payload, type=ScoreRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
