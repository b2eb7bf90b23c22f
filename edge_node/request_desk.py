"""Where requests come in, over MQTT and from this computer, and where their answers go out.

Strategy: whoever hears a message (the uplink's thread, a local page's) only puts it into a bounded queue; the daemon's
loop takes it from there once a turn, so that what a request does is done between two blocks, as all else is. The answer
goes out over the uplink, on the topic next to the request's, and to who asked on this computer.

Invariant: what waits is bounded by ``MAX_WAITING`` messages of ``MAX_BYTES``.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from edge_node.acceptance import Verdict
from edge_node.config_schema import Gateway
from edge_node.requests import MAX_BYTES, RequestCounters, Requests
from models.acceptance import Acceptance
from models.backtest import Backtest
from models.log_limit import LogLimit
from models.messages import Alert, DeviceStateMessage, Event, Response, Status
from models.requests import AcceptRequest, BacktestRequest, Refusal, ReloadRequest, StatusRequest
from models.topics import GatewayTopics

MAX_WAITING = 64
SAME_REFUSAL_LOG_S = 60.0

log = structlog.get_logger("linewatch.requests")


@dataclass(frozen=True, slots=True)
class Effects:
    """What the desk has done by the daemon, on its loop: gives an acceptance to the pipeline; takes up the configuration
    anew, soon; says what the status is now; publishes an answer; publishes the state of a device again, of which more is
    known (if it has one)."""

    accept: Callable[[Acceptance], None]
    reload_soon: Callable[[], None]
    status: Callable[[], Status]
    say: Callable[[Response], None]
    say_state: Callable[[str], None]
    backtest: Callable[[BacktestRequest], None]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A message to be looked at. ``told``: who asked on this computer waits for the answer."""

    name: str
    payload: bytes
    refusal: Refusal | None
    told: Future[Response] | None = None


class Inbox:
    """What the uplink's connection hears for one gateway: the :class:`edge_node.uplink.Inbound` of requests."""

    max_bytes = MAX_BYTES + 65_536  # the longest topic

    def __init__(self, topics: GatewayTopics, put: Callable[[str, bytes, bool], None]) -> None:
        self._prefix = topics.request("")
        self._put = put
        self.filters: Sequence[tuple[str, int]] = ((topics.requests, 1),)

    def again(self) -> Sequence[tuple[str, int]]:
        """No request is retained."""
        return ()

    def hear(self, topic: str, payload: bytes, retained: bool) -> None:
        """On the connection's thread."""
        self._put(topic.removeprefix(self._prefix), payload, retained)


