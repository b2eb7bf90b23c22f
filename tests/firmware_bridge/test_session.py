"""A Session against a Board, bytes in and bytes out: no line, no clock but the arguments."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firmware_bridge import framing, protocol
from firmware_bridge.board import Board
from firmware_bridge.frame_shape import MAX_SPAN_US
from firmware_bridge.protocol import (
    U16,
    U32,
    Ack,
    AckStatus,
    BoardChannel,
    Cause,
    Command,
    Counts,
    Event,
    EventSeverity,
    Hello,
    Message,
    Op,
    Refusal,
    Samples,
    TimeSync,
)
from firmware_bridge.runs import Bodies
from firmware_bridge.session import RESET_US, SYNC_BURST, SYNC_BURST_NS, SYNC_NS, Session
from firmware_bridge.session_items import Greeting, Item, Logged, Lost, Reset, Rows
from models.signal import NS_PER_S, Clock

MS = 1_000_000
MONO_NS = 777 * NS_PER_S
UTC_NS = 1_700_000_000 * NS_PER_S  # UTC less the monotonic clock
RATE = Fraction(1000)
CHANNELS = (BoardChannel("x", "m/s2", 0.01), BoardChannel("y", "m/s2", 0.01))


def ramp(index: NDArray[np.int64]) -> Counts:
    """Values that say which row they are of."""
    counts: NDArray[np.int32] = np.stack([index % 2**31, -(index % 2**31)], axis=1).astype("<i4")
    return counts


def make_board(
    rate_hz: Fraction = RATE, *, rows: int = 50, config_id: int = 1, at_us: int = 0, serial: str = "A-1"
) -> Board:
    return Board(CHANNELS, rate_hz, ramp, rows=rows, config_id=config_id, at_us=at_us, serial=serial)


class Desk:
    """A session, and a board whose clock is the host's but for ``skew`` and ``ahead_us``. Time passes in steps."""

    def __init__(self, board: Board, *, skew: float = 0.0, ahead_us: int = 0, hears: bool = True) -> None:
        self.board, self.session, self.hears = board, Session(), hears
        self.items: list[Item] = []
        self.mono_ns, self.utc_ns = MONO_NS, MONO_NS + UTC_NS
        self.delay_ns = MS
        self.late: list[bytes] | None = None  # what the host will read later
        self._skew, self._ahead_us, self._began_ns = skew, ahead_us, MONO_NS

    @property
    def us(self) -> int:
        """The board's clock."""
        return self._ahead_us + int((self.mono_ns - self._began_ns) / 1000 * (1 + self._skew))

    def true_ns(self, us: float) -> float:
        """UTC at which the board's clock reads ``us``."""
        return UTC_NS + self._began_ns + (us - self._ahead_us) * 1000 / (1 + self._skew)

    def reboot(self, board: Board) -> None:
        self.board = board
        self._ahead_us, self._began_ns = 0, self.mono_ns

    def play(self, seconds: float, step_ns: int = 10 * MS) -> list[Item]:
        """What comes of ``seconds``."""
        items: list[Item] = []
        end_ns = self.mono_ns + round(seconds * 1e9)
        while self.mono_ns < end_ns:
            out = self.board.run(self.us)
            for frame in self.session.due(self.mono_ns):
                if self.hears:
                    self.mono_ns += self.delay_ns
                    out += self.board.receive(frame, self.us)
            if self.late is not None:
                self.late.append(out)
                out = b""
            self.mono_ns += self.delay_ns
            items += self.receive(out)
            self.mono_ns += step_ns
        self.items += items
        return items

    def tell(self, frame: bytes) -> list[Item]:
        """A frame of the host's, and what the board answers."""
        items = self.receive(self.board.receive(frame, self.us))
        self.items += items
        return items

    def receive(self, data: bytes) -> list[Item]:
        return self.session.receive(data, self.mono_ns, self.mono_ns + UTC_NS)

    def worst_ns(self, items: Iterable[Item]) -> float:
        """How far the times of rows of a ramp are off, at most."""
        board = self.board
        errors = [
            abs(r.start_ns - self.true_ns(board._time_of(int(r.counts[0, 0]))))
            for r in items
            if isinstance(r, Rows)
        ]
        return max(errors)


def frames(messages: Iterable[Message], first_seq: int = 1) -> list[bytes]:
    return [framing.encode(protocol.encode(m, first_seq + i)) for i, m in enumerate(messages)]


