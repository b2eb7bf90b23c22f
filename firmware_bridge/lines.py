"""Lines of text on a byte stream: whole lines out, whatever the chunking. What they mean is for others to say.

A line ends with CR, LF or both; empty ones are nothing. What comes before the first end is not delivered: the line may
have been joined within it, and half a number is a number too. Damage is a value that is counted. Pure.
"""

from __future__ import annotations

import enum
import re
from collections import Counter

_SAMPLE = 80  # bytes
_CONTROLS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")


class LineDamage(enum.StrEnum):
    """Why a line was not delivered."""

    OVERSIZE = "oversize"  # longer than a line may be: a lost end, or no text at all
    MALFORMED = "malformed"  # not UTF-8, or with control characters in it: another baud rate, or noise
    CUT_IN = "cut_in"  # what came before the first end
    SHORT = "short"  # the stream ended within it


class LineSplitter:
    """Bytes in any chunking in, whole lines out. Memory is bounded by ``max_bytes``, the longest line without its end,
    and the read in hand."""

    def __init__(self, max_bytes: int) -> None:
        self.n_lines = 0
        self.n_bytes = 0
        self.damage: Counter[LineDamage] = Counter()
        self.no_text = b""  # how the last malformed line began
        self._max_bytes = max_bytes
        self._tail = b""
        self._oversize = False  # the tail was too long, and is gone
        self._first = True  # no end has been seen

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, UTF-8, without their ends, in order."""
        self.n_bytes += len(data)
        pieces = (self._tail + data).replace(b"\r", b"\n").split(b"\n")
        self._tail = pieces.pop()
        lines: list[bytes] = []
        for piece in pieces:
            if self._first or self._oversize:
                self._skip(piece)
            elif piece:
                self._take(piece, lines)
        if len(self._tail) > self._max_bytes:
            self._oversize, self._tail = True, b""
        self.n_lines += len(lines)
        return lines

    def reset(self) -> None:
        """The stream is a new one."""
        if (self._tail or self._oversize) and not self._first:
            self.damage[LineDamage.SHORT] += 1
        self._tail, self._oversize, self._first = b"", False, True

    def _skip(self, piece: bytes) -> None:
        """The end of a line whose beginning is not known, or is gone."""
        if self._oversize or len(piece) > self._max_bytes:
            self.damage[LineDamage.OVERSIZE] += 1
        elif piece:
            self.damage[LineDamage.CUT_IN] += 1
        self._first = self._oversize = False

    def _take(self, piece: bytes, lines: list[bytes]) -> None:
        if len(piece) > self._max_bytes:
            self.damage[LineDamage.OVERSIZE] += 1
        elif not piece.isspace():
            if _is_line(piece):
                lines.append(piece)
            else:
                self.damage[LineDamage.MALFORMED] += 1
                self.no_text = piece[:_SAMPLE]


def _is_line(piece: bytes) -> bool:
    """Whether ``piece`` is one line of text, also for those who know more ends of lines than CR and LF."""
    if piece.isascii():
        return _CONTROLS.search(piece) is None
    try:
        return len(piece.decode().splitlines()) == 1 and _CONTROLS.search(piece) is None
    except UnicodeDecodeError:
        return False
