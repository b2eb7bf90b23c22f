"""Windows' features to a sink and its scores back: request and reply over the uplink, with a deadline.

Strategy: :meth:`CloudScoring.ask` says a request over the uplink and returns; the uplink's thread puts what comes back into a
bounded list and wakes the loop, which reads it, once a turn, in :meth:`CloudScoring.take`. A request whose deadline has passed
on the monotonic clock is over; what is then answered is late, and counted. The first answer to a request counts: with several
sinks that each hear everything, those of the others are repetitions.

Invariants: nobody waits; every request has exactly one outcome; no more than ``MAX_OUT`` are open, and no more than
``MAX_WAITING`` answers unread, whatever comes. An answer is believed as far as its shape and its numbers could be true.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from edge_node.pipeline import ScoreBatch
from models.log_limit import LogLimit
from models.messages import ScoreRequest, pack_floats
from models.metrics import Family
from models.score_exchange import MAX_BYTES, Answered, Unreadable, fits, read_reply, read_scores
from models.topics import GatewayTopics

MAX_OUT = 8
MAX_WAITING = 32
MAX_OVER = 256  # transactions that are remembered, to tell what is late from what nobody asked
SAME_LOG_S = 60.0
_TOPIC_BYTES = 65_536

log = structlog.get_logger("linewatch.cloud")


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of the request for ``batch``: ``answered``, by ``model``, after ``latency_ns``; None: it was not, for
    ``why``."""

    batch: ScoreBatch
    answered: Answered | None
    latency_ns: int
    why: str


@dataclass(frozen=True, slots=True)
class _Open:
    batch: ScoreBatch
    asked_s: float
    until_s: float


class Inbox:
    """The :class:`edge_node.uplink.Inbound` of answers for one gateway."""

    max_bytes = MAX_BYTES + _TOPIC_BYTES

    def __init__(self, topics: GatewayTopics, put: Callable[[bytes, bool], None]) -> None:
        self._put = put
        self.filters: Sequence[tuple[str, int]] = ((topics.score_response, 1),)

    def again(self) -> Sequence[tuple[str, int]]:
        """No answer is retained."""
        return ()

    def hear(self, topic: str, payload: bytes, retained: bool) -> None:
        """On the connection's thread."""
        self._put(payload, retained)


