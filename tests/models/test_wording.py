"""How numbers are written: golden tables, and what must hold of any number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.signal import NS_PER_S
from models.wording import against, compared, duration, quantity, significant, times_normal


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (91.23, "°C", "91.2 °C"),
        (-25.44, "°C", "-25.4 °C"),
        (25.0, "°C", "25 °C"),
        (0.0004, "°C", "0.0004 °C"),  # no one says m°C
        (0.00213, "g", "2.13 mg"),
        (12345.0, "g", "12300 g"),  # not kg
        (12400.0, "rpm", "12400 rpm"),
        (101325.0, "Pa", "101 kPa"),
        (2.5e6, "Pa", "2.5 MPa"),
        (5e8, "W", "500 MW"),
        (-0.0004, "V", "-0.4 mV"),
        (1e-5, "V", "10 µV"),
        (0.05, "bar", "0.05 bar"),
        (0.0052, "bar", "5.2 mbar"),
        (0.0, "V", "0 V"),
        (-0.0, "V", "0 V"),
        (999.7, "", "1000"),
        (1.23456e8, "counts", "1.23e+08 counts"),
    ],
)
def test_a_quantity(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("observed", "low", "high", "unit", "texts"),
    [
        (2.3134, 2.9, 3.1, "bar", ("2.31 bar", "2.9 to 3.1")),
        (2.3134, 2.8934, 3.1021, "bar", ("2.31 bar", "2.89 to 3.10")),
        (254.123, 2.9, 3.1, "bar", ("254 bar", "2.9 to 3.1")),
        (3.1001, 2.9, 3.1, "bar", ("3.1001 bar", "2.9 to 3.1")),  # outside, and reads so
        (25.42, 25.1, 25.3, "°C", ("25.42 °C", "25.1 to 25.3")),
        (-12.3, -3.0, 4.0, "°C", ("-12.3 °C", "-3 to 4")),
        (101260.0, 101312.0, 101348.0, "Pa", ("101.26 kPa", "101.312 to 101.348")),
        (0.9, 0.00123, 0.0045, "g", ("0.9 g", "0.0012 to 0.0045")),
        (0.0061, 0.00123, 0.0045, "g", ("6.1 mg", "1.2 to 4.5")),
        (1234567.0, 1012.0, 1498.0, "rpm", ("1230000 rpm", "1010 to 1500")),
        (3.0, 2.9, 3.1, "bar", ("3 bar", "2.9 to 3.1")),
        (5.0, 4.0, 4.0, "V", ("5 V", "4 to 4")),
    ],
)
def test_what_was_observed_beside_its_range(
    observed: float, low: float, high: float, unit: str, texts: tuple[str, str]
) -> None:
    assert compared(observed, low, high, unit) == texts


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(numbers, numbers, numbers)
def test_ends_of_a_range_are_told_apart_and_what_is_outside_reads_so(a: float, b: float, seen: float) -> None:
    low, high = min(a, b), max(a, b)
    if high - low < 1e-9 * max(abs(low), abs(high)) + 1e-9:
        return
    text, ends = compared(seen, low, high, "rpm")
    first, second = (float(part) for part in ends.split(" to "))
    assert first < second
    assert abs(first - low) <= 0.06 * (high - low)
    assert abs(second - high) <= 0.06 * (high - low)
    shown = float(text.removesuffix(" rpm"))
    if seen < low - 0.1 * (high - low):
        assert shown < first
    if seen > high + 0.1 * (high - low):
        assert shown > second


@given(numbers, numbers)
def test_a_reading_beyond_a_bound_never_reads_as_the_bound(observed: float, bound: float) -> None:
    bound = float(f"{bound:.6g}")
    if abs(observed - bound) < 1e-6 * max(abs(observed), abs(bound)) + 1e-9:
        return
    seen, limit = (float(text.removesuffix(" °C")) for text in against(observed, bound, "°C"))
    assert limit == bound
    assert (seen > limit) == (observed > bound)
    assert seen != limit


@given(st.floats(1e-12, 1e15), st.sampled_from(["V", "g", "Pa", "°C", "m/s²", ""]))
def test_a_quantity_keeps_three_digits(value: float, unit: str) -> None:
    number, _, written = quantity(value, unit).partition(" ")
    power = {"µ": -6, "m": -3, "k": 3, "M": 6}.get(written.removesuffix(unit), 0)
    assert float(number) * 10.0**power == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (1.0, "1 times normal"),
        (1.04, "1.04 times normal"),
        (1.234, "1.2 times normal"),
        (3.14, "3.1 times normal"),
        (9.96, "10 times normal"),
        (31.4, "31 times normal"),
        (5e5, "more than 1000 times normal"),
        (math.inf, "more than 1000 times normal"),
        (0.996, "99.6 % of normal"),
        (0.4, "40 % of normal"),
        (0.0123, "1.2 % of normal"),
        (1e-5, "less than 0.1 % of normal"),
    ],
)
def test_times_normal(ratio: float, text: str) -> None:
    assert times_normal(ratio) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (-5.0, "0 s"),
        (0.1024, "0.1 s"),
        (2.5, "2.5 s"),
        (10.4, "10 s"),
        (60.0, "60 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (225.0, "4 min"),
        (240.0, "4 min"),
        (5940.0, "99 min"),
        (5999.0, "1 h 40 min"),
        (7199.0, "2 h"),
        (7200.0, "2 h"),
        (8400.0, "2 h 20 min"),
        (35_990.0, "10 h"),
        (100_000.0, "28 h"),
        (172_800.0, "2 days"),
        (400_000.0, "4.6 days"),
        (1e6, "12 days"),
    ],
)
def test_a_duration(seconds: float, text: str) -> None:
    assert duration(round(seconds * NS_PER_S)) == text


def test_significant_digits() -> None:
    assert [significant(v) for v in (0.0, 1.0, 0.12345, 123456.0, 0.00012)] == [
        "0",
        "1",
        "0.123",
        "123000",
        "0.00012",
    ]
    assert significant(1e-9) == "1.00e-09"
    assert significant(math.nan) == "nan"
