"""What holds for every signal, every cut of it, every order of scores and every restart."""

from __future__ import annotations

from functools import cache
from typing import cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.assembly import Core
from edge_node.inference import Engine
from edge_node.plans import DevicePlan
from models.gating import GateSpec
from models.limits import LimitSpec
from models.recentring import RecentringSpec
from models.signal import Channel, DropReason, Mode, SampleBlock
from tests.edge_node.plant import T0_S, Identity, Plant, block, device, healthy, pieces, plan

METER = (Channel(name="Power", unit="kW"),)
LIMIT = LimitSpec(name="pressure-high", channel="Pressure", above=4.5, for_s=8)
N = 700


@cache
def plans() -> tuple[DevicePlan, ...]:
    """A press that is watched while its meter says that it runs, re-centred; a pump of irregular samples."""
    return (
        plan(
            device("press"),
            gate=GateSpec(device_id="meter", channel="Power", comparison=">", value=5.0, settle_s=10),
            limits=(LIMIT,),
            recentring=RecentringSpec(tau_windows=8.0),
        ),
        plan(device("meter", METER), model=None),
        plan(device("pump", mode=Mode.IRREGULAR), summary_s=120.0),
    )


@cache
def signal() -> tuple[SampleBlock, ...]:
    """One recording with everything in it, device by device."""
    press = healthy(N)
    press[200:260, 0] *= 1.2  # a fault
    press[300:350, 1] = 8.0  # a stuck sensor
    press[400:430, 0] = 5.0  # beyond the limit
    press[500:] *= 1.06  # a lasting step
    press[600:604] = np.nan
    power = np.full((N, 1), 9.0)
    power[100:150], power[640:660] = 0.0, np.nan
    power += np.random.default_rng(3).normal(size=power.shape) * 0.1
    pump = healthy(N, seed=4)
    pump[250:330, 1] *= 1.3
    times = np.arange(N) + np.random.default_rng(5).uniform(0, 0.9, N)
    shift = block(pump, to="pump")
    timed = SampleBlock.irregular(
        "pump",
        shift.channels,
        pump,
        time_ns=(times * 1e9).astype(np.int64) + np.int64(shift.start_ns or 0),
        arrival_ns=shift.arrival_ns,
    )
    return (block(press, to="press"), block(power, to="meter", channels=("Power",)), timed)


@cache
def told() -> Plant:
    return Plant(*plans()).play(signal()).finish()


def test_the_recording_has_everything_in_it() -> None:
    kinds = {f"{a.kind} {a.state}" for a in told().alerts()}
    assert {"machine raised", "machine cleared", "sensor raised", "sensor cleared", "limit raised"} <= kinds
    assert {"limit cleared", "drift raised"} <= kinds
    assert {"idle", "normal", "anomalous", "sensor_fault"} <= set(told().states("press"))
    drops = told().pipeline.counters().window_drops
    assert set(drops) == {DropReason.INACTIVE, DropReason.SENSOR_FAULT, DropReason.GAP, DropReason.NO_MODEL}
    assert len(told().summaries()) > 6


def interleaved(parts: list[list[SampleBlock]], seed: int) -> list[SampleBlock]:
    """The pieces of each device in order, the devices mixed."""
    turns = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    np.random.default_rng(seed).shuffle(turns)
    queues = [iter(p) for p in parts]
    return [next(queues[turn]) for turn in turns]


def features(plant: Plant) -> dict[bytes, int]:
    """Every feature row with how often it came, bit for bit."""
    rows: dict[bytes, int] = {}
    for matrix in plant.features:
        for row in matrix:
            rows[row.tobytes()] = rows.get(row.tobytes(), 0) + 1
    return rows


def assert_same(plant: Plant) -> None:
    for name in ("press", "meter", "pump"):
        assert plant.wire(name) == told().wire(name)
    assert features(plant) == features(told())
    assert plant.pipeline.counters() == told().pipeline.counters()


def test_sample_by_sample_is_in_one_piece() -> None:
    assert_same(Plant(*plans()).play(interleaved([pieces(b, range(N)) for b in signal()], 0)).finish())


def test_the_gate_may_come_first_or_last() -> None:
    press, meter, pump = signal()
    assert_same(Plant(*plans()).play([meter, press, pump]).finish())
    assert_same(Plant(*plans()).play([pump, press, *pieces(meter, range(0, N, 7))]).finish())


cuts = st.lists(st.integers(1, N - 1), max_size=8)


@settings(max_examples=40, deadline=None)
@given(cuts=st.tuples(cuts, cuts, cuts), seed=st.integers(0, 1000), turn=st.integers(1, 30))
def test_blocks_of_a_turn_are_as_blocks_one_by_one(cuts: tuple[list[int], ...], seed: int, turn: int) -> None:
    plant = Plant(*plans())
    engines = {one.engine: cast(Engine, Identity()) for one in plans()}
    core = Core(plant.pipeline, engines, plans())
    sent = interleaved([pieces(b, c) for b, c in zip(signal(), cuts, strict=True)], seed)
    for i in range(0, len(sent), turn):
        core.push(*sent[i : i + turn])
        plant.collect()
    plant.finish()
    for name in ("press", "meter", "pump"):
        assert plant.wire(name) == told().wire(name)
    assert plant.pipeline.counters() == told().pipeline.counters()


