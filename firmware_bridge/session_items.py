"""What a session makes of a line: rows, and what there is to say of them. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from firmware_bridge.protocol import Ack, Counts, Event, Hello, Refusal
from models.signal import Clock


class Rows(msgspec.Struct, frozen=True, eq=False):
    """Consecutive rows of one configuration: ``counts`` [n, c] as sent. ``start_ns``: UTC of the first; with an
    irregular board ``time_ns`` int64[n] is each row's. ``error_ns``: how far that may be off; None: not known.
    ``index``: number of the first row, modulo 2^32; ``device_us``: what the board's clock, unwrapped, read then."""

    hello: Hello
    counts: Counts
    start_ns: int
    time_ns: NDArray[np.int64] | None
    arrival_ns: int
    clock: Clock
    error_ns: float | None
    index: int
    device_us: int

    def to_si(self) -> NDArray[np.float64]:
        """The values float64[n, c] in the units that the Hello names."""
        channels = self.hello.channels
        scale = np.array([channel.scale for channel in channels])
        values: NDArray[np.float64] = self.counts * scale + np.array([c.offset for c in channels])
        return values


@dataclass(frozen=True, slots=True)
class Lost:
    """Rows that the board sent and nobody got, before the next :class:`Rows`."""

    n_rows: int
    n_channels: int


@dataclass(frozen=True, slots=True)
class Greeting:
    """A Hello, and whether it is the first of a new configuration or boot."""

    hello: Hello
    new: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The board's clock is off by ``off_us``: it began anew, or ``was_set``, as exchanges say, while all else went on."""

    off_us: int
    was_set: bool = False

    @property
    def text(self) -> str:
        if not self.was_set:
            return "the board's clock began anew"
        way = "ahead" if self.off_us > 0 else "back"
        return f"the board's clock was set {way} by {abs(self.off_us) / 1000:.0f} ms"


@dataclass(frozen=True, slots=True)
class Logged:
    """An Event of the board, with its UTC."""

    event: Event
    at_ns: int


Item = Rows | Lost | Greeting | Reset | Logged | Ack | Refusal


@dataclass(slots=True)
class SessionCounters:
    n_bytes: int = 0
    n_frames: int = 0
    n_rows: int = 0
    n_lost_frames: int = 0
    n_lost_rows: int = 0
    n_repeated_rows: int = 0
    n_unexplained_rows: int = 0  # no Hello came for them in time
    n_resets: int = 0
    n_set: int = 0  # of them, clocks that were set while the board went on
    n_clock_steps: int = 0  # of the host
    n_asked: int = 0  # for the time,
    n_exchanges: int = 0  # and answered
    damage: Counter[str] = field(default_factory=Counter)  # framing.Damage and protocol.Cause
