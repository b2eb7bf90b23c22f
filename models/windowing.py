"""Event time: blocks of samples in, closed windows out. The rules, with pictures, are in docs/windowing.md.

Strategy: a block is taken apart into streams (``models.streams``: channels that arrive together), and
``models.timeline`` puts its rows where their event time says: by sample index (``models.joining``,
``models.bursts``) or on a grid (``models.resampling``). Whatever is done is what reading row by row would do,
so windows are bit-identical however a signal is cut into blocks.

Invariants: ``n_samples_in == n_windowed + sum(sample_drops.values())`` between any two calls; memory does not
depend on how long the stream is, nor on what its clock does, only on window, lateness and the largest block
(whose windows wait to be taken). Pure: arrival times and the clock are arguments.
"""

from __future__ import annotations

from fractions import Fraction

import msgspec

from models.hearing import Hearing, last_usable
from models.ledger import Ledger, LedgerState
from models.signal import NS_PER_S, Clock, Device, DropReason, Mode, SampleBlock, WindowBatch, WindowSpec
from models.streams import Plan, Streams
from models.time_policy import TimePolicy, default_policy, to_ns
from models.timeline import ClockEvent, Timeline, TimelineState

__all__ = ["ClockEvent", "TimePolicy", "Windower", "default_policy"]

_FOR_EVER = 1 << 62


class _State(msgspec.Struct, frozen=True):
    of: str
    ledger: LedgerState
    timeline: TimelineState
    streams: list[tuple[int, ...]]
    last_arrival_ns: int | None
    now_ns: int | None
    heard_ns: list[int]
    said_ns: list[int | None] = []


