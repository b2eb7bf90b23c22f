"""Arrivals and ticks for logs without: by the rows alone, however they were cut into blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.replay_clock import Timing, with_clock
from models.logs import Tick
from models.signal import NS_PER_S, SampleBlock

S = NS_PER_S
FINE = 1 * S
TIMING = Timing(
    fine_ns=FINE,
    coarse_ns=8 * S,
    span_ns=600 * S,
    horizon_ns=100 * S,
    closing_ns=3 * S,
    stale_ns={"a": 64 * S, "b": 64 * S},
    merge=False,
)
SEVERAL = dataclasses.replace(TIMING, merge=True, span_ns=TIMING.coarse_ns)


def block(
    times_s: Iterable[float], values: NDArray[np.float32] | None = None, device: str = "a"
) -> SampleBlock:
    times = np.array([round(t * S) for t in times_s], np.int64)
    matrix = np.ones((len(times), 2), np.float32) if values is None else values
    return SampleBlock.irregular(device, ("x", "y"), matrix, time_ns=times, arrival_ns=int(times.max()))


def flat(items: Iterable[SampleBlock | Tick]) -> list[tuple[str, float]]:
    """Ticks, and rows by their times, in seconds, in order."""
    found: list[tuple[str, float]] = []
    for item in items:
        if isinstance(item, Tick):
            found.append(("tick", item.now_ns / S))
        else:
            found += [(item.device_id, t / S) for t in item.times().tolist()]
    return found


def arrivals(items: Iterable[SampleBlock | Tick]) -> list[tuple[float, float]]:
    """(time, arrival) of each piece's last row."""
    return [(int(i.times()[-1]) / S, i.arrival_ns / S) for i in items if isinstance(i, SampleBlock)]


