"""Is this board fit for use? What was seen of it, judged. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from firmware_bridge.clock_fit import MAX_SKEW
from firmware_bridge.figures import (
    clock_text,
    load,
    loss_text,
    n_damaged,
    plural,
    rate_text,
    silence_text,
    times,
)
from firmware_bridge.news import Standing
from firmware_bridge.protocol import U32, Cause, Hello
from firmware_bridge.session import SYNCED_NS
from firmware_bridge.session_items import Rows

HELLO_WITHIN_S = 10.0  # by itself: hosts come late
ANSWER_WITHIN_S = 1.0
MAX_PPM = 1000.0  # of the stated rate: windows follow no stream that is further off (docs/windowing.md)
MIN_ANSWERED = 0.9  # of TimeSync
MAX_LOAD = 0.8  # of what the line carries
OVER = 1.05  # more than it carries: the baud rate is not what bounds this line


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    passed: bool | None  # None: could not be judged
    text: str


class Track:
    """How fast rows follow each other by the board's own clock, within one configuration."""

    def __init__(self) -> None:
        self._config_id: int | None = None
        self._rows: list[tuple[int, int]] = []  # number of the first row, unwrapped, and its time in µs

    def take(self, rows: Rows) -> None:
        if rows.hello.config_id != self._config_id or (self._rows and rows.device_us < self._rows[-1][1]):
            self._config_id, self._rows = rows.hello.config_id, []
        last = self._rows[-1][0] if self._rows else rows.index
        self._rows.append((last + (rows.index - last) % U32, rows.device_us))

    @property
    def rate_hz(self) -> float | None:
        """Rows in a second of the board's; None: too few came."""
        rows = np.array(self._rows, np.float64)
        if len(rows) < 2 or rows[-1, 0] == rows[0, 0]:
            return None
        rows -= rows.mean(axis=0)
        us_a_row = float((rows[:, 0] * rows[:, 1]).sum() / (rows[:, 0] ** 2).sum())
        return 1e6 / us_a_row if us_a_row > 0 else None


@dataclass(slots=True)
class Seen:
    """What was seen of a board for ``seconds``, and when its line was opened once more."""

    seconds: float = 0.0
    standing: Standing | None = None  # before the line was closed
    troubles: list[str] = field(default_factory=list)  # why the port was lost, each time
    hellos_s: list[float] = field(
        default_factory=list
    )  # that nobody asked for, from when the line was opened
    n_new_hellos: int = 0
    set_us: int = 0  # by which its clock was set while it ran, at most
    answer_s: float | None = None  # from IDENTIFY to the Hello
    acked: bool = False
    track: Track = field(default_factory=Track)
    late: Late | None = None


@dataclass(slots=True)
class Late:
    """What a host sees that attaches while the board runs. ``closed_s``: for how long nobody listened."""

    closed_s: float
    trouble: str | None = None
    hello_s: float | None = None
    n_resets: int = 0
    n_set: int = 0  # times its clock was set, and it went on
    another: bool = False  # configuration: it began anew
    n_passed_rows: int = 0  # while nobody listened
    n_rows: int = 0


def judge(seen: Seen, baud: int) -> list[Check]:
    """Every check, in the order in which they are shown."""
    standing = seen.standing
    assert standing is not None
    hello = standing.hello
    checks = [_port(seen)]
    if hello is None:
        text = silence_text(standing)
        checks.append(Check("Hello", False, text))
        return [*checks, _loss(standing), _load(seen, standing, baud)]
    checks += [
        _hello_on_request(seen),
        _hello_by_itself(seen),
        _rate(seen, standing, hello),
        _loss(standing),
        _clock(standing),
        _reset(seen, standing),
    ]
    if seen.late is not None:
        checks.append(_late(seen.late))
    return [*checks, _load(seen, standing, baud)]


def _port(seen: Seen) -> Check:
    if not seen.troubles:
        return Check("port", True, f"stayed open for {seen.seconds:.0f} s")
    return Check("port", False, f"lost {plural(len(seen.troubles), 'time')}: {seen.troubles[0]}")


def _hello_on_request(seen: Seen) -> Check:
    name = "Hello, asked for"
    if seen.answer_s is None:
        heard = (
            "the command was acknowledged, but no Hello followed" if seen.acked else "no answer to IDENTIFY"
        )
        hint = "" if seen.acked else ": is our TX on the board's RX?"
        return Check(name, False, f"{heard} within {ANSWER_WITHIN_S:g} s{hint}")
    return Check(
        name, seen.acked, f"after {seen.answer_s * 1000:.0f} ms" + ("" if seen.acked else ", but no Ack")
    )


def _hello_by_itself(seen: Seen) -> Check:
    name = "Hello, by itself"
    times = [0.0, *seen.hellos_s, seen.seconds]
    gaps = [b - a for a, b in pairwise(times)]
    if not seen.hellos_s:
        longer = "" if seen.seconds >= HELLO_WITHIN_S else f" (watch for {HELLO_WITHIN_S:g} s or more: --for)"
        return Check(
            name, False, f"none in {seen.seconds:.0f} s{longer}; a host that cannot ask waits for it"
        )
    text = f"{plural(len(seen.hellos_s), 'time')}, at most {max(gaps):.1f} s apart"
    if max(gaps) > HELLO_WITHIN_S:
        return Check(name, False, f"{text}: more than {HELLO_WITHIN_S:g} s")
    return Check(name, True, text)


