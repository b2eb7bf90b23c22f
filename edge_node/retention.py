"""Which files of the black box may stay. Pure.

A file is in the *ring* while it is young and the ring has room for it. What falls out of the ring stays if it is near an
alert, within bounds of its own; the rest goes. How old a file is, is reckoned in the time for which there has been a black
box since: neither a clock that is set nor a gateway that was off makes evidence old. Where the file system needs room, what
is near no alert goes first. In all of it the oldest goes before the newer.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from models.evidence import Mark
from models.signal import NS_PER_S

MAX_WHOLE_S = 3600.0  # an episode that lasted longer is kept around each of its messages only


class Removal(enum.StrEnum):
    """Why a file went. Closed: every ``reason`` of the counter is one of these."""

    HOURS = "hours"
    BYTES = "bytes"
    KEEP_DAYS = "keep_days"
    KEEP_BYTES = "keep_bytes"
    FREE_SPACE = "free_space"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much there may be, of the ring and of what is kept around alerts; and how far around."""

    ring_ns: int
    ring_bytes: int
    keep_ns: int
    keep_bytes: int
    before_ns: int
    after_ns: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Event time of a device that is to be kept, because of an alert."""

    alert_id: str
    device: str
    from_ns: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A file: ``number`` grows from file to file; ``first_ns`` and ``last_ns`` are of arrivals; ``ran_ns``: for how long there
    had been a black box when it ended; ``spans`` event time of the
    first and the last row, by device; ``marks`` the alerts that were said in it."""

    number: int
    n_bytes: int
    first_ns: int | None
    last_ns: int
    ran_ns: int
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    marks: Sequence[Mark] = ()
    n_raw_bytes: int = 0  # of the signal in it


class Wanted:
    """What is to be kept because of alerts, by device."""

    def __init__(self, stretches: Iterable[Stretch] = ()) -> None:
        self._by_device: dict[str, list[Stretch]] = {}
        for one in stretches:
            self._by_device.setdefault(one.device, []).append(one)

    def is_near(self, piece: Piece) -> bool:
        """Whether ``piece`` is near an alert."""
        return bool(piece.marks) or any(self._near(piece))

    def alerts_near(self, piece: Piece) -> list[str]:
        """The alerts that ``piece`` is kept for, each once: those said in it, and those whose stretch it has rows of."""
        found = dict.fromkeys(mark.alert_id for mark in piece.marks)
        found.update(dict.fromkeys(one.alert_id for one in self._near(piece)))
        return list(found)

    def _near(self, piece: Piece) -> Iterator[Stretch]:
        for device, (first, last) in piece.spans.items():
            for one in self._by_device.get(device, ()):
                if first < one.until_ns and last >= one.from_ns:
                    yield one


def stretch(mark: Mark, bounds: Bounds) -> Stretch:
    """What is to be kept because of ``mark``: its episode so far, or, if that has lasted long, what is around its end."""
    begin = mark.start_ns
    if mark.end_ns - mark.start_ns > MAX_WHOLE_S * NS_PER_S:
        begin = mark.end_ns
    return Stretch(mark.alert_id, mark.device, begin - bounds.before_ns, mark.end_ns + bounds.after_ns)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What stays, in the ring or because of alerts, and what goes and why; the oldest first."""

    ring: list[Piece]
    kept: list[Piece]
    gone: list[tuple[Piece, Removal]]


def judge(
    pieces: Sequence[Piece], wanted: Wanted, bounds: Bounds, ran_ns: int, lacking_bytes: int = 0
) -> Verdict:
    """What is to become of ``pieces`` (finished ones, the oldest first); ``ran_ns``: for how long there has been a black box;
    ``lacking_bytes``: how much more room is needed on the
    file system."""
    gone: dict[int, tuple[Piece, Removal]] = {}
    ring: list[Piece] = []
    near: list[Piece] = []
    n_bytes, is_full = 0, False
    for piece in reversed(pieces):
        young = ran_ns - piece.ran_ns <= bounds.ring_ns
        is_full |= n_bytes + piece.n_bytes > bounds.ring_bytes
        if young and not is_full:
            n_bytes += piece.n_bytes
            ring.append(piece)
        elif wanted.is_near(piece):
            near.append(piece)
        else:
            gone[piece.number] = (piece, Removal.BYTES if young else Removal.HOURS)
    kept: list[Piece] = []
    n_bytes, is_full = 0, False
    for piece in near:
        is_full |= n_bytes + piece.n_bytes > bounds.keep_bytes
        if ran_ns - piece.ran_ns > bounds.keep_ns:
            gone[piece.number] = (piece, Removal.KEEP_DAYS)
        elif is_full:
            gone[piece.number] = (piece, Removal.KEEP_BYTES)
        else:
            n_bytes += piece.n_bytes
            kept.append(piece)
    lacking_bytes -= sum(piece.n_bytes for piece, _ in gone.values())
    if lacking_bytes > 0:
        by_worth = sorted(ring, key=lambda piece: (wanted.is_near(piece), piece.number))
        n_plain = sum(not wanted.is_near(piece) for piece in by_worth)
        for piece in (*by_worth[:n_plain], *reversed(kept), *by_worth[n_plain:]):
            if lacking_bytes <= 0:
                break
            gone[piece.number] = (piece, Removal.FREE_SPACE)
            lacking_bytes -= piece.n_bytes
    return Verdict(
        [piece for piece in reversed(ring) if piece.number not in gone],
        [piece for piece in reversed(kept) if piece.number not in gone],
        [gone[number] for number in sorted(gone)],
    )
