"""Telemetry from a CSV to alerts: a spike and a shift of level are told, once, with what had been seen before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_sink.cli import main
from edge_node.assembly import Core, assemble_bundle
from edge_node.model_store import Bundle, load_bundle
from edge_node.replay import as_received, play
from models.acceptance import Acceptance
from models.alerting import AlertPolicy, usual_policy
from models.calibration import p_values
from models.logs import LogOptions, Tick
from models.messages import Alert
from models.recording import read_log
from models.running_range import HALF_WIDTH, STRETCH
from models.runtime import Graph, dequantise, quantise
from models.scoring import residuals, scores
from models.signal import NS_PER_S, SampleBlock

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
STEP_S = 300
HEALTHY, N = 1200, 3000
SPIKE, AGAIN, SHIFT = 1700, 1990, 2300  # rows
FAULTS = (SPIKE, SHIFT)


def steady() -> NDArray[np.float64]:
    """A day's rhythm of 288 rows, with noise that is bounded."""
    rng = np.random.default_rng(11)
    return np.asarray(100 + 30 * np.sin(2 * np.pi * np.arange(N) / 288) + rng.uniform(-6, 6, N))


def requests_a_minute() -> NDArray[np.float64]:
    """With a spike of one row, nearly the same again, when it is known by then, and a level from a row on."""
    values = steady()
    values[SPIKE] = values[AGAIN] = 190.0
    values[AGAIN] -= 25.0
    values[SHIFT:] += 120.0
    return values


