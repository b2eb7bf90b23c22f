"""What a table of any format offers: chunks of columns, and which column is what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from arro3.core import Array, DataType
from numpy.typing import NDArray

from models.logs import LogError, LogOptions, Warn
from models.timestamps import TimeColumn, is_number, is_time

_TIME_NAMES = (
    "time",
    "timestamp",
    "datetime",
    "date_time",
    "date",
    "_time",
    "ts",
    "t",
    "zeit",
    "zeitstempel",
)
_LABEL_NAMES = ("anomaly", "changepoint", "is_anomaly", "label")
_DEVICE_NAMES = ("device", "device_id")
MAX_SHOWN = 60  # characters of what is no word, in a message
_CLOCK = re.compile(r"\s*\d\d?:\d\d(:\d\d([.,]\d+)?)?\s*$")


@dataclass(frozen=True, slots=True)
class Column:
    """The first values of a column as text. ``kind`` and ``naive`` say what the file itself knows of its
    type; a ``scalar`` is one value for a whole batch of samples, so no channel.

    Most values decide what a column is, so that a broken one is named as such and does not change the column.
    """

    texts: Sequence[str]
    kind: Literal["text", "number", "time", "scalar"] = "text"
    naive: bool | None = None

    @property
    def is_numeric(self) -> bool:
        """Whether the values are numbers, or missing."""
        return self.kind == "number" or (self.kind != "time" and _most(_is_numeric, self.texts))

    @property
    def is_time(self) -> bool:
        """Whether the values are dates."""
        filled = [text for text in self.texts if text.strip()]
        return self.kind == "time" or (bool(filled) and _most(is_time, filled))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows: float64[n] per numeric column (NaN where missing), Arrow arrays for the others."""

    n: int
    numbers: Mapping[str, NDArray[np.float64]]
    others: Mapping[str, Array]
    line_of: Callable[[int], int | None]


class Table(Protocol):
    """A log that is a table with named columns."""

    path: Path
    columns: tuple[str, ...]
    first_line: int | None

    @property
    def sample(self) -> Mapping[str, Column]: ...

    def chunks(self, numbers: Sequence[str], texts: Sequence[str]) -> Iterator[Chunk]: ...


@dataclass(frozen=True, slots=True)
class Roles:
    """Which column of a table is what. ``clock`` is the time of day where ``time`` is only the date."""

    time: str | None
    clock: str | None
    device: str | None
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    ignored: tuple[str, ...]  # not columns of numbers


def shown(names: Sequence[str]) -> str:
    """Names of columns for a message. Where they are no words, as in a binary file, what a terminal would obey is
    escaped, and all of it cut to MAX_SHOWN characters."""
    text = ", ".join(names)
    if text.isprintable() and "\ufffd" not in text and all(len(name) <= MAX_SHOWN for name in names):
        return text
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MAX_SHOWN])
    return escaped if len(escaped) <= MAX_SHOWN else escaped[: MAX_SHOWN - 1] + "…"


def find_roles(table: Table, options: LogOptions) -> Roles:
    """Roles by option, else by name and content. Raises LogError, naming the columns there are."""
    sample = table.sample
    for name, what in [
        (options.time_column, "time column"),
        (options.device_column, "device column"),
        *((channel, "channel") for channel in options.channels or ()),
    ]:
        if name is not None and name not in table.columns:
            raise LogError(
                table.path,
                f"there is no {what} {name!r}",
                remedy=f"its columns are {shown(table.columns)}",
            )
    time = options.time_column or _find_time(table.columns, sample)
    clock = _find_clock(table.columns, sample, time)
    device = options.device_column or next(
        (name for name in table.columns if name.lower() in _DEVICE_NAMES and name != time), None
    )
    labels = tuple(
        name
        for name in table.columns
        if (name in options.label_columns or name.lower() in _LABEL_NAMES)
        and name not in (time, device)
        and name not in (options.channels or ())
    )
    left = [name for name in table.columns if name not in (time, clock, device, *labels, *options.exclude)]
    if options.channels is not None:
        channels = options.channels
        for name in channels:
            if not _is_channel(sample[name]):
                wrong = next(
                    (text for text in sample[name].texts if not _is_numeric(text)), "one for all rows"
                )
                raise LogError(
                    table.path, f"{wrong!r} is not a number", line=table.first_line, column=name,
                    remedy="a channel is a numeric column",
                )  # fmt: skip
        ignored: tuple[str, ...] = ()
    else:
        unnamed = [name for name in left if name.startswith(("unnamed_", "Unnamed: "))]
        channels = tuple(name for name in left if _is_channel(sample[name]) and name not in unnamed)
        ignored = tuple(name for name in left if name not in channels)
    if not channels:
        raise LogError(
            table.path, "has no numeric column besides time and labels",
            remedy=f"its columns are {shown(table.columns)}; was the separator found? (--separator)",
        )  # fmt: skip
    if time is None and options.rate_hz is None:
        raise LogError(
            table.path, "has no column of times",
            remedy="name it with --time-column, or give the sampling rate with --rate-hz",
        )  # fmt: skip
    return Roles(time, clock, device, channels, labels, ignored)


