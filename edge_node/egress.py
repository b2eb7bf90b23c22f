"""What may leave the gateway, and the bounded queue in which it waits for the broker.

Invariants: only the message types of :data:`SENDABLE` become an :class:`Outgoing`, so raw signal cannot be
published; a retained message waits at most once a topic, with its latest payload; past its bounds the
queue gives up the oldest summaries first, then updates of alerts and answers to requests, and alerts that say an
episode began or ended last; whatever is chosen next, what one device said leaves in the order in which it was said. This
module is pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from models.messages import (
    Alert,
    DeviceStateMessage,
    Event,
    ModelState,
    Response,
    ScoreRequest,
    Status,
    Summary,
    encode,
)
from models.topics import GatewayTopics

SENDABLE = (Alert, Summary, DeviceStateMessage, Status, Response, ModelState, ScoreRequest)

N_RANKS = 3  # what is given up first has the lowest rank
SUMMARY_RANK = 0
SCORES = "_score"  # stands in for the device of what is asked of a sink: it waits behind no device


@dataclass(slots=True, eq=False)
class Outgoing:
    """An encoded message on its way to ``prefix``/``place``. ``rank`` None: retained, never given up. ``device``: whose
    order it keeps.

    ``row`` is its number in the outbox (None: it is in memory only), and ``payload`` None where only the outbox has it;
    ``ran_s``: for how long the gateway had run, in all, when it was said. ``waited``: a connection had to come (back) before
    it could leave. ``first``: it goes before all others. ``n_lost``: how often the broker closed the connection while this
    was unacknowledged.
    """

    kind: str
    prefix: str
    place: str
    payload: bytes | None
    retain: bool
    rank: int | None
    device: str
    n_bytes: int  # that the broker is sent for it, without the packet's fixed header
    row: int | None = None
    ran_s: float = 0.0
    waited: bool = False
    first: bool = False
    n_lost: int = 0

    @property
    def topic(self) -> str:
        return f"{self.prefix}/{self.place}"


def outgoing(event: Event | Status | Response | ModelState | ScoreRequest, topics: GatewayTopics) -> Outgoing:
    """``event`` ready to be sent. Raises TypeError for what may not leave the gateway, ValueError for
    another gateway's."""
    if type(event) not in SENDABLE:
        raise TypeError(f"{type(event).__name__} may not leave the gateway")
    if (event.site, event.gateway) != (topics.site, topics.gateway):
        raise ValueError(f"a message of {event.site}/{event.gateway} on {topics.root}")
    rank: int | None = None
    device = ""
    if isinstance(event, Alert):
        topic, rank, device = topics.alert(event.device), 1 if event.state == "updated" else 2, event.device
    elif isinstance(event, Summary):
        topic, rank, device = topics.summary(event.device), SUMMARY_RANK, event.device
    elif isinstance(event, Response):
        topic, rank, device = topics.response(event.request), 1, event.device or ""
    elif isinstance(event, ScoreRequest):
        topic, rank, device = topics.score_request, 1, SCORES
    elif isinstance(event, DeviceStateMessage):
        topic, device = topics.device_state(event.device), event.device
    elif isinstance(event, ModelState):
        topic = topics.model(event.model_id)
    else:
        topic = topics.status
    return _item(event.type, topic, topics.prefix, encode(event), rank, device)


def clearing(device_id: str, topics: GatewayTopics) -> Outgoing:
    """What makes the broker forget the state of a device that is no more: an empty retained message."""
    return _item("device_state", topics.device_state(device_id), topics.prefix, b"", None, device_id)


def _item(kind: str, topic: str, prefix: str, payload: bytes, rank: int | None, device: str) -> Outgoing:
    place = topic.removeprefix(f"{prefix}/")
    n_bytes = len(payload) + len(topic.encode())
    return Outgoing(kind, prefix, place, payload, rank is None, rank, device, n_bytes)


def marked_delayed(kind: str, payload: bytes) -> bytes:
    """``payload`` of a message that had to wait for a connection: an alert says so itself (``delivery.delayed``)."""
    if kind != "alert":
        return payload
    alert = msgspec.json.decode(payload, type=Alert)
    if alert.delivery is None:
        return payload
    return encode(
        msgspec.structs.replace(alert, delivery=msgspec.structs.replace(alert.delivery, delayed=True))
    )


