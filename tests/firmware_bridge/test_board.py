"""The C header as a firmware uses it, read by the package: rows, commands, questions, and lines that fail."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firmware_bridge import framing, protocol
from firmware_bridge.framing import MAX_BODY, FrameDecoder
from firmware_bridge.protocol import (
    U32,
    Ack,
    AckStatus,
    Command,
    Event,
    EventSeverity,
    Format,
    Hello,
    Message,
    Op,
    Refusal,
    Samples,
    TimeSync,
)
from tests.firmware_bridge.compilers import C99, HERE, build

# On a busy machine nothing is quick.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
READY, NO_CALLBACK, BAD_CHANNELS, BAD_TEXT, BAD_RATE, SMALL_BUFFER = range(6)
UNKNOWN_TYPE, UNKNOWN_VERSION, MALFORMED = range(3)


class Board:
    """board_shim.c, and the messages that it sends."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.c = library
        library.board_unsent.restype = library.board_refused.restype = ctypes.c_uint32
        library.board_buffer_for.restype = ctypes.c_uint32
        library.board_take.restype = ctypes.c_size_t
        library.board_kept_within.restype = ctypes.c_bool
        library.board_channel.argtypes = [ctypes.c_uint8, ctypes.c_char_p, ctypes.c_float, ctypes.c_float]
        self._out = ctypes.create_string_buffer(1 << 20)
        self._seqs: list[int] = []

    def begin(self, n_channels: int = 2, rate: tuple[int, int] = (1000, 1), buffer_size: int = 512) -> Hello:
        self.c.board_prepare(n_channels, *rate, buffer_size)
        assert self.c.board_begin() == READY
        self._seqs = []
        [hello] = self.take()
        assert isinstance(hello, Hello)
        return hello

    def push(self, row: list[int], us: int) -> None:
        self.c.board_push(Format.INT16, np.array(row, "<i2").tobytes(), ctypes.c_uint32(us))

    def hears(self, message: Message) -> None:
        self.hears_body(protocol.encode(message, 1))

    def hears_body(self, body: bytes) -> None:
        frame = framing.encode(body)
        self.c.board_poll(frame, len(frame))

    def take(self) -> list[Message]:
        """What was sent since the last time; every frame of it is intact and readable, and numbered in order."""
        decoder, n = FrameDecoder(), self.c.board_take(self._out)
        bodies = decoder.feed(self._out.raw[:n])
        assert not decoder.damage
        assert self.c.board_kept_within()
        messages: list[Message] = []
        for body in bodies:
            message = protocol.parse(body)
            assert not isinstance(message, Refusal), message.text
            messages.append(message)
        self._seqs += map(protocol.seq_of, bodies)
        assert all((b - a) % 65536 == 1 for a, b in pairwise(self._seqs))
        return messages

    def take_rows(self) -> tuple[NDArray[np.generic], list[Samples]]:
        """The rows sent since the last time, and their frames, of which nothing else was sent."""
        frames = [m for m in self.take() if isinstance(m, Samples)]
        return np.concatenate([f.counts for f in frames]), frames


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("board") / "board.so"
    return ctypes.CDLL(str(build(HERE / "board_shim.c", target, *C99, "-Os", "-shared", "-fPIC")))


@pytest.fixture
def board(library: ctypes.CDLL) -> Board:
    return Board(library)


def test_hello_says_what_the_board_is(board: Board) -> None:
    hello = board.begin(n_channels=2, rate=(51200, 3))
    assert (hello.firmware, hello.version, hello.serial) == ("shim", "1", "s")
    assert [(c.name, c.unit, c.scale, c.offset) for c in hello.channels] == [
        ("c00", "V", 1.0, 0.0),
        ("c01", "V", 1.0, 0.0),
    ]
    assert hello.rate_hz == Fraction(51200, 3)
    assert hello.config_id == 7


