"""Labels of a recording: when it was not healthy, and when it changed.

They come as intervals in a file of their own, or as columns of 0 and 1 in the log itself. Either way they
become half-open intervals of event time, so memory does not grow with the log.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from arro3.core import Array, DataType
from numpy.typing import NDArray

from models.csv_layout import find_layout
from models.logs import LogError, LogOptions, Warn
from models.recording import is_block_log, log_files, open_table
from models.signal import NS_PER_S
from models.table_columns import find_roles
from models.tables import timed_chunks
from models.timestamps import TimeColumn

_START = ("start", "start_time", "begin", "from", "start_ns")
_END = ("end", "end_time", "stop", "until", "to", "end_ns")
_CHANGE = "changepoint"
_OPEN_END = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Intervals int64[m, 2] of event time [start, end) that are anomalous, sorted and disjoint;
    changepoints int64[k]."""

    intervals: NDArray[np.int64]
    changepoints: NDArray[np.int64]

    def at(self, time_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each time lies in an interval, bool[n]."""
        return self.overlap(time_ns, time_ns + 1)

    def overlap(self, start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether [start, end) shares any time with an interval, bool[n]."""
        if not len(self.intervals):
            return np.zeros(len(start_ns), dtype=np.bool_)
        # the first interval that ends after start is the only one that needs a look
        index = np.searchsorted(self.intervals[:, 1], start_ns, side="right")
        found = index < len(self.intervals)
        begins = self.intervals[np.minimum(index, len(self.intervals) - 1), 0]
        shared: NDArray[np.bool_] = found & (begins < end_ns)
        return shared

    def any_within(self, first_ns: int, last_ns: int) -> bool:
        """Whether an interval shares any time with [first, last]; True where there is none to share it."""
        span = np.array([first_ns]), np.array([last_ns + 1])
        return not len(self.intervals) or bool(self.overlap(*span)[0])


def merge(intervals: NDArray[np.int64], changepoints: NDArray[np.int64] | Sequence[int] = ()) -> Labels:
    """Labels of intervals [start, end) in any order, which may overlap or touch; empty ones are left out."""
    pairs = np.asarray(intervals, dtype=np.int64).reshape(-1, 2)
    pairs = pairs[pairs[:, 1] > pairs[:, 0]]
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(pairs[:, 1]) if len(pairs) else pairs[:, 1]
    fresh = (
        np.flatnonzero(np.concatenate(([True], pairs[1:, 0] > reach[:-1])))
        if len(pairs)
        else np.zeros(0, int)
    )
    ends = reach[np.append(fresh[1:] - 1, len(pairs) - 1)] if len(pairs) else reach
    merged = np.stack([pairs[fresh, 0], ends], axis=1)
    return Labels(merged, np.unique(np.asarray(changepoints, dtype=np.int64)))


def read_labels(path: Path | str, *, logs: Sequence[Path | str] = (), timezone: str | None = None) -> Labels:
    """Labels from a file of intervals. Raises LogError.

    CSV: columns ``start`` and ``end`` by name, or the first two where no line names them; an end that is
    missing means: until the log ends. JSON: a list of [start, end], or an object of such lists by log (as in NAB's
    combined_windows.json), which must have one for each of ``logs``: under its path, or how it ends. Times are as in
    logs: ``timezone`` where they have no offset. NAB's windows are inclusive: the row that starts at ``end`` is
    still in, so 1 ns is added.
    """
    path = Path(path)
    return _json_labels(path, logs, timezone) if path.suffix == ".json" else _csv_labels(path, timezone)


def label_columns(
    logs: Path | str | Sequence[Path | str],
    options: LogOptions | None = None,
    *,
    warn: Warn = lambda text: None,
) -> Labels | None:
    """Labels from the label columns in the logs themselves; None where they have none. Raises LogError.

    A row is anomalous when any label column but ``changepoint`` is not 0; it holds until the next row's
    time (the last for as long as the interval before it). Each row with a changepoint is one.
    """
    options = options or LogOptions()
    intervals: list[NDArray[np.int64]] = []
    changes: list[NDArray[np.int64]] = []
    found = False
    for file in log_files(logs):
        if is_block_log(file):
            continue
        for times, anomalous, changed in _rows(file, options, warn):
            found = True
            ends = np.append(times[1:], times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1))
            # rows may be out of order: none ends before it begins, and merge() joins what touches
            ends = np.maximum(ends, times + 1)
            intervals.append(merge(np.stack([times, ends], axis=1)[anomalous]).intervals)
            changes.append(times[changed])
    if not found:
        return None
    none = np.zeros((0, 2), dtype=np.int64)
    return merge(np.concatenate([none, *intervals]), np.concatenate([none[:, 0], *changes]))