class Windower:
    """Windows of one device. ``push`` blocks, ``advance`` the clock, ``take`` what closed."""

    def __init__(self, device: Device, spec: WindowSpec, policy: TimePolicy) -> None:
        self.device, self.spec, self.policy = device, spec, policy
        self.last_arrival_ns: int | None = None
        names = device.channel_names
        self._device_id = device.device_id
        self._ledger = Ledger(device.device_id, spec.n, policy.min_valid)
        self._streams = Streams(names, joined=spec.mode is Mode.IRREGULAR)
        self._timeline = Timeline(spec, policy, len(names), self._ledger)
        self._rate = spec.rate_hz
        self._known_rate: Fraction | None = spec.rate_hz  # equal to it, as the last block had it
        self._num, self._period = spec.rate_hz.numerator, NS_PER_S * spec.rate_hz.denominator
        self._max_future_ns = to_ns(policy.max_future_s)
        self._max_age_ns = _FOR_EVER if policy.max_age_s is None else to_ns(policy.max_age_s)
        self._stale_ns = to_ns(policy.stale_after_s)
        self._now_ns: int | None = None
        self._n_channels = len(names)
        self._plain: tuple[str, ...] | None = (
            None  # channels of a block that is all there is, as the last one had them
        )
        self._hearing = Hearing(len(names))
        self._plain_last_ns = 0  # event time of the last row of the block that _follows took

    @property
    def last_event_ns(self) -> int | None:
        """Event time of the newest sample."""
        return self._timeline.newest_ns

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
        self._timeline.catch_up()
        return self._ledger.n_closed

    @property
    def window_drops(self) -> dict[DropReason, int]:
        self._timeline.catch_up()
        return self._ledger.window_drops

    def push(self, block: SampleBlock) -> None:
        """Files every sample of ``block``, or counts why not. Any block is taken: none raises."""
        ledger, arrival_ns, channels = self._ledger, block.arrival_ns, block.channels
        n_samples = block.values.size
        ledger.n_samples_in += n_samples
        if block.device_id != self._device_id:
            ledger.drop(DropReason.UNKNOWN_DEVICE, n_samples)
            return
        if not n_samples:
            return
        if self._now_ns is None or arrival_ns < self._now_ns:
            self._tick(arrival_ns)
        else:
            self._now_ns = arrival_ns
        if (
            (channels is self._plain or self._is_plain(channels))
            and (block.rate_hz is self._known_rate or self._has_rate(block))
            and self._follows(block)
        ):
            self.last_arrival_ns = arrival_ns
            self._hearing.hear_all(arrival_ns, self._plain_last_ns)
            return
        plan = self._streams.plan(channels)
        self._timeline.catch_up()
        ledger.drop(DropReason.UNKNOWN_CHANNEL, block.n * plan.n_unknown)
        if not plan.parts:
            return
        n_bad = ledger.sample_drops.get(DropReason.NOT_FINITE, 0)
        n_restarts = len(self._timeline.clock_events)
        if block.time_ns is not None or self.spec.mode is Mode.IRREGULAR:
            last_ns = self._push_timed(block, plan)
        elif not self._has_rate(block):
            ledger.drop(DropReason.WRONG_RATE, block.n * len(plan.known))
            return
        else:
            last_ns = self._push_uniform(block, plan)
        if last_ns is None:
            return
        self.last_arrival_ns = block.arrival_ns
        if len(self._timeline.clock_events) > n_restarts:
            self._hearing.restart()
        whole = ledger.sample_drops.get(DropReason.NOT_FINITE, 0) == n_bad
        lasts = (
            [last_ns] * len(block.channels)
            if whole
            else last_usable(block, self._max_future_ns, self._max_age_ns)
        )
        for c, i in zip(plan.known, plan.source, strict=True):
            if (at_ns := lasts[i]) is not None:
                self._hearing.hear(c, block.arrival_ns, at_ns)

    def advance(self, now_ns: int) -> None:
        """The gateway's clock reads ``now_ns``. Event time goes on with it once a device is silent: an
        irregular one at once, a burst's record after ``lateness_s``, a continuous one after
        ``stale_after_s``."""
        self._tick(now_ns)
        if self.last_arrival_ns is None:
            return
        elapsed_ns = now_ns - max(self._hearing.heard_ns)
        if elapsed_ns > 0 and (self.spec.mode is not Mode.CONTINUOUS or elapsed_ns >= self._stale_ns):
            self._timeline.catch_up()
            self._timeline.silence(elapsed_ns)

    def resume(self, now_ns: int) -> None:
        """After a restore: silence counts from ``now_ns``, not from before the daemon stopped."""
        self._now_ns = now_ns
        self._hearing.begin(now_ns)

    @property
    def stale(self) -> bool:
        """Whether some channel has brought no usable value for ``stale_after_s``."""
        return bool(self.stale_channels)

    @property
    def stale_channels(self) -> tuple[str, ...]:
        """The silent channels, in the device's order."""
        if self._now_ns is None:
            return ()
        heard = zip(self.device.channel_names, self._hearing.heard_ns, strict=True)
        return tuple(name for name, at_ns in heard if self._now_ns - at_ns >= self._stale_ns)

    def silent_since_ns(self, channels: tuple[str, ...]) -> int | None:
        """Event time of the newest usable value of ``channels``; None: none since event time last restarted."""
        return self._hearing.last_said_ns(self._places(channels))

    def unheard_ns(self, channels: tuple[str, ...]) -> int:
        """For how long, on the gateway's clock, none of ``channels`` has brought a usable value."""
        assert self._now_ns is not None
        return self._now_ns - self._hearing.last_heard_ns(self._places(channels))

    def _places(self, channels: tuple[str, ...]) -> list[int]:
        return [self.device.channel_names.index(name) for name in channels]

    def take(self) -> list[WindowBatch]:
        """Windows closed since the last take, oldest first (anew after each restart), each with ``min_valid``
        on every channel."""
        self._timeline.catch_up()
        batches = self._ledger.take()
        if batches:
            self._timeline.make_room()
        return batches

    @property
    def restarted(self) -> bool:
        """Whether :meth:`take_clock_events` has something to say."""
        return bool(self._timeline.clock_events)

    def take_clock_events(self) -> list[ClockEvent]:
        """Restarts of event time since the last call."""
        events, self._timeline.clock_events = self._timeline.clock_events, []
        return events

    def snapshot(self) -> bytes:
        """All state as bytes, buffers and untaken windows included."""
        self._timeline.catch_up()
        state = _State(
            self._identity(),
            self._ledger.state(),
            self._timeline.state(),
            self._streams.streams,
            self.last_arrival_ns,
            self._now_ns,
            self._hearing.heard_ns,
            self._hearing.said_ns,
        )
        return msgspec.msgpack.encode(state)

    def restore(self, state: bytes) -> None:
        """The inverse of :meth:`snapshot`. Raises ValueError when ``state`` is damaged or of another device
        or window."""
        saved = msgspec.msgpack.decode(state, type=_State)
        if saved.of != self._identity():
            raise ValueError(f"the state is of {saved.of}, not of {self._identity()}")
        self._ledger.restore(saved.ledger)
        self._timeline.restore(saved.timeline)
        self._plain = None
        self._streams = Streams(self.device.channel_names, joined=self.spec.mode is Mode.IRREGULAR)
        self._streams.streams = list(saved.streams)
        self.last_arrival_ns, self._now_ns = saved.last_arrival_ns, saved.now_ns
        self._hearing = Hearing(self._n_channels)
        self._hearing.heard_ns = list(saved.heard_ns)
        if saved.said_ns:
            self._hearing.said_ns = list(saved.said_ns)

    def _identity(self) -> str:
        spec = self.spec
        names = ",".join(self.device.channel_names)
        return f"{self.device.device_id}[{names}] {spec.mode} {spec.n}/{spec.hop} at {spec.rate_hz} Hz"

    def _tick(self, now_ns: int) -> None:
        if self._now_ns is None:
            self._hearing.begin(now_ns)  # silence counts from the first sign of life
        elif now_ns < self._now_ns:
            self._hearing.set_back(now_ns)
        self._now_ns = now_ns

    def _is_plain(self, channels: tuple[str, ...]) -> bool:
        """Whether blocks of ``channels`` are just the one stream there is."""
        plain = self._streams.plan(channels).plain
        if plain:
            self._plain = channels
        return plain

    def _has_rate(self, block: SampleBlock) -> bool:
        """Whether a block is at the device's rate; comparing fractions takes longer than all the rest."""
        rate = block.rate_hz
        if rate is self._known_rate:
            return True
        if rate != self._rate:
            return False
        self._known_rate = rate
        return True

    def _follows(self, block: SampleBlock) -> bool:
        """Files a block that just goes on from what came before, if it does."""
        start_ns = block.start_ns
        if start_ns is None:
            return False
        values, arrival_ns = block.values, block.arrival_ns
        last_ns = self._plain_last_ns = start_ns + (len(values) - 1) * self._period // self._num
        return (
            last_ns <= arrival_ns + self._max_future_ns
            and start_ns >= arrival_ns - self._max_age_ns
            and self._timeline.follow(start_ns, values)
        )

    def _push_uniform(self, block: SampleBlock, plan: Plan) -> int | None:
        """Event time of the newest row that was in time; None: none was."""
        assert block.start_ns is not None
        start_ns, n, num, period = block.start_ns, block.n, self._num, self._period
        latest_ns = block.arrival_ns + self._max_future_ns
        earliest_ns = block.arrival_ns - self._max_age_ns
        first, end = 0, n
        if start_ns + (n - 1) * period // num > latest_ns:
            end = min(n, max(0, ((latest_ns - start_ns + 1) * num - 1) // period + 1))
            self._ledger.drop(DropReason.FUTURE, (n - end) * len(plan.known))
        if start_ns < earliest_ns:
            first = min(end, -(-(earliest_ns - start_ns) * num // period))
            self._ledger.drop(DropReason.TOO_OLD, first * len(plan.known))
        if first == end:
            return None
        values = block.values if end - first == n else block.values[first:end]
        start_ns += first * period // num
        # A block that was stamped on arrival is as late as the network made it: what is off by less than half of it is
        # no block lost or repeated.
        jitter_ns = len(values) * period // (2 * num) if block.clock is Clock.ARRIVAL else 0
        self._timeline.push_uniform(plan.parts, start_ns, values, block.arrival_ns, jitter_ns)
        return start_ns + (len(values) - 1) * period // num

    def _push_timed(self, block: SampleBlock, plan: Plan) -> int | None:
        """As :meth:`_push_uniform`."""
        times, values = block.times(), block.values
        future = times > block.arrival_ns + self._max_future_ns
        old = times < block.arrival_ns - self._max_age_ns
        usable = ~(future | old)
        if not usable.all():
            self._ledger.drop(DropReason.FUTURE, int(future.sum()) * len(plan.known))
            self._ledger.drop(DropReason.TOO_OLD, int(old.sum()) * len(plan.known))
            times, values = times[usable], values[usable]
            if not len(times):
                return None
        self._timeline.push_timed(plan.parts, times, values, block.arrival_ns)
        return int(times.max())
