"""JSON lines of other programs: one row an object, or one batch of samples an object.

A row is flat: ``{"time": "2024-01-01T00:00:00Z", "x": 1.5, "y": null}``. A batch holds arrays of one
length and either the time of its first sample with a rate or period (``{"t": ns, "rate_hz": 1000, "x":
[...], "y": [...]}``) or an array of times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from arro3.core import Array, DataType
from numpy.typing import NDArray

from models.codec import parse_rate, plain_float
from models.logs import LogError, LogOptions, Warn
from models.signal import SampleBlock
from models.table_columns import Chunk, Column, Roles, time_column
from models.text_files import open_bytes, text_lines

_RATE_KEYS = ("rate_hz", "rate", "fs", "fs_hz", "sample_rate", "sample_rate_hz", "sampling_rate")
_PERIOD_KEYS = {"period_s": 1, "dt_s": 1, "dt": 1, "period_ms": 10**3, "period_us": 10**6, "period_ns": 10**9}
_SAMPLE_ROWS = 100
_SKIP = "correct it, or leave such lines out with --skip-bad-lines"
_decoder = msgspec.json.Decoder(dict[str, Any])
Row = dict[str, Any]


class JsonLines:
    """A JSON lines file; ``batches`` says which of the two kinds it is. Raises LogError."""

    format: Literal["json lines"] = "json lines"

    def __init__(self, path: Path, options: LogOptions, warn: Warn) -> None:
        self.path = path
        self._options = options
        self._warn = warn
        self._n_bad = 0
        self._first_bad = ""
        self.first_line: int | None = 1
        rows: list[Row] = []
        for _, found in self._rows(256 << 10, None):
            rows += found[: _SAMPLE_ROWS - len(rows)]
            if len(rows) >= _SAMPLE_ROWS:
                break
        self._n_bad, self._first_bad = 0, ""
        if not rows:
            raise LogError(path, "has no JSON objects, one a line")
        names = dict.fromkeys(name for row in rows for name in row)
        self.batches = any(isinstance(value, list) for value in rows[0].values())
        rates = (*_RATE_KEYS, *_PERIOD_KEYS) if self.batches else ()
        self.columns: tuple[str, ...] = tuple(name for name in names if name not in rates)
        self.sample = {name: _column([row.get(name) for row in rows], self.batches) for name in self.columns}

    def chunks(self, numbers: Sequence[str], texts: Sequence[str]) -> Iterator[Chunk]:
        """``numbers`` as float64 (NaN where missing) and ``texts`` as Arrow arrays."""
        for lines, rows in self._rows():
            values = {}
            for name in numbers:
                column = [row.get(name) for row in rows]
                try:
                    values[name] = np.array(column, dtype=np.float64)
                    fits = values[name].shape == (len(rows),) and not any(type(v) is str for v in column)
                except (ValueError, TypeError):
                    fits = False
                if not fits:
                    values[name] = np.array([self._number(v, name, lines[i]) for i, v in enumerate(column)])
            others = {name: _arrow([row.get(name) for row in rows]) for name in texts}
            yield Chunk(len(rows), values, others, lambda row, lines=lines: lines[row])  # type: ignore[misc]

    def blocks(self, roles: Roles, device_id: str) -> Iterator[SampleBlock]:
        """Each batch as a block that arrives with its last sample. Raises LogError."""
        clock = time_column(self, roles, self._options)
        for lines, rows in self._rows():
            for line, row in zip(lines, rows, strict=True):
                try:
                    yield self._block(row, roles, device_id, clock)
                except (ValueError, TypeError, OverflowError) as error:
                    self._bad(LogError(self.path, str(error), line=line, remedy=_SKIP))

    def _block(self, row: Row, roles: Roles, device_id: str, clock: Any) -> SampleBlock:
        names = tuple(name for name in roles.channels if name in row)
        origins = self._options.origins
        columns: list[NDArray[np.float64]] = []
        for name in names:
            written = row[name]
            if isinstance(written, list) and any(type(value) is str for value in written):
                written = [plain_float(v) if isinstance(v, str) else v for v in written]
            column = np.array(written, dtype=np.float64)
            if column.ndim != 1 or (columns and column.shape != columns[0].shape):
                raise ValueError(f"{name!r} is not a list as long as the others")
            columns.append(column - origins.get(name, 0.0))
        if not columns:
            raise ValueError("there is none of the channels in it")
        device = row.get(roles.device) if roles.device else None
        device_id = device_id if device is None else str(device)
        values: NDArray[np.float64] = np.stack(columns, axis=1)
        time = row.get(roles.time) if roles.time else None
        if clock is None or time is None:
            raise ValueError("the time is missing")
        times, bad = clock.parse(_arrow(time if isinstance(time, list) else [time]))
        if bad.any():
            raise ValueError(f"{time!r} is not a time: {clock.remedy()}")
        if isinstance(time, list):
            last = int(times.max(initial=times[0] if len(times) else 0))
            return SampleBlock.irregular(device_id, names, values, time_ns=times, arrival_ns=last)
        rate = self._options.rate_hz or _rate(row)
        if rate is None:
            keys = ", ".join((*_RATE_KEYS[:2], *_PERIOD_KEYS))
            raise ValueError(f"one time for several samples needs a rate ({keys}), or give --rate-hz")
        start = int(times[0])
        block = SampleBlock.uniform(device_id, names, values, start_ns=start, rate_hz=rate, arrival_ns=start)
        last = int(block.times()[-1]) if block.n else start
        return SampleBlock.uniform(device_id, names, values, start_ns=start, rate_hz=rate, arrival_ns=last)

    def _rows(
        self, size: int = 1 << 20, warn: bool | None = True
    ) -> Iterator[tuple[Sequence[int], list[Row]]]:
        """Objects of a piece of the file with their line numbers."""
        line = 1
        with open_bytes(self.path) as file:
            for data in text_lines(self.path, file, size):
                yield self._decode(data.removeprefix(b"\xef\xbb\xbf"), line)
                line += data.count(b"\n")
        if self._n_bad and warn:
            self._warn(f"{self.path}: {self._n_bad} unreadable lines left out; the first: {self._first_bad}")

    def _decode(self, data: bytes, line: int) -> tuple[Sequence[int], list[Row]]:
        lines: list[int] = []
        rows: list[Row] = []
        texts = data.split(b"\n")
        for i, text in enumerate(texts):
            if not text.strip():
                continue
            try:
                rows.append(_decoder.decode(text))
                lines.append(line + i)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if i == len(texts) - 1:  # no newline after it
                    self._warn(f"{self.path}, line {line + i}: the last line is cut short; left out")
                    continue
                self._bad(LogError(self.path, f"no JSON object ({error})", line=line + i, remedy=_SKIP))
        return lines, rows

    def _number(self, value: Any, name: str, line: int) -> float:
        try:
            if value is None or value == "":
                return float("nan")
            return plain_float(value) if isinstance(value, str) else float(value)
        except (ValueError, TypeError):
            self._bad(LogError(self.path, f"{value!r} is not a number", line=line, column=name, remedy=_SKIP))
            return float("nan")

    def _bad(self, error: LogError) -> None:
        if self._options.bad_lines == "refuse":
            raise error
        self._n_bad += 1
        self._first_bad = self._first_bad or str(error)


def _rate(row: Row) -> Fraction | None:
    for key in _RATE_KEYS:
        if key in row:
            return parse_rate(row[key])
    for key, per_second in _PERIOD_KEYS.items():
        if key in row:
            return per_second / parse_rate(row[key])
    return None


def _column(values: Sequence[Any], batches: bool) -> Column:
    """A column's first values; of a batch, the first of each list."""
    lists = sum(isinstance(value, list) for value in values)
    flat = [v[0] if isinstance(v, list) and v else v for v in values]
    texts = ["" if v is None else v if isinstance(v, str) else msgspec.json.encode(v).decode() for v in flat]
    return Column(texts, "scalar" if batches and not lists else "text")


def _arrow(values: list[Any]) -> Array:
    """Times or device ids as Arrow: all whole numbers, all numbers, else text."""
    if all(type(v) is int or v is None for v in values):
        return Array(values, type=DataType.int64())
    if all(type(v) in (int, float) or v is None for v in values):
        return Array([None if v is None else float(v) for v in values], type=DataType.float64())
    return Array([None if v is None else str(v) for v in values], type=DataType.utf8())
