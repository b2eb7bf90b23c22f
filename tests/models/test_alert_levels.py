"""The level that a budget of alerts asks for, held against alerts counted on data that it has not seen."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models import calibration as calibrations
from models.calibration import (
    Calibration,
    budget_for_level,
    fit_calibration,
    level_for_budget,
    level_for_p,
    p_values,
)
from models.episode_counts import count_episodes
from models.episodes import AlertPolicy
from models.signal import NS_PER_S
from tests.models.healthy_scores import ar_scores, fitted, long_run

S = NS_PER_S
WEEK_NS = 7 * 86_400 * S
HOP_NS = 10 * S
POLICY = AlertPolicy()


def alerts_per_week(
    calibration: Calibration, p_raise: float, p_clear: float, scores: NDArray[np.float32]
) -> float:
    p = p_values(calibration, scores)
    n = count_episodes(p <= p_raise, p > p_clear, POLICY, HOP_NS)
    return n / (scores.size * HOP_NS / WEEK_NS)


@pytest.mark.parametrize(("phi", "budget"), [(0.0, 20.0), (0.9, 20.0), (0.9, 5.0), (0.9, 60.0)])
def test_a_budget_is_kept_on_data_that_the_level_has_not_seen(phi: float, budget: float) -> None:
    """A third of a week to calibrate on, more than three weeks to count alerts in, over 16 seeds."""
    realised = []
    for seed in range(16):
        calibration = fitted(ar_scores(20_000, phi, seed))
        level = level_for_budget(calibration, POLICY, HOP_NS, budget)
        assert not level.extrapolated
        assert level.verified_per_week == pytest.approx(WEEK_NS / (20_000 * HOP_NS))
        realised.append(alerts_per_week(calibration, level.p_raise, level.p_clear, long_run(phi)))
    assert 0.5 * budget <= float(np.mean(realised)) <= 1.25 * budget


def test_a_budget_below_what_the_data_can_vouch_for_is_extrapolated_and_says_so() -> None:
    realised = []
    for seed in range(16):
        calibration = fitted(ar_scores(4_000, 0.9, seed))
        level = level_for_budget(calibration, POLICY, HOP_NS, 2.0)
        assert level.extrapolated
        assert level.verified_per_week == pytest.approx(15.12)
        assert level.text().startswith("2 alerts a week (score ")
        assert level.text().endswith("), extrapolated, verified only to 15 alerts a week")
        realised.append(alerts_per_week(calibration, level.p_raise, level.p_clear, long_run(0.9)))
    assert float(np.mean(realised)) <= 3.0


def test_a_larger_budget_is_never_a_stricter_level() -> None:
    calibration = fitted(ar_scores(20_000, 0.9, 3))
    budgets = [1e-6, 1e-3, 0.1, 1, 2.9, 3.1, 5, 10, 30, 100, 1e3, 1e6]
    levels = [level_for_budget(calibration, POLICY, HOP_NS, b) for b in budgets]
    p = [level.p_raise for level in levels]
    assert p == sorted(p)
    assert p[-1] <= 0.1  # whatever the budget
    for level in levels:
        assert level.p_raise < level.p_clear <= 0.5
        assert level.score_clear < level.score_raise
        assert p_values(calibration, np.array([level.score_raise]))[0] == pytest.approx(level.p_raise)
        assert level.extrapolated == (level.alerts_per_week is not None and level.alerts_per_week < 3.02)


@pytest.mark.parametrize("p", [1e-200, 1e-9, 1e-4, 1e-3, 1e-2, 0.05])
def test_the_budget_of_a_level_is_the_least_that_reaches_it(p: float) -> None:
    calibration = fitted(ar_scores(20_000, 0.9, 3))
    budget = budget_for_level(calibration, POLICY, HOP_NS, p)
    assert budget is not None
    reached, below = (
        level_for_budget(calibration, POLICY, HOP_NS, b).p_raise for b in (budget, 0.99 * budget)
    )
    assert below < p <= reached * (1 + 1e-12)


def test_no_budget_reaches_a_level_beyond_the_most_lenient() -> None:
    assert budget_for_level(fitted(ar_scores(20_000, 0.9, 3)), POLICY, HOP_NS, 0.2) is None


def test_persistence_lets_a_level_be_more_lenient() -> None:
    calibration = fitted(ar_scores(20_000, 0.0, 3))
    at_once = msgspec.structs.replace(POLICY, n_raise=1, m_raise=1)
    once, thrice = (level_for_budget(calibration, p, HOP_NS, 10.0).p_raise for p in (at_once, POLICY))
    # Independent windows: once is p, three in a row p cubed.
    assert once == pytest.approx(10 * HOP_NS / WEEK_NS, rel=0.7)
    assert thrice == pytest.approx(once ** (1 / 3), rel=0.5)


def test_a_recording_too_short_for_any_alert_still_gives_a_level() -> None:
    calibration = fit_calibration(ar_scores(8, 0.0, 0), 8.0, breaks=(2, 4, 6))
    level = level_for_budget(calibration, POLICY, S, 1.0)
    assert level.extrapolated
    assert 0 < level.p_raise < 1e-5
    assert math.isfinite(level.score_raise)
    assert level.text().endswith("extrapolated, verified only to 75600 alerts a week")


def test_windows_over_a_break_make_no_alert() -> None:
    """Nine windows that stand out in threes: three alerts in one piece, none where each three is cut."""
    scores = ar_scores(3000, 0.0, 1)
    at = np.concatenate([np.arange(3) + s for s in (500, 1500, 2500)])
    scores[at] = 5.0 + np.arange(9, dtype=np.float32) / 10
    whole = fit_calibration(scores, 3000.0)
    cut = fit_calibration(scores, 3000.0, breaks=(502, 1502, 2502))
    budget = 3.0 / (3000 * HOP_NS / WEEK_NS)
    assert level_for_budget(whole, POLICY, HOP_NS, budget).score_raise > 4.9
    assert level_for_budget(cut, POLICY, HOP_NS, budget).score_raise < 3.0


def test_bursts_count_their_silence_as_time() -> None:
    """One window of .1 s every 10 s: the span and the cooldown are of the clock."""
    scores = ar_scores(20_000, 0.9, 4)
    burst = level_for_budget(fitted(scores, step_ns=HOP_NS), POLICY, S // 10, 20.0)
    steady = level_for_budget(fitted(scores), POLICY, HOP_NS, 20.0)
    assert burst == steady
    assert level_for_budget(fitted(scores), POLICY, S // 10, 20.0).extrapolated


def test_more_windows_than_are_kept_vouch_as_if_all_were(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = ar_scores(30_000, 0.9, 5)
    everything = fitted(scores)
    assert everything.scores().size == calibrations.MAX_KEPT_SCORES
    places = everything.places()
    assert np.array_equal(everything.scores(), scores[places])
    assert np.delete(scores, places).max() <= everything.scores().min()
    few = fit_calibration(scores, 1500.0, breaks=(10_000, 20_000))
    monkeypatch.setattr(calibrations, "MAX_KEPT_SCORES", 3_000)
    fewer = fit_calibration(scores, 1500.0, breaks=(10_000, 20_000))
    assert fewer.scores().size == 3_000
    assert fewer.knots == few.knots
    for budget in (0.2, 4.0, 15.0):
        a, b = (level_for_budget(c, POLICY, HOP_NS, budget) for c in (few, fewer))
        assert a.verified_per_week == b.verified_per_week == pytest.approx(2.016)
        assert math.log(a.p_raise) == pytest.approx(math.log(b.p_raise), abs=0.11)  # two steps of the grid


def test_a_given_level_is_taken_as_it_is() -> None:
    calibration = fitted(ar_scores(1500, 0.9, 1))
    level = level_for_p(calibration, 1e-6, POLICY)
    assert level.p_raise == 1e-6
    assert level.p_clear == pytest.approx(5e-6)
    assert not level.extrapolated
    assert level.verified_per_week is None
    assert level.text() == f"p <= 1e-06 (score {level.score_raise:.3g})"
    # Whatever is raised can be cleared.
    lenient = level_for_p(calibration, 0.4, msgspec.structs.replace(POLICY, clear_ratio=100))
    assert (lenient.p_raise, lenient.p_clear) == (0.4, 0.5)
    assert level_for_p(calibration, 0.9, POLICY).p_clear == 0.9
    with pytest.raises(ValueError, match="p must be"):
        level_for_p(calibration, 0.0, POLICY)
