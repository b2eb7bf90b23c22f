"""What is held, what is dropped, and what is counted of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_node.inference import EdgeTpuFailure, EdgeTpuUnavailable, NotReady, Scored, WorkerLost
from edge_node.pipeline import Pipeline
from edge_node.scorer import Scorer
from models.manifest import Artifact
from models.runtime import GraphUnusable
from models.signal import ArtifactTarget, DropReason, SampleBlock
from tests.edge_node import plant


class Moody:
    """An engine that copies its input, unless it is in ``trouble``."""

    target: ArtifactTarget = "cpu-float32"
    backend = "moody"
    step = 0.0
    notices = ()
    artifact: Artifact

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.n_runs = 0

    def run(self, inputs: NDArray[np.float32]) -> Scored:
        self.n_runs += 1
        if self.trouble is not None:
            raise self.trouble
        return Scored(inputs, self.target, self.backend, None, 0, 7)

    def close(self) -> None: ...


def made(**more: int) -> tuple[Pipeline, Moody, Scorer]:
    plan = plant.plan()
    pipeline, engine = Pipeline("s", "g", [plan], **more), Moody()
    return pipeline, engine, Scorer(pipeline, {plan.engine: engine})


def block(i: int) -> SampleBlock:
    """The ``i``-th minute."""
    return plant.block(plant.healthy(60, i), 60 * i)


def test_what_no_worker_is_up_for_is_held_and_scored_in_time() -> None:
    pipeline, engine, scorer = made()
    engine.trouble = NotReady("no worker is up")
    for i in range(3):
        pipeline.push(block(i))
        assert scorer.score() == 0
        assert scorer.waiting == "no worker is up"
    counters = pipeline.counters()
    assert counters.n_windows_pending == counters.n_windows_closed > 20
    engine.trouble = None
    assert scorer.score() == counters.n_windows_closed
    assert scorer.waiting is None
    assert pipeline.counters().n_windows_scored == counters.n_windows_closed
    assert (scorer.n_invoked["cpu-float32"], scorer.invoked_ns["cpu-float32"]) == (3, 21)
    assert not scorer.failures


def test_what_is_held_is_bounded() -> None:
    pipeline, engine, scorer = made(max_batches_out=4)
    engine.trouble = NotReady("no worker is up")
    for i in range(5):
        pipeline.push(block(i))
        scorer.score()
    assert pipeline.n_batches_out == 2
    assert scorer.failures == {"not_ready": 3}
    counters = pipeline.counters()
    assert counters.window_drops[DropReason.INFERENCE_FAILED] > 20
    engine.trouble = None
    scorer.score()
    counters = pipeline.counters()
    assert counters.n_windows_pending == 0
    assert counters.n_windows_closed == counters.n_windows_scored + sum(counters.window_drops.values())


def test_a_batch_that_fails_is_dropped_and_counted_by_kind() -> None:
    pipeline, engine, scorer = made()
    troubles: list[Exception] = [
        GraphUnusable("refused"),
        EdgeTpuUnavailable(EdgeTpuFailure.REFUSED, "no device"),
        WorkerLost("hung", "twice"),
    ]
    for i, trouble in enumerate(troubles):
        engine.trouble = trouble
        pipeline.push(block(i))
        assert scorer.score() == 0
        assert scorer.last_failure == str(trouble)
        assert engine.n_runs == i + 1
    assert scorer.failures == {"graph_unusable": 1, "refused": 1, "hung": 1}
    counters = pipeline.counters()
    assert counters.window_drops == {DropReason.INFERENCE_FAILED: counters.n_windows_closed}
