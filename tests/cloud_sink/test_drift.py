"""What has drifted, told from summaries: on what stands still nothing is told, a change is, whoever reads in what pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.drift import A_DAY, NAMES, SPAN_S, K, summaries
from cloud_sink import drift_alerts
from cloud_sink.drift import MIN_INDEX, N_BINS, PER_POINT, Watch, gaussian_index, independent, stability_index
from cloud_sink.features_store import FeatureStore
from cloud_sink.findings import Drift, Finding
from cloud_sink.looks import look
from cloud_sink.summaries import SummaryTable
from models.messages import Alert
from models.signal import NS_PER_S
from tests.edge_node.versions import good

DAYS = 14
HOUR_NS = 3600 * NS_PER_S


def step(at_day: float, size: float) -> Any:
    return np.where(np.arange(DAYS * A_DAY) >= at_day * A_DAY, size, 0.0)


def watched(table: SummaryTable, pieces: int = 1) -> Watch:
    watch = Watch("m", NAMES)
    for part in np.array_split(np.arange(len(table)), pieces):
        watch.add(table.take(part))
    return watch


@pytest.mark.parametrize("reservoir", [True, False])
def test_what_stands_still_has_not_drifted(reservoir: bool) -> None:
    drift = watched(summaries(12, DAYS * A_DAY, seed=3, reservoir=reservoir)).drift()
    assert (drift.n_devices, drift.n_judged) == (12, 12)
    assert drift.findings == ()
    assert drift.fleet is None


@pytest.mark.parametrize("what", ["scores", "features"])
def test_a_step_is_told_with_what_and_since_when(what: str) -> None:
    more: dict[str, Any] = {"score" if what == "scores" else "feature": step(8, 4.0)}
    drift = watched(summaries(3, DAYS * A_DAY, seed=4, **more)).drift()
    found = [f for f in drift.findings if f.what == what]
    assert {f.device for f in found} == {"d0", "d1", "d2"}
    assert not [f for f in drift.findings if f.what != what]
    assert drift.fleet is not None
    assert "3 of 3 devices have drifted" in drift.fleet
    if what == "scores":
        at_ns = 8 * A_DAY * SPAN_S * NS_PER_S
        assert all(abs(f.since_ns - at_ns) <= 3 * HOUR_NS for f in found)
        assert all("its median score went from" in f.text for f in found)
    else:
        assert all(f.size > MIN_INDEX for f in found)
        told = {name for f in found for name in NAMES if name + " " in f.text}
        assert told <= set(NAMES[: K // 2]), "the other half stands still"
        assert told


def test_one_device_is_not_the_fleet() -> None:
    still = summaries(5, DAYS * A_DAY, seed=5)
    moved = summaries(5, DAYS * A_DAY, seed=5, score=step(8, 5.0))
    scores = still.score_quantiles.copy()
    of_one = still.device == "d2"
    scores[of_one] = moved.score_quantiles[of_one]
    drift = watched(_with(still, score_quantiles=scores)).drift()
    assert [f.device for f in drift.findings] == ["d2"]
    assert drift.fleet is None


def _with(table: SummaryTable, **changes: Any) -> SummaryTable:
    fields = {name: getattr(table, name) for name in SummaryTable.__slots__}
    return SummaryTable(**fields | changes)


def test_another_version_begins_anew() -> None:
    table = summaries(3, DAYS * A_DAY, seed=6, score=step(8, 5.0))
    version = 1 + (table.start_ns >= 8 * A_DAY * SPAN_S * NS_PER_S).astype(np.int64)
    drift = watched(_with(table, model_version=version)).drift()
    assert drift.findings == ()
    assert drift.n_judged == 3


def test_of_another_model_nothing_is_taken() -> None:
    table = summaries(2, DAYS * A_DAY, seed=7, score=step(8, 5.0))
    other = _with(table, model_id=np.full(len(table), "other"))
    assert watched(other).drift() == Drift((), 0, 0, None)


@settings(max_examples=8, deadline=None)
@given(pieces=st.integers(1, 400))
def test_in_whatever_pieces_it_is_read_it_is_the_same(pieces: int) -> None:
    table = summaries(2, DAYS * A_DAY, seed=8, score=step(8, 3.0), feature=step(9, 3.0))
    assert watched(table, pieces).drift() == watched(table).drift()


def test_the_index_is_a_divergence() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(4000, 3)), rng.normal(size=(3000, 3)) + np.array([0.0, 1.0, 3.0])
    found = stability_index(a, b)
    assert np.allclose(stability_index(a, a), 0.0)
    assert found[0] < 0.02 < 0.5 < found[1] < found[2]
    # By hand, of one feature: ten bins of the reference, half a row added to each.
    edges = np.quantile(a[:, 1], np.arange(1, N_BINS) / N_BINS)
    p = np.histogram(a[:, 1], [-np.inf, *edges, np.inf])[0] + 0.5
    q = np.histogram(b[:, 1], [-np.inf, *edges, np.inf])[0] + 0.5
    p, q = p / p.sum(), q / q.sum()
    assert found[1] == pytest.approx(float(((p - q) * np.log(p / q)).sum()), rel=1e-3)


def test_the_index_of_gaussians_is_their_divergence() -> None:
    one, zero = np.ones(1), np.zeros(1)
    assert gaussian_index((zero, one), (2 * one, one)) == pytest.approx(4.0)  # d² of unit variances
    assert gaussian_index((zero, one), (zero, one)) == pytest.approx(0.0)
    assert gaussian_index((one, zero), (one, zero)) == 0.0  # stands still
    assert gaussian_index((one, zero), (2 * one, zero)) > 1e6  # stood still, and does so elsewhere


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
def test_rows_that_hang_together_count_for_fewer(r: float) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20_000, 2))
    for i in range(1, len(x)):
        x[i] = r * x[i - 1] + np.sqrt(1 - r**2) * x[i]
    assert independent(x) == pytest.approx((1 - r) / (1 + r), rel=0.1, abs=0.002)


@pytest.mark.parametrize("days", [7, 60])
def test_what_has_drifted_long_ago_still_has(tmp_path: Path, days: float) -> None:
    """Nobody has trained the model again: the last days alone all look alike."""
    n_days, at = 40, 12
    change = np.where(np.arange(n_days * A_DAY) >= at * A_DAY, 5.0, 0.0)
    store = FeatureStore(str(tmp_path), "a")
    store.append([summaries(3, n_days * A_DAY, seed=9, score=change)])
    served = msgspec.structs.replace(good(1)[0], model_id="m", schema_id="s", created_ns=0)
    found = look(
        store,
        served,
        "c",
        days=days,
        since_ns=0,
        per_point=PER_POINT,
        now_ns=n_days * A_DAY * SPAN_S * NS_PER_S,
    )
    assert {f.device for f in found.drift.findings} == {"d0", "d1", "d2"}
    assert found.drift.fleet is not None


# as alerts


def finding(device: str = "d1", end_ns: int = 10 * HOUR_NS) -> Finding:
    return Finding("s", "g", device, "press", 3, "scores", 5 * HOUR_NS, end_ns, 4.0, "its score rose")


def drift_of(*findings: Finding, fleet: str | None = None) -> Drift:
    return Drift(findings, 5, 5, fleet)


def changed(drift: Drift, known: list[Alert], now_ns: int) -> list[Alert]:
    return drift_alerts.changes(
        drift, known, model_id="m", class_="press", now_ns=now_ns, rest_ns=24 * HOUR_NS
    )


def test_an_episode_is_told_once_cleared_and_rests() -> None:
    (raised,) = changed(drift_of(finding()), [], 10 * HOUR_NS)
    assert (raised.kind, raised.state, raised.device, raised.clock) == ("drift", "raised", "d1", "sink")
    assert raised.message == "press has drifted since version 3 was taken on: its score rose"
    assert changed(drift_of(finding(end_ns=11 * HOUR_NS)), [raised], 11 * HOUR_NS) == []
    (cleared,) = changed(drift_of(), [raised], 12 * HOUR_NS)
    assert (cleared.alert_id, cleared.state, cleared.seq) == (raised.alert_id, "cleared", 1)
    assert changed(drift_of(finding()), [cleared], 20 * HOUR_NS) == []
    (again,) = changed(drift_of(finding(end_ns=40 * HOUR_NS)), [cleared], 40 * HOUR_NS)
    assert again.alert_id != raised.alert_id
    assert msgspec.json.decode(msgspec.json.encode(again), type=Alert) == again


def test_a_fleet_that_drifts_is_told_as_one() -> None:
    told = changed(drift_of(finding("d1"), finding("d2"), fleet="2 of 5 devices have drifted"), [], HOUR_NS)
    assert [(a.gateway, a.device) for a in told] == [("g", "d1"), ("g", "d2"), ("_sink", "_fleet")]
    assert told[-1].message == "the fleet of m: 2 of 5 devices have drifted"
