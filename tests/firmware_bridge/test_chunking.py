"""However a stream is cut into reads, the same comes of it: rows, what is counted and said, and times but for what a read
cannot know, for of the rows that it brings only the last has just been taken."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import framing, protocol
from firmware_bridge.protocol import EventSeverity, Op, TimeSync
from firmware_bridge.session import Session
from firmware_bridge.session_items import Item, Logged, Reset, Rows, SessionCounters
from models.signal import NS_PER_S
from tests.firmware_bridge.test_session import (
    MONO_NS,
    UTC_NS,
    frames,
    hello,
    make_board,
    rows_of,
    samples,
)

TURN_US = 40_000


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
    """With damage, unknown types, events, several configurations, both ends' frames, and frames that come twice."""
    kinds = st.sampled_from(
        ["samples", "skip", "event", "hello", "set_rate", "noise", "future", "echo", "sync", "again"]
    )
    board = make_board(rows=7)
    session = Session()
    parts: list[bytes] = [board.run(0)]
    sent: list[bytes] = []  # frames of samples
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
