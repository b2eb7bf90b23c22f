"""What there is to say of a line: rates over the last seconds, losses, clock, values. Pure: times are arguments."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.framing import Damage
from firmware_bridge.news import Standing
from firmware_bridge.protocol import Hello
from firmware_bridge.session_items import Rows, SessionCounters

RATE_OVER_S = 5.0
BITS_A_BYTE = 10  # on a UART, with start and stop bit


@dataclass(frozen=True, slots=True)
class Values:
    """Of one channel since the last reading."""

    name: str
    unit: str
    last: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Reading:
    """``per_s``: rows and bytes a second over the last seconds."""

    at_s: float
    rows_per_s: float
    bytes_per_s: float
    values: tuple[Values, ...]


class Figures:
    """Rows in; a :class:`Reading` whenever one is asked for."""

    def __init__(self, now_s: float) -> None:
        self._began_s = now_s
        self._marks: deque[tuple[float, int, int]] = deque([(now_s, 0, 0)])  # when, rows, bytes
        self._hello: Hello | None = None
        self._last: NDArray[np.float64] | None = None
        self._low: NDArray[np.float64] | None = None
        self._high: NDArray[np.float64] | None = None

    def take(self, rows: Rows) -> None:
        values = rows.to_si()
        low, high = values.min(axis=0), values.max(axis=0)
        if self._hello is None or self._hello.channels != rows.hello.channels:
            self._low = self._high = None
        self._hello, self._last = rows.hello, values[-1]
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)

    def read(self, counters: SessionCounters, now_s: float) -> Reading:
        """The figures now. Lowest and highest values are then of what comes next."""
        self._marks.append((now_s, counters.n_rows, counters.n_bytes))
        while len(self._marks) > 2 and now_s - self._marks[1][0] >= RATE_OVER_S:
            self._marks.popleft()
        then_s, n_rows, n_bytes = self._marks[0]
        span_s = max(now_s - then_s, 1e-9)
        values: tuple[Values, ...] = ()
        if self._hello is not None and self._last is not None:
            low = self._last if self._low is None else self._low
            high = self._last if self._high is None else self._high
            values = tuple(
                Values(channel.name, channel.unit, float(self._last[i]), float(low[i]), float(high[i]))
                for i, channel in enumerate(self._hello.channels)
            )
        self._low = self._high = None
        return Reading(
            now_s - self._began_s,
            (counters.n_rows - n_rows) / span_s,
            (counters.n_bytes - n_bytes) / span_s,
            values,
        )


def load(bytes_per_s: float, baud: int) -> float:
    """The share of what a UART carries at ``baud``."""
    return bytes_per_s * BITS_A_BYTE / baud


def n_damaged(counters: SessionCounters) -> int:
    """Frames that were damaged or refused, but for the one in which the host began to listen."""
    return sum(n for cause, n in counters.damage.items() if cause != Damage.CUT_IN)


def damage_text(counters: SessionCounters) -> str:
    """ "3 damaged (2 bad_crc, 1 short)"."""
    causes = [f"{n} {cause}" for cause, n in sorted(counters.damage.items()) if n and cause != Damage.CUT_IN]
    n = n_damaged(counters)
    return f"{n} damaged ({', '.join(causes)})" if n else "0 damaged"


def loss_text(counters: SessionCounters) -> str:
    """What a line has lost so far."""
    rows, frames = plural(counters.n_lost_rows, "row"), plural(counters.n_lost_frames, "frame")
    text = f"lost {rows}, {frames}; {damage_text(counters)}"
    if counters.n_unexplained_rows:
        text += f"; {plural(counters.n_unexplained_rows, 'row')} without a Hello"
    if counters.n_repeated_rows:
        text += f"; {plural(counters.n_repeated_rows, 'row')} repeated"
    return text


def resets_text(counters: SessionCounters) -> str:
    """How often the board's clock did not go on."""
    text = plural(counters.n_resets - counters.n_set, "reset")
    return f"{text}, a clock that was set {times(counters.n_set)}" if counters.n_set else text


def clock_text(standing: Standing) -> str:
    """How good the board's clock is known."""
    counters = standing.counters
    if standing.error_ns is None:
        if not counters.n_asked:
            return "not asked yet"
        return f"times are of arrival: none of {counters.n_asked} TimeSync answered"
    text = f"±{standing.error_ns / 1e6:.2f} ms"
    if standing.skew_ppm is not None:
        text += f", {skew_text(standing.skew_ppm)}"
    return f"{text}, {counters.n_exchanges} of {counters.n_asked} TimeSync answered"


def skew_text(skew_ppm: float) -> str:
    """A board whose microseconds are too long is slow."""
    return f"{abs(skew_ppm):.1f} ppm {'slow' if skew_ppm > 0 else 'fast'}"


def silence_text(standing: Standing) -> str:
    """Why there is no board to show yet."""
    counters = standing.counters
    if not counters.n_bytes:
        return "nothing was received: is the board powered, TX on RX, and running its firmware?"
    if not counters.n_frames:
        return (
            f"{counters.n_bytes} bytes, but no intact frame ({damage_text(counters)}): another baud rate, or firmware that does "
            "not speak this protocol"
        )
    return f"{plural(counters.n_frames, 'frame')}, but no Hello ({damage_text(counters)})"


def summary(standing: Standing, seconds: float) -> str:
    """All of it in one line."""
    counters, hello = standing.counters, standing.hello
    who = silence_text(standing) if hello is None and not counters.n_rows else plural(counters.n_rows, "row")
    text = f"{seconds:.0f} s: {who}; {loss_text(counters)}; {resets_text(counters)}; opened {times(standing.n_opens)}"
    if dropped := dropped_text(standing):
        text += f"{dropped}: this computer could not keep up"
    if standing.n_unsent:
        text += f"; {plural(standing.n_unsent, 'frame')} not sent: the board does not take them"
    return text


def dropped_text(standing: Standing) -> str:
    """What nobody took in time, to be added to a line; empty: nothing."""
    found = (
        (standing.n_dropped_rows, "row", "rows"),
        (standing.n_dropped_news, "piece of news", "pieces of news"),
    )
    counts = [f"{n} {one if n == 1 else many}" for n, one, many in found if n]
    return f"; {', '.join(counts)} dropped here" if counts else ""


def plural(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def board_text(hello: Hello) -> str:
    """Who a board is."""
    return f"{hello.serial or '(no serial number)'}, {hello.firmware} {hello.version}".rstrip()


def rate_text(rate_hz: Fraction | None) -> str:
    return "irregular" if rate_hz is None else f"{float(rate_hz):g} Hz"


def size_text(n_bytes: float) -> str:
    """ "6.91 kB"."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000 or unit == "MB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.3g} {unit}"
