"""A device that falls silent is reported by the clock, and again when it speaks."""

from __future__ import annotations

import numpy as np
import pytest

from models.signal import Channel, SampleBlock
from tests.edge_node.plant import T0_S, Plant, S, block, device, healthy, pieces, plan, story


def test_silence_is_raised_on_a_tick_and_cleared_by_the_next_sample() -> None:
    plant = Plant(plan()).play([block(healthy(100)), 110, 129, 131, 500])
    (raised,) = plant.alerts()
    assert raised.message == "press-4: no data from d for 31 s"
    assert (raised.kind, raised.state, raised.severity) == ("stale", "raised", "warning")
    assert raised.start_ns == (T0_S + 99) * S  # the last sample
    assert plant.states() == ["normal", "stale"]
    plant.play([block(healthy(100), 1000), 1101])
    assert story(plant.alerts()) == ["stale raised", "stale cleared"]
    assert plant.alerts()[1].message == "press-4: data from d again after 15 min"
    assert plant.alerts()[1].alert_id == raised.alert_id
    assert plant.states() == ["normal", "stale", "normal"]
    plant.play([1135])
    assert plant.alerts()[2].alert_id != raised.alert_id


def test_a_device_that_never_spoke_is_reported_from_the_start_on() -> None:
    plant = Plant(plan()).play([0, 20, 31])
    (raised,) = plant.alerts()
    assert raised.message == "press-4: no data from d for 30 s"
    assert raised.start_ns == (T0_S + 1) * S


def test_one_silent_channel_is_named() -> None:
    parts: list[SampleBlock | float] = []
    for i in range(8):
        names = ("Pressure", "Current") if i < 4 else ("Pressure",)
        parts.append(block(healthy(10)[:, : len(names)], 10 * i, channels=names))
        parts.append(10 * i + 10)
    plant = Plant(plan()).play(parts)
    (raised,) = plant.alerts()
    assert raised.message == "press-4: no data from d (Current) for 30 s"
    plant.play([block(healthy(10)[:, :1], 80, channels=("Pressure",)), 90])
    assert story(plant.alerts()) == ["stale raised"]
    plant.play([block(healthy(20), 90), 110])
    assert story(plant.alerts()) == ["stale raised", "stale cleared"]


def channel_by_channel(last_s: dict[str, int], until_s: int) -> list[SampleBlock | float]:
    """Each channel in blocks of one row a second of its own, up to its last second, and the clock with them."""
    values = healthy(until_s)
    parts: list[SampleBlock | float] = []
    for at_s in range(until_s):
        for c, (name, last) in enumerate(last_s.items()):
            if at_s <= last:
                parts.append(block(values[at_s : at_s + 1, c : c + 1], at_s, channels=(name,)))
        parts.append(at_s + 1)
    return parts


@pytest.mark.parametrize("others_last_s", [52, 59, 80, 500])
def test_the_silence_of_one_channel_begins_with_its_last_value(others_last_s: int) -> None:
    plant = Plant(plan()).play(channel_by_channel({"Pressure": others_last_s, "Current": 50}, 85))
    (raised,) = plant.alerts("stale")
    assert raised.message.startswith("press-4: no data from d (Current) for 3")
    assert raised.start_ns == (T0_S + 50) * S
    assert 30 * S <= raised.end_ns - raised.start_ns <= 32 * S


def test_of_several_silent_channels_the_one_that_spoke_last_counts() -> None:
    parts = channel_by_channel({"Pressure": 52, "Current": 50}, 60)
    (raised,) = Plant(plan()).play([*parts, 100]).alerts("stale")
    assert raised.message == "press-4: no data from d for 47 s"
    assert raised.start_ns == (T0_S + 52) * S


def test_values_that_are_none_do_not_put_off_the_silence() -> None:
    values = healthy(90)
    values[50:, 1] = np.nan
    plant = Plant(plan()).play([*(block(values[i : i + 1], i) for i in range(90)), 90])
    (raised,) = plant.alerts("stale")
    assert raised.start_ns == (T0_S + 49) * S


def test_a_channel_that_never_spoke_is_silent_from_when_it_was_waited_for() -> None:
    plant = Plant(plan()).play(channel_by_channel({"Pressure": 200, "Current": -1}, 40))
    (raised,) = plant.alerts("stale")
    assert raised.message == "press-4: no data from d (Current) for 30 s"
    assert abs(raised.start_ns - T0_S * S) <= S


