"""A board's microsecond counter, mapped to the host's monotonic clock, and that to UTC.

Strategy: :mod:`firmware_bridge.clock_fit` finds the line through the board's time; what is served approaches it by a
change of slope, never by a jump, and never falls. UTC is added last, slewed in the same way, so that a step of the
host's clock bends nothing. Pure: times are arguments.

What is guaranteed: once exchanges are answered, :attr:`DeviceClock.error_ns` bounds how far the served time is from the
truth whatever the delays of the line were, as long as the board's skew changes by no more than
:data:`~firmware_bridge.clock_fit.WANDER` and its clock counts single µs. What no method can know is how the shortest
delays share the round trip: half of the difference between them is in the served time, and within the bound. With a
delay of 0-20 ms in one direction, two exchanges a second and 100 ppm of skew the bound is about 1 ms after a minute and
the error 0.13 ms (rms), in none of 6000 cases above 0.7 ms; with such delays in both directions 1.5 ms and 0.3 ms,
above 1 ms in one case of 60.

A clock that was set while the board ran is told from a slow line, for bounds hold however slow that is: an exchange that
contradicts them by more than :data:`SLIP_NS` is kept out, what is stated widens by as much, and the next says whether it
was a misreading or another segment has begun. Smaller steps are slewed like any correction. Of a board that answers
nothing only arrivals are known: its time is late by the least delay, and no bound is stated.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from firmware_bridge.clock_fit import MAX_SKEW, Fit, beneath, between
from models.signal import NS_PER_S

U32 = 1 << 32
SLEW = 500e-6  # by which what is served approaches the fit, ns a ns;
SETTLE_NS = 20 * NS_PER_S  # faster where it would take longer than this,
MAX_SLEW = 0.05  # at most so
MAX_SLEWED_NS = NS_PER_S  # of the host's UTC: a greater difference is taken at once
KEPT_NS = 300 * NS_PER_S  # how far back exchanges count
MAX_KEPT = 600
SLIP_NS = 5_000_000  # by which an exchange may contradict those before, as skews do change
MAX_SUSPECTS = 4  # exchanges in a row that contradict those before, even where they contradict each other too
_MIN_KEPT = 16  # exchanges, however they contradict each other
_HOLDOVER_SKEW = 100e-6  # by which a skew that was measured may have changed in a long silence

Exchange = tuple[int, int, int, int]
"""sent_ns, received_us, replied_us, answered_ns: monotonic here, unwrapped there."""


@dataclass(frozen=True, slots=True)
class _Leg:
    """What is served from ``at_us`` on."""

    at_us: float
    at_ns: float
    skew: float

    def at(self, us: float) -> float:
        return self.at_ns + (us - self.at_us) * 1000.0 * (1.0 + self.skew)


class DeviceClock:
    """One segment of a board's time: until it boots, or its clock is set. ``unwrap`` first, then map."""

    def __init__(self) -> None:
        self.fit: Fit | None = None
        self._exchanges: deque[Exchange] = deque(maxlen=MAX_KEPT)
        self._suspects: list[Exchange] = []  # the newest, where they contradict those before:
        self._suspected_ns = 0.0  # if the last one is right, they are wrong by no more than this
        self._arrivals: deque[tuple[int, int]] = deque(
            maxlen=MAX_KEPT
        )  # us, ns: the promptest of each second
        self._legs: list[_Leg] = []
        self._slew = SLEW
        self._served_us: float | None = None  # the newest
        self._last: tuple[int, int] | None = None  # unwrapped us, and monotonic ns when it was heard

    def expected_us(self, mono_ns: int) -> int | None:
        """About what the board's unwrapped clock reads now; None before anything was heard."""
        fit = self.fit
        if fit is not None:
            return fit.at_us + round((mono_ns - fit.at_ns) / 1000 / (1 + fit.skew))
        if self._last is None:
            return None
        return self._last[0] + (mono_ns - self._last[1]) // 1000

    def doubt_us(self, mono_ns: int) -> int:
        """How far :meth:`expected_us` may be off by the board's skew alone, after the silence until now."""
        fit, since_ns, skew = self.fit, mono_ns, MAX_SKEW
        if fit is not None:
            since_ns = fit.at_ns
            if len(fit.corners):
                skew = min(skew, _HOLDOVER_SKEW + float(np.ptp(fit.corners[:, 1])))
        elif self._last is not None:
            since_ns = self._last[1]
        return round(abs(mono_ns - since_ns) / 1000 * skew)

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
        arrival of each second is taken for one without delay."""
        if self._last is None or us >= self._last[0]:
            self._last = (us, mono_ns)
        if not self._legs:
            self._legs.append(_Leg(us, mono_ns, 0.0))
        if self._exchanges:
            return
        arrivals = self._arrivals
        if not arrivals or us - arrivals[-1][0] >= 1_000_000:
            if arrivals:
                self.fit = beneath(np.array(arrivals, np.int64))
                self._follow(us, step=False)
            arrivals.append((us, mono_ns))
            while us - arrivals[0][0] > KEPT_NS // 1000:
                arrivals.popleft()
        elif us > (arrivals[-2][0] if len(arrivals) > 1 else us - 1) and (
            mono_ns - us * 1000 < arrivals[-1][1] - arrivals[-1][0] * 1000
        ):
            arrivals[-1] = (us, mono_ns)

    @property
    def error_ns(self) -> float | None:
        """How far :meth:`at` may be off now; None before the first exchange."""
        return None if self._last is None else self.error_within(self._last[0], self._last[0])

    def error_within(self, first_us: float, last_us: float) -> float | None:
        """How far :meth:`at` may be off between two times near now; None before the first exchange."""
        if self.fit is None or not self._exchanges:
            return None
        errors = (self.fit.error_ns(us, self._leg_at(us).at(us)) for us in (first_us, last_us))
        return max(errors) + self._suspected_ns

    @property
    def n_exchanges(self) -> int:
        return len(self._exchanges)

    def exchange(self, sent_ns: int, answered_ns: int, received_us: int, replied_us: int) -> int | None:
        """An answered TimeSync: monotonic times here, unwrapped times there. Returns by how many µs, or a little more, the
        board's clock was set, once that is certain: :meth:`anew` is its clock then."""
        new = (sent_ns, received_us, replied_us, answered_ns)
        off_ns = self._contradiction_ns(new)
        if abs(off_ns) <= SLIP_NS:
            self._suspects.clear()
            self._suspected_ns = 0.0
            self._take(new)
            return None
        before = self._suspects[-1:]
        self._suspects.append(new)
        self._suspected_ns = abs(off_ns) + answered_ns - sent_ns
        confirmed = before and between(np.array([*before, new], np.int64)).misfit_ns == 0
        return round(off_ns / 1000) if confirmed or len(self._suspects) == MAX_SUSPECTS else None

    def anew(self) -> DeviceClock:
        """The segment that began with the clock that was set, on the same line of unwrapped times."""
        clock = DeviceClock()
        for sent_ns, received_us, replied_us, answered_ns in self._suspects[-2:]:
            clock.exchange(sent_ns, answered_ns, received_us, replied_us)
            clock.hear(replied_us, answered_ns)
        return clock

    def _contradiction_ns(self, exchange: Exchange) -> float:
        """How far the board's clock is ahead of all that those before allow, or behind it (below 0)."""
        fit = self.fit
        if fit is None or not self._exchanges:
            return 0.0
        sent_ns, received_us, replied_us, answered_ns = exchange
        _, latest = fit.range_ns(received_us)
        earliest, _ = fit.range_ns(replied_us)
        doubt_ns = _HOLDOVER_SKEW * abs(answered_ns - fit.at_ns)
        return max(0.0, earliest - answered_ns - doubt_ns) + min(0.0, latest - sent_ns + doubt_ns)

    def _take(self, exchange: Exchange) -> None:
        first, kept = not self._exchanges, self._exchanges
        kept.append(exchange)
        while exchange[3] - kept[0][3] > KEPT_NS:
            kept.popleft()
        fit = between(np.array(kept, np.int64))
        while (
            fit.misfit_ns > 0 and len(kept) > _MIN_KEPT
        ):  # the skew has changed: the oldest are no longer true
            for _ in range(max(1, len(kept) // 8)):
                kept.popleft()
            fit = between(np.array(kept, np.int64))
        self.fit = fit
        self._follow(float(exchange[2]), step=first and self._served_us is None)

    def at(self, us: float) -> int:
        """Monotonic ns at which the board's unwrapped clock read ``us``. Never falls as ``us`` rises, whatever was
        learnt between two calls. ValueError before anything was heard."""
        if not self._legs:
            raise ValueError("nothing was heard of this clock yet")
        if self._served_us is None or us > self._served_us:
            self._served_us = us
        return round(self._leg_at(us).at(us))

    def _leg_at(self, us: float) -> _Leg:
        for leg in reversed(self._legs):
            if us >= leg.at_us:
                return leg
        return self._legs[0]

    def _follow(self, us: float, *, step: bool) -> None:
        """From board time ``us`` on, but not before what was served already, approach the fit."""
        fit = self.fit
        assert fit is not None
        if step or not self._legs:
            self._legs = [_Leg(us, fit.at(us), fit.skew)]
            return
        if self._served_us is not None:
            us = max(us, self._served_us)
        served = self._leg_at(us).at(us)
        behind_ns = fit.at(us) - served
        if us >= self._legs[-1].at_us:
            self._slew = SLEW  # what was begun is done
        self._slew = slew = min(max(self._slew, abs(behind_ns) / SETTLE_NS), MAX_SLEW)
        lasts_us = abs(behind_ns) / (1000.0 * slew)
        turn = _Leg(us, served, fit.skew + (slew if behind_ns > 0 else -slew))
        arrive = _Leg(us + lasts_us, turn.at(us + lasts_us), fit.skew)
        before = [leg for leg in self._legs if leg.at_us < us][-4:]
        self._legs = [*before, turn, arrive]


class UtcOffset:
    """UTC less the monotonic clock, as served: it follows the host's, slewed; a step of more than a second is taken
    at once, and counted."""

    def __init__(self) -> None:
        self.n_steps = 0
        self._served_ns: int | None = None
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
            most = round(max(0, mono_ns - self._at_ns) * SLEW)
            self._served_ns += min(max(target - self._served_ns, -most), most)
        self._at_ns = mono_ns
        return self._served_ns
