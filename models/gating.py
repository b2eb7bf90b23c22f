"""When a machine counts as running: the ``active_when`` condition of a device, in event time.

A gate watches one channel of one device and answers, for a window of another device, whether the machine ran
over the whole of it and had been running for the settling time before. Invariant: an answer depends on event
times only, and once given does not change: a window is waited for until the gate's channel was seen at its
end, and where that will not be, because the channel fell silent, what is not known counts as not running.
Training, which has the whole recording, asks a :class:`GateHistory` the same. Pure.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.signal import NS_PER_S, SampleBlock

if TYPE_CHECKING:  # a device as recorded has a time policy and a gate
    from models.time_policy import TimePolicy

Comparison = Literal[">", ">=", "<", "<=", "==", "!="]

_CONDITION = re.compile(r"^\s*(?P<name>.+?)\s*(?P<comparison>[<>=!≤≥≠]+)\s*(?P<value>\S+)\s*$")
_COMPARISONS: dict[str, Comparison] = {c: c for c in (">", ">=", "<", "<=", "==", "!=")}
_MEANT = {"=>": ">=", "=<": "<=", "=": "==", "<>": "!=", "≥": ">=", "≤": "<=", "≠": "!="}

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}

_MAX_TRANSITIONS = 4096  # a gate that chatters more within the horizon forgets its oldest changes
_PIECE = _MAX_TRANSITIONS // 4
_FOR_EVER_NS = 1 << 62


class GateSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``device.channel <comparison> value``, in the channel's unit (its origin included)."""

    device_id: str
    channel: str
    comparison: Comparison
    value: float
    settle_s: float = 0.0

    @property
    def text(self) -> str:
        """The condition as it is written in a configuration."""
        return f"{self.device_id}.{self.channel} {self.comparison} {self.value:.10g}"


def with_gates(device_ids: Iterable[str], gates: Mapping[str, GateSpec | None]) -> frozenset[str]:
    """``device_ids``, and the devices that say when they count, and when those do; ``gates``: by device."""
    needed: set[str] = set()
    more = list(device_ids)
    while more:
        device_id = more.pop()
        if device_id not in needed and (gate := gates.get(device_id)) is not None:
            more.append(gate.device_id)
        needed.add(device_id)
    return frozenset(needed)


def parse_comparison(text: str) -> tuple[str, Comparison, float]:
    """(name, comparison, value) of "name > value"; ValueError says what is wrong with it."""
    found = _CONDITION.match(text)
    if found is None:
        raise ValueError('expected a condition such as "press-4-power.current > 2.0"')
    if found["comparison"] not in _COMPARISONS:
        meant = _MEANT.get(found["comparison"])
        hint = f'did you mean "{meant}"?' if meant else f"expected one of {', '.join(_COMPARISONS)}"
        raise ValueError(f'"{found["comparison"]}" is no comparison; {hint}')
    try:
        value = float(found["value"])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f'"{found["value"]}" is not a finite number')
    return found["name"], _COMPARISONS[found["comparison"]], value


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

    def is_full_for(self, block: SampleBlock) -> bool:
        """Whether changes that windows have not asked about may have to be forgotten for those of ``block``: windows that
        are known should be resolved before."""
        return len(self.state.times) + block.n > _MAX_TRANSITIONS

    def pieces(self, block: SampleBlock) -> Sequence[SampleBlock]:
        """``block`` as it is to be pushed, so that no piece fills a gate that was empty."""
        if not self.is_full_for(block):
            return (block,)
        return [block.slice(i, i + _PIECE) for i in range(0, block.n, _PIECE)]

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
        state = self.state
        state.silent = False
        times, active = self._news(*series)
        if not times.size:
            return
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

    def _news(
        self, times: NDArray[np.int64], values: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(times, whether the condition holds) of the samples that are newer than all before them."""
        known = self.state.known_until_ns
        newest = np.maximum.accumulate(times)
        newer = np.ones(times.size, np.bool_)
        newer[1:] = times[1:] > newest[:-1]
        newer &= times > (-_FOR_EVER_NS if known is None else known)
        active: NDArray[np.bool_] = self._compare(values[newer], self._value)
        return times[newer], active


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """When a machine ran, as its gate ``spec`` says: ``intervals`` int64[m, 2] of event time [start, end),
    ascending and disjoint."""

    spec: GateSpec
    intervals: NDArray[np.int64]

    def active(self, start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Per window, bool[w], in any order: whether the machine ran over [start_ns - settling time, end_ns)."""
        if not len(self.intervals):
            return np.zeros(start_ns.size, np.bool_)
        settled_ns = start_ns - round(self.spec.settle_s * NS_PER_S)
        i = np.searchsorted(self.intervals[:, 0], settled_ns, side="right") - 1
        result: NDArray[np.bool_] = (i >= 0) & (self.intervals[np.maximum(i, 0), 1] >= end_ns)
        return result


class GateHistory:
    """A gate over a whole recording: nothing is forgotten and nothing is waited for, since its end is known.

    Its :meth:`running` answers as a :class:`Gate` does that saw the same samples. The channel is silent where
    it says nothing for longer than ``policy.stale_after_s``; what is not known counts as not running.
    """

    def __init__(self, spec: GateSpec, origin: float, policy: TimePolicy, period_ns: int) -> None:
        self._gate = Gate(spec, origin, policy, period_ns)
        self._period_ns = period_ns
        self._silent_ns = round(policy.stale_after_s * NS_PER_S)
        self._ran = False
        self._changes: list[NDArray[np.int64]] = []  # it starts to run, stops, starts, ...

    def push(self, block: SampleBlock) -> None:
        """Take note of ``block``; samples that are not newer than those before them change nothing."""
        series = self._gate._series(block)
        if series is None:
            return
        times, active = self._gate._news(*series)
        if not times.size:
            return
        known_ns = self._gate.state.known_until_ns
        before = np.concatenate([times[:1] if known_ns is None else [known_ns], times[:-1]])
        silent = np.flatnonzero(times - before > self._silent_ns)
        self._gate.state.known_until_ns = int(times[-1])
        times = np.insert(times, silent, np.minimum(before + self._period_ns, times)[silent])
        active = np.insert(active, silent, False)
        self._changes.append(times[np.diff(active, prepend=self._ran)])
        self._ran = bool(active[-1])

    def running(self) -> Running:
        """When the machine ran, as far as the recording goes. The newest sample stands for the time to the
        next one."""
        changes = np.concatenate([np.zeros(0, np.int64), *self._changes])
        if self._ran:
            known_ns = self._gate.state.known_until_ns
            assert known_ns is not None
            changes = np.append(changes, known_ns + self._period_ns)
        return Running(self._gate.spec, changes.reshape(-1, 2))
