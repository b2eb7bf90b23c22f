"""How much of a device's signal is pushed before what it completes is scored: bounds memory, and changes nothing else. Pure.

Measured in samples of the device's grid, since these make windows: rows of an irregular device may lie far apart, and each is
held for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_node.plans import DevicePlan
from models.signal import Mode, SampleBlock, samples_to_ns
from models.time_policy import to_ns


@dataclass(frozen=True, slots=True)
class Portion:
    """At most ``most`` samples of the grid, or one row if that makes more."""

    most: int
    period_ns: int
    hold_ns: int

    @classmethod
    def of(cls, plan: DevicePlan, n_windows: int) -> Portion:
        """What completes about ``n_windows`` windows of ``plan``."""
        window = plan.window
        hold_ns = to_ns(plan.time.hold_s) if window.mode is Mode.IRREGULAR else 0
        return cls(max(window.n, n_windows * window.hop), max(1, samples_to_ns(1, window.rate_hz)), hold_ns)

    def size(self, block: SampleBlock) -> int:
        """About how many samples of the grid ``block`` fills, from its first row on."""
        if block.time_ns is None or not len(block.values):
            return len(block.values)
        return int(self._filled(block.time_ns)[-1])

    def cut(self, block: SampleBlock) -> Sequence[SampleBlock]:
        """``block`` in portions, in order."""
        n = block.n
        if not n or self.size(block) <= self.most:
            return (block,)
        if block.time_ns is None:
            begins = list(range(0, n, self.most))
        else:
            portion = (self._filled(block.time_ns) - 1) // self.most
            begins = [0, *(np.flatnonzero(np.diff(portion)) + 1).tolist()]
        return [block.slice(i, j) for i, j in zip(begins, [*begins[1:], n], strict=True)]

    def _filled(self, time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """By how many samples each row, and those before it, are held: int64[n]."""
        apart = np.clip(np.diff(time_ns), 0, self.hold_ns) // self.period_ns
        filled = np.arange(1, time_ns.size + 1)
        filled[1:] += np.cumsum(apart)
        return filled
