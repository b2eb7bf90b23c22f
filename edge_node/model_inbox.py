"""What the uplink's broker says of models, until somebody has time for it.

Strategy: manifests of the models that run here are always heard, a graph only while somebody wants it: then its exact
topic is subscribed to. Of every topic the latest message is kept and no other, so memory is bounded by the models that
run here, whatever comes. Invariant: :meth:`ModelInbox.hear`, on the connection's thread, keeps and wakes, no more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from models.topics import ModelTopics

TOPIC_BYTES = 1024  # room for a topic beside the payload
QOS = 1


@dataclass(frozen=True, slots=True)
class Heard:
    """A manifest, for this gateway alone (``canary``) or for all; ``payload`` None: it was larger than may be, ``n_bytes``.
    ``retained``: it was there before we listened."""

    model_id: str
    canary: bool
    payload: bytes | None
    n_bytes: int
    retained: bool


class ModelInbox:
    """An :class:`edge_node.uplink.Inbound`. ``wake`` is called, from any thread, when there is something to take."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._manifests: dict[str, tuple[str, bool]] = {}  # topic -> model, canary
        self._wanted: dict[str, tuple[str, int]] = {}  # topic -> digest, bytes
        self._heard: dict[str, Heard] = {}
        self._blobs: dict[str, bytes] = {}
        self._filters: tuple[tuple[str, int], ...] = ()
        self._max_bytes = 0
        self._again: set[str] = set()

    def again(self) -> Sequence[tuple[str, int]]:
        with self._lock:
            again, self._again = self._again, set()
            return [(topic, QOS) for topic in again if topic in self._wanted]

    def aim(self, prefix: str, gateway: str, model_ids: Iterable[str], max_bytes: int) -> None:
        """Hear of these models from now on, and of no others; ``gateway``: site/gateway."""
        manifests: dict[str, tuple[str, bool]] = {}
        for model_id in model_ids:
            topics = ModelTopics(prefix, model_id)
            manifests[topics.canary(gateway)] = (model_id, True)
            manifests[topics.stable] = (model_id, False)
        with self._lock:
            self._manifests, self._max_bytes = manifests, max_bytes
            self._heard = {topic: heard for topic, heard in self._heard.items() if topic in manifests}
            self._list()

    def want(self, blobs: Mapping[str, tuple[str, int]]) -> None:
        """Fetch what is published on these topics, of the digest and size that they have; and nothing else any more of what
        was wanted before."""
        with self._lock:
            # Wanted no more and then again within a turn of the uplink is subscribed to all along, so nothing would come.
            self._again |= {
                topic
                for topic, (sha256, _) in blobs.items()
                if topic not in self._wanted and sha256 not in self._blobs
            }
            self._wanted = dict(blobs)
            self._blobs = {
                sha256: self._blobs[sha256] for sha256, _ in blobs.values() if sha256 in self._blobs
            }
            self._list()

    def take(self) -> list[Heard]:
        """The latest manifests that nobody has taken."""
        with self._lock:
            heard, self._heard = list(self._heard.values()), {}
            return heard

    def blobs(self, digests: Collection[str]) -> dict[str, bytes]:
        """Those of the wanted graphs, by digest, that have come."""
        with self._lock:
            return {sha256: self._blobs[sha256] for sha256 in digests if sha256 in self._blobs}

    @property
    def filters(self) -> Sequence[tuple[str, int]]:
        return self._filters

    @property
    def max_bytes(self) -> int:
        return self._max_bytes + TOPIC_BYTES if self._max_bytes else 0

    def hear(self, topic: str, payload: bytes, retained: bool) -> None:
        with self._lock:
            if (known := self._manifests.get(topic)) is not None:
                model_id, canary = known
                fits = len(payload) <= self._max_bytes
                self._heard[topic] = Heard(
                    model_id, canary, payload if fits else None, len(payload), retained
                )
            elif (wanted := self._wanted.get(topic)) is not None and len(payload) == wanted[1]:
                self._blobs[wanted[0]] = payload
            else:
                return
        self._wake()

    def _list(self) -> None:
        self._filters = tuple((topic, QOS) for topic in (*self._manifests, *self._wanted))
