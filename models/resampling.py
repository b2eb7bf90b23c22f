"""Irregular samples on a device's grid: cell g holds, for each channel, its newest sample with floor(time *
rate) == g.

An empty cell holds the channel's last value for at most ``hold_s``, then it is invalid. A window closes when
the watermark (newest event time minus the lateness) passes its end, because until then a newer value may come
for any of its cells. All channels share one grid, on whichever topic they came.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.ledger import Ledger, window_times
from models.sample_clock import CUT_NS
from models.signal import NS_PER_S, DropReason, WindowSpec
from models.time_policy import TimePolicy, to_ns

_NEVER = -(1 << 62)
_LONG_AGO = -(1 << 61)
_MAX_BATCH_VALUES = 1 << 22


class GridState(msgspec.Struct, frozen=True):
    k_next: int
    late_before: int
    late_since_ns: int | None
    newest_ns: int | None
    low: int
    head: int
    last_filled: int
    values: bytes
    times: bytes
    carried: bytes
    carried_cell: bytes


class Grid:
    """Windows of one irregular device."""

    def __init__(self, spec: WindowSpec, policy: TimePolicy, n_channels: int, ledger: Ledger) -> None:
        self._n, self._hop = spec.n, spec.hop
        self._num, self._period = spec.rate_hz.numerator, NS_PER_S * spec.rate_hz.denominator
        self._ledger = ledger
        self._lateness_ns = to_ns(policy.lateness_s)
        self._hold = to_ns(policy.hold_s) * self._num // self._period  # cells
        self._reset_ns = to_ns(policy.reset_after_s)
        late = self._lateness_ns * self._num // self._period + 1
        self._values = np.zeros((4 * (self._n + self._hop + late) + 64, n_channels), np.float32)
        self._times = np.full(self._values.shape, _NEVER, np.int64)
        self._origin = self._low = self._head = 0  # cells low .. head are kept, from row low - origin on
        self._carried = np.zeros(n_channels, np.float32)  # last value before cell `low`
        self._carried_cell = np.full(n_channels, _LONG_AGO, np.int64)
        self._last_filled = _LONG_AGO
        self._newest_ns: int | None = None
        self._k_next = 0
        self._late_before = 0
        self._late_since_ns: int | None = None

    def push(
        self,
        columns: list[int],
        times: NDArray[np.int64],
        rows: NDArray[np.float32],
        *,
        arrival_ns: int,
    ) -> int:
        """Files rows float32[m, len(columns)] of ``times`` that increase by more than CUT_NS.

        Returns how many were filed: all, or those before the one at which event time must begin anew.
        """
        cells = self._cells(times)
        n = len(times)
        if self._newest_ns is None:
            first = int(cells[0])
            self._origin = self._low = self._head = self._late_before = first
            self._k_next = -(-first // self._hop)
        done = 0
        while done < n:
            late = int(np.searchsorted(cells[done:], self._late_before))
            if late:
                if self._late_since_ns is None or arrival_ns < self._late_since_ns:
                    self._late_since_ns = arrival_ns
                if arrival_ns - self._late_since_ns >= self._reset_ns:
                    return done
                self._ledger.drop(DropReason.LATE, late * len(columns))
                done += late
                continue
            self._late_since_ns = None
            self._see(int(times[done]))
            end = int(np.searchsorted(cells, self._low + len(self._values)))
            self._file(columns, times[done:end], cells[done:end], rows[done:end])
            self._see(int(times[end - 1]))
            done = end
        return n

    @property
    def newest_ns(self) -> int | None:
        """Event time of the newest sample."""
        return self._newest_ns

    def silence(self, elapsed_ns: int) -> None:
        """Nothing came for ``elapsed_ns``: event time goes on by it."""
        if self._newest_ns is not None:
            self._close(self._cell(self._newest_ns + elapsed_ns - self._lateness_ns), jump=False)

    def finish(self) -> None:
        """Closes all that is open."""
        if self._newest_ns is not None:
            self._close(1 << 61, jump=False)

    def state(self) -> GridState:
        kept = slice(self._low - self._origin, self._head - self._origin)
        return GridState(
            self._k_next,
            self._late_before,
            self._late_since_ns,
            self._newest_ns,
            self._low,
            self._head,
            self._last_filled,
            self._values[kept].tobytes(),
            self._times[kept].tobytes(),
            self._carried.tobytes(),
            self._carried_cell.tobytes(),
        )

    def restore(self, state: GridState) -> None:
        self._k_next, self._late_before = state.k_next, state.late_before
        self._late_since_ns, self._newest_ns = state.late_since_ns, state.newest_ns
        self._low = self._origin = state.low
        self._head, self._last_filled = state.head, state.last_filled
        shape = (state.head - state.low, self._values.shape[1])
        self._values[: shape[0]] = np.frombuffer(state.values, np.float32).reshape(shape)
        self._times[: shape[0]] = np.frombuffer(state.times, np.int64).reshape(shape)
        self._carried = np.frombuffer(state.carried, np.float32).copy()
        self._carried_cell = np.frombuffer(state.carried_cell, np.int64).copy()

    def _cell(self, t_ns: int) -> int:
        return (t_ns + CUT_NS) * self._num // self._period

    def _cells(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """floor(time * rate) of increasing ``times``, exact."""
        first = int(times[0])
        if (int(times[-1]) - first + 1) * self._num + self._period >= 1 << 62:
            if len(times) == 1:
                return np.array([self._cell(first)], np.int64)
            middle = len(times) // 2
            return np.concatenate((self._cells(times[:middle]), self._cells(times[middle:])))
        cell, rest = divmod((first + CUT_NS) * self._num, self._period)
        cells: NDArray[np.int64] = cell + ((times - first) * self._num + rest) // self._period
        return cells

    def _file(
        self,
        columns: list[int],
        times: NDArray[np.int64],
        cells: NDArray[np.int64],
        rows: NDArray[np.float32],
    ) -> None:
        head = int(cells[-1]) + 1
        if head - self._origin > len(self._values):
            kept = slice(self._low - self._origin, self._head - self._origin)
            n_kept = self._head - self._low
            self._values[:n_kept], self._times[:n_kept] = self._values[kept], self._times[kept]
            self._origin = self._low
        if head > self._head:
            new = slice(self._head - self._origin, head - self._origin)
            self._times[new] = _NEVER
            self._values[new] = 0.0
            self._head = head
        at = (cells - self._origin)[:, None]
        column = np.asarray(columns)[None, :]
        stamp = times[:, None]
        there = self._times[at, column]
        finite = np.isfinite(rows)
        n_finite = int(finite.sum())
        n_same = int((finite & (np.abs(stamp - there) <= CUT_NS)).sum())
        newer = finite & (stamp - there > CUT_NS)
        if newer.all():
            # Where rows share a cell the last assignment stays: the newest.
            self._values[at, column] = rows
            self._times[at, column] = stamp
        else:
            row, place = np.nonzero(newer)
            self._values[at[row, 0], column[0, place]] = rows[row, place]
            self._times[at[row, 0], column[0, place]] = times[row]
        if n_finite:
            last = len(rows) - 1 - int(np.argmax(np.logical_or.reduce(finite, axis=1)[::-1]))
            self._last_filled = max(self._last_filled, int(cells[last]))
        self._ledger.n_windowed += n_finite - n_same
        self._ledger.drop(DropReason.DUPLICATE, n_same)
        self._ledger.drop(DropReason.NOT_FINITE, rows.size - n_finite)

    def _see(self, t_ns: int) -> None:
        if self._newest_ns is None or t_ns > self._newest_ns:
            self._newest_ns = t_ns
            watermark = self._cell(t_ns - self._lateness_ns)
            if watermark >= self._k_next * self._hop + self._n:
                self._close(watermark, jump=True)

    def _close(self, watermark: int, *, jump: bool) -> None:
        """Closes the windows that end at or before cell ``watermark``."""
        last = (watermark - self._n) // self._hop
        last_valid = (self._last_filled + self._hold) // self._hop
        step = max(1, (_MAX_BATCH_VALUES // self._values.shape[1] - self._n) // self._hop)
        step = min(step, max(1, _MAX_BATCH_VALUES // (self._n * self._values.shape[1])))
        while self._k_next <= min(last, last_valid):
            end = min(last, last_valid, self._k_next + step - 1)
            self._emit(end - self._k_next + 1)
            self._move_to(end + 1)
        if jump and self._k_next <= last:
            self._move_to(last + 1)

    def _move_to(self, k: int) -> None:
        self._k_next = k
        self._late_before = max(self._late_before, min(k * self._hop, (k - 1) * self._hop + self._n))
        self._release(self._late_before)

    def _release(self, low: int) -> None:
        if low <= self._low:
            return
        end = min(low, self._head)
        if end > self._low:
            gone = slice(self._low - self._origin, end - self._origin)
            filled = self._times[gone] != _NEVER
            has = np.logical_or.reduce(filled, axis=0)
            last = filled.shape[0] - 1 - np.argmax(filled[::-1], axis=0)
            channel = np.nonzero(has)[0]
            self._carried[channel] = self._values[gone][last[channel], channel]
            self._carried_cell[channel] = self._low + last[channel]
        self._low = low
        if low >= self._head:
            self._head = self._origin = low

    def _emit(self, w: int) -> None:
        n, hop, c = self._n, self._hop, self._values.shape[1]
        first = self._k_next * hop
        self._release(first)
        span = (w - 1) * hop + n
        values = np.zeros((span, c), np.float32)
        filled = np.zeros((span, c), np.bool_)
        n_kept = min(self._head - first, span)
        if n_kept > 0:
            kept = slice(first - self._origin, first - self._origin + n_kept)
            values[:n_kept] = self._values[kept]
            filled[:n_kept] = self._times[kept] != _NEVER
        row = np.arange(span)[:, None]
        last = np.maximum.accumulate(np.where(filled, row, -1), axis=0)
        known = last >= 0
        values = np.where(known, np.take_along_axis(values, np.maximum(last, 0), axis=0), self._carried)
        valid = row - np.where(known, last, self._carried_cell - first) <= self._hold
        size = values.strides[0]
        shape = (w, n, c)
        windows = np.ndarray(shape, np.float32, values, 0, (hop * size, size, 4)).copy()
        spans = window_times(self._k_next, w, n, hop, self._num, self._period, 0)
        if valid.all():
            self._ledger.close(*spans, windows, None)
        else:
            masks = np.ndarray(shape, np.bool_, valid, 0, (hop * c, c, 1)).copy()
            self._ledger.close(*spans, windows, masks)
