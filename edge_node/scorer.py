"""Batches to engines, scores to the pipeline, and what came of it, counted.

At the edge scoring is synchronous: ``run`` of an engine is bounded, by its work while there is progress and well below a second
where there is none. What the edge does not score in time, or at all, goes to a sink if its features may leave and a
``Remote`` is there (``router`` decides); that is asynchronous, and its answer comes with a later call. A batch for which neither
is up is held, and given again at the next call; one that fails is dropped as ``inference_failed``. Windows that may leave wait
in the pipeline, within its bounds, while a batch of theirs is held, ``HELD_S`` at most: what then goes to a sink goes together.

Invariant: at most half of the batches that may be out are held, and a quarter (one at least) is with a sink, so that those of
other engines still get out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from edge_node.cloud_scoring import Outcome
from edge_node.inference import (
    EdgeTpuUnavailable,
    NotReady,
    ScoringEngine,
    WorkerLost,
    failure_kind,
)
from edge_node.pipeline import Pipeline, ScoreBatch
from edge_node.router import Place, Router
from edge_node.runs import Runs
from models.runtime import GraphUnusable
from models.signal import DropReason, ScoredOn

_NOT_READY = "not_ready"
_SINK_BUSY = "a sink has as much as it is given at once"
HELD_S = 20.0  # for so long a batch that may leave waits for the edge or a sink: others wait behind it


class Remote(Protocol):
    """Who scores elsewhere; ``edge_node.cloud_scoring.CloudScoring``."""

    def ask(self, batch: ScoreBatch) -> bool:
        """Whether it was asked: then :meth:`take` tells what came of it, once."""
        ...

    def take(self) -> Sequence[Outcome]:
        """What came of requests since the last call."""
        ...


class Scorer:
    """Scores what ``pipeline`` hands out with ``engines``."""

    def __init__(
        self,
        pipeline: Pipeline,
        engines: Mapping[str, ScoringEngine],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = pipeline
        self._engines = engines
        self._clock = clock
        self._held: list[ScoreBatch] = []
        self._held_since: dict[int, float] = {}  # of those that may leave, by id
        self._max_held = pipeline.max_batches_out // 2  # the others' batches must still get out
        self._max_asked = max(1, pipeline.max_batches_out // 4)
        self._remote: Remote | None = None
        self._router: Router | None = None
        self.n_asked = 0  # batches that are with a sink
        self.failures: Counter[str] = Counter()  # of batches, by kind
        self.last_failure: str | None = None
        self.waiting: str | None = None  # why batches are held, where some are
        self.n_invoked: Counter[ScoredOn] = Counter()  # batches that were scored,
        self.invoked_ns: Counter[ScoredOn] = Counter()  # and how long that took
        self.n_windows: Counter[Place] = Counter()  # that were scored, by where
        self.runs: dict[str, Runs] = {}  # by engine

    @property
    def away(self) -> frozenset[str]:
        """Engines for which a sink is asked, where one may be: the edge is too slow for them, or down."""
        return frozenset() if self._router is None else self._router.away

    def reach(self, remote: Remote, router: Router) -> None:
        """What may leave may be scored by ``remote`` from here on, where ``router`` says so."""
        self._remote, self._router = remote, router

    def forget(self, but: Collection[str]) -> None:
        """Of engines other than these nothing is asked any more."""
        self.runs = {name: runs for name, runs in self.runs.items() if name in but}
        if self._router is not None:
            self._router.forget(but)

    def score(self) -> int:
        """Score all that is ready; returns the number of windows."""
        n = 0
        held, self._held, self.waiting = self._held, [], None
        if self._remote is not None and self._router is not None:
            n += self._take(self._remote.take(), self._router)
        for batch in held:
            n += self._route(batch)
        for batch_id in self._held_since.keys() - {batch.batch_id for batch in self._held}:
            del self._held_since[batch_id]
        while batches := self._pipeline.take_batches(self._crowded()):
            for batch in batches:
                n += self._route(batch)
        return n

    def _crowded(self) -> set[tuple[str, bool]]:
        """What need not be taken: the edge does not score it and a sink has enough. Where windows wait, they are batched."""
        if self._router is None:
            return set()
        return {(batch.engine, True) for batch in self._held if batch.may_leave}

    def _take(self, outcomes: Sequence[Outcome], router: Router) -> int:
        n = 0
        for outcome in outcomes:
            batch, answered = outcome.batch, outcome.answered
            self.n_asked -= 1
            if answered is None:
                router.unanswered(batch.engine, self._clock())
                n += self._score(batch)
                continue
            router.answered(batch.engine)
            self._note("cloud", Place.CLOUD, batch.n, outcome.latency_ns)
            self._pipeline.scored_elsewhere(batch.batch_id, answered.residual, answered.p, outcome.latency_ns)
            n += batch.n
        return n

    def _route(self, batch: ScoreBatch) -> int:
        """Windows of ``batch`` that have their scores now."""
        router = self._router
        if router is not None and batch.may_leave:
            place = router.place(batch.engine, self._clock())
            if place is Place.CLOUD:
                if self._ask(batch):
                    return 0
                if self.n_asked >= self._max_asked:
                    self._hold(batch, _SINK_BUSY)
                    return 0
        return self._score(batch)

    def _ask(self, batch: ScoreBatch) -> bool:
        """Whether a sink is asked for ``batch``."""
        router, remote = self._router, self._remote
        if router is None or remote is None or not batch.may_leave or self.n_asked >= self._max_asked:
            return False
        if not router.asks(batch.engine, self._clock()) or not remote.ask(batch):
            return False
        router.asked(batch.engine)
        self.n_asked += 1
        return True

    def _hold(self, batch: ScoreBatch, why: str) -> None:
        if why != _SINK_BUSY:  # which is over with the next answer
            self.waiting = why
        self._held.append(batch)
        if len(self._held) > self._max_held:
            self._fail(self._held.pop(0), _NOT_READY, why)
        elif self._router is not None and batch.may_leave:
            now_s = self._clock()
            if now_s - self._held_since.setdefault(batch.batch_id, now_s) >= HELD_S:
                self._fail(self._held.pop(), _NOT_READY, why)

    def _score(self, batch: ScoreBatch) -> int:
        try:
            result = self._engines[batch.engine].run(batch.inputs)
        except NotReady as error:
            self._edge_failed(batch)
            if self._ask(batch):
                return 0
            self._hold(batch, str(error))
            return 0
        except (GraphUnusable, EdgeTpuUnavailable, WorkerLost) as error:
            self._edge_failed(batch)
            self._count_failed(batch)
            if not self._ask(batch):
                self._fail(batch, failure_kind(error), str(error))
            return 0
        ns_a_window = result.latency_ns // max(1, batch.n)
        runs = self.runs.setdefault(batch.engine, Runs())
        runs.n += 1
        runs.ns_a_window.append(ns_a_window)
        if self._router is not None:
            self._router.measured(batch.engine, ns_a_window, self._clock())
        self._note(result.target, Place.EDGE, batch.n, result.latency_ns)
        self._pipeline.scored(
            batch.batch_id,
            result.output,
            result.target,
            result.latency_ns,
            result.n_saturated,
            result.saturated,
        )
        return batch.n

    def _note(self, target: ScoredOn, place: Place, n: int, latency_ns: int) -> None:
        self.n_invoked[target] += 1
        self.invoked_ns[target] += latency_ns
        self.n_windows[place] += n

    def _edge_failed(self, batch: ScoreBatch) -> None:
        if self._router is not None:
            self._router.failed(batch.engine, self._clock())

    def _count_failed(self, batch: ScoreBatch) -> None:
        runs = self.runs.setdefault(batch.engine, Runs())
        runs.n, runs.n_failed = runs.n + 1, runs.n_failed + 1

    def _fail(self, batch: ScoreBatch, kind: str, text: str) -> None:
        self.failures[kind] += 1
        self.last_failure = text
        self._pipeline.failed(batch.batch_id, DropReason.INFERENCE_FAILED)
