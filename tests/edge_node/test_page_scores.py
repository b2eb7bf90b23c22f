"""What is kept of scores for the page: of each second the greatest, bounded, and in order."""

from __future__ import annotations

import numpy as np
import pytest

from edge_node.settling import Trace
from edge_node.web.scores import MIN_LOG_P, POINTS, ScoreBook
from models.calibration import AlertLevel
from tests.edge_node.plant import T0_S, Plant, S, block, healthy, plan

LEVEL = AlertLevel(
    p_raise=1e-4,
    p_clear=1e-3,
    score_raise=3.0,
    score_clear=2.0,
    alerts_per_week=None,
    extrapolated=False,
    verified_per_week=None,
)
LEVELS = {"d": {"cpu-float32": LEVEL}, "e": {"cpu-float32": LEVEL}}


def trace(*ends_s: float, score: float | list[float] = 1.0, p: float = 0.5, alerting: bool = False) -> Trace:
    ends = np.array([round(end * S) for end in ends_s], np.int64)
    scores = (
        np.full(ends.size, score, np.float32) if isinstance(score, float) else np.array(score, np.float32)
    )
    flags = np.full(ends.size, alerting)
    return Trace(
        "d", ends - S, ends, scores, np.full(ends.size, p), scores > 3.0, flags, backend="cpu-float32"
    )


def book(*traces: Trace) -> ScoreBook:
    made = ScoreBook()
    made.add(traces, LEVELS)
    return made


def points(made: ScoreBook, since: int = 0) -> list[tuple[int, float]]:
    found = made.since("d", since)
    assert found is not None
    assert len({len(c) for c in (found.at, found.score, found.level, found.log_p, found.alerting)}) == 1
    return list(zip(found.at, found.score, strict=True))


def test_of_a_second_the_greatest_score_is_kept_however_they_come() -> None:
    ends, scores = [10.0, 10.25, 10.5, 11.0, 11.9, 13.0], [1.0, 4.0, 2.0, 0.5, 0.25, 7.0]
    expected = [(10, 4.0), (11, 0.5), (13, 7.0)]
    assert points(book(trace(*ends, score=scores))) == expected
    alone = [trace(end, score=score) for end, score in zip(ends, scores, strict=True)]
    assert points(book(*alone)) == expected
    assert points(book(trace(*ends[:2], score=scores[:2]), trace(*ends[2:], score=scores[2:]))) == expected


def test_a_point_has_the_level_the_p_value_and_whether_an_alert_was_open() -> None:
    made = book(
        trace(5.0, p=1e-6, score=2.0), trace(5.5, p=1e-3, alerting=True), trace(6.0, p=0.0, score=9.0)
    )
    found = made.since("d", 0)
    assert found is not None
    assert found.level == [3.0, 3.0]
    assert found.log_p == [-6.0, MIN_LOG_P], "of the greatest score of the second"
    assert found.alerting == [1, 0], "in any window of it"
    assert made.last("d") == (6, 9.0, 3.0)


@pytest.mark.parametrize("at_once", [1, 7, 500, 3 * POINTS])
def test_it_holds_the_last_points_alone(at_once: int) -> None:
    seconds = list(range(1000, 1000 + 3 * POINTS))
    made = book(*[trace(*seconds[i : i + at_once], score=1.5) for i in range(0, len(seconds), at_once)])
    assert [at for at, _ in points(made)] == seconds[-POINTS:]
    assert [at for at, _ in points(made, seconds[-3])] == seconds[-3:], (
        "from the one that is known already on"
    )
    assert points(made, seconds[-1] + 1) == []


def test_a_device_whose_clock_is_set_back_begins_anew() -> None:
    made = book(trace(*range(100, 200)), trace(50.0), trace(51.0))
    assert [at for at, _ in points(made)] == [50, 51]


def test_devices_do_not_mix_and_those_that_are_gone_are_forgotten() -> None:
    made = book(trace(1.0))
    assert made.since("e", 0) is None
    assert made.last("e") is None
    made.keep_only(["e"])
    assert made.since("d", 0) is None


def test_what_the_pipeline_traces_is_what_is_drawn() -> None:
    plant = Plant(plan())
    plant.pipeline.trace_scores()
    values = healthy(200, seed=3)
    values[150:] += 5.0
    plant.play([block(values[i : i + 10], i) for i in range(0, 200, 10)])
    made = ScoreBook()
    made.add(plant.pipeline.take_traces(), {"d": plant.plans[0].levels})
    found = made.since("d", 0)
    assert found is not None
    assert found.at[0] == T0_S + 20, "the end of the first window"
    assert np.all(np.diff(found.at) == 5), "its hop"
    assert found.level == [pytest.approx(plant.plans[0].levels["cpu-float32"].score_raise, rel=1e-3)] * len(
        found.at
    )
    raised = next(a for a in plant.alerts() if a.state == "raised")
    assert [s > lv for s, lv in zip(found.score, found.level, strict=True)] == [
        at > T0_S + 150 for at in found.at
    ]
    assert found.alerting.index(1) == found.at.index(raised.end_ns // S)