@settings(max_examples=40, deadline=None)
@given(cuts=st.tuples(cuts, cuts, cuts), seed=st.integers(0, 1000))
def test_random_pieces_are_in_one_piece(cuts: tuple[list[int], ...], seed: int) -> None:
    parts = [pieces(b, c) for b, c in zip(signal(), cuts, strict=True)]
    assert_same(Plant(*plans()).play(interleaved(parts, seed)).finish())


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.tuples(cuts, cuts, cuts),
    seed=st.integers(0, 1000),
    restarts=st.sets(st.integers(0, 25), max_size=3),
    data=st.data(),
)
def test_restarts_and_late_scores_in_any_order_do_not_show(
    cuts: tuple[list[int], ...], seed: int, restarts: set[int], data: st.DataObject
) -> None:
    """A process that dies with batches out, and with events that nobody took, goes on as if it had not."""
    plant = Plant(*plans(), max_batches_out=100)
    lived: list[Plant] = []
    parts = [pieces(b, c) for b, c in zip(signal(), cuts, strict=True)]
    for i, item in enumerate(interleaved(parts, seed)):
        plant.pipeline.push(item)
        if data.draw(st.booleans()):
            plant.pipeline.gather()
            if i in restarts:  # with windows whose features nobody has scored
                lived.append(plant)
                plant = plant.restarted(max_batches_out=100)
                continue
        plant.hold()
        while plant.held and bool(data.draw(st.booleans())):
            plant.give(plant.held.pop(data.draw(st.integers(0, len(plant.held) - 1))))
        if data.draw(st.booleans()):
            plant.collect()
        if i in restarts:
            lived.append(plant)
            plant = plant.restarted(max_batches_out=100)
    while plant.held:
        plant.give(plant.held.pop(data.draw(st.integers(0, len(plant.held) - 1))))
    plant.score()
    plant.finish()
    for name in ("press", "meter", "pump"):
        assert [m for p in (*lived, plant) for m in p.wire(name)] == told().wire(name)
    assert plant.pipeline.counters() == told().pipeline.counters()


def anything(kind: str, n: int, seed: int) -> NDArray[np.floating]:
    values: NDArray[np.floating] = healthy(n, seed)
    if kind == "wild":
        values = values * 1e30
    elif kind == "flat":
        values[:] = 3.0
    elif kind == "none":
        values[:] = np.nan
    elif kind == "holes":
        values[np.random.default_rng(seed).uniform(size=values.shape) < 0.3] = np.nan
    return values


steps = st.one_of(
    st.tuples(
        st.just("push"),
        st.sampled_from(["press", "meter", "pump", "nobody"]),
        st.sampled_from(["healthy", "wild", "flat", "none", "holes"]),
        st.integers(0, 200),
        st.sampled_from([0.0, 0.0, 0.0, 3.0, 40.0, -30.0, 5000.0, -1e9, 1e9]),
    ),
    st.tuples(st.just("advance"), st.sampled_from([0.5, 5.0, 40.0, 4000.0])),
    st.tuples(st.just("take")),
    st.tuples(st.just("score"), st.integers(0, 100)),
    st.tuples(st.just("fail"), st.integers(0, 100)),
    st.tuples(st.just("spoil"), st.integers(0, 100)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("finish")),
)


@settings(max_examples=150, deadline=None)
@given(script=st.lists(steps, max_size=40))
def test_nothing_is_lost_whatever_comes(script: list[tuple[object, ...]]) -> None:
    """Counters balance at every instant, whatever is sent, to whom, when; every raised alert is cleared or
    open; events come with distinct ids."""
    plant = Plant(*plans(), max_batches_out=3, max_waiting=30)
    clock = {"press": 0.0, "meter": 0.0, "pump": 0.0, "nobody": 0.0}
    now, ids = 0.0, []
    for step in script:
        match step:
            case ("push", str(name), str(kind), int(n), float(jump)):
                at = clock[name] + jump
                if abs(jump) < 1e8:
                    clock[name] = at + n
                now = max(now, clock[name])
                names = ("Power",) if name == "meter" else ("Pressure", "Current")
                values = anything(kind, n, n)[:, : len(names)]
                plant.pipeline.push(block(values, at, to=name, channels=names, arrival_s=now))
            case ("advance", float(by)):
                now += by
                plant.pipeline.advance(round((T0_S + now) * 1e9))
            case ("take",):
                plant.hold()
            case ("score" | "fail" | "spoil" as verb, int(i)) if plant.held:
                batch = plant.held.pop(i % len(plant.held))
                if verb == "fail":
                    plant.pipeline.failed(batch.batch_id, DropReason.INFERENCE_FAILED)
                elif verb == "spoil":
                    spoiled = np.full_like(batch.inputs, np.nan)
                    plant.pipeline.scored(batch.batch_id, spoiled, "cpu-float32", 0)
                else:
                    plant.give(batch)
            case ("restart",):
                ids += [e.event.message_id for e in plant.pipeline.events()]
                plant = plant.restarted(max_batches_out=3, max_waiting=30)
            case ("finish",):
                plant.pipeline.finish()
        plant.check()
        assert plant.pipeline.n_batches_out <= 3
    plant.collect()
    ids += [e.event.message_id for e in plant.events]
    assert len(set(ids)) == len(ids)