def hello(config_id: int = 1, *, rate_hz: Fraction | None = RATE, now_us: int = 0, **other: object) -> Hello:
    return Hello(config_id, "f", "1.0", "A-1", CHANNELS, rate_hz, now_us, **other)  # type: ignore[arg-type]


def samples(index: int, n: int = 50, *, config_id: int = 1, first_us: int | None = None) -> Samples:
    at_us = index * 1000 if first_us is None else first_us
    return Samples(config_id, ramp(np.arange(index, index + n)), at_us % U32, index % U32)


def received(session: Session, data: bytes, at_ns: int = MONO_NS) -> list[Item]:
    return session.receive(data, at_ns, at_ns + UTC_NS)


def rows_of(items: Iterable[Item]) -> list[int]:
    return [x for item in items if isinstance(item, Rows) for x in item.counts[:, 0].tolist()]


def of_kind(kind: type, items: Iterable[Item]) -> list[Item]:
    return [item for item in items if isinstance(item, kind)]


# The conversation


def test_a_board_is_asked_who_it_is_and_its_rows_come_with_their_time() -> None:
    desk = Desk(make_board(), skew=80e-6, ahead_us=U32 - 5_000_000)
    desk.board._hello_us = 10**12  # it says nothing by itself
    desk.board._begin_us = U32 - 5_000_000
    items = desk.play(30)
    assert items[0] == Ack(1, Op.IDENTIFY, AckStatus.OK)
    assert isinstance(items[1], Greeting)
    assert items[1].new
    assert rows_of(items) == list(range(desk.board.index))
    late = [r for r in items if isinstance(r, Rows)][-100:]
    assert all(r.clock is Clock.SYNCED for r in late)
    assert desk.worst_ns(late) < 0.6 * MS
    assert desk.session.skew_ppm == pytest.approx(-80, abs=10)
    assert desk.session.counters.n_lost_rows == desk.session.counters.n_lost_frames == 0
    assert not of_kind(Reset, items)


def test_questions_are_asked_often_to_begin_with() -> None:
    session = Session()
    at = [ns for ns in range(0, 10 * NS_PER_S, 10 * MS) if any_sync(session.due(MONO_NS + ns))]
    gaps = np.diff(at)
    assert (gaps[: 4 * SYNC_BURST - 1] == SYNC_BURST_NS).all()  # nobody answered
    assert (gaps[4 * SYNC_BURST :] == SYNC_NS).all()
    desk = Desk(make_board())
    desk.play(3)
    assert SYNC_BURST + 4 <= desk.session.counters.n_exchanges <= SYNC_BURST + 6


def any_sync(sent: list[bytes]) -> bool:
    decoder = framing.FrameDecoder()
    return any(isinstance(protocol.parse(b), TimeSync) for f in sent for b in decoder.feed(f))


def test_identify_is_asked_until_there_is_a_hello() -> None:
    session = Session()

    def asked(after_ns: int) -> bool:
        decoder = framing.FrameDecoder()
        bodies = [b for f in session.due(MONO_NS + after_ns) for b in decoder.feed(f)]
        return any(isinstance(m, Command) and m.op is Op.IDENTIFY for m in map(protocol.parse, bodies))

    assert [t for t in range(0, 3000, 100) if asked(t * MS)] == [0, 500, 1000, 1500, 2000, 2500]
    received(session, frames([hello()])[0], MONO_NS + 3 * NS_PER_S)
    assert not any(asked(t * MS) for t in range(3000, 6000, 100))
    session.disconnected()
    assert asked(6000 * MS)


def test_commands_and_their_acks() -> None:
    desk = Desk(make_board())
    desk.play(1)
    stop_id, stop = desk.session.command(Op.STOP)
    assert Ack(stop_id, Op.STOP, AckStatus.OK) in desk.tell(stop)
    assert rows_of(desk.play(1)) == []
    start_id, start = desk.session.command(Op.START)
    items = desk.tell(start)
    assert Ack(start_id, Op.START, AckStatus.OK) in items
    [greeting] = of_kind(Greeting, items)
    assert isinstance(greeting, Greeting)
    assert greeting.new
    items = desk.play(1)
    assert rows_of(items)[:3] == [0, 1, 2]
    assert not of_kind(Lost, desk.items)
    bad_id, bad = desk.session.command(Op.SET_RATE, Fraction(5_000_000))
    assert desk.tell(bad) == [Ack(bad_id, Op.SET_RATE, AckStatus.BAD_ARGUMENT)]
    assert len({stop_id, start_id, bad_id}) == 3


