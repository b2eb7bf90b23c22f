"""A recorded log through the core that the daemon runs: what a live run of the same signal would have said.

Strategy: a recording of ours holds what the pipeline was given, ticks included, and is given again as it is; a log of
another program first gets the arrivals and ticks that it lacks (``replay_clock``). Windows wait for their scores
until there are enough for a large batch, which changes nothing: what the pipeline says does not depend on when its
scores come. Invariant: steps, and all in them, are the same in every replay of a log.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_node.assembly import MAX_WINDOWS_AT_ONCE, Core
from edge_node.portions import Portion
from edge_node.replay_clock import Timing, with_clock
from edge_node.settling import Trace
from models.acceptance import Acceptance
from models.logs import LogError, LogItem, Tick
from models.messages import Alert
from models.recording import is_block_log, log_files
from models.signal import NS_PER_S, Clock, SampleBlock

MAX_WAITING_VALUES = 1 << 22  # of the windows of one device that wait for their scores: 16 MB
PACED_PIECE_S = 0.05  # of wall time
_LOOK_AHEAD_NS = 60 * NS_PER_S  # a recording that has ticks has one by then
_LOOK_AHEAD_ITEMS = 10_000
_ANY = 1 << 63

Pace = Callable[[int], None]
Item = LogItem


@dataclass(frozen=True, slots=True)
class Step:
    """What came out since the last one: alerts in the order of their ends (each device's in its own), scores."""

    alerts: list[Alert]
    traces: list[Trace]


class RealTime:
    """Holds a replay back to ``speed`` times real time, by arrivals."""

    def __init__(
        self,
        speed: float,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._speed = speed
        self._now_s = now_s
        self._sleep = sleep
        self._began: tuple[float, int] | None = None

    def __call__(self, arrival_ns: int) -> None:
        """Returns when what arrives at ``arrival_ns`` is due."""
        if self._began is None:
            self._began = (self._now_s(), arrival_ns)
        began_s, first_ns = self._began
        wait_s = began_s + (arrival_ns - first_ns) / NS_PER_S / self._speed - self._now_s()
        if wait_s > 0:
            self._sleep(wait_s)


def is_recording(paths: Sequence[Path | str]) -> bool:
    """Whether the logs are recordings of ours, with arrivals of their own; LogError where only some are."""
    files = log_files(paths)
    kinds = [is_block_log(file) for file in files]
    if any(kinds) and not all(kinds):
        raise LogError(
            files[kinds.index(False)],
            "is no recording of edge-node, and other logs are",
            remedy="replay the two kinds one after the other",
        )
    return all(kinds)


def ticks_within(
    items: Iterable[Item], *, n_rows: int | None = None, until_ns: int | None = None
) -> Iterator[Item]:
    """``items`` of a part of a log, without the ticks and acceptances before its first row, from ``until_ns`` on, and after
    every device has had its ``n_rows``: no device is silent there, it was only not asked for."""
    rows: dict[str, int] = {}
    for item in items:
        if isinstance(item, Tick | Acceptance):
            now_ns = item.now_ns if isinstance(item, Tick) else item.arrival_ns
            ended = until_ns is not None and now_ns >= until_ns
            had_all = n_rows is not None and all(n >= n_rows for n in rows.values())
            if not rows or ended or had_all:
                continue
        else:
            rows[item.device_id] = rows.get(item.device_id, 0) + item.n
        yield item


def as_received(
    items: Iterable[Item], core: Core, *, recorded: bool, speed: float | None = None
) -> Iterator[Item]:
    """What the pipeline is to be given, in that order. ``recorded``: the arrivals in ``items`` are true."""
    stream = iter(items)
    if recorded:
        seen, ticking = _look_ahead(stream)
        stream = itertools.chain(seen, stream)
        if ticking:
            return stream
    span_ns = None if speed is None else max(1, round(PACED_PIECE_S * speed * NS_PER_S))
    timing = Timing.of(core.plans, span_ns=span_ns)
    blocks = (item for item in stream if isinstance(item, SampleBlock))
    return with_clock(blocks, timing, arrived=recorded)


def play(items: Iterable[Item], core: Core, *, recorded: bool, pace: Pace | None = None) -> Iterator[Step]:
    """Every item through ``core``, whose scores are traced; ends with the end of the signal. ``pace`` is asked before
    each item, and everything is scored at once. Unless ``recorded``, a device that the log has nothing of yet is not
    said to be stale: it is not the log that fell silent."""
    core.pipeline.trace_scores()
    waiting = _Waiting(core)
    unheard = None if recorded else _Unheard()
    for item in items:
        if pace is not None:
            pace(item.now_ns if isinstance(item, Tick) else item.arrival_ns)
        if isinstance(item, Tick):
            if pace is not None or waiting.has_much:
                yield from _step(core, waiting, unheard)
            core.pipeline.advance(item.now_ns)
        elif isinstance(item, Acceptance):
            core.pipeline.accept(item)
            yield from _step(core, waiting, unheard)
        else:
            if unheard is not None:
                unheard.heard(item)
            for piece in waiting.pieces(item):
                if not waiting.has_room_for(piece):
                    yield from _step(core, waiting, unheard)
                waiting.add(piece)
                core.pipeline.push(piece)
        if pace is not None:
            yield from _step(core, waiting, unheard)
    yield from _step(core, waiting, unheard)
    core.pipeline.finish()
    yield from _step(core, waiting, unheard)


class _Waiting:
    """How much of each device was pushed since the last scoring, and of what clock."""

    def __init__(self, core: Core) -> None:
        self._portions = {}
        for plan in core.plans:
            n_windows = MAX_WAITING_VALUES // (plan.window.n * len(plan.device.channels))
            n_windows = max(1, min(n_windows, MAX_WINDOWS_AT_ONCE))
            self._portions[plan.device.device_id] = Portion.of(plan, n_windows)
        self._sizes: dict[str, int] = {}
        self._clocks: dict[str, Clock] = {}
        self.has_much = False  # worth a batch

    def pieces(self, block: SampleBlock) -> Sequence[SampleBlock]:
        portion = self._portions.get(block.device_id)
        return (block,) if portion is None else portion.cut(block)

    def has_room_for(self, piece: SampleBlock) -> bool:
        """Whether ``piece`` may be pushed before what waits is scored."""
        # An alert says what clock its windows had: those of another, also such as time alone has closed, are settled first.
        if self._clocks.get(piece.device_id, piece.clock) is not piece.clock:
            return False
        waiting = self._sizes.get(piece.device_id, 0)
        portion = self._portions.get(piece.device_id)
        return not waiting or portion is None or waiting + portion.size(piece) <= portion.most

    def add(self, piece: SampleBlock) -> None:
        self._clocks[piece.device_id] = piece.clock
        if (portion := self._portions.get(piece.device_id)) is not None and piece.n:
            size = self._sizes[piece.device_id] = self._sizes.get(piece.device_id, 0) + portion.size(piece)
            self.has_much |= 2 * size >= portion.most

    def clear(self) -> None:
        self._sizes.clear()
        self.has_much = False


class _Unheard:
    """Recognises what is said about the silence of devices before they were first heard."""

    def __init__(self) -> None:
        self._first_ns: dict[str, int] = {}
        self._alert_ids: set[str] = set()

    def heard(self, block: SampleBlock) -> None:
        if block.device_id not in self._first_ns:
            self._first_ns[block.device_id] = int(block.times().min())

    def concerns(self, alert: Alert) -> bool:
        if alert.kind != "stale":
            return False
        if alert.state == "raised" and alert.start_ns < self._first_ns.get(alert.device, _ANY):
            self._alert_ids.add(alert.alert_id)
        return alert.alert_id in self._alert_ids


def _step(core: Core, waiting: _Waiting, unheard: _Unheard | None) -> Iterator[Step]:
    waiting.clear()
    core.score()
    alerts = [event.event for event in core.pipeline.events() if isinstance(event.event, Alert)]
    if unheard is not None:
        alerts = [alert for alert in alerts if not unheard.concerns(alert)]
    traces = core.pipeline.take_traces()
    if alerts or traces:
        yield Step(_by_end(alerts), traces)


def _by_end(alerts: Sequence[Alert]) -> list[Alert]:
    latest: dict[str, int] = {}
    keyed: list[tuple[int, Alert]] = []
    for alert in alerts:
        end_ns = latest[alert.device] = max(latest.get(alert.device, 0), alert.end_ns)
        keyed.append((end_ns, alert))
    return [alert for _, alert in sorted(keyed, key=lambda pair: pair[0])]


def _look_ahead(items: Iterator[Item]) -> tuple[list[Item], bool]:
    """The first items, and whether a tick is among them."""
    seen: list[Item] = []
    first_ns: int | None = None
    for item in items:
        seen.append(item)
        if isinstance(item, Tick):
            return seen, True
        first_ns = item.arrival_ns if first_ns is None else first_ns
        if item.arrival_ns - first_ns > _LOOK_AHEAD_NS or len(seen) >= _LOOK_AHEAD_ITEMS:
            break
    return seen, False
