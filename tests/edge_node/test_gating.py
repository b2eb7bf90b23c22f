"""A machine at rest is idle: not scored, not judged, in replay as live."""

from __future__ import annotations

from fractions import Fraction
from random import Random
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.assembly import Core
from edge_node.inference import Engine
from edge_node.plans import DevicePlan
from edge_node.replay import play
from models import codec
from models.gating import Comparison, Gate, GateSpec, GateState
from models.limits import LimitSpec
from models.signal import Channel, DropReason, Mode, SampleBlock, WindowSpec
from tests.edge_node.plant import T0_S, TIME, Identity, Plant, S, block, device, healthy, pieces, plan, story

SPEC = GateSpec(device_id="meter", channel="Power", comparison=">", value=5.0)


def power(picture: str, at_s: float = 0) -> SampleBlock:
    """One sample a second: # runs, . rests, ? is not known."""
    level = {"#": 9.0, ".": 0.0, "?": np.nan}
    return block(np.array([[level[c]] for c in picture]), at_s, to="meter", channels=("Power",))


def runs(gate: Gate, *windows: tuple[int, int]) -> list[bool]:
    starts, ends = (np.array([(T0_S + t) * S for t in column]) for column in zip(*windows, strict=True))
    return [bool(a) for a in gate.active(starts, ends)]


def test_a_window_counts_when_the_machine_ran_over_the_whole_of_it() -> None:
    gate = Gate(SPEC)
    gate.push(power("....######......####"))
    assert runs(gate, (4, 10), (3, 9), (4, 11), (5, 8), (11, 13), (16, 19)) == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]


def test_settling_time_comes_first() -> None:
    gate = Gate(SPEC)
    settled = Gate(GateSpec(device_id="meter", channel="Power", comparison=">", value=5.0, settle_s=4))
    for g in (gate, settled):
        g.push(power("....################"))
    assert runs(gate, (4, 10), (7, 12), (8, 12)) == [True, True, True]
    assert runs(settled, (4, 10), (7, 12), (8, 12)) == [False, False, True]


def test_what_is_not_known_is_not_running() -> None:
    gate = Gate(SPEC)
    assert runs(gate, (0, 5)) == [False]
    gate.push(power("#####", 10))
    assert runs(gate, (8, 12), (10, 14), (10, 15)) == [False, True, False]
    ends = np.array([13, 14, 15, 99]) * S + T0_S * S
    assert gate.n_known(ends) == 2
    gate.fall_silent()
    assert gate.n_known(ends) == 4


@pytest.mark.parametrize(
    ("comparison", "low", "high"),
    [(">", False, True), ("<", False, False), ("==", True, False), ("!=", False, True), (">=", True, True)],
)
def test_comparisons_take_values_as_float32_holds_them(comparison: Comparison, low: bool, high: bool) -> None:
    spec = GateSpec(device_id="meter", channel="Power", comparison=comparison, value=0.1)
    for value, expected in ((0.1, low), (0.7, high)):
        gate = Gate(spec)
        gate.push(block(np.full((10, 1), value), to="meter", channels=("Power",)))
        assert runs(gate, (0, 5)) == [expected]


def test_the_origin_is_part_of_the_value() -> None:
    gate = Gate(GateSpec(device_id="meter", channel="Power", comparison=">", value=105.0), origin=100.0)
    gate.push(power("#####"))
    assert runs(gate, (0, 4)) == [True]


def test_a_sample_from_the_future_does_not_blind_the_gate() -> None:
    gate = Gate(SPEC, 0.0, TIME)
    ahead = block(np.array([[9.0]]), 10**6, to="meter", channels=("Power",), arrival_s=1)
    assert not gate.hears(ahead)
    gate.push(ahead)
    gate.push(power("#####"))
    assert runs(gate, (0, 4), (100, 120)) == [True, False]


@settings(deadline=None)
@given(
    picture=st.text("#.?", min_size=1, max_size=60),
    order=st.randoms(use_true_random=False),
    cuts=st.lists(st.integers(1, 60)),
    jumble=st.booleans(),
)
def test_how_samples_are_grouped_does_not_show(
    picture: str, order: Random, cuts: list[int], jumble: bool
) -> None:
    whole = power(picture)
    times = whole.times().copy()
    if jumble:
        times = times[order.sample(range(times.size), times.size)]
    timed = SampleBlock.irregular(
        "meter", ("Power",), whole.values, time_ns=times, arrival_ns=whole.arrival_ns
    )
    one, many = Gate(SPEC), Gate(SPEC)
    one.push(timed)
    for piece in pieces(timed, cuts):
        many.push(piece)
        many.state = codec.unpack_state(codec.pack_state(many.state), GateState)
    assert one.state == many.state


