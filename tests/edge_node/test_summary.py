"""Summaries are the statistics of what they say they are of, however windows were grouped."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.summary import Summariser, Tally, Totals
from models import codec
from models.messages import unpack_floats
from tests.edge_node.plant import T0_S, Plant, S, block, healthy, pieces, plan

K, HOP, SPAN = 5, 10, 1000


def rows(n: int, seed: int = 1, offset: float = 0.0) -> NDArray[np.float32]:
    mixed = np.random.default_rng(seed).normal(size=(n, K)) @ np.random.default_rng(2).normal(size=(K, K))
    return (mixed + offset).astype(np.float32)


def collect(
    features: NDArray[np.float32],
    healthy: NDArray[np.bool_] | None = None,
    cuts: list[int] | None = None,
    *,
    n_reservoir: int = 16,
    restart: bool = False,
) -> Totals:
    """One span of windows, given in pieces."""
    n = len(features)
    start = np.arange(n, dtype=np.int64) * 3 + 1
    score = np.abs(features[:, 0])
    summariser = Summariser(K, 10**6, n_reservoir, "gw/d")
    for a, b in pairwise([0, *sorted({c for c in cuts or [] if 0 < c < n}), n]):
        good = None if healthy is None else healthy[a:b]
        summariser.add(start[a:b], start[a:b] + HOP, features[a:b], score[a:b], good)
        if restart:
            tally = codec.unpack_state(codec.pack_state(summariser.state()), Tally)
            summariser = Summariser(K, 10**6, n_reservoir, "gw/d")
            summariser.restore(tally)
    totals = summariser.close()
    assert totals is not None
    return totals


def test_mean_and_comoment_are_those_of_the_healthy_rows() -> None:
    features = rows(1000, offset=1000.0)
    good = np.arange(1000) % 7 > 0
    totals = collect(features, good)
    exact = features[good].astype(np.float64)
    assert totals.n == good.sum()
    assert totals.mean == pytest.approx(exact.mean(axis=0), rel=1e-12)
    comoment = (exact - exact.mean(axis=0)).T @ (exact - exact.mean(axis=0))
    assert totals.comoment == pytest.approx(comoment[np.triu_indices(K)], rel=1e-9)
    assert totals.excluded == {"anomalous": 143}


def test_extremes_and_quantiles_are_of_all_rows() -> None:
    features = rows(1000)
    totals = collect(features, np.arange(1000) % 7 > 0)
    assert np.array_equal(totals.minimum, features.min(axis=0))
    assert np.array_equal(totals.maximum, features.max(axis=0))
    score = np.abs(features[:, 0]).astype(np.float64)
    assert totals.score_quantiles["q0.5"] == pytest.approx(np.median(score))
    assert totals.score_quantiles["q1"] == score.max()


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 300),
    cuts=st.lists(st.integers(1, 299)),
    bad=st.sampled_from([None, 0, 1, 3]),
    restart=st.booleans(),
)
def test_grouping_and_restarts_do_not_show(n: int, cuts: list[int], bad: int | None, restart: bool) -> None:
    features = rows(n)
    good = None if bad is None else np.arange(n) % 4 >= bad
    whole, parts = collect(features, good), collect(features, good, cuts, restart=restart)
    assert codec.pack_state(parts) == codec.pack_state(whole)


def test_the_reservoir_is_a_uniform_sample() -> None:
    """Of 200 rows 16 are kept; over many spans every place is kept about as often."""
    kept = np.zeros(200)
    for span in range(400):
        summariser = Summariser(1, 10**12, 16, f"gw/{span}")
        start = np.arange(200, dtype=np.int64) * 5 + 1
        place = np.arange(200, dtype=np.float32).reshape(-1, 1)
        summariser.add(start, start + 5, place, place[:, 0], None)
        totals = summariser.close()
        assert totals is not None
        assert totals.reservoir.shape == (16, 1)
        kept[totals.reservoir[:, 0].astype(int)] += 1
    expected = 400 * 16 / 200
    chi2 = float(((kept - expected) ** 2 / expected).sum())
    assert 130 < chi2 < 290  # 199 degrees of freedom: 5 standard deviations
    assert abs(kept[:100].sum() - 3200) < 5 * np.sqrt(400 * 16 * 0.25)


def test_no_reservoir_is_none() -> None:
    assert collect(rows(100), n_reservoir=0).reservoir.shape == (0, K)


def test_an_anomalous_row_is_never_in_the_reservoir() -> None:
    features = rows(60)
    good = np.arange(60) >= 50
    totals = collect(features, good)
    assert sorted(map(bytes, totals.reservoir)) == sorted(map(bytes, features[50:]))


def test_a_span_without_a_scored_window_has_counts_alone() -> None:
    summariser = Summariser(K, SPAN, 16, "gw/d")
    summariser.exclude(np.array([10, 20]), "inactive", 2)
    assert summariser.close_before(1000) is None  # a span owns its end
    totals = summariser.close_before(1001)
    assert totals is not None
    assert (totals.start_ns, totals.end_ns, totals.n) == (0, 1000, 0)
    assert totals.excluded == {"inactive": 2}
    assert totals.minimum.size == 0
    assert not totals.score_quantiles
    assert summariser.close() is None


def test_spans_cover_the_signal_without_overlap() -> None:
    plant = Plant(plan(summary_s=100.0)).play(pieces(block(healthy(1003)), range(0, 1003, 41))).finish()
    spans = [(s.start_ns, s.end_ns) for s in plant.summaries()]
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert spans[0][0] == T0_S * S
    assert spans[-1][1] == (T0_S + 1000) * S
    assert [s.n for s in plant.summaries()] == [17, *[20] * 9]
    assert sum(s.n for s in plant.summaries()) == plant.pipeline.counters().n_windows_scored


def test_what_is_said_can_be_merged_into_what_training_needs() -> None:
    """n, mean and co-moment of parts give those of the whole (Chan, Golub & LeVeque)."""
    plant = Plant(plan(summary_s=100.0)).play([block(healthy(1000))]).finish()
    features = np.concatenate(plant.features).astype(np.float64)
    n, mean, comoment = 0, np.zeros(10), np.zeros((10, 10))
    for summary in plant.summaries():
        part, delta = np.array(summary.mean), np.array(summary.mean) - mean
        upper = np.zeros((10, 10))
        upper[np.triu_indices(10)] = summary.comoment
        total = n + summary.n
        comoment += upper + np.triu(upper, 1).T + np.outer(delta, delta) * (n * summary.n / total)
        mean += delta * summary.n / total
        n = total
        assert part.size == len(summary.feature_names)
    assert n == len(features)
    assert mean == pytest.approx(features.mean(axis=0), rel=1e-12)
    assert comoment / (n - 1) == pytest.approx(np.cov(features.T), rel=1e-8, abs=1e-14)


def test_feature_rows_leave_only_where_privacy_allows() -> None:
    items = [block(healthy(1000))]
    open_plan = Plant(plan(n_reservoir=4)).play(items).finish().summaries()[0]
    assert open_plan.reservoir is not None
    assert unpack_floats(open_plan.reservoir, (-1, 10)).shape == (4, 10)
    private = Plant(plan(privacy="statistics")).play(items).finish().summaries()[0]
    assert private.reservoir is None
    assert private.mean == open_plan.mean


def test_anomalous_windows_are_counted_and_left_out() -> None:
    values = healthy(600)
    values[200:300, 0] *= 1.3
    (summary,) = Plant(plan()).play([block(values)]).finish().summaries()
    assert summary.n + summary.excluded["anomalous"] == 117
    assert summary.excluded["anomalous"] >= 24
    assert summary.mean[0] < 3.01
    assert summary.maximum[0] > 3.8