def test_a_rate_that_is_set_is_a_new_configuration_and_no_reset() -> None:
    desk = Desk(make_board(), skew=-50e-6)
    desk.play(5)
    n_before = len(rows_of(desk.items))
    _, frame = desk.session.command(Op.SET_RATE, Fraction(200))
    items = desk.tell(frame) + desk.play(5)
    [greeting] = of_kind(Greeting, items)
    assert isinstance(greeting, Greeting)
    assert greeting.hello.rate_hz == 200
    rows = [r for r in items if isinstance(r, Rows)]
    assert {r.hello.rate_hz for r in rows} == {Fraction(200)}
    assert rows_of(rows)[0] == 0
    assert len(rows_of(desk.items)) > n_before
    assert not of_kind(Reset, items)
    assert not of_kind(Lost, items)
    assert desk.worst_ns(rows) < 1.5 * MS


@pytest.mark.parametrize("uptime_s", [4, 60])
def test_a_reboot_begins_new_numbers_and_a_new_segment_of_time(uptime_s: int) -> None:
    desk = Desk(make_board(), skew=30e-6)
    desk.play(uptime_s)
    desk.mono_ns += 300 * MS  # to boot
    desk.reboot(make_board(config_id=2))
    items = desk.play(3)
    assert isinstance(items[0], Reset)
    assert items[0].off_us == pytest.approx(-uptime_s * 1e6, rel=0.1)
    assert isinstance(items[1], Greeting)
    assert items[1].new
    assert rows_of(items)[:2] == [0, 1]
    assert not of_kind(Lost, items)
    assert (desk.session.counters.n_resets, desk.session.counters.n_set) == (1, 0)
    assert desk.worst_ns([r for r in items if isinstance(r, Rows)][-5:]) < 1.5 * MS
    # Time is asked for at once, as to begin with.
    assert desk.session.counters.n_exchanges >= 2 * SYNC_BURST


def test_a_reboot_that_keeps_its_config_id_is_told_by_its_clock() -> None:
    """Against the protocol; seen of boards without a random number."""
    desk = Desk(make_board())
    desk.play(10)
    desk.reboot(make_board())
    items = desk.play(3)
    assert len(of_kind(Reset, items)) == 1
    assert rows_of(items)[:2] == [0, 1]
    assert len(rows_of(items)) == desk.board.index
    assert not of_kind(Lost, items)
    assert desk.session.counters.n_repeated_rows == 0


def test_another_board_on_the_same_port_is_another_one_though_its_numbers_agree() -> None:
    desk = Desk(make_board())
    desk.play(5)
    desk.session.disconnected()
    desk._ahead_us += 900_000  # its clock is not far off, by chance
    other = make_board(serial="B-2", at_us=desk.us)
    other._index, other._begin_us = 5000, desk.us - 5_000_000
    desk.board = other
    items = desk.play(3)
    greeting, *others = of_kind(Greeting, items)
    assert isinstance(greeting, Greeting)
    assert greeting.new
    assert greeting.hello.serial == "B-2"
    assert not any(g.new for g in others if isinstance(g, Greeting))
    assert not of_kind(Lost, items)
    assert all(r.hello.serial == "B-2" for r in items if isinstance(r, Rows))
    assert desk.worst_ns([r for r in items if isinstance(r, Rows)][-5:]) < 1.5 * MS


def test_a_cable_pulled_for_a_moment_costs_the_rows_that_passed() -> None:
    desk = Desk(make_board(), skew=100e-6)
    desk.play(5)
    n = len(rows_of(desk.items))
    desk.session.disconnected()
    gap_ns = 3 * NS_PER_S
    desk.mono_ns += gap_ns
    first = desk.board.run(desk.us)  # into the air
    assert first
    items = desk.play(2)
    lost = [i for i in items if isinstance(i, Lost)]
    assert len(lost) == 1
    assert n + lost[0].n_rows + len(rows_of(items)) == desk.board.index
    assert items.index(lost[0]) < items.index(of_kind(Rows, items)[0])
    assert not of_kind(Reset, items)
    assert desk.worst_ns(items) < 1.5 * MS