def test_a_chattering_gate_stays_bounded() -> None:
    gate = Gate(SPEC)
    gate.push(power("#." * 10_000))
    assert len(gate.state.times) == 4096
    gate.forget_before((T0_S + 19_990) * S)
    assert len(gate.state.times) <= 11


def gated(settle_s: float = 0.0, **changes: Any) -> tuple[DevicePlan, DevicePlan]:
    spec = GateSpec(device_id="meter", channel="Power", comparison=">", value=5.0, settle_s=settle_s)
    meter = plan(device("meter", (Channel(name="Power", unit="kW"),)), model=None)
    return plan(gate=spec, **changes), meter


def resting(begin: int, end: int, n: int = 600) -> tuple[NDArray[np.float32], SampleBlock]:
    """A machine that rests from ``begin`` to ``end``, and reads nothing then; and its meter."""
    values = healthy(n)
    values[begin:end] = 0.0
    return values, power("#" * begin + "." * (end - begin) + "#" * (n - end))


def test_a_machine_at_rest_is_idle_and_neither_scored_nor_alarmed() -> None:
    values, meter = resting(200, 400)
    plant = Plant(*gated(settle_s=20)).play([block(values), meter]).finish()
    assert not plant.alerts()
    assert plant.states("d") == ["idle", "normal", "idle", "normal"]
    counters = plant.pipeline.counters()
    # Windows end every 5 s; those ending before 40 and in (200, 440) saw it at rest or settling.
    assert counters.window_drops[DropReason.INACTIVE] == 4 + 47
    assert sum(s.excluded.get("inactive", 0) for s in plant.summaries()) == 51
    ungated = Plant(plan()).play([block(values)]).finish()
    assert ungated.alerts()


def test_windows_wait_until_the_gate_is_known() -> None:
    values, meter = resting(200, 400)
    plant = Plant(*gated()).play([block(values)])
    assert plant.pipeline.counters().n_windows_pending == 117
    assert not plant.events
    for piece in pieces(meter, range(0, 600, 50)):
        plant.play([piece])
    assert plant.pipeline.counters().n_windows_pending <= 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 599), max_size=12))
