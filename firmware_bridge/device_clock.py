"""A board's microsecond counter, mapped to the host's monotonic clock, and that to UTC.

Strategy: a TimeSync exchange bounds the map from both sides whatever the delays were: the board had the question after
it was sent, and its answer before that was received. A line that keeps within all bounds of some minutes, as far from
the nearest of either side as can be, is offset and skew (Zhang, Liu & Xia, "Clock synchronization algorithms for
network measurements", INFOCOM 2002, on the method of convex hulls). A slow exchange only bounds loosely: it cannot
bend the line. What no method can know is how the shortest delays share the round trip, so half of what is left between
the bounds is stated as the error. What is served approaches the line by a change of slope, never by a jump. UTC is
added last, slewed in the same way, so that a step of the host's clock bends nothing. Pure: times are arguments.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.signal import NS_PER_S

U32 = 1 << 32
SLEW = 500e-6  # by which what is served approaches the fit: ns a ns
MAX_SKEW = 1000e-6  # more is no crystal
MAX_SLEWED_NS = NS_PER_S  # a greater difference begins a new segment
KEPT_NS = 300 * NS_PER_S  # how far back exchanges count
MAX_KEPT = 600
_ENOUGH_ARRIVALS = 5
_WANDER = 0.2e-6  # ns a ns by which a bound loosens with age: skews change with the temperature
_SHRINK_NS = 0.2e9  # ns of width that one unit of skew must gain: short baselines tell little of it


@dataclass(frozen=True, slots=True)
class Fit:
    """monotonic ns = ``at_ns`` + (us - ``at_us``) * 1000 * (1 + ``skew``), within ``bound_ns``."""

    at_us: int
    at_ns: int
    skew: float
    bound_ns: float  # half of what is left between the bounds; less than 0 where none keeps within all

    def at(self, us: float) -> int:
        return self.at_ns + round((us - self.at_us) * 1000.0 * (1.0 + self.skew))


@dataclass(frozen=True, slots=True)
class _Leg:
    """What is served from ``at_us`` on."""

    at_us: float
    at_ns: float
    skew: float

    def at(self, us: float) -> float:
        return self.at_ns + (us - self.at_us) * 1000.0 * (1.0 + self.skew)


class DeviceClock:
    """One segment of a board's time: from boot to boot. ``unwrap`` first, then map."""

    def __init__(self) -> None:
        self.fit: Fit | None = None
        # sent_ns, received_us, replied_us, answered_ns of each
        self._exchanges: deque[tuple[int, int, int, int]] = deque(maxlen=MAX_KEPT)
        self._arrivals: deque[tuple[int, int, int, int]] = deque(maxlen=MAX_KEPT)
        self._legs: list[_Leg] = []
        self._served = False
        self._last: tuple[int, int] | None = None  # unwrapped us, and monotonic ns when it was heard

    def expected_us(self, mono_ns: int) -> int | None:
        """About what the board's unwrapped clock reads now; None before anything was heard."""
        if self._last is None:
            return None
        us, at_ns = self._last
        return us + (mono_ns - at_ns) // 1000

    def unwrap(self, us: int, mono_ns: int) -> tuple[int, int]:
        """(``us``, modulo 2^32 as the board sent it, on a line that does not wrap; how far that is from what was
        expected, µs). A large departure means that the board's clock began anew."""
        expected = self.expected_us(mono_ns)
        if expected is None:
            return us, 0
        off = (us - expected + U32 // 2) % U32 - U32 // 2
        return expected + off, off

    def hear(self, us: int, mono_ns: int) -> None:
        """The board's unwrapped clock had reached ``us`` by ``mono_ns``. While no exchange is answered, the promptest
        arrival of each second stands for one: offset and skew as if its delay were always the same."""
        if self._last is None or us >= self._last[0]:
            self._last = (us, mono_ns)
        if not self._legs:
            self._legs.append(_Leg(us, mono_ns, 0.0))
        if self._exchanges:
            return
        heard = (mono_ns, us, us, mono_ns)
        if not self._arrivals or mono_ns - self._arrivals[-1][0] >= NS_PER_S:
            if len(self._arrivals) >= _ENOUGH_ARRIVALS:
                self.fit = _fit(np.array(self._arrivals, np.int64))
                self._follow(us, step=False)
            self._arrivals.append(heard)
        elif mono_ns - us * 1000 < self._arrivals[-1][3] - self._arrivals[-1][2] * 1000:
            self._arrivals[-1] = heard

    @property
    def error_ns(self) -> float | None:
        """How far :meth:`at` may be off now: half of what is left between the bounds, and what is still to be slewed;
        None before the first exchange."""
        if self.fit is None or self._last is None or not self._exchanges:
            return None
        us = self._last[0]
        return abs(self.fit.bound_ns) + abs(self._leg_at(us).at(us) - self.fit.at(us))

    @property
    def n_exchanges(self) -> int:
        return len(self._exchanges)

    def exchange(self, sent_ns: int, answered_ns: int, received_us: int, replied_us: int) -> None:
        """An answered TimeSync: monotonic times here, unwrapped times there."""
        first = not self._exchanges
        self._exchanges.append((sent_ns, received_us, replied_us, answered_ns))
        while answered_ns - self._exchanges[0][3] > KEPT_NS:
            self._exchanges.popleft()
        self.fit = _fit(np.array(self._exchanges, np.int64))
        self._follow(float(replied_us), step=first and not self._served)

    def at(self, us: float) -> int:
        """Monotonic ns at which the board's unwrapped clock read ``us``. Never falls as ``us`` rises."""
        self._served = True
        if not self._legs:
            raise ValueError("nothing was heard of this clock yet")
        return round(self._leg_at(us).at(us))

    def _leg_at(self, us: float) -> _Leg:
        for leg in reversed(self._legs):
            if us >= leg.at_us:
                return leg
        return self._legs[0]

    def _follow(self, us: float, *, step: bool) -> None:
        """From board time ``us`` on, approach the fit."""
        fit = self.fit
        assert fit is not None
        if step or not self._legs:
            self._legs = [_Leg(us, fit.at(us), fit.skew)]
            return
        served = self._leg_at(us).at(us)
        behind = fit.at(us) - served
        lasts_us = abs(behind) / (1000.0 * SLEW)
        turn = _Leg(us, served, fit.skew + (SLEW if behind > 0 else -SLEW))
        arrive = _Leg(us + lasts_us, turn.at(us + lasts_us), fit.skew)
        before = [leg for leg in self._legs if leg.at_us < us][-4:]
        self._legs = [*before, turn, arrive]


def _fit(exchanges: NDArray[np.int64]) -> Fit:
    """The line in the middle of the bounds of exchanges int64[m, 4]."""
    at_ns, at_us = int(exchanges[-1, 0]), int(exchanges[-1, 1])
    low_x = (exchanges[:, 1] - at_us) * 1000.0  # not before
    high_x = (exchanges[:, 2] - at_us) * 1000.0  # not after
    slack = _WANDER * (exchanges[-1, 3] - exchanges[:, 3])
    low = exchanges[:, 0] - at_ns - low_x - slack
    high = exchanges[:, 3] - at_ns - high_x + slack

    def width(skew: float) -> float:
        least = (high - skew * high_x).min() - (low - skew * low_x).max()
        return float(least) - abs(skew) * _SHRINK_NS

    left, right = -MAX_SKEW, MAX_SKEW  # the width is concave in the skew
    while right - left > 1e-9:
        third = (right - left) / 3
        if width(left + third) < width(right - third):
            left += third
        else:
            right -= third
    skew = (left + right) / 2
    lower, upper = float((low - skew * low_x).max()), float((high - skew * high_x).min())
    return Fit(at_us, at_ns + round((lower + upper) / 2), skew, (upper - lower) / 2)


class UtcOffset:
    """UTC less the monotonic clock, as served: it follows the host's, slewed; a step of more than a second is taken
    at once, and counted."""

    def __init__(self) -> None:
        self.n_steps = 0
        self._served_ns: float | None = None
        self._at_ns = 0

    def at(self, mono_ns: int, utc_ns: int) -> int:
        """The offset to add now, ns."""
        target = utc_ns - mono_ns
        if self._served_ns is None:
            self._served_ns = target
        elif abs(target - self._served_ns) > MAX_SLEWED_NS:
            self._served_ns = target
            self.n_steps += 1
        else:
            most = max(0, mono_ns - self._at_ns) * SLEW
            self._served_ns += min(max(target - self._served_ns, -most), most)
        self._at_ns = mono_ns
        return round(self._served_ns)