def _is_channel(column: Column) -> bool:
    return column.is_numeric and column.kind != "scalar"


def _find_time(columns: Sequence[str], sample: Mapping[str, Column]) -> str | None:
    for name in columns:
        if sample[name].kind == "time":
            return name
    for known in _TIME_NAMES:
        for name in columns:
            plain = name.lower().split(" ")[0].split("(")[0]
            base = plain.removesuffix("_ns").removesuffix("_us").removesuffix("_ms").removesuffix("_s")
            if base == known and (sample[name].is_time or sample[name].is_numeric):
                return name
    return next((name for name in columns if sample[name].is_time), None)


def _find_clock(columns: Sequence[str], sample: Mapping[str, Column], time: str | None) -> str | None:
    if time is None or sample[time].kind == "time" or not sample[time].is_time:
        return None
    if any(":" in text for text in sample[time].texts):
        return None
    return next(
        (name for name in columns if sample[name].texts and all(map(_CLOCK.match, sample[name].texts))), None
    )


def time_column(table: Table, roles: Roles, options: LogOptions) -> TimeColumn | None:
    """The parser of ``table``'s times. Raises LogError (no zone, no certain order of day and month)."""
    if roles.time is None:
        return None
    column = table.sample[roles.time]
    texts = column.texts
    if roles.clock is not None:
        texts = [f"{day} {clock}" for day, clock in zip(texts, table.sample[roles.clock].texts, strict=True)]
    return TimeColumn(table.path, roles.time, texts, options, naive=column.naive, first_line=table.first_line)


def times_of(chunk: Chunk, roles: Roles) -> Array:
    """The column of times of a chunk, with the time of day where that is a column of its own."""
    assert roles.time is not None
    if roles.clock is None:
        return chunk.others[roles.time]
    pairs = zip(chunk.others[roles.time].to_pylist(), chunk.others[roles.clock].to_pylist(), strict=True)
    return Array([f"{day} {clock}" for day, clock in pairs], type=DataType.utf8())


class ArrowRefusedError(Exception):
    """Arrow could not read what it was given."""


@contextmanager
def arrow_errors() -> Iterator[None]:
    """arro3 raises bare ``Exception`` for whatever is wrong with its input: give that, and only that, a
    name."""
    try:
        yield
    except BaseException as error:
        # a Rust panic (arro3 has some for corrupt Parquet) is a BaseException that only its name tells
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise ArrowRefusedError(str(error)) from error


def float_column(column: Array) -> NDArray[np.float64]:
    """An Arrow column of numbers or booleans as float64[n], NaN for null."""
    wide = column.cast(DataType.float64())
    if wide.null_count == 0:
        values: NDArray[np.float64] = wide.to_numpy()
        return values
    return np.array(wide.to_pylist(), dtype=np.float64)


def warn_ignored(table: Table, roles: Roles, warn: Warn) -> None:
    """Say which columns are left out because they are not numbers."""
    if roles.ignored:
        warn(f"{table.path}: left out, not columns of numbers: {shown(roles.ignored)}")


def _most(test: Callable[[str], bool], texts: Sequence[str]) -> bool:
    return 2 * sum(map(test, texts)) >= len(texts)


def _is_numeric(text: str) -> bool:
    return is_number(text) or text.strip().lower() in _EMPTY


_EMPTY: Any = frozenset(("", "na", "n/a", "#n/a", "null", "none", "nan", "inf", "-inf", "true", "false", "-"))
