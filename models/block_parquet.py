"""The block log as Parquet.

Parquet has its index at the end of the file, and a torn one is unreadable; so blocks first go to a spool
beside it (an Arrow IPC stream, handed to the kernel block by block), which becomes the Parquet file at
``close()``. After a kill the spool is still there and loses at most the block being written; reading the
``.parquet`` reads it. The devices that the rows are of are metadata of both. The columns are those of a block; of an
acceptance ``channels`` holds the texts of it: transaction, who, and the note.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from arro3.core import (
    Array,
    ChunkedArray,
    DataType,
    Field,
    RecordBatch,
    RecordBatchReader,
    Schema,
    list_array,
    list_flatten,
    list_offsets,
)
from arro3.io import read_ipc_stream, write_ipc_stream, write_parquet
from numpy.typing import NDArray

from models import codec
from models.acceptance import Acceptance
from models.block_log import FORMAT, VERSION, Beginning, create, make_block, write_all
from models.logs import LogError, LogItem, Tick, Warn
from models.parquet_files import parquet_batches, parquet_columns, parquet_metadata, parquet_n_rows
from models.signal import Clock
from models.table_columns import ArrowRefusedError, arrow_errors
from models.time_policy import RecordedDevice

SPOOL_SUFFIX = ".spool"
_READ_ROWS = 16  # blocks a batch: a few megabytes of live blocks, 50 MB of the largest
_GROUP_BYTES = 32 << 20
_N_END = 8  # bytes of an Arrow stream's end mark


def spool_of(path: Path) -> Path:
    """Where the blocks of ``path`` are until it is closed."""
    return path.with_name(path.name + SPOOL_SUFFIX)


def _list_type(item: DataType) -> DataType:
    return DataType.list(Field("item", item, nullable=True))


_METADATA = {"format": FORMAT, "version": str(VERSION)}
_SCHEMA = Schema(
    [
        Field("kind", DataType.utf8()),
        Field("device", DataType.utf8()),
        Field("arrival_ns", DataType.int64()),
        Field("clock", DataType.utf8()),
        Field("channels", _list_type(DataType.utf8())),
        Field("start_ns", DataType.int64(), nullable=True),
        Field("rate", DataType.utf8()),
        Field("time_ns", _list_type(DataType.int64())),
        Field("values", _list_type(DataType.float32())),
    ],
    metadata=_METADATA,
)


class ParquetWriter:
    """Appends rows to a spool, and makes the ``.parquet`` of it at ``close()``. Raises LogError."""

    def __init__(
        self, path: Path, devices: Sequence[RecordedDevice] = (), beginning: Beginning | None = None
    ) -> None:
        self._path = path
        self._spool = spool_of(path)
        if path.exists():
            raise LogError(path, "exists already", remedy="choose another name, or remove it")
        self._file = create(self._spool)
        self._n_rows = 0
        # A stream is its schema, its batches and an end mark: cut those apart, so that it can grow.
        self._n_schema = len(_ipc(_SCHEMA)) - _N_END
        metadata = _METADATA | {"devices": codec.encode(tuple(devices)).decode()}
        if beginning is not None:
            metadata["beginning"] = codec.encode(beginning).decode()
        empty = _ipc(_SCHEMA.with_metadata(metadata))
        self._end = empty[-_N_END:]
        write_all(self._spool, self._file, empty[:-_N_END])

    def write(self, item: LogItem) -> None:
        write_all(self._spool, self._file, _ipc(_SCHEMA, batch_of([item]))[self._n_schema : -_N_END])
        self._n_rows += 1

    def close(self) -> None:
        if self._file.closed:
            return
        write_all(self._spool, self._file, self._end)
        self._file.close()
        part = self._path.with_name(self._path.name + ".part")
        mean = max(1, self._spool.stat().st_size // max(1, self._n_rows))
        try:
            with arrow_errors():
                write_parquet(
                    read_ipc_stream(self._spool),
                    part,
                    compression="zstd(3)",
                    max_row_group_size=max(1, _GROUP_BYTES // mean),
                )
            os.replace(part, self._path)
            self._spool.unlink()
        except (ArrowRefusedError, OSError) as error:
            part.unlink(missing_ok=True)
            raise LogError(
                self._path, f"cannot be written ({error})", remedy=f"the recording is kept in {self._spool}"
            ) from error

    def discard(self) -> None:
        self._file.close()
        self._spool.unlink(missing_ok=True)


def read_parquet_log(path: Path, warn: Warn) -> Iterator[LogItem]:
    """What was written; from the spool where a kill left only that. Raises LogError."""
    spool = spool_of(path)
    if path.exists():
        for batch in parquet_batches(path, _READ_ROWS):
            yield from items_of(path, batch)
        return
    warn(f"{path}: the recording was interrupted; reading {spool.name}")
    try:
        with arrow_errors():
            for batch in read_ipc_stream(spool):
                yield from items_of(spool, batch)
    except ArrowRefusedError as error:
        warn(f"{spool}: its last block is cut short; left out ({error})")


def parquet_devices(path: Path) -> tuple[RecordedDevice, ...]:
    """The devices that the log, or its spool, names. Raises LogError."""
    return _said(path, "devices", tuple[RecordedDevice, ...], ())


def parquet_beginning(path: Path) -> Beginning:
    """In the midst of what the log begins. Raises LogError."""
    return _said(path, "beginning", Beginning, Beginning())


T = TypeVar("T")


def _said(path: Path, key: str, kind: type[T], default: T) -> T:
    if path.exists():
        metadata = parquet_metadata(path)
    else:
        try:
            with arrow_errors():
                metadata = read_ipc_stream(spool_of(path)).schema.metadata_str
        except ArrowRefusedError:  # the recording was interrupted at once
            return default
    if key not in metadata:
        return default
    try:
        return codec.decode(metadata[key].encode(), kind)
    except msgspec.DecodeError as error:
        raise LogError(path, f"its {key} cannot be read ({error})") from error


def parquet_log_records(path: Path) -> int | None:
    """How many blocks and ticks the log holds; None where there is only the spool. Raises LogError."""
    return parquet_n_rows(path, _READ_ROWS) if path.exists() else None


def is_parquet_log(path: Path) -> bool:
    """Whether ``path``, or the spool that stands in for it, is a block log. Raises LogError when
    unreadable."""
    if not path.exists():
        return spool_of(path).exists()
    return parquet_columns(path) == tuple(_SCHEMA.names)


def items_of(path: Path, batch: RecordBatch) -> Iterator[LogItem]:
    """The items of ``batch``, whose arrays they share. LogError names ``path``."""
    text = {name: batch.column(name).to_pylist() for name in ("kind", "device", "clock", "rate", "channels")}
    arrivals = batch.column("arrival_ns").to_pylist()
    starts = batch.column("start_ns").to_pylist()
    values, value_ends = _lists(batch.column("values"))
    times, time_ends = _lists(batch.column("time_ns"))
    for i, kind in enumerate(text["kind"]):
        if kind == "tick":
            yield Tick(arrivals[i])
            continue
        channels = tuple(text["channels"][i])
        if kind == "acceptance":
            transaction, by, note = channels
            yield Acceptance(
                device_id=text["device"][i], arrival_ns=arrivals[i], transaction=transaction, by=by, note=note
            )
            continue
        rows = values[value_ends[i] : value_ends[i + 1]].reshape(-1, len(channels))
        uniform = starts[i] is not None
        try:
            rate = codec.parse_rate(text["rate"][i]) if uniform else None
            yield make_block(
                text["device"][i],
                channels,
                rows,
                arrivals[i],
                starts[i],
                rate,
                None if uniform else times[time_ends[i] : time_ends[i + 1]],
                Clock(text["clock"][i]),
            )
        except ValueError as error:
            raise LogError(path, f"block of {text['device'][i]!r} at {arrivals[i]}: {error}") from error


def _lists(column: ChunkedArray | Array) -> tuple[NDArray[Any], list[int]]:
    """The items of a column of lists one after the other, and where each list begins and ends."""
    lists = column if isinstance(column, Array) else column.combine_chunks()
    offsets = list_offsets(lists).to_numpy()
    items = list_flatten(lists).to_numpy()
    return items, (offsets - offsets[0]).tolist()


def batch_of(items: Sequence[LogItem]) -> RecordBatch:
    """``items`` as rows of a block log."""
    kinds: list[str] = []
    devices: list[str] = []
    arrivals: list[int] = []
    clocks: list[str] = []
    channels: list[tuple[str, ...]] = []
    starts: list[int | None] = []
    rates: list[str] = []
    times: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float32]] = []
    n_times: list[int] = []
    n_values: list[int] = []
    for item in items:
        if isinstance(item, Tick):
            row: tuple[Any, ...] = ("tick", "", item.now_ns, "", (), None, "", 0, 0)
        elif isinstance(item, Acceptance):
            said = (item.transaction, item.by, item.note)
            row = ("acceptance", item.device_id, item.arrival_ns, "", said, None, "", 0, 0)
        else:
            rate = "" if item.rate_hz is None else str(item.rate_hz)
            n = 0 if item.time_ns is None else item.n
            if item.time_ns is not None:
                times.append(item.time_ns)
            values.append(item.values.reshape(-1))
            row = ("block", item.device_id, item.arrival_ns, item.clock.value, item.channels)
            row += (item.start_ns, rate, n, item.n_samples)
        for cells, cell in zip(
            (kinds, devices, arrivals, clocks, channels, starts, rates, n_times, n_values), row, strict=True
        ):
            cells.append(cell)  # type: ignore[attr-defined]
    columns = [
        Array(kinds, type=DataType.utf8()),
        Array(devices, type=DataType.utf8()),
        Array(arrivals, type=DataType.int64()),
        Array(clocks, type=DataType.utf8()),
        _list_column(
            Array([name for names in channels for name in names], type=DataType.utf8()),
            list(map(len, channels)),
            DataType.utf8(),
        ),
        Array(starts, type=DataType.int64()),
        Array(rates, type=DataType.utf8()),
        _list_column(Array.from_numpy(_joined(times, np.dtype(np.int64))), n_times, DataType.int64()),
        _list_column(Array.from_numpy(_joined(values, np.dtype(np.float32))), n_values, DataType.float32()),
    ]
    return RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _joined(arrays: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.concatenate(arrays), dtype=dtype) if arrays else np.zeros(0, dtype)


def _list_column(items: Array, lengths: list[int], item: DataType) -> Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return list_array(Array.from_numpy(offsets), items, type=_list_type(item))


def _ipc(schema: Schema, *batches: RecordBatch) -> bytes:
    buffer = BytesIO()
    write_ipc_stream(RecordBatchReader.from_batches(schema, batches), buffer)
    return buffer.getvalue()
