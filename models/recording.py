"""Logs: what the sources deliver, written down and read back; and other people's CSV, JSON lines and Parquet.

Our own format, the *block log*, holds one row per block or clock tick in the order in which they reached the pipeline,
with arrival times, so that a replay gives the alerts of the live run. ``.jsonl`` is safe against a kill at any byte: a
line is written whole and handed to the kernel at once, and a last line cut short is left out with a warning.
``.parquet`` is smaller and is made at ``close()`` from a spool beside it, which after a kill is read in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from models.logs import LogError, LogInfo, LogOptions, LogWarning, Tick, Warn, default_warn
from models.signal import SampleBlock

__all__ = [
    "LogError",
    "LogInfo",
    "LogOptions",
    "LogWarning",
    "RecordingWriter",
    "Tick",
    "inspect_log",
    "read_log",
]


class RecordingWriter:
    """Writes a block log; the suffix of ``path`` (``.jsonl`` or ``.parquet``) chooses the form.

    Refuses to overwrite: raises LogError when ``path`` exists, cannot be written or has another suffix. ``write`` raises
    LogError when the disk is full.
    """

    def __init__(self, path: Path | str) -> None:
        raise NotImplementedError

    def write(self, item: SampleBlock | Tick) -> None:
        """Append a block or a tick, bit for bit."""

    def close(self) -> None:
        """Finish the file; a second call does nothing."""


def read_log(
    logs: Path | str | Sequence[Path | str],
    options: LogOptions | None = None,
    *,
    warn: Warn = default_warn,
) -> Iterator[SampleBlock | Tick]:
    """Blocks and ticks of one or several logs (paths or globs), in bounded memory.

    Several files are read one after the other, in the order of their first arrival. Blocks have at most ``options.block_rows``
    rows and span at most ``options.block_span_s``. A log without arrival times gives each block the event time of its last row as
    ``arrival_ns``, and no ticks. Raises LogError.
    """
    raise NotImplementedError


def inspect_log(path: Path | str, options: LogOptions | None = None) -> LogInfo:
    """Columns, devices, rate and mode of a log, from its first part. Raises LogError."""
    raise NotImplementedError


def select_rows(
    items: Iterable[SampleBlock | Tick],
    *,
    skip_rows: int = 0,
    n_rows: int | None = None,
    from_ns: int | None = None,
    until_ns: int | None = None,
) -> Iterator[SampleBlock | Tick]:
    """The rows of each device from number ``skip_rows`` on, at most ``n_rows`` of them, with from_ns <= event time < until_ns."""
    raise NotImplementedError
