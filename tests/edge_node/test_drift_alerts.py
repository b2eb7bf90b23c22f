"""Re-centring follows slow drift; what it cannot follow, or should not have, is named."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.plans import DevicePlan
from models.recentring import RecentringSpec
from models.signal import Channel
from tests.edge_node.plant import T0_S, Plant, S, block, device, healthy, pieces, plan, story, window

TAU = 60.0  # windows, of 5 s
N = 5000


@cache
def recentred() -> DevicePlan:
    return plan(recentring=RecentringSpec(tau_windows=TAU))


@cache
def dense() -> DevicePlan:
    """The same time constant in seconds, with windows that overlap much."""
    return plan(spec=window(60, 1), recentring=RecentringSpec(tau_windows=5 * TAU))


def sigma(channel: int = 0, of: DevicePlan | None = None) -> float:
    """The healthy spread of the mean of a channel over a window."""
    model = (of or recentred()).model
    assert model is not None
    return float(model.scale[5 * channel])


def play(values: NDArray[np.float32], of: DevicePlan | None = None) -> Plant:
    plant = Plant(of or recentred())
    plant.pipeline.trace_scores()
    return plant.play(pieces(block(values), range(0, len(values), 250))).finish()


def spans(plant: Plant, kind: str) -> list[tuple[float, float]]:
    """Seconds after T0 from when to when an alert of ``kind`` was open."""
    found: list[tuple[float, float]] = []
    for alert in plant.alerts(kind):
        at = alert.end_ns / S - T0_S
        if alert.state == "raised":
            found.append((at, np.inf))
        elif alert.state == "cleared":
            found[-1] = (found[-1][0], at)
    return found


@pytest.mark.parametrize(
    ("windows", "sigmas"),
    [("sparse", step) for step in (4.0, -4.0, 5.0, 6.0, -8.0, 20.0)] + [("dense", -6.0), ("dense", 20.0)],
)
def test_a_lasting_step_stays_alerted_or_becomes_a_named_drift(windows: str, sigmas: float) -> None:
    """Once it is raised there is no window without an open alert about it."""
    of = recentred() if windows == "sparse" else dense()
    values = healthy(N)
    values[1000:, 0] += sigmas * sigma(of=of)
    plant = play(values, of)
    machine, drift = spans(plant, "machine"), spans(plant, "drift")
    assert len(drift) == 1
    assert drift[0][1] == np.inf
    assert bool(machine) == (abs(sigmas) >= 6)  # of one feature among ten
    told = sorted([*machine, *drift])
    assert told[0][0] < 1000 + 3.5 * TAU * 5
    # What is lasting shows in half a time constant; until then an alert near its level may flicker.
    covered = max(told[0][0], 1000 + TAU * 5 / 2)
    for begin, end in told:
        assert begin <= covered
        covered = max(covered, end)
    assert covered == np.inf
    assert plant.states()[-1] == "anomalous"


def test_a_crawling_fault_becomes_a_named_drift() -> None:
    values = healthy(3 * N)
    values[:, 0] += np.linspace(0, 12 * sigma(), 3 * N, dtype=np.float32)
    plant = play(values)
    (begin, end) = spans(plant, "drift")[0]
    assert 3 * N / 4 * 0.8 < begin < 3 * N / 2  # 3 sigma is passed at a quarter of the recording
    assert end == np.inf
    assert not spans(plant, "machine") or spans(plant, "machine")[0][0] > begin


def test_drift_that_can_be_followed_alarms_nobody() -> None:
    values = healthy(3 * N)
    values[:, 0] += (2.0 * sigma() * np.sin(np.linspace(0, 2 * np.pi, 3 * N))).astype(np.float32)
    assert not play(values).alerts()


def test_a_departure_that_alarmed_nobody_is_named_only_where_it_cannot_be_followed() -> None:
    """A step of 3.6 sigma, below any alarm: the centre must reach its bound first."""
    level = msgspec.structs.replace(recentred().levels["cpu-float32"], p_raise=1e-12, p_clear=1e-12)
    deaf = plan(recentring=RecentringSpec(tau_windows=TAU), levels={"cpu-float32": level})
    values = healthy(N)
    values[1000:, 0] += 3.6 * sigma()
    plant = play(values, deaf)
    assert not plant.alerts("machine")
    ((begin, end),) = spans(plant, "drift")
    # At one clipped sigma per time constant, 90 % of the way to the bound takes 2.7 time constants and more.
    assert begin > 1000 + 2.7 * TAU * 5
    assert end == np.inf


def test_a_fault_that_ends_is_no_drift() -> None:
    values = healthy(N)
    values[1000:1300, 0] += 10 * sigma()
    plant = play(values)
    assert [kind for kind in story(plant.alerts()) if "drift" in kind] == []
    assert story(plant.alerts())[-1] == "machine cleared"


@pytest.mark.parametrize("sigmas", [12.0, -12.0, 23.0])
@pytest.mark.parametrize("length", [100, 150])
def test_faults_that_are_over_are_no_drift(sigmas: float, length: int) -> None:
    """Not when they leave the windows, nor in the noise after them."""
    values = healthy(20 * 1200)
    for begin in range(600, len(values), 1200):
        values[begin : begin + length, 0] += sigmas * sigma(of=dense())
    plant = play(values, dense())
    assert len(spans(plant, "machine")) > 15
    assert not spans(plant, "drift")


def test_after_a_fault_a_swing_to_the_other_side_is_no_drift() -> None:
    values = healthy(20 * 1200)
    for begin in range(600, len(values), 1200):
        values[begin : begin + 100, 0] += 23 * sigma(of=dense())
        values[begin + 165 : begin + 185, 0] -= 12 * sigma(of=dense())
    plant = play(values, dense())
    assert len(spans(plant, "machine")) > 15
    assert not spans(plant, "drift")


@pytest.mark.parametrize("sigmas", [8.0, -20.0])
def test_an_alert_is_not_cleared_before_the_drift_that_takes_its_place_is_named(sigmas: float) -> None:
    values = healthy(N)
    values[1000:, 0] += sigmas * sigma(of=dense())
    told = [kind for kind in story(play(values, dense()).alerts()) if not kind.endswith("updated")]
    assert told[0] == "machine raised"
    assert told[1:3] == ["drift raised", "machine cleared"] or told == ["machine raised", "drift raised"]


def test_a_drift_that_goes_away_is_cleared() -> None:
    values = healthy(2 * N)
    values[1000:5000, 0] += 5 * sigma()
    plant = play(values)
    told = plant.alerts("drift")
    assert told[0].state == "raised"
    assert told[-1].state == "cleared"
    assert told[-1].message.startswith("press-4: Pressure mean is back from its drift after ")
    assert plant.states()[-1] == "normal"


def test_a_drift_reads_well_and_keeps_to_one_feature() -> None:
    values = healthy(2 * N)
    values[1000:, 0] += 5 * sigma(0)
    values[2500:, 1] += 5 * sigma(1)
    told = play(values).alerts("drift")
    assert told[0].message.startswith("press-4: Pressure ")
    assert " has drifted to 3.0" in told[0].message
    assert ", beyond the allowed 2.961 to 3.042" in told[0].message
    assert told[-1].message.endswith(" (1 more channel too)")
    assert len({a.contributions[0].feature for a in told}) == 1
    assert len({a.alert_id for a in told}) == 1
    ends = [a.end_ns // S for a in told]
    assert min(np.diff(ends)) >= 120  # paced


def test_a_wear_channel_is_never_recentred() -> None:
    channels = (Channel(name="Pressure", unit="bar", wear=True), Channel(name="Current", unit="A"))
    wears = plan(device(channels=channels), recentring=RecentringSpec(tau_windows=TAU))
    values = healthy(2 * N)
    values[1000:, 0] += 12 * sigma()
    plant = play(values, wears)
    ((begin, end),) = spans(plant, "machine")
    assert 1000 < begin < 1040
    assert end == np.inf
    assert not plant.alerts("drift")
    rows = np.concatenate(plant.features)
    assert rows[-100:, 0].mean() > 3.0 + 11.5 * sigma()
    followed = np.concatenate(play(values).features)
    assert followed[-100:, 0].mean() < 3.0 + 9.5 * sigma()


def test_a_summary_says_where_the_centre_stood() -> None:
    values = healthy(N)
    values[1000:, 0] += 2.0 * sigma()
    plant = play(values)
    model = recentred().model
    assert model is not None
    centres = np.array([s.centre for s in plant.summaries()])
    moved = (centres - model.centre)[:, 0] / model.scale[0]
    assert abs(moved[0]) < 0.5
    assert 1.5 < moved[-1] < 2.5
    assert (np.abs(centres - model.centre) <= 3.01 * model.scale).all()
    still = Plant(plan()).play([block(healthy(1000))]).finish()
    plain = still.plans[0].model
    assert plain is not None
    assert still.summaries()[-1].centre == plain.centre.tolist()
