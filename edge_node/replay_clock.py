"""The arrivals and ticks that a log of another program lacks: its rows as a gateway would have received them.

Strategy: every row arrives at its own event time, or at the latest event time before it where it is out of order;
where times were set back for good, arrivals go on at the rows' pace. While rows come the clock ticks coarsely, in
silences finely, and always at the instant at which a device becomes stale. Rows between two ticks go on in one piece;
where one stream is all there is and its signal is whole, a tick can change nothing (no silence, no window that the
next row would not close), and pieces are longer.

Invariant: which ticks there are, and between which rows, depends on the rows alone, never on how the log was cut
into blocks. So neither do the alerts. Pure.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.plans import DevicePlan
from models.logs import Tick
from models.signal import NS_PER_S, SampleBlock, samples_to_ns
from models.time_policy import to_ns

FINE_TICKS = 64  # in the shortest silence that makes a device stale
COARSE = 8  # fine ticks in a coarse one
MAX_SPAN_NS = 3600 * NS_PER_S
# Readers hand out the devices of up to 65,536 rows one after the other: more than that must be seen before the
# earliest is certain.
HELD_ROWS = 1 << 17
_NEVER = 1 << 63


@dataclass(frozen=True, slots=True)
class Timing:
    """``fine_ns``, ``coarse_ns``: the clock's steps; rows further apart than a coarse one have a silence between them.
    ``span_ns``: a piece of a whole signal spans no more. ``horizon_ns``: after so much silence nothing more happens.
    ``closing_ns``: by then after the last row its windows are closed and nothing is stale yet. ``stale_ns``: of each
    device. ``merge``: rows of several devices are put in order."""

    fine_ns: int
    coarse_ns: int
    span_ns: int
    horizon_ns: int
    closing_ns: int
    stale_ns: Mapping[str, int]
    merge: bool

    @classmethod
    def of(cls, plans: Sequence[DevicePlan], *, span_ns: int | None = None) -> Timing:
        """Ticks that suit the devices of ``plans``; ``span_ns`` for shorter pieces (a replay in real time)."""
        stale_ns = {plan.device.device_id: to_ns(plan.time.stale_after_s) for plan in plans}
        first_ns = min(stale_ns.values())
        latest = [to_ns(plan.time.lateness_s) + samples_to_ns(1, plan.window.rate_hz) + 1 for plan in plans]
        ends = [
            to_ns(plan.time.stale_after_s + plan.time.hold_s) + late + plan.window.window_ns
            for plan, late in zip(plans, latest, strict=True)
        ]
        fine_ns = max(1, first_ns // FINE_TICKS)
        coarse_ns = fine_ns * COARSE
        ages = [to_ns(plan.time.max_age_s) // 2 for plan in plans if plan.time.max_age_s is not None]
        span = coarse_ns if len(plans) > 1 else max(coarse_ns, min([MAX_SPAN_NS, *ages]))
        return cls(
            fine_ns=fine_ns,
            coarse_ns=coarse_ns,
            span_ns=span if span_ns is None else max(1, min(span, span_ns)),
            horizon_ns=max(ends) + 2 * coarse_ns,
            closing_ns=min(max(latest), max(first_ns - 1, 0)),
            stale_ns=stale_ns,
            merge=len(plans) > 1,
        )


def with_clock(
    blocks: Iterable[SampleBlock], timing: Timing, *, arrived: bool = False
) -> Iterator[SampleBlock | Tick]:
    """``blocks`` in the order of arrival, with ticks, as a recording of a live run would hold them.

    ``arrived``: the blocks' own arrivals are true (a recording without ticks), and each is one piece.
    """
    pieces = _given(blocks) if arrived else _cut(blocks, timing)
    if timing.merge and not arrived:
        pieces = _merged(pieces)
    clock = _Clock(timing)
    for piece in pieces:
        yield from clock.until(piece)
        yield piece.block
    yield from clock.closing()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A block of which the first row arrives at ``first_ns``; ``whole``: none of its values is missing."""

    block: SampleBlock
    first_ns: int
    whole: bool

    @property
    def last_ns(self) -> int:
        return self.block.arrival_ns


