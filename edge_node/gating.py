"""When a machine counts as running: the ``active_when`` condition of a device, in event time.

A gate watches one channel of one device and answers, for a window of another device, whether the machine ran
over the whole of it and had been running for the settling time before. Invariant: an answer depends on event
times only, and once given does not change: a window is waited for until the gate's channel was seen at its
end, and where that will not be, because the channel fell silent, what is not known counts as not running.
Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.signal import NS_PER_S, SampleBlock
from models.windowing import TimePolicy

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
_FOR_EVER_NS = 1 << 62


class GateSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``device.channel <comparison> value``, in the channel's unit (its origin included)."""

    device_id: str
    channel: str
    comparison: Comparison
    value: float
    settle_s: float = 0.0


class GateState(msgspec.Struct, kw_only=True):
    """All that a :class:`Gate` remembers: when the condition changed, to what, up to when it is known, and
    whether its channel is silent."""

    times: list[int] = []
    active: list[bool] = []
    known_until_ns: int | None = None
    silent: bool = False


class Gate:
    """The condition of one :class:`GateSpec` over event time. ``origin``, ``policy`` and ``period_ns`` (from
    sample to sample) are of the channel and device that it watches."""

    def __init__(
        self, spec: GateSpec, origin: float = 0.0, policy: TimePolicy | None = None, period_ns: int = 0
    ) -> None:
        self.spec = spec
        self._period_ns = period_ns
        self._compare = _COMPARE[spec.comparison]
        self._value = np.float32(spec.value - origin)  # as the samples are: 0.1 is not above 0.1
        self._settle_ns = round(spec.settle_s * NS_PER_S)
        self._max_future_ns = _FOR_EVER_NS if policy is None else round(policy.max_future_s * NS_PER_S)
        max_age_s = None if policy is None else policy.max_age_s
        self._max_age_ns = _FOR_EVER_NS if max_age_s is None else round(max_age_s * NS_PER_S)
        self.state = GateState()

    @property
    def silent(self) -> bool:
        """Whether nobody waits for the channel."""
        return self.state.silent

    def hears(self, block: SampleBlock) -> bool:
        """Whether ``block`` brings a usable value of the channel."""
        return self._series(block) is not None

    def fall_silent(self) -> None:
        """The channel is silent: until its next value, windows are not waited with."""
        self.state.silent = True

    def restart(self, time_ns: int) -> None:
        """The watched device's clock was set back: what follows begins at ``time_ns``."""
        self.state = GateState(silent=self.state.silent)

    def push(self, block: SampleBlock) -> None:
        """Take note of ``block``; samples that are not newer than those before them change nothing."""
        series = self._series(block)
        if series is None:
            return
        times, values = series
        state = self.state
        state.silent = False
        before = -_FOR_EVER_NS if state.known_until_ns is None else state.known_until_ns
        newest = np.maximum.accumulate(times)
        newer = np.ones(times.size, np.bool_)
        newer[1:] = times[1:] > newest[:-1]
        newer &= times > before
        if not newer.any():
            return
        values, times = values[newer], times[newer]
        active: NDArray[np.bool_] = self._compare(values, self._value)
        changed = np.flatnonzero(np.diff(active, prepend=not active[0]))
        for i in changed.tolist():
            if not state.active or state.active[-1] != bool(active[i]):
                state.times.append(int(times[i]))
                state.active.append(bool(active[i]))
        state.known_until_ns = int(times[-1])
        excess = len(state.times) - _MAX_TRANSITIONS
        if excess > 0:
            del state.times[:excess], state.active[:excess]

    def n_known(self, end_ns: NDArray[np.int64]) -> int:
        """Of how many windows, ending at ``end_ns`` int64[w] ascending, nothing more will be known."""
        if self.state.silent:
            return end_ns.size
        known = self.state.known_until_ns
        return 0 if known is None else int(np.searchsorted(end_ns, known, side="right"))

    def active(self, start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Per window, bool[w]: whether the machine is known to have run over
        [start_ns - settling time, end_ns). The newest sample stands for the time to the next one."""
        state = self.state
        if not state.times or state.known_until_ns is None:
            return np.zeros(start_ns.size, np.bool_)
        times = np.array([*state.times, _FOR_EVER_NS], dtype=np.int64)
        first = np.searchsorted(times, start_ns - self._settle_ns, side="right") - 1
        ran = np.array(state.active)[np.maximum(first, 0)] & (first >= 0)
        until_ns = np.minimum(times[first + 1], state.known_until_ns + self._period_ns)
        result: NDArray[np.bool_] = ran & (until_ns >= end_ns)
        return result

    def forget_before(self, time_ns: int) -> None:
        """Drop changes that no window starting at ``time_ns`` or later can ask about."""
        times = self.state.times
        keep = 0
        while keep + 1 < len(times) and times[keep + 1] <= time_ns - self._settle_ns:
            keep += 1
        del times[:keep], self.state.active[:keep]

    def _series(self, block: SampleBlock) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """(times, values) of the channel's usable samples in ``block``, None where there are none."""
        if self.spec.channel not in block.channels:
            return None
        values = block.values[:, block.channels.index(self.spec.channel)]
        times = block.times()
        usable = np.isfinite(values) & (times <= block.arrival_ns + self._max_future_ns)
        usable &= times >= block.arrival_ns - self._max_age_ns
        if not usable.any():
            return None
        return times[usable], values[usable]
