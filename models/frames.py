"""Frames: what a file that may be cut off at any byte is made of. Pure.

A frame is a header of 20 bytes and a payload, each with a CRC-32 of its own::

    magic "LWbf" | kind u8, three zeros | length u32 | CRC of the payload u32 | CRC of the 16 bytes before u32

Invariant: what :func:`whole_frames` yields was written as it is; it ends before the first byte of which that is not so.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MAGIC = b"LWbf"
MAX_PAYLOAD = 1 << 30

_HEADER = struct.Struct("<4sB3xII")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_END_MARK = struct.Struct("<Q8s")
_END_MAGIC = b"LWbf-end"
TRAILER_BYTES = _END_MARK.size


class FrameKind(enum.IntEnum):
    """What a frame holds."""

    HEAD = 1  # what the file is
    STATE = 2  # of the pipeline, before the first item
    ITEMS = 3  # blocks and ticks
    MARK = 4  # an alert was said
    END = 5  # what is in the file; nothing follows


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it was read: bytes ``begin`` to ``end`` of its file."""

    kind: FrameKind
    payload: bytes
    begin: int
    end: int


def frame(kind: FrameKind, payload: bytes) -> bytes:
    """``payload`` as a frame."""
    header = _HEADER.pack(MAGIC, kind, len(payload), zlib.crc32(payload))
    return header + _CRC.pack(zlib.crc32(header)) + payload


def trailer(begin: int) -> bytes:
    """What follows an END frame that begins at ``begin``, for those who look for it from the end of the file."""
    return _END_MARK.pack(begin, _END_MAGIC)


def end_frame_at(tail: bytes) -> int | None:
    """Where the END frame begins, by the last :data:`TRAILER_BYTES` of a file; None where there is none."""
    if len(tail) != TRAILER_BYTES:
        return None
    begin, magic = _END_MARK.unpack(tail)
    return int(begin) if magic == _END_MAGIC else None


def whole_frames(read: Callable[[int], bytes], begin: int = 0) -> Iterator[Frame]:
    """The frames of a file that ``read`` reads from ``begin`` on, up to the first that is not whole."""
    while True:
        header = read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or _CRC.unpack_from(header, _HEADER.size)[0] != zlib.crc32(
            header[: _HEADER.size]
        ):
            return
        magic, kind, length, crc = _HEADER.unpack_from(header)
        if magic != MAGIC or kind not in FrameKind.__members__.values() or length > MAX_PAYLOAD:
            return
        payload = read(length)
        if len(payload) < length or zlib.crc32(payload) != crc:
            return
        end = begin + HEADER_BYTES + length
        yield Frame(FrameKind(kind), payload, begin, end)
        begin = end
