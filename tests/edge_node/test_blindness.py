"""A device that sends and of which nothing is seen is told, with the reason; one that is silent, idle or well is not."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from edge_node.blindness import Blindness
from models.gating import GateSpec
from models.signal import Channel, SampleBlock
from tests.edge_node.plant import T0_S, TIME, Plant, S, block, device, healthy, pieces, plan

N = 600
PATIENCE_S = 30 + 4 + 2 * 20  # stale after, lateness, two windows


def watched(plant: Plant, blocks: Iterator[SampleBlock]) -> list[str | None]:
    """What is said of the device "d" as ``blocks`` of 10 s come, one every 10 s."""
    watch = Blindness(plant.plans)
    said = []
    for i, item in enumerate(blocks):
        now_s = 10 * (i + 1)
        plant.play([item])
        if watch.due(now_s):
            watch.step(plant.pipeline.counters_by_device(), (T0_S + now_s) * S, now_s)
        said.append(watch.blind.get("d"))
    return said


def rows() -> list[SampleBlock]:
    return pieces(block(healthy(N)), range(0, N, 10))


def moved(by_s: int, items: list[SampleBlock]) -> list[SampleBlock]:
    """Stamped otherwise than they were taken."""
    return [msgspec.structs.replace(b, start_ns=(b.start_ns or 0) + by_s * S) for b in items]


def test_a_device_that_is_well_is_not_blind() -> None:
    assert set(watched(Plant(plan()), iter(rows()))) == {None}


def test_windows_that_lack_samples() -> None:
    """Every other block is lost, and each window must be whole."""
    whole = plan(time=msgspec.structs.replace(TIME, min_valid=1.0, hold_s=0))
    said = watched(Plant(whole), (b for i, b in enumerate(rows()) if i % 2 or i < 9))
    begins = next(i for i, text in enumerate(said) if text)
    text = said[-1]
    assert text is not None
    assert all(said[begins:])
    assert text.startswith("nothing is seen of d, though it sends: its last ")
    assert "were dropped as gap: they lack samples, and 100% of each channel must be there" in text
    assert text.endswith("does a channel come more rarely than the others (hold_s, or a device of its own)?")


@pytest.mark.parametrize(
    ("by_s", "reason"),
    [
        (-T0_S, "too_old: their times are more than 604800 s ago; is time_unit right"),
        (3600, "future: their times are more than 60 s ahead of this gateway's clock, which reads 2023-"),
    ],
)
def test_times_that_cannot_be(by_s: int, reason: str) -> None:
    timed = plan(time=msgspec.structs.replace(TIME, max_age_s=7 * 86400.0))
    items = rows()
    said = watched(Plant(timed), iter(items[:20] + moved(by_s, items[20:])))
    assert said[: 20 + PATIENCE_S // 10 - 2] == [None] * (20 + PATIENCE_S // 10 - 2)
    assert said[-1] is not None
    assert reason in said[-1]


def test_one_block_ahead_of_its_time() -> None:
    """What comes after it lies in its past, until time has caught up: then all is well."""
    slow = plan(time=msgspec.structs.replace(TIME, max_future_s=500.0, reset_after_s=1000.0))
    items = rows()
    said = watched(Plant(slow), iter(items[:20] + moved(250, items[20:21]) + items[21:]))
    late = [text for text in said if text]
    assert late
    assert "dropped as late: their times lie before what has been judged already" in late[0]
    assert said[-1] is None


def test_silence_and_rest_are_not_blindness() -> None:
    items = rows()
    plant = Plant(plan()).play(items[:20])
    watch = Blindness(plant.plans)
    for now_s in range(200, 1000, 10):
        plant.play([float(now_s)])
        assert not watch.step(plant.pipeline.counters_by_device(), 0, now_s)
    gate = GateSpec(device_id="meter", channel="Power", comparison=">", value=5.0)
    meter = plan(device("meter", (Channel(name="Power"),)), model=None)
    plant = Plant(plan(gate=gate), meter)
    watch = Blindness(plant.plans)
    for i, item in enumerate(items):
        off = block([[0.0]] * 10, 10 * i, to="meter", channels=("Power",))
        plant.play([item, off])
        watch.step(plant.pipeline.counters_by_device(), 0, 10.0 * i)
        assert not watch.blind
