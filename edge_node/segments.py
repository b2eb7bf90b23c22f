"""The files of the black box: one is being written, the others are finished and only ever removed.

Invariants: a file is written at its end and nowhere else; what :meth:`SegmentFile.append` returned from is on the disk, and
what it raised from is not in the file. Readers need no lock: a file may go while it is being read, and one that is being
written ends where it was last flushed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_node.retention import Piece
from models.block_frames import SUFFIX, Contents, Head, Survey, end_frames, head_frames, survey
from models.evidence import Mark
from models.files import sync_folder
from models.logs import LogError, LogItem, Warn, default_warn
from models.signal import NS_PER_S
from models.time_policy import RecordedDevice

FOLDER = "blackbox"
_DIGITS = 10
_MOST_NS = 2 * 3600 * NS_PER_S  # that a file takes to fill


@dataclass(frozen=True, slots=True)
class Segment:
    """A file with what is in it. ``is_closed``: it was finished; else it is being written, or was cut short."""

    path: Path
    head: Head
    contents: Contents
    n_bytes: int
    is_closed: bool

    @classmethod
    def of(cls, path: Path, found: Survey) -> Segment:
        return cls(path, found.head, found.contents, found.size, found.is_closed)

    @property
    def number(self) -> int:
        return self.head.number

    @property
    def piece(self) -> Piece:
        """What retention needs to know of it."""
        return _piece(self.number, self.n_bytes, self.head.ran_s, self.contents)


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:0{_DIGITS}d}{SUFFIX}"


def load(folder: Path, warn: Warn = default_warn) -> list[Segment]:
    """The files of a black box, in order, without those of which not even the beginning is there; ``warn`` is told of those
    that cannot be read."""
    found = []
    for path in _paths(folder):
        try:
            one = survey(path)
        except LogError as error:
            if path.exists():  # else it went meanwhile
                warn(str(error))
            continue
        if one is not None:
            found.append(Segment.of(path, one))
    return sorted(found, key=lambda segment: segment.number)


def recover(folder: Path) -> tuple[list[Segment], list[str]]:
    """:func:`load` for the one that will write: what was cut short is finished at its last whole frame, what holds nothing
    is removed; and what there is to say of that. A file that cannot be read is left as it is. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept, said = [], []
    for path in _paths(folder):
        try:
            found = survey(path)
        except LogError as error:
            said.append(f"{error}; left as it is")
            continue
        if found is None or not found.contents.n_items:
            path.unlink(missing_ok=True)
            continue
        if not found.is_closed:
            n_torn = found.size - found.end
            size = _finish(path, found)
            torn = f", and {n_torn} bytes after that were not whole" if n_torn else ""
            said.append(
                f"{path.name} was cut short; {found.contents.n_items} blocks, ticks and the like are in it{torn}"
            )
            found = Survey(found.head, found.contents, size, size, True)
        kept.append(Segment.of(path, found))
    return sorted(kept, key=lambda segment: segment.number), said


class SegmentFile:
    """The file that is being written."""

    def __init__(
        self,
        folder: Path,
        number: int,
        follows: bool,
        devices: Sequence[RecordedDevice],
        state: bytes,
        ran_s: float = 0.0,
    ) -> None:
        """Begins it. Raises OSError; there is then no file."""
        self.path = segment_path(folder, number)
        beginning = head_frames(number, follows, devices, state, ran_s)
        self._contents = Contents()
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._number, self._ran_s, self.n_bytes = number, ran_s, 0
        try:
            self._write(beginning)
            os.fsync(self._file)
            sync_folder(folder)
        except OSError:
            os.close(self._file)
            self.path.unlink(missing_ok=True)
            raise

    @property
    def piece(self) -> Piece:
        """What there is of it so far."""
        return _piece(self._number, self.n_bytes, self._ran_s, self._contents)

    @property
    def contents(self) -> Contents:
        """What is in it so far."""
        return self._contents

    def append(self, frames: bytes, items: Sequence[LogItem], marks: Sequence[Mark]) -> None:
        """``frames``, which hold ``items`` and ``marks``, onto the disk. Raises OSError."""
        before = self.n_bytes
        try:
            self._write(frames)
            os.fdatasync(self._file)
        except OSError:
            self._cut(before)
            raise
        self._contents.add(items)
        self._contents.marks.extend(marks)

    def close(self) -> bool:
        """Finishes the file; False where that could not be written, and it says so only by having no end."""
        before = self.n_bytes
        try:
            self._write(end_frames(self._contents, self.n_bytes))
            os.fdatasync(self._file)
        except OSError:
            self._cut(before)
            return False
        finally:
            os.close(self._file)
        return True

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            n = os.write(self._file, view)
            self.n_bytes += n
            view = view[n:]

    def _cut(self, size: int) -> None:
        """What a full disk took of something is taken back."""
        try:
            os.ftruncate(self._file, size)
            os.lseek(self._file, size, os.SEEK_SET)
        except OSError:
            return  # a reader stops before it
        self.n_bytes = size


def _piece(number: int, n_bytes: int, ran_s: float, contents: Contents) -> Piece:
    spans = {device: (one.first_ns, one.last_ns) for device, one in contents.devices.items()}
    return Piece(
        number,
        n_bytes,
        contents.first_arrival_ns,
        contents.last_arrival_ns or 0,
        round(ran_s * NS_PER_S) + _took_ns(contents),
        spans,
        tuple(contents.marks),
        contents.n_raw_bytes,
    )


def _took_ns(contents: Contents) -> int:
    """How long it took to fill a file, as far as its clock can be believed."""
    if contents.first_arrival_ns is None or contents.last_arrival_ns is None:
        return 0
    took_ns = contents.last_arrival_ns - contents.first_arrival_ns
    return took_ns if 0 <= took_ns <= _MOST_NS else 0


def _finish(path: Path, found: Survey) -> int:
    """Cuts off what is not whole, and ends the file if there is room; its size then."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(file, found.end)
        try:
            os.pwrite(file, end_frames(found.contents, found.end), found.end)
        except OSError:
            os.ftruncate(file, found.end)
        os.fsync(file)
        return os.fstat(file).st_size
    finally:
        os.close(file)


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{'[0-9]' * _DIGITS}{SUFFIX}"))
