"""What gateways publish, from the broker into the stores: nothing is acknowledged before it is on disk in both.

Strategy: the connection's thread puts what comes into a list; a thread of its own takes all of it every ``commit_s``, or as
soon as there are ``batch_messages``, believes it or not, writes the summaries, commits the events, and only then lets the
connection acknowledge. What cannot be stored now is tried again, and meanwhile the broker keeps what it has not been told of.

Invariants: a message is acknowledged after it is stored or refused, and never twice; what comes again changes nothing. A
message of a connection that is lost is not acknowledged over the next one: the broker brings it again. What waits is bounded:
by ``max_inflight``, and by MAX_WAITING_BYTES, past which nothing is read from the broker.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from cloud_sink.config import Config, Store
from cloud_sink.events import EventsUnavailable
from cloud_sink.features_store import StoreError
from cloud_sink.influx_queue import QueueError
from cloud_sink.ingest import Message, Refusal, Refused, decode, filters, place_of
from cloud_sink.stores import Believed, Gone, Stores, batch_of
from cloud_sink.unstorable import Unstorable
from cloud_sink.watched import WatchedThread
from models.log_limit import LogLimit
from models.messages import Alert, DeviceStateMessage, Summary
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Persistence, Receipt, backoff_s

RETRY_MIN_S, RETRY_MAX_S = 0.2, 30.0
MAX_WAITING_BYTES = 256 << 20
STALLED_AT, STALLED_S = 16, 0.02  # so many wait, and none has come for so long: the broker's window is full
SAME_REFUSAL_LOG_S = 60.0
FINISH_S = 10.0
_OVERHEAD = 65_536  # of a packet beside its payload: the longest topic

log = structlog.get_logger("linewatch.intake")


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as it came; ``connection``: over which one, counted."""

    topic: str
    payload: bytes
    receipt: Receipt
    connection: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the start. ``heard`` and ``stored`` by type; ``refused`` by reason."""

    heard: Counter[str]
    stored: Counter[str]
    refused: Counter[Refusal]
    n_bytes: int
    n_commits: int
    n_failures: int
    n_waiting: int
    commit_s: float


class Intake:
    """One MQTT session, and the thread that stores what it hears. ``label`` tells it from others in the log; ``client_id``: whose
    session it is; ``takes_over``: what the broker has kept for that one is taken, and nothing new is asked for."""

    def __init__(
        self,
        config: Config,
        stores: Stores,
        *,
        client_id: str,
        label: str = "broker",
        takes_over: bool = False,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config = config
        self._stores = stores
        self._now_ns = now_ns
        self.client_id, self._takes_over = client_id, takes_over
        self.found_session: bool | None = None  # whether the broker had kept it, once that is known
        self._lock = threading.Lock()
        self._full = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._n_waiting_bytes = 0
        self._waiting: deque[Heard] = deque()
        self._done: deque[tuple[int, int]] = deque()  # (connection, mid) that may be acknowledged
        self._n_connections = 0
        self._stopping = False
        self._devices: dict[tuple[str, str], set[str]] = {}
        self._log_limit = LogLimit(SAME_REFUSAL_LOG_S)
        self._heard: Counter[str] = Counter()
        self._stored: Counter[str] = Counter()
        self._refused: Counter[Refusal] = Counter()
        self._n_bytes = self._n_commits = self._n_failures = 0
        self._commit_s = 0.0
        self._last_heard_s = time.monotonic()
        self._in_hand = False
        self.problem: str | None = None  # why nothing is stored
        broker = config.broker
        self.connection = Connection(
            broker,
            self,
            label=label,
            client_id=client_id,
            max_packet_bytes=config.limits.max_message_bytes + _OVERHEAD,
            persistence=Persistence(broker.session_expiry_s, broker.max_inflight),
        )
        self._thread = WatchedThread(self._run, f"store {label}")

    @property
    def failure(self) -> BaseException | None:
        """What ended its thread that nobody foresaw."""
        return self._thread.failure

    def start(self) -> None:
        self._thread.start()
        self.connection.start()

    def stop(self) -> None:
        """Stores what has come, acknowledges it, and disconnects; the broker keeps the session. Bounded."""
        with self._lock:
            self._stopping = True
            self._full.notify()
            self._room.notify()
        self._thread.join(FINISH_S)
        ends_s = time.monotonic() + 2.0
        while self._done and self.connection.connected and time.monotonic() < ends_s:
            self.connection.wake()
            time.sleep(0.01)
        self.connection.stop()

    def end_session(self) -> None:
        """As :meth:`stop`, and the broker forgets the session. Bounded."""
        self.stop()
        last = Connection(
            self._config.broker,
            _Nothing(),
            label="end of a session",
            client_id=self.client_id,
            max_packet_bytes=_OVERHEAD,
            persistence=Persistence(0, 1, clean=True),
        )
        last.start()
        ends_s = time.monotonic() + FINISH_S
        while not last.connected and time.monotonic() < ends_s:
            time.sleep(0.02)
        last.stop()

    @property
    def idle_s(self) -> float:
        """For how long nothing has come, and all that did is stored and acknowledged; 0 while something waits."""
        with self._lock:
            busy = bool(self._waiting or self._done) or self._in_hand
        return 0.0 if busy or not self.connection.connected else time.monotonic() - self._last_heard_s

    def counters(self) -> Counters:
        with self._lock:
            return Counters(
                Counter(self._heard),
                Counter(self._stored),
                Counter(self._refused),
                self._n_bytes,
                self._n_commits,
                self._n_failures,
                len(self._waiting),
                self._commit_s,
            )

    # What the connection calls, on its thread.

    def on_connected(self, link: Link) -> None:
        with self._lock:
            self._n_connections += 1
            self._done.clear()
        self._last_heard_s = time.monotonic()
        broker = self._config.broker
        wanted = filters(broker.prefix, broker.group if broker.shared else None)
        other = filters(broker.prefix, None if broker.shared else broker.group)
        if self.found_session is None:
            self.found_session = link.session_present
        if self._takes_over:
            link.unsubscribe([f for f, _ in {*wanted, *other}])
        else:
            if link.session_present:
                # It may be from when `shared` was another: everything would be heard twice.
                link.unsubscribe([f for f, _ in other if (f, 1) not in wanted])
            link.subscribe(wanted)

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        now_ns = self._now_ns()
        self._last_heard_s = time.monotonic()
        with self._lock:
            self._n_bytes += len(payload)
            while self._n_waiting_bytes > MAX_WAITING_BYTES and not self._stopping:
                self._room.wait(1.0)
            if not receipt.qos and len(self._waiting) >= 2 * self._config.broker.max_inflight:
                self._refused[Refusal.NO_ROOM] += 1  # nobody keeps it, and nobody need
                return
            self._n_waiting_bytes += len(payload)
            self._waiting.append(Heard(topic, payload, receipt, self._n_connections, now_ns))
            if len(self._waiting) in (STALLED_AT, self._config.store.batch_messages):
                self._full.notify()

    def on_acked(self, mid: int, refusal: str | None) -> None:
        """Nothing is published here."""

    def on_lost(self, blameless: bool) -> None:
        """What was not acknowledged comes again."""

    def on_turn(self, link: Link) -> None:
        while True:
            with self._lock:
                if not self._done:
                    return
                connection, mid = self._done.popleft()
                current = connection == self._n_connections
            if current:
                link.acknowledge(mid)

    # What follows is of the storing thread.

    def _run(self) -> None:
        store = self._config.store
        while True:
            with self._lock:
                self._gather(store)
                taken = [
                    self._waiting.popleft() for _ in range(min(len(self._waiting), store.batch_messages))
                ]
                self._in_hand = bool(taken)
                if not taken and self._stopping:
                    return
            if taken and not self._store(taken):
                return

    def _gather(self, store: Store) -> None:
        """Waits until there is a batch, or it is time, or the broker sends no more before some are acknowledged."""
        ends_s = time.monotonic() + store.commit_s
        while not self._stopping and len(self._waiting) < store.batch_messages:
            now_s = time.monotonic()
            stalled = len(self._waiting) >= STALLED_AT
            if now_s >= ends_s or (stalled and now_s - self._last_heard_s >= STALLED_S):
                return
            self._full.wait(min(ends_s - now_s, STALLED_S if stalled else store.commit_s))

    def _store(self, taken: Sequence[Heard]) -> bool:
        """False when it was told to stop before it could."""
        if not self._put(self._decoded_of(taken), taken[-1].at_ns):
            return False
        with self._lock:
            self._n_waiting_bytes -= sum(len(h.payload) for h in taken)
            self._room.notify()
            self._in_hand = False
            self._done.extend((h.connection, h.receipt.mid) for h in taken if h.receipt.qos)
        self.connection.wake()
        return True

    def _put(self, messages: list[Believed], at_ns: int) -> bool:
        """Stores ``messages``; where a store refuses what is in them, each half for itself, until the one is found that it is
        about. False when it was told to stop before it could."""
        batch, refusals = batch_of(messages, at_ns, self._config.limits)
        for i, refusal in refusals.items():
            self._refuse(messages[i].topic, refusal)
        messages = [m for i, m in enumerate(messages) if i not in refusals]
        n_retries = 0
        while True:
            began_s = time.monotonic()
            try:
                self._stores.put(batch)
            except Unstorable as error:
                if len(messages) == 1:
                    self._refuse(messages[0].topic, Refused(Refusal.UNSTORABLE, str(error)))
                    return True
                half = len(messages) // 2
                return self._put(messages[:half], at_ns) and self._put(messages[half:], at_ns)
            except (StoreError, EventsUnavailable, QueueError) as error:
                self._n_failures += 1
                if self.problem is None:
                    log.error(f"nothing can be stored: {error}; the broker keeps what comes until it can be")
                self.problem = str(error)
                if self._pause(backoff_s(RETRY_MIN_S, RETRY_MAX_S, n_retries, 0.5)):
                    return False
                n_retries += 1
                continue
            break
        if self.problem is not None:
            log.info("what comes is stored again")
            self.problem = None
        with self._lock:
            self._n_commits += 1
            self._commit_s += time.monotonic() - began_s
            self._stored.update(m.message.type for m in messages if not isinstance(m.message, Gone))
        return True

    def _pause(self, pause_s: float) -> bool:
        """Whether it was ended by :meth:`stop`."""
        ends_s = time.monotonic() + pause_s
        with self._lock:
            while not self._stopping and (left_s := ends_s - time.monotonic()) > 0:
                self._full.wait(left_s)
            return self._stopping

    def _decoded_of(self, taken: Sequence[Heard]) -> list[Believed]:
        found = []
        for heard in taken:
            try:
                if heard.payload:
                    found.append(Believed(heard.topic, self._decoded(heard)))
                    continue
                place = place_of(heard.topic, self._config.broker.prefix)
                if place.kind is DeviceStateMessage:
                    self._devices.get((place.site, place.gateway), set()).discard(place.of)
                    found.append(Believed(heard.topic, Gone(place.site, place.gateway, place.of)))
            except Refused as refused:
                self._refuse(heard.topic, refused)
        return found

    def _decoded(self, heard: Heard) -> Message:
        place = place_of(heard.topic, self._config.broker.prefix)
        message = decode(place, heard.payload, heard.at_ns, self._config.limits)
        with self._lock:
            self._heard[message.type] += 1
        if isinstance(message, Alert | Summary | DeviceStateMessage):
            known = self._devices.setdefault((message.site, message.gateway), set())
            if message.device not in known:
                most = self._config.limits.max_devices_per_gateway
                if len(known) >= most:
                    text = f"it has {most} devices already: [limits] max_devices_per_gateway"
                    raise Refused(Refusal.TOO_MANY_DEVICES, text)
                known.add(message.device)
        return message

    def _refuse(self, topic: str, refused: Refused) -> None:
        with self._lock:
            self._refused[refused.reason] += 1
        gateway = "/".join(topic.split("/")[1:3])
        n_held = self._log_limit.due((gateway, refused.reason), time.monotonic())
        if n_held is not None:
            log.warning(
                f"a message was not taken: {refused}", topic=topic, reason=refused.reason.value, n_held=n_held
            )


class _Nothing:
    """A session that does nothing."""

    def on_connected(self, link: Link) -> None: ...
    def on_message(
        self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE
    ) -> None: ...
    def on_acked(self, mid: int, refusal: str | None) -> None: ...
    def on_lost(self, blameless: bool) -> None: ...
    def on_turn(self, link: Link) -> None: ...


def client_id_of(sink: str) -> str:
    """Of the session of the sink of that name: the same at every start."""
    return f"linewatch-sink-{sink}"
