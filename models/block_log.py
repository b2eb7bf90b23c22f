"""The block log: our own record of what reached the pipeline, one row a block, tick or acceptance, in that order, bit
for bit.

``.jsonl`` is one JSON object a line with the values as base64 float32; every line is handed to the kernel
whole, so a kill costs at most the line being written, and the reader leaves out a last line without its
end. The first line says what devices the rows are of, where the writer knew. The Parquet form, with the
same columns, is in ``block_parquet.py``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import numpy as np

from models import codec
from models.acceptance import Acceptance
from models.evidence import Mark
from models.logs import LogError, LogItem, Tick, Warn
from models.messages import pack_floats, unpack_floats
from models.signal import Clock, SampleBlock
from models.text_files import open_bytes, text_lines
from models.time_policy import RecordedDevice

FORMAT = "linewatch block log"
VERSION = 1
_MAX_HEADER = 64 << 20

Ns = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """What a log that begins in the midst of things says besides its devices. ``state``: what the pipeline remembered before
    the first item, packed by :func:`packed_state`; ``marks``: alerts that were said in the course of it."""

    state: bytes | None = None
    marks: tuple[Mark, ...] = ()


def packed_state(snapshot: bytes) -> bytes:
    """``snapshot`` of a pipeline as logs hold it."""
    return zlib.compress(snapshot, 1)


def unpacked_state(path: Path, state: bytes) -> bytes:
    """The inverse of :func:`packed_state`; LogError names ``path``."""
    try:
        return zlib.decompress(state)
    except zlib.error as error:
        raise LogError(path, f"what the pipeline remembered cannot be read ({error})") from error


class _Header(msgspec.Struct, frozen=True, tag_field="kind", tag="log", kw_only=True):
    format: str
    version: int
    devices: tuple[RecordedDevice, ...] = ()  # none in logs of before they were written
    beginning: Beginning | None = None


class _BlockRow(msgspec.Struct, frozen=True, tag_field="kind", tag="block", kw_only=True, omit_defaults=True):
    device: str
    arrival_ns: Ns
    clock: Clock
    channels: tuple[str, ...]
    start_ns: Ns | None = None
    rate: Fraction | None = None
    time_ns: list[Ns] | None = None
    values: str  # base64 of little-endian float32, row by row


class _TickRow(msgspec.Struct, frozen=True, tag_field="kind", tag="tick", kw_only=True):
    arrival_ns: Ns


class _AcceptanceRow(msgspec.Struct, frozen=True, tag_field="kind", tag="acceptance", kw_only=True):
    device: str
    arrival_ns: Ns
    transaction: str
    by: str
    note: str


_Row = _Header | _BlockRow | _TickRow | _AcceptanceRow
_decode_row = msgspec.json.Decoder(_Row, dec_hook=lambda kind, value: codec.parse_rate(value)).decode


class JsonlWriter:
    """Appends rows to a new ``.jsonl`` file. Raises LogError."""

    def __init__(
        self, path: Path, devices: Sequence[RecordedDevice] = (), beginning: Beginning | None = None
    ) -> None:
        self._path = path
        self._file = create(path)
        header = _Header(format=FORMAT, version=VERSION, devices=tuple(devices), beginning=beginning)
        self._put(codec.encode(header))

    def write(self, item: LogItem) -> None:
        if isinstance(item, Tick):
            self._put(codec.encode(_TickRow(arrival_ns=item.now_ns)))
            return
        if isinstance(item, Acceptance):
            accepted = _AcceptanceRow(
                device=item.device_id,
                arrival_ns=item.arrival_ns,
                transaction=item.transaction,
                by=item.by,
                note=item.note,
            )
            self._put(codec.encode(accepted))
            return
        row = _BlockRow(
            device=item.device_id,
            arrival_ns=item.arrival_ns,
            clock=item.clock,
            channels=item.channels,
            start_ns=item.start_ns,
            rate=item.rate_hz,
            time_ns=None if item.time_ns is None else item.time_ns.tolist(),
            values=pack_floats(item.values),
        )
        self._put(codec.encode(row))

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _put(self, line: bytes) -> None:
        write_all(self._path, self._file, line + b"\n")


def read_jsonl(path: Path, warn: Warn) -> Iterator[LogItem]:
    """What was written. A last line without its end is left out with a warning. Raises
    LogError."""
    number = 0
    with open_bytes(path) as file:
        for data in text_lines(path, file):
            for line in data.splitlines(keepends=True):
                number += 1
                try:
                    row = _decode_row(line)
                    item = _from_row(path, row)
                except (msgspec.DecodeError, ValueError) as error:
                    if not line.endswith(b"\n"):
                        warn(f"{path}, line {number}: cut short (the recording was interrupted); left out")
                        return
                    raise LogError(path, f"no row of a block log ({error})", line=number) from error
                if item is not None:
                    yield item


def jsonl_devices(path: Path) -> tuple[RecordedDevice, ...]:
    """The devices that the log's first line names. Raises LogError."""
    header = _header(path)
    return () if header is None else header.devices


