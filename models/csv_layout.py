"""How a CSV file is written, found by looking at its first lines: separator, decimal sign, header, line of
units."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.logs import LogError, LogOptions
from models.text_files import open_bytes, read_bytes
from models.timestamps import is_number, is_time

_SNIFF = 256 << 10
_SEPARATORS = (";", "\t", ",", "|")
_SAMPLE_ROWS = 100
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class CsvLayout:
    """What :func:`find_layout` found."""

    separator: str
    decimal: str
    columns: tuple[str, ...]
    offset: int  # byte at which the data begin
    first_line: int  # line number of the first data line, from 1
    sample: dict[str, list[str]]


def find_layout(path: Path, options: LogOptions) -> CsvLayout:
    """Separator, decimal sign, header, a line of units under it, and where the data begin."""
    with open_bytes(path) as file:
        head = read_bytes(path, file, _SNIFF)
        whole = len(head) < _SNIFF
    if head.startswith(_UTF16):
        raise LogError(path, "is UTF-16", remedy="save it as UTF-8")
    if not head.strip():
        raise LogError(path, "is empty")
    bom = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    raw = head[bom:].split(b"\n")
    if not whole and len(raw) > 1:
        raw.pop()  # may be cut
    try:
        lines = [line.decode("utf-8").rstrip("\r") for line in raw]
    except UnicodeDecodeError:
        lines = [line.decode("cp1252", errors="replace").rstrip("\r") for line in raw]
    ends = np.cumsum([len(line) + 1 for line in raw]) + bom
    used = [
        i
        for i, line in enumerate(lines)
        if line.strip() and not (options.comment and line.startswith(options.comment))
    ]
    if not used:
        raise LogError(path, "has no lines but comments")
    lines = [line.replace("\r", " ") for line in lines]  # a stray one: the csv module stumbles over it
    try:
        separator = options.separator or _separator([lines[i] for i in used[:30]])
        rows = list(csv.reader((lines[i] for i in used[: _SAMPLE_ROWS + 2]), delimiter=separator))
    except csv.Error as error:
        raise LogError(path, f"is no CSV ({error})") from error
    names, n_head = _header(path, rows)
    rows = [row for row in rows[n_head:] if len(row) == len(names)][:_SAMPLE_ROWS]
    cells = [cell for row in rows for cell in row]
    decimal = options.decimal or _decimal(cells, separator)
    if decimal == ",":
        if separator == ",":
            raise LogError(
                path, "a decimal comma needs another separator than ','", remedy="give --separator"
            )
        rows = [[cell.replace(",", ".") for cell in row] for row in rows]
    sample = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    last = used[n_head - 1] if n_head else -1
    offset = int(ends[last]) if last >= 0 else bom
    return CsvLayout(separator, decimal, tuple(names), offset, last + 2, sample)


def _separator(lines: Sequence[str]) -> str:
    """The one that splits most lines into the same number of fields, the more fields the better."""
    best, best_score = ",", (0.0, 0)
    for candidate in _SEPARATORS:
        counts = [len(row) for row in csv.reader(lines, delimiter=candidate)]
        usual = max(set(counts), key=counts.count)
        share = counts.count(usual) / len(counts)
        if usual > 1 and (share, usual) > best_score:
            best, best_score = candidate, (share, usual)
    return best


def _decimal(cells: Sequence[str], separator: str) -> str:
    if separator == ",":
        return "."
    commas = sum(re.fullmatch(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*", cell) is not None for cell in cells)
    points = sum("." in cell and is_number(cell) for cell in cells)
    return "," if commas > points else "."


def _header(path: Path, rows: Sequence[Sequence[str]]) -> tuple[list[str], int]:
    """Column names and how many lines hold them (0: none, 2: a line of units follows)."""
    first = rows[0]
    if any(is_number(cell.replace(",", ".")) or is_time(cell) for cell in first):
        return [f"c{i + 1}" for i in range(len(first))], 0
    names = [cell.strip() for cell in first]
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise LogError(path, "the name occurs twice", line=1, column=repeated[0], remedy="rename one")
    names = [name or f"unnamed_{i + 1}" for i, name in enumerate(names)]
    if len(rows) > 2 and len(rows[1]) == len(names) and not any(_is_value(cell) for cell in rows[1]):
        has_values = any(_is_value(cell) for cell in rows[2])
        return names, 2 if has_values else 1
    return names, 1


def _is_value(cell: str) -> bool:
    return is_number(cell.replace(",", ".")) or is_time(cell)
