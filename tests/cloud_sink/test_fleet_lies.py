"""What one gateway can do to the model of a fleet, whatever it says: little."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloud_sink.fleet import MAX_LABEL_OFF, MAX_LABEL_SHARE, Fleet, gathered, widened
from cloud_sink.fleet_bounds import MAX_OFF, MAX_WIDER
from cloud_sink.summaries import SummaryTable
from models.messages import Summary
from tests.cloud_sink.gateways import K
from tests.cloud_sink.test_fleet import fleet_of, rows_of, summed

HONEST, _ = fleet_of()


def with_lies(*lies: Summary) -> Fleet:
    return gathered(SummaryTable.of([*HONEST, *lies]))


def spread_of(fleet: Fleet) -> NDArray[np.float64]:
    return np.sqrt(np.diag(fleet.total.covariance))


TRUE = gathered(SummaryTable.of(HONEST))


def share_of(fleet: Fleet, gateway: str) -> float:
    own = sum(m.n for (g, _), m in zip(fleet.devices, fleet.weighed, strict=True) if g == f"s1/{gateway}")
    return own / fleet.total.n


def test_invented_devices_have_one_vote() -> None:
    lies = [summed(rows_of(50, seed=i, centre=40.0), gateway="evil", device=f"e{i}") for i in range(10)]
    fleet = with_lies(*lies)
    assert {s.gateway for s in fleet.screened} == {"s1/evil"}
    assert len(fleet.screened) == 10
    assert np.allclose(fleet.total.mean, TRUE.total.mean, atol=1e-9)


@pytest.mark.parametrize("how", ["mean", "spread"])
def test_one_feature_of_many_is_no_way_in(how: str) -> None:
    rows = rows_of(50, seed=5)
    rows[:, 2] = rows[:, 2] + 1e9 if how == "mean" else rows[:, 2] * 1e6
    fleet = with_lies(summed(rows, keep=0, gateway="evil", device="d9"))
    assert fleet.screened == ()  # most of it looks as it should
    weight = share_of(fleet, "evil")
    room = MAX_OFF * 1.2 * spread_of(TRUE)
    assert (np.abs(fleet.total.mean - TRUE.total.mean) <= weight * room).all()
    assert (spread_of(fleet) <= spread_of(TRUE) * np.sqrt(1 + weight * (MAX_OFF**2 + MAX_WIDER**2))).all()


def test_windows_that_nobody_has_seen_count_for_little() -> None:
    boast = summed(rows_of(50, seed=77), 9, gateway="g0", device="d0")
    boast = msgspec.structs.replace(boast, n=10**12, comoment=[c * 2e10 for c in boast.comoment])
    fleet = with_lies(boast)
    assert fleet.n_windows == round(fleet.total.n) <= TRUE.n_windows * 4 / 3


def test_rows_of_one_gateway_are_few_among_all() -> None:
    many = [summed(rows_of(50, seed=i), i, keep=50, gateway="evil", device="d9") for i in range(40)]
    fleet = with_lies(*many)
    (of_evil,) = [i for i, (g, _) in enumerate(fleet.devices) if g == "s1/evil"]
    assert 0 < (fleet.row_device == of_evil).sum() <= 0.25 * len(fleet.rows)


def test_the_rows_of_the_only_gateway_that_sends_some_are_used() -> None:
    silent = [msgspec.structs.replace(s, reservoir=None) for s in HONEST if s.gateway != "g0"]
    own = [s for s in HONEST if s.gateway == "g0"]
    assert len(gathered(SummaryTable.of([*silent, *own])).rows) == 4 * 8
    assert len(gathered(SummaryTable.of(silent)).rows) == 0


def test_rows_are_bounded_as_the_moments_are() -> None:
    rows = rows_of(50, seed=5)
    rows[:, 2] *= 1e7
    fleet = with_lies(*[summed(rows, i, keep=50, gateway="evil", device="d9") for i in range(4)])
    assert fleet.screened == ()
    reach = (MAX_OFF * 1.2 + 8.5 * MAX_WIDER * 1.2) * spread_of(TRUE)
    assert (np.abs(fleet.rows - TRUE.total.mean) <= reach).all()
    honest = fleet.row_device != [g for g, _ in fleet.devices].index("s1/evil")
    assert np.isin(fleet.rows[honest], TRUE.rows).all()  # those of the others are as they came


def test_an_id_of_another_gateway_hides_nothing() -> None:
    thief = summed(rows_of(50, seed=5), 0, gateway="evil", device="d9")
    thief = msgspec.structs.replace(thief, message_id=HONEST[0].message_id, start_ns=0)
    table = SummaryTable.of([thief, *HONEST, HONEST[0]]).distinct()
    assert len(table) == len(HONEST) + 1
    assert set(table.gateway) == {"evil", *(s.gateway for s in HONEST)}


def test_who_has_just_begun_makes_little_of_nobody() -> None:
    new = [summed(rows_of(10, seed=i), keep=4, gateway=f"new{i}", device="d") for i in range(4)]
    for n_new in (1, 2, 4):
        fleet = with_lies(*new[:n_new])
        assert fleet.total.n == pytest.approx(TRUE.total.n + 10 * n_new)
    three, _ = fleet_of(n_gateways=3)
    assert gathered(SummaryTable.of([*three, new[0]])).total.n == pytest.approx(3 * 200 + 10)


def test_a_label_widens_as_far_as_eight_deviations() -> None:
    row = np.full((1, K), 1e9, np.float32)
    wide = widened(TRUE, {("s1/g0", "d0"): row})
    most = MAX_LABEL_OFF * spread_of(TRUE) / TRUE.total.n
    assert (np.abs(wide.total.mean - TRUE.total.mean) <= most * 1.01).all()
    assert (np.abs(wide.rows - TRUE.total.mean) <= (MAX_LABEL_OFF + 1) * spread_of(TRUE)).all()


@pytest.mark.parametrize("n_gateways", [1, 3, 6])
def test_one_gateway_does_not_label_for_all(n_gateways: int) -> None:
    """It calls a thousand rows false alarms where the others, if they say anything, say ten."""
    rows = rows_of(1000, seed=6, centre=30.0).astype(np.float32)
    said = {(f"s1/g{g}", f"d{g}"): rows if g == 0 else rows[:10] for g in range(n_gateways)}
    wide = widened(TRUE, said)
    own = [w.n - t.n for w, t in zip(wide.weighed, TRUE.weighed, strict=True)]
    room = MAX_LABEL_SHARE / (1 - MAX_LABEL_SHARE) * TRUE.total.n
    assert own[0] == pytest.approx(room / max(4, n_gateways))
    assert own[1:n_gateways] == pytest.approx([10.0] * (n_gateways - 1))
    assert sum(own) == pytest.approx(wide.total.n - TRUE.total.n)
    extra = wide.row_device[len(TRUE.rows) :]
    assert 0 < (extra == 0).sum() <= MAX_LABEL_SHARE * len(wide.rows) / 4
    assert len(wide.rows) == len(wide.row_device) == len(wide.row_ns)


def test_all_labels_together_are_a_twentieth() -> None:
    said = {
        name: rows_of(5000, seed=i, centre=30.0).astype(np.float32) for i, name in enumerate(TRUE.devices)
    }
    wide = widened(TRUE, said)
    assert wide.total.n - TRUE.total.n == pytest.approx(MAX_LABEL_SHARE * wide.total.n)
    assert len(wide.rows) - len(TRUE.rows) <= MAX_LABEL_SHARE * len(wide.rows)


def test_labels_of_a_device_that_is_not_there_say_nothing() -> None:
    rows = rows_of(50, seed=6, centre=30.0).astype(np.float32)
    for said in ({}, {("s1/evil", "d9"): rows}, {("s1/g0", "d0"): rows[:0]}):
        wide = widened(TRUE, said)
        assert np.array_equal(wide.total.comoment, TRUE.total.comoment)
        assert np.array_equal(wide.rows, TRUE.rows)


def together_rows(n: int, seed: int, apart: float = 0.05) -> NDArray[np.float64]:
    """Features that are all but one and the same."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, 1)) + apart * generator.normal(size=(n, K))


