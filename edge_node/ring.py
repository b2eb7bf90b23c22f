"""The black box on disk, as its one writer has it: begins files, appends to the newest, removes what may not stay.

Invariants: there are never more bytes than the configuration allows, the file that is being written included; so much of the
file system stays free as it says, and for that the black box rather shrinks than stops. All errors are OSError.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge_node.config_schema import BlackBox
from edge_node.retention import Bounds, Removal, Verdict, Wanted, judge, stretch
from edge_node.segments import SegmentFile, recover, segment_path
from models.block_frames import SUFFIX, ItemPacker, mark_frame
from models.block_log import packed_state
from models.evidence import Mark
from models.logs import LogItem
from models.signal import NS_PER_S, SampleBlock
from models.time_policy import RecordedDevice

FULL = (errno.ENOSPC, errno.EDQUOT)
SEGMENT_BYTES = 16 << 20  # of signal, in a file
ROOM_BYTES = 1 << 18  # that must be there for anything to begin
_END_BYTES = 4096  # of what a file ends with, but for one that many alerts were said in
_CHUNK_SAMPLES = 1 << 17  # packed at once: the interpreter is held that long, 5 ms
_STATES = 8  # a file holds so many times more signal than its state takes

Item = LogItem
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Begin:
    """What a new file begins with: ``state`` is the pipeline's snapshot; ``follows``: nothing was left out before it."""

    devices: Sequence[RecordedDevice]
    state: bytes
    follows: bool


@dataclass(frozen=True, slots=True)
class Holding:
    """What there is. Sizes are of files; ``ratio``: bytes on disk per byte of signal (None: there is no signal yet)."""

    ring_bytes: int = 0
    n_ring: int = 0
    kept_bytes: int = 0
    n_kept: int = 0
    oldest_ns: int | None = None
    ratio: float | None = None


def segment_bytes(options: BlackBox, n_state: int) -> int:
    """How much signal a file may hold that begins with ``n_state`` bytes of state."""
    most = options.max_bytes // 8
    return min(most, max(SEGMENT_BYTES, _STATES * n_state))