@pytest.mark.parametrize("silence_s", [40 * 60, 3 * 3600])
def test_a_silence_longer_than_half_a_wrap_is_no_reset(silence_s: int) -> None:
    desk = Desk(make_board(), skew=100e-6)
    desk.play(20)
    _, stop = desk.session.command(Op.STOP)
    desk.tell(stop)
    desk.mono_ns += silence_s * NS_PER_S
    _, start = desk.session.command(Op.START)
    desk.tell(start)
    items = desk.play(10)
    assert not of_kind(Reset, desk.items)
    assert desk.worst_ns([r for r in items if isinstance(r, Rows)][-5:]) < 2 * MS


def test_a_host_that_was_held_up_does_not_take_late_rows_for_a_reset() -> None:
    """Suspended for six seconds, with a board that keeps what it cannot send."""
    desk = Desk(make_board(), skew=60e-6)
    desk.play(20)
    desk.late = []
    desk.hears = False
    desk.play(6)
    held, desk.late, desk.hears = b"".join(desk.late), None, True
    items = desk.receive(held) + desk.play(5)
    assert not of_kind(Reset, items)
    assert not of_kind(Lost, items)
    assert desk.worst_ns(items) < 1.5 * MS


def test_time_never_goes_back_within_a_configuration() -> None:
    """A fast board in large reads: the rows of a block last longer by its nominal rate than by the clock."""
    desk = Desk(make_board(Fraction(10_000), rows=100), skew=400e-6)
    items = desk.play(20, step_ns=500 * MS)
    rows = [r for r in items if isinstance(r, Rows)]
    starts = [r.start_ns for r in rows]
    assert starts == sorted(starts)
    assert desk.worst_ns(rows[-10:]) < 1.5 * MS


@pytest.mark.parametrize("by_ns", [-30 * NS_PER_S, 300 * MS])
def test_a_step_of_the_hosts_clock_bends_no_line(by_ns: int) -> None:
    desk = Desk(make_board(), skew=20e-6)
    desk.play(10)
    fit = desk.session._clock.fit
    plain_receive = desk.receive

    def stepped(data: bytes) -> list[Item]:
        return desk.session.receive(data, desk.mono_ns, desk.mono_ns + UTC_NS + by_ns)

    desk.receive = stepped  # type: ignore[method-assign]
    items = desk.play(10)
    desk.receive = plain_receive  # type: ignore[method-assign]
    after = desk.session._clock.fit
    assert fit is not None
    assert after is not None
    assert after.skew == pytest.approx(fit.skew, abs=20e-6)
    rows = [r for r in items if isinstance(r, Rows)]
    gaps = np.diff([r.start_ns for r in rows]) / np.diff([int(r.counts[0, 0]) for r in rows])
    assert np.abs(gaps - 1e6).max() < 1e6 * 0.05
    assert desk.session.counters.n_clock_steps == (abs(by_ns) > NS_PER_S)


def test_a_board_that_cannot_hear_is_timed_by_its_arrivals() -> None:
    desk = Desk(make_board(), skew=100e-6, hears=False)
    items = desk.play(120)
    rows = [r for r in items if isinstance(r, Rows)]
    assert {r.clock for r in rows} == {Clock.ARRIVAL}
    assert {r.error_ns for r in rows} == {None}
    assert desk.worst_ns(rows[-20:]) < 15 * MS  # the host looks every 11 ms
    assert desk.session.error_ns is None


# Samples and their Hello


def test_samples_that_waited_for_their_hello_are_timed_by_when_they_came() -> None:
    """A board that cannot hear and says who it is every 5 s: what came before is no reset, and not late."""
    desk = Desk(make_board(), hears=False)
    desk.board._hello_us = 4_900_000
    items = desk.play(6)
    assert isinstance(items[0], Greeting)
    assert not of_kind(Reset, items)
    assert rows_of(items) == list(range(desk.board.index))
    assert desk.worst_ns(items) < 25 * MS


def test_a_hello_that_lies_about_channels_costs_its_rows_and_no_more() -> None:
    session = Session()
    lies = Hello(1, "f", "1.0", "A-1", (*CHANNELS, BoardChannel("z")), RATE)
    items = received(session, b"".join(frames([lies, samples(0), hello(2), samples(0, config_id=2)])))
    refused = [i for i in items if isinstance(i, Refusal)]
    assert [r.cause for r in refused] == [Cause.MALFORMED]
    assert "2 channels, the Hello names 3" in refused[0].text
    assert rows_of(items) == list(range(50))


