"""However a stream is cut into reads, the same comes of it: rows, what is counted and said, and times but for what a read
cannot know, for of the rows that it brings only the last has just been taken."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import framing, protocol
from firmware_bridge.board import Board
from firmware_bridge.protocol import EventSeverity, Hello, Op, Samples, TimeSync
from firmware_bridge.session import Session
from firmware_bridge.session_items import Item, Logged, Reset, Rows, SessionCounters
from models.signal import NS_PER_S
from tests.firmware_bridge.test_session import (
    CHANNELS,
    MONO_NS,
    MS,
    UTC_NS,
    frames,
    hello,
    make_board,
    ramp,
    rows_of,
    samples,
)

SETS_S = (-600, -5, 5, 600)  # by which a clock is set, far more than all that is sent lasts;
SETS_IN_TURN_S = (5, 11, 23, 47, 95, 191, 383)  # or so, which nothing afterwards takes back
TURN_US = 40_000


class Irregular(Board):
    """Names no rate, and each row has its own time."""

    def __init__(self) -> None:
        super().__init__(CHANNELS, Fraction(150), ramp, rows=1)

    def _hello(self, at_us: int) -> Hello:
        return dataclasses.replace(super()._hello(at_us), rate_hz=None)


class Heard:
    """What a session makes of a stream that comes in these chunks, all at ``at_ns``."""

    def __init__(self, chunks: list[bytes], at_ns: int = MONO_NS, session: Session | None = None) -> None:
        self.session = session or Session()
        self.items: list[Item] = []
        for chunk in chunks:
            self.items += self.session.receive(chunk, at_ns, at_ns + UTC_NS)

    @property
    def counters(self) -> SessionCounters:
        return self.session.counters

    @property
    def told(self) -> list[object]:
        """All items in order, row by row, without times."""
        return [x for item in self.items for x in plain(item)]

    @property
    def times_ns(self) -> list[int]:
        """Of each row, as on the monotonic clock."""
        found: list[int] = []
        for rows in self.items:
            if isinstance(rows, Rows):
                found += [t - UTC_NS for t in times_of(rows)]
        return found


def times_of(rows: Rows) -> list[int]:
    if rows.time_ns is not None:
        return [int(t) for t in rows.time_ns]
    assert rows.hello.rate_hz is not None
    return [rows.start_ns + round(i * NS_PER_S / rows.hello.rate_hz) for i in range(len(rows.counts))]


def plain(item: Item) -> list[object]:
    match item:
        case Rows():
            return [(item.hello.config_id, *row) for row in item.counts.tolist()]
        case Reset():
            return ["reset"]
        case Logged():
            return [item.event]
        case _:
            return [item]


def byte_by_byte(stream: bytes) -> list[bytes]:
    return [stream[i : i + 1] for i in range(len(stream))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_chunking_gives_the_same(data: st.DataObject) -> None:
    """With damage, unknown types, events, several configurations, both ends' frames, frames that come twice, and a clock
    that is set."""
    kinds = st.sampled_from(
        ["samples", "skip", "event", "hello", "set_rate", "noise", "future", "echo", "sync", "again", "set"]
    )
    board = data.draw(st.sampled_from([lambda: make_board(rows=7), Irregular]))()
    session = Session()
    parts: list[bytes] = [board.run(0)]
    sent: list[bytes] = []  # frames of samples since the clock was set
    sets_s = list(data.draw(st.permutations(SETS_IN_TURN_S)))
    at_us = 0
    for turn, kind in enumerate(data.draw(st.lists(kinds, max_size=25)), 1):
        at_us += TURN_US
        match kind:
            case "samples":
                parts.append(board.run(at_us))
                sent += [b"\0" + frame + b"\0" for frame in parts[-1].split(b"\0") if frame]
            case "again" if sent:
                first = data.draw(st.integers(-len(sent), -1))
                parts += sent[first:][: data.draw(st.integers(1, 20))]
            case "set" if sets_s:
                by_us = 1_000_000 * data.draw(st.sampled_from((-1, 1))) * sets_s.pop()
                if data.draw(st.booleans()):  # while a frame is under way, or after what is there
                    parts.append(board.run(at_us))
                at_us += by_us
                board._begin_us += by_us
                board._hello_us += by_us
                parts.append(board.run(at_us + TURN_US))
                sent.clear()
            case "skip":
                board.skip(2)
            case "event":
                parts.append(board.event("hot", at_us, code=7, severity=EventSeverity.WARNING))
            case "hello":
                parts.append(board.receive(session.command(Op.IDENTIFY)[1], at_us))
            case "set_rate":
                rate = Fraction(data.draw(st.integers(100, 900)))
                parts.append(board.receive(session.command(Op.SET_RATE, rate)[1], at_us))
            case "noise":
                parts.append(data.draw(st.binary(max_size=30)))
            case "future":
                parts.append(framing.encode(bytes([protocol.VERSION + 1, 99, 0, 0]) + b"?"))
            case "echo":
                parts += session.due(MONO_NS + turn * TURN_US * 1000)
            case "sync":
                parts.append(board.receive(framing.encode(protocol.encode(TimeSync(9), 1)), at_us))
    stream = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=30).map(sorted))
    whole = Heard([stream])
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    for chunks in (pieces, byte_by_byte(stream)):
        heard = Heard(chunks)
        assert heard.told == whole.told
        assert heard.counters == whole.counters
        assert np.abs(np.subtract(heard.times_ns, whole.times_ns)).max(initial=0) < 3 * NS_PER_S


def test_a_frame_that_comes_twice_in_a_long_read_is_taken_once() -> None:
    """More than a frame may be off its pace comes after it, so that its run ends with rows that are clearly newer."""
    made = frames([hello(), *(samples(i * 27, 27) for i in range(6))])
    stream = b"".join([*made[:2], made[1], *made[2:]])
    for chunks in ([stream], byte_by_byte(stream)):
        heard = Heard(chunks)
        assert rows_of(heard.items) == list(range(162))
        assert (heard.counters.n_repeated_rows, heard.counters.n_lost_rows) == (27, 0)


def test_a_board_that_counts_anew_is_not_taken_for_repeating() -> None:
    """Its rows are newer, by however little, and not where their numbers say."""
    again = [samples(i * 50, first_us=1_000_000 + i * 50_000) for i in range(6)]
    stream = b"".join(frames([hello(), *(samples(i * 50) for i in range(20)), *again]))
    for chunks in ([stream], byte_by_byte(stream)):
        heard = Heard(chunks)
        assert rows_of(heard.items) == [*range(1000), *range(300)]
        assert not heard.counters.n_repeated_rows


@pytest.mark.parametrize("by_s", SETS_S)
def test_rows_before_an_irregular_boards_clock_was_set_keep_their_time(by_s: int) -> None:
    board = Heard(frames([hello(rate_hz=None, now_us=1_000_000)])).session
    us = [1_000_000 + i * 10_000 + (i >= 5) * by_s * 1_000_000 for i in range(8)]
    stream = b"".join(frames([samples(i, 1, first_us=at) for i, at in enumerate(us)], 2))
    heard = Heard([stream], MONO_NS + 70 * MS, board)
    assert heard.counters.n_resets == 1
    assert [t - MONO_NS for t in heard.times_ns] == [i * 10 * MS for i in range(8)]


@pytest.mark.parametrize("by_s", SETS_S)
@pytest.mark.parametrize("skipped", [0, 2])
def test_a_clock_that_was_set_and_set_right_again_in_one_read(by_s: int, skipped: int) -> None:
    """Also where rows are missing before it was set, so that nothing else comes with those from between."""
    session = Heard(frames([hello(rate_hz=None, now_us=0), samples(0, 1)])).session
    wrong = range(5, 8)
    made = [
        samples(i + skipped * (i >= 5), 1, first_us=i * 10_000 + (i in wrong) * by_s * 1_000_000)
        for i in range(1, 12)
    ]
    heard = Heard([b"".join(frames(made, 3))], MONO_NS + 110 * MS, session)
    assert heard.counters.n_resets == 2
    assert all(0 <= t - MONO_NS <= 200 * MS for t in heard.times_ns)


def test_an_irregular_boards_rows_that_waited_are_no_clock_that_was_set() -> None:
    """Rows minutes apart that come in one read: the last of them is as late as it should be."""
    heard = Heard(frames([hello(rate_hz=None, now_us=0)]))
    sparse = [samples(i, 1, first_us=i * 60_000_000) for i in range(4)]
    heard = Heard([b"".join(frames(sparse, 2))], MONO_NS + 180 * NS_PER_S, heard.session)
    assert heard.counters.n_resets == 0
    assert [t - MONO_NS for t in heard.times_ns] == [i * 60 * NS_PER_S for i in range(4)]


def test_an_irregular_row_that_is_a_little_older_than_the_one_before_is_no_wrap() -> None:
    session = Heard(frames([hello(rate_hz=None, now_us=0)])).session
    us = [0, 10_000, 8_000, 20_000]
    made: list[Samples] = [samples(i, 1, first_us=at) for i, at in enumerate(us)]
    heard = Heard([b"".join(frames(made, 2))], MONO_NS + 20 * MS, session)
    assert heard.counters.n_resets == 0
    assert [t - MONO_NS for t in heard.times_ns] == [0, 10 * MS, 10 * MS, 20 * MS]
