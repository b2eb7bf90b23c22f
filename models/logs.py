"""What every log reader and writer shares: options, the errors they raise, and what a look at a log tells."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from models.acceptance import Acceptance
from models.signal import Mode, SampleBlock
from models.time_policy import RecordedDevice

MAX_BLOCK_ROWS = 65_536

TimeUnit = Literal["s", "ms", "us", "ns"]


class LogError(Exception):
    """A log that cannot be read or written as asked. The text names file, line, column and what to do."""

    def __init__(
        self,
        path: Path | str,
        problem: str,
        *,
        line: int | None = None,
        column: str | None = None,
        remedy: str = "",
    ) -> None:
        self.path = Path(path)
        self.line = line
        self.column = column
        self.remedy = remedy
        where = str(path)
        if line is not None:
            where += f", line {line}"
        if column is not None:
            where += f", column {column!r}"
        super().__init__(f"{where}: {problem}" + (f": {remedy}" if remedy else ""))


class LogWarning(UserWarning):
    """Something in a log was left out or repaired; reading goes on."""


Warn = Callable[[str], None]


def default_warn(text: str) -> None:
    """Report ``text`` as a :class:`LogWarning` (a command line passes its own printer instead)."""
    warnings.warn(text, LogWarning, stacklevel=3)


@dataclass(frozen=True, slots=True)
class Tick:
    """The clock of the pipeline was advanced to ``now_ns``: recorded so that a replay closes windows at
    the same point."""

    now_ns: int


LogItem = SampleBlock | Tick | Acceptance  # what a pipeline is given


class LogOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to read a log that is not our own. ``None`` means: found by looking at the file.

    A block log (what ``RecordingWriter`` writes) says everything itself and ignores these.
    """

    separator: str | None = None  # CSV: ',', ';', tab or '|'
    decimal: Literal[".", ","] | None = None  # CSV: decimal comma only where the separator is not ','
    comment: str = "#"  # CSV: lines that begin with it are left out; "" for none
    bad_lines: Literal["refuse", "skip"] = (
        "refuse"  # CSV and JSON lines: skipped lines are counted in a warning
    )
    time_column: str | None = None
    time_unit: TimeUnit | None = (
        None  # of numeric times; found by their size (seconds since 1970: ten digits)
    )
    time_format: str | None = None  # strptime format of times that are not ISO 8601
    timezone: str | None = None  # IANA name or "UTC" for times without an offset, which are otherwise refused
    rate_hz: Fraction | None = None  # rows are uniform samples: blocks carry start and rate, cut at gaps
    start_ns: int = 0  # first row's time where the log has none
    device_id: str | None = None  # default: a device column, else the first file's name without its suffix
    device_column: str | None = None
    channels: tuple[str, ...] | None = None  # default: every numeric column that is nothing else
    exclude: tuple[str, ...] = ()  # columns that are not channels
    label_columns: tuple[str, ...] = ()  # besides those that are labels by name (anomaly, changepoint, …)
    origins: dict[str, float] = {}  # per channel, subtracted in float64 before the cast to float32
    block_rows: Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK_ROWS)] = MAX_BLOCK_ROWS
    block_span_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0  # a block spans at most this much event time


@dataclass(frozen=True, slots=True)
class LogInfo:
    """What :func:`models.recording.inspect_log` found in the first part of a log."""

    path: Path
    format: Literal["block log", "csv", "json lines", "parquet"]
    columns: tuple[str, ...]  # as in the file; of a block log: the channels
    time_column: str | None
    channels: tuple[str, ...]
    label_columns: tuple[str, ...]
    device_ids: tuple[str, ...]  # seen in the part that was read
    devices: tuple[
        RecordedDevice, ...
    ]  # of a block log: what they were when it was recorded, where it says so
    n_rows_seen: int
    n_rows: int | None  # of the whole file, where that was cheap
    start_ns: int | None
    median_interval_s: float | None
    mode: Mode  # suggested: uniform (continuous), uniform with silences (burst), or irregular
    rate_hz: Fraction | None  # suggested: the sampling rate, or 1 / grid interval of an irregular log
