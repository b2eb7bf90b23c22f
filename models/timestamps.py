"""Times as other programs write them, as Unix UTC nanoseconds.

ISO 8601 (with a blank or a T, any fraction, an offset or Z), ``31.12.2020 23:59:59``, ``2020/12/31
23:59:59``, any strptime format that is given, and numbers: seconds, ms, us or ns since 1970, told apart by
their size, or elapsed seconds when small. Times without an offset are refused unless their zone is given;
numbers never need one.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arro3.core import Array, DataType
from numpy.typing import NDArray

from models.logs import LogError, LogOptions, TimeUnit
from models.signal import NS_PER_S
from models.timezones import LocalTime, zone

NS_PER_UNIT: dict[TimeUnit, int] = {"s": NS_PER_S, "ms": 1_000_000, "us": 1_000, "ns": 1}
_types: Any = DataType  # arro3's stubs shadow `bool` inside DataType
_ELAPSED_BELOW = 1e8  # as seconds since 1970 this is March 1973: smaller numbers count from the log's start

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$")
_OFFSET = re.compile(r"(Z|UTC|GMT|[+-]\d\d:?\d\d|[+-]\d\d)$", re.IGNORECASE)
_CLOCK = r"(?:[ T]+(?P<clock>\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?))?\s*(?P<tz>\S.*)?$"
_YEAR_FIRST = re.compile(r"(?P<y>\d{4})[-/.](?P<m>\d\d?)[-/.](?P<d>\d\d?)" + _CLOCK)
_DAY_FIRST = re.compile(r"(?P<d>\d\d?)\.(?P<m>\d\d?)\.(?P<y>\d{4}|\d\d)" + _CLOCK)
_SLASHED = re.compile(r"\s*\d\d?/\d\d?/\d{2,4}")


def is_number(text: str) -> bool:
    """Whether ``text`` is a plain decimal number (so not a date, and not ``nan``)."""
    return _NUMBER.match(text) is not None


def is_time(text: str) -> bool:
    """Whether ``text`` looks like a date with or without a time of day."""
    return _to_iso(text) is not None or _SLASHED.match(text) is not None


class TimeColumn:
    """Turns one column of times into int64 ns, chunk by chunk; keeps what a repeated hour in autumn needs.

    ``sample`` are the first values as text: they decide number or date, and the unit. Raises LogError for
    naive times without a zone, an unknown zone, and dates whose order of day and month is not certain.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        sample: Sequence[str],
        options: LogOptions,
        *,
        naive: bool | None = None,
        first_line: int | None = None,
    ) -> None:
        self._path, self._name = path, name
        self._format = options.time_format
        self._start_ns = 0
        self._unit: TimeUnit | None = None
        self._zone: LocalTime | None = None
        texts = [text for text in sample if text.strip()]
        numbers = [float(text) for text in texts if is_number(text)]
        if naive is None and self._format is None and texts and 2 * len(numbers) >= len(texts):
            self._unit, elapsed = _unit_of(name, numbers, options.time_unit)
            self._start_ns = options.start_ns if elapsed else 0
            return
        if naive is None:
            naive = self._is_naive(next(filter(is_time, texts), texts[0])) if texts else False
        if not naive:
            return
        if options.timezone is None:
            given = f" such as {texts[0]!r}" if texts else ""
            raise LogError(
                path,
                f"times{given} have no UTC offset",
                line=first_line,
                column=name,
                remedy="say which zone they are in with --timezone, for example UTC or Europe/Berlin",
            )
        self._zone = LocalTime(zone(options.timezone, path))

    def parse(self, column: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Times int64[n] of an Arrow array (text, timestamp or number), and bad bool[n] where there was
        none."""
        kind = column.type
        if _types.is_timestamp(kind):
            times, bad = _with_nulls(column.cast(_timestamp_like(kind)).cast(DataType.int64()))
        elif self._unit is not None:
            times, bad = self._numbers(column)
        else:
            times, bad = self._texts(column)
        if self._zone is not None:
            good = ~bad
            times[good] = self._zone.to_utc(times[good])
        return times, bad

    def _numbers(self, column: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        assert self._unit is not None
        scale = NS_PER_UNIT[self._unit]
        if not _types.is_floating(column.type):
            whole = column.cast(DataType.int64())
            if whole.null_count == column.null_count:
                times, bad = _with_nulls(whole)
                return times * scale + self._start_ns, bad
        if _types.is_string(column.type):
            column = Array([t and t.strip() for t in column.to_pylist()], type=DataType.utf8())
        values, _ = _floats(column.cast(DataType.float64()))
        bad = ~np.isfinite(values)
        values[bad] = 0.0
        bad |= np.abs(values) >= 2.0**63 / scale
        values[bad] = 0.0
        if scale == NS_PER_S and np.abs(values).max(initial=0.0) >= _ELAPSED_BELOW:
            # float64 resolves 0.24 us at today's date: whole microseconds are what was meant
            return np.round(values * 1e6).astype(np.int64) * 1000 + self._start_ns, bad
        return np.round(values * scale).astype(np.int64) + self._start_ns, bad

    def _texts(self, column: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        if self._format is not None:
            parsed = [_strptime(text, self._format) for text in column.to_pylist()]
            bad = np.array([time is None for time in parsed], dtype=np.bool_)
            return np.array([time or 0 for time in parsed], dtype=np.int64), bad
        stamped = column.cast(DataType.timestamp("ns"))
        if stamped.null_count:
            # what Arrow does not read (day first, no seconds, blanks) is rewritten, only where it occurs
            nulls = stamped.cast(DataType.int64()).to_pylist()
            texts = [
                text if time is not None or text is None else _to_iso(text)
                for text, time in zip(column.to_pylist(), nulls, strict=True)
            ]
            stamped = Array(texts, type=DataType.utf8()).cast(DataType.timestamp("ns"))
        if self._zone is not None or len(column):
            self._same_kind(column)
        return _with_nulls(stamped.cast(DataType.int64()))

    def _same_kind(self, column: Array) -> None:
        """A log that changes between naive times and offsets would be read an offset wrong: refuse it."""
        for text in (column[0].as_py(), column[len(column) - 1].as_py()) if len(column) else ():
            if text and self._is_naive(text) != (self._zone is not None):
                raise LogError(
                    self._path,
                    f"times with and without a UTC offset are mixed ({text!r})",
                    column=self._name,
                    remedy="write them all in one way",
                )

    def _is_naive(self, text: str) -> bool:
        if self._format is not None:
            return "%z" not in self._format
        if _SLASHED.match(text):
            raise LogError(
                self._path,
                f"is {text!r} month first or day first?",
                column=self._name,
                remedy="give --time-format, for example '%d/%m/%Y %H:%M:%S'",
            )
        text = text.strip()
        return _OFFSET.search(text[10:]) is None

    def remedy(self) -> str:
        """What to do about a value that is not a time."""
        if self._unit is not None:
            return f"expected a number ({self._unit})"
        if self._format is not None:
            return f"expected a time in the format {self._format!r}"
        return "expected a time such as 2020-12-31T23:59:59Z, or give --time-format"


def _unit_of(name: str, values: Sequence[float], given: TimeUnit | None) -> tuple[TimeUnit, bool]:
    """Unit of numeric times, and whether they are elapsed times (from the log's start, not from 1970)."""
    size = float(np.median(np.abs(values)))
    unit: TimeUnit | None = given
    if unit is None:
        suffix = re.search(r"[_ (\[](s|sec|seconds|ms|us|µs|ns)[)\]]?$", name.lower())
        if suffix:
            short = {"sec": "s", "seconds": "s", "µs": "us"}.get(suffix[1], suffix[1])
            unit = next(known for known in NS_PER_UNIT if known == short)
    if unit is None:
        unit = "ns" if size >= 1e17 else "us" if size >= 1e14 else "ms" if size >= 1e11 else "s"
    return unit, size * NS_PER_UNIT[unit] / NS_PER_S < _ELAPSED_BELOW


def _to_iso(text: str) -> str | None:
    """A date in ISO 8601 where Arrow does not read it as it stands; None when it is no date of certain
    meaning."""
    text = text.strip()
    match = _YEAR_FIRST.match(text) or _DAY_FIRST.match(text)
    if match is None:
        return None
    year, month, day, clock, tz = match.group("y", "m", "d", "clock", "tz")
    if tz is not None and not _OFFSET.fullmatch(tz):
        return None
    year = f"20{year}" if len(year) == 2 else year
    clock = (clock or "00:00").replace(",", ".")
    clock = clock if clock[1] != ":" else f"0{clock}"
    clock = clock if clock.count(":") == 2 else f"{clock}:00"
    zone_part = {"GMT": "Z", "UTC": "Z"}.get((tz or "").upper(), tz or "")
    if re.fullmatch(r"[+-]\d\d", zone_part):
        zone_part += ":00"
    return f"{year}-{int(month):02}-{int(day):02}T{clock}{zone_part}"


def _strptime(text: str | None, form: str) -> int | None:
    try:
        time = dt.datetime.strptime((text or "").strip(), form)  # noqa: DTZ007
    except ValueError:
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=dt.UTC)  # naive: the zone is applied to the whole column afterwards
    delta = time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (delta.days * 86_400 + delta.seconds) * NS_PER_S + delta.microseconds * 1000


def _timestamp_like(kind: DataType) -> DataType:
    return DataType.timestamp("ns", tz=kind.tz) if kind.tz else DataType.timestamp("ns")


def _with_nulls(column: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if column.null_count == 0:
        return column.to_numpy().astype(np.int64), np.zeros(len(column), dtype=np.bool_)
    values = column.to_pylist()
    return (
        np.array([value or 0 for value in values], dtype=np.int64),
        np.array([value is None for value in values], dtype=np.bool_),
    )


def _floats(column: Array) -> tuple[NDArray[np.float64], int]:
    if column.null_count == 0:
        return column.to_numpy().astype(np.float64), 0
    return np.array(column.to_pylist(), dtype=np.float64), column.null_count