def _rate(seen: Seen, standing: Standing, hello: Hello) -> Check:
    if hello.rate_hz is None:
        passed = standing.counters.n_rows > 0
        return Check("rate", passed, f"irregular; {plural(standing.counters.n_rows, 'row')} came")
    stated = f"{rate_text(hello.rate_hz)} stated"
    by_board = seen.track.rate_hz
    if by_board is None:
        n = standing.counters.n_rows
        return Check("rate", False, f"{plural(n, 'row')} came, too few to measure; {stated}: is it stopped?")
    skew_ppm = None if standing.error_ns is None or _pegged(standing) else standing.skew_ppm
    measured = by_board / (1 + (skew_ppm or 0.0) * 1e-6)
    ppm = (measured / float(hello.rate_hz) - 1) * 1e6
    whose = "" if skew_ppm is not None else " by its own clock"
    text = f"{measured:.6g} Hz{whose}, {stated}: {ppm:+.0f} ppm"
    if abs(ppm) > MAX_PPM:
        return Check("rate", False, f"{text}, more than {MAX_PPM:g}: state the rate that it has")
    return Check("rate", True, text)


def _loss(standing: Standing) -> Check:
    counters = standing.counters
    if not counters.n_frames:
        return Check("loss", None, "could not be judged: no frame came")
    n_unknown = counters.damage.get(Cause.UNKNOWN_TYPE, 0)  # a newer minor version
    damaged = n_damaged(counters) - n_unknown
    lost = (
        counters.n_lost_rows + counters.n_lost_frames + counters.n_repeated_rows + counters.n_unexplained_rows
    )
    text = loss_text(counters)
    if damaged:
        text += ": another baud rate, a bad cable, or a buffer that overflowed"
    elif counters.n_lost_rows and not counters.n_lost_frames:
        text += ": the board itself left them out"
    return Check("loss", not damaged and not lost, text)


def _clock(standing: Standing) -> Check:
    counters, text = standing.counters, clock_text(standing)
    if standing.error_ns is None:
        return Check("clock", False, text)
    if counters.n_exchanges < MIN_ANSWERED * (counters.n_asked - 1):
        return Check("clock", False, f"{text}: fewer than {MIN_ANSWERED:.0%}")
    if standing.error_ns > SYNCED_NS:
        return Check("clock", False, f"{text}: more than {SYNCED_NS / 1e6:g} ms")
    if _pegged(standing):
        return Check("clock", False, f"{text}: are these microseconds?")
    return Check("clock", True, text)


def _pegged(standing: Standing) -> bool:
    """Whether the clock is further off than is followed: how far is then not known."""
    return standing.skew_ppm is not None and abs(standing.skew_ppm) >= 0.99e6 * MAX_SKEW


def _reset(seen: Seen, standing: Standing) -> Check:
    n_set = standing.counters.n_set
    n = max(standing.counters.n_resets - n_set, seen.n_new_hellos - 1)
    texts = []
    if n:
        texts.append(f"began anew {plural(n, 'time')}: a watchdog, a brown-out, a loose supply?")
    if n_set:
        by = f"at most by {seen.set_us / 1000:.0f} ms"
        texts.append(
            f"its clock was set {times(n_set)} while it ran, {by}: does the firmware set its microseconds?"
        )
    if texts:
        return Check("reset", False, "; ".join(texts))
    return Check("reset", True, f"none in {seen.seconds:.0f} s")


def _late(late: Late) -> Check:
    name = "attaching late"
    closed = f"closed for {late.closed_s:.1f} s"
    if late.trouble is not None:
        return Check(name, False, f"{closed}, the port did not open again: {late.trouble}")
    if late.n_resets or late.another:
        text = f"{closed}, the board began anew: opening the port resets it (DTR or RTS); try --dtr off, --rts off"
        return Check(name, False, text)
    if late.n_set:
        return Check(name, False, f"{closed}, the board went on, but its clock was set")
    if late.hello_s is None:
        return Check(name, False, f"{closed}, then no Hello within {HELLO_WITHIN_S:g} s")
    if not late.n_rows:
        return Check(name, False, f"{closed}, then no rows")
    passed = plural(late.n_passed_rows, "row")
    return Check(
        name, True, f"{closed}, went on, {passed} passed meanwhile; Hello after {late.hello_s * 1000:.0f} ms"
    )


def _load(seen: Seen, standing: Standing, baud: int) -> Check:
    bytes_per_s = standing.counters.n_bytes / max(seen.seconds, 1e-9)
    share = load(bytes_per_s, baud)
    text = f"{bytes_per_s:.0f} bytes/s of the {baud // 10} that {baud} baud carry: {share:.0%}"
    if share > OVER:
        return Check(
            "line load", True, f"{text}; so it is not the baud rate that bounds this line (native USB?)"
        )
    if share > MAX_LOAD:
        return Check(
            "line load",
            False,
            f"{text}, more than {MAX_LOAD:.0%}: a higher baud rate, or fewer rows a second",
        )
    return Check("line load", True, text)