class RequestDesk:
    """The requests of one daemon; all but :meth:`ask` and what :class:`Inbox` calls on its loop. ``wake`` makes that take a
    turn, from any thread."""

    def __init__(self, gateway: Gateway, effects: Effects, wake: Callable[[], None]) -> None:
        self._effects = effects
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._n_full = 0
        self._asked: dict[tuple[str, str], Future[Response]] = {}  # on this computer, and not yet answered
        self._reloads: list[ReloadRequest] = []
        self._log_limit = LogLimit(SAME_REFUSAL_LOG_S)
        self.requests = Requests(
            gateway.site, gateway.name, gateway.max_requests_per_minute, gateway.max_requests_burst
        )

    def configure(self, gateway: Gateway) -> None:
        """From here on it is the desk of ``gateway``."""
        self.requests.configure(
            gateway.site, gateway.name, gateway.max_requests_per_minute, gateway.max_requests_burst
        )

    def inbox(self, topics: GatewayTopics) -> Inbox:
        """What is to hear requests at ``topics``."""
        return Inbox(topics, self._put)

    def ask(self, name: str, payload: bytes) -> Future[Response]:
        """A request of someone on this computer, as it would come over MQTT; from any thread. The answer is published,
        too. It may take as long as what is asked for; it is cancelled where too much waits, or the daemon stops."""
        told: Future[Response] = Future()
        self._put(name, payload, retained=False, told=told)
        return told

    def counters(self) -> RequestCounters:
        """A copy of the counters."""
        own = self.requests.counters
        with self._lock:
            n_full = self._n_full
        heard, refused = Counter(own.heard), Counter(own.refused)
        if n_full:
            heard["unread"] += n_full
            refused[Refusal.QUEUE_FULL] += n_full
        return RequestCounters(heard, refused, own.n_repeated, own.n_untold + n_full)

    def noted(self, event: Event) -> Event:
        """``event`` as it is to be said: what is said of alerts is remembered, and states say which of them are known."""
        if isinstance(event, Alert):
            self.requests.noted(event)
        elif isinstance(event, DeviceStateMessage):
            return self.requests.stamped(event)
        return event

    def work(self, now_ns: int, now_s: float) -> None:
        """Do what waits."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for message in waiting:
            self._take(message, now_ns, now_s)

    def concluded(self, verdicts: Sequence[Verdict], now_ns: int) -> None:
        """What the pipeline says to acceptances."""
        for verdict in verdicts:
            self._tell(self.requests.concluded(verdict, now_ns))

    def reloaded(self, error: str | None, now_ns: int) -> None:
        """The configuration was taken up anew, or was not, for ``error``."""
        reloads, self._reloads = self._reloads, []
        for asked in reloads:
            self._tell(self.requests.reloaded(asked, error, now_ns))

    def backtested(
        self, asked: BacktestRequest, found: Backtest | None, refusal: Refusal | None, text: str, now_ns: int
    ) -> None:
        """A backtest has come to its end: ``found``, or not done, for ``refusal``."""
        self._tell(self.requests.backtested(asked, found, refusal, text, now_ns))

    def close(self, now_ns: int, now_s: float) -> None:
        """The daemon stops: what waits is refused."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for m in waiting:
            self._take(_Waiting(m.name, m.payload, m.refusal or Refusal.STOPPING, m.told), now_ns, now_s)
        reloads, self._reloads = self._reloads, []
        for asked in reloads:
            self._tell(self.requests.stopping(asked, now_ns))
        asked_here, self._asked = self._asked, {}
        for told in asked_here.values():
            told.cancel()

    def _put(self, name: str, payload: bytes, retained: bool, told: Future[Response] | None = None) -> None:
        refusal = Refusal.RETAINED if retained else None
        if len(payload) > MAX_BYTES:
            refusal, payload = Refusal.OVERSIZE, b""
        with self._lock:
            full = len(self._waiting) >= MAX_WAITING
            if full:
                self._n_full += 1
            else:
                self._waiting.append(_Waiting(name, payload, refusal, told))
        if full and told is not None:
            told.cancel()
        self._wake()

    def _take(self, message: _Waiting, now_ns: int, now_s: float) -> None:
        heard = self.requests.hear(message.name, message.payload, now_ns, now_s, message.refusal)
        asked, answer = heard.todo, heard.answer
        if message.told is not None:
            if answer is not None:
                _resolve(message.told, answer)
            elif asked is not None:
                self._asked[message.name, asked.transaction] = message.told
            else:
                message.told.cancel()  # who asked first will be told
        if answer is not None:
            self._tell(answer, publish=heard.publish, again=heard.again)
        if heard.acked is not None:
            self._effects.say_state(heard.acked)
        if isinstance(asked, AcceptRequest):
            self._effects.accept(
                Acceptance(
                    device_id=asked.device,
                    arrival_ns=now_ns,
                    transaction=asked.transaction,
                    by=asked.by,
                    note=asked.note,
                )
            )
        elif isinstance(asked, ReloadRequest):
            self._reloads.append(asked)
            self._effects.reload_soon()
        elif isinstance(asked, BacktestRequest):
            self._effects.backtest(asked)
        elif isinstance(asked, StatusRequest):
            self._tell(self.requests.told_status(asked, self._effects.status(), now_ns))

    def _tell(self, answer: Response, *, publish: bool = True, again: bool = False) -> None:
        if not again:
            self._log(answer)
        if (told := self._asked.pop((answer.request, answer.transaction), None)) is not None:
            _resolve(told, answer)
        if publish:
            self._effects.say(answer)

    def _log(self, answer: Response) -> None:
        if answer.ok:
            log.info("request", request=answer.request, by=answer.by, device=answer.device, text=answer.text)
            return
        n_held = self._log_limit.due(answer.reason, time.monotonic())
        if n_held is not None:
            more = f" ({n_held} more since it was last logged)" if n_held else ""
            log.warning(f"request refused: {answer.reason}: {answer.text}{more}", request=answer.request)


def _resolve(told: Future[Response], answer: Response) -> None:
    if told.set_running_or_notify_cancel():
        told.set_result(answer)