class _Clock:
    """Which ticks come between pieces."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._now_ns: int | None = None
        self._whole = True
        self._streams: set[tuple[str, tuple[str, ...]]] = set()
        self._due_ns: dict[str, int] = {}  # when each device becomes stale, unless heard before
        self._next_due_ns = _NEVER  # no later than the first of these

    def until(self, piece: _Piece) -> Iterator[Tick]:
        """The ticks before ``piece``."""
        t, now_ns, at_ns, block = self._timing, self._now_ns, piece.first_ns, piece.block
        if now_ns is None:
            now_ns = at_ns
        ticks = self._due(at_ns)
        if at_ns - now_ns > t.coarse_ns:
            last_ns = min(at_ns, now_ns + t.horizon_ns)
            ticks += [*_grid(now_ns, last_ns, t.fine_ns), at_ns]
        elif t.merge or len(self._streams) > 1 or not self._whole:
            ticks += _grid(now_ns, at_ns, t.coarse_ns)
        for tick_ns in sorted(set(ticks)):
            yield Tick(tick_ns)
        self._streams.add((block.device_id, block.channels))
        stale_ns = t.stale_ns.get(block.device_id)
        if stale_ns is not None:
            due_ns = self._due_ns[block.device_id] = piece.last_ns + stale_ns
            self._next_due_ns = min(self._next_due_ns, due_ns)
        self._now_ns = max(now_ns, piece.last_ns)
        self._whole = piece.whole

    def _due(self, at_ns: int) -> list[int]:
        if at_ns < self._next_due_ns:
            return []
        found = {device: due_ns for device, due_ns in self._due_ns.items() if due_ns <= at_ns}
        for device in found:
            del self._due_ns[device]
        self._next_due_ns = min(self._due_ns.values(), default=_NEVER)
        return list(found.values())

    def closing(self) -> Iterator[Tick]:
        """The tick after the last piece."""
        if self._now_ns is not None:
            yield Tick(self._now_ns + self._timing.closing_ns)


def _given(blocks: Iterable[SampleBlock]) -> Iterator[_Piece]:
    for block in blocks:
        if block.n:
            yield _Piece(block, block.arrival_ns, bool(np.isfinite(block.values).all()))


def _cut(blocks: Iterable[SampleBlock], timing: Timing) -> Iterator[_Piece]:
    """The rows of ``blocks`` with arrivals, in pieces."""
    streams: dict[tuple[str, tuple[str, ...]], _Stream] = {}
    for block in blocks:
        if not block.n:
            continue
        key = (block.device_id, block.channels)
        stream = streams.get(key)
        if stream is None:
            if len(streams) == 1:
                timing = dataclasses.replace(timing, span_ns=min(timing.span_ns, timing.coarse_ns))
                next(iter(streams.values())).timing = timing
            stream = streams[key] = _Stream(timing)
        yield from stream.take(block)
    for stream in streams.values():
        yield from stream.end()


@dataclass(slots=True)
class _Stream:
    """One device's rows on their way to pieces. Whether a row leaps out of order shows at the row after it, so one
    with a time of its own is held back until that is there."""

    timing: Timing
    held: SampleBlock | None = None
    arrivals: _Arrivals = field(init=False)
    time_ns: int | None = None  # of the row before

    def __post_init__(self) -> None:
        self.arrivals = _Arrivals(self.timing)

    def take(self, block: SampleBlock) -> Iterator[_Piece]:
        if block.time_ns is None:
            yield from self.end()
            yield from self._pieces(block, block.times())
            return
        if self.held is not None:
            if self.held.clock is block.clock:
                block = _joined(self.held, block)
            else:
                yield from self.end()
        self.held = block.slice(block.n - 1, block.n)
        if block.n == 1:
            return
        times = block.times()
        before = times[:1] if self.time_ns is None else np.array([self.time_ns])
        yield from self._pieces(block.slice(0, block.n - 1), _calm(np.concatenate((before, times))))

    def end(self) -> Iterator[_Piece]:
        """What is held back."""
        if self.held is not None:
            held, self.held = self.held, None
            yield from self._pieces(held, held.times())

    def _pieces(self, block: SampleBlock, calm: NDArray[np.int64]) -> Iterator[_Piece]:
        times = block.times()
        arrival = self.arrivals.of(calm)
        punctual = arrival == times
        finite = np.isfinite(block.values)
        whole = np.logical_and.reduce(finite, axis=1)
        coarse, span = self.timing.coarse_ns, self.timing.span_ns
        steps = np.diff(arrival)
        edge = (np.diff(punctual) | (~punctual[1:] & (steps > 0))) | (steps > coarse)
        edge |= np.diff(arrival // span) != 0
        if not whole.all():
            edge |= (finite[1:] != finite[:-1]).any(axis=1)
            edge |= ~whole[1:] & (np.diff(arrival // coarse) != 0)
        bounds = [0, *(np.flatnonzero(edge) + 1).tolist(), block.n]
        for i, j in pairwise(bounds):
            piece = msgspec.structs.replace(block.slice(i, j), arrival_ns=int(arrival[j - 1]))
            yield _Piece(piece, int(arrival[i]), bool(whole[i]))
        self.time_ns = int(times[-1])


class _Arrivals:
    """When rows arrive whose times, less single leaps, are known."""

    def __init__(self, timing: Timing) -> None:
        self._step_ns = timing.coarse_ns
        self._back_ns = timing.fine_ns * FINE_TICKS
        self._time_ns: int | None = None  # of the row before
        self._newest_ns = 0
        self._passed_ns = 0  # since times were set back
        self._arrival_ns = 0

    def of(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Arrivals int64[n], never falling, of rows at ``times`` int64[n]."""
        if self._time_ns is None:
            self._time_ns = self._newest_ns = self._arrival_ns = int(times[0])
        newest = np.maximum(np.maximum.accumulate(times), self._newest_ns)
        steps = np.diff(times, prepend=self._time_ns)
        # Further back than a row may be late: the clock was set back, and goes on from there.
        back = (times < newest - self._back_ns) & (steps > 0) & (steps <= self._step_ns)
        passed = self._passed_ns + np.cumsum(np.where(back, steps, 0))
        # arrival[i] = max(times[i], arrival[i - 1] + what passed), in whole steps where that is made up
        ahead = np.maximum(np.maximum.accumulate(times - passed), self._arrival_ns - self._passed_ns)
        raw: NDArray[np.int64] = np.maximum(ahead + passed, self._arrival_ns)
        self._time_ns, self._newest_ns = int(times[-1]), int(newest[-1])
        self._passed_ns, self._arrival_ns = int(passed[-1]), int(raw[-1])
        made_up = raw > newest
        whole_steps = np.maximum(raw // self._step_ns * self._step_ns, newest)
        return np.where(made_up, whole_steps, raw)


def _merged(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Pieces of several devices by their first arrival: when one comes, all rows that arrived before it have come."""
    held: list[tuple[int, int, _Piece]] = []
    n_held = 0
    for number, piece in enumerate(pieces):
        heapq.heappush(held, (piece.first_ns, number, piece))
        n_held += piece.block.n
        while n_held > HELD_ROWS:
            yield (earliest := heapq.heappop(held)[-1])
            n_held -= earliest.block.n
    while held:
        yield heapq.heappop(held)[-1]


def _grid(after_ns: int, until_ns: int, step_ns: int) -> list[int]:
    """Multiples of ``step_ns`` in (after, until]."""
    return [i * step_ns for i in range(after_ns // step_ns + 1, until_ns // step_ns + 1)]


def _calm(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows 1 to n - 2 of ``times`` int64[n], each that leaps out of its neighbours' order brought between them."""
    a, b, c = times[:-2], times[1:-1], times[2:]
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def _joined(a: SampleBlock, b: SampleBlock) -> SampleBlock:
    return msgspec.structs.replace(
        b, values=np.concatenate((a.values, b.values)), time_ns=np.concatenate((a.times(), b.times()))
    )
