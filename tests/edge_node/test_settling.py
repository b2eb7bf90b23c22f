"""What a device is said to be, and what becomes of what is open when a configuration changes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge_node.plans import DevicePlan
from models.limits import LimitSpec
from models.messages import Alert, DeviceStateMessage
from models.signal import Channel, DropReason
from tests.edge_node.plant import CHANNELS, Plant, block, device, healthy, pieces, plan, served, story, window

METER = plan(device("meter", (Channel(name="Power"),)), model=None)
LIMIT = LimitSpec(name="hot", channel="Pressure", above=2.0)


def alarmed(*plans: DevicePlan) -> Plant:
    """A plant whose device d has an open machine alert and windows that wait."""
    values = healthy(300)
    values[150:, 0] *= 1.3
    plant = Plant(*plans).play(pieces(block(values), range(0, 300, 50)))
    assert "machine raised" in story(plant.alerts())
    plant.pipeline.push(block(healthy(15), 300))
    plant.check()
    return plant


def test_the_state_is_said_first_and_then_only_when_it_changes() -> None:
    values = healthy(900)
    values[300:400, 0] *= 1.3
    plant = Plant(plan()).play(pieces(block(values), range(0, 900, 33))).finish()
    states = [e.event for e in plant.events if isinstance(e.event, DeviceStateMessage)]
    assert [s.state.value for s in states] == ["normal", "anomalous", "normal"]
    raised, cleared = plant.alerts()[0], plant.alerts()[-1]
    assert [s.open_alerts for s in states] == [(), (raised.alert_id,), ()]
    assert [s.since_ns for s in states][1:] == [raised.end_ns, cleared.end_ns]
    assert plant.pipeline.conditions() == {"d": "normal"}
    assert Plant(plan()).pipeline.conditions() == {"d": "learning"}


def test_an_alert_comes_before_the_state_that_follows_from_it() -> None:
    values = healthy(600)
    values[300:400, 0] *= 1.3
    plant = Plant(plan()).play([block(values)]).finish()
    order = [type(e.event).__name__ for e in plant.events if not hasattr(e.event, "n")]
    assert order[:3] == ["DeviceStateMessage", "Alert", "DeviceStateMessage"]


def test_events_carry_when_their_last_samples_came_and_what_scored_them() -> None:
    values = healthy(300)
    values[150:, 0] *= 1.3
    cut = [values[i : i + 10] for i in range(0, 300, 10)]
    plant = Plant(plan()).play(block(v, 10 * i, arrival_s=10 * i + 500) for i, v in enumerate(cut))
    raised = next(e for e in plant.events if isinstance(e.event, Alert))
    assert raised.backend == "cpu-float32"
    alert = plant.alerts()[0]
    late_s = (raised.arrival_ns - alert.end_ns) / 1e9
    assert 490 <= late_s < 500  # arrivals are those of the block's first row


def test_a_restart_with_the_same_plans_goes_on() -> None:
    plant = alarmed(plan(), METER)
    again = plant.restarted().play([block(healthy(100), 315)])
    assert story(again.alerts())[-1] == "machine cleared"
    assert again.alerts()[-1].alert_id == plant.alerts()[0].alert_id


CHANGES = {
    "the model": lambda: plan(model=served(device(), window(), version=2)),
    "the windows": lambda: plan(spec=window(30, 5)),
    "the channels": lambda: plan(device(channels=(CHANNELS[0], Channel(name="Torque")))),
    "the unit": lambda: plan(device(channels=(CHANNELS[0], Channel(name="Current", unit="mA")))),
    "the limits": lambda: plan(limits=(LIMIT,)),
    "that there is a model": lambda: plan(model=None),
}


@pytest.mark.parametrize("what", [*CHANGES, "that there is a device"])
def test_when_a_device_changes_what_was_open_is_cleared_and_what_waited_is_counted(what: str) -> None:
    plant = alarmed(plan(), METER)
    before = plant.pipeline.counters()
    assert before.n_windows_pending > 0
    new = [CHANGES[what]()] if what in CHANGES else []
    again = plant.restarted(*new, METER)
    after = again.pipeline.counters()
    assert after.n_windows_pending == 0
    assert after.window_drops[DropReason.DOWN] == before.n_windows_pending
    assert after.n_samples_in == before.n_samples_in
    again.collect()
    (cleared,) = again.alerts()
    raised = plant.alerts()[0]
    assert (cleared.state, cleared.alert_id) == ("cleared", raised.alert_id)
    assert cleared.seq == plant.alerts()[-1].seq + 1
    assert cleared.message.startswith("press-4: no longer watched as it was")
    assert [e.arrival_ns for e in again.events if e.event is cleared] == [None]
    again.play([block(healthy(100), 400)])
    assert again.alerts()[1:] == [a for a in again.alerts() if a.kind == "limit"]


def test_only_the_devices_named_go_on() -> None:
    plant = alarmed(plan(), METER)
    other = Plant(plan(), METER)
    other.pipeline.restore(plant.pipeline.snapshot(), only={"meter"})
    other.collect()
    assert story(other.alerts()) == ["machine cleared"]


def test_another_policy_or_level_goes_on_with_what_is_open() -> None:
    plant = alarmed(plan(), METER)
    patient = plan(alert=msgspec.structs.replace(plan().alert, n_clear=10))
    again = plant.restarted(patient, METER).play(pieces(block(healthy(300), 315), range(0, 300, 50)))
    assert story(again.alerts())[-1] == "machine cleared"
    assert again.alerts()[-1].end_ns - plant.alerts()[0].end_ns > 45 * 5 * 10**9 / 5


@pytest.mark.parametrize("n_bytes", [0, 1, 100, -1])
def test_a_torn_snapshot_is_an_error_and_not_a_state(n_bytes: int) -> None:
    data = alarmed(plan(), METER).pipeline.snapshot()
    torn = data[:n_bytes] if n_bytes >= 0 else b"\x00" * 50
    with pytest.raises(msgspec.DecodeError):
        Plant(plan(), METER).pipeline.restore(torn)


def test_what_nobody_took_survives_a_restart() -> None:
    plant = alarmed(plan(), METER)
    values = healthy(100)
    plant.pipeline.push(block(values, 315))
    while batches := plant.pipeline.take_batches():
        for batch in batches:
            plant.give(batch)
    again = plant.restarted()
    plant.collect()
    again.collect()
    n = len(again.events)
    assert n > 1
    assert again.wire() == plant.wire()[-n:]
    assert [e.arrival_ns for e in again.events] == [e.arrival_ns for e in plant.events[-n:]]


def test_the_end_of_the_signal_closes_summaries_once_the_last_window_is_scored() -> None:
    plant = Plant(plan())
    plant.pipeline.push(block(healthy(100)))
    plant.hold()
    plant.pipeline.finish()
    assert not plant.pipeline.events()
    plant.give(plant.held[0])
    plant.collect()
    (summary,) = plant.summaries()
    assert summary.n == 17
    assert np.isfinite(summary.mean).all()


def test_how_bad_the_last_alert_was_to_one_model_says_nothing_to_another() -> None:
    values = healthy(900)
    values[150:300, 0] *= 1.3
    lane = Plant(plan()).play([block(values)]).pipeline._lanes["d"]
    machine = lane.settler.state().machine
    assert machine is not None
    assert machine.episodes.cleared_size > 0.0
    after = lane.settler.adopt(plan()).state().machine
    assert after is not None
    assert (after.episodes.cleared_size, after.episodes.cleared_ns) == (0.0, machine.episodes.cleared_ns)
