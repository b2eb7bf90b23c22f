"""Frames on a byte stream: COBS between zero bytes, a CRC-32 behind the body. docs/protocol.md has the layout.

Strategy: a read of any size is cut at its zero bytes in one go, and each piece is unstuffed and checked by C code
(``cobs``, ``zlib``). Every frame is sent with a zero before *and* after it, so damage never reaches beyond the zeros
around it: the next intact frame is always found. Damage is a value that is counted, never an exception. Pure.

Sources: Cheshire & Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Trans. Networking 7(2), 1999; CRC-32/ISO-HDLC.
"""

from __future__ import annotations

import enum
import zlib
from collections import Counter

from cobs import cobs

DELIMITER = b"\0"
MAX_BODY = 4096  # bytes of a body, its header included
CRC_BYTES = 4
# The CRC-32 of any bytes followed by their own CRC-32, little-endian.
RESIDUE = 0x2144DF1C
_MAX_RAW = MAX_BODY + CRC_BYTES
_MAX_STUFFED = _MAX_RAW + _MAX_RAW // 254 + 1


class Damage(enum.StrEnum):
    """Why a piece between two delimiters is not a frame."""

    BAD_CRC = "bad_crc"
    BAD_COBS = "bad_cobs"
    SHORT = "short"  # not even a CRC and one byte
    OVERSIZE = "oversize"  # longer than any frame: a lost delimiter, or no frames at all
    CUT_IN = "cut_in"  # damaged, and the first piece after opening: we began to listen within a frame


def encode(body: bytes) -> bytes:
    """``body`` as it goes over the line, delimiters included. ValueError for an empty one or one that is longer
    than MAX_BODY."""
    if not 0 < len(body) <= MAX_BODY:
        raise ValueError(f"a body has 1 to {MAX_BODY} bytes, not {len(body)}")
    stuffed: bytes = cobs.encode(body + zlib.crc32(body).to_bytes(CRC_BYTES, "little"))
    return DELIMITER + stuffed + DELIMITER


class FrameDecoder:
    """Bytes in any chunking in, intact bodies out. Memory is bounded by one frame and the read in hand."""

    def __init__(self) -> None:
        self.n_frames = 0
        self.n_bytes = 0
        self.damage: Counter[Damage] = Counter()
        self._tail = b""  # of a piece whose end has not come yet
        self._oversize = False  # it is already too long, and counted
        self._first = True  # no delimiter has been seen

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies, CRC taken off, of all frames that ``data`` completes, in order."""
        self.n_bytes += len(data)
        pieces = _cut(data)
        if self._tail:
            pieces[0] = self._tail + pieces[0]
        self._tail = pieces.pop()
        bodies: list[bytes] = []
        if pieces:
            if self._oversize or self._first:
                self._take_first(pieces, bodies)
            self._take(pieces, bodies)
            self.n_frames += len(bodies)
        if len(self._tail) > _MAX_STUFFED:
            if not self._oversize:
                self.damage[Damage.OVERSIZE] += 1
            self._oversize, self._tail = True, b""
        return bodies

    def reset(self) -> None:
        """The stream is a new one: what was begun will not be ended. A piece cut off by that counts as short."""
        if self._tail and not self._first:
            self.damage[Damage.SHORT] += 1
        self._tail, self._oversize, self._first = b"", False, True

    def _take_first(self, pieces: list[bytes], bodies: list[bytes]) -> None:
        """The end of a piece that was too long, or what came before the first delimiter."""
        piece = pieces.pop(0)
        if piece and not self._oversize:
            before = self.damage.copy()
            self._take([piece], bodies)
            if self.damage != before and len(piece) <= _MAX_STUFFED:
                self.damage = before + Counter({Damage.CUT_IN: 1})
        self._first = self._oversize = False

    def _take(self, pieces: list[bytes], bodies: list[bytes]) -> None:
        crc32, decode, append = zlib.crc32, cobs.decode, bodies.append
        for piece in pieces:
            if not piece:
                continue
            try:
                raw = decode(piece)
            except cobs.DecodeError:
                raw = b""
            if crc32(raw) == RESIDUE and CRC_BYTES < len(raw) <= _MAX_RAW:
                append(raw[:-CRC_BYTES])
            else:
                self.damage[_damage_of(piece)] += 1


def _cut(data: bytes) -> list[bytes]:
    """``data.split(DELIMITER)``, where pieces are long: that looks at each byte, this leaves it to memchr. Of the empty
    pieces between two frames most are left out."""
    pieces: list[bytes] = []
    begin, find, append = 0, data.find, pieces.append
    while (end := find(0, begin)) >= 0:
        append(data[begin:end])
        begin = end + 1
        if data.startswith(DELIMITER, begin):
            begin += 1
    append(data[begin:])
    return pieces


def _damage_of(piece: bytes) -> Damage:
    """What is wrong with a damaged ``piece``."""
    if len(piece) > _MAX_STUFFED:
        return Damage.OVERSIZE
    try:
        raw = cobs.decode(piece)
    except cobs.DecodeError:
        return Damage.BAD_COBS
    if len(raw) > _MAX_RAW:
        return Damage.OVERSIZE
    return Damage.SHORT if len(raw) <= CRC_BYTES else Damage.BAD_CRC
