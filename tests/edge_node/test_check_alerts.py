"""Alerts that need no model: sensor faults are not machine faults, limits hold without training."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.plans import ServedModel
from models.alerting import duration
from models.limits import LimitSpec
from models.signal import Channel, DropReason
from tests.edge_node.plant import (
    CHANNELS,
    T0_S,
    Plant,
    S,
    block,
    device,
    healthy,
    pieces,
    plan,
    story,
    window,
)

HOT = LimitSpec(name="hot", channel="Pressure", above=4.0, for_s=30)


def channels(**changes: object) -> tuple[Channel, Channel]:
    return msgspec.structs.replace(CHANNELS[0], **changes), CHANNELS[1]


def play(values: NDArray[np.floating], *, of: tuple[Channel, ...] = CHANNELS, **changes: object) -> Plant:
    plant = Plant(plan(device(channels=of), **changes))  # type: ignore[arg-type]
    return plant.play(pieces(block(values), range(0, len(values), 70))).finish()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("flatline", "press-4: sensor Pressure flat at 3 bar for 20 s"),
        ("stuck", "press-4: sensor Pressure stuck at 0 bar for 20 s"),
        ("saturated", "press-4: sensor Pressure saturated at 5 bar for 20 s"),
        ("out_of_range", "press-4: sensor Pressure at 6.5 bar, outside its range of 0 to 6, for 20 s"),
    ],
)
def test_a_sensor_fault_raises_sensor_and_not_machine(fault: str, message: str) -> None:
    values = healthy(600)
    of = CHANNELS
    if fault in ("flatline", "stuck"):
        values[200:300, 0] = 3.0 if fault == "flatline" else 0.0
    elif fault == "saturated":
        of = channels(full_scale=5.0)
        values[200:300, 0] = np.clip(healthy(100, 7)[:, 0] * 3, -5.0, 5.0)
    else:
        of = channels(valid_range=(0.0, 6.0))
        values[200:300:9, 0] = 6.5
    plant = play(values, of=of)
    told = plant.alerts()
    assert {alert.kind for alert in told} == {"sensor"}
    assert (told[0].state, told[-1].state) == ("raised", "cleared")
    assert len({alert.alert_id for alert in told}) == 1
    assert told[0].message == message
    assert told[0].severity == "warning"
    assert (told[0].score, told[0].p_value) == (None, None)
    assert told[-1].message.startswith("press-4: sensor Pressure works again after ")
    assert plant.pipeline.counters().window_drops[DropReason.SENSOR_FAULT] > 15
    assert "sensor_fault" in plant.states()
    assert sum(s.excluded.get("sensor_fault", 0) for s in plant.summaries()) > 15


def test_each_channel_has_an_episode_of_its_own() -> None:
    values = healthy(600)
    values[200:300, 0] = 3.0
    values[250:400, 1] = 8.0
    told = play(values).alerts("sensor")
    states = [alert.state for alert in told if alert.state != "updated"]
    assert states == ["raised", "raised", "cleared", "cleared"]
    assert len({alert.alert_id for alert in told}) == 2
    assert [alert.contributions[0].channel for alert in told[:2]] == ["Pressure", "Current"]


def test_a_fault_that_comes_and_goes_is_one_fault() -> None:
    values = healthy(600)
    values[200:400:25, 0] = 99.0
    told = play(values, of=channels(valid_range=(0.0, 6.0))).alerts("sensor")
    assert story(told)[0] == "sensor raised"
    assert [alert.state for alert in told].count("raised") == 1
    assert told[-1].state == "cleared"


def test_the_reading_that_was_out_of_range_is_named_with_its_origin() -> None:
    of = channels(valid_range=(0.0, 6.0), origin=1.0)
    values = healthy(400) - np.array([1.0, 0.0], dtype=np.float32)
    values[210, 0] = 7.25  # as it comes: 8.25 bar
    (raised, _) = play(values, of=of).alerts("sensor")
    assert raised.contributions[0].observed == 8.25
    assert "at 8.25 bar, outside its range of 0 to 6" in raised.message


def test_a_limit_needs_no_model() -> None:
    values = healthy(600)
    values[200:300, 0] = 4.5
    values[330:350, 0] = 4.5  # too short
    plant = play(values, model=None, limits=(HOT,))
    raised, *updates, cleared = plant.alerts()
    assert (raised.kind, raised.state, raised.severity) == ("limit", "raised", "critical")
    assert raised.message == "press-4: Pressure 4.5 bar above the limit of 4 bar for 30 s"
    assert (raised.start_ns, raised.end_ns) == ((T0_S + 200) * S, (T0_S + 230) * S)
    assert [u.state for u in updates] == []
    assert cleared.message == "press-4: Pressure back within its limit of 4 bar after 105 s"
    assert raised.contributions[0].expected_high == 4.0
    assert raised.contributions[0].expected_low is None
    assert plant.states() == ["normal", "anomalous", "normal"]
    assert not plant.summaries()
    assert plant.pipeline.counters().window_drops == {DropReason.NO_MODEL: 117}


@pytest.mark.parametrize(("for_s", "at_s"), [(0, 205), (12, 215), (60, 265)])
def test_an_alert_says_since_when_the_limit_was_exceeded_however_long_a_window_is(
    for_s: float, at_s: int
) -> None:
    limit = msgspec.structs.replace(HOT, for_s=for_s)
    values = healthy(1200)
    values[203:1000, 0] = 4.5
    raised, updated, *_, cleared = play(values, model=None, limits=(limit,), spec=window(10, 5)).alerts()
    assert raised.message.endswith(f"for {at_s - 203} s")
    assert {alert.start_ns for alert in (raised, updated, cleared)} == {(T0_S + 203) * S}
    assert raised.end_ns == (T0_S + at_s) * S
    assert updated.message.endswith(f"for {duration(updated.end_ns - (T0_S + 203) * S)}")
    assert cleared.message.endswith(f"after {duration(cleared.end_ns - (T0_S + 203) * S)}")


def test_limits_are_told_apart() -> None:
    low = LimitSpec(name="low", channel="Current", below=5.0, severity="warning")
    values = healthy(600)
    values[200:300, 0] = 4.5
    values[250:260, 1] = 1.0
    told = play(values, model=None, limits=(HOT, low)).alerts()
    by_id = {alert.alert_id: alert for alert in told if alert.state == "raised"}
    assert sorted(alert.severity for alert in by_id.values()) == ["critical", "warning"]
    assert {alert.alert_id for alert in told if alert.state == "cleared"} == set(by_id)


def test_until_it_is_back_by_the_hysteresis_a_limit_says_so() -> None:
    limit = msgspec.structs.replace(HOT, hysteresis=0.5, for_s=0.0)
    values = healthy(600)
    values[200:210, 0] = 4.5
    values[210:500, 0] = 3.8
    told = play(values, model=None, limits=(limit,)).alerts()
    assert story(told) == ["limit raised", "limit updated", "limit updated", "limit cleared"]
    assert ", still near the limit of 4 bar, for " in told[1].message


def test_a_limit_holds_while_the_sensor_is_doubted() -> None:
    values = healthy(600)
    values[200:400, 0] = 4.5  # flat, and too high
    assert {alert.kind for alert in play(values, limits=(HOT,)).alerts()} >= {"sensor", "limit"}


def test_windows_with_a_fault_freeze_a_machine_alert() -> None:
    values = healthy(800)
    values[200:400, 0] *= 1.3
    values[300:400, 1] = 8.0
    told = play(values).alerts()
    kinds = story(told)
    assert kinds.index("machine raised") < kinds.index("sensor raised") < kinds.index("machine cleared")
    cleared = next(alert for alert in told if (alert.kind, alert.state) == ("machine", "cleared"))
    assert cleared.end_ns > (T0_S + 400) * S


def test_windows_further_apart_than_they_are_long() -> None:
    """Half of the signal is never seen; limits and faults come out all the same."""
    values = healthy(1200)
    values[400:600, 0] = 4.5
    plant = play(values, spec=window(20, 40), limits=(HOT,))
    assert {"limit raised", "limit cleared", "sensor raised", "sensor cleared"} <= set(story(plant.alerts()))


def test_a_machine_fault_beside_a_frozen_sensor_is_still_seen() -> None:
    """The windows in which the sensor is only suspected are judged by the other channel."""
    values = healthy(400)
    values[200:212, 0] = 3.0  # too short for a fault
    assert not play(values).alerts()
    values[195:212, 1] *= 1.5
    assert story(play(values).alerts())[0] == "machine raised"


def test_a_channel_that_stood_still_in_training_is_never_suspect() -> None:
    base = plan()
    assert base.model is not None
    first, second = base.model.manifest.channels
    still = msgspec.structs.replace(first.baseline, minimum=3.0, maximum=3.0)
    manifest = msgspec.structs.replace(
        base.model.manifest, channels=(msgspec.structs.replace(first, baseline=still), second)
    )
    values = healthy(400)
    values[200:300, 0] = 3.0
    plant = Plant(plan(model=ServedModel.build(manifest, base.device))).play([block(values)]).finish()
    assert {alert.kind for alert in plant.alerts()} == {"machine"}