CLOSE = [
    summed(together_rows(50, 100 * g + i), i, gateway=f"g{g}", device=f"d{g}")
    for g in range(6)
    for i in range(4)
]
CLOSE_FLEET = gathered(SummaryTable.of(CLOSE))


def against(fleet: Fleet, true: Fleet) -> tuple[float, float]:
    """How many times wider it is in the direction where that is most, and how far its mean is off, in deviations."""
    root = np.linalg.inv(np.linalg.cholesky(true.total.covariance))
    wider = np.linalg.eigvalsh(root @ fleet.total.covariance @ root.T).max() ** 0.5
    return float(wider), float(np.linalg.norm(root @ (fleet.total.mean - true.total.mean)))


@pytest.mark.parametrize("n_devices", [1, 8])
@pytest.mark.parametrize("how", ["apart", "off"])
def test_one_that_denies_that_features_hang_together_changes_little(how: str, n_devices: int) -> None:
    """Every feature by itself is as it should be: bounded by features alone, the model became 30 times as wide."""
    lies = []
    for i in range(n_devices):
        rows = together_rows(200, 900 + i)
        if how == "apart":
            rows = np.random.default_rng(i).normal(size=(200, K))
        else:
            rows[:, :2] += (2.5, -2.5)
        lies.append(summed(rows, i, keep=50, gateway="evil", device=f"e{i}"))
    fleet = gathered(SummaryTable.of([*CLOSE, *lies]))
    assert fleet.screened == ()
    assert share_of(fleet, "evil") > 0.1
    wider, off = against(fleet, CLOSE_FLEET)
    assert wider < 3.5
    assert off < 2.0  # it was up to 17
    assert np.allclose(fleet.spread, CLOSE_FLEET.spread, rtol=0.15)
    evil = np.array([g == "s1/evil" for g, _ in fleet.devices])[fleet.row_device]
    root = np.linalg.inv(np.linalg.cholesky(CLOSE_FLEET.total.covariance))
    spread = (fleet.rows[evil] - fleet.total.mean) @ root.T
    assert evil.any()
    assert spread.std(axis=0).max() < 6.0  # it was up to 24
    assert np.isin(fleet.rows[~evil], CLOSE_FLEET.rows).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 20.0), st.floats(-20.0, 20.0), st.floats(1.0, 10_000.0))
