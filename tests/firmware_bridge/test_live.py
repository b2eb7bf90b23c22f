"""The example board in C and the package's Session, live over a pty."""

from __future__ import annotations

import contextlib
import math
import os
import pty
import select
import subprocess
import time
import tty
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.protocol import Ack, AckStatus, EventSeverity, Op
from firmware_bridge.session import Session
from firmware_bridge.session_items import Greeting, Item, Logged, Lost, Reset, Rows
from tests.firmware_bridge.compilers import C99, FIRMWARE, SANITIZED, SANITIZER_ENV, build

UTC_NS = 1_700_000_000_000_000_000  # UTC less the monotonic clock, kept still: it is not what is tested here
PATIENCE_S = 40.0
SIGNAL_HZ = 5.0
ROUNDING_NS = 3000  # of due times to whole µs, there and here


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = FIRMWARE / "examples" / "posix" / "main.c"
    return build(source, tmp_path_factory.mktemp("board") / "board", *C99, *SANITIZED, "-lm")


class Line:
    """The host's end of a pty, with a board at the other."""

    def __init__(self, program: Path, *options: str) -> None:
        self.session = Session()
        self.items: list[Item] = []
        self.damage: Callable[[bytes], bytes] = lambda data: data
        self.end, board_end = pty.openpty()
        tty.setraw(board_end)
        os.set_blocking(self.end, False)
        self.began_ns = time.monotonic_ns()
        self.board = subprocess.Popen(
            [str(program), *options, os.ttyname(board_end)], stderr=subprocess.PIPE, env=SANITIZER_ENV
        )
        self._board_end = board_end  # kept open: the line stays up until close()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # a full line loses them, as a real one would
            os.write(self.end, data)

    def until(self, true: Callable[[], object], what: str) -> None:
        """Reads, answers and asks, until ``true``."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
            assert self.board.poll() is None, (
                f"the board ended: {self.board.stderr and self.board.stderr.read()}"
            )
            for frame in self.session.due(time.monotonic_ns()):
                self.send(frame)
            if select.select([self.end], [], [], 0.005)[0]:
                data = self.damage(os.read(self.end, 65536))
                now_ns = time.monotonic_ns()
                self.items += self.session.receive(data, now_ns, now_ns + UTC_NS)

    def ask(self, op: Op, rate_hz: Fraction | None = None) -> AckStatus:
        """Sends a command and waits for its Ack."""
        command_id, frame = self.session.command(op, rate_hz)
        self.send(frame)

        def acked() -> list[Ack]:
            return [i for i in self.items if isinstance(i, Ack) and i.command_id == command_id]

        self.until(acked, f"an Ack of {op.name}")
        [ack] = acked()
        assert ack.op is op
        return ack.status

    def of(self, type_: type[Item]) -> list[Item]:
        return [i for i in self.items if isinstance(i, type_)]

    def rows(self, config_id: int | None = None) -> list[Rows]:
        return [i for i in self.items if isinstance(i, Rows) and config_id in (None, i.hello.config_id)]

    def n_rows(self) -> int:
        return sum(len(r.counts) for r in self.rows())

    def close(self) -> None:
        os.close(self.end)
        os.close(self._board_end)
        try:
            self.board.wait(10)
        except subprocess.TimeoutExpired:
            self.board.kill()
            self.board.wait()
            raise
        finally:
            assert self.board.stderr is not None
            said = self.board.stderr.read()
            self.board.stderr.close()
        assert (self.board.returncode, said) == (0, b"")


@contextlib.contextmanager
def line(program: Path, *options: str) -> Iterator[Line]:
    opened = Line(program, *options)
    try:
        yield opened
    finally:
        opened.close()


def check_rows(rows: list[Rows], first: int = 0) -> None:
    """Values as the board's signal has them, numbered without a gap, and timed within the errors that are stated."""
    rate = rows[0].hello.rate_hz
    assert rate is not None
    counts = np.concatenate([r.counts for r in rows])
    index = first + np.arange(len(counts))
    assert counts[:, 2].tolist() == (index & 0x7FFF).tolist()
    phase = 2 * math.pi * SIGNAL_HZ * index / float(rate)
    assert np.abs(counts[:, 0] - 10000 * np.sin(phase)).max() < 1
    assert np.abs(counts[:, 1] - 10000 * np.cos(phase)).max() < 1
    timed, at = [], first
    for r in rows:
        if r.error_ns is not None:
            timed.append((r.start_ns - round(at * 1_000_000_000 / rate), r.error_ns))
            assert r.start_ns <= r.arrival_ns + r.error_ns
        at += len(r.counts)
    # When row 0 was due: every block must have it within its error.
    lowest = max(zero - error for zero, error in timed)
    highest = min(zero + error for zero, error in timed)
    assert lowest <= highest + 2 * ROUNDING_NS