def test_a_clock_set_back_does_not_move_the_start_of_a_silence() -> None:
    """Rows of an hour ago that nobody believes yet are no news of then."""
    old = [block(healthy(1)[:, 1:], at_s - 3600, arrival_s=at_s, channels=("Current",)) for at_s in (51, 52)]
    parts = channel_by_channel({"Pressure": 500, "Current": 50}, 51)
    rest = [block(healthy(90)[at_s : at_s + 1, :1], at_s, channels=("Pressure",)) for at_s in range(51, 90)]
    (raised,) = Plant(plan()).play([*parts, *old, *rest, 90]).alerts("stale")
    assert raised.start_ns == (T0_S + 50) * S


@pytest.mark.parametrize("lead", ["at once", "after NaN", "after samples from the future"])
def test_what_the_block_holds_beside_the_first_sample_does_not_show(lead: str) -> None:
    """Windows of the block that ends a silence come after the silence, however the block is cut."""
    values = healthy(200)
    values[60:160, 0] *= 1.3
    if lead == "after NaN":
        values[:7, 1] = np.nan
    back = block(values, 1000, arrival_s=1200)
    before: list[SampleBlock | float]
    if lead == "after samples from the future":
        ahead = block(healthy(3), 5000, arrival_s=1000)
        before = [block(healthy(100)), 140, ahead]
    else:
        before = [block(healthy(100)), 140]
    whole = Plant(plan()).play([*before, back]).finish()
    single = Plant(plan()).play([*before, *pieces(back, range(200))]).finish()
    assert whole.wire() == single.wire()
    assert story(whole.alerts())[:3] == ["stale raised", "stale cleared", "machine raised"]
    cleared = whole.alerts()[1]
    assert cleared.end_ns == (T0_S + 1000 + 7 * (lead == "after NaN")) * S


def test_an_open_alert_is_frozen_by_silence_and_cleared_after_it() -> None:
    values = healthy(200)
    values[100:, 0] *= 1.3
    plant = Plant(plan()).play([block(values), 240])
    assert story(plant.alerts()) == ["machine raised", "stale raised"]
    assert plant.states()[-1] == "stale"
    plant.play([block(healthy(100), 500)])
    assert story(plant.alerts())[2:] == ["stale cleared", "machine updated", "machine cleared"]
    assert plant.states()[-2:] == ["anomalous", "normal"]


def test_windows_before_and_after_a_silence_are_not_one_run() -> None:
    """Two windows above before it and two after it are no three in a row."""
    before, after = healthy(100), healthy(100)
    before[-2:, 0] *= 1.3
    after[:2, 0] *= 1.3
    gap = Plant(plan()).play([block(before), 140, block(after, 3000)]).finish()
    assert not gap.alerts("machine")
    assert sum(s.excluded["anomalous"] for s in gap.summaries()) == 4
    joined = Plant(plan()).play([block(np.concatenate([before, after]))]).finish()
    assert story(joined.alerts("machine"))[:1] == ["machine raised"]


def test_a_silence_ends_the_summary_and_what_follows_has_its_own() -> None:
    plant = Plant(plan()).play([block(healthy(100)), 140, block(healthy(100), 300)]).finish()
    first, second = plant.summaries()
    assert first.start_ns == second.start_ns == T0_S * S
    assert first.end_ns == (T0_S + 105) * S  # of its last window, short of a few samples
    assert second.end_ns == (T0_S + 400) * S
    assert first.message_id != second.message_id
    assert first.n == 18


def test_a_clock_that_was_set_back_is_no_machine_alert() -> None:
    items = pieces(block(healthy(300)), range(0, 300, 10))
    for piece in pieces(block(healthy(300, seed=1), -100_000, arrival_s=600), range(0, 300, 10)):
        rows = (piece.start_ns or 0) // S - (T0_S - 100_000)
        items.append(block(piece.values, -100_000 + rows, arrival_s=310 + rows))
    plant = Plant(plan()).play(items).finish()
    assert not plant.alerts("machine")
    assert plant.pipeline.counters().sample_drops  # late until it was believed
    assert plant.pipeline.counters().n_windows_scored > 80


def test_a_machine_without_a_model_is_still_watched_for_silence() -> None:
    quiet = plan(device("d", (Channel(name="Pressure", unit="bar"),)), model=None)
    plant = Plant(quiet).play([block(healthy(50)[:, :1], channels=("Pressure",)), 90])
    assert story(plant.alerts()) == ["stale raised"]
    assert plant.alerts()[0].model_id is None


def test_what_was_kept_back_elsewhere_does_not_end_a_silence_before_it_was_said() -> None:
    """A broker was away, and the sensor then sends what it has kept: event time goes on where it had stopped."""
    plant = Plant(plan()).play([block(healthy(100)), 131, block(healthy(32), 100), 133])
    raised, cleared = plant.alerts()
    assert (raised.state, cleared.state) == ("raised", "cleared")
    assert cleared.end_ns == raised.end_ns
    assert cleared.message == "press-4: data from d again after 31 s"