steps = st.one_of(
    st.sampled_from([1.0, 1.0, 1.0, 1.0, 0.5, 3.0]),
    st.sampled_from([9.0, 63.0, 64.0, 65.0, 200.0, -2.0, -30.0, -500.0]),
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_order_and_ticks_do_not_depend_on_how_rows_are_cut(data: st.DataObject) -> None:
    walk = data.draw(st.lists(steps, min_size=2, max_size=60))
    times = 1000.25 + np.cumsum(walk)
    for i in data.draw(st.lists(st.integers(0, len(times) - 1), max_size=2)):
        times[i] += 3600.0  # a clock that was wrong once
    values = np.ones((len(times), 2), np.float32)
    for i in data.draw(st.lists(st.integers(0, len(times) - 1), max_size=10)):
        values[i, i % 2] = np.nan
    cuts = sorted(data.draw(st.sets(st.integers(1, len(times) - 1), max_size=6)))
    bounds = [0, *cuts, len(times)]
    parts = [block(times[i:j], values[i:j]) for i, j in pairwise(bounds)]
    whole = list(with_clock([block(times, values)], TIMING))
    cut = list(with_clock(parts, TIMING))
    assert flat(cut) == flat(whole)
    for found in (whole, cut):
        arrived = [a for _, a in arrivals(found)]
        assert arrived == sorted(arrived)
    # what arrives when is the same too: where a cut adds a piece, its last row has the arrival of that row alone
    rows = [(i, p) for i, p in enumerate(whole) if isinstance(p, SampleBlock)]
    single = list(with_clock([block([t], values[i : i + 1]) for i, t in enumerate(times)], TIMING))
    assert flat(single) == flat(whole)
    by_row = arrivals(single)
    n = 0
    for _, piece in rows:
        n += piece.n
        assert by_row[n - 1] == (int(piece.times()[-1]) / S, piece.arrival_ns / S)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_devices_are_merged_by_arrival_however_they_come(data: st.DataObject) -> None:
    blocks: list[SampleBlock] = []
    for device in "ab":
        times = 1000.25 + np.cumsum(
            data.draw(st.lists(st.sampled_from([1.0, 2.5, 70.0]), min_size=2, max_size=30))
        )
        cut = data.draw(st.integers(1, len(times) - 1))
        blocks += [block(times[:cut], device=device), block(times[cut:], device=device)]
    found = flat(with_clock(blocks, SEVERAL))
    rows = [t for kind, t in found if kind != "tick"]
    assert len(rows) == sum(b.n for b in blocks)
    # whenever the clock ticks, all that arrived before has come and nothing that arrives later
    for i, (kind, t) in enumerate(found):
        if kind == "tick" and i < len(found) - 1:
            assert max((r for k, r in found[:i] if k != "tick"), default=0.0) < t + TIMING.coarse_ns / S
            assert min(r for k, r in found[i:] if k != "tick") >= t
    assert flat(with_clock(blocks[2:] + blocks[:2], SEVERAL))[-1] == found[-1]


def test_a_device_is_stale_at_the_instant_it_becomes_so_though_another_goes_on() -> None:
    going = block(np.arange(1000.5, 1200), device="a")
    silent = block(np.arange(1000.3, 1050), device="b")
    ticks = [t for kind, t in flat(with_clock([going, silent], SEVERAL)) if kind == "tick"]
    assert 1049.3 + 64 in ticks
    assert ticks == sorted(ticks)
    found = flat(with_clock([going, silent], SEVERAL))
    i = found.index(("tick", 1049.3 + 64))
    assert ("a", 1112.5) in found[:i]
    assert ("a", 1122.5) in found[i:]


def test_a_silence_ticks_finely_and_not_for_ever() -> None:
    found = flat(with_clock([block([1000.5, 1001.5, 90_000.0])], TIMING))
    ticks = [t for kind, t in found if kind == "tick"]
    assert ticks[:3] == [1002, 1003, 1004]
    assert 1001.5 + 64 in ticks
    assert len(ticks) < 110
    assert ticks[-2:] == [90_000.0, 90_003.0]  # the row that ends it; the end of the log


def test_a_whole_signal_goes_on_in_long_pieces_and_a_broken_one_in_short_ones() -> None:
    times = np.arange(1200.0, 1800.0)
    assert [i.n for i in with_clock([block(times)], TIMING) if isinstance(i, SampleBlock)] == [599, 1]
    values = np.ones((600, 2), np.float32)
    values[100:, 1] = np.nan
    items = list(with_clock([block(times, values)], TIMING))
    pieces = [i for i in items if isinstance(i, SampleBlock)]
    assert pieces[0].n == 100
    # the channel that is gone must be noticed
    assert [i.now_ns // S for i in items if isinstance(i, Tick)][:-1] == list(range(1304, 1800, 8))
    assert {p.n for p in pieces[2:-2]} == {8}


def test_a_row_from_the_future_does_not_move_the_clock() -> None:
    times = [1000.0, 1001.0, 5000.0, 1003.0, 1004.0]
    found = arrivals(with_clock([block(times)], TIMING))
    assert (5000.0, 1003.0) in found
    assert found[-1] == (1004.0, 1004.0)


def test_a_late_row_arrives_when_the_row_before_it_did() -> None:
    found = arrivals(with_clock([block([1000.0, 1001.0, 1002.0, 995.0, 1003.0, 1004.0])], TIMING))
    assert [a for t, a in found if t == 995.0] == [1002.0]


def test_a_clock_set_back_for_good_goes_on() -> None:
    times = [*np.arange(5000.0, 5100.0), *np.arange(1000.0, 1300.0)]
    whole = list(with_clock([block(times)], TIMING))
    found = dict(arrivals(whole))
    assert 5290 < found[1299.0] < 5400
    assert max(t for kind, t in flat(whole) if kind == "tick") < 5410


def test_a_uniform_block_is_cut_at_silences_only() -> None:
    rate = Fraction(1000)
    blocks = [
        SampleBlock.uniform(
            "a", ("x", "y"), np.ones((4000, 2)), start_ns=start * S, rate_hz=rate, arrival_ns=(start + 4) * S
        )
        for start in (1200, 1204, 1300)
    ]
    items = list(with_clock(blocks, TIMING))
    kinds = [("t" if isinstance(i, Tick) else i.n) for i in items]
    assert kinds[:2] == [4000, 4000]
    assert set(kinds[2:-2]) == {"t"}
    assert kinds[-2:] == [4000, "t"]
    assert items[-2].arrival_ns == 1303_999_000_000  # type: ignore[union-attr]


def test_recordings_keep_their_arrivals() -> None:
    late = msgspec.structs.replace(block([1000.0, 1001.0]), arrival_ns=1070 * S)
    first = msgspec.structs.replace(block([990.0]), arrival_ns=990 * S)
    items = list(with_clock([first, late], TIMING, arrived=True))
    assert items[0] is first
    assert items[-2] is late
    assert [i.now_ns // S for i in items if isinstance(i, Tick)][-2:] == [1070, 1073]


@pytest.mark.parametrize("timing", [TIMING, SEVERAL])
def test_no_rows_no_ticks(timing: Timing) -> None:
    assert list(with_clock([], timing)) == []
