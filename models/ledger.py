"""What became of every sample and window of one device: counts, and the windows that wait to be taken.

Invariant: ``n_samples_in == n_windowed + sum(sample_drops.values())`` and ``n_closed`` equals the windows
handed out or waiting plus ``sum(window_drops.values())``, between any two calls.
"""

from __future__ import annotations

import functools
import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.signal import DropReason, WindowBatch

_SHARED_VALUES = 1 << 16
_FEW = 8  # for so few, Python's integers are faster than arrays


class BatchState(msgspec.Struct, frozen=True, array_like=True):
    """A :class:`WindowBatch` as bytes."""

    shape: tuple[int, int, int]
    start_ns: bytes
    end_ns: bytes
    values: bytes
    valid: bytes


class LedgerState(msgspec.Struct, frozen=True):
    n_samples_in: int
    n_windowed: int
    sample_drops: dict[DropReason, int]
    n_closed: int
    window_drops: dict[DropReason, int]
    batches: list[BatchState]


class Ledger:
    """Counters in samples (one channel at one time) and in windows."""

    def __init__(self, device_id: str, n: int, min_valid: float) -> None:
        self.device_id = device_id
        self.n_needed = math.ceil(min_valid * n - 1e-9)
        self.needs_all = self.n_needed >= n
        self.n_samples_in = 0
        self.n_windowed = 0
        self.sample_drops: dict[DropReason, int] = {}
        self.n_closed = 0
        self.window_drops: dict[DropReason, int] = {}
        self.batches: list[WindowBatch] = []

    def drop(self, reason: DropReason, n: int) -> None:
        """Counts ``n`` samples as dropped."""
        if n:
            self.sample_drops[reason] = self.sample_drops.get(reason, 0) + n

    def drop_windows(self, reason: DropReason, n: int) -> None:
        """Counts ``n`` closed windows as dropped."""
        if n:
            self.n_closed += n
            self.window_drops[reason] = self.window_drops.get(reason, 0) + n

    def close(
        self,
        start_ns: NDArray[np.int64],
        end_ns: NDArray[np.int64],
        values: NDArray[np.float32],
        valid: NDArray[np.bool_] | None,
    ) -> None:
        """Closes windows, values float32[w, n, c]; ``valid`` None: all of it. A window without one valid
        sample never existed; one with too few on some channel is dropped as GAP."""
        w = values.shape[0]
        whole = valid is None
        if valid is None:
            valid = _all_valid(values.shape)
        else:
            n_valid = valid.sum(axis=1)
            exists = n_valid.any(axis=1)
            enough = exists & (n_valid >= self.n_needed).all(axis=1)
            w = int(enough.sum())
            self.drop_windows(DropReason.GAP, int(exists.sum()) - w)
            if w == 0:
                return
            if w < len(enough):
                start_ns, end_ns = start_ns[enough], end_ns[enough]
                values, valid = values[enough], valid[enough]
        self.n_closed += w
        self.batches.append(WindowBatch(self.device_id, start_ns, end_ns, values, valid, whole))

    def take(self) -> list[WindowBatch]:
        """The waiting windows, oldest first; they no longer wait."""
        batches, self.batches = self.batches, []
        return batches

    def state(self) -> LedgerState:
        waiting = [
            BatchState(
                (b.values.shape[0], b.values.shape[1], b.values.shape[2]),
                b.start_ns.tobytes(),
                b.end_ns.tobytes(),
                b.values.tobytes(),
                b.valid.tobytes(),
            )
            for b in self.batches
        ]
        return LedgerState(
            self.n_samples_in,
            self.n_windowed,
            dict(self.sample_drops),
            self.n_closed,
            dict(self.window_drops),
            waiting,
        )

    def restore(self, state: LedgerState) -> None:
        self.n_samples_in, self.n_windowed = state.n_samples_in, state.n_windowed
        self.sample_drops = dict(state.sample_drops)
        self.n_closed, self.window_drops = state.n_closed, dict(state.window_drops)
        self.batches = [
            WindowBatch(
                self.device_id,
                np.frombuffer(b.start_ns, np.int64).copy(),
                np.frombuffer(b.end_ns, np.int64).copy(),
                np.frombuffer(b.values, np.float32).reshape(b.shape).copy(),
                np.frombuffer(b.valid, np.bool_).reshape(b.shape).copy(),
            )
            for b in state.batches
        ]


def _all_valid(shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """bool ``shape``, all True; the small ones, of which there are many, are one read-only array."""
    w, n, c = shape
    return _shared_valid(shape) if w * n * c <= _SHARED_VALUES else np.ones(shape, np.bool_)


@functools.lru_cache(maxsize=64)
def _shared_valid(shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    valid = np.ones(shape, np.bool_)
    valid.flags.writeable = False
    return valid


def window_times(
    k: int, w: int, n: int, hop: int, num: int, period: int, origin_ns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Half-open spans int64[w], int64[w] of windows ``k .. k+w-1``: ``origin_ns`` plus sample index times
    ``period / num`` ns, exact, rounded down (what ``signal.samples_to_ns`` gives, without overflow and
    without a loop)."""
    if w == 1:  # as nearly always when live
        first = k * hop
        start, end = origin_ns + first * period // num, origin_ns + (first + n) * period // num
        return np.array((start,), np.int64), np.array((end,), np.int64)
    if w <= _FEW:
        firsts = range(k * hop, (k + w) * hop, hop)
        starts = [origin_ns + i * period // num for i in firsts]
        return (
            np.array(starts, np.int64),
            np.array([origin_ns + (i + n) * period // num for i in firsts], np.int64),
        )
    ends = []
    whole, rest = divmod(hop * period, num)
    steps = np.arange(w, dtype=np.int64)
    for first in (k * hop, k * hop + n):
        start, remainder = divmod(first * period, num)
        ends.append(origin_ns + start + steps * whole + (remainder + steps * rest) // num)
    return ends[0], ends[1]
