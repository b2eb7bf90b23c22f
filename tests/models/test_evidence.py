"""The digest of an alert's raw signal: its definition, whatever the blocks."""

from __future__ import annotations

import hashlib
import struct
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evidence import evidence_of, rows_between
from models.signal import SampleBlock


def irregular(rows: list[tuple[int, float]], channels: tuple[str, ...] = ("x",)) -> SampleBlock:
    times = np.array([t for t, _ in rows], dtype=np.int64)
    values = np.array([[v] * len(channels) for _, v in rows], dtype=np.float32).reshape(
        len(rows), len(channels)
    )
    return SampleBlock.irregular("d", channels, values, time_ns=times, arrival_ns=0)


def test_the_digest_is_of_times_and_values_as_they_lie_in_memory() -> None:
    block = SampleBlock.uniform(
        "d",
        ("x", "y"),
        np.array([[1, 2], [3, 4], [5, 6]]),
        start_ns=10,
        rate_hz=Fraction(10**8),
        arrival_ns=0,
    )
    expected = struct.pack("<qff", 10, 1, 2) + struct.pack("<qff", 20, 3, 4)
    assert evidence_of([block], 10, 30) == "sha256:" + hashlib.sha256(expected).hexdigest()


def test_without_a_row_there_is_none() -> None:
    assert evidence_of([], 0, 10) is None
    assert evidence_of([irregular([(10, 1.0)])], 0, 10) is None


times = st.integers(0, 12)
values = st.integers(0, 3).map(float)
some_blocks = st.lists(
    st.tuples(st.lists(st.tuples(times, values), max_size=5), st.sampled_from([("x",), ("y", "z")])),
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(some_blocks, times, times)
def test_rows_are_in_order_of_event_time_and_then_of_arrival(
    given_blocks: list[tuple[list[tuple[int, float]], tuple[str, ...]]], start: int, end: int
) -> None:
    found = [irregular(rows, channels) for rows, channels in given_blocks]
    each = [(t, v, len(channels)) for rows, channels in given_blocks for t, v in rows if start <= t < end]
    expected = b"".join(struct.pack(f"<q{n}f", t, *[v] * n) for t, v, n in sorted(each, key=lambda r: r[0]))
    assert rows_between(found, start, end) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(times, values), max_size=12), st.integers(0, 12), times, times)
def test_how_rows_were_cut_into_blocks_does_not_matter(
    rows: list[tuple[int, float]], cut: int, start: int, end: int
) -> None:
    halves = [irregular(rows[:cut]), irregular(rows[cut:])]
    assert evidence_of(halves, start, end) == evidence_of([irregular(rows)], start, end)