def test_rows_of_one_frame_that_span_an_hour_are_refused() -> None:
    session = Session()
    slow = Fraction(1, MAX_SPAN_US // 1_000_000)
    items = received(session, b"".join(frames([hello(rate_hz=slow), samples(0, 3), samples(3, 1)])))
    assert [i.cause for i in items if isinstance(i, Refusal)] == [Cause.MALFORMED]
    assert rows_of(items) == [3]


def test_rows_whose_times_jump_are_not_taken_for_one_stretch() -> None:
    """Numbers that go on while the clock does not: each frame has the time that it says."""
    session = Session()
    first, second = samples(0), samples(50, first_us=50_000 + 1_500_000)
    items = received(session, b"".join(frames([hello(), first, second])))
    one, two = (r for r in items if isinstance(r, Rows))
    assert two.start_ns - one.start_ns == 1_550_000_000


def test_an_irregular_boards_rows_have_a_time_each() -> None:
    session = Session()
    times_us = [U32 - 2_000, U32 - 500, U32 + 700, U32 + 90_000]
    sent = [hello(rate_hz=None, now_us=U32 - 3_000)]
    stamped = [samples(i, 1, first_us=us) for i, us in enumerate(times_us)]
    items = received(session, b"".join(frames([*sent, *stamped])))
    [rows] = [r for r in items if isinstance(r, Rows)]
    assert rows.time_ns is not None
    assert (np.diff(rows.time_ns) == np.diff(times_us) * 1000).all()


# Loss, repetition, damage


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.integers(1, 40),
    st.integers(0, U32 - 1) | st.integers(U32 - 500, U32 - 1),
    st.lists(st.integers(0, 10_000), max_size=8),
)
def test_lost_frames_are_counted_exactly_in_rows(
    arrives: list[bool], n_rows: int, first_index: int, cuts: list[int]
) -> None:
    """Over the wrap of the row numbers too, however the stream is cut."""
    session = Session()
    sent = [
        samples(first_index + i * n_rows, n_rows, first_us=i * n_rows * 1000) for i in range(len(arrives))
    ]
    made = frames([hello(), *sent])
    kept = [0, *(i + 1 for i, here in enumerate(arrives) if here)]
    stream = b"".join(made[i] for i in kept)
    ends = sorted(c % (len(stream) + 1) for c in cuts)
    items: list[Item] = []
    for a, b in zip([0, *ends], [*ends, len(stream)], strict=True):
        items += received(session, stream[a:b])
    came = [i for i, here in enumerate(arrives) if here]
    missing = [i for i in range(came[0], came[-1]) if not arrives[i]] if came else []
    assert sum(i.n_rows for i in items if isinstance(i, Lost)) == len(missing) * n_rows
    assert session.counters.n_lost_rows == len(missing) * n_rows
    assert session.counters.n_rows == len(came) * n_rows
    assert session.counters.n_lost_frames == (came[-1] + 1 - len(came) if came else 0)
    expected = [x for i in came for x in sent[i].counts[:, 0].tolist()]
    assert rows_of(items) == expected
    # Each gap stands before the rows that come after it.
    at = None
    for item in items:
        if isinstance(item, Lost):
            assert at is not None
            at = (at + item.n_rows) % U32
        elif isinstance(item, Rows):
            first = (
                next(i for i in came if (first_index + i * n_rows) % U32 == at) if at is not None else came[0]
            )
            assert item.counts[0, 0] == sent[first].counts[0, 0]
            at = (first_index + first * n_rows + len(item.counts)) % U32


def test_repeated_frames_are_told_and_taken_once() -> None:
    session = Session()
    made = frames([hello(), *(samples(i * 50) for i in range(6))])
    order = [0, 1, 2, 2, 3, 1, 4, 5, 6]
    items = [item for i in order for item in received(session, made[i])]
    assert rows_of(items) == list(range(300))
    assert not of_kind(Lost, items)
    counters = session.counters
    assert (counters.n_repeated_rows, counters.n_lost_rows, counters.n_lost_frames) == (100, 0, 0)
    # As well in one read.
    session = Session()
    assert rows_of(received(session, b"".join(made[i] for i in order))) == list(range(300))
    counters = session.counters
    assert (counters.n_repeated_rows, counters.n_lost_rows, counters.n_lost_frames) == (100, 0, 0)


def test_of_a_frame_that_partly_came_before_the_rest_is_taken() -> None:
    session = Session()
    items = received(session, b"".join(frames([hello(), samples(0), samples(30), samples(80)])))
    assert rows_of(items) == list(range(130))
    starts = [r.start_ns for r in items if isinstance(r, Rows)]
    assert np.diff(starts).tolist() == [50 * MS]
    assert session.counters.n_repeated_rows == 20


