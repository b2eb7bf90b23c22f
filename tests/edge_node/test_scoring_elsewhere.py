"""The scorer and the client together, on a clock of the test's: every window has one outcome, whatever a sink does."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.cloud_scoring import MAX_OUT, CloudScoring
from edge_node.inference import NotReady, WorkerLost
from edge_node.pipeline import Pipeline
from edge_node.router import Router
from edge_node.scorer import Scorer
from models.messages import ScoreReply, ScoreRequest, encode
from models.refusals import ScoreRefusal
from models.score_exchange import read_request, reply
from models.signal import DropReason
from models.topics import GatewayTopics
from tests.edge_node import plant
from tests.edge_node.test_scorer import Moody, block


class Sink:
    """What is asked, and a hand that answers."""

    def __init__(self) -> None:
        self.now_s = self.says_s = 0.0
        self.asked: list[ScoreRequest] = []
        self.connected = True
        self.cloud = CloudScoring(self._say, lambda: None, clock=lambda: self.now_s)
        self.cloud.configure("s", "g", 1000.0)
        self.inbox = self.cloud.inbox(GatewayTopics("linewatch", "s", "g"))

    def _say(self, request: ScoreRequest) -> bool:
        self.now_s += self.says_s
        if self.connected:
            self.asked.append(request)
        return self.connected

    def put(self, message: ScoreReply) -> None:
        self.inbox.hear("linewatch/s/g/score/response", encode(message), False)

    def score(self, request: ScoreRequest) -> ScoreReply:
        _, rows = read_request(encode(request))
        p = np.full(len(rows), 0.5)
        answer = reply(
            request, rows * 0 + 1, p, model_id="large", model_version=1, backend="x", latency_ms=1.0
        )
        self.put(answer)
        return answer


def made(*, may_leave: bool = True, max_batches_out: int = 16) -> tuple[Pipeline, Moody, Scorer, Sink]:
    plan = replace(plant.plan(), may_leave=may_leave)
    pipeline, engine = Pipeline("s", "g", [plan], max_batches_out=max_batches_out), Moody()
    sink = Sink()
    scorer = Scorer(pipeline, {plan.engine: engine}, clock=lambda: sink.now_s)
    scorer.reach(sink.cloud, Router(10**9))
    return pipeline, engine, scorer, sink


def balanced(pipeline: Pipeline) -> bool:
    c = pipeline.counters()
    return c.n_windows_closed == c.n_windows_scored + c.n_windows_pending + sum(c.window_drops.values())


@pytest.mark.parametrize("trouble", [NotReady("no worker is up"), WorkerLost("hung", "no answer")])
def test_what_the_edge_cannot_score_a_sink_does(trouble: Exception) -> None:
    pipeline, engine, scorer, sink = made()
    engine.trouble = trouble
    pipeline.trace_scores()
    pipeline.push(block(0))
    assert scorer.score() == 0
    assert scorer.n_asked == sink.cloud.n_open == 1
    sink.now_s = 0.25
    sink.score(sink.asked[0])
    n = scorer.score()
    assert n == pipeline.counters().n_windows_scored == sink.asked[0].n > 5
    (trace,) = pipeline.take_traces()
    assert (trace.backend, trace.latency_ns) == ("cloud", 250_000_000)
    assert trace.p.tolist() == pytest.approx([0.5] * n)
    assert dict(scorer.n_windows) == {"cloud": n}
    assert not scorer.failures


def test_an_answer_that_comes_at_once_took_no_less_than_nothing() -> None:
    pipeline, engine, scorer, sink = made()
    engine.trouble = NotReady("no worker is up")
    sink.says_s = 0.1  # the loop's thread is held up while the answer comes
    pipeline.trace_scores()
    pipeline.push(block(0))
    scorer.score()
    sink.now_s -= 0.05
    sink.score(sink.asked[0])
    scorer.score()
    (trace,) = pipeline.take_traces()
    assert trace.latency_ns == pytest.approx(50_000_000)


def test_features_that_may_not_leave_do_not() -> None:
    pipeline, engine, scorer, sink = made(may_leave=False)
    engine.trouble = WorkerLost("hung", "no answer")
    pipeline.push(block(0))
    scorer.score()
    assert not sink.asked
    assert scorer.failures == {"hung": 1}


def test_devices_of_one_engine_of_which_one_is_private_do_not_share_a_batch() -> None:
    plans = [
        replace(plant.plan(plant.device(device_id=name)), may_leave=name == "open")
        for name in ("open", "private")
    ]
    pipeline, sink = Pipeline("s", "g", plans), Sink()
    for name in ("open", "private"):
        pipeline.push(msgspec.structs.replace(block(0), device_id=name))
    batches = pipeline.take_batches()
    assert [(b.may_leave, set(b.devices)) for b in batches] == [(True, {"open"}), (False, {"private"})]
    with pytest.raises(ValueError, match="features of private may not leave"):
        sink.cloud.ask(batches[1])
    assert not sink.asked


def test_a_deadline_that_passes_gives_the_window_back_to_the_edge() -> None:
    pipeline, engine, scorer, sink = made()
    engine.trouble = NotReady("no worker is up")
    pipeline.push(block(0))
    scorer.score()
    engine.trouble = None
    sink.now_s = 0.9
    assert scorer.score() == 0
    sink.now_s = 1.0
    n = scorer.score()
    assert n > 5
    assert dict(scorer.n_windows) == {"edge": n}
    sink.score(sink.asked[0])  # too late
    assert scorer.score() == 0
    assert pipeline.counters().n_windows_scored == n
    families = {f.name: f.values for f in sink.cloud.families()}
    assert families["cloud_answers_refused"] == {("late",): 1}
    assert families["cloud_outcomes"] == {("deadline",): 1, ("scored",): 0} or families["cloud_outcomes"] == {
        ("deadline",): 1
    }


def test_what_neither_scores_is_held_within_bounds_and_then_dropped() -> None:
    pipeline, engine, scorer, sink = made(max_batches_out=4)
    engine.trouble = NotReady("no worker is up")
    for i in range(30):
        pipeline.push(block(i))
        scorer.score()
        sink.now_s += 2.0
        assert pipeline.n_batches_out <= 4
        assert sink.cloud.n_open <= 1
        assert balanced(pipeline)
    assert scorer.failures["not_ready"] > 0
    counters = pipeline.counters()
    assert counters.window_drops[DropReason.INFERENCE_FAILED] > 0
    assert counters.n_windows_scored == 0
    assert len(sink.asked) < 15  # a sink that is silent is left alone


def test_what_a_sink_has_no_room_for_goes_together_when_it_has() -> None:
    pipeline, engine, scorer, sink = made(max_batches_out=4)
    engine.trouble = NotReady("no worker is up")
    for i in range(12):
        pipeline.push(block(i))
        scorer.score()
        sink.now_s += 0.05
    assert len(sink.asked) == 1
    assert pipeline.n_batches_out == 2  # one is held, all else waits in the pipeline
    answered = 0
    while answered < len(sink.asked):
        sink.score(sink.asked[answered])
        answered += 1
        scorer.score()
    assert answered == 3
    assert pipeline.counters().n_windows_pending == 0
    assert not scorer.failures


def test_a_flood_of_answers_is_bounded() -> None:
    _, _, scorer, sink = made()
    for i in range(500):
        sink.put(
            ScoreReply(
                transaction=str(i), site="s", gateway="g", reason=ScoreRefusal.BUSY, text="", model_id=None
            )
        )
    scorer.score()
    families = {f.name: f.values for f in sink.cloud.families()}["cloud_answers_refused"]
    assert sum(families.values()) == 500
    assert families["queue_full",] == 468


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["push", "edge up", "edge down", "answer", "refuse", "wait", "offline", "online"]),
        max_size=60,
    )
)
def test_every_window_has_one_outcome_whatever_happens(steps: list[str]) -> None:
    pipeline, engine, scorer, sink = made(max_batches_out=8)
    at = answered = 0
    for step in steps:
        if step == "push":
            pipeline.push(block(at))
            at += 1
        elif step.startswith("edge"):
            engine.trouble = None if step == "edge up" else NotReady("no worker is up")
        elif step == "wait":
            sink.now_s += 0.7
        elif step in ("offline", "online"):
            sink.connected = step == "online"
        elif answered < len(sink.asked):
            if step == "answer":
                sink.score(sink.asked[answered])
            else:
                sink.put(
                    ScoreReply(
                        transaction=sink.asked[answered].transaction,
                        site="s",
                        gateway="g",
                        reason=ScoreRefusal.FAILED,
                        text="",
                    )
                )
            answered += 1
        scorer.score()
        assert balanced(pipeline)
        assert scorer.n_asked == sink.cloud.n_open <= MAX_OUT
        assert pipeline.n_batches_out <= 8
    engine.trouble = None
    for _ in range(10):  # nobody answers any more: the edge, which is back, has the rest
        sink.now_s += 10.0
        scorer.score()
    counters = pipeline.counters()
    assert counters.n_windows_pending == scorer.n_asked == 0
    assert sink.cloud.n_asked == sum(sink.cloud.outcomes.values())
