"""``firmware-bridge verify``: watches a board, attaches to it late, and judges what it saw."""

from __future__ import annotations

import dataclasses
import time

from tabulate import tabulate

from firmware_bridge.figures import board_text
from firmware_bridge.following import Follower, follow
from firmware_bridge.news import Came, Gone, News, Opened
from firmware_bridge.protocol import Ack, Op
from firmware_bridge.session import Session
from firmware_bridge.session_items import Greeting, Lost, Reset, Rows
from firmware_bridge.stopping import Stopping
from firmware_bridge.transport import LineSettings, PortName
from firmware_bridge.verdict import ANSWER_WITHIN_S, HELLO_WITHIN_S, Check, Late, Seen, judge
from models.signal import NS_PER_S

FAILED = 1
ASK_AFTER_NS = NS_PER_S  # once the Hello is known
CLOSED_S = 1.0
LATE_ROWS_S = 2.0


def verify(
    name: PortName, settings: LineSettings, stopping: Stopping, *, for_s: float, wait: bool = False
) -> int:
    """Judges the board; returns the exit code: 0 PASS, 1 FAIL or interrupted. PortUnavailable as :func:`follow`."""
    session = Session()
    print(f"watching {name} for {for_s:g} s, then attaching to it late", flush=True)
    with Follower(name, settings, session) as follower:
        seen = _watch(follower, stopping, for_s=for_s, wait=wait)
    if seen.standing is not None and seen.standing.hello is not None and not stopping.asked.is_set():
        seen.late = _attach_late(name, settings, session, stopping)
    if stopping.asked.is_set():
        if not stopping.hung_up:
            print(f"interrupted after {seen.seconds:.0f} s: no verdict")
        return FAILED
    return report(seen, settings.baud)


def report(seen: Seen, baud: int) -> int:
    """Prints the table and the verdict; returns the exit code."""
    checks = judge(seen, baud)
    print(tabulate([_row(check) for check in checks], headers=("check", "", "what was seen")))
    failed = [check.name for check in checks if check.passed is False]
    hello = None if seen.standing is None else seen.standing.hello
    who = "no board" if hello is None else f"board {board_text(hello)}"
    print(f"FAIL: {who}: {', '.join(failed)}" if failed else f"PASS: {who}", flush=True)
    return FAILED if failed else 0


def _row(check: Check) -> tuple[str, str, str]:
    return check.name, "-" if check.passed is None else "PASS" if check.passed else "FAIL", check.text


def _watch(follower: Follower, stopping: Stopping, *, for_s: float, wait: bool) -> Seen:
    seen = Seen()
    watched = _Watched(follower, seen)
    for news in follow(follower, stopping, for_s=for_s, wait=wait):
        for new in news:
            watched.take(new)
        watched.turn(time.monotonic_ns())
    seen.standing = follower.standing()
    seen.seconds = watched.seconds(time.monotonic_ns())
    return seen


class _Watched:
    """Tells Hellos that were asked for from those that were not."""

    def __init__(self, follower: Follower, seen: Seen) -> None:
        self._follower, self._seen = follower, seen
        self._opened_ns: int | None = None
        self._greeted_ns: int | None = None
        self._command: int | None = None
        self._is_open = False
        self._owed = True  # the session asks for the first one

    def seconds(self, mono_ns: int) -> float:
        return 0.0 if self._opened_ns is None else (mono_ns - self._opened_ns) / NS_PER_S

    def take(self, new: News) -> None:
        seen = self._seen
        match new:
            case Opened(mono_ns=at_ns):
                self._opened_ns, self._is_open = self._opened_ns or at_ns, True
            case Gone(why=why):
                if self._is_open:
                    seen.troubles.append(why)
                self._is_open = False
            case Came(item=Rows() as rows):
                seen.track.take(rows)
            case Came(item=Reset(off_us=off_us, was_set=True)):
                seen.set_us = max(seen.set_us, abs(off_us))
            case Came(item=Ack(command_id=number)) if number == self._command:
                seen.acked = True
            case Came(item=Greeting() as greeting, mono_ns=at_ns):
                seen.n_new_hellos += greeting.new
                self._greeted_ns = self._greeted_ns or at_ns
                asked_ns = None if self._command is None else self._follower.sent_ns(self._command)
                if (
                    seen.answer_s is None
                    and asked_ns is not None
                    and at_ns - asked_ns <= ANSWER_WITHIN_S * NS_PER_S
                ):
                    seen.answer_s = (at_ns - asked_ns) / NS_PER_S
                elif self._owed:
                    self._owed = False
                else:
                    seen.hellos_s.append(self.seconds(at_ns))
            case _:
                pass

    def turn(self, mono_ns: int) -> None:
        if (
            self._command is None
            and self._greeted_ns is not None
            and mono_ns - self._greeted_ns >= ASK_AFTER_NS
        ):
            self._command = self._follower.command(Op.IDENTIFY)


def _attach_late(name: PortName, settings: LineSettings, session: Session, stopping: Stopping) -> Late:
    """Opens the line that was closed once more, with the session that knows the board."""
    session.disconnected()
    before = dataclasses.replace(session.counters)
    closed_ns = time.monotonic_ns()
    stopping.asked.wait(CLOSED_S)
    late = Late(0.0)
    opened_ns: int | None = None
    with Follower(name, settings, session) as follower:
        while not stopping.asked.is_set():
            for new in follower.take():
                match new:
                    case Opened(mono_ns=opened_ns):
                        late.closed_s = (opened_ns - closed_ns) / NS_PER_S
                        follower.command(Op.IDENTIFY)
                    case Gone(why=why):
                        late.trouble = why
                        return late
                    case Came(item=Greeting(new=another), mono_ns=at_ns) if (
                        late.hello_s is None and opened_ns
                    ):
                        late.another = another
                        late.hello_s = (at_ns - opened_ns) / NS_PER_S
                    case Came(item=Lost(n_rows=n)) if not late.n_passed_rows:
                        late.n_passed_rows = n
                    case _:
                        pass
            counters = follower.standing().counters
            late.n_rows, late.n_set = counters.n_rows - before.n_rows, counters.n_set - before.n_set
            late.n_resets = counters.n_resets - before.n_resets - late.n_set
            patience_s = HELLO_WITHIN_S if late.hello_s is None else LATE_ROWS_S
            if opened_ns is not None and (
                time.monotonic_ns() - opened_ns > patience_s * NS_PER_S
                or (late.hello_s is not None and late.n_rows)
            ):
                break
            if time.monotonic_ns() - closed_ns > (CLOSED_S + HELLO_WITHIN_S + LATE_ROWS_S) * NS_PER_S:
                late.trouble = late.trouble or "it did not open"
                break
    return late