class Ring:
    """See the module's docstring. Of one thread."""

    def __init__(self, folder: Path, options: BlackBox, now_s: Callable[[], float]) -> None:
        self._folder = folder
        self.options = options
        self._now_s = now_s  # monotonic
        self._begun_s, self._ran_before_s = now_s(), 0.0
        self._packer = ItemPacker()
        self._file: SegmentFile | None = None
        self._reserved = 0  # for the file that is being written
        self._verdict = Verdict([], [], [])
        self._next = 1
        self.n_written = 0  # bytes, since this process began
        self.removed: Counter[Removal] = Counter()

    @property
    def _ran_s(self) -> float:
        """For how long there has been a black box, over all processes that left something of it."""
        return self._ran_before_s + self._now_s() - self._begun_s

    @property
    def is_open(self) -> bool:
        """Whether there is a file to append to."""
        return self._file is not None

    def recover(self) -> list[str]:
        """Takes up what an earlier process has left; what there is to say of it."""
        segments, said = recover(self._folder)
        self._verdict = Verdict([segment.piece for segment in segments], [], [])
        self._ran_before_s = max((piece.ran_ns for piece in self._verdict.ring), default=0) / NS_PER_S
        self._begun_s = self._now_s()
        numbers = (path.stem for path in self._folder.glob(f"*{SUFFIX}"))
        self._next = max((int(number) for number in numbers if number.isdigit()), default=0) + 1
        self._retain()
        return said

    def probe(self) -> None:
        """Raises what stands in the way of beginning a file."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room(ROOM_BYTES)
        path = self._folder / "probe"
        try:
            path.write_bytes(bytes(ROOM_BYTES))
        finally:
            path.unlink(missing_ok=True)

    def begin(self, begin: Begin) -> None:
        """Finishes the file that is there, and begins another."""
        follows = begin.follows and self._file is not None
        self.end()
        state = packed_state(begin.state)
        self._reserved = segment_bytes(self.options, len(begin.state))
        self._retain()

        def create() -> SegmentFile:
            return SegmentFile(self._folder, self._next, follows, begin.devices, state, self._ran_s)

        self._file = self._with_room(len(state), create)
        self._next += 1
        self.n_written += self._file.n_bytes

    def append(self, entries: Sequence[Item | Mark]) -> None:
        """All of ``entries``, or none, in as few frames as may be and with one sync."""
        file = self._file
        assert file is not None
        data, items, marks = self._frames(entries)
        n_bytes = file.n_bytes + len(data) + _END_BYTES
        if n_bytes > self._reserved:  # more came at once than a file is meant to hold, or was remembered
            self._reserved = n_bytes
            self._retain()
        self._with_room(len(data), lambda: file.append(data, items, marks))
        self.n_written += len(data)

    def end(self) -> None:
        """Finishes the file that is there; one that holds nothing is removed."""
        if self._file is None:
            return
        file, self._file = self._file, None
        before = file.n_bytes
        file.close()
        self.n_written += file.n_bytes - before
        if file.contents.n_items:
            self._verdict.ring.append(file.piece)
        else:
            file.path.unlink(missing_ok=True)

    def holding(self) -> Holding:
        ring, kept = list(self._verdict.ring), self._verdict.kept
        if self._file is not None:
            ring.append(self._file.piece)
        pieces = sorted((*kept, *ring), key=lambda piece: piece.number)
        n_raw = sum(piece.n_raw_bytes for piece in pieces)
        first = [p.first_ns for p in pieces[:1] if p.first_ns is not None]
        return Holding(
            sum(piece.n_bytes for piece in ring),
            len(ring),
            sum(piece.n_bytes for piece in kept),
            len(kept),
            first[0] if first else None,
            sum(piece.n_bytes for piece in pieces) / n_raw if n_raw else None,
        )

    def _frames(self, entries: Sequence[Item | Mark]) -> tuple[bytes, list[Item], list[Mark]]:
        frames: list[bytes] = []
        items: list[Item] = []
        marks: list[Mark] = []
        begin = n_samples = 0
        for entry in (*entries, None):
            if entry is None or isinstance(entry, Mark) or n_samples >= _CHUNK_SAMPLES:
                if begin < len(items):
                    frames.append(self._packer.pack(items[begin:]))
                begin, n_samples = len(items), 0
            if isinstance(entry, Mark):
                frames.append(mark_frame(entry))
                marks.append(entry)
            elif entry is not None:
                items.append(entry)
                n_samples += entry.n_samples if isinstance(entry, SampleBlock) else 1
        return b"".join(frames), items, marks

    def _with_room(self, n_bytes: int, act: Callable[[], T]) -> T:
        """``act``, which writes ``n_bytes``; where the disk says that it is full although there should have been room, once
        more after the oldest has gone."""
        self._make_room(n_bytes)
        try:
            return act()
        except OSError as error:
            if error.errno not in FULL or not self._retain(2 * n_bytes + ROOM_BYTES):
                raise
        return act()

    def _make_room(self, n_bytes: int) -> None:
        needed = self.options.min_free_bytes + n_bytes
        lacking = needed - _free(self._folder)
        if lacking <= 0:
            return
        self._retain(lacking)
        free = _free(self._folder)
        if free < needed:
            reserved = self.options.min_free_bytes
            raise OSError(
                errno.ENOSPC,
                f"the disk is full: {free / 1e6:.1f} MB are free, of which min_free_bytes reserves {reserved / 1e6:g} MB",
            )

    def _retain(self, lacking_bytes: int = 0) -> bool:
        """Removes what may not stay; whether that was anything."""
        ring, kept = self._verdict.ring, self._verdict.kept
        pieces = sorted((*kept, *ring), key=lambda piece: piece.number)
        marks = [mark for piece in pieces for mark in piece.marks]
        if self._file is not None:
            marks += self._file.contents.marks
        bounds = bounds_of(self.options, self._reserved)
        wanted = Wanted(stretch(mark, bounds) for mark in marks)
        self._verdict = judge(pieces, wanted, bounds, round(self._ran_s * NS_PER_S), lacking_bytes)
        for piece, reason in self._verdict.gone:
            segment_path(self._folder, piece.number).unlink(missing_ok=True)
            self.removed[reason] += 1
        return bool(self._verdict.gone)


def bounds_of(options: BlackBox, n_reserved: int = 0) -> Bounds:
    """``options`` for what is finished, ``n_reserved`` bytes being reserved for what is being written."""
    return Bounds(
        ring_ns=round(options.hours * 3600 * NS_PER_S),
        ring_bytes=options.max_bytes - n_reserved,
        keep_ns=round(options.keep_days * 86_400 * NS_PER_S),
        keep_bytes=options.keep_bytes,
        before_ns=round(options.before_s * NS_PER_S),
        after_ns=round(options.after_s * NS_PER_S),
    )


def _free(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize
