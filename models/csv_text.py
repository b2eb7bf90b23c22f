"""Reads CSV the way machines and people write it, in chunks of a few megabytes.

Each chunk goes through Arrow's vectorised reader; only a chunk that it refuses (blanks around numbers,
``NA``, a broken line) is read again cell by cell, which either yields the numbers or names line and column.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from arro3.core import Array, DataType, Field, Schema
from arro3.io import read_csv

from models.codec import plain_float
from models.csv_layout import find_layout
from models.logs import LogError, LogOptions, Warn
from models.table_columns import MAX_SHOWN, ArrowRefusedError, Chunk, Column, arrow_errors, float_column
from models.text_files import open_bytes, read_bytes, text_lines

_WORDS = {"true": 1.0, "false": 0.0, "on": 1.0, "off": 0.0}
_MISSING = frozenset(("", "na", "n/a", "#n/a", "null", "none", "nan", "-", "--", "?"))


class CsvTable:
    """A CSV file: its layout, found by looking, and its columns chunk by chunk. Raises LogError."""

    format: Literal["csv"] = "csv"

    def __init__(self, path: Path, options: LogOptions, warn: Warn) -> None:
        self.path = path
        self._options = options
        self._warn = warn
        self._layout = find_layout(path, options)
        self.columns = self._layout.columns
        self.first_line: int | None = self._layout.first_line
        self._n_bad = 0
        self._first_bad = ""

    @property
    def sample(self) -> dict[str, Column]:
        """The first values of each column as text."""
        return {name: Column(texts) for name, texts in self._layout.sample.items()}

    def chunks(self, numbers: Sequence[str], texts: Sequence[str]) -> Iterator[Chunk]:
        """``numbers`` as float64 (NaN where missing) and ``texts`` as Arrow text, a chunk of rows at a
        time."""
        layout = self._layout
        fields = [
            Field(str(i), DataType.float64() if name in numbers else DataType.utf8())
            for i, name in enumerate(self.columns)
        ]
        schema = Schema(fields)
        line = layout.first_line
        with open_bytes(self.path) as file:
            read_bytes(self.path, file, layout.offset)
            for data in text_lines(self.path, file):
                table = self._fast(data, schema, numbers, texts, line)
                yield table if table is not None else self._careful(data, numbers, texts, line)
                line += data.count(b"\n")
        if self._n_bad:
            self._warn(f"{self.path}: {self._n_bad} unreadable lines left out; the first: {self._first_bad}")

    def _fast(
        self, data: bytes, schema: Schema, numbers: Sequence[str], texts: Sequence[str], line: int
    ) -> Chunk | None:
        layout = self._layout
        if layout.decimal == ",":
            data = data.replace(b",", b".")
        comment = self._options.comment or None
        try:
            # one batch: the chunk bounds the memory already. Arrow sets room aside for batch_size rows: no more.
            with arrow_errors():
                batches = list(
                    read_csv(
                        data,
                        schema,
                        has_header=False,
                        delimiter=layout.separator,
                        batch_size=data.count(b"\n") + 1,
                        comment=comment,
                    )
                )
        except ArrowRefusedError:
            return None
        if len(batches) != 1:
            return None if batches else Chunk(0, {}, {}, lambda row: line + row)
        batch = batches[0]
        index = {name: i for i, name in enumerate(self.columns)}
        return Chunk(
            batch.num_rows,
            {name: float_column(batch.column(index[name])) for name in numbers},
            {name: batch.column(index[name]) for name in texts},
            lambda row: _line_of(data, row, line, comment),
        )

    def _careful(self, data: bytes, numbers: Sequence[str], texts: Sequence[str], line: int) -> Chunk:
        """The same cell by cell, for a chunk in which something is out of the ordinary."""
        cut_short = not data.endswith(b"\n")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("cp1252", errors="replace")
        if self._layout.decimal == ",":
            text = text.replace(",", ".")
        text = text.replace("\x00", "")  # what a power cut leaves in a file
        text = text.replace("\r\n", "\n").replace("\r", " ")
        index = {name: i for i, name in enumerate(self.columns)}
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self._layout.separator)
        kept: list[list[str]] = []
        lines: list[int] = []
        values: list[list[float]] = []
        n_lines = text.count("\n") + 1
        while True:
            at = line + reader.line_num
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                self._bad(LogError(self.path, str(error), line=at, remedy=_SKIP))
                continue
            if not any(cell.strip() for cell in row) or self._is_comment(row[0]):
                continue
            if len(row) < len(self.columns) and cut_short and reader.line_num >= n_lines:
                self._warn(f"{self.path}, line {at}: the last line is cut short; left out")
                continue
            if len(row) != len(self.columns):
                problem = f"has {len(row)} fields, expected {len(self.columns)}"
                self._bad(LogError(self.path, problem, line=at, remedy=_SKIP))
                continue
            found = [_number(row[index[name]]) for name in numbers]
            if None in found:
                name = numbers[found.index(None)]
                shown = row[index[name]].strip()
                problem = f"{shown[:MAX_SHOWN]!r} is not a number"
                self._bad(LogError(self.path, problem, line=at, column=name, remedy=_SKIP))
                continue
            kept.append(row)
            lines.append(at)
            values.append([value for value in found if value is not None])
        matrix = np.array(values, dtype=np.float64).reshape(len(values), len(numbers))
        return Chunk(
            len(kept),
            {name: np.ascontiguousarray(matrix[:, i]) for i, name in enumerate(numbers)},
            {name: Array([row[index[name]] for row in kept], type=DataType.utf8()) for name in texts},
            lambda row: lines[row],
        )

    def _is_comment(self, cell: str) -> bool:
        return bool(self._options.comment) and cell.startswith(self._options.comment)

    def _bad(self, error: LogError) -> None:
        if self._options.bad_lines == "refuse":
            raise error
        self._n_bad += 1
        self._first_bad = self._first_bad or str(error)


_SKIP = "correct it, or leave such lines out with --skip-bad-lines"


def _number(cell: str) -> float | None:
    """A cell's number, NaN where it says that there is none; None when it is something else."""
    text = cell.strip()
    try:
        return plain_float(text)
    except ValueError:
        low = text.lower()
        return float("nan") if low in _MISSING else _WORDS.get(low)


def _line_of(data: bytes, row: int, first_line: int, comment: str | None) -> int:
    """Line number of data row ``row`` of a chunk in which blank lines and comments do not count."""
    skip = comment.encode() if comment else None
    for i, text in enumerate(data.split(b"\n")):
        if not text.strip() or (skip and text.startswith(skip)):
            continue
        if row == 0:
            return first_line + i
        row -= 1
    return first_line
