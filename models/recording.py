"""Logs: what the sources deliver, written down and read back; and other people's CSV, JSON lines and Parquet.

Our own format, the *block log*, holds one row per block, clock tick or acceptance in the order in which they reached the
pipeline, with arrival times, so that a replay gives the alerts of the live run (``block_log.py``). A log of
another program is a table (``tables.py``) or JSON lines of batches (``json_lines.py``); the first lines say
which column is what, and nothing is guessed that could be wrong in silence: times without a zone are refused.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from models.acceptance import Acceptance
from models.block_frames import SUFFIX as FRAMES_SUFFIX
from models.block_frames import frames_beginning, frames_head, read_frames_log
from models.block_log import (
    Beginning,
    JsonlWriter,
    is_jsonl_log,
    jsonl_beginning,
    jsonl_devices,
    read_jsonl,
)
from models.block_parquet import (
    SPOOL_SUFFIX,
    ParquetWriter,
    is_parquet_log,
    parquet_beginning,
    parquet_devices,
    read_parquet_log,
    spool_of,
)
from models.csv_text import CsvTable
from models.json_lines import JsonLines
from models.log_rates import run_backwards, suggest_rate
from models.logs import LogError, LogInfo, LogItem, LogOptions, LogWarning, Tick, Warn, default_warn
from models.signal import Mode, SampleBlock
from models.table_columns import find_roles, warn_ignored
from models.tables import ParquetTable, table_blocks
from models.time_policy import RecordedDevice

__all__ = [
    "Beginning",
    "LogError",
    "LogInfo",
    "LogOptions",
    "LogWarning",
    "RecordingWriter",
    "Tick",
    "by_arrival",
    "check_new",
    "file_device",
    "inspect_log",
    "is_block_log",
    "log_beginning",
    "log_files",
    "open_table",
    "read_log",
    "recorded_devices",
    "select_rows",
]

_Item = TypeVar("_Item", bound=LogItem)

_INSPECT_ROWS = 20_000
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


class RecordingWriter:
    """Writes a block log; the suffix of ``path`` (``.jsonl`` or ``.parquet``) chooses the form. ``devices``
    are those whose blocks it will hold: what their values mean (units, origins) goes with them.

    Never overwrites: LogError when ``path`` exists, cannot be created or has another suffix; ``write`` and
    ``close`` raise it when the disk is full, and what was written before stays readable.
    """

    def __init__(
        self,
        path: Path | str,
        devices: Sequence[RecordedDevice] = (),
        beginning: Beginning | None = None,
    ) -> None:
        path = Path(path)
        check_new(path)
        form = JsonlWriter if path.suffix == ".jsonl" else ParquetWriter
        self._writer: JsonlWriter | ParquetWriter = form(path, devices, beginning)
        self.path = path

    def write(self, item: LogItem) -> None:
        """Append a block, a tick or an acceptance, bit for bit."""
        self._writer.write(item)

    def close(self) -> None:
        """Finish the file; a second call does nothing."""
        self._writer.close()

    def discard(self) -> None:
        """Leave no file: nothing was recorded. Raises OSError."""
        self._writer.discard()

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_new(path: Path) -> None:
    """Raises LogError where no recording can be begun at ``path``."""
    if path.suffix not in (".jsonl", ".parquet"):
        raise LogError(path, "a recording ends in .jsonl or .parquet")
    if path.exists():
        raise LogError(path, "exists already", remedy="choose another name, or remove it")
    if not path.parent.is_dir():
        raise LogError(path, f"there is no folder {path.parent}")


def log_files(logs: Path | str | Sequence[Path | str]) -> list[Path]:
    """The files of paths and globs (``**`` too), each once. LogError where a path or pattern matches none."""
    found: dict[Path, None] = {}
    for given in [logs] if isinstance(logs, (str, Path)) else logs:
        log = str(given).removesuffix(SPOOL_SUFFIX)
        path = Path(log)
        if path.exists() or spool_of(path).exists():
            matches = [path]
        else:
            names = {*glob.glob(str(log), recursive=True), *glob.glob(f"{log}{SPOOL_SUFFIX}", recursive=True)}
            matches = [Path(name) for name in sorted(name.removesuffix(SPOOL_SUFFIX) for name in names)]
        matches = [match for match in matches if not match.is_dir()]
        if not matches:
            raise LogError(
                path, "no such file" if not path.is_dir() else "is a folder", remedy="name log files"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def read_log(
    logs: Path | str | Sequence[Path | str],
    options: LogOptions | None = None,
    *,
    warn: Warn = default_warn,
) -> Iterator[LogItem]:
    """Blocks, ticks and acceptances of one or several logs (paths or globs), in bounded memory.

    Several files are read one after the other in the order of their first arrival, and are one device
    unless they say otherwise: so a log that was cut into days is one log. Blocks of a foreign log have at
    most ``options.block_rows`` rows, span at most ``options.block_span_s``, and arrive at the event time of
    their last row, without ticks. Raises LogError, at the first ``next()`` at the earliest.
    """
    options = options or LogOptions()
    files = log_files(logs)
    device_id = options.device_id or file_device(files[0])
    for file in by_arrival(files, options):
        yield from _read_file(file, options, device_id, warn)


def by_arrival(files: Sequence[Path], options: LogOptions) -> list[Path]:
    """``files`` in the order in which :func:`read_log` reads them. Raises LogError."""
    if len(files) < 2:
        return list(files)
    device_id = options.device_id or file_device(files[0])
    return sorted(files, key=lambda file: _first_arrival(file, options, device_id))


def recorded_devices(path: Path | str) -> tuple[RecordedDevice, ...]:
    """The devices as they were configured when ``path`` was recorded; none for a log that does not say.
    Raises LogError."""
    path = Path(path)
    if not is_block_log(path):
        return ()
    if path.suffix == FRAMES_SUFFIX:
        return frames_head(path).devices
    return parquet_devices(path) if path.suffix == ".parquet" else jsonl_devices(path)


def log_beginning(path: Path | str) -> Beginning:
    """In the midst of what ``path`` begins: nothing, unless it is a part of the gateway's black box. Raises LogError."""
    path = Path(path)
    if not is_block_log(path):
        return Beginning()
    if path.suffix == FRAMES_SUFFIX:
        return frames_beginning(path)
    return parquet_beginning(path) if path.suffix == ".parquet" else jsonl_beginning(path)