def test_a_board_that_counts_anew_by_itself_is_not_taken_for_repeating() -> None:
    """Against the protocol: newer rows under old numbers. Nobody can know what was lost, but they are not dropped."""
    session = Session()
    restarted = [samples(i * 50, first_us=1_000_000 + i * 50_000) for i in range(4)]
    items = received(session, b"".join(frames([hello(), *(samples(i * 50) for i in range(20)), *restarted])))
    assert rows_of(items) == [*range(1000), *range(200)]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.binary(max_size=60) | st.binary(max_size=40).map(lambda b: framing.encode(b"\x10" + b)),
        max_size=20,
    )
)
def test_nothing_that_arrives_raises(chunks: list[bytes]) -> None:
    session = Session()
    received(session, b"".join(frames([hello()])))
    for i, chunk in enumerate(chunks):
        received(session, chunk, MONO_NS + i * NS_PER_S)
        session.due(MONO_NS + i * NS_PER_S)


_u32 = st.integers(0, U32 - 1)
_rates = st.none() | st.fractions(Fraction(1, U32 - 1), Fraction(U32 - 1)).filter(
    lambda r: 0 < r.numerator < U32 and r.denominator < U32
)
_messages = st.one_of(
    st.builds(hello, st.integers(0, 3), rate_hz=_rates, now_us=_u32),
    st.builds(samples, _u32, st.integers(1, 9), config_id=st.integers(0, 3), first_us=_u32),
    st.builds(TimeSync, st.integers(0, 40), st.booleans(), _u32, _u32),
    st.builds(Event, _u32, st.integers(0, 9), st.sampled_from(EventSeverity), st.just("e")),
    st.builds(Ack, st.integers(0, 9), st.sampled_from(Op), st.sampled_from(AckStatus)),
    st.builds(Command, st.integers(0, 9), st.sampled_from(Op)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(_messages, st.integers(0, 3 * NS_PER_S), st.integers(0, U16 - 1)), max_size=40))
def test_a_board_that_says_what_it_likes_is_survived(said: list[tuple[Message, int, int]]) -> None:
    """Valid frames of a board gone mad: nothing raises, times stay within int64, counters stay sensible."""
    session, at_ns = Session(), MONO_NS
    for message, wait_ns, seq in said:
        at_ns += wait_ns
        session.due(at_ns)
        for item in received(session, framing.encode(protocol.encode(message, seq)), at_ns):
            if isinstance(item, Rows):
                assert abs(item.start_ns) < 1 << 62
                assert item.time_ns is None or (np.diff(item.time_ns) >= 0).all()
                assert item.counts.size
    assert session.counters.n_lost_rows >= 0
    assert session.counters.n_frames == len(said)


def test_a_newer_minor_version_is_read_and_a_newer_major_one_refused_once() -> None:
    session = Session()
    newer = [bytearray(protocol.encode(m, i)) for i, m in enumerate([hello(), samples(0), samples(50)])]
    for body in newer:
        body[0] = protocol.MAJOR << 4 | 15
        body += b"of the future"
    items = received(session, b"".join(framing.encode(bytes(b)) for b in newer))
    assert rows_of(items) == list(range(100))
    assert not of_kind(Refusal, items)
    newer[1][0] = protocol.MAJOR + 1 << 4
    alien = framing.encode(bytes(newer[1]))
    items = [item for _ in range(5) for item in received(session, alien)]
    [refusal] = items
    assert isinstance(refusal, Refusal)
    assert "the board speaks version 2.0 of the protocol, this gateway 1.0" in refusal.text
    assert session.counters.damage[Cause.UNKNOWN_VERSION] == 5
    session.disconnected()  # perhaps another board: it is said again
    assert len(received(session, b"\0" + alien)) == 1


def test_an_unknown_type_is_counted_and_the_rest_read() -> None:
    session = Session()
    odd = framing.encode(bytes([protocol.VERSION, 77, 1, 0]) + b"?")
    items = received(session, frames([hello()])[0] + odd + frames([samples(0)], 2)[0])
    assert session.counters.damage == {Cause.UNKNOWN_TYPE: 1}
    assert rows_of(items) == list(range(50))


