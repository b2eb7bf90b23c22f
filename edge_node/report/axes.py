"""Where the marks of an axis are, and what stands beside them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.signal import NS_PER_S
from models.wording import significant

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
# Seconds from mark to mark, as one reads clocks and calendars.
_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * n for n in (1, 2, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14)),
)
_MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 600)
_NAMES = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_MONDAY = 4 * _DAY  # of 1970-01-05: weeks begin on one


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark at ``at`` (0: the axis's beginning, 1: its end) and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Span:
    """What a time axis shows, [first, last] in Unix ns; never empty."""

    first_ns: int
    last_ns: int

    def place(self, time_ns: int) -> float:
        """Where a time lies, kept within 0 .. 1."""
        part = (time_ns - self.first_ns) / max(1, self.last_ns - self.first_ns)
        return min(1.0, max(0.0, part))

    def has(self, time_ns: int) -> bool:
        return self.first_ns <= time_ns <= self.last_ns

    def marks(self, most: int = 9) -> list[Mark]:
        """At most ``most``, on whole seconds, minutes, hours, days or months, UTC."""
        span_s = max(1e-9, (self.last_ns - self.first_ns) / NS_PER_S)
        step = next((s for s in _STEPS if span_s / s <= most - 1), None)
        if step is None:
            return self._months(most)
        origin = _MONDAY if step >= 7 * _DAY else 0
        k = -((origin * NS_PER_S - self.first_ns) // (step * NS_PER_S))
        marks = []
        while (time_ns := (origin + k * step) * NS_PER_S) <= self.last_ns:
            marks.append(Mark(self.place(time_ns), _clock(time_ns // NS_PER_S, step)))
            k += 1
        return marks

    def _months(self, most: int) -> list[Mark]:
        first = int(np.datetime64(self.first_ns, "ns").astype("datetime64[M]").astype(np.int64))
        last = int(np.datetime64(self.last_ns, "ns").astype("datetime64[M]").astype(np.int64))
        step = next((n for n in _MONTHS if (last - first) / n <= most - 1), _MONTHS[-1])
        marks = []
        for month in range(-(-first // step) * step, last + 1, step):
            time_ns = int(np.datetime64(month, "M").astype("datetime64[s]").astype(np.int64)) * NS_PER_S
            if self.has(time_ns):
                year, name = 1970 + month // 12, _NAMES[month % 12]
                label = str(year) if step >= 12 else f"{name} {year}" if month % 12 == 0 else name
                marks.append(Mark(self.place(time_ns), label))
        return marks


@dataclass(frozen=True, slots=True)
class Scale:
    """A vertical axis from ``low`` (0, at the bottom) to ``high`` (1): straight, or by orders of magnitude where ``log``."""

    low: float
    high: float
    log: bool = False

    def place(self, values: ArrayLike) -> NDArray[np.float64]:
        """Where ``values`` lie, kept within 0 .. 1."""
        x = np.asarray(values, dtype=np.float64)
        low, high = self.low, self.high
        if self.log:
            x, low, high = np.log10(np.maximum(x, self.low)), math.log10(low), math.log10(high)
        placed: NDArray[np.float64] = np.clip((x - low) / (high - low), 0.0, 1.0)
        return placed

    def marks(self, most: int = 5) -> list[Mark]:
        """At most about ``most``, at round numbers."""
        return self._log_marks(most) if self.log else self._straight_marks(most)

    def _straight_marks(self, most: int) -> list[Mark]:
        step = _round_step((self.high - self.low) / most)
        k = np.arange(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return [Mark(float(self.place(i * step)), _label(i * step, step)) for i in k.tolist()]

    def _log_marks(self, most: int) -> list[Mark]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        n = math.log10(self.high / self.low)
        if n < 0.7:  # less than one that would have three marks
            step = _round_step((self.high - self.low) / most)
            values = [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        elif n > most:
            every = math.ceil(n / most)
            values = [10.0**k for k in range(-(-first // every) * every, last + 1, every)]
        else:
            parts = (1.0,) if n > 2.0 else (1.0, 3.0) if n > 1.2 else (1.0, 2.0, 5.0)
            values = [part * 10.0**k for k in range(first, last + 1) for part in parts]
        inside = [v for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]
        return [Mark(float(self.place(v)), significant(v, 2)) for v in inside]


def straight(low: float, high: float) -> Scale:
    """A scale that holds [low, high] with a little room."""
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - room, high + room)


def by_magnitude(low: float, high: float) -> Scale:
    """A logarithmic scale that holds [low, high], both above 0."""
    room = (high / low) ** 0.06 if high > low else 2.0
    return Scale(low / room, high * room, log=True)


def _round_step(least: float) -> float:
    """The least of 1, 2, 5, 10, … that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (1.0, 2.0, 5.0, 10.0) if n * power >= least * (1 - 1e-9))


def _label(value: float, step: float) -> str:
    """``value``, a multiple of ``step``, with all digits that tell it from the next one."""
    last = math.floor(math.log10(step) + 1e-9)
    if last >= -5 and abs(value) < 1e8:
        return f"{value + 0.0:.{max(0, -last)}f}"
    size = abs(value) if abs(value) > step / 2 else step
    return f"{value + 0.0:.{max(0, math.floor(math.log10(size) + 1e-9) - last)}e}"


def _clock(second: int, step: int) -> str:
    date = np.datetime64(second, "s")
    month = int(date.astype("datetime64[M]").astype(np.int64)) % 12
    day = 1 + int((date.astype("datetime64[D]") - date.astype("datetime64[M]")).astype(np.int64))
    hours, minutes, seconds = (second // _HOUR) % 24, (second // _MINUTE) % 60, second % 60
    if step >= _DAY or second % _DAY == 0:
        return f"{day} {_NAMES[month]}"
    return f"{hours:02}:{minutes:02}" if step >= _MINUTE else f"{hours:02}:{minutes:02}:{seconds:02}"