def inspect_log(path: Path | str, options: LogOptions | None = None, *, device: str | None = None) -> LogInfo:
    """Columns, devices, rate and mode of a log, from its first part. Raises LogError, also for a log of
    another program whose newest rows come first.

    Of a log of several devices, rate and mode are those of the first one; or of ``device``, whose rows are
    then the only ones looked at, however late they begin.
    """
    options = options or LogOptions()
    (file,) = log_files(path)[:1]
    table = None if is_block_log(file) else open_table(file, options, _silent)
    blocks: list[SampleBlock] = []
    seen: dict[str, None] = {}
    n_rows, complete = 0, True
    for item in _read_file(file, options, options.device_id or file_device(file), _silent):
        if isinstance(item, SampleBlock):
            seen[item.device_id] = None
            if device is not None and item.device_id != device:
                continue
            blocks.append(item)
            n_rows += item.n
            if n_rows >= _INSPECT_ROWS:
                complete = False
                break
    devices = tuple(seen)
    first = [block for block in blocks if block.device_id == blocks[0].device_id]
    if table is not None and first and run_backwards(first):
        raise LogError(file, "times run backwards", remedy="sort the file by time")
    mode, rate, interval = suggest_rate(first) if first else (Mode.IRREGULAR, None, None)
    roles = find_roles(table, options) if table is not None else None
    channels = (
        roles.channels if roles else tuple(dict.fromkeys(c for block in blocks for c in block.channels))
    )
    return LogInfo(
        path=file,
        format=table.format if table is not None else "block log",
        columns=table.columns if table is not None else channels,
        time_column=roles.time if roles else None,
        channels=channels,
        label_columns=roles.labels if roles else (),
        device_ids=devices,
        devices=recorded_devices(file),
        n_rows_seen=n_rows,
        n_rows=n_rows if complete else None,
        start_ns=int(blocks[0].times()[0]) if blocks and blocks[0].n else None,
        median_interval_s=interval,
        mode=mode,
        rate_hz=rate,
    )


