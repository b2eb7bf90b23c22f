"""Event time: blocks of samples in, closed windows out. The rules, with pictures, are in docs/windowing.md.

Strategy: a block is taken apart into streams (the channels that arrive together), each put where its own
event time says, by sample index (``models.joining``, ``models.bursts``) or on a grid (``models.resampling``).
Whatever is done is what a reading row by row would do, so windows are bit-identical however a signal is cut
into blocks.

Invariants: ``n_samples_in == n_windowed + sum(sample_drops.values())`` between any two calls; memory does not
depend on how long the stream is, nor on what its clock does, only on window, lateness and the largest block
(whose windows wait to be taken). Pure: arrival times and the clock are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bursts import Bursts, BurstState
from models.joining import Join, JoinState
from models.ledger import Ledger, LedgerState
from models.resampling import Grid, GridState
from models.signal import NS_PER_S, Device, DropReason, Mode, SampleBlock, WindowBatch, WindowSpec
from models.time_policy import TimePolicy, default_policy, to_ns

__all__ = ["ClockEvent", "TimePolicy", "Windower", "default_policy"]

_MAX_PLANS = 64
_FOR_EVER = 1 << 62


class ClockEvent(msgspec.Struct, frozen=True):
    """A device's event time began anew: the newest sample was at ``at_ns``, what follows starts at
    ``to_ns``."""

    kind: Literal["restart"]
    at_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class _Part:
    """Columns of a block that go to one stream."""

    columns: tuple[int, ...]  # the stream's channels, as places among the device's
    source: list[int] | None  # where they are in the block; None: just so
    target: list[int] | None  # where they go in the stream; None: all of it


@dataclass(frozen=True, slots=True)
class _Plan:
    parts: tuple[_Part, ...]
    n_known: int
    n_unknown: int


class _State(msgspec.Struct, frozen=True):
    of: str
    ledger: LedgerState
    streams: list[tuple[int, ...]]
    last_event_ns: int | None
    last_arrival_ns: int | None
    now_ns: int | None
    heard_ns: list[int]
    clock_events: list[ClockEvent]
    join: JoinState | None
    bursts: BurstState | None
    grid: GridState | None


class Windower:
    """Windows of one device. ``push`` blocks, ``advance`` the clock, ``take`` what closed."""

    def __init__(self, device: Device, spec: WindowSpec, policy: TimePolicy) -> None:
        self.device, self.spec, self.policy = device, spec, policy
        self.last_event_ns: int | None = None
        self.last_arrival_ns: int | None = None
        self._places = {name: i for i, name in enumerate(device.channel_names)}
        self._ledger = Ledger(device.device_id, spec.n, policy.min_valid)
        self._rate = spec.rate_hz
        self._num, self._period = spec.rate_hz.numerator, NS_PER_S * spec.rate_hz.denominator
        self._max_future_ns = to_ns(policy.max_future_s)
        self._max_age_ns = _FOR_EVER if policy.max_age_s is None else to_ns(policy.max_age_s)
        self._stale_ns = to_ns(policy.stale_after_s)
        self._streams: list[tuple[int, ...]] = []
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._now_ns: int | None = None
        self._heard_ns = np.zeros(
            len(self._places), np.int64
        )  # per channel, arrival of its last usable value
        self._clock_events: list[ClockEvent] = []
        self._engine = self._new_engine()

    @property
    def n_samples_in(self) -> int:
        return self._ledger.n_samples_in

    @property
    def n_windowed(self) -> int:
        """Samples that were filed for windows."""
        return self._ledger.n_windowed

    @property
    def sample_drops(self) -> dict[DropReason, int]:
        return self._ledger.sample_drops

    @property
    def n_closed(self) -> int:
        """Windows that came into being and closed, those in ``window_drops`` included."""
        return self._ledger.n_closed

    @property
    def window_drops(self) -> dict[DropReason, int]:
        return self._ledger.window_drops

    def push(self, block: SampleBlock) -> None:
        """Files every sample of ``block``, or counts why not. Any block is taken: none raises."""
        ledger = self._ledger
        ledger.n_samples_in += block.n_samples
        if block.device_id != self.device.device_id:
            ledger.drop(DropReason.UNKNOWN_DEVICE, block.n_samples)
            return
        if not block.n_samples:
            return
        self._tick(block.arrival_ns)
        plan = self._plans.get(block.channels) or self._plan(block.channels)
        ledger.drop(DropReason.UNKNOWN_CHANNEL, block.n * plan.n_unknown)
        if not plan.parts:
            return
        if block.time_ns is not None or self.spec.mode is Mode.IRREGULAR:
            self._push_timed(block, plan)
        elif block.rate_hz is not self._rate and block.rate_hz != self._rate:
            ledger.drop(DropReason.WRONG_RATE, block.n * plan.n_known)
        else:
            self._push_uniform(block, plan)

    def advance(self, now_ns: int) -> None:
        """The gateway's clock reads ``now_ns``. Event time goes on with it once a device is silent: an
        irregular one at once, a burst's record after ``lateness_s``, a continuous one after
        ``stale_after_s``."""
        self._tick(now_ns)
        if self.last_arrival_ns is None:
            return
        elapsed_ns = now_ns - int(self._heard_ns.max())
        if elapsed_ns > 0 and (self.spec.mode is not Mode.CONTINUOUS or elapsed_ns >= self._stale_ns):
            self._engine.silence(elapsed_ns)

    def resume(self, now_ns: int) -> None:
        """After a restore: silence counts from ``now_ns``, not from before the daemon stopped."""
        self._now_ns = now_ns
        self._heard_ns[:] = now_ns

    @property
    def stale(self) -> bool:
        """Whether some channel has brought no usable value for ``stale_after_s``."""
        return self._now_ns is not None and bool((self._now_ns - self._heard_ns >= self._stale_ns).any())

    @property
    def stale_channels(self) -> tuple[str, ...]:
        """The silent channels, in the device's order."""
        if not self.stale:
            return ()
        assert self._now_ns is not None
        silent = self._now_ns - self._heard_ns >= self._stale_ns
        return tuple(name for name, i in self._places.items() if silent[i])

    def take(self) -> list[WindowBatch]:
        """Windows closed since the last take, oldest first (anew after each restart), each with ``min_valid``
        on every channel."""
        return self._ledger.take()

    def take_clock_events(self) -> list[ClockEvent]:
        """Restarts of event time since the last call."""
        events, self._clock_events = self._clock_events, []
        return events

    def snapshot(self) -> bytes:
        """All state as bytes, buffers and untaken windows included."""
        engine = self._engine
        state = _State(
            self._identity(),
            self._ledger.state(),
            self._streams,
            self.last_event_ns,
            self.last_arrival_ns,
            self._now_ns,
            self._heard_ns.tolist(),
            self._clock_events,
            engine.state() if isinstance(engine, Join) else None,
            engine.state() if isinstance(engine, Bursts) else None,
            engine.state() if isinstance(engine, Grid) else None,
        )
        return msgspec.msgpack.encode(state)

    def restore(self, state: bytes) -> None:
        """The inverse of :meth:`snapshot`. Raises ValueError when ``state`` is damaged or of another device
        or window."""
        saved = msgspec.msgpack.decode(state, type=_State)
        if saved.of != self._identity():
            raise ValueError(f"the state is of {saved.of}, not of {self._identity()}")
        self._ledger.restore(saved.ledger)
        self._streams, self._plans = list(saved.streams), {}
        self.last_event_ns, self.last_arrival_ns = saved.last_event_ns, saved.last_arrival_ns
        self._now_ns, self._heard_ns = saved.now_ns, np.array(saved.heard_ns, np.int64)
        self._clock_events = list(saved.clock_events)
        self._engine = engine = self._new_engine()
        if isinstance(engine, Join) and saved.join is not None:
            engine.restore(saved.join)
        elif isinstance(engine, Bursts) and saved.bursts is not None:
            engine.restore(saved.bursts)
        elif isinstance(engine, Grid) and saved.grid is not None:
            engine.restore(saved.grid)

    def _identity(self) -> str:
        spec = self.spec
        names = ",".join(self.device.channel_names)
        return f"{self.device.device_id}[{names}] {spec.mode} {spec.n}/{spec.hop} at {spec.rate_hz} Hz"

    def _new_engine(self) -> Join | Bursts | Grid:
        kind = {Mode.CONTINUOUS: Join, Mode.BURST: Bursts, Mode.IRREGULAR: Grid}[self.spec.mode]
        engine: Join | Bursts | Grid = kind(self.spec, self.policy, len(self._places), self._ledger)
        return engine

    def _tick(self, now_ns: int) -> None:
        if self._now_ns is None:
            self._heard_ns[:] = now_ns  # silence counts from the first sign of life of the gateway
        self._now_ns = now_ns

    def _plan(self, channels: tuple[str, ...]) -> _Plan:
        """Which columns of a block go to which stream. A channel belongs to the stream that first brought
        it."""
        source: dict[int, int] = {}
        for i, name in enumerate(channels):
            if name in self._places:
                source.setdefault(self._places[name], i)
        parts: list[_Part] = []
        if self.spec.mode is Mode.IRREGULAR:
            wanted = [tuple(source)] if source else []
        else:
            owned = {c for stream in self._streams for c in stream}
            new = tuple(sorted(set(source) - owned))
            if new:
                self._streams.append(new)
            wanted = [stream for stream in self._streams if not source.keys().isdisjoint(stream)]
        for stream in wanted:
            present = [c for c in stream if c in source]
            taken = [source[c] for c in present]
            whole = taken == list(range(len(channels)))
            target = None if len(present) == len(stream) else [stream.index(c) for c in present]
            parts.append(_Part(stream, None if whole else taken, target))
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        plan = _Plan(tuple(parts), len(source), len(channels) - len(source))
        self._plans[channels] = plan
        return plan

    def _push_uniform(self, block: SampleBlock, plan: _Plan) -> None:
        assert block.start_ns is not None
        start_ns, n, num, period = block.start_ns, block.n, self._num, self._period
        latest_ns = block.arrival_ns + self._max_future_ns
        earliest_ns = block.arrival_ns - self._max_age_ns
        last_ns = start_ns + (n - 1) * period // num
        first, end = 0, n
        if last_ns > latest_ns:
            end = min(n, max(0, ((latest_ns - start_ns + 1) * num - 1) // period + 1))
            self._ledger.drop(DropReason.FUTURE, (n - end) * plan.n_known)
        if start_ns < earliest_ns:
            first = min(end, -(-(earliest_ns - start_ns) * num // period))
            self._ledger.drop(DropReason.TOO_OLD, first * plan.n_known)
        if first == end:
            return
        values = block.values
        if end - first < n:
            values = values[first:end]
            start_ns += first * period // num
            last_ns = block.start_ns + (end - 1) * period // num
        self._saw(last_ns, block.arrival_ns)
        for part in plan.parts:
            rows, n_present = _columns(values, part)
            n_bad = self._ledger.sample_drops.get(DropReason.NOT_FINITE, 0)
            self._feed(part.columns, start_ns, rows, n_present, block.arrival_ns)
            self._heard(part, rows, n_bad, block.arrival_ns)

    def _feed(
        self,
        columns: tuple[int, ...],
        t_ns: int,
        rows: NDArray[np.float32],
        n_present: int,
        arrival_ns: int,
        timed: bool = False,
        last_ns: int | None = None,
    ) -> None:
        engine = self._engine
        assert not isinstance(engine, Grid)
        while not engine.push(
            columns,
            t_ns,
            rows,
            n_present=n_present,
            timed=timed,
            last_ns=last_ns,
            arrival_ns=arrival_ns,
        ):
            restarted = self._restart(t_ns)
            assert not isinstance(restarted, Grid)
            engine = restarted

    def _push_timed(self, block: SampleBlock, plan: _Plan) -> None:
        times, values = block.times(), block.values
        future = times > block.arrival_ns + self._max_future_ns
        old = times < block.arrival_ns - self._max_age_ns
        usable = ~(future | old)
        if not usable.all():
            self._ledger.drop(DropReason.FUTURE, int(future.sum()) * plan.n_known)
            self._ledger.drop(DropReason.TOO_OLD, int(old.sum()) * plan.n_known)
            times, values = times[usable], values[usable]
            if not len(times):
                return
        self._saw(int(times.max()), block.arrival_ns)
        for part in plan.parts:
            rows, n_present = _columns(values, part)
            n_bad = self._ledger.sample_drops.get(DropReason.NOT_FINITE, 0)
            if isinstance(self._engine, Grid):
                self._feed_grid(list(part.columns), times, rows, block.arrival_ns)
            else:
                self._feed_rows(part.columns, times, rows, n_present, block.arrival_ns)
            self._heard(part, rows, n_bad, block.arrival_ns)

    def _feed_grid(
        self, columns: list[int], times: NDArray[np.int64], rows: NDArray[np.float32], arrival_ns: int
    ) -> None:
        breaks = np.flatnonzero(np.diff(times) <= 0) + 1
        starts = [0, *breaks.tolist(), len(times)]
        for start, end in pairwise(starts):
            while start < end:
                engine = self._engine
                assert isinstance(engine, Grid)
                run = slice(start, end)
                start += engine.push(columns, times[run], rows[run], arrival_ns=arrival_ns)
                if start < end:
                    self._restart(int(times[start]))

    def _feed_rows(
        self,
        columns: tuple[int, ...],
        times: NDArray[np.int64],
        rows: NDArray[np.float32],
        n_present: int,
        arrival_ns: int,
    ) -> None:
        """Rows with times of their own on a uniform device: each follows the one before if it is one period
        later, within the jitter. Runs that do, and stay by the grid, go in one piece; it is what row by row
        would give."""
        n = len(times)
        follows = self._follows(times)
        i = 0
        while i < n:
            self._feed(columns, int(times[i]), rows[i : i + 1], n_present, arrival_ns, timed=True)
            i += 1
            if i == n or not follows[i]:
                continue
            assert not isinstance(self._engine, Grid)
            error = self._engine.error(columns)
            if error is None:
                continue
            broken = np.flatnonzero(~follows[i:])
            end = i + int(broken[0]) if len(broken) else n
            steps = (times[i:end] - times[i - 1]).astype(np.float64) * (self._num / self._period)
            walk = error / self._period + steps - np.arange(1, end - i + 1)
            outside = np.flatnonzero(np.abs(walk) > 0.999)
            end = i + int(outside[0]) if len(outside) else end
            if end > i:
                last_ns = int(times[end - 1])
                piece = rows[i:end]
                self._feed(columns, int(times[i]), piece, n_present, arrival_ns, timed=True, last_ns=last_ns)
                i = end

    def _follows(self, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        period_ns = self._period / self._num
        jitter_ns = max(to_ns(self.policy.jitter_s), 2)
        steps = np.diff(times, prepend=times[0]).astype(np.float64)
        follows: NDArray[np.bool_] = (steps > 0) & (np.abs(steps - period_ns) <= jitter_ns)
        return follows

    def _saw(self, event_ns: int, arrival_ns: int) -> None:
        if self.last_event_ns is None or event_ns > self.last_event_ns:
            self.last_event_ns = event_ns
        self.last_arrival_ns = arrival_ns

    def _heard(self, part: _Part, rows: NDArray[np.float32], n_bad_before: int, arrival_ns: int) -> None:
        columns = part.columns if part.target is None else tuple(part.columns[i] for i in part.target)
        if self._ledger.sample_drops.get(DropReason.NOT_FINITE, 0) > n_bad_before:
            usable = np.logical_or.reduce(np.isfinite(rows), axis=0)
            columns = tuple(c for i, c in enumerate(part.columns) if usable[i])
        self._heard_ns[list(columns)] = arrival_ns

    def _restart(self, to_ns: int) -> Join | Bursts | Grid:
        assert self.last_event_ns is not None
        self._engine.finish()
        self._clock_events.append(ClockEvent("restart", self.last_event_ns, to_ns))
        self.last_event_ns = to_ns
        self._engine = self._new_engine()
        return self._engine


def _columns(values: NDArray[np.float32], part: _Part) -> tuple[NDArray[np.float32], int]:
    """The part's rows float32[n, len(columns)], NaN where the block lacks a channel, and how many it has."""
    if part.source is not None:
        values = values[:, part.source]
    if part.target is None:
        return values, len(part.columns)
    wide = np.full((len(values), len(part.columns)), np.nan, np.float32)
    wide[:, part.target] = values
    return wide, len(part.target)
