"""Rows that come at once and carry no time get times that differ, in the order in which they came."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_node.sources.arrivals import Arrivals
from models.signal import Channel, Clock, Device, Mode, SampleBlock

T = 1_770_000_000_000_000_000
MS = 1_000_000
OVEN = Device(
    device_id="oven",
    machine="oven",
    mode=Mode.IRREGULAR,
    rate_hz=Fraction(10),
    channels=(Channel(name="a"), Channel(name="b")),
)
PRESS = Device(device_id="press", machine="press", rate_hz=Fraction(1000), channels=(Channel(name="x"),))
DEVICES = {d.device_id: d for d in (OVEN, PRESS)}


def rows(
    n: int, *channels: str, at: int, clock: Clock = Clock.ARRIVAL, times: list[int] | None = None
) -> SampleBlock:
    stamps = np.array(times if times is not None else [at] * n, dtype=np.int64)
    values = np.zeros((n, len(channels)), np.float32)
    return SampleBlock.irregular("oven", channels, values, time_ns=stamps, arrival_ns=at, clock=clock)


def ms(blocks: list[SampleBlock], since: int = T) -> list[list[float]]:
    return [[(int(t) - since) / MS for t in block.times()] for block in blocks]


def test_rows_of_one_read_lie_an_interval_apart_and_end_on_arrival() -> None:
    [block] = Arrivals(DEVICES).spread([rows(3, "a", "b", at=T)], T)
    assert ms([block]) == [[-200, -100, 0]]
    assert block.arrival_ns == T


def test_what_has_less_room_than_that_shares_what_there_is() -> None:
    arrivals = Arrivals(DEVICES)
    arrivals.spread([rows(3, "a", at=T)], T)
    assert ms(arrivals.spread([rows(4, "a", at=T + 40 * MS)], T + 40 * MS)) == [[10, 20, 30, 40]]
    assert ms(arrivals.spread([rows(2, "a", at=T + 340 * MS)], T + 340 * MS)) == [[240, 340]]


def test_no_room_at_all_makes_no_two_rows_one() -> None:
    arrivals = Arrivals(DEVICES)
    arrivals.spread([rows(1, "a", at=T)], T)
    first = arrivals.spread([rows(3, "a", at=T + 1)], T + 1)
    assert ms(first) == [[0.001, 0.002, 0.003]]
    assert ms(arrivals.spread([rows(1, "a", at=T + 100)], T + 100)) == [[0.004]]


def test_a_clock_that_was_set_back_is_followed() -> None:
    arrivals = Arrivals(DEVICES)
    arrivals.spread([rows(2, "a", at=T)], T)
    back = T - 3600 * 1000 * MS
    assert ms(arrivals.spread([rows(2, "a", at=back)], back), back) == [[-100, 0]]


def test_channels_that_come_in_rows_of_their_own_do_not_wait_for_each_other() -> None:
    came = [rows(1, channel, at=T) for channel in "abab"]
    a, b = Arrivals(DEVICES).spread(came, T)
    assert (a.channels, b.channels) == (("a",), ("b",))
    assert ms([a, b]) == [[-100, 0], [-100, 0]]


def test_a_row_that_lacks_a_channel_keeps_its_place() -> None:
    came = [rows(1, "a", "b", at=T), rows(1, "a", at=T), rows(1, "a", "b", at=T)]
    both, one = Arrivals(DEVICES).spread(came, T)
    assert (both.channels, one.channels) == (("a", "b"), ("a",))
    assert ms([both, one]) == [[-200, 0], [-100]]


def test_rows_with_a_time_keep_it() -> None:
    timed = rows(2, "a", at=T, clock=Clock.DEVICE, times=[T - 5, T - 5])
    assert Arrivals(DEVICES).spread([timed], T)[0] is timed


def test_rows_of_a_continuous_device_are_joined_and_end_on_arrival() -> None:
    came = [
        SampleBlock.uniform(
            "press",
            ("x",),
            np.array([[i]], np.float32),
            start_ns=T,
            rate_hz=Fraction(1000),
            arrival_ns=T,
            clock=Clock.ARRIVAL,
        )
        for i in range(4)
    ]
    [block] = Arrivals(DEVICES).spread(came, T)
    assert ms([block]) == [[-3, -2, -1, 0]]
    assert block.values.tolist() == [[0], [1], [2], [3]]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 400 * MS),
            st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["a", "b", "ab"])), min_size=1, max_size=6),
        ),
        max_size=8,
    )
)
def test_times_of_a_channel_only_increase(reads: list[tuple[int, list[tuple[int, str]]]]) -> None:
    arrivals, at = Arrivals(DEVICES), T
    last: dict[str, int] = {}
    for later, came in reads:
        at += later
        blocks = arrivals.spread([rows(n, *channels, at=at) for n, channels in came], at)
        assert sum(b.n for b in blocks) == sum(n for n, _ in came)
        for channel in "ab":
            times = sorted(int(t) for b in blocks if channel in b.channels for t in b.times())
            if times:
                assert times[0] - last.get(channel, 0) >= 1000
                assert np.all(np.diff(times) >= 1000)
                last[channel] = times[-1]