def select_rows(
    items: Iterable[_Item],
    *,
    skip_rows: int = 0,
    n_rows: int | None = None,
    from_ns: int | None = None,
    until_ns: int | None = None,
) -> Iterator[_Item | SampleBlock]:
    """Of each device the rows with from_ns <= event time < until_ns, of these from number ``skip_rows`` on
    ``n_rows``.

    Ticks and acceptances pass. Rows of uniform blocks stay uniform blocks.
    """
    seen: dict[str, int] = {}
    for item in items:
        if isinstance(item, Tick | Acceptance):
            yield item
            continue
        keep = np.ones(item.n, dtype=np.bool_)
        if from_ns is not None or until_ns is not None:
            times = item.times()
            keep &= times >= from_ns if from_ns is not None else True
            keep &= times < until_ns if until_ns is not None else True
        number = seen.get(item.device_id, 0) + np.cumsum(keep) - 1
        seen[item.device_id] = seen.get(item.device_id, 0) + int(keep.sum())
        keep &= number >= skip_rows
        if n_rows is not None:
            keep &= number < skip_rows + n_rows
        edges = np.flatnonzero(np.diff(np.concatenate(([False], keep, [False]))))
        for start, stop in edges.reshape(-1, 2).tolist():
            yield item if (start, stop) == (0, item.n) else item.slice(start, stop)


def is_block_log(path: Path) -> bool:
    """Whether a log is our own (needs no options). Raises LogError when unreadable."""
    if path.suffix == ".parquet":
        return is_parquet_log(path)
    if path.suffix == FRAMES_SUFFIX:
        return True
    return path.suffix in _JSON_SUFFIXES and is_jsonl_log(path)


def open_table(path: Path, options: LogOptions, warn: Warn) -> CsvTable | JsonLines | ParquetTable:
    """A log of another program, by its suffix (``.gz`` is unpacked, but for Parquet). Raises LogError."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".parquet":
        return ParquetTable(path)
    if suffix in _JSON_SUFFIXES:
        return JsonLines(path, options, warn)
    return CsvTable(path, options, warn)


def _read_file(path: Path, options: LogOptions, device_id: str, warn: Warn) -> Iterator[LogItem]:
    if is_block_log(path):
        if path.suffix == FRAMES_SUFFIX:
            yield from read_frames_log(path, warn)
            return
        yield from read_parquet_log(path, warn) if path.suffix == ".parquet" else read_jsonl(path, warn)
        return
    table = open_table(path, options, warn)
    roles = find_roles(table, options)
    warn_ignored(table, roles, warn)
    if isinstance(table, JsonLines) and table.batches:
        yield from table.blocks(roles, device_id)
    else:
        yield from table_blocks(table, roles, options, device_id, warn)


def _first_arrival(path: Path, options: LogOptions, device_id: str) -> int:
    for item in _read_file(path, options, device_id, _silent):
        return item.now_ns if isinstance(item, Tick) else item.arrival_ns
    return 0


def file_device(path: Path) -> str:
    """What the device of a log is called that names none."""
    name = path.name.removesuffix(".gz")
    return Path(name).stem or name


def _silent(text: str) -> None:
    """What is said when the log is read in earnest need not be said while looking at it."""
