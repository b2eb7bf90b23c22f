"""What a steady board sends is taken on a short path; what comes out is what the long one gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import framing, protocol
from firmware_bridge.protocol import U16, U32, BoardChannel, Event, EventSeverity, Hello, Message, Samples
from firmware_bridge.runs import Run
from firmware_bridge.session import Session
from firmware_bridge.session_items import Item, Rows
from models.signal import NS_PER_S
from tests.firmware_bridge.test_session import CHANNELS, RATE, frames, hello, ramp, samples

MS = 1_000_000


class Long(Session):
    """Looks closely at each read."""

    def _going_on(self, bodies: list[bytes], seq: int) -> Run | None:
        return None


class Counting(Session):
    """How many reads went the short way."""

    n_short = 0

    def _going_on(self, bodies: list[bytes], seq: int) -> Run | None:
        run = super()._going_on(bodies, seq)
        self.n_short += run is not None
        return run


def told(item: Item) -> object:
    """All that an item says, comparable."""
    if not isinstance(item, Rows):
        return item
    times = None if item.time_ns is None else item.time_ns.tolist()
    counts = (item.counts.dtype.str, item.counts.tolist())
    said = (item.start_ns, item.arrival_ns, item.clock, item.error_ns, item.index, item.device_us)
    return item.hello, counts, times, said


def play(session: Session, reads: Sequence[bytes], step_ns: int = 50 * MS) -> list[object]:
    at_ns, items = NS_PER_S, []
    for read in reads:
        at_ns += step_ns
        items += [told(item) for item in session.receive(read, at_ns, 10**18 + at_ns)]
    return items


def steady(n: int, *, first: int = 0, rows: int = 50) -> list[Message]:
    return [samples(first + i * rows, rows) for i in range(n)]


def test_a_board_in_its_stride_takes_the_short_path() -> None:
    session = Counting()
    sent = frames([hello(), *steady(100)])
    items = play(session, [sent[0] + sent[1], *sent[2:51], b"".join(sent[51:])])
    assert session.n_short == 50
    assert items == play(Long(), [sent[0] + sent[1], *sent[2:51], b"".join(sent[51:])])
    assert session.counters.n_rows == 5000


what = st.sampled_from(
    ("next",) * 12
    + ("lost", "again", "old", "hello", "event", "int16", "other rows", "other pace", "other config", "jump")
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(what, min_size=1, max_size=60),
    st.integers(1, 12),
    st.sampled_from((0, U16 - 10)),
    st.sampled_from((0, U32 - 700)),
    st.booleans(),
)
def test_the_short_path_gives_what_the_long_one_does(
    happens: list[str], a_read: int, seq: int, index: int, cuts: bool
) -> None:
    out: list[bytes] = []

    def send(message: Message, number: int) -> None:
        out.append(framing.encode(protocol.encode(message, number)))

    at_us, n = 0, 50
    send(hello(), seq)
    for event in ["next", "next", *happens]:
        seq += 1
        us = at_us
        rows = n
        if event == "lost":
            seq, index, us = seq + 1, index + n, us + n * 1000
        elif event == "old":
            seq, index, us = seq, index - 2 * n, us - 2 * n * 1000
        elif event == "again" and len(out) > 1:
            out.append(out[-1])
        elif event == "hello":
            send(hello(now_us=us % U32), seq)
            seq += 1
        elif event == "event":
            send(Event(us % U32, 1, EventSeverity.INFO, "so"), seq)
            seq += 1
        elif event == "other rows":
            rows = 20
        elif event == "other pace":
            us += 90_000
        elif event == "jump":
            us += 3_000_000
        counts = ramp(np.arange(index, index + rows))
        if event == "int16":
            counts = counts.astype("<i2")
        send(Samples(2 if event == "other config" else 1, counts, us % U32, index % U32), seq)
        index, at_us = index + rows, us + rows * 1000
    if cuts:
        stream = b"".join(out)
        reads = [stream[i : i + 97 * a_read] for i in range(0, len(stream), 97 * a_read)]
    else:
        reads = [b"".join(out[i : i + a_read]) for i in range(0, len(out), a_read)]
    short, long = Session(), Long()
    assert play(short, reads) == play(long, reads)
    assert dataclasses.asdict(short.counters) == dataclasses.asdict(long.counters)


@pytest.mark.parametrize("change", ["name", "channels", "rate"])
def test_a_new_hello_is_heeded_at_once(change: str) -> None:
    """Under the same config_id, which no board should do: what the rows mean is what the newest Hello says."""
    others: dict[str, Hello] = {
        "name": dataclasses.replace(hello(), channels=(BoardChannel("u"), BoardChannel("v"))),
        "channels": dataclasses.replace(hello(), channels=CHANNELS[:1]),
        "rate": dataclasses.replace(hello(), rate_hz=RATE / 2),
    }
    sent = frames([hello(), *steady(4), others[change], *steady(4, first=200)])
    assert play(Session(), sent) == play(Long(), sent)