def jsonl_beginning(path: Path) -> Beginning:
    """In the midst of what the log begins. Raises LogError."""
    header = _header(path)
    return Beginning() if header is None or header.beginning is None else header.beginning


def _header(path: Path) -> _Header | None:
    with open_bytes(path) as file:
        line = file.readline(_MAX_HEADER)
    try:
        row = _decode_row(line)
    except (msgspec.DecodeError, ValueError) as error:
        if not line.endswith(b"\n"):  # the recording was interrupted at once
            return None
        raise LogError(path, f"no row of a block log ({error})", line=1) from error
    return row if isinstance(row, _Header) else None


def is_jsonl_log(path: Path) -> bool:
    """Whether ``path`` is a block log as JSON lines. Raises LogError when unreadable."""
    with open_bytes(path) as file:
        return file.read(64).startswith(b'{"kind":"log"')


def _from_row(path: Path, row: _Row) -> LogItem | None:
    if isinstance(row, _TickRow):
        return Tick(row.arrival_ns)
    if isinstance(row, _AcceptanceRow):
        return Acceptance(
            device_id=row.device,
            arrival_ns=row.arrival_ns,
            transaction=row.transaction,
            by=row.by,
            note=row.note,
        )
    if isinstance(row, _Header):
        if row.version > VERSION:
            raise LogError(
                path, f"is block log version {row.version}", remedy="read it with a newer Linewatch"
            )
        return None
    times = None if row.time_ns is None else np.array(row.time_ns, dtype=np.int64)
    values = unpack_floats(row.values, (-1, len(row.channels)))
    return make_block(
        row.device, row.channels, values, row.arrival_ns, row.start_ns, row.rate, times, row.clock
    )


def make_block(
    device: str,
    channels: tuple[str, ...],
    values: Any,
    arrival_ns: int,
    start_ns: int | None,
    rate: Fraction | None,
    times: Any,
    clock: Clock,
) -> SampleBlock:
    if start_ns is not None and rate is not None:
        return SampleBlock.uniform(
            device, channels, values, start_ns=start_ns, rate_hz=rate, arrival_ns=arrival_ns, clock=clock
        )
    if times is None:
        raise ValueError("a block without times")
    return SampleBlock.irregular(device, channels, values, time_ns=times, arrival_ns=arrival_ns, clock=clock)


def create(path: Path) -> IO[bytes]:
    """A new file, unbuffered: what ``write`` took is the kernel's, and outlives this process."""
    try:
        return path.open("xb", buffering=0)
    except FileExistsError as error:
        raise LogError(path, "exists already", remedy="choose another name, or remove it") from error
    except OSError as error:
        raise LogError(path, f"cannot be created ({error.strerror})") from error


def write_all(path: Path, file: IO[bytes], data: bytes) -> None:
    """All of ``data``; what a full disk took of it is cut off again, so that the log stays readable."""
    at = file.tell()
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        file.truncate(at)
        file.seek(at)
        raise LogError(path, f"cannot be written ({error.strerror})") from error
