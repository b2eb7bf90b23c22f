"""The samples of one uniform stream that windows still need: a sliding buffer addressed by sample index.

Rows ``low <= index < head`` are kept in one contiguous array; when its end is reached, what is kept moves to
the front: of another array, if windows of the old one were lent, which then belongs to them alone. So a sample is
copied about twice, and a window of which nothing is missing is not copied at all. Holes (missing rows, NaN values) are
rare: while there is none, nothing is kept about validity.

Invariant: what lies in a lent window is never written again. Rows are only put at ``head`` or into holes, and a lent
window has none.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.sample_clock import SampleClock

_LARGE_BLOCK = 16_384  # rows; a buffer grows to this when blocks are larger than it


class TrackState(msgspec.Struct, frozen=True):
    columns: tuple[int, ...]
    clock: SampleClock
    low: int
    closed_to: int
    first_hole: int | None
    holes_end: int
    capacity: int
    values: bytes
    valid: bytes


class Track:
    """Buffer of one stream; ``columns`` are its channels' places among the device's, ascending."""

    def __init__(self, columns: tuple[int, ...], clock: SampleClock, n: int) -> None:
        self.columns = columns
        self.clock = clock
        contiguous = columns == tuple(range(columns[0], columns[0] + len(columns)))
        self.index: slice | list[int] = (
            slice(columns[0], columns[0] + len(columns)) if contiguous else list(columns)
        )
        self.low = clock.head
        self.closed_to = clock.head  # rows before this are late: their windows have closed
        self.first_hole: int | None = None  # first row >= low with an invalid value; None: no holes
        self._holes_end = clock.head  # one past the last such row
        self._origin = clock.head  # index of the buffer's row 0
        self._seen = clock.head  # by make_room
        self._allocate(max(4 * n, 256))

    def _allocate(self, capacity: int) -> None:
        self._values, self._lent = np.empty((capacity, len(self.columns)), np.float32), False
        self._valid = np.ones((capacity, len(self.columns)), np.bool_)

    @property
    def complete_to(self) -> int:
        """Rows ``low .. complete_to`` are all there."""
        return self.clock.head if self.first_hole is None else self.first_hole

    @property
    def evenly_whole(self) -> bool:
        """Whether no row from ``low`` on lacks a value, and windows are a hop of samples apart."""
        return self.first_hole is None and len(self.clock.offsets) == 1

    def room(self, wanted: int) -> int:
        """How many of ``wanted`` rows can be appended now: at least one."""
        capacity = len(self._values)
        if capacity - (self.clock.head - self._origin) >= wanted:
            return wanted
        if wanted > capacity and capacity < _LARGE_BLOCK:
            self._move(min(2 * wanted, _LARGE_BLOCK))
        else:
            self._move(capacity)
        capacity = len(self._values)
        free = capacity - (self.clock.head - self._origin)
        if free < min(wanted, capacity // 4):
            self._move(2 * capacity)
            free = len(self._values) - (self.clock.head - self._origin)
        return min(wanted, free)

    def make_room(self) -> None:
        """Room for as many rows as have come since the last call, within reason."""
        head = self.clock.head
        came, self._seen = head - self._seen, head
        if head - self._origin + came <= len(self._values):
            return
        wanted, capacity = head - self.low + came, len(self._values)
        while capacity < min(wanted, _LARGE_BLOCK):
            capacity *= 2
        if wanted <= capacity or capacity > len(self._values):
            self._move(capacity)

    def append_whole(self, rows: NDArray[np.float32]) -> bool:
        """Puts ``rows``, all finite, at the head of a track that is :attr:`evenly_whole` and whose clock needs no
        correction, if there is room just so."""
        clock = self.clock
        n = len(rows)
        at = clock.head - self._origin
        if at + n > len(self._values):
            return False
        self._values[at : at + n] = rows
        clock.head += n
        return True

    def append(self, rows: NDArray[np.float32], finite: NDArray[np.bool_] | None) -> None:
        """Puts ``rows`` at the head; there must be :meth:`room`. ``finite`` None: all of them."""
        n = len(rows)
        head = self.clock.head
        at = head - self._origin
        self._values[at : at + n] = rows
        if finite is not None:
            self._values[at : at + n][~finite] = 0.0
            whole = np.logical_and.reduce(finite, axis=1)
            self._keep_validity(head)
            self._valid[at : at + n] = finite
            if self.first_hole is None:
                self.first_hole = head + int(np.argmin(whole))
            self._holes_end = head + n - int(np.argmin(whole[::-1]))
        elif self.first_hole is not None:
            self._valid[at : at + n] = True
        self.clock.append(n)

    def skip(self, index: int, low: int) -> None:
        """The next sample is ``index``: rows between are missing, and of those only from ``low`` on are
        wanted."""
        head = self.clock.head
        start = head
        if head == self.low:  # nothing is kept
            start = self.low = self._origin = max(head, min(low, index))
            self._give_up_lent()
        self.clock.append(index - head)
        n = index - start
        if n == 0:
            return
        self.clock.head = start
        while self.room(n) < n:
            self._move(2 * len(self._values))
        at = start - self._origin
        self._keep_validity(start)
        self._values[at : at + n] = 0.0
        self._valid[at : at + n] = False
        if self.first_hole is None:
            self.first_hole = start
        self._holes_end = index
        self.clock.head = index

    def last_hole(self, start: int, end: int) -> int:
        """The last row in ``start .. end`` that lacks a value; ``start - 1`` where none does."""
        if self.first_hole is None or start >= end:
            return start - 1
        there = np.logical_and.reduce(self._valid[start - self._origin : end - self._origin], axis=1)
        holes = np.flatnonzero(~there)
        return start + int(holes[-1]) if len(holes) else start - 1

    def fill(self, start: int, rows: NDArray[np.float32]) -> tuple[int, int]:
        """Puts ``rows`` into the holes from index ``start`` on; all lie in ``low .. head``.

        Returns (values that filled a hole, values that were there already); the others are not finite.
        """
        finite = np.isfinite(rows)
        n_finite = int(finite.sum())
        if self.first_hole is None:
            return 0, n_finite
        at = start - self._origin
        there = self._valid[at : at + len(rows)]
        new = finite & ~there
        n_new = int(new.sum())
        if n_new:
            self._values[at : at + len(rows)][new] = rows[new]
            there |= new
            self._find_holes()
        return n_new, n_finite - n_new

    def release(self, low: int) -> None:
        """Rows before index ``low`` are no longer wanted."""
        low = min(low, self.clock.head)
        if low <= self.low:
            return
        self.low = low
        self.clock.trim(low)
        if self.first_hole is not None and self.first_hole < low:
            if low >= self._holes_end:
                self.first_hole = None
            else:
                self._find_holes()

    def whole(self, start: int, end: int) -> bool:
        """Whether every value of rows ``start .. end`` is there."""
        return start >= self.low and end <= self.complete_to

    def windows(self, start: int, w: int, n: int, hop: int) -> NDArray[np.float32]:
        """A view float32[w, n, c] of windows that begin at ``start + i * hop``; all rows must be kept."""
        return _sliding(self._values, start - self._origin, w, n, hop)

    def lent(self, start: int, w: int, n: int, hop: int) -> NDArray[np.float32]:
        """The same, of whole windows, to keep: read-only, and what it shows never changes."""
        self._lent = True
        lent = _sliding(self._values, start - self._origin, w, n, hop)
        lent.flags.writeable = False
        return lent

    def copy_into(self, start: int, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """Copies rows from ``start`` on into one window, values [n, C] and valid [n, C]: what is kept, else
        left as it is."""
        first = max(start, self.low)
        last = min(start + len(values), self.clock.head)
        if first >= last:
            return
        here = slice(first - self._origin, last - self._origin)
        there = slice(first - start, last - start)
        values[there, self.index] = self._values[here]
        valid[there, self.index] = True if self.first_hole is None else self._valid[here]

    def state(self) -> TrackState:
        kept = slice(self.low - self._origin, self.clock.head - self._origin)
        valid = b"" if self.first_hole is None else self._valid[kept].tobytes()
        return TrackState(
            self.columns,
            msgspec.structs.replace(self.clock, offsets=list(self.clock.offsets)),
            self.low,
            self.closed_to,
            self.first_hole,
            self._holes_end,
            len(self._values),
            self._values[kept].tobytes(),
            valid,
        )

    @classmethod
    def restored(cls, state: TrackState) -> Track:
        track = cls(state.columns, state.clock, 1)
        track._allocate(state.capacity)
        track.low = track._origin = state.low
        track.closed_to = state.closed_to
        track.first_hole, track._holes_end = state.first_hole, state.holes_end
        kept = np.frombuffer(state.values, np.float32).reshape(-1, len(state.columns))
        track._values[: len(kept)] = kept
        if state.first_hole is not None:
            track._valid[: len(kept)] = np.frombuffer(state.valid, np.bool_).reshape(kept.shape)
        return track

    def _move(self, capacity: int) -> None:
        """Moves what is kept to the front of a buffer of ``capacity`` rows."""
        kept = slice(self.low - self._origin, self.clock.head - self._origin)
        values, valid = self._values[kept], self._valid[kept]
        if capacity != len(self._values):
            self._allocate(max(capacity, len(values) + 1))
        self._give_up_lent()
        self._values[: len(values)] = values
        if self.first_hole is not None:
            self._valid[: len(valid)] = valid
        self._origin = self.low

    def _give_up_lent(self) -> None:
        """Rows are about to be numbered anew: leaves the array to the windows that were lent."""
        if self._lent:
            self._values, self._lent = np.empty_like(self._values), False

    def _keep_validity(self, head: int) -> None:
        """From now on there are holes: the rows before ``head`` had none unless validity was kept already."""
        if self.first_hole is None:
            self._valid[: head - self._origin] = True

    def _find_holes(self) -> None:
        kept = self._valid[self.low - self._origin : self.clock.head - self._origin]
        whole = np.logical_and.reduce(kept, axis=1)
        first = int(np.argmin(whole)) if len(whole) else 0
        self.first_hole = None if not len(whole) or whole[first] else self.low + first


def _sliding(rows: NDArray[np.float32], at: int, w: int, n: int, hop: int) -> NDArray[np.float32]:
    row = rows.strides[0]
    return np.ndarray((w, n, rows.shape[1]), np.float32, rows, at * row, (hop * row, row, rows.strides[1]))
