"""Messages: there and back, cut at every length, with more behind them, and bodies that are anything."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware_bridge import protocol
from firmware_bridge.framing import MAX_BODY
from firmware_bridge.protocol import (
    U16,
    U32,
    Ack,
    AckStatus,
    BoardChannel,
    Cause,
    Command,
    Event,
    EventSeverity,
    Hello,
    Message,
    Op,
    Refusal,
    Samples,
    TimeSync,
)
from tests.firmware_bridge.test_vectors import same

# On a busy machine nothing is quick.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_u16, _u32 = st.integers(0, U16 - 1), st.integers(0, U32 - 1)
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_rates = st.none() | st.builds(Fraction, st.integers(1, U32 - 1), st.integers(1, U32 - 1))
# As a board writes them: the shortest decimal of a float32.
_offsets = st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda x: float(str(np.float32(x))))
_channels = st.lists(
    st.builds(BoardChannel, _text.filter(bool), _text, _offsets.filter(bool), _offsets),
    min_size=1,
    max_size=5,
    unique_by=lambda c: c.name,
).map(tuple)


@st.composite
def _samples(draw: st.DrawFn) -> Samples:
    dtype = draw(st.sampled_from(["<i2", "<i4", "<f4"]))
    n_rows, n_channels = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    size = n_rows * n_channels * np.dtype(dtype).itemsize
    counts = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(n_rows, n_channels)
    return Samples(draw(_u16), counts, draw(_u32), draw(_u32))


_messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, _u16, _text, _text, _text, _channels, _rates, _u32),
    _samples(),
    st.builds(TimeSync, _u16, st.booleans(), _u32, _u32),
    st.builds(Event, _u32, _u16, st.sampled_from(EventSeverity), _text),
    st.builds(Command, _u16, st.sampled_from(Op), _rates),
    st.builds(Ack, _u16, st.sampled_from(Op), st.sampled_from(AckStatus)),
)


def refusal(body: bytes) -> Refusal:
    found = protocol.parse(body)
    assert isinstance(found, Refusal)
    return found


@settings(UNHURRIED, max_examples=300)
@given(_messages, _u16)
def test_every_message_goes_there_and_back(message: Message, seq: int) -> None:
    body = protocol.encode(message, seq)
    assert same(protocol.parse(body), message)
    assert protocol.seq_of(body) == seq


@settings(UNHURRIED, max_examples=200)
@given(_messages)
def test_cut_at_any_length_it_is_refused(message: Message) -> None:
    body = protocol.encode(message, 0)
    for n in range(len(body)):
        assert refusal(body[:n]).cause is Cause.MALFORMED


@settings(UNHURRIED)
@given(_messages, st.binary(min_size=1, max_size=50), st.integers(0, 15))
def test_what_a_newer_minor_version_appends_is_ignored(message: Message, more: bytes, minor: int) -> None:
    body = bytearray(protocol.encode(message, 1) + more)
    body[0] = protocol.MAJOR << 4 | minor
    assert same(protocol.parse(bytes(body)), message)


@settings(UNHURRIED)
@given(_messages, st.integers(0, 15).filter(lambda major: major != protocol.MAJOR), st.integers(0, 15))
def test_another_major_version_is_refused_and_the_text_says_what_to_do(
    message: Message, major: int, minor: int
) -> None:
    body = bytearray(protocol.encode(message, 1))
    body[0] = major << 4 | minor
    found = refusal(bytes(body))
    assert found.cause is Cause.UNKNOWN_VERSION
    assert f"version {major}.{minor}" in found.text
    assert "up to date" in found.text


@settings(UNHURRIED)
@given(st.integers(0, 255).filter(lambda type_: type_ not in set(protocol.Type)), st.binary(max_size=50))
def test_unknown_types_are_refused_by_number(type_: int, rest: bytes) -> None:
    found = refusal(protocol.HEADER.pack(protocol.VERSION, type_, 0) + rest)
    assert found.cause is Cause.UNKNOWN_TYPE
    assert f"type {type_}" in found.text


@settings(UNHURRIED, max_examples=500)
@given(st.binary(max_size=80), st.sampled_from([0, *protocol.Type]))
def test_any_body_is_a_message_or_a_refusal(rest: bytes, type_: int) -> None:
    protocol.parse(rest)
    found = protocol.parse(protocol.HEADER.pack(protocol.VERSION, type_, 0) + rest)
    assert isinstance(found, Message | Refusal)


@settings(UNHURRIED, max_examples=500)
@given(_messages, st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_changed_body_is_a_message_or_a_refusal(message: Message, changes: list[tuple[int, int]]) -> None:
    body = bytearray(protocol.encode(message, 0))
    for at, byte in changes:
        body[at % len(body)] = byte
    assert isinstance(protocol.parse(bytes(body)), Message | Refusal)


def test_times_and_numbers_are_taken_modulo_their_width() -> None:
    assert protocol.parse(protocol.encode(TimeSync(1, True, U32 + 5, 2 * U32 - 1), U16 + 3)) == TimeSync(
        1, True, 5, U32 - 1
    )
    assert protocol.seq_of(protocol.encode(TimeSync(1), U16 + 3)) == 3


def test_a_severity_of_a_later_version_is_an_error() -> None:
    body = bytearray(protocol.encode(Event(1, 2, EventSeverity.DEBUG, "x"), 0))
    body[10] = 200
    assert protocol.parse(bytes(body)) == Event(1, 2, EventSeverity.ERROR, "x")


_channel = BoardChannel("x")


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (Hello(U16, "f", "1", "s", (_channel,), None), "Hello"),
        (Hello(1, "f" * 256, "1", "s", (_channel,), None), "255"),
        (Hello(1, "f", "1", "s", (_channel,), Fraction(U32)), "Hello"),
        (Hello(1, "f", "1", "s", tuple(BoardChannel(f"{i:0200}") for i in range(25)), None), str(MAX_BODY)),
        (Samples(1, np.zeros((2, 2), np.float64), 0, 0), "float64"),
        (Samples(1, np.zeros((2100, 1), np.int16), 0, 0), str(MAX_BODY)),
        (Samples(-1, np.zeros((1, 1), np.int16), 0, 0), "Samples"),
        (Hello(1, "f", "1", "s", (BoardChannel("x", scale=1e39),), None), "Hello"),
        (Event(1, U16, EventSeverity.INFO, ""), "Event"),
        (Event(1, 1, EventSeverity.INFO, "é" * 128), "255"),
        (Command(U16, Op.START), "Command"),
        (Ack(-1, Op.START, AckStatus.OK), "Ack"),
    ],
)
def test_what_does_not_fit_the_layout_is_not_written(message: Message, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        protocol.encode(message, 0)
