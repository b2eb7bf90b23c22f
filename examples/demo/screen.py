"""What the demo writes to the terminal: lines, and below them one line of progress that is rewritten in place.

Colours and rewriting only on a terminal (and colours not where NO_COLOR is set); elsewhere progress is a line now and then, and
none of what is soon over.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Literal, TextIO

Style = Literal["bold", "dim", "red", "green", "yellow", "magenta", "cyan"]

_CODES: dict[Style, str] = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "magenta": "35",
    "cyan": "36",
}
PROGRESS_EVERY_S = 5.0  # where there is no terminal


class Screen:
    """Writes to ``out``, by default standard output."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._terminal = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = self._terminal and not os.environ.get("NO_COLOR")
        self._shown = ""
        self._last_s = time.monotonic()

    def style(self, text: str, *styles: Style) -> str:
        """``text`` in ``styles`` where colours can be shown."""
        if not self._colours or not styles:
            return text
        return f"\x1b[{';'.join(_CODES[s] for s in styles)}m{text}\x1b[0m"

    def line(self, text: str = "", *styles: Style) -> None:
        """A line that stays."""
        self._erase()
        print(self.style(text, *styles), file=self._out, flush=True)
        self._draw()

    def stage(self, text: str) -> None:
        """The heading of what follows."""
        self.settle()
        self.line()
        self.line(text, "bold", "cyan")

    def command(self, text: str) -> None:
        """A command as a person would have typed it."""
        self.line(f"  $ {text}", "dim")

    def progress(self, text: str) -> None:
        """What is going on right now: replaces what was said before."""
        if self._terminal:
            if text == self._shown:
                return
            self._erase()
            self._shown = text
            self._draw()
        elif time.monotonic() - self._last_s >= PROGRESS_EVERY_S:
            self._last_s = time.monotonic()
            print(f"  {text}", file=self._out, flush=True)

    def settle(self) -> None:
        """There is no progress to show any more."""
        self._erase()
        self._shown, self._last_s = "", time.monotonic()

    def _erase(self) -> None:
        if self._terminal and self._shown:
            print("\r\x1b[2K", end="", file=self._out, flush=True)

    def _draw(self) -> None:
        if self._terminal and self._shown:
            width = shutil.get_terminal_size().columns - 3
            print(self.style(f"  {self._shown[:width]}", "dim"), end="", file=self._out, flush=True)


def bar(share: float, width: int = 24) -> str:
    """A bar of ``width`` characters, filled from 0 to 1."""
    filled = round(min(max(share, 0.0), 1.0) * width)
    return "█" * filled + "░" * (width - filled)
