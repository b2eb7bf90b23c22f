"""When each channel of a device last brought a usable value: on the gateway's clock, and in event time. Pure.

Silence is measured on the gateway's clock, from the first sign of life on; in event time a channel is silent since its
newest value, which is known as long as event time has not started anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.signal import SampleBlock

Times = list[int | None]


class Hearing:
    """Of ``n`` channels, by their places."""

    def __init__(self, n: int) -> None:
        self._n = n
        self.heard_ns = [0] * n  # arrival of the last usable value
        self.said_ns: Times = [None] * n  # event time of the newest; None: none since event time last began

    def begin(self, now_ns: int) -> None:
        """All silence counts from ``now_ns``."""
        self.heard_ns = [now_ns] * self._n

    def set_back(self, now_ns: int) -> None:
        """The gateway's clock was set back to ``now_ns``: what was heard later than now was heard now."""
        self.heard_ns = [min(at_ns, now_ns) for at_ns in self.heard_ns]

    def restart(self) -> None:
        """Event time starts anew."""
        self.said_ns = [None] * self._n

    def hear_all(self, arrival_ns: int, last_ns: int) -> None:
        """Every channel goes on from what it said before, to event time ``last_ns``."""
        self.heard_ns = [arrival_ns] * self._n
        self.said_ns = [last_ns] * self._n

    def hear(self, c: int, arrival_ns: int, last_ns: int) -> None:
        """Channel ``c`` has brought a value of event time ``last_ns``, which need not be its newest."""
        before_ns = self.said_ns[c]
        self.heard_ns[c] = arrival_ns
        self.said_ns[c] = last_ns if before_ns is None else max(before_ns, last_ns)

    def last_said_ns(self, of: Sequence[int]) -> int | None:
        """Event time of the newest value of channels ``of``; None: there is none."""
        return max((at_ns for c in of if (at_ns := self.said_ns[c]) is not None), default=None)

    def last_heard_ns(self, of: Sequence[int]) -> int:
        """Arrival of the last value of channels ``of``, of which there is one at least."""
        return max(self.heard_ns[c] for c in of)


def last_usable(block: SampleBlock, max_future_ns: int, max_age_ns: int) -> Times:
    """Event time of the newest usable value of each column of ``block``; None: it has none."""
    times = block.times()
    timely = (times <= block.arrival_ns + max_future_ns) & (times >= block.arrival_ns - max_age_ns)
    usable = np.isfinite(block.values) & timely[:, None]
    newest = np.where(usable, times[:, None], np.iinfo(np.int64).min).max(axis=0)
    some = np.logical_or.reduce(usable, axis=0)
    return [int(at_ns) if any_ else None for at_ns, any_ in zip(newest, some, strict=True)]