def test_what_a_host_sends_is_ignored_when_it_comes_back() -> None:
    """A line with an echo."""
    desk = Desk(make_board())
    plain_receive = desk.session.receive

    def echoing(data: bytes, mono_ns: int, utc_ns: int) -> list[Item]:
        return plain_receive(b"".join(sent) + data, mono_ns, utc_ns)

    plain_due: Callable[[int], list[bytes]] = desk.session.due
    sent: list[bytes] = []

    def due(mono_ns: int) -> list[bytes]:
        sent[:] = plain_due(mono_ns)
        return sent

    desk.session.due = due  # type: ignore[method-assign]
    desk.session.receive = echoing  # type: ignore[method-assign]
    items = desk.play(10)
    assert rows_of(items) == list(range(desk.board.index))
    counters = desk.session.counters
    assert (counters.n_lost_frames, counters.n_lost_rows, counters.n_resets) == (0, 0, 0)
    assert not counters.damage
    assert desk.worst_ns(items) < 1.5 * MS


def test_an_answer_that_took_longer_than_the_question_and_it_is_refused() -> None:
    session = Session()
    received(session, frames([hello()])[0])
    session.due(MONO_NS)
    liar = TimeSync(session._token, True, 1_000, 2_001_000)
    items = received(session, frames([liar], 2)[0], MONO_NS + 20 * MS)
    assert [i.cause for i in items if isinstance(i, Refusal)] == [Cause.MALFORMED]
    assert session.error_ns is None
    assert session.counters.n_exchanges == 0


def test_answers_that_nobody_asked_for_are_ignored() -> None:
    session = Session()
    received(session, frames([hello()])[0])
    session.due(MONO_NS)
    for token in (session._token + 1, session._token, session._token):
        received(session, frames([TimeSync(token, True, 5_000, 5_010)], 2)[0], MONO_NS + 10 * MS)
    assert session.counters.n_exchanges == 1


def test_an_event_has_its_own_time_and_tells_nothing_of_the_clock() -> None:
    desk = Desk(make_board())
    desk.play(20)
    old = desk.receive(desk.board.event("oil was low", desk.us - 5_000_000, code=3))
    [logged] = [i for i in old if isinstance(i, Logged)]
    assert abs(logged.at_ns - desk.true_ns(desk.us - 5_000_000)) < 2 * MS
    assert (logged.event.text, logged.event.code) == ("oil was low", 3)
    # The first word of another boot, before its Hello.
    [logged] = desk.receive(desk.board.event("started anew", 0, code=1))
    assert isinstance(logged, Logged)
    assert logged.at_ns == desk.mono_ns + UTC_NS
    assert desk.session.counters.n_resets == 0
    assert Session().receive(desk.board.event("first of all", 123), MONO_NS, UTC_NS + MONO_NS)


def test_a_frame_cut_by_a_disconnection_is_counted_and_forgotten() -> None:
    session = Session()
    one, two, three = frames([hello(), samples(0), samples(50)])
    items = received(session, one + two + three[:40])
    session.disconnected()
    items += received(session, b"\0" + one[1:] + three)
    assert session.counters.damage == {framing.Damage.SHORT: 1}
    assert rows_of(items) == list(range(100))


