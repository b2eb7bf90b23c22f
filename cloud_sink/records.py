"""How long the records of a burst device are: found from the times of its blocks. Pure."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np

from models.signal import NS_PER_S, SampleBlock

_SILENCE_PERIODS = 10  # between rows with times of their own, which jitter; as where modes are told apart


class Records:
    """Counts the rows of each contiguous run in one device's blocks, given in their order."""

    def __init__(self, rate_hz: Fraction) -> None:
        self._period_ns = float(NS_PER_S / rate_hz)
        self._lengths: Counter[int] = Counter()
        self._n = 0  # rows of the run that goes on
        self._last_ns: int | None = None
        self._finest_ns = np.inf  # step between rows that have times of their own

    def add(self, block: SampleBlock) -> None:
        """The next block."""
        if not block.n:
            return
        times = block.times()
        before = times[0] if self._last_ns is None else self._last_ns
        steps = np.diff(times, prepend=before)
        slack_ns = 1.5 * self._period_ns
        if block.time_ns is not None:
            rising = steps[steps > 0]
            if rising.size:
                self._finest_ns = min(self._finest_ns, float(rising.min()))
            # Coarse times repeat, and then leap.
            slack_ns = max(_SILENCE_PERIODS * self._period_ns, 1.5 * self._finest_ns)
        begins = np.flatnonzero(np.abs(steps) > slack_ns)
        runs = np.diff(begins, prepend=-self._n, append=block.n)
        self._lengths.update(runs[:-1].tolist())
        self._n = int(runs[-1])
        self._last_ns = int(times[-1])

    def usual(self) -> int:
        """The most frequent length, of equally frequent ones the first; 0 where no silence follows on a run. The run at
        the end may go on, and does not count."""
        return max(self._lengths, key=self._lengths.__getitem__, default=0)