@settings(UNHURRIED, max_examples=60)
@given(data=st.data())
def test_rows_arrive_as_they_were_pushed(library: ctypes.CDLL, data: st.DataObject) -> None:
    board = Board(library)
    n_channels = data.draw(st.integers(1, 64))
    format_ = data.draw(st.sampled_from(list(Format)))
    dtype = np.dtype(protocol.DTYPES[format_])
    least = max(library.board_buffer_for(1, n_channels, 4), 60 + 20 * n_channels)
    board.begin(n_channels, buffer_size=data.draw(st.integers(least, 6000)))
    n_rows = data.draw(st.integers(1, 300))
    values = data.draw(st.binary(min_size=1, max_size=600).map(bytearray))
    content = bytes(values * (n_rows * n_channels * dtype.itemsize // len(values) + 1))
    rows = np.frombuffer(content, dtype, n_rows * n_channels).reshape(n_rows, n_channels)
    for i, row in enumerate(rows):
        library.board_push(format_, row.tobytes(), ctypes.c_uint32(U32 - 5000 + 100 * i))
    library.board_flush()
    got, frames = board.take_rows()
    assert got.dtype == dtype
    assert got.tobytes() == rows.tobytes()
    first = 0
    for frame in frames:
        assert frame.index == first
        assert frame.first_us == (U32 - 5000 + 100 * first) % U32
        first += len(frame.counts)


def test_a_buffer_for_so_many_rows_holds_them(board: Board) -> None:
    for n_rows in range(1, 200):
        size = board.c.board_buffer_for(n_rows, 2, 2)
        if size < 120:
            continue  # for the Hello
        board.begin(2, buffer_size=size)
        for i in range(n_rows + 1):
            board.push([i, i], i)
        _, frames = board.take_rows()
        assert [len(f.counts) for f in frames] in ([n_rows], [n_rows + 1]), size


def test_a_frame_is_never_longer_than_the_protocol_allows(board: Board) -> None:
    board.begin(1, buffer_size=8192)
    for i in range(4000):
        board.push([i], i)
    _, frames = board.take_rows()
    assert [len(f.counts) for f in frames] == [(MAX_BODY - 20) // 2]


def test_rows_wait_no_longer_than_they_may(board: Board) -> None:
    board.c.board_prepare(2, 1000, 1, 4096)
    board.c.board_intervals(20000, 0)
    assert board.c.board_begin() == READY
    board.take()
    board.push([1, 2], 1000)
    board.push([3, 4], 20999)
    assert board.take() == []
    board.push([5, 6], 21000)
    rows, _ = board.take_rows()
    assert rows.tolist() == [[1, 2], [3, 4], [5, 6]]
    board.c.board_clock(22000)
    board.c.board_push_i16(np.array([7, 8], "<i2").tobytes())
    board.c.board_clock(41999)
    board.c.board_poll(None, 0)
    assert board.take() == []
    board.c.board_clock(42000)
    board.c.board_poll(None, 0)
    rows, [frame] = board.take_rows()
    assert rows.tolist() == [[7, 8]]
    assert frame.first_us == 22000


def test_an_irregular_board_sends_each_row_with_its_own_time(board: Board) -> None:
    assert board.begin(rate=(0, 1)).rate_hz is None
    for us in (10, 5000, 5001):
        board.push([1, 2], us)
    _, frames = board.take_rows()
    assert [(f.first_us, len(f.counts)) for f in frames] == [(10, 1), (5000, 1), (5001, 1)]


def test_rows_of_another_format_begin_a_frame(board: Board) -> None:
    board.begin()
    board.c.board_push_i16(np.array([1, 2], "<i2").tobytes())
    board.c.board_push_i32(np.array([3, 4], "<i4").tobytes())
    board.c.board_push_f32(np.array([0.5, 6], "<f4").tobytes())
    board.c.board_flush()
    frames = [m for m in board.take() if isinstance(m, Samples)]
    assert [(str(f.counts.dtype), f.counts.tolist(), f.index) for f in frames] == [
        ("int16", [[1, 2]], 0),
        ("int32", [[3, 4]], 1),
        ("float32", [[0.5, 6.0]], 2),
    ]


def test_rows_that_were_missed_leave_a_gap_in_the_numbers(board: Board) -> None:
    board.begin()
    board.push([1, 1], 0)
    board.c.board_skip(5)
    board.push([2, 2], 6000)
    board.c.board_flush()
    _, frames = board.take_rows()
    assert [(f.index, f.first_us) for f in frames] == [(0, 0), (6, 6000)]


def test_frames_that_the_line_did_not_take_are_counted_and_leave_a_gap(board: Board) -> None:
    board.begin()
    board.c.board_line(False)
    board.push([1, 1], 0)
    board.c.board_flush()
    assert board.c.board_unsent() == 1
    board.c.board_line(True)
    board._seqs.clear()
    board.push([2, 2], 1000)
    board.c.board_flush()
    _, [frame] = board.take_rows()
    assert frame.index == 1


def test_questions_are_answered_at_once_and_leave_rows_waiting(board: Board) -> None:
    board.begin()
    board.push([1, 1], 0)
    board.c.board_clock(U32 - 3)
    board.hears(TimeSync(0xABCD))
    [reply] = board.take()
    assert reply == TimeSync(0xABCD, reply=True, received_us=U32 - 3, sent_us=U32 - 3)
    board.hears(reply)  # its own, come back
    assert board.take() == []


def test_hello_is_said_now_and_then_across_the_wrap(board: Board) -> None:
    board.c.board_prepare(2, 1000, 1, 512)
    board.c.board_intervals(0, 2_000_000)
    board.c.board_clock(ctypes.c_uint32(U32 - 500_000))
    assert board.c.board_begin() == READY
    assert len(board.take()) == 1
    for us, n in ((1_499_999, 0), (1_500_000, 1), (1_500_001, 0), (3_500_000, 1)):
        board.c.board_clock(us)
        board.c.board_poll(None, 0)
        assert len(board.take()) == n, us


def test_identify_is_acknowledged_and_answered(board: Board) -> None:
    hello = board.begin()
    board.hears(Command(9, Op.IDENTIFY))
    assert board.take() == [Ack(9, Op.IDENTIFY, AckStatus.OK), hello]


def test_stop_and_start_begin_a_new_configuration(board: Board) -> None:
    before = board.begin()
    board.push([1, 1], 0)
    board.hears(Command(1, Op.STOP))
    rows, ack = board.take()
    assert isinstance(rows, Samples)
    assert ack == Ack(1, Op.STOP, AckStatus.OK)
    board.push([2, 2], 10)
    board.c.board_skip(3)
    board.c.board_flush()
    assert board.take() == []
    board.hears(Command(2, Op.START))
    ack, hello = board.take()
    assert ack == Ack(2, Op.START, AckStatus.OK)
    assert isinstance(hello, Hello)
    assert hello.config_id != before.config_id
    board.push([3, 3], 20)
    board.c.board_flush()
    [samples] = board.take()
    assert isinstance(samples, Samples)
    assert (samples.config_id, samples.index, samples.counts.tolist()) == (hello.config_id, 0, [[3, 3]])
    board.hears(Command(3, Op.START))  # it runs already
    assert board.take() == [Ack(3, Op.START, AckStatus.OK)]


def test_another_rate_is_what_the_board_can_do(board: Board) -> None:
    before = board.begin()
    board.push([1, 1], 0)
    board.c.board_answer(AckStatus.OK, 3333)
    board.hears(Command(4, Op.SET_RATE, Fraction(4000)))
    rows, ack, hello = board.take()
    assert isinstance(rows, Samples)
    assert rows.config_id == before.config_id
    assert ack == Ack(4, Op.SET_RATE, AckStatus.OK)
    assert isinstance(hello, Hello)
    assert hello.rate_hz == 3333
    assert hello.config_id != before.config_id


@pytest.mark.parametrize("status", [AckStatus.UNSUPPORTED, AckStatus.BAD_ARGUMENT, AckStatus.BUSY])
@pytest.mark.parametrize("op", [Op.START, Op.STOP, Op.SET_RATE])
def test_what_the_firmware_does_not_grant_has_no_effect(board: Board, op: Op, status: AckStatus) -> None:
    board.begin()
    board.c.board_answer(status, 0)
    board.hears(Command(5, op, Fraction(50) if op is Op.SET_RATE else None))
    assert board.take() == [Ack(5, op, status)]
    board.push([1, 1], 0)
    board.c.board_flush()
    _, [frame] = board.take_rows()
    assert (frame.config_id, frame.index) == (7, 0)


def test_a_rate_of_nothing_is_a_bad_argument(board: Board) -> None:
    board.begin()
    board.hears(Command(5, Op.SET_RATE))
    assert board.take() == [Ack(5, Op.SET_RATE, AckStatus.BAD_ARGUMENT)]


def test_reboot_is_acknowledged_first(board: Board) -> None:
    board.begin()
    board.hears(Command(6, Op.REBOOT))
    assert board.take() == [Ack(6, Op.REBOOT, AckStatus.OK)]
    assert board.c.board_reboots() == 1


def test_without_callbacks_only_what_needs_none_is_granted(board: Board) -> None:
    board.c.board_prepare(2, 1000, 1, 512)
    board.c.board_no_callbacks()
    assert board.c.board_begin() == READY
    board.take()
    asked = [Op.START, Op.STOP, Op.SET_RATE, Op.REBOOT]
    for i, op in enumerate(asked):
        board.hears(Command(i, op, Fraction(9) if op is Op.SET_RATE else None))
    statuses = [AckStatus.OK, AckStatus.OK, AckStatus.UNSUPPORTED, AckStatus.UNSUPPORTED]
    assert board.take() == [Ack(i, op, s) for i, (op, s) in enumerate(zip(asked, statuses, strict=True))]


def test_an_op_of_a_later_version_is_answered_as_unsupported(board: Board) -> None:
    board.begin()
    body = bytearray(protocol.encode(Command(0x0102, Op.START), 1) + b"appended")
    body[0], body[6] = 0x11, 77
    board.hears_body(bytes(body))
    decoder = FrameDecoder()
    n = board.c.board_take(board._out)
    [answer] = decoder.feed(board._out.raw[:n])
    assert answer[1] == protocol.Type.ACK
    assert answer[4:8] == bytes([2, 1, 77, AckStatus.UNSUPPORTED])


def test_what_the_board_cannot_read_is_counted(board: Board) -> None:
    board.begin()
    for body in (b"\x20\x05\x01\x00" + bytes(16), b"\x10\x09\x01\x00", b"\x10\x05\x01\x00\x01", b"\x10"):
        board.hears_body(body)
    assert [board.c.board_refused(c) for c in (UNKNOWN_VERSION, UNKNOWN_TYPE, MALFORMED)] == [1, 1, 2]
    assert board.take() == []


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("short", 5),
        ("x" * 300, 255),
        ("é" * 200, 254),
        ("a" + "é" * 200, 255),
        ("€" * 100, 255),
        ("😀" * 80, 252),
    ],
)
def test_texts_are_cut_between_characters(board: Board, text: str, n: int) -> None:
    board.begin()
    board.c.board_event(EventSeverity.WARNING, 3, text.encode())
    [event] = board.take()
    assert isinstance(event, Event)
    assert (event.code, event.severity) == (3, EventSeverity.WARNING)
    assert text.startswith(event.text)
    assert len(event.text.encode()) == n


def test_texts_are_cut_to_a_small_buffer_and_rows_go_first(board: Board) -> None:
    board.begin(buffer_size=100)
    board.push([1, 1], 0)
    board.c.board_event(EventSeverity.ERROR, 3, b"x" * 200)
    rows, event = board.take()
    assert isinstance(rows, Samples)
    assert isinstance(event, Event)
    assert 70 < len(event.text) < 100


@pytest.mark.parametrize(
    ("change", "result"),
    [
        (lambda c: c.board_prepare(0, 1, 1, 512), BAD_CHANNELS),
        (lambda c: c.board_prepare(65, 1, 1, 8192), BAD_CHANNELS),
        (lambda c: c.board_channel(1, b"c00", 1.0, 0.0), BAD_CHANNELS),
        (lambda c: c.board_channel(1, b"", 1.0, 0.0), BAD_CHANNELS),
        (lambda c: c.board_channel(1, None, 1.0, 0.0), BAD_CHANNELS),
        (lambda c: c.board_channel(0, b"a", 0.0, 0.0), BAD_CHANNELS),
        (lambda c: c.board_channel(0, b"a", -0.0, 0.0), BAD_CHANNELS),
        (lambda c: c.board_channel(0, b"a", math.nan, 0.0), BAD_CHANNELS),
        (lambda c: c.board_channel(0, b"a", 1.0, -math.inf), BAD_CHANNELS),
        (lambda c: c.board_serial(b"s" * 256), BAD_TEXT),
        (lambda c: c.board_prepare(2, 1, 0, 512), BAD_RATE),
        (lambda c: c.board_prepare(2, 1, 1, 0), SMALL_BUFFER),
        (lambda c: c.board_prepare(2, 1, 1, 30), SMALL_BUFFER),
        (lambda c: c.board_prepare(2, 1, 1, 60), SMALL_BUFFER),
        (lambda c: c.board_no_write(), NO_CALLBACK),
    ],
)
def test_a_configuration_that_cannot_be_sent_is_refused_and_nothing_is_sent(
    board: Board, change: Callable[[ctypes.CDLL], None], result: int
) -> None:
    board.c.board_prepare(2, 1000, 1, 512)
    change(board.c)
    assert board.c.board_begin() == result
    board.push([1, 1], 0)
    board.c.board_push_i16(np.array([1, 1], "<i2").tobytes())
    board.c.board_skip(1)
    board.c.board_flush()
    board.c.board_event(0, 0, b"text")
    assert board.c.board_set_rate(1, 1) == NO_CALLBACK
    board.hears(Command(1, Op.IDENTIFY))
    assert board.take() == []


@pytest.mark.parametrize("size", range(60, 120))
def test_every_buffer_size_is_kept_within(board: Board, size: int) -> None:
    board.c.board_prepare(2, 1000, 1, size)
    if board.c.board_begin() != READY:
        assert size < 90
    for i in range(100):
        board.push([i, -i], i)
    board.c.board_event(0, 0, b"e" * 300)
    board.c.board_flush()
    board.take()
