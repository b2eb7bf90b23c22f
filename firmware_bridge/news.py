"""What happens to a line that is followed, and how it stands. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_bridge.protocol import Hello
from firmware_bridge.session_items import Item, SessionCounters


@dataclass(frozen=True, slots=True)
class Opened:
    path: str
    mono_ns: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The port is not there, or no longer."""

    why: str


@dataclass(frozen=True, slots=True)
class Came:
    """What one read completed."""

    item: Item
    mono_ns: int


News = Opened | Gone | Came


@dataclass(frozen=True, slots=True)
class Standing:
    """How a line stands: counters since the beginning."""

    counters: SessionCounters
    hello: Hello | None
    error_ns: float | None
    skew_ppm: float | None
    path: str | None
    n_opens: int
    n_dropped_rows: int  # nobody took them in time,
    n_dropped_news: int  # nor these, of anything else
    n_unsent: int  # frames that the board did not take
