"""What went through a pipeline, in samples and windows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from models.signal import DropReason


class Counters(msgspec.Struct, kw_only=True):
    """Counts since the beginning, over restarts. At any instant, and for any sum of them::

    n_samples_in     = n_windowed + sum(sample_drops)
    n_windows_closed = n_windows_scored + n_windows_pending + sum(window_drops)
    """

    n_samples_in: int = 0
    n_windowed: int = 0
    sample_drops: dict[DropReason, int] = {}
    n_windows_closed: int = 0
    n_windows_scored: int = 0
    n_windows_pending: int = 0
    window_drops: dict[DropReason, int] = {}
    n_saturated: int = 0

    def add(self, other: Counters) -> None:
        """Count what ``other`` counted too."""
        self.n_samples_in += other.n_samples_in
        self.n_windowed += other.n_windowed
        self.sample_drops = added(self.sample_drops, other.sample_drops)
        self.n_windows_closed += other.n_windows_closed
        self.n_windows_scored += other.n_windows_scored
        self.n_windows_pending += other.n_windows_pending
        self.window_drops = added(self.window_drops, other.window_drops)
        self.n_saturated += other.n_saturated

    def since(self, before: Counters) -> Counters:
        """What was counted after ``before``; what is pending, is pending now."""
        return Counters(
            n_samples_in=self.n_samples_in - before.n_samples_in,
            n_windowed=self.n_windowed - before.n_windowed,
            sample_drops=_less(self.sample_drops, before.sample_drops),
            n_windows_closed=self.n_windows_closed - before.n_windows_closed,
            n_windows_scored=self.n_windows_scored - before.n_windows_scored,
            n_windows_pending=self.n_windows_pending,
            window_drops=_less(self.window_drops, before.window_drops),
            n_saturated=self.n_saturated - before.n_saturated,
        )

    def retire(self) -> None:
        """Whatever is pending will not be scored any more."""
        if self.n_windows_pending:
            self.window_drops = added(self.window_drops, {DropReason.DOWN: self.n_windows_pending})
            self.n_windows_pending = 0


def added(*counts: Mapping[DropReason, int]) -> dict[DropReason, int]:
    """The sum of ``counts``, by reason."""
    total: Counter[DropReason] = Counter()
    for some in counts:
        total.update(some)
    return dict(total)


def _less(now: Mapping[DropReason, int], before: Mapping[DropReason, int]) -> dict[DropReason, int]:
    return {reason: n - before.get(reason, 0) for reason, n in now.items() if n != before.get(reason, 0)}
