"""Ctrl-C, SIGTERM and the end of the terminal: each asks a command to end in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopping:
    """While entered, these signals set :attr:`asked` and call ``then``, and do nothing else. For the main thread."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.asked = threading.Event()
        self.hung_up = False  # nobody reads what is printed any more
        self._then = then
        self._before = [signal.getsignal(number) for number in SIGNALS]

    def __enter__(self) -> Self:
        for number in SIGNALS:
            signal.signal(number, self._stop)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, before in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, before)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.hung_up |= number == signal.SIGHUP
        self.asked.set()
        self._then()
