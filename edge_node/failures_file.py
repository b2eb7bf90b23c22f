"""``failures.csv``: what failed when, as people keep it. One line a failure; every mistake is named by line and column."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from arro3.core import Array, DataType

from edge_node.failures import Failure
from models.csv_layout import CsvLayout, find_layout
from models.logs import LogError, LogOptions
from models.timestamps import TimeColumn, is_number, is_time

_COMMENT = "#"
_TIME = ("time", "timestamp", "datetime", "date", "t", "at", "failed_at", "time_ns")
_TEXT = ("text", "what", "comment", "description", "note")
_COLUMNS = "a column time, and where it is not clear whose failure it is device or machine; text is optional"
_REMEDY = "write it as 2024-05-01T06:00:00Z, or as in the log"


def read_failures(
    path: Path,
    machine_of: Mapping[str, str],
    *,
    present: Callable[[], Sequence[str]],
    timezone: str | None = None,
) -> list[Failure]:
    """The failures in a CSV file, by time. Raises LogError for a file without any, too.

    Columns by name, in any order; others are left alone: ``time`` as in logs (``timezone`` where they have no offset);
    ``device`` or ``machine`` (the failure is one of any device of it), which may be left empty where ``present()`` (the
    devices that the log has; asked only where it matters) is one device, or devices of one machine; ``text``.
    ``machine_of``: the machine of each device that may be named. A line whose first field begins with # is a comment.
    """
    options = LogOptions(timezone=timezone)
    layout = find_layout(path, options)
    names = [name.lower() for name in layout.columns]
    time_at = next((i for i, name in enumerate(names) if name in _TIME), None)
    if layout.first_line == 1 or time_at is None:
        shown = ", ".join(map(repr, layout.columns)) if layout.first_line > 1 else "no line of names"
        raise LogError(path, f"no column is named time: it has {shown}", line=1, remedy=f"give {_COLUMNS}")
    text_at = next((i for i, name in enumerate(names) if name in _TEXT), None)
    whose_at: dict[str, int] = {kind: names.index(kind) for kind in ("device", "machine") if kind in names}
    lines, rows = _rows(path, layout)
    if not rows:
        raise LogError(
            path, "has no failure", remedy="give one line for each, below the names of the columns"
        )
    failures = []
    in_log = cache(present)
    for line, row in zip(lines, rows, strict=True):
        time_ns = _time(path, layout.columns[time_at], row[time_at], line, options)
        given = {kind: row[i] for kind, i in whose_at.items() if row[i]}
        named, devices = _whose(path, line, given, machine_of, in_log)
        text = row[text_at] if text_at is not None else ""
        failures.append(Failure(time_ns, devices, named, text))
    return sorted(failures, key=lambda failure: failure.time_ns)


def _rows(path: Path, layout: CsvLayout) -> tuple[list[int], list[list[str]]]:
    """Line numbers and stripped fields of the lines that hold a failure."""
    width = len(layout.columns)
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file, delimiter=layout.separator)
            before = 0
            for row in reader:
                line, before = before + 1, reader.line_num  # a quoted text may go over several
                blank = not any(cell.strip() for cell in row)
                if line < layout.first_line or blank or row[0].startswith(_COMMENT):
                    continue
                if len(row) != width:
                    raise LogError(
                        path,
                        f"has {len(row)} fields, and the columns are {width}: {layout.separator.join(row)!r}",
                        line=line,
                        remedy=f"quote a text that has a {layout.separator!r} in it, and leave empty fields empty",
                    )
                lines.append(line)
                rows.append([cell.strip() for cell in row])
    except OSError as error:
        raise LogError(path, f"cannot be read ({error.strerror})") from error
    except csv.Error as error:
        raise LogError(path, f"is no CSV ({error})") from error
    return lines, rows


def _time(path: Path, name: str, text: str, line: int, options: LogOptions) -> int:
    if not text:
        raise LogError(path, "is empty", line=line, column=name, remedy=_REMEDY)
    if is_number(text) or is_time(text):
        try:
            column = TimeColumn(path, name, [text], options, first_line=line)
        except LogError as error:
            if error.line is not None:
                raise
            problem = f"{text!r} may be read in two ways"
            raise LogError(path, problem, line=line, column=name, remedy=_REMEDY) from None
        times, bad = column.parse(Array([text], type=DataType.utf8()))
        if not bad[0]:
            return int(times[0])
    raise LogError(path, f"{text!r} is not a time", line=line, column=name, remedy=_REMEDY)


def _whose(
    path: Path,
    line: int,
    given: Mapping[str, str],
    machine_of: Mapping[str, str],
    present_in: Callable[[], Sequence[str]],
) -> tuple[str, tuple[str, ...]]:
    """How the failure's place is called, and the devices that it may show on."""
    if not given:
        present = present_in()
        machines = {machine_of[device] for device in present}
        if len(present) == 1:
            return present[0], (present[0],)
        if len(machines) == 1:
            return machines.pop(), tuple(present)
        raise LogError(
            path,
            f"does not say whose failure it is, and the log has {', '.join(present) or 'no device that is watched'}",
            line=line,
            column="device",
            remedy="name a device, or a machine in a column machine",
        )
    device, machine = given.get("device"), given.get("machine")
    if device is not None and device not in machine_of:
        raise LogError(
            path,
            f"no device is called {device!r}",
            line=line,
            column="device",
            remedy=f"the devices are {', '.join(machine_of)}",
        )
    if machine is not None and machine not in machine_of.values():
        raise LogError(
            path,
            f"no machine is called {machine!r}",
            line=line,
            column="machine",
            remedy=f"the machines are {', '.join(dict.fromkeys(machine_of.values()))}",
        )
    if device is not None:
        if machine not in (None, machine_of[device]):
            raise LogError(
                path,
                f"device {device!r} is of machine {machine_of[device]!r}, not of {machine!r}",
                line=line,
                column="machine",
                remedy="correct one of both",
            )
        return device, (device,)
    assert machine is not None
    return machine, tuple(d for d, of in machine_of.items() if of == machine)
