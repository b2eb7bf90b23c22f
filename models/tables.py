"""Other programs' tables as blocks, row by row in time; and Parquet as such a table.

A table with a rate becomes uniform blocks, cut wherever a row is not where the rate puts it; without one
every row keeps its own time. Rows are never reordered or interpolated here: that, and what is late or
double, is windowing's to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from arro3.core import Array, DataType, RecordBatch
from numpy.typing import NDArray

from models.logs import LogError, LogOptions, Warn
from models.parquet_files import parquet_batches, parquet_errors, parquet_n_rows
from models.signal import NS_PER_S, Clock, SampleBlock, samples_to_ns, uniform_times
from models.table_columns import (
    Chunk,
    Column,
    Roles,
    Table,
    float_column,
    time_column,
    times_of,
)

_BATCH_ROWS = 65_536
_SAMPLE_ROWS = 100
_SILENCE_NS = 60 * NS_PER_S
_types: Any = DataType  # arro3's stubs shadow `bool` inside DataType
Times = NDArray[np.int64]
Values = NDArray[np.float32]


class ParquetTable:
    """A Parquet file with one column per channel. Raises LogError."""

    format: Literal["parquet"] = "parquet"
    first_line: int | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        first = next(parquet_batches(path, _BATCH_ROWS), None)
        if first is None or first.num_rows == 0:
            raise LogError(path, "has no rows")
        first = first.slice(0, min(_SAMPLE_ROWS, first.num_rows))
        self.columns: tuple[str, ...] = tuple(first.column_names)
        self.sample = {name: _sample(first, name) for name in self.columns}

    @property
    def n_rows(self) -> int:
        return parquet_n_rows(self.path, _BATCH_ROWS)

    def chunks(self, numbers: Sequence[str], texts: Sequence[str]) -> Iterator[Chunk]:
        """``numbers`` as float64 (NaN for null) and ``texts`` as they are, a batch of rows at a time."""
        for batch in parquet_batches(self.path, _BATCH_ROWS):
            with parquet_errors(self.path):
                chunk = Chunk(
                    batch.num_rows,
                    {name: float_column(batch.column(name)) for name in numbers},
                    {name: _plain(batch.column(name)) for name in texts},
                    lambda row: None,
                )
            yield chunk


def _sample(batch: RecordBatch, name: str) -> Column:
    column = batch.column(name)
    kind = column.type
    if _types.is_timestamp(kind):
        return Column((), "time", naive=kind.tz is None)
    if _types.is_numeric(kind) or _types.is_boolean(kind) or _types.is_decimal(kind):
        return Column(["" if v is None else repr(v) for v in column.to_pylist()], "number")
    if _is_text(kind) or _types.is_dictionary(kind):
        return Column([v or "" for v in column.cast(DataType.utf8()).to_pylist()])
    return Column(("nested",))


def _is_text(kind: DataType) -> bool:
    return bool(_types.is_string(kind) or _types.is_large_string(kind) or _types.is_string_view(kind))


def _plain(column: Array) -> Array:
    """Times and numbers as they are, every kind of text as plain text."""
    kind = column.type
    if _types.is_numeric(kind) or _types.is_timestamp(kind):
        return column
    return column.cast(DataType.utf8())


def table_blocks(
    table: Table, roles: Roles, options: LogOptions, device_id: str, warn: Warn
) -> Iterator[SampleBlock]:
    """The rows of ``table`` as blocks; ``device_id`` where it has no device column. Raises LogError.

    A block arrives at the event time of its last row (a single row that leaps out of its neighbours' order
    does not count), so that a log without arrivals is replayed as arriving on time.
    """
    blocks = _Blocks(table, roles, options)
    for chunk, times, rows in timed_chunks(table, roles, options, warn):
        values = np.empty((len(rows), len(roles.channels)), dtype=np.float32)
        for i, name in enumerate(roles.channels):
            origin = options.origins.get(name, 0.0)
            with np.errstate(over="ignore"):  # beyond float32 it is infinite, and counted as such
                values[:, i] = (chunk.numbers[name] - origin)[rows]
        if roles.device is None:
            yield from blocks.cut(device_id, times, values)
            continue
        column = chunk.others[roles.device].cast(DataType.utf8())
        names = np.array([v or "" for v in column.to_pylist()])[rows]
        for name in np.unique(names):
            mine = names == name
            own = None if times is None else times[mine]
            yield from blocks.cut(str(name) or device_id, own, values[mine])


def timed_chunks(
    table: Table, roles: Roles, options: LogOptions, warn: Warn, extra: Sequence[str] = ()
) -> Iterator[tuple[Chunk, Times | None, NDArray[np.intp]]]:
    """Chunks with their event times int64[r] (None: the table has none) and the rows that have one, intp[r].

    ``extra`` are further numeric columns (labels). A row without a readable time is refused or, with
    ``bad_lines="skip"``, left out and counted.
    """
    clock = time_column(table, roles, options)
    texts = [name for name in (roles.time, roles.clock, roles.device) if name is not None]
    n_bad = 0
    for chunk in table.chunks((*roles.channels, *extra), texts):
        if clock is None or roles.time is None:
            yield chunk, None, np.arange(chunk.n)
            continue
        column = times_of(chunk, roles)
        times, bad = clock.parse(column)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            if options.bad_lines == "refuse":
                shown = _shown(column, row)
                raise LogError(
                    table.path,
                    f"{shown!r} is not a time" if shown else "the time is missing",
                    line=chunk.line_of(row),
                    column=roles.time,
                    remedy=f"{clock.remedy()}; or leave such lines out with --skip-bad-lines",
                )
            n_bad += int(bad.sum())
        rows = np.flatnonzero(~bad)
        yield chunk, times[rows], rows
    if n_bad:
        warn(f"{table.path}: {n_bad} rows without a readable time left out")


def _shown(column: Array, row: int) -> object:
    """A value for a message: a timestamp beyond the years that Python knows as the number it is."""
    cell = column.slice(row, 1)
    return (cell.cast(DataType.int64()) if _types.is_timestamp(cell.type) else cell)[0].as_py()


class _Blocks:
    """Cuts rows into blocks, and numbers the rows of a table that has no times."""

    def __init__(self, table: Table, roles: Roles, options: LogOptions) -> None:
        self._path = table.path
        self._roles = roles
        self._options = options
        self._n_rows: dict[str, int] = {}

    def cut(self, device_id: str, times: Times | None, values: Values) -> Iterator[SampleBlock]:
        options = self._options
        if len(values) == 0:
            return
        if options.rate_hz is None:
            assert times is not None
            calm = _without_leaps(times)
            for start, stop in self._irregular_cuts(calm):
                yield SampleBlock.irregular(
                    device_id,
                    self._roles.channels,
                    values[start:stop],
                    time_ns=times[start:stop],
                    arrival_ns=int(calm[start:stop].max()),
                    clock=Clock.DEVICE,
                )
            return
        rate = options.rate_hz
        seen = self._n_rows.get(device_id, 0)
        self._n_rows[device_id] = seen + len(values)
        cap = max(1, min(options.block_rows, int(options.block_span_s * rate)))
        if times is None:
            cuts = [(i, min(i + cap, len(values))) for i in range(0, len(values), cap)]
        else:
            if seen == 0:
                self._check_rate(times, rate)
            cuts = _uniform_cuts(times, rate, cap)
        for start, stop in cuts:
            first = (
                options.start_ns + samples_to_ns(seen + start, rate) if times is None else int(times[start])
            )
            yield SampleBlock.uniform(
                device_id,
                self._roles.channels,
                values[start:stop],
                start_ns=first,
                rate_hz=rate,
                arrival_ns=first + samples_to_ns(stop - start - 1, rate),
                clock=Clock.DEVICE,
            )

    def _irregular_cuts(self, calm: Times) -> list[tuple[int, int]]:
        """Cut at silences, so that they pass between arrivals; at the span, and at the number of rows."""
        span = max(1, int(self._options.block_span_s * NS_PER_S))
        steps = np.diff(calm)
        silence = max(_SILENCE_NS, 10 * int(np.median(steps))) if steps.size else _SILENCE_NS
        edges = np.flatnonzero((steps > silence) | (np.diff(calm // span) != 0)) + 1
        bounds = [0, *edges.tolist(), len(calm)]
        size = self._options.block_rows
        return [(i, min(i + size, b)) for a, b in itertools.pairwise(bounds) for i in range(a, b, size)]

    def _check_rate(self, times: Times, rate: Fraction) -> None:
        if len(times) < 100:
            return
        # Coarse times repeat, so no single step tells: the mean between silences does.
        period = NS_PER_S / float(rate)
        steps = np.diff(times)
        inside = steps[(steps >= 0) & (steps <= 10 * max(period, _resolution(times)))]
        step = float(inside.mean() if inside.size else np.median(steps))
        if not inside.size and step < 0:
            raise LogError(self._path, "times run backwards", remedy="sort the file by time")
        if not 0.75 * period < step < 1.5 * period:
            raise LogError(
                self._path,
                f"rows are {step / NS_PER_S:g} s apart, not {period / NS_PER_S:g} s",
                column=self._roles.time,
                remedy=f"a rate of {float(rate):g} Hz (--rate-hz) does not fit; leave it out or correct it",
            )


def _uniform_cuts(times: Times, rate: Fraction, cap: int) -> list[tuple[int, int]]:
    """Runs of rows that lie where ``rate`` puts them after the run's first row, to half a period.

    Times written more coarsely than that (a millisecond at 25.6 kHz) may be off by what they are rounded to.
    """
    tolerance = max(NS_PER_S / float(rate) / 2, _resolution(times))
    cuts = []
    start, n = 0, len(times)
    while start < n:
        size = 256
        while True:
            stop = min(start + size, start + cap, n)
            expected = uniform_times(int(times[start]), rate, stop - start)
            off = np.abs(times[start:stop] - expected) >= tolerance
            if off.any():
                stop = start + int(np.argmax(off))
                break
            if stop == n or stop == start + cap:
                break
            size *= 4
        cuts.append((start, stop))
        start = stop
    return cuts


def _resolution(times: Times) -> int:
    """The largest power of ten, in ns and up to 1 s, that all ``times`` are multiples of."""
    step = 1
    while step < NS_PER_S and not (times % (step * 10)).any():
        step *= 10
    return step


def _without_leaps(times: Times) -> Times:
    """``times`` with each row that is out of order with both neighbours brought between them (median of
    three)."""
    if len(times) < 3:
        return times
    calm = times.copy()
    a, b, c = times[:-2], times[1:-1], times[2:]
    calm[1:-1] = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    return calm