def written(path: Path, values: NDArray[np.float64]) -> Path:
    lines = ["timestamp,value"]
    for i, value in enumerate(values.tolist()):
        lines.append(f"{BEGIN + timedelta(seconds=STEP_S * i):%Y-%m-%d %H:%M:%S},{value:.6g}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("telemetry") / "requests.csv", requests_a_minute())


@pytest.fixture(scope="module")
def bundle(log: Path) -> Bundle:
    out = log.parent / "model"
    arguments = ["train", str(log), "--timezone", "UTC", "--features", "telemetry", "--rows", str(HEALTHY)]
    assert main([*arguments, "--unit", "value=req/min", "-o", str(out)]) == 0
    return load_bundle(out)


def core(bundle: Bundle) -> Core:
    return assemble_bundle(bundle, "shop", alerts_per_week=0.5, on_notice=lambda text: None)


def items(log: Path, on: Core, block_rows: int = 4096) -> list[SampleBlock | Tick]:
    options = LogOptions(timezone="UTC", device_id="shop", block_rows=block_rows)
    blocks = read_log((log,), options, warn=lambda text: None)
    received = as_received(blocks, on, recorded=False)
    return [item for item in received if isinstance(item, SampleBlock | Tick)]


def alerts_of(log: Path, on: Core, block_rows: int = 4096) -> list[Alert]:
    steps = play(items(log, on, block_rows), on, recorded=False)
    return [alert for step in steps for alert in step.alerts]


def row_of(time_ns: int) -> int:
    """Row that ends at ``time_ns``: its window has it as its newest value."""
    return round((time_ns / NS_PER_S - BEGIN.timestamp()) / STEP_S) - 1


def raised(alerts: list[Alert]) -> list[Alert]:
    return [a for a in alerts if a.kind == "machine" and a.state == "raised"]


def test_what_is_trained_is_the_range_of_the_healthy_part(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert [manifest.features.set, manifest.features.version, manifest.recentring] == ["telemetry", 2, None]
    assert (manifest.window.n, manifest.window.hop) == (60, 1)
    windows = np.lib.stride_tricks.sliding_window_view(requests_a_minute()[:HEALTHY], 60)
    columns = (windows[:, -1], windows.mean(axis=1), np.median(windows, axis=1), windows[:, -1])
    for column, healthy in enumerate(columns):
        centre, scale = manifest.normalisation.centre[column], manifest.normalisation.scale[column]
        assert centre - scale * HALF_WIDTH == pytest.approx(healthy.min(), rel=1e-3)
        assert centre + scale * HALF_WIDTH == pytest.approx(healthy.max(), rel=1e-3)


def test_both_graphs_are_published_and_take_what_is_within_for_normal_in_any_combination(
    bundle: Bundle,
) -> None:
    manifest = bundle.manifest
    assert [a.target for a in manifest.artifacts] == ["cpu-float32", "cpu-int8"]
    corners = np.array(list(product((-HALF_WIDTH, HALF_WIDTH), repeat=4)), np.float32)
    beyond = HALF_WIDTH + STRETCH * HALF_WIDTH * 0.03 * np.eye(4, dtype=np.float32)  # of 3 % and the margin
    for artifact in manifest.artifacts:
        graph = Graph(bundle.artifacts[artifact.target])
        for inputs, normal in ((corners, True), (beyond, False), (-beyond, False)):
            if artifact.dtype == "int8":
                output = dequantise(graph.run(quantise(inputs, graph.input)[0]), graph.output)
            else:
                output = graph.run(np.ascontiguousarray(inputs))
            score = scores(residuals(inputs, output, manifest.output_kind, np.array(artifact.residual_scale)))
            p = p_values(artifact.calibration, score)
            assert (p == 1.0).all() if normal else (p < 1e-6).all()


def test_a_spike_and_a_shift_are_told_in_the_row_that_shows_them_and_what_is_known_is_not(
    bundle: Bundle, log: Path
) -> None:
    found = raised(alerts_of(log, core(bundle)))
    assert [row_of(a.end_ns) for a in found] == list(FAULTS)


def test_an_alert_says_what_there_had_been(bundle: Bundle, log: Path) -> None:
    """A spike stands out by itself, and more so at its time of the day."""
    spike = raised(alerts_of(log, core(bundle)))[0]
    top = spike.contributions[0]
    assert (top.channel, top.feature, top.unit) == ("value", "value.daily", "req/min")
    assert top.observed == pytest.approx(190.0)
    usual = 100 + 30 * np.sin(2 * np.pi * SPIKE / 288)
    assert top.expected_low is not None
    assert top.expected_high is not None
    assert top.expected_low < usual - 4 < usual + 4 < top.expected_high < 190.0
    assert (top.expected_low + top.expected_high) / 2 == pytest.approx(usual, abs=4)
    assert "value 190 req/min, expected " in spike.message
    assert " at this time of the day" in spike.message


def test_a_night_like_a_day_is_told_of_a_signal_that_has_a_daily_rhythm(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Nothing in it has not been there before, but at another time."""
    values = steady()
    night = SHIFT // 288 * 288 + 216  # the lowest point of the rhythm
    values[night - 20 : night + 20] = values[night - 164 : night - 124]  # half a day before
    alerts = raised(alerts_of(written(tmp_path / "night.csv", values), core(bundle)))
    assert [row_of(a.end_ns) for a in alerts] == [night - 20]
    assert alerts[0].contributions[0].feature == "value.daily"


def test_how_rows_arrive_does_not_show(bundle: Bundle, log: Path) -> None:
    whole = alerts_of(log, core(bundle))
    assert len(whole) > len(FAULTS)
    for block_rows in (1, 7, 500):
        assert msgspec.json.encode(alerts_of(log, core(bundle), block_rows)) == msgspec.json.encode(whole)


def said(on: Core, what: list[SampleBlock | Tick]) -> list[Alert]:
    for item in what:
        if isinstance(item, Tick):
            on.pipeline.advance(item.now_ns)
        else:
            on.pipeline.push(item)
    on.score()
    return [event.event for event in on.pipeline.events() if isinstance(event.event, Alert)]


def test_a_range_outlives_a_restart(bundle: Bundle, log: Path) -> None:
    """Without it the second spike would be as new as the first one."""
    given = items(log, core(bundle), block_rows=100)
    whole = said(core(bundle), given)
    cut = next(
        i
        for i, item in enumerate(given)
        if row_of(item.now_ns if isinstance(item, Tick) else item.arrival_ns) > (SPIKE + AGAIN) // 2
    )
    before = core(bundle)
    first = said(before, given[:cut])
    after = core(bundle)
    after.pipeline.restore(before.pipeline.snapshot())
    rest = said(after, given[cut:])
    assert msgspec.json.encode(first + rest) == msgspec.json.encode(whole)
    assert not [a for a in raised(rest) if row_of(a.end_ns) == AGAIN]
    assert [a for a in raised(said(core(bundle), given[cut:])) if row_of(a.end_ns) == AGAIN]


def test_it_is_judged_one_by_one_unless_configured(bundle: Bundle) -> None:
    window = bundle.manifest.window
    policy = usual_policy("telemetry", window)
    assert (policy.n_raise, policy.m_raise, policy.cooldown_s) == (1, 1, 60 * STEP_S)
    assert usual_policy("slow", window) == AlertPolicy()
    (plan,) = core(bundle).plans
    assert plan.alert == policy
    other = AlertPolicy(n_raise=2, m_raise=4)
    (plan,) = assemble_bundle(bundle, "shop", policy=other, on_notice=lambda text: None).plans
    assert plan.alert == other


def test_what_stays_beyond_the_bound_alerts_until_an_operator_accepts_it(
    bundle: Bundle, tmp_path: Path
) -> None:
    values = requests_a_minute()
    values[SPIKE], values[AGAIN] = values[SPIKE - 1], values[AGAIN - 1]
    values[SHIFT:] += 5000.0  # the range may widen by ten times about 70
    given = items(written(tmp_path / "moved.csv", values), core(bundle), block_rows=50)
    cut = next(
        i
        for i, item in enumerate(given)
        if isinstance(item, SampleBlock) and row_of(item.arrival_ns) > N - 100
    )
    on = core(bundle)
    (before,) = [a for a in said(on, given[:cut]) if a.kind == "machine" and a.state != "updated"]
    assert (before.state, row_of(before.end_ns)) == ("raised", SHIFT)
    arrival_ns = given[cut - 1].now_ns if isinstance(given[cut - 1], Tick) else given[cut - 1].arrival_ns
    on.pipeline.accept(Acceptance(device_id="shop", arrival_ns=arrival_ns, transaction="1", by="Anna"))
    (cleared,) = [a for a in said(on, []) if a.kind == "machine"]
    assert cleared.state == "cleared"
    assert "accepted as normal by Anna" in cleared.message
    assert not said(on, given[cut:])


def test_features_that_were_logged_say_what_the_signal_said(bundle: Bundle, log: Path) -> None:
    """The place in a range, and what is usual at a time of the day, are worked out from logged features as from signal."""
    given = items(log, core(bundle), block_rows=500)
    recorded = core(bundle)
    recorded.pipeline.keep_features()
    whole = said(recorded, given)
    again = core(bundle)
    for rows in recorded.pipeline.take_features():
        again.pipeline.feed(rows)
    found = raised(said(again, []))
    assert [(a.end_ns, a.message) for a in found] == [(a.end_ns, a.message) for a in raised(whole)]
    assert len(found) == len(FAULTS)