def test_live_is_as_replay_whatever_comes_first(seed: int, cuts: list[int]) -> None:
    values, meter = resting(150, 420)
    values[100:140, 0] *= 1.3
    press = block(values)
    whole = Plant(*gated(10)).play([press, meter]).finish()
    parts = [pieces(press, cuts), pieces(meter, [c // 2 for c in cuts])]
    turns = np.repeat([0, 1], [len(p) for p in parts])
    np.random.default_rng(seed).shuffle(turns)
    queues = [iter(p) for p in parts]
    mixed = Plant(*gated(10)).play([next(queues[turn]) for turn in turns]).finish()
    assert mixed.wire("d") == whole.wire("d")
    assert mixed.pipeline.counters() == whole.pipeline.counters()


def test_an_open_alert_is_frozen_while_the_machine_rests() -> None:
    values, meter = resting(200, 400)
    values[150:200, 0] *= 1.3
    plant = Plant(*gated()).play([block(values), meter]).finish()
    assert story(plant.alerts()) == ["machine raised", "machine updated", "machine cleared"]
    assert all(alert.end_ns > (T0_S + 400) * S for alert in plant.alerts()[1:])
    assert plant.states("d") == ["normal", "anomalous", "idle", "anomalous", "normal"]


def test_a_flat_sensor_of_a_machine_at_rest_is_no_fault_but_limits_hold() -> None:
    values, meter = resting(200, 400)
    values[300:320, 0] = 6.0
    limit = LimitSpec(name="high", channel="Pressure", above=5.0)
    plant = Plant(*gated(limits=(limit,))).play([block(values), meter]).finish()
    assert story(plant.alerts()) == ["limit raised", "limit cleared"]


def test_behind_a_silent_gate_nothing_is_scored_and_nobody_waits() -> None:
    """Live: the meter dies at 100 s, comes back at 300 s."""
    values, _ = resting(0, 0)
    items: list[SampleBlock | float] = []
    for t in range(0, 600, 10):
        items.append(block(values[t : t + 10], t))
        if t < 100 or t >= 300:
            items.append(power("#" * 10, t))
        items.append(float(t + 10))
    plant = Plant(*gated()).play(items)
    assert story(plant.alerts()) == ["stale raised", "stale cleared"]
    assert all(alert.device == "meter" for alert in plant.alerts())
    counters = plant.pipeline.counters()
    assert counters.window_drops[DropReason.INACTIVE] == 42  # ends in (100, 310]
    assert counters.n_windows_pending <= 1
    assert plant.states("d") == ["normal", "idle", "normal"]


def test_a_gate_that_chatters_is_the_same_live_in_a_turn_and_in_replay() -> None:
    """More changes than a gate remembers, after a long run: nothing is forgotten before windows have asked."""
    n, hz = 400, 100
    meter = device("meter", (Channel(name="Power", unit="kW"),))
    meter = msgspec.structs.replace(meter, rate_hz=Fraction(hz))
    spec = WindowSpec(n=100, hop=100, rate_hz=Fraction(hz), mode=Mode.CONTINUOUS)
    press, _ = gated()
    plans = (press, plan(meter, spec, model=None))
    power_kw = np.full((n * hz, 1), 9.0)
    power_kw[300 * hz : 390 * hz] = 5.0 + np.random.default_rng(0).normal(size=(90 * hz, 1))
    whole = block(power_kw, to="meter", channels=("Power",), rate_hz=Fraction(hz))
    signal = block(healthy(n))

    def scored(items: list[SampleBlock], how: str) -> tuple[int, dict[DropReason, int]]:
        plant = Plant(*plans)
        core = Core(plant.pipeline, {p.engine: cast(Engine, Identity()) for p in plans}, plans)
        if how == "replay":
            list(play(items, core, recorded=True))
        for turn in [items] if how == "turn" else [[item] for item in items] if how == "live" else []:
            core.push(*turn)
        plant.finish()
        counters = plant.pipeline.counters()
        return counters.n_windows_scored, counters.window_drops

    rows = [pieces(signal, range(n)), pieces(whole, range(0, n * hz, hz))]
    mixed = [piece for pair in zip(*rows, strict=True) for piece in pair]
    live = scored(mixed, "live")
    assert live[0] > 50
    assert scored(mixed, "turn") == live
    assert scored(mixed, "replay") == live
    assert scored([signal, whole], "turn") == live


def test_in_one_turn_a_gate_and_what_it_gates_keep_their_order() -> None:
    """The meter is silent for a while, and what comes then waited in a queue."""
    before = [item for t in range(0, 200, 10) for item in (block(healthy(10), t), power("#" * 10, t))]
    silence = [item for t in range(200, 260, 10) for item in (block(healthy(10), t), float(t + 10))]
    after = [item for t in range(260, 320, 10) for item in (block(healthy(10), t), power("#" * 10, t))]
    one_by_one = Plant(*gated()).play([*before, *silence, *after])
    turn = Plant(*gated()).play([*before, *silence])
    Core(turn.pipeline, {p.engine: cast(Engine, Identity()) for p in turn.plans}, turn.plans).push(*after)
    turn.collect()
    assert turn.pipeline.counters() == one_by_one.pipeline.counters()
    assert turn.wire("d") == one_by_one.wire("d")


def test_only_the_silence_of_its_own_channel_blinds_a_gate() -> None:
    meter = plan(device("meter", (Channel(name="Power"), Channel(name="Voltage"))), model=None)
    press, _ = gated()
    items: list[SampleBlock | float] = []
    for t in range(0, 300, 10):
        items += [block(healthy(10), t), power("#" * 10, t), float(t + 10)]
    plant = Plant(press, meter).play(items)
    assert [a.message for a in plant.alerts()] == ["press-4: no data from meter (Voltage) for 30 s"]
    assert DropReason.INACTIVE not in plant.pipeline.counters().window_drops


def test_a_gate_whose_clock_is_set_back_opens_again() -> None:
    items: list[SampleBlock | float] = []
    for t in range(0, 400, 10):
        back = 5000 if t >= 100 else 0
        rows = power("#" * 10, t - back)
        rows = block(rows.values, t - back, to="meter", channels=("Power",), arrival_s=t + 10)
        items += [block(healthy(10), t - back, arrival_s=t + 10), rows, float(t + 10)]
    plant = Plant(*gated()).play(items)
    counters = plant.pipeline.counters()
    assert not plant.alerts("machine")
    assert counters.n_windows_scored > 50
    assert counters.n_windows_pending <= 2


def test_a_device_may_be_gated_by_a_channel_of_its_own() -> None:
    spec = GateSpec(device_id="d", channel="Current", comparison=">", value=1.0)
    values, _ = resting(200, 400)
    plant = Plant(plan(gate=spec)).play(pieces(block(values), range(0, 600, 13))).finish()
    assert not plant.alerts()
    assert plant.states() == ["normal", "idle", "normal"]
