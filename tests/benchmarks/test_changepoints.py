"""SKAB's changepoint score against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.quality.changepoints import Detected, changepoint_score, worth


def detected(said: list[int], true: list[int]) -> Detected:
    return Detected(np.array(said, np.int64), np.array(true, np.int64))


def test_who_says_nothing_has_0_and_who_is_right_at_once_100() -> None:
    assert changepoint_score([detected([], [100, 200]), detected([], [])]) == 0.0
    assert changepoint_score([detected([100, 200], [100, 200]), detected([50], [50])]) == pytest.approx(100.0)


def test_a_first_detection_falls_from_1_to_the_cost_of_a_false_one_on_a_hyperbolic_tangent() -> None:
    assert worth(0.0) == pytest.approx(1.0)
    assert worth(0.5) == pytest.approx(0.445)
    assert worth(1.0) == pytest.approx(-0.11)
    quarter = 0.555 * (1.0 + math.tanh(math.pi / 4) / math.tanh(math.pi / 2)) - 0.11
    assert worth(0.25) == pytest.approx(quarter)


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ([115], 72.25),  # in the middle: (.445 + 1) / 2
        ([130], 44.5),  # the last row of the window: (-.11 + 1) / 2
        ([131], -5.5),  # one behind: missed, and a false one
        ([99], -5.5),
        ([100, 110, 120], 100.0),  # the first counts, those after it in the window cost nothing
        ([40, 60, 115], 61.25),  # two false ones
    ],
)
def test_one_changepoint(said: list[int], score: float) -> None:
    assert changepoint_score([detected(said, [100])]) == pytest.approx(score)


def test_a_window_that_would_overlap_begins_where_the_one_before_ends() -> None:
    assert changepoint_score([detected([100], [100, 110])]) == pytest.approx(50.0)
    # In both, at the end of one and the beginning of the other: (-.11 + 1 + 2) / 4
    assert changepoint_score([detected([130], [100, 110])]) == pytest.approx(72.25)
    assert changepoint_score([detected([135], [100, 110])]) == pytest.approx(100.0 * (0.445 + 1.0) / 4.0)


def test_a_centred_window_takes_what_was_said_before_the_change() -> None:
    assert changepoint_score([detected([85], [100])], before=15) == pytest.approx(100.0)
    assert changepoint_score([detected([100], [100])], before=15) == pytest.approx(72.25)
    assert changepoint_score([detected([116], [100])], before=15) == pytest.approx(-5.5)


def test_without_a_changepoint_there_is_nothing_to_score() -> None:
    with pytest.raises(ValueError, match="no changepoint"):
        changepoint_score([detected([3], [])])
