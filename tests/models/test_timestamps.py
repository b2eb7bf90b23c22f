"""Times as people and machines write them; local time over the two changes of a year."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from pathlib import Path

import numpy as np
import pytest
from arro3.core import Array, DataType
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.logs import LogError, LogOptions
from models.signal import NS_PER_S
from models.timestamps import TimeColumn
from models.timezones import LocalTime

PATH = Path("log.csv")


def parse(*texts: str | None, name: str = "time", options: LogOptions | None = None) -> list[str | None]:
    """UTC of each text as ISO 8601; None where it is no time."""
    column = TimeColumn(PATH, name, [t for t in texts if t], options or LogOptions(timezone="UTC"))
    times, bad = column.parse(Array(list(texts), type=DataType.utf8()))
    return [None if b else str(np.datetime64(int(t), "ns")) for t, b in zip(times, bad, strict=True)]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("2020-03-01 15:44:06", "2020-03-01T15:44:06.000000000"),
        ("2020-03-01T15:44:06.123456789Z", "2020-03-01T15:44:06.123456789"),
        ("2020-03-01T15:44:06.5+01:00", "2020-03-01T14:44:06.500000000"),
        ("2020-03-01 15:44:06 +0100", "2020-03-01T14:44:06.000000000"),
        ("2020-03-01 15:44:06 UTC", "2020-03-01T15:44:06.000000000"),
        ("2020-03-01 15:44:06+01", "2020-03-01T14:44:06.000000000"),
        ("2020-03-01 15:44", "2020-03-01T15:44:00.000000000"),
        ("2020-03-01", "2020-03-01T00:00:00.000000000"),
        ("2020/3/1 5:44:06", "2020-03-01T05:44:06.000000000"),
        (" 01.03.2020 15:44:06,25", "2020-03-01T15:44:06.250000000"),
        ("1.3.20 15:44", "2020-03-01T15:44:00.000000000"),
        ("1583077446", "2020-03-01T15:44:06.000000000"),
        ("1583077446.123456", "2020-03-01T15:44:06.123456000"),
        ("1.583077446e9", "2020-03-01T15:44:06.000000000"),
        ("1583077446123", "2020-03-01T15:44:06.123000000"),
        ("1583077446123456", "2020-03-01T15:44:06.123456000"),
        ("1583077446123456789", "2020-03-01T15:44:06.123456789"),
        ("0.125", "1970-01-01T00:00:00.125000000"),
    ],
)
def test_forms(text: str, want: str) -> None:
    assert parse(text) == [want]


def test_the_unit_of_numbers_by_name_option_or_size() -> None:
    assert parse("250", name="t_ms") == ["1970-01-01T00:00:00.250000000"]
    assert parse("250", name="Time [us]") == ["1970-01-01T00:00:00.000250000"]
    assert parse("250", options=LogOptions(time_unit="ns")) == ["1970-01-01T00:00:00.000000250"]


def test_elapsed_times_count_from_the_start_that_is_given() -> None:
    options = LogOptions(start_ns=1583077446 * NS_PER_S)
    assert parse("0.5", options=options) == ["2020-03-01T15:44:06.500000000"]
    assert parse("1583077446", options=options) == ["2020-03-01T15:44:06.000000000"]


def test_what_is_no_time_is_told_row_by_row() -> None:
    got = parse(
        "2020-03-01 15:44:06", "", "soon", "2020-13-01 00:00:00", "2020-02-30", "1.3.2020", None, "2020-03-01"
    )
    assert [time is None for time in got] == [False, True, True, True, True, False, True, False]
    assert parse("1583077446", "1583077447", "x", "nan", "inf", "1e300")[2:] == [None] * 4


def test_a_format_of_ones_own() -> None:
    options = LogOptions(time_format="%m/%d/%Y %I:%M:%S %p", timezone="UTC")
    assert parse("03/01/2020 03:44:06 PM", "soon", options=options) == ["2020-03-01T15:44:06.000000000", None]
    options = LogOptions(time_format="%d/%m/%Y %H:%M %z")
    assert parse("01/03/2020 15:44 +0100", options=options) == ["2020-03-01T14:44:00.000000000"]


@pytest.mark.parametrize("text", ["2020-03-01 15:44:06", "01.03.2020 15:44", "2020-03-01"])
def test_naive_times_are_refused_without_a_zone(text: str) -> None:
    with pytest.raises(LogError, match=r"'time'.*no UTC offset.*--timezone"):
        parse(text, options=LogOptions())


def test_autumn_is_read_twice_and_spring_once() -> None:
    berlin = LogOptions(timezone="Europe/Berlin")
    clock = ["01:30", "02:00", "02:30", "02:00", "02:30", "03:00"]
    got = parse(*(f"2020-10-25 {time}:00" for time in clock), options=berlin)
    assert [str(time)[11:16] for time in got] == ["23:30", "00:00", "00:30", "01:00", "01:30", "02:00"]
    got = parse(*(f"2020-03-29 {time}:00" for time in ("01:30", "03:00", "03:30")), options=berlin)
    assert [str(time)[11:16] for time in got] == ["00:30", "01:00", "01:30"]


# (zone, a day on which its clock changes), forward and back; Lord Howe's by half an hour
CHANGES = [
    ("Europe/Berlin", (2020, 3, 29)),
    ("Europe/Berlin", (2020, 10, 25)),
    ("America/New_York", (2020, 3, 8)),
    ("America/New_York", (2020, 11, 1)),
    ("Australia/Lord_Howe", (2020, 4, 5)),
    ("Australia/Lord_Howe", (2020, 10, 4)),
    ("Africa/Casablanca", (2020, 4, 19)),
    ("Asia/Kolkata", (2020, 6, 1)),  # never changes
]


@given(
    change=st.sampled_from(CHANGES),
    lead_min=st.integers(0, 3 * 24 * 60),
    n=st.integers(1, 400),
    step_min=st.sampled_from([1, 5, 15, 20]),
    cut=st.integers(0, 400),
)
@settings(max_examples=300, deadline=None)
def test_a_log_in_local_time_comes_back_as_utc(
    change: tuple[str, tuple[int, int, int]], lead_min: int, n: int, step_min: int, cut: int
) -> None:
    """Every zone, every change, in one piece or two: the wall clock of steady UTC times gives those times
    again."""
    zone = zoneinfo.ZoneInfo(change[0])
    start = dt.datetime(*change[1], 18, tzinfo=dt.UTC) - dt.timedelta(minutes=lead_min)
    utc = [start + dt.timedelta(minutes=step_min * i) for i in range(n)]
    wall = [moment.astimezone(zone).replace(tzinfo=dt.UTC) for moment in utc]
    # a log that begins inside the repeated hour gives no way to tell the pass
    first = [wall[0].replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1)]
    assume(first[0] == first[1])
    local = np.array([int(moment.timestamp()) * NS_PER_S for moment in wall], dtype=np.int64)
    clock = LocalTime(zone)
    got = np.concatenate([clock.to_utc(local[:cut]), clock.to_utc(local[cut:])])
    assert got.tolist() == [int(moment.timestamp()) * NS_PER_S for moment in utc]
