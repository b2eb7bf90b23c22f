"""A log played into the daemon: moved to now, in order, at its pace, and none of it lost to a full queue."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from edge_node.config_schema import ReplaySource
from edge_node.sources import SOURCES
from edge_node.sources.replay import MAX_ROWS, LogReplay
from models.recording import RecordingWriter, Tick
from models.signal import NS_PER_S, Channel, Device, Mode, SampleBlock

NOW = 1_700_000_000 * NS_PER_S + 123
T0 = 1_583_077_446


class Clock:
    """The gateway's clock: it only moves while the source sleeps."""

    def __init__(self) -> None:
        self.now_ns = NOW

    def __call__(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_ns += max(1, round(seconds * NS_PER_S))
        await asyncio.sleep(0)


class Taken:
    """The daemon's queue: keeps what it takes, and when; ``full`` times it refuses first."""

    def __init__(self, clock: Clock, full: int = 0) -> None:
        self.clock = clock
        self.full = full
        self.blocks: list[SampleBlock] = []
        self.at_ns: list[int] = []

    def __call__(self, block: SampleBlock) -> bool:
        if self.full:
            self.full -= 1
            return False
        self.blocks.append(block)
        self.at_ns.append(self.clock.now_ns)
        return True

    def times(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.concatenate([block.times() for block in self.blocks])


def play(
    config: ReplaySource, *, devices: dict[str, Device] | None = None, full: int = 0
) -> tuple[LogReplay, Taken]:
    clock = Clock()
    source = LogReplay(config, devices or {}, now_ns=clock, sleep=clock.sleep)
    taken = Taken(clock, full)
    asyncio.run(source.run(taken))
    return source, taken


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    path = tmp_path / "press.csv"
    path.write_text("t,x\n" + "".join(f"{T0 + i},{i}\n" for i in range(60)))
    return path


def test_rows_come_when_they_are_due(slow: Path) -> None:
    _, taken = play(ReplaySource(paths=(slow,), speed=1))
    assert [block.n for block in taken.blocks] == [1] * 60
    delays = np.array(taken.at_ns) - NOW
    assert np.abs(delays - np.arange(60) * NS_PER_S).max() < 1000
    # the log begins now, on whole seconds of its own
    shift = taken.times() - (T0 + np.arange(60)) * NS_PER_S
    assert set(shift.tolist()) == {(NOW - T0 * NS_PER_S) // NS_PER_S * NS_PER_S}
    ages = [block.arrival_ns - int(block.times()[-1]) for block in taken.blocks]
    assert min(ages) >= 0
    assert max(ages) < NS_PER_S + 1000


@pytest.mark.parametrize("speed", [0.5, 10, 1000])
def test_speed_is_of_the_rows_not_of_their_times(slow: Path, speed: float) -> None:
    _, taken = play(ReplaySource(paths=(slow,), speed=speed))
    assert (taken.at_ns[-1] - NOW) * speed == pytest.approx(59 * NS_PER_S, rel=1e-6)
    assert np.diff(taken.times()).tolist() == [NS_PER_S] * 59
    # never from the future, never old by more than slow motion makes it
    for block, at_ns in zip(taken.blocks, taken.at_ns, strict=True):
        assert block.arrival_ns >= int(block.times().max())
        assert block.arrival_ns >= at_ns or speed > 1


def test_max_does_not_wait(slow: Path) -> None:
    _, taken = play(ReplaySource(paths=(slow,), speed="max"))
    assert set(taken.at_ns) == {NOW}
    assert sum(block.n for block in taken.blocks) == 60


@pytest.mark.parametrize("speed", [10.0, "max"])
def test_a_full_queue_is_waited_for(slow: Path, speed: float) -> None:
    source, taken = play(ReplaySource(paths=(slow,), speed=speed), full=25)
    assert np.concatenate([b.values for b in taken.blocks]).ravel().tolist() == list(range(60))
    assert source.counters.n_samples == 60
    assert not source.counters.sample_drops
    assert source.reach.last_error is None


def test_our_own_recording_comes_as_it_came(tmp_path: Path) -> None:
    rate = Fraction(1000)
    blocks = [
        SampleBlock.uniform(
            "a",
            ("x",),
            np.full((1000, 1), i),
            start_ns=T0 * NS_PER_S + i * NS_PER_S,
            rate_hz=rate,
            arrival_ns=T0 * NS_PER_S + i * NS_PER_S + 1_250_000_000,
        )
        for i in range(5)
    ]
    path = tmp_path / "log.jsonl"
    with RecordingWriter(path) as log:
        for block in blocks:
            log.write(block)
            log.write(Tick(block.arrival_ns + 5))
    _, taken = play(ReplaySource(paths=(path,)))
    assert [(b.device_id, b.n, b.rate_hz) for b in taken.blocks] == [("a", 1000, rate)] * 5
    assert np.diff([b.start_ns for b in taken.blocks]).tolist() == [NS_PER_S] * 4
    assert np.abs(np.array(taken.at_ns) - NOW - np.arange(5) * NS_PER_S).max() < 1000
    # a block is as old on arrival as it was, to the second that the move is rounded to
    assert all(0 <= b.arrival_ns - (b.start_ns or 0) - 1_250_000_000 < NS_PER_S + 1000 for b in taken.blocks)


def test_blocks_fit_the_queue(tmp_path: Path) -> None:
    path = tmp_path / "fast.csv"
    path.write_text("t,x\n" + "".join(f"{T0 + i / 10000:.4f},{i}\n" for i in range(20_000)))
    _, taken = play(ReplaySource(paths=(path,), speed="max", rate_hz=Fraction(10_000)))
    assert max(block.n for block in taken.blocks) <= MAX_ROWS
    assert np.concatenate([b.values for b in taken.blocks]).ravel().tolist() == list(range(20_000))
    assert {block.rate_hz for block in taken.blocks} == {Fraction(10_000)}


def test_what_the_log_leaves_open_comes_from_the_device(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("t,p\n" + "".join(f"{T0 + i / 100},{101325 + i}\n" for i in range(50)))
    device = Device(
        device_id="press-4",
        machine="press-4",
        mode=Mode.CONTINUOUS,
        rate_hz=Fraction(100),
        channels=(Channel(name="p", origin=101325.0),),
    )
    _, taken = play(ReplaySource(paths=(path,), speed="max"), devices={"press-4": device})
    (block,) = taken.blocks
    assert (block.device_id, block.rate_hz) == ("press-4", Fraction(100))
    assert block.values.ravel().tolist() == list(range(50))


def test_a_log_that_cannot_be_read_ends_the_source_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("t,x\n" + "".join(f"{T0 + i},{i}\n" for i in range(200)) + f"{T0 + 200},broken\n")
    source, _ = play(ReplaySource(paths=(path,), speed="max"))
    assert source.reach.last_error is not None
    assert "line 202, column 'x': 'broken' is not a number" in source.reach.last_error
    assert not source.reach.connected


def test_it_is_one_of_the_sources(slow: Path) -> None:
    source = SOURCES["replay"](ReplaySource(paths=(slow,), name="old"), {})
    assert source.name == "old"
    assert not source.reach.connected


def test_cancelling_stops_it(slow: Path) -> None:
    async def main() -> int:
        source = LogReplay(ReplaySource(paths=(slow,)), {})
        clock = Clock()
        taken = Taken(clock)
        task = asyncio.create_task(source.run(taken))
        while not taken.blocks:
            await asyncio.sleep(0.001)
        assert source.reach.connected
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(taken.blocks)

    assert asyncio.run(main()) < 60


@pytest.mark.parametrize(("other", "expected"), [(100.0, "-95 -94"), (5.0, None)])
def test_a_log_of_several_devices_has_the_origins_on_which_they_agree(
    tmp_path: Path, other: float, expected: str | None
) -> None:
    path = tmp_path / "line.csv"
    path.write_text(f"t,device,p\n{T0},a,5\n{T0 + 1},b,6\n")
    devices = {
        name: Device(device_id=name, machine=name, channels=(Channel(name="p", origin=origin),))
        for name, origin in (("a", 100.0), ("b", other))
    }
    source, taken = play(ReplaySource(paths=(path,), speed="max"), devices=devices)
    values = np.concatenate([b.values for b in taken.blocks]).ravel() if taken.blocks else np.zeros(0)
    if expected is None:
        assert not taken.blocks
        assert source.reach.last_error is not None
        assert "'p'" in source.reach.last_error
    else:
        assert values.tolist() == [float(v) for v in expected.split()]
