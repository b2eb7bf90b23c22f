"""Marks of axes: few, at round places, told apart."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_node.report.axes import Span, by_magnitude, straight
from models.signal import NS_PER_S

DAY = 86_400


def span(first: str, seconds: float) -> Span:
    begin = int(np.datetime64(first, "ns").astype(np.int64))
    return Span(begin, begin + round(seconds * NS_PER_S))


@pytest.mark.parametrize(
    ("first", "seconds", "labels"),
    [
        ("2024-05-01T09:00:00", 5, [f"09:00:0{i}" for i in range(6)]),
        ("2024-05-01T09:59:58.5", 5, ["09:59:59", "10:00:00", "10:00:01", "10:00:02", "10:00:03"]),
        ("2024-05-01T09:10:00", 780, ["09:10", "09:12", "09:14", "09:16", "09:18", "09:20", "09:22"]),
        (
            "2024-05-01T20:00:00",
            8 * 3600,
            ["20:00", "21:00", "22:00", "23:00", "2 May", "01:00", "02:00", "03:00", "04:00"],
        ),
        (
            "2024-02-27T12:00:00",
            4 * DAY,
            ["12:00", "28 Feb", "12:00", "29 Feb", "12:00", "1 Mar", "12:00", "2 Mar", "12:00"],
        ),
        ("2024-04-28T00:00:00", 40 * DAY, ["29 Apr", "6 May", "13 May", "20 May", "27 May", "3 Jun"]),
        ("2023-10-15T00:00:00", 200 * DAY, ["Nov", "Dec", "Jan 2024", "Feb", "Mar", "Apr", "May"]),
        ("2019-10-15T00:00:00", 1500 * DAY, ["2020", "2021", "2022", "2023"]),
    ],
)
def test_times_are_marked_as_one_reads_them(first: str, seconds: float, labels: list[str]) -> None:
    found = [mark.label for mark in span(first, seconds).marks()]
    assert found == labels


@given(st.integers(0, 2 * 10**18), st.integers(0, 10**18))
def test_time_marks_are_few_and_ascend(first_ns: int, length_ns: int) -> None:
    of = Span(first_ns, first_ns + length_ns)
    marks = of.marks()
    assert len(marks) <= 10
    assert all(0 <= mark.at <= 1 for mark in marks)
    assert all(a.at < b.at for a, b in pairwise(marks))
    if length_ns > 2 * NS_PER_S:
        assert marks


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_value_marks_lie_within_and_are_told_apart(low: float, length: float) -> None:
    assume(length > 1e-7 * abs(low))  # float32 tells no more apart
    scale = straight(low, low + length)
    marks = scale.marks()
    assert 2 <= len(marks) <= 7
    assert all(0 <= mark.at <= 1 for mark in marks)
    assert len({mark.label for mark in marks}) == len(marks)
    assert max(len(mark.label) for mark in marks) <= 16
    inside = scale.place([low, low + length])
    assert 0 < inside[0] < inside[1] < 1


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e9))
def test_magnitudes_are_marked_at_round_numbers(low: float, ratio: float) -> None:
    scale = by_magnitude(low, low * ratio)
    marks = scale.marks()
    assert 1 <= len(marks) <= 9
    for mark in marks:
        value = scale.low * (scale.high / scale.low) ** mark.at
        assert math.isclose(float(mark.label), value, rel_tol=0.06)


def test_a_signal_that_never_changes_has_an_axis_all_the_same() -> None:
    for value in (0.0, 5.0, -1e-9):
        scale = straight(value, value)
        assert scale.place([value])[0] == pytest.approx(0.5)
        assert scale.marks()