class CloudScoring:
    """All on the daemon's loop, but for what :class:`Inbox` calls. ``say``: publishes a request at once, False where no broker
    is connected; ``wake``: makes the loop take a turn, from any thread."""

    def __init__(
        self,
        say: Callable[[ScoreRequest], bool],
        wake: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._wake = wake
        self._clock = clock
        self._site = self._gateway = ""
        self._deadline_s = 0.0
        self._open: dict[str, _Open] = {}
        self._over: OrderedDict[str, bool] = OrderedDict()  # transaction -> whether it was answered
        self._lock = threading.Lock()
        self._heard: deque[tuple[bytes, float]] = deque()
        self._n_refused: Counter[str] = Counter()  # answers not taken, by reason; guarded by the lock
        self._log_limit = LogLimit(SAME_LOG_S)
        self._away: frozenset[str] = frozenset()
        self.n_asked = 0
        self.n_windows_asked = 0
        self.outcomes: Counter[str] = Counter()  # of requests
        self.latency_s = 0.0  # of those that were scored

    def configure(self, site: str, gateway: str, deadline_ms: float) -> None:
        """From here on it asks as this gateway. What it has asked is given up: those windows are scored anew."""
        self._site, self._gateway, self._deadline_s = site, gateway, deadline_ms / 1e3
        for transaction in list(self._open):
            self._end(transaction, "abandoned")

    def inbox(self, topics: GatewayTopics) -> Inbox:
        """What is to hear answers at ``topics``."""
        return Inbox(topics, self._put)

    @property
    def n_open(self) -> int:
        """Requests without an outcome."""
        return len(self._open)

    def ask(self, batch: ScoreBatch) -> bool:
        """Whether a sink was asked for ``batch``: then :meth:`take` will tell what became of that. ValueError where its features
        may not leave."""
        if not batch.may_leave:
            raise ValueError(
                f"features of {', '.join(dict.fromkeys(batch.devices))} may not leave the gateway"
            )
        n, k = batch.features.shape
        if len(self._open) >= MAX_OUT or not fits(n, k):
            return False
        request = ScoreRequest(
            transaction=uuid.uuid4().hex,
            site=self._site,
            gateway=self._gateway,
            model_id=batch.model_id,
            model_version=batch.version,
            schema_id=batch.schema_id,
            deadline_ms=round(self._deadline_s * 1e3, 3),
            n=n,
            features=pack_floats(batch.features),
        )
        now_s = self._clock()  # an answer may be here before this thread gets on
        if not self._say(request):
            return False
        self._open[request.transaction] = _Open(batch, now_s, now_s + self._deadline_s)
        self.n_asked += 1
        self.n_windows_asked += n
        return True

    def take(self) -> list[Outcome]:
        """What has become of requests since the last call."""
        with self._lock:
            heard, self._heard = self._heard, deque()
        outcomes = [found for payload, at_s in heard if (found := self._read(payload, at_s)) is not None]
        now_s = self._clock()
        for transaction, item in list(self._open.items()):
            if now_s >= item.until_s:
                outcomes.append(self._failed(transaction, "deadline", "no sink answered in time"))
        return outcomes

    def note(self, away: frozenset[str]) -> None:
        """``away``: the engines for which a sink is asked now; what has changed is logged."""
        for engine in sorted(away - self._away):
            log.warning("the edge is too slow, or down: a sink is asked to score", engine=engine)
        for engine in sorted(self._away - away):
            log.info("scored at the edge again", engine=engine)
        self._away = away

    def families(self) -> list[Family]:
        """For ``/metrics``."""
        with self._lock:
            refused = Counter(self._n_refused)
        return [
            Family(
                "cloud_requests", "Requests to a sink to score windows.", "counter", (), {(): self.n_asked}
            ),
            Family(
                "cloud_engines",
                "Models that the edge is too slow for, or down, so that a sink is asked.",
                "gauge",
                (),
                {(): len(self._away)},
            ),
            Family("cloud_requests_open", "Those that have no outcome yet.", "gauge", (), {(): self.n_open}),
            Family(
                "cloud_outcomes",
                "What became of requests: scored, deadline, abandoned, bad_answer, or why a sink refused.",
                "counter",
                ("outcome",),
                {(name,): n for name, n in self.outcomes.items()},
            ),
            Family(
                "cloud_answers_refused",
                "Answers of sinks that were not taken.",
                "counter",
                ("reason",),
                {(name,): n for name, n in refused.items()},
            ),
            Family(
                "cloud_seconds",
                "From a request to its scores.",
                "summary",
                (),
                {(): self.latency_s},
                {(): self.outcomes["scored"]},
            ),
        ]

    def _put(self, payload: bytes, retained: bool) -> None:
        with self._lock:
            if retained or len(self._heard) >= MAX_WAITING or len(payload) > MAX_BYTES:
                reason = "retained" if retained else "oversize" if len(payload) > MAX_BYTES else "queue_full"
                self._n_refused[reason] += 1
                return
            self._heard.append((payload, self._clock()))
        self._wake()

    def _read(self, payload: bytes, at_s: float) -> Outcome | None:
        try:
            reply = read_reply(payload)
        except Unreadable as error:
            self._refuse("malformed", str(error))
            return None
        item = self._open.get(reply.transaction)
        if item is None:
            answered = self._over.get(reply.transaction)
            reason = "unknown" if answered is None else "repeated" if answered else "late"
            self._refuse(reason, f"transaction {reply.transaction[:64]!r}")
            return None
        if (reply.site, reply.gateway) != (self._site, self._gateway):
            self._refuse("other_name", f"it is to {reply.site[:64]!r}/{reply.gateway[:64]!r}")
            return None
        if reply.reason is not None:
            return self._failed(reply.transaction, reply.reason.value, reply.text[:500])
        if at_s >= item.until_s:
            self._refuse("late", "it came after the deadline")
            return self._failed(reply.transaction, "deadline", "no sink answered in time")
        try:
            answered_with = read_scores(reply, *item.batch.features.shape)
        except Unreadable as error:
            self._refuse("malformed", str(error))
            return self._failed(reply.transaction, "bad_answer", str(error))
        latency_s = at_s - item.asked_s
        self.latency_s += latency_s
        self._end(reply.transaction, "scored")
        return Outcome(item.batch, answered_with, round(latency_s * 1e9), "")

    def _failed(self, transaction: str, outcome: str, text: str) -> Outcome:
        item = self._end(transaction, outcome)
        n_held = self._log_limit.due(outcome, time.monotonic())
        if n_held is not None:
            log.warning(
                f"a sink did not score: {outcome}: {text}",
                model=item.batch.model_id,
                n_windows=item.batch.n,
                n_held=n_held,
            )
        return Outcome(item.batch, None, 0, outcome)

    def _end(self, transaction: str, outcome: str) -> _Open:
        self.outcomes[outcome] += 1
        self._over[transaction] = outcome == "scored"
        while len(self._over) > MAX_OVER:
            self._over.popitem(last=False)
        return self._open.pop(transaction)

    def _refuse(self, reason: str, text: str) -> None:
        with self._lock:
            self._n_refused[reason] += 1
        n_held = self._log_limit.due(("answer", reason), time.monotonic())
        if n_held is not None:
            log.warning(f"an answer of a sink was not taken: {reason}: {text}", n_held=n_held)