def test_no_direction_of_one_gateway_is_far_or_wide(seed: int, wide: float, shift: float, n: float) -> None:
    generator = np.random.default_rng(seed)
    rows = wide * generator.normal(size=(100, K)) @ generator.normal(size=(K, K)) + shift * generator.normal(
        size=K
    )
    lie = summed(rows, keep=0, gateway="evil", device="d9")
    lie = msgspec.structs.replace(
        lie, n=round(100 * n), comoment=[c * round(100 * n) / 100 for c in lie.comoment]
    )
    wider, off = against(gathered(SummaryTable.of([*CLOSE, lie])), CLOSE_FLEET)
    assert wider < 4.5
    assert off < 2.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(40, 200))
def test_devices_that_are_alike_are_as_they_are(seed: int, n_devices: int, n: int) -> None:
    said = [summed(together_rows(n, seed + i), gateway=f"g{i}", device="d") for i in range(n_devices)]
    for own, weighed in zip(
        (fleet := gathered(SummaryTable.of(said))).devices.values(), fleet.weighed, strict=True
    ):
        assert np.array_equal(own.mean, weighed.mean)
        assert np.array_equal(own.comoment, weighed.comoment)


Lie = st.tuples(
    st.lists(st.floats(-1e6, 1e6), min_size=K, max_size=K),
    st.lists(st.floats(-6, 6), min_size=K, max_size=K),
    st.integers(1, 10**15),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(Lie, min_size=1, max_size=4))
def test_whatever_one_gateway_of_seven_says_a_centre_moves_by_less_than_a_spread(lies: list[Any]) -> None:
    """A quarter of MAX_OFF deviations is what it can do at most; variances grow by no more than that allows."""
    said = []
    for i, (off, log_wide, n) in enumerate(lies):
        rows = rows_of(40, seed=i) * 10.0 ** np.array(log_wide) + np.array(off)
        one = summed(rows, keep=0, gateway="evil", device=f"e{i}")
        said.append(msgspec.structs.replace(one, n=n, comoment=[c * n / 40 for c in one.comoment]))
    fleet = with_lies(*said)
    assert share_of(fleet, "evil") <= 0.25 + 1e-9
    spread = spread_of(TRUE)
    assert (np.abs(fleet.total.mean - TRUE.total.mean) < spread).all()
    variance = np.linalg.eigvalsh(fleet.total.covariance / np.outer(spread, spread))
    honest = np.linalg.eigvalsh(TRUE.total.covariance / np.outer(spread, spread))
    assert variance.max() < honest.max() + 0.25 * K * (MAX_WIDER**2 + 1.2 * MAX_OFF**2)
    assert variance.min() > 0.5 * honest.min()
