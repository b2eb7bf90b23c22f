"""A microcontroller on a pty that speaks the real protocol, with faults on request.

Strategy: :class:`~firmware_bridge.board.Board` is the firmware; here are its pty, its crystal and what can happen to a
cable. Faults come from a seeded generator, so that a run can be repeated.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import struct
import termios
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.board import Board, Signal
from firmware_bridge.protocol import BoardChannel, Counts, EventSeverity

TICK_S = 0.01
FRAME_S = 0.05  # about what goes into one frame,
MAX_ROWS = 200  # but no more than this
MAX_PENDING = 1 << 16  # bytes that wait for room on the pty; a board has no more either
UNREAD_S = 2.0  # what nobody has read of for so long is discarded: a driver keeps nothing for a port that nobody has open

VIBRATION = tuple(BoardChannel(axis, "m/s2", 0.01) for axis in "xyz")


def vibration(rate_hz: Fraction, seed: int, *, worn: Callable[[], bool] = lambda: False) -> Signal:
    """Three axes of a machine that turns at 24.7 Hz, as counts of 0.01 m/s²; ``worn``: with a bearing's impacts."""
    rng = np.random.default_rng(seed)

    def signal(index: NDArray[np.int64]) -> Counts:
        t = index / float(rate_hz)
        axes = []
        for i in range(3):
            x = (
                np.sin(2 * np.pi * 24.7 * t + i)
                + 0.3 * np.sin(2 * np.pi * 148.2 * t)
                + 0.3 * rng.normal(size=len(t))
            )
            if worn():
                x += 4.0 * np.exp(-60 * (t % (1 / 87))) * np.sin(2 * np.pi * 390 * t)
            axes.append(x)
        counts: NDArray[np.int16] = np.rint(np.stack(axes, axis=1) * 100).astype("<i2")
        return counts

    return signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, each as a mean rate; 0: never. ``drift_ppm``: how much too fast the board's crystal is."""

    noise_per_s: float = 0.0  # a byte of a write is changed
    drop_per_s: float = 0.0  # a frame is lost on the way
    disconnect_per_min: float = 0.0  # the cable is pulled for ``away_s``; the board goes on
    away_s: float = 1.0
    reboot_per_min: float = 0.0
    drift_ppm: float = 0.0


@dataclass(slots=True)
class SimulatorCounters:
    n_bytes: int = 0
    n_rows: int = 0
    n_noise: int = 0
    n_dropped: int = 0
    n_disconnects: int = 0
    n_reboots: int = 0
    n_unread_bytes: int = 0  # discarded


