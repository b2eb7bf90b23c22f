"""Samples that wait for their Hello, and Samples that no Hello fits."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from firmware_bridge import framing, protocol
from firmware_bridge.held import MAX_BYTES
from firmware_bridge.protocol import BoardChannel, Cause, Hello, Message, Refusal, Samples
from firmware_bridge.session import Session
from firmware_bridge.session_items import Item, Rows

MONO_NS, UTC_NS = 10**12, 1_700_000_000 * 10**9


def _hello(config_id: int, n_channels: int = 1, rate_hz: Fraction | None = Fraction(100)) -> Hello:
    channels = tuple(BoardChannel(f"c{i}") for i in range(n_channels))
    return Hello(config_id, "f", "1", "s", channels, rate_hz, 1_000_000)


def _samples(config_id: int, first: int, n_rows: int = 10, n_channels: int = 1) -> Samples:
    rows = np.arange(first, first + n_rows, dtype=np.int16)[:, None].repeat(n_channels, axis=1)
    return Samples(config_id, rows, 1_000_000 + first * 10_000, first)


def _receive(session: Session, *messages: Message) -> list[Item]:
    data = b"".join(framing.encode(protocol.encode(m, i)) for i, m in enumerate(messages))
    return session.receive(data, MONO_NS, UTC_NS)


def _values(items: list[Item]) -> list[int]:
    return [x for item in items if isinstance(item, Rows) for x in item.counts[:, 0].tolist()]


def test_samples_wait_for_their_hello() -> None:
    session = Session()
    assert _receive(session, _samples(1, 0), _samples(1, 10)) == []
    assert _values(_receive(session, _hello(1))) == list(range(20))
    assert session.counters.n_unexplained_rows == 0


def test_rows_from_before_a_boot_do_not_hold_up_those_behind_it() -> None:
    """As where opening the port resets the board, and the kernel still had rows of the boot before."""
    session = Session()
    _receive(session, _samples(1, 500), _samples(1, 510))
    assert _values(_receive(session, _hello(2), _samples(2, 0))) == list(range(10))
    assert session.hello is not None
    assert session.hello.config_id == 2
    assert _values(_receive(session, _samples(2, 10))) == list(range(10, 20))
    assert session.counters.n_unexplained_rows == 20


def test_rows_of_a_configuration_not_yet_explained_are_not_taken_for_the_old_one() -> None:
    session = Session()
    items = _receive(session, _hello(1), _samples(1, 0), _samples(2, 0), _samples(2, 10))
    assert _values(items) == list(range(10))
    assert session.hello is None  # asks for it
    assert _values(_receive(session, _hello(2), _samples(2, 20))) == list(range(30))
    assert session.counters.n_unexplained_rows == 0


def test_what_cannot_be_read_is_refused_once_however_long_it_waits() -> None:
    session = Session()
    body = bytearray(protocol.encode(_samples(1, 0), 1))
    body[6] = 9  # no such format
    items = session.receive(framing.encode(bytes(body)), MONO_NS, UTC_NS)
    assert [i.cause for i in items if isinstance(i, Refusal)] == [Cause.MALFORMED]
    for _ in range(3):
        assert not any(isinstance(i, Refusal) for i in _receive(session, _hello(1)))
    assert session.counters.damage[Cause.MALFORMED] == 1
    assert session.counters.n_unexplained_rows == 0


def test_samples_that_no_hello_explains_are_bounded_and_counted() -> None:
    session = Session()
    n = 3 * MAX_BYTES // 2000
    for i in range(n):
        _receive(session, _samples(1, 1000 * (i % 30), 1000))
        assert session._held.n_bytes <= MAX_BYTES
    held = len(session._held)
    assert session.counters.n_unexplained_rows == 1000 * (n - held)
    session.disconnected()
    assert session.counters.n_unexplained_rows == 1000 * n


def test_rows_of_an_irregular_board_come_one_a_frame() -> None:
    session = Session()
    items = _receive(
        session, _hello(1, rate_hz=None), _samples(1, 0, 1), _samples(1, 1, 3), _samples(1, 4, 1)
    )
    rows = [i for i in items if isinstance(i, Rows)]
    assert _values(items) == [0, 4]
    assert all(r.time_ns is not None and len(r.time_ns) == len(r.counts) for r in rows)
    [refusal] = [i for i in items if isinstance(i, Refusal)]
    assert refusal.cause is Cause.MALFORMED
    assert "3 rows a frame" in refusal.text


def test_rows_of_other_channels_than_the_hello_names_are_refused() -> None:
    session = Session()
    items = _receive(session, _hello(1, n_channels=2), _samples(1, 0, 4, n_channels=3))
    [refusal] = [i for i in items if isinstance(i, Refusal)]
    assert refusal.text == "SAMPLES of 3 channels, the Hello names 2"
    assert session.counters.n_rows == 0


@pytest.mark.parametrize("in_one_read", [True, False])
def test_what_comes_after_rows_that_no_hello_explains_waits_with_them(in_one_read: bool) -> None:
    """Though it be of the configuration before: a Hello is asked for, and says which of them holds."""
    session = Session()
    sent = [_hello(1), _samples(1, 0), _samples(2, 0), _samples(1, 10), _samples(1, 20)]
    reads = [sent] if in_one_read else [[message] for message in sent]
    assert _values([item for read in reads for item in _receive(session, *read)]) == list(range(10))
    assert session.hello is None
    assert _values(_receive(session, _hello(1))) == list(range(10, 30))
    assert session.counters.n_unexplained_rows == 10
