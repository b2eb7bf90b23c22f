"""The outline of a signal: no peak is lost, in bounded bins, however the rows came."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.report.envelope import MAX_BINS, Envelope, Outline
from models.signal import NS_PER_S

T0_NS = 1_700_000_000 * NS_PER_S
MS = 1_000_000


def outline(time_ns: NDArray[np.int64], values: NDArray[np.float64], *cuts: int) -> Outline:
    envelope = Envelope(values.shape[1])
    for part in np.split(np.arange(time_ns.size), sorted(cuts)):
        envelope.add(time_ns[part], values[part])
    return envelope.outline(0)


@settings(deadline=None)
@given(
    steps=st.lists(st.sampled_from([0, MS, 7 * MS, NS_PER_S, 3600 * NS_PER_S, -5 * NS_PER_S]), max_size=60),
    data=st.data(),
)
def test_every_value_lies_in_the_outline_of_its_bin_and_every_edge_is_a_value(
    steps: list[int], data: st.DataObject
) -> None:
    times = T0_NS + np.cumsum(np.array(steps, np.int64))
    values = np.array(
        data.draw(st.lists(st.integers(-100, 100), min_size=times.size, max_size=times.size)), np.float64
    )
    found = outline(times, values[:, None], *data.draw(st.lists(st.integers(0, times.size), max_size=3)))
    once = outline(times, values[:, None])
    for name in Outline.__slots__:
        assert getattr(found, name).tolist() == getattr(once, name).tolist()
    assert found.time_ns.size <= MAX_BINS
    if not times.size:
        return
    assert (np.diff(found.time_ns) > 0).all()
    # Its own bin is the nearest; of two as near the later one, for bins hold their beginnings.
    apart = np.abs(times[:, None] - found.time_ns[None, ::-1])
    nearest = found.time_ns.size - 1 - apart.argmin(axis=1)
    for i, (low, high) in enumerate(zip(found.low, found.high, strict=True)):
        assert {low, high} <= set(values.tolist())
        inside = values[nearest == i]
        assert (low, high) == (inside.min(), inside.max())
    assert (found.low.min(), found.high.max()) == (values.min(), values.max())


def test_one_peak_in_a_year_is_there() -> None:
    """Ten million seconds, one of which is not like the others."""
    envelope = Envelope(1)
    for begin in range(0, 10_000_000, 500_000):
        seconds = np.arange(begin, begin + 500_000)
        values = np.zeros((seconds.size, 1), np.float32)
        values[seconds == 7_654_321] = 9.0
        envelope.add(T0_NS + seconds * NS_PER_S, values)
    found = envelope.outline(0)
    assert MAX_BINS // 2 <= found.time_ns.size <= MAX_BINS
    (peak,) = np.flatnonzero(found.high == 9.0)
    assert abs(found.time_ns[peak] - T0_NS - 7_654_321 * NS_PER_S) <= np.diff(found.time_ns).max()
    assert found.fresh.tolist() == [True] + [False] * (found.time_ns.size - 1)


def test_missing_time_parts_the_line_and_seldom_samples_do_not() -> None:
    hourly = T0_NS + np.r_[0:50, 80:100] * 3600 * NS_PER_S
    found = outline(hourly, np.ones((70, 1)))
    assert np.flatnonzero(found.fresh).tolist() == [0, 50]


def test_missing_values_are_none_and_channels_stand_alone() -> None:
    times = T0_NS + np.arange(4) * NS_PER_S
    envelope = Envelope(2)
    envelope.add(times, np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan], [np.inf, np.nan]]))
    assert envelope.outline(0).low.tolist() == [1.0, 3.0]
    assert envelope.outline(1).time_ns.size == 0
