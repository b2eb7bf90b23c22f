"""Messages at QoS 1 that the gateway has taken and not yet acknowledged: each is acknowledged once a checkpoint that contains it
is on disk, so that the broker brings again what a crash has lost.

Strategy: an acknowledgement may be lost with the connection, so what it was of is remembered for as long as the broker may bring
it again: of so many messages as it sends ahead.

Invariants: acknowledgements go out in the order in which the messages came (MQTT 5.0 section 4.6); a message that the broker
brings again, over the same session, is not taken twice. What tells it is its packet id with the DUP flag, and its digest.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class _Taken:
    digest: bytes
    ticket: int  # of its last block in the daemon's queue; 0: it is in a checkpoint, or brought no block
    on_this_link: bool
    first: int = 0  # ticket of its first block


class Receipts:
    """Of one source. ``marks``: packet id -> digest of messages that an earlier process had committed and may not have
    acknowledged; ``ahead``: how many the broker sends ahead of their acknowledgement. Used from the connection's thread and the
    daemon's."""

    def __init__(self, marks: Mapping[int, bytes] | None = None, ahead: int = 20) -> None:
        self._ahead = ahead
        self._acknowledged: OrderedDict[int, bytes] = OrderedDict()  # packet id -> digest
        self._lock = threading.Lock()
        self._taken: OrderedDict[int, _Taken] = OrderedDict(
            (mid, _Taken(digest, 0, False)) for mid, digest in (marks or {}).items()
        )
        self._committed = 0
        self._taking = False
        self.n_waiting = 0  # messages that no checkpoint contains yet

    def connected(self, *, session_present: bool) -> None:
        """A connection begins; without the session of before nothing that was taken over it comes again."""
        with self._lock:
            if not session_present:
                self._taken.clear()
                self._acknowledged.clear()
                self.n_waiting = 0
            for taken in self._taken.values():
                taken.on_this_link = False

    def came_again(self, mid: int, digest: bytes, *, dup: bool) -> bool:
        """Whether this message is one that was taken already; it is then acknowledged as soon as that is committed."""
        with self._lock:
            taken = self._taken.get(mid)
            if taken is None and dup and self._acknowledged.get(mid) == digest:
                taken = self._taken[mid] = _Taken(digest, 0, False)
            if taken is None or not dup or taken.digest != digest:
                return False
            taken.on_this_link = True
            self._taken.move_to_end(mid)
            return True

    def begin(self) -> None:
        """A message of several blocks is about to be taken, one after the other."""
        self._taking = True

    def splits(self, ticket: int) -> bool:
        """Whether some message has blocks up to ``ticket`` and others after it: a checkpoint between would know half of it."""
        with self._lock:
            if self._taking:
                return True
            return any(taken.first <= ticket < taken.ticket for taken in self._taken.values())

    def take(self, mid: int, digest: bytes, ticket: int, first: int | None = None) -> None:
        """A message was taken; its last block has ``ticket`` (0: there is none), its first one ``first`` (None: the same)."""
        with self._lock:
            self._taking = False
            self._acknowledged.pop(mid, None)
            self._taken[mid] = _Taken(digest, ticket, True, ticket if first is None else first)
            self._taken.move_to_end(mid)
            self.n_waiting += ticket > self._committed

    def commit(self, ticket: int) -> None:
        """What has a ticket up to this one is on disk."""
        with self._lock:
            self._committed = max(self._committed, ticket)
            self.n_waiting = sum(taken.ticket > self._committed for taken in self._taken.values())

    def due(self) -> list[int]:
        """Packet ids to acknowledge now, in order; they are forgotten."""
        with self._lock:
            ready = []
            for mid, taken in self._taken.items():
                if not taken.on_this_link:
                    continue
                if taken.ticket > self._committed:
                    break
                ready.append(mid)
            for mid in ready:
                self._acknowledged[mid] = self._taken.pop(mid).digest
                self._acknowledged.move_to_end(mid)
            while len(self._acknowledged) > self._ahead:
                self._acknowledged.popitem(last=False)
            return ready

    def marks(self, ticket: int) -> dict[int, bytes]:
        """Of the messages that are in a checkpoint with all blocks up to ``ticket``: what tells them when they come again."""
        with self._lock:
            committed = {mid: taken.digest for mid, taken in self._taken.items() if taken.ticket <= ticket}
            return dict(self._acknowledged) | committed


def digest_of(topic: str, payload: bytes) -> bytes:
    """Eight bytes that tell messages apart."""
    return hashlib.blake2b(payload, digest_size=8, key=topic.encode()[:64]).digest()
