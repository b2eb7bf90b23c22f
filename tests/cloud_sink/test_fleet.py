"""From summaries to a fleet: exact merging, bounded influence, whom to believe."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.covariance import OAS

from cloud_sink.fleet import borrowed, gathered
from cloud_sink.fleet_fit import fit_moments
from cloud_sink.moments import Moments, merged_by, oas, together
from cloud_sink.summaries import SummaryTable
from cloud_sink.train import FAMILIES
from models.messages import Summary, pack_floats
from tests.cloud_sink.gateways import NAMES, K, summary

RNG = np.random.default_rng(3)
MIX = RNG.normal(size=(K, K)) / 2 + np.eye(K)


def rows_of(n: int, seed: int, centre: float = 0.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, K)) @ MIX + centre


def summed(rows: NDArray[np.float64], i: int = 0, *, keep: int = 8, **more: Any) -> Summary:
    mean = rows.mean(axis=0)
    centred = rows - mean
    return msgspec.structs.replace(
        summary(i),
        message_id=f"{more.get('gateway', 'g1')}-{more.get('device', 'd1')}-{i}",
        n=len(rows),
        mean=mean.tolist(),
        comoment=(centred.T @ centred)[np.triu_indices(K)].tolist(),
        reservoir=pack_floats(rows[:keep]),
        **more,
    )


def fleet_of(n_gateways: int = 6, n_spans: int = 4, n: int = 50) -> tuple[list[Summary], NDArray[np.float64]]:
    """As many gateways with one device each, all alike, and all of their rows."""
    found, everything = [], []
    for g in range(n_gateways):
        for i in range(n_spans):
            rows = rows_of(n, seed=100 * g + i, centre=0.01 * g)
            found.append(summed(rows, i, gateway=f"g{g}", device=f"d{g}"))
            everything.append(rows)
    return found, np.concatenate(everything)


def of_rows(rows: NDArray[np.float64]) -> Moments:
    mean = rows.mean(axis=0)
    return Moments(len(rows), mean, (rows - mean).T @ (rows - mean))


def test_merging_summaries_is_looking_at_all_rows() -> None:
    summaries, rows = fleet_of()
    fleet = gathered(SummaryTable.of(summaries))
    whole = of_rows(rows)
    assert fleet.n_windows == len(rows) == round(fleet.total.n)
    assert np.allclose(fleet.total.mean, whole.mean, rtol=1e-12, atol=1e-12)
    assert np.allclose(fleet.total.comoment, whole.comoment, rtol=1e-11)
    assert len(fleet.devices) == fleet.n_gateways == 6
    alone = [np.corrcoef(r.T) for r in rows.reshape(6, -1, K)]
    assert np.allclose(fleet.correlation, np.mean(alone, axis=0), rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 10_000))
def test_devices_are_merged_all_at_once_as_each_by_itself(groups: list[int], seed: int) -> None:
    of = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    parts = [of_rows(rows_of(3 + i, seed + i, centre=float(i))) for i in range(len(of))]
    n, mean = np.array([float(p.n) for p in parts]), np.array([p.mean for p in parts])
    upper = np.array([p.comoment[np.triu_indices(K)] for p in parts])
    for i, one in enumerate(merged_by(of, n, mean, upper)):
        alone = together([p for p, j in zip(parts, of, strict=True) if j == i])
        assert one.n == alone.n
        assert np.allclose(one.mean, alone.mean, rtol=1e-12)
        assert np.allclose(one.comoment, alone.comoment, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", ["mahalanobis", "linear-ae"])
def test_a_linear_model_of_summaries_is_that_of_all_rows(family: Any) -> None:
    summaries, rows = fleet_of()
    fleet = gathered(SummaryTable.of(summaries))
    least = np.full(K, 1e-9)
    ours = fit_moments(family, fleet.total, fleet.rows, least)
    theirs = fit_moments(family, of_rows(rows), rows.astype(np.float32), least)
    assert np.allclose(ours.centre, theirs.centre, rtol=1e-9, atol=1e-12)
    assert np.allclose(ours.scale, theirs.scale, rtol=1e-9)
    probe = rows_of(200, seed=9, centre=3.0).astype(np.float32)
    scores = [b.fitted.scores(((probe - b.centre) / b.scale).astype(np.float32)) for b in (ours, theirs)]
    assert np.allclose(scores[0], scores[1], rtol=1e-5)  # the layers are float32
    assert np.allclose(ours.fitted.residual_scale, theirs.fitted.residual_scale, rtol=1e-9)
    assert ours.fitted.output_kind == FAMILIES[family].output_kind


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(8, 400), st.integers(2, 12))
def test_shrinkage_needs_no_rows(seed: int, n: int, k: int) -> None:
    """Chen et al. 2010, as scikit-learn has it of the rows; to 1e-9."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(n, k)) @ generator.normal(size=(k, k))
    wanted = OAS().fit(rows)
    shrunk, amount = oas(of_rows(rows).covariance, n)
    assert amount == pytest.approx(wanted.shrinkage_, rel=1e-9)
    assert np.allclose(shrunk, wanted.covariance_, rtol=1e-9, atol=1e-12)


