"""NAB's scoring rules against values that its authors publish, and against the rules worked out one threshold at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.quality.nab_score import (
    PROFILES,
    Profile,
    Series,
    probation,
    scaled_sigmoid,
    sweep,
)

STANDARD = PROFILES["standard"]
WINDOW = (30, 39)


def series(*said: int, n: int = 100, windows: tuple[tuple[int, int], ...] = (WINDOW,)) -> Series:
    scores = np.zeros(n)
    scores[list(said)] = 1.0
    return Series(scores, windows)


def score(*said: int, profile: Profile = STANDARD, n: int = 100) -> float:
    return sweep([series(*said, n=n)], profile).at(1.0)


@pytest.mark.parametrize(
    ("position", "value"),
    [(-1.0, 0.98661), (-0.5, 0.84828), (0.0, 0.0), (1.0, -0.98661), (3.0, -1.0), (9.0, -1.0)],
)
def test_the_sigmoid_has_the_published_values(position: float, value: float) -> None:
    assert float(scaled_sigmoid(np.array([position]))[0]) == pytest.approx(value, abs=5e-6)


@pytest.mark.parametrize(("n", "rows"), [(100, 15), (1127, 169), (5000, 750), (6000, 750)])
def test_the_first_15_percent_of_at_most_5000_rows_do_not_count(n: int, rows: int) -> None:
    assert probation(n) == rows


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_who_says_nothing_has_0_and_who_is_right_at_once_100(profile: Profile) -> None:
    corpus = [series(30, 60, windows=(WINDOW, (60, 80))), series(50, windows=((50, 55),)), series(windows=())]
    assert sweep(corpus, profile).at(2.0) == 0.0
    assert sweep(corpus, profile).at(1.0) == pytest.approx(100.0)


def test_a_detection_is_worth_the_more_the_earlier_in_its_window_and_only_the_best_counts() -> None:
    # The last of ten rows is at -1/10 of the window: (2 / (1 + exp(-.5)) - 1) / .98661 of a whole one.
    at_the_end = (2.0 / (1.0 + math.exp(-0.5)) - 1.0) / (2.0 / (1.0 + math.exp(-5.0)) - 1.0)
    assert score(39) == pytest.approx(100.0 * (at_the_end + 1.0) / 2.0)
    assert score(39, profile=PROFILES["reward_low_fn"]) == pytest.approx(100.0 * (at_the_end + 2.0) / 3.0)
    assert score(30, 35, 39) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("row", "cost"),
    [
        (20, 1.0),  # before all windows
        (40, -(2.0 / (1.0 + math.exp(5.0 / 9.0)) - 1.0)),  # one row behind: a ninth of its width
        (48, 0.986614),  # its whole width behind
        (66, 1.0),  # three widths behind
    ],
)
def test_a_false_alarm_costs_the_less_the_nearer_behind_a_window(row: int, cost: float) -> None:
    assert score(row) == pytest.approx(-100.0 * 0.11 * cost / 2.0, abs=1e-4)
    assert score(row, profile=PROFILES["reward_low_fp"]) == pytest.approx(
        -100.0 * 0.22 * cost / 2.0, abs=1e-4
    )


def test_what_is_said_in_the_rows_for_learning_neither_costs_nor_counts() -> None:
    assert score(3, 7, 14) == 0.0
    assert score(15) < 0.0
    with pytest.raises(ValueError, match="no labelled window"):
        sweep([series(windows=((2, 6),))], STANDARD)


def test_equal_scores_come_under_a_threshold_together() -> None:
    one = Series(
        np.where(np.arange(100) >= 60, 0.5, 0.0) + np.where(np.arange(100) == 30, 0.9, 0.0), (WINDOW,)
    )
    found = sweep([one], STANDARD)
    assert found.thresholds.tolist() == [0.9, 0.5, 0.0]
    assert found.best == (0.9, pytest.approx(100.0))
    assert found.at(0.7) == pytest.approx(100.0)
    assert found.at(0.5) < found.at(0.51)


def test_where_every_threshold_is_worse_than_silence_silence_is_best() -> None:
    assert sweep([series(20)], STANDARD).best == (math.inf, 0.0)
    assert sweep([series(20)], STANDARD).at(math.inf) == 0.0


def worked_out(one: Series, threshold: float, profile: Profile) -> tuple[float, int]:
    """(score above silence, windows) of one file by the rules as they are told, row by row."""
    total, n_windows = 0.0, 0
    n = len(one.scores)
    first = probation(n)
    said = [i for i in range(first, n) if one.scores[i] >= threshold]
    for left, right in one.windows:
        if right < first:
            continue
        n_windows += 1
        width = right - left + 1
        worth = [2 / (1 + math.exp(-5 * (right - i + 1) / width)) - 1 for i in said if left <= i <= right]
        if worth:
            total += max(worth) / (2 / (1 + math.exp(-5)) - 1) * profile.tp + profile.fn
    for i in said:
        if any(left <= i <= right for left, right in one.windows):
            continue
        behind = [(right, right - left) for left, right in one.windows if right < i]
        x = 3.0 if not behind else (i - behind[-1][0]) / behind[-1][1]
        total += profile.fp * (-1.0 if x >= 3 else 2 / (1 + math.exp(5 * x)) - 1)
    return total, n_windows


@st.composite
def corpora(draw: st.DrawFn) -> list[Series]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        n = draw(st.integers(20, 60))
        edges = sorted(draw(st.lists(st.integers(n // 4, n - 1), min_size=2, max_size=4, unique=True)))
        windows = tuple((a, b) for a, b in zip(edges[::2], edges[1::2], strict=False) if b > a)
        scores = draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9]), min_size=n, max_size=n))
        found.append(Series(np.array(scores), windows))
    return found


@settings(deadline=None)
@given(corpora(), st.sampled_from(list(PROFILES.values())), st.sampled_from([0.1, 0.2, 0.4, 0.5, 0.95]))
def test_all_thresholds_at_once_are_each_worked_out(
    corpus: list[Series], profile: Profile, at: float
) -> None:
    worked = [worked_out(one, at, profile) for one in corpus]
    whole = sum(n for _, n in worked) * (profile.tp + profile.fn)
    assert sweep(corpus, profile).at(at) == pytest.approx(100.0 * sum(t for t, _ in worked) / whole, abs=1e-9)
