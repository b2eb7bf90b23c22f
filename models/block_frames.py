"""The block log in frames: the form of the gateway's black box, which must survive a kill at any byte.

A file is a HEAD frame (what its devices are), a STATE frame (what the pipeline remembered before the first item), and then
ITEMS frames, each a little Parquet file of some seconds, with the columns of ``block_parquet``; a MARK stands where an
alert was said, and an END frame says what is in the file. It is written once and only at its end: a file without END was
cut short, and is whole up to its last whole frame. Float32 of a converter's counts is compressed best by a dictionary, any
other by its bytes side by side: what is smaller is found by trying.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
from arro3.io import read_parquet, write_parquet

from models import codec
from models.block_log import FORMAT, VERSION, Beginning
from models.block_parquet import batch_of, items_of
from models.evidence import Mark, span
from models.frames import (
    HEADER_BYTES,
    TRAILER_BYTES,
    Frame,
    FrameKind,
    end_frame_at,
    frame,
    trailer,
    whole_frames,
)
from models.logs import LogError, LogItem, Tick, Warn
from models.signal import SampleBlock
from models.table_columns import ArrowRefusedError, arrow_errors
from models.time_policy import RecordedDevice

SUFFIX = ".blocks"
_TRY_EVERY = 64  # frames
_VALUES = ("values", "list", "item")

T = TypeVar("T")


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a file is. ``follows``: its first item came right after the last one of the file numbered one less; ``ran_s``: for
    how long, in all, there had been a black box when it was begun."""

    format: str
    version: int
    number: int
    follows: bool
    devices: tuple[RecordedDevice, ...]
    ran_s: float = 0.0


class DeviceSpan(msgspec.Struct, kw_only=True):
    """What a file holds of a device; event times of its first row and its last."""

    first_ns: int
    last_ns: int
    n_rows: int
    n_samples: int


class Contents(msgspec.Struct, kw_only=True):
    """What is in a file: by device, and in all. Arrivals are of all items."""

    devices: dict[str, DeviceSpan] = {}
    marks: list[Mark] = []
    first_arrival_ns: int | None = None
    last_arrival_ns: int | None = None
    n_items: int = 0
    n_raw_bytes: int = 0  # of the items: values and times, as they are in memory

    def add(self, items: Sequence[LogItem]) -> None:
        """Count ``items``, too."""
        for item in items:
            if isinstance(item, Tick):
                arrival_ns = item.now_ns
            else:
                arrival_ns = item.arrival_ns
                if isinstance(item, SampleBlock):
                    self._add_block(item)
            if self.first_arrival_ns is None:
                self.first_arrival_ns = arrival_ns
            self.last_arrival_ns = arrival_ns
            self.n_items += 1

    @property
    def n_samples(self) -> int:
        return sum(found.n_samples for found in self.devices.values())

    def _add_block(self, block: SampleBlock) -> None:
        if not block.n:
            return
        self.n_raw_bytes += raw_bytes(block)
        first, last = span(block)
        found = self.devices.get(block.device_id)
        if found is None:
            n, n_samples = block.n, block.n_samples
            self.devices[block.device_id] = DeviceSpan(
                first_ns=first, last_ns=last, n_rows=n, n_samples=n_samples
            )
            return
        found.first_ns, found.last_ns = min(found.first_ns, first), max(found.last_ns, last)
        found.n_rows += block.n
        found.n_samples += block.n_samples


def raw_bytes(block: SampleBlock) -> int:
    """What the signal of ``block`` takes uncompressed."""
    return 4 * block.n_samples + (0 if block.time_ns is None else 8 * block.n)


class ItemPacker:
    """Blocks and ticks as ITEMS frames, in the encoding that has proved the smaller of the two."""

    def __init__(self) -> None:
        self._dictionary = False
        self._n_packed = 0

    def pack(self, items: Sequence[LogItem]) -> bytes:
        batch = batch_of(items)
        payload = _parquet(batch, self._dictionary)
        if self._n_packed % _TRY_EVERY == 0:
            other = _parquet(batch, not self._dictionary)
            if len(other) < len(payload):
                self._dictionary, payload = not self._dictionary, other
        self._n_packed += 1
        return frame(FrameKind.ITEMS, payload)


def _parquet(batch: Any, dictionary: bool) -> bytes:
    buffer = BytesIO()
    write_parquet(
        batch,
        buffer,
        compression="zstd(1)",
        column_dictionary_enabled={_VALUES: dictionary},
        column_encoding={_VALUES: "plain" if dictionary else "byte_stream_split"},
        skip_arrow_metadata=True,
        max_statistics_size=1,
        data_page_row_count_limit=1 << 20,
    )
    return buffer.getvalue()


