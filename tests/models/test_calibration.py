"""Calibration against what is known: simulated healthy data whose true rates a long simulation gives."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from models import codec
from models.calibration import (
    Calibration,
    block_folds,
    effective_windows,
    fit_calibration,
    p_values,
    score_at,
)
from models.messages import pack_floats
from models.score_tails import shape_of
from tests.models.healthy_scores import ar_scores, fitted, floats, long_run

# --- folds and effective windows ---


@given(st.integers(2, 300), st.integers(2, 9), st.integers(0, 20))
def test_folds_are_contiguous_purged_and_cover_all_but_the_first_block(
    n: int, n_folds: int, purge: int
) -> None:
    try:
        folds = block_folds(n, n_folds, purge)
    except ValueError:
        sizes = [n // n_folds, -(-n // n_folds)]
        assert n < n_folds or n - max(sizes) - purge <= 0 or n - max(sizes) - 2 * purge <= 0
        return
    assert len(folds) == n_folds - 1
    first = int(folds[0][1][0])
    assert first in (n // n_folds, -(-n // n_folds))
    assert np.array_equal(np.concatenate([test for _, test in folds]), np.arange(first, n))
    for train, test in folds:
        assert np.array_equal(test, np.arange(test[0], test[-1] + 1))
        kept_away = np.arange(max(test[0] - purge, 0), min(test[-1] + purge + 1, n))
        assert np.array_equal(np.sort(np.concatenate([train, kept_away])), np.arange(n))
        assert train.size > 0


def test_folds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="3 windows into 5 folds"):
        block_folds(3, 5, 0)
    with pytest.raises(ValueError, match="nothing to train on"):
        block_folds(20, 2, 10)


@pytest.mark.parametrize(("phi", "low", "high"), [(0.0, 0.75, 1.0), (0.5, 0.25, 0.42), (0.9, 0.04, 0.07)])
def test_effective_windows_of_an_autoregression(phi: float, low: float, high: float) -> None:
    """An AR(1) of coefficient phi is worth (1 - phi) / (1 + phi) of its length: 1, .33, .053."""
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(20):
        x = np.zeros(4000)
        noise = rng.normal(size=4000)
        for i in range(1, 4000):
            x[i] = phi * x[i - 1] + noise[i]
        shares.append(effective_windows(x, 1.0) / 4000)
    assert low <= float(np.mean(shares)) <= high


def test_effective_windows_never_exceed_the_span() -> None:
    noise = np.random.default_rng(0).normal(size=340)
    assert effective_windows(noise, 60.0) == pytest.approx(340 / 60)
    assert effective_windows(np.ones(340), 60.0) == pytest.approx(340 / 60)
    assert effective_windows(np.zeros(0), 4.0) == 0.0
    # A trend over the whole recording is one observation or so, whatever its length.
    assert effective_windows(np.linspace(0, 1, 5000), 1.0) < 10
    # Odd lengths as even ones.
    assert effective_windows(noise[:339], 1.0) == pytest.approx(effective_windows(noise, 1.0), rel=0.1)


# --- p-values ---

SHAPES = {
    "few": ar_scores(60, 0.0, 1),
    "gaussian": ar_scores(1500, 0.9, 1),
    "pot": ar_scores(6000, 0.5, 1),
    "constant": np.full(50, 3.0, np.float32),
    "constant pot": np.full(5000, 3.0, np.float32),
    "zero": np.zeros(50, np.float32),
    "zero pot": np.zeros(5000, np.float32),
    "ties": np.repeat(floats(1, 2, 3, 9), [20, 10, 5, 1]),
    "ties pot": np.repeat(floats(1, 2, 3, 9), [3000, 100, 50, 1]),
    "wild": (30.0 ** np.random.default_rng(0).normal(size=4000)).astype(np.float32),
}


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=50)
@given(
    scores=npst.arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 2.0**100, width=32)),
)
def test_p_values_fall_stay_in_range_and_never_reach_zero(name: str, scores: NDArray[np.float32]) -> None:
    calibration = fit_calibration(SHAPES[name], 200.0 if "pot" not in name else 4000.0)
    p = p_values(calibration, np.sort(scores))
    assert p.dtype == np.float64
    assert ((p > 0) & (p <= 1)).all()
    assert (np.diff(p) <= 0).all()
    # Each by itself gives the same, bit for bit.
    assert np.array_equal(p, [p_values(calibration, np.array([s]))[0] for s in np.sort(scores)])


@pytest.mark.parametrize("name", SHAPES)
def test_a_score_and_its_p_value_are_inverse(name: str) -> None:
    calibration = fit_calibration(SHAPES[name], 200.0 if "pot" not in name else 4000.0)
    p = np.exp(np.linspace(math.log(calibration_top(calibration)), math.log(1e-200), 200))
    scores = np.array([score_at(calibration, float(q)) for q in p])
    assert (np.diff(scores) > 0).all()
    np.testing.assert_allclose(np.log(p_values(calibration, scores)), np.log(p), rtol=1e-4, atol=1e-6)
    for bad in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="p must be"):
            score_at(calibration, bad)


def calibration_top(calibration: Calibration) -> float:
    return math.exp(calibration.log_p[0])


def test_far_beyond_anything_seen_is_still_told_apart() -> None:
    calibration = fitted(SHAPES["gaussian"])
    p = p_values(calibration, floats(10, 20, 30))
    assert p[0] > p[1] > p[2] > 0
    assert p_values(calibration, floats(np.inf))[0] > 0


def test_the_body_is_the_empirical_distribution() -> None:
    scores = SHAPES["gaussian"]
    p = p_values(fitted(scores), scores)
    for q in (0.2, 0.5, 0.8):
        assert float(np.mean(p <= q)) == pytest.approx(q, abs=0.01)


def test_too_little_or_broken_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 scores"):
        fit_calibration(np.ones(7, np.float32), 7.0)
    with pytest.raises(ValueError, match="finite"):
        fit_calibration(floats(*[1] * 20, np.nan), 7.0)


def test_the_tail_follows_the_windows_and_what_they_are_worth() -> None:
    scores = ar_scores(3000, 0.5, 3)
    assert fit_calibration(scores[:1999], 1000.0).tail == "log_gaussian"
    assert fit_calibration(scores, 1000.0).tail == "pot"
    assert fit_calibration(scores, 40.0).tail == "log_gaussian"  # heavily overlapping windows
    # Fewer effective windows: more caution.
    levels = [score_at(fit_calibration(scores[:400], n), 1e-4) for n in (400.0, 40.0, 8.0)]
    assert levels == sorted(set(levels))


def exceedance_by_seed(phi: float, n: int, p: float, n_seeds: int = 60) -> NDArray[np.float64]:
    truth = long_run(phi)
    levels = [score_at(fitted(ar_scores(n, phi, seed)), p) for seed in range(n_seeds)]
    return np.array([float(np.mean(truth > level)) for level in levels])


@pytest.mark.parametrize(
    ("phi", "n", "p", "low", "high"),
    [
        (0.0, 400, 1e-2, 0.5e-2, 1.1e-2),
        (0.0, 400, 1e-3, 0.1e-3, 1.1e-3),
        (0.9, 1500, 1e-2, 0.5e-2, 1.1e-2),
        (0.9, 1500, 1e-3, 0.1e-3, 1.1e-3),
        (0.0, 2500, 1e-2, 0.8e-2, 1.3e-2),  # peaks over threshold from here on
        (0.0, 2500, 1e-3, 0.5e-3, 1.3e-3),
        (0.9, 6000, 1e-2, 0.8e-2, 1.3e-2),
        (0.9, 6000, 1e-3, 0.5e-3, 1.5e-3),
    ],
)
def test_a_p_value_is_realised_on_new_data_on_average(
    phi: float, n: int, p: float, low: float, high: float
) -> None:
    assert low <= float(exceedance_by_seed(phi, n, p).mean()) <= high


@pytest.mark.parametrize(("phi", "n"), [(0.0, 400), (0.0, 2500), (0.9, 1500), (0.9, 6000)])
def test_false_alarms_stay_in_the_binomial_interval_of_the_effective_windows(phi: float, n: int) -> None:
    """Level and rate are both known to about sqrt(p (1 - p) / n_effective), so the rate on fresh data of the
    same length lies within three of sqrt(2) times that for all but few seeds."""
    p, n_seeds, n_outside = 0.01, 60, 0
    for seed in range(n_seeds):
        scores = ar_scores(n, phi, seed)
        n_effective = effective_windows(np.log(scores), 1.0)
        fresh = ar_scores(n, phi, 10_000 + seed)
        rate = float(np.mean(p_values(fit_calibration(scores, n_effective), fresh) <= p))
        n_outside += rate > p + 3 * math.sqrt(2 * p * (1 - p) / n_effective) + 1 / n_effective
    assert n_outside <= 2


def test_few_windows_of_a_slow_process_are_off_in_both_directions_as_documented() -> None:
    rates = exceedance_by_seed(0.9, 250, 0.01)
    assert np.quantile(rates, 0.1) < 0.005
    assert 0.01 < np.quantile(rates, 0.95) < 0.06


# --- what a manifest may hold ---


def test_json_round_trip_is_exact() -> None:
    calibration = fitted(SHAPES["pot"], step_ns=7)
    assert codec.decode(codec.encode(calibration), Calibration) == calibration


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"knots": (1.0,), "log_p": (0.0,)}, "two or more"),
        ({"knots": (1.0, 2.0, 3.0)}, "3 knots and 2 log_p"),
        ({"knots": (1.0, 1.0)}, "ascend"),
        ({"knots": (1.0, math.nan)}, "finite"),
        ({"log_p": (-1.0, 0.0)}, "fall"),
        ({"log_p": (0.5, 0.0)}, "at most 0"),
        ({"oof_breaks": (2, 2)}, "oof_breaks"),
        ({"oof_breaks": (0, 2)}, "oof_breaks"),
        ({"oof_breaks": (8,)}, "oof_breaks"),
        ({"n_windows": 9}, "8 scores kept of 9"),
        ({"n_windows": 0, "oof_scores": ""}, "oof_breaks"),
        ({"n_windows": 10**15}, "8 scores kept"),
        ({"oof_scores": "AAA"}, "padding"),
        ({"oof_index": "AAAA"}, "buffer size"),
        ({"oof_scores": pack_floats(np.full(8, np.nan))}, "finite"),
        ({"step_ns": 0}, "step_ns"),
    ],
)
def test_a_broken_table_is_refused_when_it_is_read(change: dict[str, object], text: str) -> None:
    good = {
        "tail": "pot",
        "tail_shape": 0.1,
        "knots": (1.0, 2.0),
        "log_p": (0.0, -1.0),
        "n_windows": 8,
        "n_effective": 8.0,
        "oof_scores": pack_floats(np.ones(8)),
        "oof_breaks": (),
    }
    msgspec.convert(good, Calibration)
    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.convert({**good, **change}, Calibration)


@settings(deadline=None)
@given(
    scores=st.one_of(
        npst.arrays(np.float32, st.integers(8, 60), elements=st.floats(0, 2.0**40, width=32)),
        st.tuples(st.integers(8, 6000), st.integers(0, 99), st.sampled_from([0.0, 1e-6, 0.3, 3.0])).map(
            lambda drawn: np.exp(np.random.default_rng(drawn[1]).normal(size=drawn[0]) * drawn[2])
        ),
    ),
    n_effective=st.sampled_from([5.0, 40.0, 400.0]),
)
def test_a_tail_tells_its_shape(scores: NDArray[np.floating], n_effective: float) -> None:
    calibration = fit_calibration(scores, n_effective)
    found = shape_of(calibration.tail, np.array(calibration.knots), np.array(calibration.log_p))
    assert math.isclose(found, calibration.tail_shape, rel_tol=1e-3, abs_tol=1e-6)