class EgressQueue:
    """First in, first out but for what :meth:`next` says; bounded in messages (retained ones, of which there is one a topic,
    do not count) and bytes."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._items: OrderedDict[int, Outgoing] = OrderedDict()
        self._by_rank: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(N_RANKS)]
        self._by_device: dict[str, OrderedDict[int, None]] = {}
        self._live: dict[str, int] = {}  # device -> its messages, summaries aside, that could leave at once
        self._retained: dict[str, int] = {}
        self._next = 0
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def bound(self, max_messages: int, max_bytes: int) -> list[Outgoing]:
        """New bounds; returns what is given up for them."""
        self._max_messages, self._max_bytes = max_messages, max_bytes
        return self._shrink()

    def next(self, *, may_drain: bool = True) -> Outgoing | None:
        """What leaves next: what was put first; then what is said now, of a device of which nothing older waits; then, if
        ``may_drain``, what a device that has something to say now said before, and all that has waited for a connection; then the
        oldest."""
        item = next(iter(self._items.values()), None)
        if item is None or item.first:
            return item
        heads = [self._items[next(iter(self._by_device[device]))] for device in self._live]
        for head in heads:
            if not head.waited:
                return head
        if heads and may_drain:
            return heads[0]
        return item if may_drain or not item.waited else None

    def put(self, item: Outgoing) -> tuple[list[Outgoing], list[Outgoing]]:
        """Adds ``item``; returns what was given up for it (it may be ``item``) and what it superseded."""
        if item.rank is not None and item.n_bytes > self._max_bytes:
            return [item], []
        old = self._remove_retained(item.place) if item.retain else None
        self._add(item, first=False)
        return self._shrink(), [] if old is None else [old]

    def put_first(self, items: Iterable[Outgoing]) -> tuple[list[Outgoing], list[Outgoing]]:
        """Puts retained ``items``, in their order, before all others. Returns what was given up, and what
        they superseded."""
        superseded = []
        for item in reversed(list(items)):
            old = self._remove_retained(item.place)
            if old is not None and old is not item:
                superseded.append(old)
            item.first, item.waited = True, False  # it says how things are now
            self._add(item, first=True)
        return self._shrink(), superseded

    def put_back(self, items: Iterable[Outgoing]) -> tuple[list[Outgoing], list[Outgoing]]:
        """Puts ``items`` that were taken, in their order, before all others. Returns what was given up,
        and those of ``items`` that a newer retained message had superseded."""
        superseded = []
        for item in reversed(list(items)):
            if item.retain and item.place in self._retained:
                superseded.append(item)
            else:
                self._add(item, first=True)
        return self._shrink(), superseded

    def items(self) -> Iterable[Outgoing]:
        """All that waits, the oldest first."""
        return self._items.values()

    def all_have_waited(self) -> None:
        """A connection has come (back): none of what is here could leave before."""
        for item in self._items.values():
            item.waited, item.first = True, False
        self._live.clear()

    def expire(self, said_before_s: float) -> list[Outgoing]:
        """Removes and returns what was said before the gateway had run for so long, retained messages aside."""
        old = []
        for key, item in self._items.items():
            if item.rank is None:
                continue
            if item.ran_s >= said_before_s:
                break
            old.append(key)
        return [self._remove(key) for key in old]

    def withdraw(self, kind: str) -> list[Outgoing]:
        """Removes and returns all of one kind."""
        return [self._remove(key) for key, item in list(self._items.items()) if item.kind == kind]

    def holds(self, item: Outgoing) -> bool:
        """Whether the retained message ``item`` waits here."""
        key = self._retained.get(item.place)
        return key is not None and self._items[key] is item

    def take(self, *, may_drain: bool = True) -> Outgoing:
        """Removes and returns what :meth:`next` says; KeyError when there is nothing."""
        item = self.next(may_drain=may_drain)
        if item is None:
            raise KeyError("nothing waits")
        if item.first:
            return self._remove(next(iter(self._items)))
        return self._remove(next(iter(self._by_device[item.device])))

    def _add(self, item: Outgoing, *, first: bool) -> None:
        key = self._next
        self._next += 1
        self._items[key] = item
        self.n_bytes += item.n_bytes
        orders = [self._by_device.setdefault(item.device, OrderedDict())]
        if item.rank is None:
            self._retained[item.place] = key
        else:
            orders.append(self._by_rank[item.rank])
        for order in orders:
            order[key] = None
        if first:
            self._items.move_to_end(key, last=False)
            for order in orders:
                order.move_to_end(key, last=False)
        if _is_live(item):
            self._live[item.device] = self._live.get(item.device, 0) + 1

    def _remove_retained(self, place: str) -> Outgoing | None:
        key = self._retained.get(place)
        return None if key is None else self._remove(key)

    def _remove(self, key: int) -> Outgoing:
        item = self._items.pop(key)
        self.n_bytes -= item.n_bytes
        if item.rank is None:
            del self._retained[item.place]
        else:
            del self._by_rank[item.rank][key]
        of_device = self._by_device[item.device]
        del of_device[key]
        if not of_device:
            del self._by_device[item.device]
        if _is_live(item):
            self._live[item.device] -= 1
            if not self._live[item.device]:
                del self._live[item.device]
        item.first = False
        return item

    def _shrink(self) -> list[Outgoing]:
        given_up = []
        while len(self._items) - len(self._retained) > self._max_messages or self.n_bytes > self._max_bytes:
            key = next((next(iter(keys)) for keys in self._by_rank if keys), None)
            if key is None:
                break  # only retained messages are left: one a device
            given_up.append(self._remove(key))
        return given_up


def _is_live(item: Outgoing) -> bool:
    return not (item.waited or item.first or item.rank == SUMMARY_RANK)
