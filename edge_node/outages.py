"""Which sources have been in trouble for so long that somebody should know. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from edge_node.sources import Reach

OUTAGE_S = 60.0  # a broker that is restarted is back before


class Outages:
    """Of sources by name, as they are asked from time to time."""

    def __init__(self, after_s: float = OUTAGE_S) -> None:
        self._after_s = after_s
        self._since_s: dict[str, float] = {}

    def step(self, reach: Mapping[str, Reach], monotonic_s: float) -> dict[str, str]:
        """What is wrong, by source, where something has been for ``after_s``. Nothing is wrong with a source that has
        come to its end, or connects for the first time."""
        errors = {name: source.last_error for name, source in reach.items() if source.last_error is not None}
        self._since_s = {name: self._since_s.get(name, monotonic_s) for name in errors}
        return {
            name: f"source {name} has been in trouble for {self._after_s:g} s: {error}"
            for name, error in errors.items()
            if monotonic_s - self._since_s[name] >= self._after_s
        }
