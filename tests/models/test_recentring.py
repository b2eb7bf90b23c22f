"""Re-centring: follows drift, never hides a lasting fault, and does not care how its rows arrive."""

from __future__ import annotations

import csv
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from models import codec
from models.features import FeatureSpec, describe, extract, min_scales
from models.recentring import Recentring, RecentringSpec, RecentringState
from models.signal import Channel
from tests.data import data_path

SPEC = RecentringSpec()


def one(spec: RecentringSpec = SPEC, recentred: bool = True) -> Recentring:
    """One feature, commissioned at 10 with a healthy spread of 2."""
    return Recentring(spec, np.array([10.0]), np.array([2.0]), np.array([recentred]))


def rows(sigmas: NDArray[np.float64]) -> NDArray[np.float32]:
    """Features of :func:`one` that lie this many sigma from the commissioned centre."""
    return (10.0 + 2.0 * sigmas).astype(np.float32).reshape(-1, 1)


def noise(n: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=n)


@pytest.mark.parametrize("step", [4.0, -4.0, 5.0, 12.0, -100.0])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("tau", [60.0, 600.0])
def test_a_lasting_step_is_never_silently_normal(step: float, noisy: bool, tau: float) -> None:
    """At every window either what the score sees stays 3 sigma off, or the step has become a named drift."""
    recentring = one(RecentringSpec(tau_windows=tau))
    healthy, faulty = 2000, 12_000
    sigmas = np.r_[np.zeros(healthy), np.full(faulty, step)] + noisy * noise(healthy + faulty)
    features = rows(sigmas)
    moved, drifted = recentring.apply(features)
    centre_shift = (features - moved)[:, 0] / 2.0
    seen = np.abs(step - centre_shift[healthy:])
    named = drifted[healthy:, 0] == np.sign(step)  # and on no other side
    assert (named | (drifted[healthy:, 0] == 0)).all()
    assert not drifted[:healthy].any()
    assert (named | (seen >= 3.0)).all()
    assert named[int(tau) :].all()
    assert np.abs(centre_shift).max() <= 3.0 + 1e-6


def test_a_crawling_fault_becomes_a_named_drift_too() -> None:
    features = rows(np.linspace(0.0, 6.0, 60_000) + noise(60_000))
    moved, drifted = one().apply(features)
    shift = ((features - moved) / 2.0)[:, 0]
    assert shift.max() <= 3.0 + 1e-6
    first = int(np.argmax(drifted[:, 0]))
    assert 28_000 < first < 36_000  # 3 sigma is passed at row 30,000
    assert drifted[first:].all()


def test_slow_drift_within_the_bound_is_followed() -> None:
    level = 2.0 * np.sin(np.linspace(0.0, 2 * np.pi, 20_000))
    features = rows(level + noise(20_000))
    moved, drifted = one().apply(features)
    residual_level = level - ((features - moved) / 2.0)[:, 0]
    assert np.abs(residual_level[1000:]).max() < 0.75
    assert not drifted.any()


def test_outliers_are_not_drift_and_hardly_move_the_centre() -> None:
    sigmas = noise(20_000)
    sigmas[::10] = 1000.0
    recentring = one()
    _, drifted = recentring.apply(rows(sigmas))
    assert not drifted.any()
    assert abs(recentring.moving_centre[0] - 10.0) < 2.0 * 0.25


def test_a_fault_of_both_signs_is_no_drift() -> None:
    _, drifted = one().apply(rows(np.tile([8.0, -8.0], 5000)))
    assert not drifted.any()


def test_a_drift_that_goes_away_ends() -> None:
    recentring = one()
    _, drifted = recentring.apply(rows(np.r_[np.full(3000, 4.0), np.zeros(3000)] + noise(6000)))
    assert drifted[2999, 0]
    assert not drifted[-1, 0]
    assert abs(recentring.moving_centre[0] - 10.0) < 0.5


@pytest.mark.parametrize("channel", [Channel(name="v", unit="mm/s"), Channel(name="v", wear=True)])
def test_wear_indicators_are_never_recentred(channel: Channel) -> None:
    spec = FeatureSpec(set="slow")
    channels = [channel, Channel(name="temperature", unit="degC")]
    infos = describe(spec, channels, Fraction(1), 60)
    recentred = np.array([i.recentred for i in infos])
    k = len(infos)
    recentring = Recentring(SPEC, np.zeros(k), np.ones(k), recentred)
    features = np.full((20_000, k), 2.5, dtype=np.float32)
    moved, drifted = recentring.apply(features)
    wear = np.array([i.channel == "v" for i in infos])
    assert moved[:, wear].tobytes() == features[:, wear].tobytes()
    assert not drifted[:, wear].any()
    assert (recentring.moving_centre[wear] == 0).all()
    assert (np.abs(moved[-1, ~wear]) < 0.01).all()  # the others were: the test would see it


def test_every_vibration_feature_is_a_wear_indicator() -> None:
    infos = describe(FeatureSpec(set="vibration"), [Channel(name="x")], Fraction(1000), 1024)
    recentring = Recentring(SPEC, np.zeros(12), np.ones(12), np.array([i.recentred for i in infos]))
    features = np.ones((5000, 12), dtype=np.float32)
    assert recentring.apply(features)[0].tobytes() == features.tobytes()


matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 60), st.just(3)),
    elements=st.one_of(
        st.floats(-20, 20, width=32),
        st.sampled_from([np.nan, np.inf, -np.inf, 2.0**127, -(2.0**127), 2.0**-126]),
    ),
)


def three(spec: RecentringSpec) -> Recentring:
    return Recentring(
        spec,
        np.array([0.0, 1.0, -5.0]),
        np.array([1.0, 0.1, 3.0]),
        np.array([True, True, False]),
        np.array([0.5, 1.0, 9.0]),
    )


@settings(max_examples=200, deadline=None)
@given(features=matrices, cuts=st.lists(st.integers(0, 60)), tau=st.sampled_from([1.0, 7.0, 600.0]))
def test_how_rows_are_split_over_calls_and_restarts_does_not_show(
    features: NDArray[np.float32], cuts: list[int], tau: float
) -> None:
    spec = RecentringSpec(tau_windows=tau)
    whole = three(spec)
    moved, drifted = whole.apply(features)
    parts, flags, recentring = [], [], three(spec)
    for part in np.split(features, sorted(min(c, len(features)) for c in cuts)):
        got, flag = recentring.apply(part)
        parts.append(got)
        flags.append(flag)
        restored = three(spec)
        restored.restore(codec.decode(codec.encode(recentring.state()), RecentringState))
        recentring = restored
    assert np.concatenate(parts).tobytes() == moved.tobytes()
    assert np.concatenate(flags).tobytes() == drifted.tobytes()
    assert recentring.state() == whole.state()


@settings(max_examples=200, deadline=None)
@given(features=matrices)
def test_the_centre_stays_finite_and_within_the_bound(features: NDArray[np.float32]) -> None:
    recentring = three(RecentringSpec(tau_windows=1))
    moved, _ = recentring.apply(features)
    shift = np.abs(recentring.moving_centre - [0.0, 1.0, -5.0])
    assert (shift <= np.array([3.0, 0.3, 0.0]) * (1 + 1e-12)).all()
    assert moved.dtype == np.float32
    assert np.isfinite(moved[np.isfinite(features)]).all()


def test_what_is_not_finite_moves_nothing() -> None:
    recentring = one()
    recentring.apply(rows(np.full(10, 0.7)))
    before = recentring.state()
    recentring.apply(np.array([[np.nan], [np.inf], [-np.inf]], dtype=np.float32))
    assert recentring.state() == before


def test_a_row_is_recentred_by_what_came_before_it() -> None:
    moved, _ = one().apply(rows(np.array([1.0, 1.0])))
    rate = 1 - np.exp(-1 / 600)
    np.testing.assert_allclose(moved[:, 0], [12.0, 12.0 - 2.0 * rate], rtol=1e-7)


def test_the_start_is_pulled_to_the_bound() -> None:
    recentring = Recentring(SPEC, np.array([0.0]), np.array([1.0]), np.array([True]), np.array([99.0]))
    assert recentring.moving_centre.tolist() == [3.0]


def test_numbers_that_make_no_sense_are_refused() -> None:
    good, flag = np.array([1.0]), np.array([True])
    with pytest.raises(ValueError, match="equally long"):
        Recentring(SPEC, good, np.array([1.0, 2.0]), flag)
    with pytest.raises(ValueError, match="finite"):
        Recentring(SPEC, np.array([np.nan]), good, flag)
    with pytest.raises(ValueError, match="negative"):
        Recentring(SPEC, good, -good, flag)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        one().apply(np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="of 2 features, expected 1"):
        one().restore(RecentringState(offset=(0.0, 0.0), beyond=(0.0, 0.0), drifted=(False, False)))
    with pytest.raises(msgspec.ValidationError, match="tau_windows"):
        codec.convert({"tau_windows": 0.0}, RecentringSpec)


def test_thermal_drift_of_a_real_recording_is_taken_out() -> None:
    """SKAB's anomaly-free recording: how far the mean temperature stands from what it was commissioned at."""
    path = data_path("skab", "data", "anomaly-free", "anomaly-free.csv")
    with path.open() as file:
        table = list(csv.reader(file, delimiter=";"))
    names = table[0][1:9]
    values = np.array([row[1:9] for row in table[1:]], dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(values, 60, axis=0).transpose(0, 2, 1)
    spec, channels = FeatureSpec(set="slow"), [Channel(name=n) for n in names]
    features = extract(spec, windows, np.ones(windows.shape, dtype=bool), Fraction(1))
    infos = describe(spec, channels, Fraction(1), 60)
    n_train = 3000
    centre = features[:n_train].astype(np.float64).mean(axis=0)
    scale = np.maximum(features[:n_train].astype(np.float64).std(axis=0), min_scales(spec, 8, 60))
    recentring = Recentring(SPEC, centre, scale, np.array([i.recentred for i in infos]))
    moved, _ = recentring.apply(features)
    before, after = (np.abs((f[n_train:] - centre) / scale).mean(axis=0) for f in (features, moved))
    means = np.array([i.kind == "mean" and not i.fast for i in infos])
    assert after[means].mean() < 0.7 * before[means].mean()