def test_one_gateway_weighs_a_quarter_however_much_it_claims() -> None:
    summaries, _ = fleet_of()
    honest = gathered(SummaryTable.of(summaries)).total
    boast = summed(rows_of(50, seed=77), 9, gateway="g0", device="d0")
    boast = msgspec.structs.replace(boast, n=10**12, comoment=[c * 2e10 for c in boast.comoment])
    fleet = gathered(SummaryTable.of([*summaries, boast]))
    mine = sum(m.n for (g, _), m in zip(fleet.devices, fleet.weighed, strict=True) if g == "s1/g0")
    assert mine <= 0.25 * fleet.total.n * (1 + 1e-9)
    spread = np.sqrt(np.diag(honest.covariance))
    assert (np.abs(fleet.total.mean - honest.mean) < 0.1 * spread).all()


def test_two_gateways_weigh_the_same() -> None:
    few = [
        summed(rows_of(20, seed=1), gateway="a", device="d"),
        summed(rows_of(2000, seed=2), gateway="b", device="d"),
    ]
    fleet = gathered(SummaryTable.of(few))
    assert [m.n for m in fleet.weighed] == pytest.approx([20, 20])


@pytest.mark.parametrize("how", ["far", "wide", "narrow", "huge"])
def test_a_poisoned_gateway_is_left_out_and_named(how: str) -> None:
    summaries, rows = fleet_of()
    poison = {
        "far": rows_of(50, seed=5, centre=40.0),
        "wide": rows_of(50, seed=5) * 100.0,
        "narrow": rows_of(50, seed=5) * 1e-4,
        "huge": np.full((50, K), 1e150) * RNG.normal(size=(50, K)),
    }[how]
    bad = summed(
        np.clip(poison, -3e38, 3e38) if how != "huge" else poison, 3, keep=0, gateway="evil", device="d9"
    )
    fleet = gathered(SummaryTable.of([*summaries, bad]))
    (left_out,) = fleet.screened
    assert (left_out.gateway, left_out.device) == ("s1/evil", "d9")
    assert ("spreads" in left_out.text) == (how == "narrow")
    assert np.allclose(fleet.total.mean, of_rows(rows).mean, atol=1e-9)
    assert len(fleet.rows) == 6 * 4 * 8


def test_a_poisoned_reservoir_is_no_more_than_its_share() -> None:
    summaries, _ = fleet_of()
    many = [summed(rows_of(50, seed=i), i, keep=50, gateway="g0", device="d0") for i in range(40)]
    fleet = gathered(SummaryTable.of([*summaries, *many]), max_rows=600)
    of_g0 = [i for i, (g, _) in enumerate(fleet.devices) if g == "s1/g0"]
    assert np.isin(fleet.row_device, of_g0).sum() <= 600 // 6
    for i, (_, device) in enumerate(fleet.devices):
        assert (fleet.row_device == i).any(), device


def test_of_few_devices_nobody_can_tell_which_is_odd() -> None:
    summaries, _ = fleet_of(n_gateways=3)
    bad = summed(rows_of(50, seed=5, centre=40.0), gateway="evil", device="d9")
    assert gathered(SummaryTable.of([*summaries, bad])).screened == ()
    halves = [
        summed(rows_of(50, seed=g, centre=40.0 * (g % 2)), gateway=f"h{g}", device="d") for g in range(8)
    ]
    assert gathered(SummaryTable.of(halves)).screened == ()  # two kinds of machines, neither of them odd


def test_a_device_with_little_history_keeps_its_centre_and_spread_and_borrows_the_rest() -> None:
    summaries, rows = fleet_of()
    wild = summed(rows_of(50, seed=5) * 30.0, gateway="wild", device="d")  # it moves more, and knows no more
    fleet = gathered(SummaryTable.of([*summaries, wild]), screen=False)
    own = of_rows(rows_of(12, seed=55, centre=2.0))
    lent = borrowed(own, fleet, worth=200.0)
    assert np.array_equal(lent.mean, own.mean)
    low, high = np.minimum(own.spread, fleet.spread), np.maximum(own.spread, fleet.spread)
    assert ((lent.spread >= low * (1 - 1e-9)) & (lent.spread <= high * (1 + 1e-9))).all()
    assert (fleet.spread < 3 * of_rows(rows).spread).all()  # the median device's, whatever the wild one does
    true = of_rows(rows_of(100_000, seed=1)).correlation
    assert np.linalg.norm(lent.correlation - true) < 0.5 * np.linalg.norm(own.correlation - true)
    much = borrowed(of_rows(rows), fleet, worth=200.0)
    assert np.allclose(much.covariance, of_rows(rows).covariance, rtol=0.1, atol=0.05)
    still = of_rows(np.concatenate([np.ones((20, 1)), rows_of(20, seed=3)[:, 1:]], axis=1))
    assert np.isfinite(borrowed(still, fleet, worth=50.0).covariance).all()


def test_spans_without_a_healthy_window_say_nothing() -> None:
    summaries, _ = fleet_of()
    nothing = msgspec.structs.replace(
        summaries[0], message_id="x", n=0, comoment=[0.0] * len(summaries[0].comoment), reservoir=None
    )
    both = gathered(SummaryTable.of([*summaries, nothing]))
    assert np.array_equal(both.total.mean, gathered(SummaryTable.of(summaries)).total.mean)
    with pytest.raises(ValueError, match="no summary"):
        gathered(SummaryTable.of([nothing]))
    assert len(NAMES) == K
    assert together([both.total]).n == both.total.n