@pytest.mark.parametrize("by_us", [-1_500_000, -50_000, 20_000, RESET_US // 4])
def test_a_clock_that_is_set_by_less_than_a_reset_is_noticed_and_said(by_us: int) -> None:
    """A firmware that sets its own clock, and keeps its configuration."""
    desk = Desk(make_board())
    desk.play(10)
    desk._ahead_us += by_us
    desk.board._begin_us += by_us
    items = desk.play(60)
    [reset] = of_kind(Reset, items)
    assert isinstance(reset, Reset)
    assert reset.off_us == pytest.approx(by_us, abs=5000)
    assert reset.was_set
    assert (desk.session.counters.n_resets, desk.session.counters.n_set) == (1, 1)
    before = [r for r in items[: items.index(reset)] if isinstance(r, Rows)]
    after = [r for r in items[items.index(reset) :] if isinstance(r, Rows)]
    assert 1 <= len(before) < 40
    assert all(r.error_ns is not None for r in after)
    assert desk.worst_ns(after) < 5 * MS
    assert desk.worst_ns(after[-200:]) < 0.6 * MS
    assert rows_of(items) == list(range(rows_of(items)[0], desk.board.index))
    assert desk.session.counters.n_lost_rows == desk.session.counters.n_repeated_rows == 0


def test_a_clock_set_by_less_than_a_slip_is_slewed() -> None:
    desk = Desk(make_board())
    desk.play(10)
    desk._ahead_us += 3_000
    desk.board._begin_us += 3_000
    items = desk.play(60)
    assert not of_kind(Reset, items)
    starts = [r.start_ns for r in items if isinstance(r, Rows)]
    assert starts == sorted(starts)


# Reading in bulk


def _body(
    kind: int, config_id: int, code: int, n: int, c: int, index: int, first_us: int, extra: int, cut: int
) -> bytes:
    size = {1: 2, 2: 4, 3: 4}.get(code, 2)
    values = bytes(i % 251 for i in range(n * c * size))
    head = struct.pack("<BBHHBBHHII", 0x10, 2, index % U16, config_id, code, c, n, 0, first_us, index)
    body = head + values + bytes(extra)
    return body[: max(4, len(body) - cut)] if kind == 0 else body


_bodies = st.lists(
    st.tuples(
        st.integers(0, 5),  # 0: cut off
        st.integers(1, 2),
        st.integers(1, 3) | st.integers(0, 5),
        st.integers(0, 4),
        st.integers(0, 3),
        st.integers(0, 40) | st.integers(U32 - 20, U32 - 1),
        _u32,
        st.integers(0, 1),
        st.integers(1, 20),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=400, deadline=None)
@given(_bodies, st.booleans())
def test_bulk_reading_is_what_reading_body_by_body_gives(parts: list[tuple[int, ...]], follow: bool) -> None:
    bodies, index = [], 0
    for kind, config_id, code, n, c, at, first_us, extra, cut in parts:
        index = index if follow else at  # numbers that go on, or that do not
        bodies.append(_body(kind, config_id, code, n, c, index % U32, first_us, extra, cut))
        index += n
    expected: list[object] = []
    refused: list[str] = []
    for body in bodies:
        match protocol.parse(body):
            case Samples() as one:
                for k, row in enumerate(one.counts.tolist()):
                    row_index = (one.index + k) % U32
                    expected.append(
                        (one.config_id, str(one.counts.dtype), row_index, repr(row), one.first_us, k)
                    )
            case Refusal() as refusal:
                refused.append(refusal.text)
    batch = Bodies(bodies)
    assert [(a, b) for a, b, samples in batch.stretches() if samples] == [(0, len(bodies))]
    runs, refusals = batch.runs(0, len(bodies))
    found: list[object] = []
    for run in runs:
        n_frame = len(run.counts) // len(run.first_us)
        for k, row in enumerate(run.counts.tolist()):
            at_us = int(run.first_us[k // n_frame])
            row_index = (run.index + k) % U32
            found.append((run.config_id, str(run.counts.dtype), row_index, repr(row), at_us, k % n_frame))
    assert found == expected
    assert [r.text for r in refusals] == refused


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_stretches_cover_all_bodies_in_order(kinds: list[int]) -> None:
    made = [
        protocol.encode(samples(0), 1),
        protocol.encode(hello(), 1),
        bytes([0x20, 2, 0, 0]) + bytes(40),  # Samples of another major version
        bytes([0x10, 99, 0, 0]),
    ]
    bodies = [made[k] for k in kinds]
    at = 0
    for first, end, are_samples in Bodies(bodies).stretches():
        assert first == at
        assert end == first + 1 or are_samples
        assert all((k == 0) is are_samples for k in kinds[first:end])
        at = end
    assert at == len(bodies)


@pytest.mark.parametrize(
    ("last", "seqs", "expected"),
    [
        (None, [5], (0, 5)),
        (4, [5, 6], (0, 6)),
        (4, [6, 9], (3, 9)),
        (U16 - 1, [0, 2], (1, 2)),
        (10, [10, 11], (0, 11)),  # repeated
        (10, [5, 11], (0, 11)),
        (20_000, [0, 1, 3], (1, 3)),  # begun anew
        (20_000, [60_000, 60_002], (1, 60_002)),
        (None, [], (0, None)),
    ],
)
def test_lost_frames_by_their_numbers(
    last: int | None, seqs: list[int], expected: tuple[int, int | None]
) -> None:
    bodies = [protocol.encode(Ack(1, Op.START, AckStatus.OK), seq) for seq in seqs]
    if not bodies:
        bodies = [protocol.encode(Command(1, Op.START), 77), protocol.encode(TimeSync(1), 78)]  # an echo
    assert Bodies(bodies).n_lost(last) == expected
