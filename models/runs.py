"""How long things have lasted across windows that overlap, touch or leave gaps: shared by sensor checks and
limits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.signal import NS_PER_S, Mode, WindowBatch, WindowSpec


def slack(*magnitudes: float) -> float:
    """How far a float32 may lie beyond a bound of such magnitudes by rounding alone: 0.1 as float32 is not
    above 0.1."""
    return 2.0**-23 * max(abs(m) for m in magnitudes)


def period_ns(spec: WindowSpec) -> float:
    """Time between samples."""
    return NS_PER_S * spec.rate_hz.denominator / spec.rate_hz.numerator


def continues(spec: WindowSpec, end_ns: int | None, start_ns: int) -> bool:
    """Whether a window that starts at ``start_ns`` carries on from what was seen until ``end_ns``.

    It does when they touch or overlap, over the regular space between windows whose hop is longer than they
    are, and in burst mode over the silence between records. Over a gap it does not: nobody saw what happened
    in it.
    """
    if end_ns is None:
        return False
    regular = max(0, spec.hop_ns - spec.window_ns) + 1  # hop and window are rounded to 1 ns each
    return spec.mode is Mode.BURST or start_ns <= end_ns + regular


class Runs:
    """Since when each of ``c`` channels has read the one value that it ends a window with. Windows come in
    time order."""

    def __init__(self, c: int, spec: WindowSpec) -> None:
        self.end_ns: int | None = None  # of the newest window
        self.value = np.full(c, np.nan, dtype=np.float32)  # the last valid one
        self._start_ns = np.zeros(c, dtype=np.int64)
        self._seen_ns = np.zeros(c, dtype=np.int64)
        self._moving = False  # the newest window was push_moving's: the two above are out of date
        self._spec = spec
        self._period_ns = period_ns(spec)
        self._n_channels = c

    def push(self, batch: WindowBatch) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """(start int64[w, c] of the run that each window ends with, the end int64[w, c] of its last valid
        sample, its value float32[w, c]).

        Invalid samples do not break a run, and only another valid sample after them prolongs it.
        """
        w, n, c = batch.values.shape
        last = batch.values[:, -1, :]
        ends = batch.end_ns[:, None]
        valid = np.count_nonzero(batch.valid) == batch.valid.size
        if w and valid and not np.count_nonzero(batch.values[:, -2, :] == last):  # as nearly always
            seen = ends.repeat(c, axis=1)
            starts = seen - round(self._period_ns)
            self._keep(int(batch.end_ns[-1]), last[-1], starts[-1], seen[-1])
            return starts, seen, last
        trailing, unknown, last = _trailing(batch)
        starts = ends - np.rint(trailing * self._period_ns).astype(np.int64)
        seen = ends - np.rint(unknown * self._period_ns).astype(np.int64)
        whole, unseen = trailing == n, unknown == n
        if not whole.any():  # whatever is unseen counts as whole
            if w:
                self._keep(int(batch.end_ns[-1]), last[-1], starts[-1], seen[-1])
            return starts, seen, last
        for i in range(w):
            begin = int(batch.start_ns[i])
            starts[i, whole[i]] = begin
            if continues(self._spec, self.end_ns, begin):
                last[i] = np.where(unseen[i], self.value, last[i])
                seen[i] = np.where(unseen[i], self.seen_ns, seen[i])
                same = unseen[i] | (whole[i] & (last[i] == self.value))
                starts[i] = np.where(same, self.start_ns, starts[i])
            self._keep(int(batch.end_ns[i]), last[i], starts[i], seen[i])
        return starts, seen, last

    def push_moving(self, batch: WindowBatch) -> bool:
        """What :meth:`push` would do, and no more, if every channel of every window ends with a value unlike the
        one before: no run is then longer than a sample. False, and nothing is done, if not."""
        values = batch.values
        if not batch.whole or (values[:, -2] == values[:, -1]).any():
            return False
        self.end_ns = batch.end_ns.item(-1)
        self.value = values[-1, -1].copy()
        self._moving = True
        return True

    @property
    def sample_ns(self) -> int:
        """How long a run of one sample lasts."""
        return round(self._period_ns)

    @property
    def start_ns(self) -> NDArray[np.int64]:
        """Since when each channel has read its last value, int64[c]."""
        self._write_down()
        return self._start_ns

    @property
    def seen_ns(self) -> NDArray[np.int64]:
        """Until when each channel was seen to read it, int64[c]."""
        self._write_down()
        return self._seen_ns

    def resume(
        self,
        end_ns: int | None,
        value: NDArray[np.float32],
        start_ns: NDArray[np.int64],
        seen_ns: NDArray[np.int64],
    ) -> None:
        """Go on from there."""
        self.end_ns, self.value = end_ns, value
        self._start_ns, self._seen_ns, self._moving = start_ns, seen_ns, False

    def _write_down(self) -> None:
        if self._moving:
            assert self.end_ns is not None
            self._seen_ns = np.full(self._n_channels, self.end_ns, np.int64)
            self._start_ns = self._seen_ns - self.sample_ns
            self._moving = False

    def _keep(
        self, end_ns: int, value: NDArray[np.float32], start_ns: NDArray[np.int64], seen_ns: NDArray[np.int64]
    ) -> None:
        self.resume(end_ns, value.copy(), start_ns.copy(), seen_ns.copy())


def _trailing(batch: WindowBatch) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(trailing int64[w, c], unknown int64[w, c], value float32[w, c]): how many samples back from each
    window's end the channel has read its last valid value (n where it did all along), how many of the last
    ones are invalid, and that value; n, n and NaN where no sample is valid."""
    w, n, c = batch.values.shape
    last = batch.values[:, -1, :].copy()
    trailing = np.ones((w, c), dtype=np.int64)
    unknown = np.zeros((w, c), dtype=np.int64)
    if batch.valid.all():
        whole_valid = np.ones((w, c), dtype=bool)
    else:
        whole_valid = np.logical_and.reduce(batch.valid, axis=1)
    # Most channels differ from sample to sample: only the others are worth a look.
    for i, j in np.argwhere((batch.values[:, -2, :] == last) | ~whole_valid).tolist():
        series = batch.values[i, :, j]
        index = np.arange(n) if whole_valid[i, j] else np.flatnonzero(batch.valid[i, :, j])
        if index.size == 0:
            trailing[i, j], unknown[i, j], last[i, j] = n, n, np.nan
            continue
        last[i, j] = series[index[-1]]
        unknown[i, j] = n - 1 - index[-1]
        other = np.flatnonzero(series[index] != last[i, j])
        trailing[i, j] = n - index[other[-1] + 1] if other.size else n
    return trailing, unknown, last
