"""When the clock ticks: evenly, and at once after it was set back. Pure."""

from __future__ import annotations

from models.signal import NS_PER_S

TICK_S = 0.25
_TICK_NS = round(TICK_S * NS_PER_S)


class Ticks:
    """Asked for the time, says whether a tick is due; the first one is at once."""

    def __init__(self) -> None:
        self._next_ns = 0

    def wait_s(self, now_ns: int) -> float:
        """How long until one is due, at most :data:`TICK_S`."""
        return min(max((self._next_ns - now_ns) / NS_PER_S, 0.0), TICK_S)

    def due(self, now_ns: int) -> bool:
        """Whether the clock ticks at ``now_ns``; the next tick is then :data:`TICK_S` later."""
        if now_ns < self._next_ns <= now_ns + 2 * _TICK_NS:
            return False
        self._next_ns = now_ns + _TICK_NS
        return True