def test_a_board_is_heard_without_loss_and_on_time(program: Path) -> None:
    with line(program, "-r", "2000", "-s", "bench-7") as board:
        session, counters = board.session, board.session.counters
        board.until(lambda: board.n_rows() >= 4000 and counters.n_exchanges >= 9, "4000 rows and 9 exchanges")
        hello = session.hello
        assert hello is not None
        assert (hello.firmware, hello.version, hello.serial) == ("posix-example", "1.0.0", "bench-7")
        assert [(c.name, c.unit, c.scale, c.offset) for c in hello.channels] == [
            ("x", "m/s2", 0.002, 0.0),
            ("y", "m/s2", 0.002, 0.0),
            ("row", "", 1.0, 0.0),
        ]
        assert hello.rate_hz == 2000
        check_rows(board.rows())
        assert (counters.n_lost_rows, counters.n_lost_frames, counters.n_repeated_rows) == (0, 0, 0)
        assert (counters.n_unexplained_rows, counters.n_resets) == (0, 0)
        assert not counters.damage
        assert session.error_ns is not None
        last = board.rows()[-1]
        assert last.error_ns is not None
        row_0_ns = last.start_ns - (board.n_rows() - len(last.counts)) * 500_000 - UTC_NS
        assert row_0_ns + last.error_ns >= board.began_ns
        [booted] = board.of(Logged)
        assert isinstance(booted, Logged)
        assert (booted.event.code, booted.event.severity, booted.event.text) == (
            1,
            EventSeverity.INFO,
            "booted",
        )


def test_the_board_s_clock_wraps(program: Path) -> None:
    with line(program, "-r", "1000", "-c", str(2**32 - 1_500_000)) as board:
        board.until(lambda: board.n_rows() >= 3000, "3000 rows, the wrap among them")
        check_rows(board.rows())
        assert board.session.counters.n_resets == 0
        assert board.of(Reset) == board.of(Lost) == []


def test_commands_are_obeyed_and_acknowledged(program: Path) -> None:
    with line(program, "-r", "1000", "-c", "100000000") as board:
        board.until(lambda: board.n_rows() >= 100 and board.session.counters.n_exchanges >= 9, "rows")
        first = board.session.hello
        assert first is not None
        assert board.ask(Op.IDENTIFY) is AckStatus.OK
        assert board.ask(Op.SET_RATE, Fraction(1_000_000)) is AckStatus.BAD_ARGUMENT
        assert board.session.hello == first or board.session.hello.config_id == first.config_id

        assert board.ask(Op.SET_RATE, Fraction(1001, 2)) is AckStatus.OK
        board.until(
            lambda: board.of(Greeting)[-1].hello.rate_hz == Fraction(1001, 2), "a Hello of the new rate"
        )
        second = board.session.hello
        assert second is not None
        assert second.config_id != first.config_id
        board.until(
            lambda: sum(len(r.counts) for r in board.rows(second.config_id)) >= 100, "rows at the new rate"
        )

        assert board.ask(Op.STOP) is AckStatus.OK
        n_rows, n_exchanges = board.n_rows(), board.session.counters.n_exchanges
        board.until(lambda: board.session.counters.n_exchanges > n_exchanges + 1, "exchanges while stopped")
        assert board.n_rows() == n_rows
        assert board.ask(Op.START) is AckStatus.OK
        board.until(lambda: board.n_rows() > n_rows + 100, "rows after the start")
        third = board.session.hello
        assert third is not None
        assert third.config_id not in (first.config_id, second.config_id)

        assert board.ask(Op.REBOOT) is AckStatus.OK
        board.until(lambda: board.of(Reset), "the clock to begin anew")
        board.until(lambda: len(board.of(Logged)) == 2, "the event of the second boot")
        fourth = board.session.hello
        assert fourth is not None
        assert fourth.config_id not in (first.config_id, second.config_id, third.config_id)
        assert fourth.rate_hz == 1000
        board.until(
            lambda: sum(len(r.counts) for r in board.rows(fourth.config_id)) >= 100, "rows after the boot"
        )

        for hello in (first, second, third, fourth):
            check_rows(board.rows(hello.config_id))
        counters = board.session.counters
        assert (counters.n_lost_rows, counters.n_repeated_rows, counters.n_resets) == (0, 0, 1)
        assert not counters.damage


def test_on_a_line_that_damages_every_lost_row_is_counted(program: Path) -> None:
    rng = np.random.default_rng(5)

    def damage(data: bytes) -> bytes:
        hurt = bytearray(data)
        for _ in range(int(rng.integers(0, 3))):
            at = int(rng.integers(len(hurt)))
            match int(rng.integers(3)):
                case 0:
                    hurt[at] ^= 1 << int(rng.integers(8))
                case 1:
                    hurt[at : at + int(rng.integers(1, 4))] = b""
                case _:
                    hurt[at:at] = rng.bytes(int(rng.integers(1, 4)))
            if not hurt:
                break
        return bytes(hurt)

    with line(program, "-r", "2000") as board:
        board.until(lambda: board.session.hello is not None, "a Hello")
        board.damage = damage
        counters = board.session.counters
        board.until(
            lambda: counters.damage.total() > 20 and counters.n_lost_rows > 200, "damage, and rows lost"
        )
        board.damage = lambda data: data
        n_rows = board.n_rows()
        board.until(lambda: board.n_rows() > n_rows + 100, "rows on a line that is whole again")
        at = None
        for item in board.items:
            if isinstance(item, Lost):
                assert at is not None
                at += item.n_rows
            elif isinstance(item, Rows):
                first = int(item.counts[0, 2])
                assert at is None or first == at & 0x7FFF
                assert (np.diff(item.counts[:, 2].astype(np.int64)) % 0x8000 == 1).all()
                at = (first if at is None else at) + len(item.counts)
        assert sum(i.n_rows for i in board.items if isinstance(i, Lost)) == counters.n_lost_rows
        assert counters.n_repeated_rows == 0
