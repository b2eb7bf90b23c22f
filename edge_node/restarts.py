"""How long to wait before a process that failed is started again. Pure."""

from __future__ import annotations


class Restarts:
    """``first_s`` after the first failure, ``second_s`` after the second, then twice as long each time up to ``most_s``; one
    that had worked for ``steady_s`` is forgiven what was before."""

    def __init__(self, first_s: float, second_s: float, most_s: float, steady_s: float = 60.0) -> None:
        self._first_s = first_s
        self._second_s = second_s
        self._most_s = most_s
        self._steady_s = steady_s
        self._n = 0

    def failed(self, worked_s: float) -> float:
        """Seconds to wait after a failure; ``worked_s``: how long it had worked until then."""
        if worked_s >= self._steady_s:
            self._n = 0
        self._n += 1
        if self._n == 1:
            return self._first_s
        return min(self._second_s * 2.0 ** min(self._n - 2, 30), self._most_s)
