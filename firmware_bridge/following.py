"""A board followed by a program: its line on a thread, its session there, and what came of it handed over in order.

What waits to be taken is bounded; what is beyond that is dropped and counted, rows first.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from firmware_bridge.news import Came, Gone, News, Opened, Standing
from firmware_bridge.protocol import Op
from firmware_bridge.session import Session
from firmware_bridge.session_items import Rows
from firmware_bridge.stopping import Stopping
from firmware_bridge.transport import BACKOFF_S, Line, LineSettings, PortName, PortUnavailable

MAX_WAITING = 4_000_000  # values,
MAX_NEWS = 100_000  # and pieces of news, that nobody has taken
TURN_S = 0.1


class Follower:
    """One board on one line, while entered; the port is opened again for ever. ``session``: one that knows the board."""

    def __init__(
        self,
        name: PortName,
        settings: LineSettings,
        session: Session | None = None,
        *,
        backoff_s: tuple[float, float] = BACKOFF_S,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.name = name
        self.session = session or Session()
        self._line = Line(name, settings, self, backoff_s=backoff_s)
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._news: deque[News] = deque()
        self._n_values = 0
        self._n_dropped_rows = self._n_dropped_news = 0
        self._to_send: list[tuple[int, bytes]] = []
        self._sent_ns: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._line.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._line.stop()

    def take(self, wait_s: float = TURN_S) -> list[News]:
        """What came since the last call, in order; waits up to ``wait_s`` for something to come. A defect of the line's
        thread is raised here."""
        if self._line.finished.done():
            self._line.finished.result()
        with self._changed:
            if not self._news:
                self._changed.wait(wait_s)
            news = list(self._news)
            self._news.clear()
            self._n_values = 0
        return news

    def standing(self) -> Standing:
        """How things stand now."""
        with self._changed:
            session = self.session
            counters = dataclasses.replace(session.counters, damage=Counter(session.counters.damage))
            return Standing(
                counters,
                session.hello,
                session.error_ns,
                session.skew_ppm,
                self._line.path,
                self._line.n_opens,
                self._n_dropped_rows,
                self._n_dropped_news,
                self._line.n_unsent,
            )

    def command(self, op: Op) -> int:
        """Sends a command as soon as the line can; the id that its Ack will carry."""
        with self._changed:
            number, frame = self.session.command(op)
            self._to_send.append((number, frame))
        return number

    def sent_ns(self, number: int) -> int | None:
        """When the command was sent; None: not yet."""
        with self._changed:
            return self._sent_ns.get(number)

    def opened(self, path: str) -> None:
        self._put([Opened(path, time.monotonic_ns())])

    def lost(self, why: str) -> None:
        with self._changed:
            self.session.disconnected()
        self._put([Gone(why)])

    def rejects(self) -> str | None:
        return None

    def idle(self, mono_ns: int) -> Sequence[bytes]:
        with self._changed:
            commands, self._to_send = self._to_send, []
            self._sent_ns.update((number, mono_ns) for number, _ in commands)
            return [*(frame for _, frame in commands), *self.session.due(mono_ns)]

    def received(self, data: bytes, mono_ns: int, utc_ns: int) -> None:
        with self._changed:
            items = self.session.receive(data, mono_ns, utc_ns)
        if items:
            self._put([Came(item, mono_ns) for item in items])

    def _put(self, news: Sequence[News]) -> None:
        with self._changed:
            for new in news:
                if isinstance(new, Came) and isinstance(new.item, Rows):
                    n = new.item.counts.size
                    if self._n_values + n > self._max_waiting or len(self._news) >= MAX_NEWS:
                        self._n_dropped_rows += len(new.item.counts)
                        continue
                    self._n_values += n
                elif len(self._news) >= 2 * MAX_NEWS:
                    self._n_dropped_news += 1
                    continue
                self._news.append(new)
            self._changed.notify()


def follow(
    follower: Follower, stopping: Stopping, *, for_s: float | None = None, wait: bool = False
) -> Iterator[list[News]]:
    """What comes, at least every ``TURN_S``, until ``stopping``, or ``for_s`` after the port was opened.

    PortUnavailable where the port cannot be opened to begin with; with ``wait`` it is waited for instead.
    """
    ends: float | None = None
    while not stopping.asked.is_set() and (ends is None or time.monotonic() < ends):
        news = follower.take()
        for new in news:
            if isinstance(new, Opened) and ends is None and for_s is not None:
                ends = time.monotonic() + for_s
            if isinstance(new, Gone) and not wait and not follower.standing().n_opens:
                raise PortUnavailable(new.why)
        yield news
    yield follower.take(0.0)
