"""Where a window is scored: at the edge first, by a sink when that does not do, else it waits.

A model is scored at the edge while what was measured fits ``max_latency``: the median time a window of the last batches. Where
it does not, or where no engine is up, its features go to a sink, if they may, and one answers. The edge is tried again after a
pause that doubles while it fails; it has the windows back once ``GOOD`` trials in a row took at most ``BACK_AT`` of what is
allowed, so that one that is just about as slow does not go to and fro. A sink that leaves ``SILENT`` requests of a model in a
row without scores is not asked for a pause; then a single request tries it.

Without a sink slow is better than never: the edge goes on scoring, what it does not manage waits, and past the bounds of that
is dropped and counted, as for any other reason. Pure: monotonic seconds and measured nanoseconds are arguments.
"""

from __future__ import annotations

import enum
import statistics
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

MEASURED = 8  # batches of which the median is taken
ENOUGH = 4  # of them, before a model is called slow
GOOD = 3
BACK_AT = 0.8
PAUSE_S, LONGEST_PAUSE_S = 5.0, 160.0
SILENT = 3


class Place(enum.StrEnum):
    """Where a batch goes."""

    EDGE = "edge"
    CLOUD = "cloud"


@dataclass(slots=True)
class _Pause:
    """Until ``until_s`` something is not tried; each failure doubles how long."""

    next_s: float = PAUSE_S
    until_s: float = 0.0

    def begin(self, now_s: float) -> None:
        self.until_s = now_s + self.next_s
        self.next_s = min(2 * self.next_s, LONGEST_PAUSE_S)

    def again(self, now_s: float) -> None:
        """The shortest: it works."""
        self.next_s = PAUSE_S
        self.until_s = now_s + PAUSE_S


@dataclass(slots=True)
class _Edge:
    ns_a_window: deque[int] = field(default_factory=lambda: deque(maxlen=MEASURED))
    away: bool = False  # too slow, or down
    on_trial: bool = False
    n_good: int = 0
    pause: _Pause = field(default_factory=_Pause)


@dataclass(slots=True)
class _Cloud:
    n_silent: int = 0
    n_out: int = 0
    pause: _Pause = field(default_factory=_Pause)


class Router:
    """For the engines of one gateway, each by its name."""

    def __init__(self, max_latency_ns: int) -> None:
        self._max_latency_ns = max_latency_ns
        self._edges: dict[str, _Edge] = {}
        self._clouds: dict[str, _Cloud] = {}
        self.n_moves = 0  # of a model, from the edge to a sink or back

    def forget(self, but: Collection[str]) -> None:
        """Of engines other than these nothing is asked any more."""
        self._edges = {name: edge for name, edge in self._edges.items() if name in but}
        self._clouds = {name: cloud for name, cloud in self._clouds.items() if name in but}

    def place(self, engine: str, now_s: float) -> Place:
        """Where the next batch of ``engine`` goes, whose features may leave. One that the edge then cannot score may still go to
        the cloud, if :meth:`asks` says so."""
        edge = self._edges.get(engine)
        if edge is None or not edge.away or not self.asks(engine, now_s):
            return Place.EDGE
        if now_s >= edge.pause.until_s:
            edge.on_trial, edge.pause.until_s = True, now_s + edge.pause.next_s
            return Place.EDGE
        return Place.CLOUD

    def asks(self, engine: str, now_s: float) -> bool:
        """Whether a sink may be asked for ``engine``."""
        cloud = self._clouds.get(engine)
        if cloud is None or cloud.n_silent < SILENT:
            return True
        return now_s >= cloud.pause.until_s and not cloud.n_out

    @property
    def away(self) -> frozenset[str]:
        """Engines whose windows should not be scored at the edge."""
        return frozenset(name for name, edge in self._edges.items() if edge.away)

    def measured(self, engine: str, ns_a_window: int, now_s: float) -> None:
        """The edge has scored a batch."""
        edge = self._edges.setdefault(engine, _Edge())
        if edge.away:
            edge.n_good = edge.n_good + 1 if ns_a_window <= BACK_AT * self._max_latency_ns else 0
            edge.on_trial = False
            edge.pause.again(now_s)
            if edge.n_good >= GOOD:
                edge.away, edge.n_good = False, 0
                edge.ns_a_window.clear()
                self.n_moves += 1
            return
        edge.ns_a_window.append(ns_a_window)
        if len(edge.ns_a_window) >= ENOUGH and statistics.median_low(edge.ns_a_window) > self._max_latency_ns:
            self._leave(edge, now_s)

    def failed(self, engine: str, now_s: float) -> None:
        """The edge could not score a batch."""
        edge = self._edges.setdefault(engine, _Edge())
        if not edge.away:
            self._leave(edge, now_s)
        elif edge.on_trial:
            edge.pause.begin(now_s)
        edge.on_trial, edge.n_good = False, 0

    def asked(self, engine: str) -> None:
        """A sink was asked."""
        self._clouds.setdefault(engine, _Cloud()).n_out += 1

    def answered(self, engine: str) -> None:
        """It has scored what it was asked."""
        cloud = self._clouds.setdefault(engine, _Cloud())
        cloud.n_out = max(0, cloud.n_out - 1)
        cloud.n_silent, cloud.pause = 0, _Pause()

    def unanswered(self, engine: str, now_s: float) -> None:
        """It has not, for whatever reason."""
        cloud = self._clouds.setdefault(engine, _Cloud())
        cloud.n_out = max(0, cloud.n_out - 1)
        cloud.n_silent += 1
        if cloud.n_silent >= SILENT and now_s >= cloud.pause.until_s:
            cloud.pause.begin(now_s)

    def _leave(self, edge: _Edge, now_s: float) -> None:
        edge.away, edge.n_good = True, 0
        edge.ns_a_window.clear()
        edge.pause = _Pause()
        edge.pause.begin(now_s)
        self.n_moves += 1
