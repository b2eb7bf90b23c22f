"""Batches to engines, scores to the pipeline, and what came of it, counted.

Scoring is synchronous: ``run`` of an engine is bounded, by its work while there is progress and well below a second where
there is none, so the windows in flight need no bookkeeping but this. A batch for which no worker is up is held, and given
again at the next call; one that fails is dropped as ``inference_failed``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from edge_node.inference import (
    EdgeTpuUnavailable,
    NotReady,
    ScoringEngine,
    WorkerLost,
    failure_kind,
)
from edge_node.pipeline import Pipeline, ScoreBatch
from edge_node.runs import Runs
from models.runtime import GraphUnusable
from models.signal import ArtifactTarget, DropReason

_NOT_READY = "not_ready"


class Scorer:
    """Scores what ``pipeline`` hands out with ``engines``."""

    def __init__(self, pipeline: Pipeline, engines: Mapping[str, ScoringEngine]) -> None:
        self._pipeline = pipeline
        self._engines = engines
        self._held: list[ScoreBatch] = []
        self._max_held = pipeline.max_batches_out // 2  # the others' batches must still get out
        self.failures: Counter[str] = Counter()  # of batches, by kind
        self.last_failure: str | None = None
        self.waiting: str | None = None  # why batches are held, where some are
        self.n_invoked: Counter[ArtifactTarget] = Counter()  # batches that were scored,
        self.invoked_ns: Counter[ArtifactTarget] = Counter()  # and how long that took
        self.runs: dict[str, Runs] = {}  # by engine

    def forget(self, but: Collection[str]) -> None:
        """Of engines other than these nothing is asked any more."""
        self.runs = {name: runs for name, runs in self.runs.items() if name in but}

    def score(self) -> int:
        """Score all that is ready; returns the number of windows."""
        n = 0
        batches, self._held, self.waiting = self._held, [], None
        while batches := batches or self._pipeline.take_batches():
            for batch in batches:
                n += self._score(batch)
            batches = []
        return n

    def _score(self, batch: ScoreBatch) -> int:
        try:
            result = self._engines[batch.engine].run(batch.inputs)
        except NotReady as error:
            self.waiting = str(error)
            self._held.append(batch)
            if len(self._held) > self._max_held:
                self._fail(self._held.pop(0), _NOT_READY, str(error))
            return 0
        except (GraphUnusable, EdgeTpuUnavailable, WorkerLost) as error:
            self._fail(batch, failure_kind(error), str(error))
            return 0
        runs = self.runs.setdefault(batch.engine, Runs())
        runs.n += 1
        runs.ns_a_window.append(result.latency_ns // max(1, batch.n))
        self.n_invoked[result.target] += 1
        self.invoked_ns[result.target] += result.latency_ns
        self._pipeline.scored(
            batch.batch_id,
            result.output,
            result.target,
            result.latency_ns,
            result.n_saturated,
            result.saturated,
        )
        return batch.n

    def _fail(self, batch: ScoreBatch, kind: str, text: str) -> None:
        if kind != _NOT_READY:  # no model's fault
            runs = self.runs.setdefault(batch.engine, Runs())
            runs.n, runs.n_failed = runs.n + 1, runs.n_failed + 1
        self.failures[kind] += 1
        self.last_failure = text
        self._pipeline.failed(batch.batch_id, DropReason.INFERENCE_FAILED)
