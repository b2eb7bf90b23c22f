"""A thread of which somebody looks whether it has ended by a defect."""

from __future__ import annotations

import threading
from collections.abc import Callable


class WatchedThread(threading.Thread):
    """A daemon thread that does ``work``. ``failure``: what it ended with that nobody foresaw."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.failure = error
            raise
