"""When a machine counts as running: the ``active_when`` condition of a device, in event time.

A gate watches one channel of one device and answers, for a window of another device, whether the machine ran over the
whole of it and had been running for the settling time before. Invariant: an answer depends on event times only, and
once given does not change; a window about which nothing is known yet is waited for, not guessed. Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.signal import NS_PER_S, SampleBlock

Comparison = Literal[">", ">=", "<", "<=", "==", "!="]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}

_MAX_TRANSITIONS = 4096  # a gate that chatters more within the horizon forgets its oldest changes


class GateSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``device.channel <comparison> value``, in the channel's unit (its origin included)."""

    device_id: str
    channel: str
    comparison: Comparison
    value: float
    settle_s: float = 0.0


class GateState(msgspec.Struct, kw_only=True):
    """All that a :class:`Gate` remembers: when the condition changed, to what, and up to when it is known."""

    times: list[int] = []
    active: list[bool] = []
    known_until_ns: int | None = None


class Gate:
    """The condition of one :class:`GateSpec` over event time."""

    def __init__(self, spec: GateSpec, origin: float = 0.0) -> None:
        self.spec = spec
        self._compare = _COMPARE[spec.comparison]
        self._value = spec.value - origin
        self._settle_ns = round(spec.settle_s * NS_PER_S)
        self.state = GateState()

    @property
    def known_until_ns(self) -> int | None:
        """Event time of the last sample seen; None before the first."""
        return self.state.known_until_ns

    def push(self, block: SampleBlock) -> None:
        """Take note of ``block``; samples that are not newer than the last one seen change nothing."""
        if self.spec.channel not in block.channels:
            return
        values = block.values[:, block.channels.index(self.spec.channel)]
        times = block.times()
        keep = np.isfinite(values)
        if self.state.known_until_ns is not None:
            keep &= times > self.state.known_until_ns
        if not keep.any():
            return
        values, times = values[keep], times[keep]
        if block.time_ns is not None:
            order = np.argsort(times, kind="stable")
            values, times = values[order], times[order]
        active: NDArray[np.bool_] = self._compare(values.astype(np.float64), self._value)
        changed = np.flatnonzero(np.diff(active, prepend=not active[0]))
        state = self.state
        for i in changed.tolist():
            if not state.active or state.active[-1] != bool(active[i]):
                state.times.append(int(times[i]))
                state.active.append(bool(active[i]))
        state.known_until_ns = int(times[-1])
        excess = len(state.times) - _MAX_TRANSITIONS
        if excess > 0:
            del state.times[:excess], state.active[:excess]

    def active(self, start_ns: int, end_ns: int) -> bool:
        """Whether the machine ran over [start_ns - settling time, end_ns), by what is known; unknown is not running."""
        times = self.state.times
        begin = start_ns - self._settle_ns
        first = int(np.searchsorted(times, begin, side="right")) - 1 if times else -1
        if first < 0 or not self.state.active[first]:
            return False
        return first + 1 == len(times) or times[first + 1] >= end_ns

    def forget_before(self, time_ns: int) -> None:
        """Drop changes that no window starting at ``time_ns`` or later can ask about."""
        times = self.state.times
        keep = 0
        while keep + 1 < len(times) and times[keep + 1] <= time_ns - self._settle_ns:
            keep += 1
        del times[:keep], self.state.active[:keep]
