"""``firmware-bridge monitor``: a line, live: redrawn in place on a terminal, else a line a second."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sys
import time
from collections import deque
from typing import TextIO

from firmware_bridge.figures import Figures, summary
from firmware_bridge.following import Follower, follow
from firmware_bridge.news import Came
from firmware_bridge.session_items import Rows
from firmware_bridge.stopping import Stopping
from firmware_bridge.telling import Teller
from firmware_bridge.view import one_line, screenful

PLAIN_EVERY_S = 1.0
REDRAW_EVERY_S = 0.25
KEPT_LINES = 4  # of what was said, below the figures
FIGURES_ROWS = 24  # where the terminal does not say how high it is


def monitor(
    follower: Follower,
    baud: int,
    stopping: Stopping,
    *,
    plain: bool = False,
    for_s: float | None = None,
    wait: bool = False,
    out: TextIO | None = None,
) -> int:
    """Shows the line until it is stopped; returns the exit code. PortUnavailable as :func:`follow`."""
    out = out or sys.stdout
    terminal = not plain and out.isatty() and os.environ.get("TERM") != "dumb"
    screen = _Screen(out) if terminal else None
    began_s = time.monotonic()
    figures = Figures(began_s)
    said: deque[str] = deque(maxlen=KEPT_LINES)
    every_s = PLAIN_EVERY_S if screen is None else REDRAW_EVERY_S
    due_s = began_s + every_s
    teller = Teller()
    try:
        for news in follow(follower, stopping, for_s=for_s, wait=wait):
            for new in news:
                if isinstance(new, Came) and isinstance(new.item, Rows):
                    figures.take(new.item)
                    continue
                if (text := teller.tell(new, time.monotonic())) is not None:
                    said.append(f"{_now()} {text}")
                    if screen is None:
                        print(said[-1], file=out, flush=True)
            now_s = time.monotonic()
            if now_s < due_s:
                continue
            due_s = max(due_s + every_s, now_s)
            standing = follower.standing()
            reading = figures.read(standing.counters, now_s)
            if screen is not None:
                size = shutil.get_terminal_size((80, FIGURES_ROWS))
                limits = {"columns": size.columns, "rows": size.lines - 1}
                screen.draw(screenful(standing, reading, baud, teller.trouble, tuple(said), **limits))
            elif teller.trouble is None:
                print(f"{_now()} {one_line(standing, reading, baud)}", file=out, flush=True)
    finally:
        if screen is not None:
            screen.settle()
    if not stopping.hung_up:
        print(summary(follower.standing(), time.monotonic() - began_s), file=out, flush=True)
    return 0


def _now() -> str:
    return f"{dt.datetime.now(dt.UTC):%H:%M:%S}"


class _Screen:
    """Lines that are drawn over those of before."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._n = 0
        print("\x1b[?25l", end="", file=out)  # no cursor

    def draw(self, lines: list[str]) -> None:
        back = f"\x1b[{self._n}F" if self._n else ""
        print(back + "\x1b[J" + "\n".join(lines), file=self._out, flush=True)
        self._n = len(lines)

    def settle(self) -> None:
        """What is drawn stays."""
        print("\x1b[?25h", end="", file=self._out, flush=True)