class Simulator:
    """Drives a board on a pty at ``link`` (a symbolic link that moves when the cable is plugged in again) until
    :meth:`stop`."""

    def __init__(
        self,
        link: Path,
        *,
        rate_hz: Fraction = Fraction(1000),
        channels: tuple[BoardChannel, ...] = VIBRATION,
        signal: Signal | None = None,
        serial: str = "SIM-0001",
        rows: int | None = None,
        faults: Faults = Faults(),
        seed: int = 1,
        first_us: int = 0,
    ) -> None:
        self.counters = SimulatorCounters()
        self._link, self._rate_hz, self._channels = link, rate_hz, channels
        self._signal = signal or vibration(rate_hz, seed)
        self._serial, self._faults = serial, faults
        self._rows = rows or min(max(1, round(rate_hz * Fraction(FRAME_S))), MAX_ROWS)
        self._random = random.Random(seed)
        self._first_us = first_us
        self._config_id = random.SystemRandom().randrange(1, 0xFFFF)  # of no two boots alike
        self._stopping = False
        self._master = -1
        self._slave = -1
        self._pending = b""
        self._n_unread = 0  # bytes on the pty,
        self._read_s = 0.0  # and when they last became fewer, or there were none
        self._booted_ns = self._boot_us = 0
        self._turned_s = 0.0
        self._turn_s = 0.0  # how long the last turn took
        self._n_noise = 0  # bytes of what is sent next that are to be changed

    def stop(self) -> None:
        """End :meth:`run`, from any thread."""
        self._stopping = True

    def run(self, for_s: float | None = None) -> None:
        """Serves until stopped, or for ``for_s`` seconds."""
        began = time.monotonic()
        self._plug_in()
        board = self._boot(self._first_us)
        self._booted_ns, self._boot_us = time.monotonic_ns(), self._first_us
        try:
            while not self._stopping and (for_s is None or time.monotonic() - began < for_s):
                self._turn()
                self._send(self._exchange(board))
                if board.rebooted or self._happens(self._faults.reboot_per_min / 60):
                    self.counters.n_reboots += 1
                    self.counters.n_rows += board.index
                    board = self._boot(0)
                    self._booted_ns, self._boot_us = time.monotonic_ns(), 0
                    self._send(board.event("started anew", 0, code=1, severity=EventSeverity.WARNING))
                elif self._happens(self._faults.disconnect_per_min / 60):
                    self._pull_out()
                    time.sleep(self._faults.away_s)
                    board.run(self._now_us())  # into a line that ends nowhere
                    self._plug_in()
        finally:
            self.counters.n_rows += board.index
            self._pull_out()
            self.counters.n_disconnects -= 1

    def _now_us(self) -> int:
        """The board's clock."""
        elapsed_ns = time.monotonic_ns() - self._booted_ns
        return self._boot_us + int(elapsed_ns * (1 + self._faults.drift_ppm * 1e-6) / 1000)

    def _boot(self, at_us: int) -> Board:
        self._config_id = self._config_id % 0xFFFF + 1
        return Board(
            self._channels,
            self._rate_hz,
            self._signal,
            serial=self._serial,
            rows=self._rows,
            config_id=self._config_id,
            at_us=at_us,
        )

    def _exchange(self, board: Board) -> bytes:
        out = board.run(self._now_us())
        if self._happens(self._faults.drop_per_s):
            self.counters.n_dropped += 1
            board.skip(1)
        readable, _, _ = select.select([self._master], [], [], TICK_S)
        if readable:
            with contextlib.suppress(OSError):  # nobody has opened the other end
                out += board.receive(os.read(self._master, 4096), self._now_us())
        self._n_noise += self._happens(self._faults.noise_per_s)
        return self._noisy(out) if out else out

    def _noisy(self, out: bytes) -> bytes:
        changed = bytearray(out)
        for at in self._random.choices(range(len(out)), k=self._n_noise):
            changed[at] ^= self._random.randrange(1, 256)
        self.counters.n_noise += self._n_noise
        self._n_noise = 0
        return bytes(changed)

    def _turn(self) -> None:
        now_s = time.monotonic()
        self._turn_s, self._turned_s = now_s - self._turned_s, now_s
        n_unread = _n_waiting(self._slave)
        if n_unread < self._n_unread or not n_unread:
            self._read_s = now_s
        self._n_unread = n_unread
        if now_s - self._read_s < UNREAD_S:
            return
        while n_unread := _n_waiting(self._slave):
            self.counters.n_unread_bytes += n_unread
            termios.tcflush(self._slave, termios.TCIFLUSH)
        self._discard_pending()

    def _discard_pending(self) -> None:
        self.counters.n_unread_bytes += len(self._pending)
        self._pending = b""

    def _send(self, out: bytes) -> None:
        self._pending += out
        try:
            n = os.write(self._master, self._pending) if self._pending else 0
        except BlockingIOError:
            n = 0
        self.counters.n_bytes += n
        self._pending = self._pending[n:]
        if len(self._pending) > MAX_PENDING:
            self._discard_pending()

    def _happens(self, per_s: float) -> bool:
        return per_s > 0 and self._random.random() < per_s * self._turn_s

    def _plug_in(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._master)
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._n_unread = 0
        self._turned_s = self._read_s = time.monotonic()
        fresh = self._link.with_name(self._link.name + ".new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.ttyname(self._slave))
        fresh.replace(self._link)

    def _pull_out(self) -> None:
        self.counters.n_disconnects += 1
        self._link.unlink(missing_ok=True)
        self._pending = b""
        for fd in (self._master, self._slave):
            with contextlib.suppress(OSError):
                os.close(fd)


def _n_waiting(fd: int) -> int:
    """How many bytes a read of ``fd`` could take."""
    n: int = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCINQ, bytes(4)))[0]
    return n
