"""The black box on disk: what a kill leaves, what bounds and a full disk cost."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_node.config_schema import BlackBox
from edge_node.ring import Begin, Ring, segment_bytes
from edge_node.segments import load
from models.evidence import Mark
from models.logs import LogItem, Tick
from models.recording import read_log
from models.signal import NS_PER_S, SampleBlock
from tests.edge_node.disks import filled, small_disk
from tests.models.test_recording import key

BEGIN = Begin((), b"state" * 10, True)
NOW_NS = 1_000_000 * NS_PER_S


def options(**more: Any) -> BlackBox:
    return BlackBox(**({"min_free_bytes": 0} | more))


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def ring(folder: Path, clock: Callable[[], float] = lambda: 0.0, **more: Any) -> Ring:
    made = Ring(folder / "blackbox", options(**more), clock)
    made.recover()
    return made


def noise(i: int, n: int = 100, age_s: float = 0.0) -> list[LogItem]:
    """A block that nothing compresses, and a tick."""
    at = NOW_NS - round(age_s * NS_PER_S) + i
    values = np.random.default_rng(i).integers(0, 2**31, (n, 2), dtype=np.int32).view(np.float32)
    block = SampleBlock.uniform("d", ("x", "y"), values, start_ns=at, rate_hz=Fraction(10**9), arrival_ns=at)
    return [block, Tick(at)]


def mark(age_s: float = 0.0) -> Mark:
    at = NOW_NS - round(age_s * NS_PER_S)
    return Mark(
        alert_id="a",
        seq=0,
        device="d",
        kind="limit",
        state="raised",
        start_ns=at,
        end_ns=at,
        said_ns=at,
        evidence=None,
    )


def items(folder: Path) -> list[object]:
    return [key(item) for segment in load(folder / "blackbox") for item in read_log(segment.path)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_kill_left_of_the_last_file_is_taken_up(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    killed = ring(folder)
    killed.begin(BEGIN)
    killed.append(noise(0))
    killed.begin(BEGIN)
    ends = []
    (path,) = [s.path for s in load(folder / "blackbox") if not s.is_closed]
    ends.append(path.stat().st_size)
    for i in range(1, 5):
        killed.append([*noise(i), *([mark()] if i == 2 else [])])
        ends.append(path.stat().st_size)
    at = data.draw(st.integers(0, ends[-1]))
    torn = path.read_bytes()[:at] + data.draw(st.binary(max_size=40))
    path.write_bytes(torn)
    n_whole = sum(end <= at for end in ends[1:])
    said = ring(folder)
    after = Ring(folder / "blackbox", options(), lambda: 0.0)
    assert after.recover() == []  # it was finished the first time
    assert len(items(folder)) >= 2 * (1 + n_whole)
    assert items(folder)[: 2 * (1 + n_whole)] == [key(i) for n in range(1 + n_whole) for i in noise(n)]
    assert len(items(folder)) <= 2 * (1 + n_whole) + 2
    assert all(segment.is_closed for segment in load(folder / "blackbox"))
    said.begin(BEGIN)
    said.append(noise(9))
    numbers = [segment.number for segment in load(folder / "blackbox")]
    assert numbers == sorted(set(numbers))
    assert not load(folder / "blackbox")[-1].head.follows  # nobody knows what came between


def test_a_file_follows_the_one_before_it_in_one_process(tmp_path: Path) -> None:
    one = ring(tmp_path)
    for i, follows in enumerate((True, True, False)):
        one.begin(Begin((), b"", follows))
        one.append(noise(i))
    one.end()
    assert [segment.head.follows for segment in load(tmp_path / "blackbox")] == [False, True, False]


def test_a_file_without_a_block_or_tick_leaves_nothing(tmp_path: Path) -> None:
    one = ring(tmp_path)
    one.begin(BEGIN)
    one.begin(BEGIN)
    one.end()
    assert list((tmp_path / "blackbox").iterdir()) == []


def test_bytes_are_bounded_with_the_file_that_is_being_written(tmp_path: Path) -> None:
    one = ring(tmp_path, max_bytes=1_000_000)
    most = segment_bytes(one.options, 0)
    for i in range(40):
        if i % 4 == 0:
            one.begin(BEGIN)
        one.append(noise(i, n=most // 32))  # a quarter of a file
        assert sum(f.stat().st_size for f in (tmp_path / "blackbox").iterdir()) <= 1_000_000
    assert one.removed["bytes"] >= 1
    assert one.holding().ring_bytes > 700_000


def test_age_is_bounded_and_alerts_are_kept_longer(tmp_path: Path) -> None:
    clock = Clock()
    one = ring(tmp_path, clock, hours=1.0, keep_days=1.0)
    last_s = 90_000.0
    for i, age_s in enumerate((90_000, 80_000, 70_000, 3_000, 10)):
        clock.now_s += last_s - age_s
        last_s = age_s
        one.begin(BEGIN)
        one.append([*noise(i, age_s=age_s), *([mark(age_s)] if i < 2 else [])])
    clock.now_s += last_s
    one.begin(BEGIN)
    assert {reason.value: n for reason, n in one.removed.items()} == {"keep_days": 1, "hours": 1}
    there = one.holding()
    assert (there.n_ring, there.n_kept) == (3, 1)
    assert there.oldest_ns == noise(1, age_s=80_000)[1].now_ns  # type: ignore[union-attr]
    one.append(noise(7))
    one.end()
    clock.now_s = 5.0  # the computer was started again, and this goes on from what it left
    again = Ring(tmp_path / "blackbox", one.options, clock)
    again.recover()
    assert (again.holding().n_ring, again.holding().n_kept) == (3, 1)
    clock.now_s += 1_000
    again.begin(BEGIN)
    assert (again.holding().n_ring, again.holding().n_kept) == (
        3,
        1,
    )  # the new one among them: another is too old
    clock.now_s += 10_000
    again.begin(BEGIN)
    assert (again.holding().n_ring, again.holding().n_kept) == (1, 0)


@pytest.mark.parametrize("years", [-60, 11])
def test_a_clock_that_is_set_makes_nothing_old(tmp_path: Path, years: int) -> None:
    one = ring(tmp_path, hours=1.0, keep_days=1.0)
    for i, age_s in enumerate((20, 10, years * -3e7)):
        one.begin(BEGIN)
        one.append([*noise(i, age_s=age_s), mark(age_s)])
    one.append(noise(3))  # and in the midst of a file
    again = ring(tmp_path, hours=1.0, keep_days=1.0)
    again.begin(BEGIN)
    assert not again.removed
    assert len(items(tmp_path)) == 8


def test_so_much_stays_free_as_is_asked_for(tmp_path: Path) -> None:
    with small_disk(tmp_path, "4m") as disk:
        one = ring(disk, min_free_bytes=2_000_000)
        for i in range(60):
            if i % 4 == 0:
                one.begin(BEGIN)
            one.append(noise(i, n=12_500))  # 100 kB
        assert one.removed["free_space"] > 0
        assert sum(f.stat().st_size for f in (disk / "blackbox").iterdir()) < 2_300_000


def test_a_disk_that_others_filled_costs_old_files_then_the_new(tmp_path: Path) -> None:
    with small_disk(tmp_path, "2m") as disk:
        one = ring(disk)
        for i in range(2):
            one.begin(BEGIN)
            one.append(noise(i, n=30_000))
        filled(disk)
        one.append(noise(2, n=20_000))
        assert one.removed["free_space"] == 1
        filled(disk)
        with pytest.raises(OSError, match="the disk is full"):
            one.append(noise(3, n=30_000))
        assert items(disk) == [
            key(item) for n, rows in ((1, 30_000), (2, 20_000)) for item in noise(n, n=rows)
        ]
        with pytest.raises(OSError, match="free"):
            one.probe()
        (disk / "filler").unlink()
        one.probe()
        one.append(noise(4))
        one.end()
        assert len(items(disk)) == 6


def test_what_cannot_be_read_is_left_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    one = ring(tmp_path)
    one.begin(BEGIN)
    one.append(noise(0))
    one.end()
    (path,) = (tmp_path / "blackbox").iterdir()
    newer = path.with_name("0000000007.blocks")
    newer.mkdir()
    two = Ring(tmp_path / "blackbox", options(), lambda: 0.0)
    (said,) = two.recover()
    assert "0000000007.blocks" in said
    two.begin(BEGIN)
    assert (tmp_path / "blackbox" / "0000000008.blocks").exists()
