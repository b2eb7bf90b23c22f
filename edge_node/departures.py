"""What waits to leave the gateway, from the moment at which it was said until the broker has it: shared by the daemon's loop,
which says, and the uplink's thread, which sends.

A message is *held* until it is committed to the outbox, then *released* into the queue. Invariant, at any instant, by type as in
total: ``n_published + n_republished == n_delivered + n_superseded + sum(drops) + n_queued``. What has left, for whatever
reason, and has a row in the outbox is in :meth:`take_gone` once, so that the row goes with the next commit.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import structlog

from edge_node.egress import EgressQueue, Outgoing
from models.log_limit import LogLimit
from models.signal import DropReason

FAULT_LOG_S = 60.0

log = structlog.get_logger("linewatch.uplink")


@dataclass(slots=True)
class UplinkCounters:
    """By message type. ``n_bytes`` counts payload and topic of every transmission, also of repeated ones."""

    n_published: Counter[str] = field(default_factory=Counter)
    n_republished: Counter[str] = field(default_factory=Counter)
    n_superseded: Counter[str] = field(default_factory=Counter)
    n_delivered: Counter[str] = field(default_factory=Counter)
    n_bytes: Counter[str] = field(default_factory=Counter)
    drops: Counter[tuple[str, DropReason]] = field(default_factory=Counter)

    def copy(self) -> UplinkCounters:
        return UplinkCounters(
            Counter(self.n_published),
            Counter(self.n_republished),
            Counter(self.n_superseded),
            Counter(self.n_delivered),
            Counter(self.n_bytes),
            Counter(self.drops),
        )

    def balance_with(self, stored: Counter[str]) -> None:
        """What was neither delivered nor given up, and is not ``stored``, went down with the process that counted it."""
        left = self.n_published + self.n_republished
        left.subtract(self.n_delivered + self.n_superseded + stored)
        for (kind, _), n in self.drops.items():
            left[kind] -= n
        for kind, n in left.items():
            if n > 0:
                self.drops[kind, DropReason.DOWN] += n


class Departures:
    """``moved`` guards all of it, and is notified when something leaves."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.moved = threading.Condition()
        self.queue = EgressQueue(max_messages, max_bytes)
        self.in_flight: dict[int, Outgoing] = {}  # by the connection's message id
        self.retained: dict[str, Outgoing] = {}  # the last of each place
        self.counters = UplinkCounters()
        self._held: dict[int, Outgoing] = {}
        self._gone: list[int] = []
        self._log_limit = LogLimit(FAULT_LOG_S)

    @property
    def n_queued(self) -> int:
        """Messages that the broker has not acknowledged."""
        with self.moved:
            return len(self._held) + len(self.queue) + len(self.in_flight)

    @property
    def n_queued_bytes(self) -> int:
        with self.moved:
            waiting = [*self._held.values(), *self.in_flight.values()]
            return self.queue.n_bytes + sum(item.n_bytes for item in waiting)

    def snapshot(self) -> UplinkCounters:
        """The counters now."""
        with self.moved:
            return self.counters.copy()

    def figures(self) -> tuple[UplinkCounters, int, int]:
        """The counters, messages that the broker has not acknowledged, and their bytes: of one instant."""
        with self.moved:  # a condition's lock may be taken again
            return self.counters.copy(), self.n_queued, self.n_queued_bytes

    def hold(self, item: Outgoing) -> None:
        """``item`` is said, and waits to be committed; it has a row."""
        assert item.row is not None
        with self.moved:
            self.counters.n_published[item.kind] += 1
            self._held[item.row] = item

    def release(self, items: Iterable[Outgoing]) -> None:
        """``items``, in their order, may leave."""
        with self.moved:
            for item in items:
                assert item.row is not None
                if self._held.pop(item.row, None) is not None:
                    self._enter(item)

    def release_all(self) -> None:
        """All that is held may leave."""
        with self.moved:
            held, self._held = list(self._held.values()), {}
            for item in held:
                self._enter(item)

    def waiting(self) -> list[Outgoing]:
        """What may leave, has a row, and is in memory."""
        with self.moved:
            return [
                item
                for item in [*self.queue.items(), *self.in_flight.values()]
                if item.row is not None and item.payload is not None
            ]

    def forget_payloads(self, items: Iterable[Outgoing]) -> None:
        """The outbox has them; those of retained messages are few, and may be sent again."""
        with self.moved:
            for item in items:
                if item.row is not None and not item.retain:
                    item.payload = None

    def put(self, item: Outgoing) -> None:
        """``item`` is said and may leave at once."""
        with self.moved:
            self.counters.n_published[item.kind] += 1
            self._enter(item)

    def load(self, items: Iterable[Outgoing], counters: UplinkCounters) -> None:
        """What an earlier process left, and had counted."""
        with self.moved:
            stored: Counter[str] = Counter()
            for item in items:
                stored[item.kind] += 1
                item.waited = True
                self._enter(item)
            ours, self.counters = self.counters, counters
            self.counters.balance_with(stored)
            self.counters.n_superseded.update(ours.n_superseded)
            self.counters.drops.update(ours.drops)

    def go_to(self, prefix: str) -> None:
        """What waits leaves below ``prefix``."""
        with self.moved:
            for item in [*self._held.values(), *self.queue.items()]:
                item.prefix = prefix

    def expire(self, said_before_s: float) -> None:
        """Gives up what was said before the gateway had run for so long."""
        with self.moved:
            old = self.queue.expire(said_before_s)
            for item in old:
                self.counters.drops[item.kind, DropReason.EXPIRED] += 1
                self.leave(item)
        if old:
            self.log_fault("expired", f"{_messages(old)} waited too long for a connection: gave up on them")

    def withdraw(self, kind: str) -> None:
        """Gives up what waits of one kind: it would come too late."""
        with self.moved:
            for item in self.queue.withdraw(kind):
                self.counters.drops[item.kind, DropReason.EXPIRED] += 1
                self.leave(item)

    def bound(self, max_messages: int, max_bytes: int) -> None:
        """New bounds of the queue."""
        with self.moved:
            self.settle(self.queue.bound(max_messages, max_bytes), [])

    def give_up_unstored(self) -> tuple[int, int]:
        """The uplink stops: what waits and is in memory only goes down with it. Returns how many are left for the next
        uplink, and how many were given up. Holding ``moved``."""
        n_lost = 0
        kept = []
        while len(self.queue):
            item = self.queue.take()
            if item.row is None:
                n_lost += 1
                self.counters.drops[item.kind, DropReason.DOWN] += 1
            else:
                kept.append(item)
        self.queue.put_back(kept)
        return len(kept), n_lost

    def take_gone(self, stored: Iterable[Outgoing] = ()) -> tuple[list[Outgoing], list[int], UplinkCounters]:
        """Of one instant: copies of those of ``stored`` that have not left, rows of what has left since the last call, and the
        counters."""
        with self.moved:
            gone, self._gone = self._gone, []
            left = [replace(item) for item in stored if item.row is not None and item.payload is not None]
            return left, gone, self.counters.copy()

    def put_back_gone(self, rows: list[int]) -> None:
        """These could not be removed from the outbox."""
        with self.moved:
            self._gone[:0] = rows

    @property
    def n_gone(self) -> int:
        return len(self._gone)

    def leave(self, item: Outgoing) -> None:
        """``item`` is no more: delivered, superseded or given up. Holding ``moved``."""
        if item.row is not None:
            self._gone.append(item.row)
            item.row = None

    def settle(self, given_up: list[Outgoing], superseded: list[Outgoing]) -> None:
        """Counts what the queue gave up and superseded. Holding ``moved``."""
        for item in superseded:
            self.counters.n_superseded[item.kind] += 1
            self.leave(item)
        for item in given_up:
            self.counters.drops[item.kind, DropReason.EVICTED] += 1
            self.leave(item)
        if given_up:
            self.log_fault("evicted", f"the queue is full: gave up {_messages(given_up)}")

    def log_fault(self, key: str, text: str) -> None:
        """A warning, not more than once a minute for one ``key``."""
        n_held = self._log_limit.due(key, time.monotonic())
        if n_held is not None:
            log.warning(text + (f" ({n_held} more since it was last logged)" if n_held else ""))

    def _enter(self, item: Outgoing) -> None:
        if item.retain:
            if item.payload:
                self.retained[item.place] = item
            else:  # taken back
                self.retained.pop(item.place, None)
        self.settle(*self.queue.put(item))


def _messages(items: list[Outgoing]) -> str:
    first, n = items[0].kind, len(items)
    return f"one message, of type {first}" if n == 1 else f"{n} messages, first of type {first}"