def head_frames(
    number: int, follows: bool, devices: Sequence[RecordedDevice], state: bytes, ran_s: float = 0.0
) -> bytes:
    """How a file begins; ``state`` packed as a :class:`Beginning` has it."""
    head = Head(
        format=FORMAT, version=VERSION, number=number, follows=follows, devices=tuple(devices), ran_s=ran_s
    )
    return frame(FrameKind.HEAD, codec.encode(head)) + frame(FrameKind.STATE, state)


def mark_frame(mark: Mark) -> bytes:
    return frame(FrameKind.MARK, msgspec.json.encode(mark))


def end_frames(contents: Contents, begin: int) -> bytes:
    """How a file that is ``begin`` bytes long ends."""
    return frame(FrameKind.END, msgspec.json.encode(contents)) + trailer(begin)


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a file. ``end``: after its last whole frame; ``size``: of the file. ``is_closed``: it says itself what
    is in it."""

    head: Head
    contents: Contents
    end: int
    size: int
    is_closed: bool


def survey(path: Path) -> Survey | None:
    """What is in ``path``: as its END says, else by reading all of it; None where not even its head is whole. Raises
    LogError when it cannot be read."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        frames = whole_frames(file.read)
        first = next(frames, None)
        head = None if first is None or first.kind is not FrameKind.HEAD else _head(path, first)
        if head is None or first is None:
            return None
        if (closed := _end(path, file, size)) is not None:
            return Survey(head, closed, size, size, True)
        file.seek(first.end)
        contents, end = Contents(), first.end
        for found in whole_frames(file.read, first.end):
            if found.kind is FrameKind.END:
                break
            end = found.end
            if found.kind is FrameKind.ITEMS:
                contents.add(_items(path, found))
            elif found.kind is FrameKind.MARK:
                contents.marks.append(_decoded(path, found, Mark))
    return Survey(head, contents, end, size, False)


def read_frames_log(path: Path, warn: Warn) -> Iterator[LogItem]:
    """Blocks and ticks as written, up to the first frame that is not whole. Raises LogError."""
    for found in read_frames(path, warn):
        if not isinstance(found, Mark):
            yield from found


def read_frames(path: Path, warn: Warn) -> Iterator[list[LogItem] | Mark]:
    """The items of each frame, and marks where they stand. Raises LogError."""
    end, ended = 0, False
    with _open(path) as file:
        for found in whole_frames(file.read):
            end, ended = found.end, found.kind is FrameKind.END
            if ended:
                break
            if found.kind is FrameKind.ITEMS:
                yield _items(path, found)
            elif found.kind is FrameKind.MARK:
                yield _decoded(path, found, Mark)
        size = os.fstat(file.fileno()).st_size
    if not ended and size > end:
        warn(f"{path}: ends in something unfinished after byte {end}; left out")


def frames_head(path: Path) -> Head:
    """What the file says of itself. Raises LogError."""
    with _open(path) as file:
        first = next(whole_frames(file.read), None)
    if first is None or first.kind is not FrameKind.HEAD:
        raise LogError(path, "is no recording of edge-node: its beginning is missing or damaged")
    return _head(path, first)


def frames_beginning(path: Path) -> Beginning:
    """What the pipeline remembered before the first item. Raises LogError."""
    with _open(path) as file:
        for found in whole_frames(file.read):
            if found.kind is FrameKind.STATE:
                return Beginning(state=found.payload)
            if found.kind is not FrameKind.HEAD:
                break
    return Beginning()


def _end(path: Path, file: IO[bytes], size: int) -> Contents | None:
    if size < TRAILER_BYTES + HEADER_BYTES:
        return None
    file.seek(size - TRAILER_BYTES)
    begin = end_frame_at(file.read(TRAILER_BYTES))
    if begin is None or begin >= size:
        return None
    file.seek(begin)
    found = next(whole_frames(file.read, begin), None)
    if found is None or found.kind is not FrameKind.END or found.end != size - TRAILER_BYTES:
        return None
    return _decoded(path, found, Contents)


def _head(path: Path, found: Frame) -> Head:
    head = _decoded(path, found, Head)
    if head.version > VERSION:
        raise LogError(path, f"is block log version {head.version}", remedy="read it with a newer Linewatch")
    return head


def _items(path: Path, found: Frame) -> list[LogItem]:
    try:
        with arrow_errors():
            batches = list(read_parquet(found.payload, batch_size=1 << 16))
    except ArrowRefusedError as error:
        raise LogError(path, f"the frame at byte {found.begin} cannot be read ({error})") from error
    return [item for batch in batches for item in items_of(path, batch)]


def _decoded(path: Path, found: Frame, kind: type[T]) -> T:
    try:
        return codec.decode(found.payload, kind)
    except msgspec.DecodeError as error:
        raise LogError(path, f"the frame at byte {found.begin} cannot be read ({error})") from error


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise LogError(path, f"cannot be read ({error.strerror})") from error