def _rows(
    file: Path, options: LogOptions, warn: Warn
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]]:
    """Times of the rows of a log with which are anomalous and which are changepoints."""
    table = open_table(file, options, warn)
    roles = find_roles(table, options)
    if not roles.labels or getattr(table, "batches", False):
        return
    seen = 0
    for chunk, times, rows in timed_chunks(table, roles, options, warn, roles.labels):
        if times is None:
            rate = options.rate_hz
            assert rate is not None  # find_roles refuses a table with neither
            index = np.arange(seen, seen + len(rows), dtype=np.int64)
            seen += len(rows)
            whole, rest = divmod(NS_PER_S * rate.denominator, rate.numerator)
            times = options.start_ns + index * whole + index * rest // rate.numerator
        if not len(rows):
            continue
        marks = {name: np.nan_to_num(chunk.numbers[name][rows]) != 0 for name in roles.labels}
        changed = np.zeros(len(rows), dtype=np.bool_)
        anomalous = changed.copy()
        for name, mark in marks.items():
            if name.lower() == _CHANGE:
                changed |= mark
            else:
                anomalous |= mark
        yield times, anomalous, changed


def _csv_labels(path: Path, timezone: str | None) -> Labels:
    options = LogOptions(timezone=timezone)
    layout = find_layout(path, options)
    names = [name.lower() for name in layout.columns]
    if len(names) < 2:
        raise LogError(path, "has one column", remedy="give start and end of each interval")
    starts_in = [i for i, name in enumerate(names) if name in _START]
    ends_in = [i for i, name in enumerate(names) if name in _END]
    if layout.first_line > 1 and not (starts_in and ends_in):
        shown = ", ".join(layout.columns)
        raise LogError(path, f"has the columns {shown}", remedy="name two of them start and end")
    start, end = next(iter(starts_in), 0), next(iter(ends_in), 1)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = list(csv.reader(file, delimiter=layout.separator))
    except csv.Error as error:
        raise LogError(path, f"is no CSV ({error})") from error
    first = layout.first_line - 1
    kept = [
        (i + 1, row) for i, row in enumerate(rows) if i >= first and any(row) and not row[0].startswith("#")
    ]
    for line, row in kept:
        if len(row) <= max(start, end):
            raise LogError(
                path, f"has {len(row)} fields", line=line, remedy="give start and end of each interval"
            )
    starts = [row[start].strip() for _, row in kept]
    ends = [row[end].strip() for _, row in kept]
    return merge(_times(path, starts, ends, timezone, [line for line, _ in kept]))


def _json_labels(path: Path, logs: Sequence[Path | str], timezone: str | None) -> Labels:
    try:
        data: Any = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise LogError(path, f"is not readable as JSON ({error})") from error
    if isinstance(data, dict):
        lists = [data[name] for name in _pick(path, list(data), logs)]
        if not all(isinstance(found, list) for found in lists):
            raise LogError(path, "is no list of [start, end]")
        data = [pair for found in lists for pair in found]
    try:
        pairs = [(str(start), str(end)) for start, end in data]
    except (TypeError, ValueError):
        raise LogError(path, "is no list of [start, end]") from None
    intervals = _times(path, [start for start, _ in pairs], [end for _, end in pairs], timezone, None)
    intervals[:, 1] += 1
    return merge(intervals)


def _pick(path: Path, names: list[str], logs: Sequence[Path | str]) -> list[str]:
    """The entry of each log: the one whose name its path ends with, or that ends with it."""
    if not logs:
        if len(names) == 1:
            return names
        raise LogError(path, f"has labels of {len(names)} logs", remedy="say of which")
    picked: dict[str, None] = {}
    for log in logs:
        wanted = Path(log).as_posix()
        fitting = [
            name for name in names if f"/{wanted}".endswith(f"/{name}") or f"/{name}".endswith(f"/{wanted}")
        ]
        if len(fitting) != 1:
            near = ", ".join(name for name in names if Path(name).name == Path(wanted).name) or "none like it"
            raise LogError(path, f"has no labels of one log {str(log)!r}", remedy=f"it has {near}")
        picked[fitting[0]] = None
    return list(picked)


def _times(
    path: Path, starts: list[str], ends: list[str], timezone: str | None, lines: list[int] | None
) -> NDArray[np.int64]:
    """Intervals int64[m, 2] of texts; an empty end is open."""
    options = LogOptions(timezone=timezone)
    columns = []
    for name, texts in (("start", starts), ("end", ends)):
        column = TimeColumn(path, name, texts or [""], options)
        times, bad = column.parse(Array(texts, type=DataType.utf8()))
        for i in np.flatnonzero(bad):
            if name == "end" and not texts[i]:
                times[i] = _OPEN_END
                continue
            line = lines[i] if lines else None
            raise LogError(
                path, f"{texts[i]!r} is not a time", line=line, column=name, remedy=column.remedy()
            )
        columns.append(times)
    pairs = np.stack(columns, axis=1)
    wrong = np.flatnonzero(pairs[:, 1] < pairs[:, 0])
    if wrong.size:
        line = lines[wrong[0]] if lines else None
        raise LogError(path, f"ends ({ends[wrong[0]]}) before it starts ({starts[wrong[0]]})", line=line)
    return pairs
