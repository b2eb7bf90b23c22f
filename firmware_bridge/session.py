"""One board on a line, from bytes to runs of samples in UTC: who it is, what was lost, how its clock goes.

Strategy: everything is told apart by what the board says of itself. Samples wait (bounded) for the Hello that explains
them; row numbers say exactly how many rows are missing; a clock that is not where it should be began anew. The host
asks for a Hello until it has one, and exchanges TimeSync for as long as the line is up: :meth:`Session.due` says what
to send and when. Pure: bytes and times in, values out; nothing that arrives raises.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, dropwhile, pairwise, takewhile

import numpy as np

from firmware_bridge import framing, protocol
from firmware_bridge.clock_fit import MAX_SKEW
from firmware_bridge.device_clock import DeviceClock, UtcOffset
from firmware_bridge.frame_shape import MAX_SPAN_US, PACE, PACE_US, FrameShape, frame_shape
from firmware_bridge.framing import FrameDecoder
from firmware_bridge.held import Held, config_of
from firmware_bridge.protocol import (
    U16,
    U32,
    Ack,
    Cause,
    Command,
    Counts,
    Event,
    Hello,
    Op,
    Refusal,
    TimeSync,
)
from firmware_bridge.run_times import breaks_of_pace, breaks_of_time, n_until_newer
from firmware_bridge.runs import Bodies, Pattern, Run
from firmware_bridge.session_items import Greeting, Item, Logged, Lost, Reset, Rows, SessionCounters
from models.signal import NS_PER_S, Clock

HELLO_RETRY_NS = NS_PER_S // 2
SYNC_BURST = 8  # exchanges at once to begin with,
SYNC_BURST_NS = NS_PER_S // 20
SYNC_NS = NS_PER_S // 2  # then regularly
SYNC_TIMEOUT_NS = 5 * NS_PER_S
RESET_US = 2_000_000  # a clock further from where it should be than this began anew,
NEW_CONFIG_US = 100_000  # or than this, where the configuration is a new one too
MAX_EVENT_AGE_US = 10_000_000  # that an event may have waited for its turn
CLOCK_STEP_NS = 4_000_000  # some boards count no finer
SYNCED_NS = 5_000_000.0  # error bound from which a block's time counts as disciplined


class Session:
    """The host's end of one line. Not thread-safe."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.counters = SessionCounters()
        self._last_hello: Hello | None = None  # ``hello`` is None while a newer one is awaited
        self._decoder = FrameDecoder()
        self._clock = DeviceClock()
        self._utc = UtcOffset()
        self._held = Held()
        self._next_index: int | None = None
        self._newest: tuple[int, int, int] | None = (
            None  # number of the last row, its device time, span of its frame
        )
        self._last_seq: int | None = None
        self._pattern: Pattern | None = None  # of the frames that came last, once a Hello has explained them
        self._shape: FrameShape | None = None
        self._seq = 0
        self._last_time_ns: int | None = None
        self._asked_ns: int | None = None
        self._synced_ns: int | None = None
        self._tokens: dict[int, int] = {}
        self._token = 0
        self._n_burst = 0  # questions since the line or the clock is new
        self._command_id = 0
        self._refused_version = False

    @property
    def error_ns(self) -> float | None:
        """Bound on how far the board's time is known to be off; None before the first exchange."""
        return self._clock.error_ns

    @property
    def skew_ppm(self) -> float | None:
        return None if self._clock.fit is None else self._clock.fit.skew * 1e6

    def receive(self, data: bytes, mono_ns: int, utc_ns: int) -> list[Item]:
        """What ``data``, read at ``mono_ns``, completes, in order."""
        bodies = self._decoder.feed(data)
        counters = self.counters
        counters.n_bytes += len(data)
        counters.n_frames += len(bodies)
        if self._decoder.damage:
            self._took_damage()
        if not bodies:
            return []
        items: list[Item] = []
        offset = self._utc.at(mono_ns, utc_ns)
        counters.n_clock_steps = self._utc.n_steps
        if self._last_seq is not None and self.hello is not None:
            run = self._going_on(bodies, (self._last_seq + 1) % U16)
            if run is not None:
                self._last_seq = (self._last_seq + len(bodies)) % U16
                self._run(run, self.hello, mono_ns, offset, utc_ns, items)
                return items
        if min(map(len, bodies)) < protocol.HEADER.size:
            short = [body for body in bodies if len(body) < protocol.HEADER.size]
            for body in short:
                self._message(body, mono_ns, offset, utc_ns, items)
            bodies = [body for body in bodies if len(body) >= protocol.HEADER.size]
            if not bodies:
                return items
        batch = Bodies(bodies)
        n_lost, self._last_seq = batch.n_lost(self._last_seq)
        counters.n_lost_frames += n_lost
        for first, end, samples in batch.stretches():
            if samples:
                self._samples(batch, first, end, bodies, mono_ns, offset, utc_ns, items)
            else:
                self._message(bodies[first], mono_ns, offset, utc_ns, items)
        return items

    def _going_on(self, bodies: list[bytes], seq: int) -> Run | None:
        """The run that ``bodies``, numbered from ``seq`` on, are where they are but more of what came last; None: they need
        a closer look."""
        pattern, index, hello = self._pattern, self._next_index, self.hello
        if pattern is None or index is None or hello is None or pattern.config_id != hello.config_id:
            return None
        return pattern.follows(bodies, seq, index)

    def due(self, mono_ns: int) -> list[bytes]:
        """Frames to send now: call it at least every ``SYNC_BURST_NS`` to begin with, later as often as reads
        return. A board that cannot hear answers none, and its clock is taken from when its frames arrive."""
        frames = []
        if self.hello is None and (self._asked_ns is None or mono_ns - self._asked_ns >= HELLO_RETRY_NS):
            self._asked_ns = mono_ns
            frames.append(self.command(Op.IDENTIFY)[1])
        bursting = self._clock.n_exchanges < SYNC_BURST and self._n_burst < 4 * SYNC_BURST
        every = SYNC_BURST_NS if bursting else SYNC_NS
        if self._synced_ns is None or mono_ns - self._synced_ns >= every:
            self._synced_ns = mono_ns
            self._tokens = {t: at for t, at in self._tokens.items() if mono_ns - at < SYNC_TIMEOUT_NS}
            self._token = (self._token + 1) % U16
            self._n_burst += 1
            self._tokens[self._token] = mono_ns
            self.counters.n_asked += 1
            frames.append(self._frame(TimeSync(self._token)))
        return frames

    def command(self, op: Op, rate_hz: Fraction | None = None) -> tuple[int, bytes]:
        """(id that the Ack will carry, the frame to send)."""
        self._command_id = (self._command_id + 1) % U16
        return self._command_id, self._frame(Command(self._command_id, op, rate_hz))

    def disconnected(self) -> None:
        """The port is gone: what comes next is another stream, of the same board or another one, which its Hello will
        say. Row numbers say how many rows passed meanwhile if it is the same boot of the same board."""
        self._decoder.reset()
        self._tokens.clear()
        self.hello = None
        self._asked_ns = self._synced_ns = self._last_seq = None
        self._n_burst = 0
        self._refused_version = False
        self.counters.n_unexplained_rows += self._held.give_up()
        self._took_damage()

    def _frame(self, message: Command | TimeSync) -> bytes:
        self._seq = (self._seq + 1) % U16
        return framing.encode(protocol.encode(message, self._seq))

    def _message(self, body: bytes, mono_ns: int, offset: int, utc_ns: int, items: list[Item]) -> None:
        message = protocol.parse(body)
        match message:
            case Refusal():
                self.counters.damage[message.cause] += 1
                if message.cause is not Cause.UNKNOWN_VERSION or not self._refused_version:
                    items.append(message)
                self._refused_version |= message.cause is Cause.UNKNOWN_VERSION
            case Hello():
                self._greet(message, mono_ns, items)
                reads, n_unexplained = self._held.take(message.config_id)
                self.counters.n_unexplained_rows += n_unexplained
                for bodies, came_ns in reads:
                    self._samples(Bodies(bodies), 0, len(bodies), bodies, came_ns, offset, utc_ns, items)
            case TimeSync(reply=True):
                self._answered(message, mono_ns, items)
            case Event():
                items.append(Logged(message, self._time_of(message.at_us, mono_ns) + offset))
            case Ack():
                items.append(message)
            case _:
                pass  # what only a host sends: an echo

    def _greet(self, hello: Hello, mono_ns: int, items: list[Item]) -> None:
        before = self._last_hello
        new = before is None or replace(before, now_us=hello.now_us) != hello
        if before is not None and before.serial != hello.serial:
            self._clock = DeviceClock()  # another board's, whatever it reads
            self._n_burst = 0
        # Another configuration may be another boot: the clock is then held to account more strictly.
        most_us = RESET_US
        if new:
            self._next_index = self._newest = None
            most_us = NEW_CONFIG_US
        us = self._in_pace(hello.now_us)
        if us is None:
            us = self._unwrap(hello.now_us, mono_ns, items, most_us)
        self._clock.hear(us, mono_ns)
        self.hello = self._last_hello = hello
        items.append(Greeting(hello, new))

    def _answered(self, sync: TimeSync, mono_ns: int, items: list[Item]) -> None:
        sent_ns = self._tokens.pop(sync.token, None)
        if sent_ns is None:
            return
        took_us = (sync.sent_us - sync.received_us) % U32
        if took_us * 1000 * (1 - MAX_SKEW) > mono_ns - sent_ns + CLOCK_STEP_NS:
            text = f"TIME_SYNC: {took_us} µs between question and answer, and both took {(mono_ns - sent_ns) // 1000}"
            self._refuse(Refusal(Cause.MALFORMED, text), items)
            return
        received = self._unwrap(sync.received_us, mono_ns, items, since_ns=sent_ns)
        slipped_us = self._clock.exchange(sent_ns, mono_ns, received, received + took_us)
        if slipped_us is not None:
            self._clock = self._clock.anew()
            self.counters.n_set += 1
            self._began_anew(Reset(slipped_us, was_set=True), items)
        self._clock.hear(received + took_us, mono_ns)
        self.counters.n_exchanges += 1

    def _time_of(self, us: int, mono_ns: int) -> int:
        """Monotonic ns of an event at ``us``. It may have waited long for its turn, or be the first word of another
        boot, so it tells nothing of the clock; far from where it should be, it is as old as its arrival."""
        unwrapped, off = self._clock.unwrap(us, mono_ns)
        if self._clock.expected_us(mono_ns) is None or not -MAX_EVENT_AGE_US < off < RESET_US:
            return mono_ns
        return self._clock.at(unwrapped)

    def _in_pace(self, us: int) -> int | None:
        """Device time on its line, if it is what comes after the last row: it is no later than that, however late."""
        if self._newest is None:
            return None
        _, at_us, span_us = self._newest
        off = (us - at_us + U32 // 2) % U32 - U32 // 2
        return at_us + off if -PACE_US <= off <= 2 * (PACE_US + span_us) else None

    def _unwrap(
        self, us: int, mono_ns: int, items: list[Item], most_us: int = RESET_US, since_ns: int | None = None
    ) -> int:
        """Device time, of between ``since_ns`` and now, on its line; a clock that is far from where it should be begins
        a new one."""
        unwrapped, off = self._clock.unwrap(us, mono_ns)
        most_us += self._clock.doubt_us(mono_ns)
        late_us = 0 if since_ns is None else (mono_ns - since_ns) // 1000
        if -most_us - late_us <= off <= most_us:
            return unwrapped
        self._clock = DeviceClock()
        self._newest = None
        self._tokens.clear()
        self._began_anew(Reset(off), items)
        return self._clock.unwrap(us, mono_ns)[0]

    def _began_anew(self, reset: Reset, items: list[Item]) -> None:
        self._synced_ns = self._last_time_ns = None  # what was served before may have been ahead
        self._n_burst = 0
        self.counters.n_resets += 1
        items.append(reset)

    def _samples(
        self,
        batch: Bodies,
        first: int,
        end: int,
        bodies: list[bytes],
        mono_ns: int,
        offset: int,
        utc_ns: int,
        items: list[Item],
    ) -> None:
        going_on = self._going_on(bodies[first:end], protocol.seq_of(bodies[first]))
        runs, refused = ([going_on], []) if going_on is not None else batch.runs(first, end)
        for refusal in refused:
            self._refuse(refusal, items)
        hello = self.hello
        if hello is None or any(run.config_id != hello.config_id for run in runs):
            self._explain(bodies[first:end], runs, mono_ns, offset, utc_ns, items)
            return
        for run in runs:
            self._run(run, hello, mono_ns, offset, utc_ns, items)

    def _explain(
        self, bodies: list[bytes], runs: list[Run], mono_ns: int, offset: int, utc_ns: int, items: list[Item]
    ) -> None:
        """Runs of which some are of a configuration that no Hello has explained yet: from the first of those on all wait, for
        the Hello that is asked for then."""
        known = None if self.hello is None else self.hello.config_id
        for run in takewhile(lambda run: run.config_id == known, runs):
            assert self.hello is not None
            self._run(run, self.hello, mono_ns, offset, utc_ns, items)
        self.hello = None
        sound = [body for body in bodies if not isinstance(protocol.parse(body), Refusal)]
        for body in dropwhile(lambda body: config_of(body) == known, sound):
            self.counters.n_unexplained_rows += self._held.put(body, mono_ns)

    def _run(self, run: Run, hello: Hello, mono_ns: int, offset: int, utc_ns: int, items: list[Item]) -> None:
        n, c = run.counts.shape
        first_us = run.first_us
        n_frame = n // len(first_us)  # rows a frame
        shape = self._shape
        if shape is None or shape.hello is not hello or (shape.n_rows, shape.n_channels) != (n_frame, c):
            shape = self._shape = frame_shape(hello, n_frame, c)
        if shape.refused is not None:
            self._refuse(Refusal(Cause.MALFORMED, shape.refused), items)
            return
        steps = [(b - a) % U32 for a, b in pairwise(first_us)]
        if steps and (breaks := self._breaks(run, shape, steps, mono_ns)):
            for a, b in pairwise([0, *breaks, len(first_us)]):
                part = run.counts[a * n_frame : b * n_frame]
                piece = Run(run.pattern, part, (run.index + a * n_frame) % U32, first_us[a:b])
                self._run(piece, hello, mono_ns, offset, utc_ns, items)
            return
        self._pattern = run.pattern
        # What is sent when a frame is full was begun long before: its newest row tells how its clock goes.
        age_us = sum(steps) + shape.span_us
        newest_us = self._newest_of(run, shape, age_us, mono_ns, items)
        counts = self._fresh(run, shape, newest_us, steps, items)
        n_old = n - len(counts)
        if n_old == n:
            return
        self._next_index = (run.index + n) % U32
        self._newest = ((run.index + n - 1) % U32, newest_us, shape.span_us)
        self.counters.n_rows += n - n_old
        self._clock.hear(newest_us, mono_ns)
        oldest_us = newest_us - age_us
        time_ns = None
        if hello.rate_hz is None:
            each_us = list(accumulate(steps, initial=oldest_us))[n_old:]
            device_us = each_us[0]
            time_ns = np.array([self._clock.at(us) for us in each_us], np.int64) + offset
            start_ns = int(time_ns[0])
        else:
            device_us = oldest_us + shape.us(n_old)
            start_ns = self._clock.at(device_us) + offset
        if self._last_time_ns is not None and 0 < self._last_time_ns - start_ns < NS_PER_S:
            start_ns = self._last_time_ns  # never back, however the host's clock was slewed meanwhile
            time_ns = None if time_ns is None else np.maximum(time_ns, start_ns)
        self._last_time_ns = start_ns if time_ns is None else int(time_ns[-1])
        error_ns = self._clock.error_within(oldest_us, newest_us)
        if error_ns is None:
            clock = Clock.ARRIVAL
        else:
            clock = Clock.SYNCED if error_ns <= SYNCED_NS else Clock.DEVICE
        index = (run.index + n_old) % U32
        items.append(Rows(hello, counts, start_ns, time_ns, utc_ns, clock, error_ns, index, device_us))

    def _breaks(self, run: Run, shape: FrameShape, steps: list[int], mono_ns: int) -> list[int]:
        if shape.hello.rate_hz is not None:
            return breaks_of_pace(shape, steps)
        if max(steps) <= RESET_US:
            return []
        most_us = RESET_US + self._clock.doubt_us(mono_ns)
        before_us = None if self._newest is None else self._newest[1]
        return breaks_of_time(
            run, steps, before_us, RESET_US, lambda us: abs(self._clock.unwrap(us, mono_ns)[1]) <= most_us
        )

    def _newest_of(self, run: Run, shape: FrameShape, age_us: int, mono_ns: int, items: list[Item]) -> int:
        """Unwrapped device time of the last row. A row that comes late, but at the pace of the numbers, waited
        somewhere: its clock is the same."""
        us = (run.first_us[0] + age_us) % U32
        if self._newest is not None and shape.hello.rate_hz is not None:
            index, at_us, _ = self._newest
            ahead = (run.index + len(run.counts) - 1 - index + U32 // 2) % U32 - U32 // 2
            passed_us = shape.us(ahead)
            off = (us - at_us - passed_us + U32 // 2) % U32 - U32 // 2
            if abs(off) <= PACE_US + PACE * abs(passed_us) and abs(passed_us) < MAX_SPAN_US:
                return at_us + passed_us + off
        return self._unwrap(us, mono_ns, items)

    def _fresh(
        self, run: Run, shape: FrameShape, newest_us: int, steps: list[int], items: list[Item]
    ) -> Counts:
        """The rows of ``run`` that did not come before; what is missing before them is counted. ``steps``: from frame to
        frame, µs, up to the last row at ``newest_us``."""
        if self._next_index is None:
            return run.counts
        missing = (run.index - self._next_index) % U32
        if missing < U32 // 2:
            if missing:
                self.counters.n_lost_rows += missing
                items.append(Lost(missing, run.counts.shape[1]))
            return run.counts
        n_old = 0
        if self._newest is not None:
            n_old = n_until_newer(run, shape, steps, newest_us, self._newest[:2])
            n_old = min(n_old, U32 - missing)
        self.counters.n_repeated_rows += n_old
        return run.counts[n_old:]

    def _refuse(self, refusal: Refusal, items: list[Item]) -> None:
        self.counters.damage[refusal.cause] += 1
        items.append(refusal)

    def _took_damage(self) -> None:
        for damage, n in self._decoder.damage.items():
            self.counters.damage[damage] += n
        self._decoder.damage.clear()
