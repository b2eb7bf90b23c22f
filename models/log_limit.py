"""Keeps a fault that repeats from filling the log. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Hashable


class LogLimit:
    """Lets one line a ``key`` through every ``interval_s``, and says how many it held back."""

    def __init__(self, interval_s: float, max_keys: int = 1_000) -> None:
        self._interval_s = interval_s
        self._max_keys = max_keys
        self._last: dict[Hashable, tuple[float, int]] = {}

    def due(self, key: Hashable, now_s: float) -> int | None:
        """How many lines of ``key`` were held back since the last one; None when this one is to be held
        back too.

        Keys beyond ``max_keys`` share one, so memory is bounded whatever the keys come from.
        """
        if key not in self._last and len(self._last) >= self._max_keys:
            key = None
        entry = self._last.get(key)
        if entry is not None and now_s - entry[0] < self._interval_s:
            self._last[key] = (entry[0], entry[1] + 1)
            return None
        self._last[key] = (now_s, 0)
        return 0 if entry is None else entry[1]
