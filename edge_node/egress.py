"""What may leave the gateway, and the bounded queue in which it waits for the broker.

Invariants: only the message types of :data:`SENDABLE` become an :class:`Outgoing`, so raw signal cannot be
published; a retained message waits at most once a topic, with its latest payload; past its bounds the
queue gives up the oldest summaries first, then updates of alerts, and alerts that say an episode began or
ended last. This module is pure.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from models.messages import Alert, DeviceStateMessage, Event, Status, Summary, encode
from models.topics import GatewayTopics

SENDABLE = (Alert, Summary, DeviceStateMessage, Status)

N_RANKS = 3  # what is given up first has the lowest rank


@dataclass(slots=True, eq=False)
class Outgoing:
    """An encoded message on its way. ``rank`` None: retained, never given up. ``n_lost``: how often the
    broker closed the connection while this was unacknowledged."""

    kind: str
    topic: str
    payload: bytes
    retain: bool
    rank: int | None
    n_lost: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes that the broker is sent for it, without the packet's fixed header."""
        return len(self.payload) + len(self.topic.encode())


def outgoing(event: Event | Status, topics: GatewayTopics) -> Outgoing:
    """``event`` ready to be sent. Raises TypeError for what may not leave the gateway, ValueError for
    another gateway's."""
    if type(event) not in SENDABLE:
        raise TypeError(f"{type(event).__name__} may not leave the gateway")
    if (event.site, event.gateway) != (topics.site, topics.gateway):
        raise ValueError(f"a message of {event.site}/{event.gateway} on {topics.root}")
    rank: int | None = None
    if isinstance(event, Alert):
        topic, rank = topics.alert(event.device), 1 if event.state == "updated" else 2
    elif isinstance(event, Summary):
        topic, rank = topics.summary(event.device), 0
    elif isinstance(event, DeviceStateMessage):
        topic = topics.device_state(event.device)
    else:
        topic = topics.status
    return Outgoing(event.type, topic, encode(event), rank is None, rank)


def clearing(device_id: str, topics: GatewayTopics) -> Outgoing:
    """What makes the broker forget the state of a device that is no more: an empty retained message."""
    return Outgoing("device_state", topics.device_state(device_id), b"", True, None)


class EgressQueue:
    """First in, first out, bounded in messages (retained ones, of which there is one a topic, do not
    count) and bytes."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._items: OrderedDict[int, Outgoing] = OrderedDict()
        self._by_rank: list[deque[int]] = [deque() for _ in range(N_RANKS)]
        self._retained: dict[str, int] = {}
        self._next = 0
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def peek(self) -> Outgoing | None:
        """The oldest message."""
        return next(iter(self._items.values()), None)

    def put(self, item: Outgoing) -> tuple[list[Outgoing], list[Outgoing]]:
        """Adds ``item``; returns what was given up for it (it may be ``item``) and what it superseded."""
        if item.rank is not None and item.n_bytes > self._max_bytes:
            return [item], []
        old = self._remove_retained(item.topic) if item.retain else None
        self._add(item, first=False)
        return self._shrink(), [] if old is None else [old]

    def put_first(self, items: Iterable[Outgoing]) -> tuple[list[Outgoing], list[Outgoing]]:
        """Puts retained ``items``, in their order, before all others. Returns what was given up, and what
        they superseded."""
        superseded = []
        for item in reversed(list(items)):
            old = self._remove_retained(item.topic)
            if old is not None and old is not item:
                superseded.append(old)
            self._add(item, first=True)
        return self._shrink(), superseded

    def put_back(self, items: Iterable[Outgoing]) -> tuple[list[Outgoing], list[Outgoing]]:
        """Puts ``items`` that were taken, in their order, before all others. Returns what was given up,
        and those of ``items`` that a newer retained message had superseded."""
        superseded = []
        for item in reversed(list(items)):
            if item.retain and item.topic in self._retained:
                superseded.append(item)
            else:
                self._add(item, first=True)
        return self._shrink(), superseded

    def holds(self, item: Outgoing) -> bool:
        """Whether the retained message ``item`` waits here."""
        key = self._retained.get(item.topic)
        return key is not None and self._items[key] is item

    def take(self) -> Outgoing:
        """Removes and returns the oldest message; KeyError when there is none."""
        key, item = self._items.popitem(last=False)
        self._forget(key, item)
        return item

    def _add(self, item: Outgoing, *, first: bool) -> None:
        key = self._next
        self._next += 1
        self._items[key] = item
        self.n_bytes += item.n_bytes
        if first:
            self._items.move_to_end(key, last=False)
        if item.rank is None:
            self._retained[item.topic] = key
        elif first:
            self._by_rank[item.rank].appendleft(key)
        else:
            self._by_rank[item.rank].append(key)

    def _remove_retained(self, topic: str) -> Outgoing | None:
        key = self._retained.get(topic)
        if key is None:
            return None
        item = self._items.pop(key)
        self._forget(key, item)
        return item

    def _forget(self, key: int, item: Outgoing) -> None:
        self.n_bytes -= item.n_bytes
        if item.rank is None:
            del self._retained[item.topic]
        else:
            oldest = self._by_rank[item.rank].popleft()
            assert oldest == key, "messages leave a rank in the order in which they entered it"

    def _shrink(self) -> list[Outgoing]:
        given_up = []
        while len(self._items) - len(self._retained) > self._max_messages or self.n_bytes > self._max_bytes:
            key = next((keys[0] for keys in self._by_rank if keys), None)
            if key is None:
                break  # only retained messages are left: one a device
            item = self._items.pop(key)
            self._forget(key, item)
            given_up.append(item)
        return given_up
