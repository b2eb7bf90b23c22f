"""A board as its firmware would behave: the other end of :mod:`firmware_bridge.session`, for tests and simulations.

Bytes from the host and the board's own microsecond time in; frames out. Pure: signals and clocks are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from firmware_bridge import framing, protocol
from firmware_bridge.framing import FrameDecoder
from firmware_bridge.protocol import (
    U32,
    Ack,
    AckStatus,
    BoardChannel,
    Command,
    Counts,
    Event,
    EventSeverity,
    Hello,
    Message,
    Op,
    Samples,
    TimeSync,
)

HELLO_EVERY_US = 5_000_000
Signal = Callable[[NDArray[np.int64]], Counts]
"""Row numbers int64[n] since boot to counts [n, c]."""


class Board:
    """One board, from boot on. ``signal`` says what it measures; ``rows`` go into one frame."""

    def __init__(
        self,
        channels: tuple[BoardChannel, ...],
        rate_hz: Fraction,
        signal: Signal,
        *,
        serial: str = "SIM-0001",
        firmware: str = "linewatch simulator",
        version: str = "1.0",
        rows: int = 64,
        config_id: int = 1,
        at_us: int = 0,
    ) -> None:
        self.config_id = config_id
        self.rate_hz = rate_hz
        self.running = True
        self.rebooted = False  # asked for by a command; whoever drives the board builds it anew
        self._channels, self._signal, self._rows = channels, signal, rows
        self._serial, self._firmware, self._version = serial, firmware, version
        self._decoder = FrameDecoder()
        self._seq = 0
        self._hello_us = at_us
        self._begin(at_us)

    @property
    def index(self) -> int:
        """Number of the next row."""
        return self._index

    def receive(self, data: bytes, at_us: int) -> bytes:
        """What the board answers to ``data`` at ``at_us``."""
        out = b""
        for body in self._decoder.feed(data):
            message = protocol.parse(body)
            if isinstance(message, TimeSync) and not message.reply:
                out += self._frame(TimeSync(message.token, True, at_us % U32, at_us % U32))
            elif isinstance(message, Command):
                out += self._obey(message, at_us)
        return out

    def run(self, until_us: int) -> bytes:
        """The frames that are due by ``until_us``."""
        out = b""
        if until_us >= self._hello_us:
            self._hello_us = until_us + HELLO_EVERY_US
            out += self._frame(self._hello(until_us))
        while self.running:
            done_us = self._time_of(self._index + self._rows - 1)
            if done_us > until_us:
                break
            counts = self._signal(np.arange(self._index, self._index + self._rows))
            first_us = self._time_of(self._index)
            out += self._frame(Samples(self.config_id, counts, first_us % U32, self._index % U32))
            self._index += self._rows
        return out

    def event(
        self, text: str, at_us: int, *, code: int = 0, severity: EventSeverity = EventSeverity.INFO
    ) -> bytes:
        return self._frame(Event(at_us % U32, code, severity, text))

    def skip(self, n_frames: int) -> None:
        """As if ``n_frames`` had been sent and lost."""
        self._index += n_frames * self._rows
        self._seq += n_frames

    def _begin(self, at_us: int) -> None:
        self._begin_us, self._index = at_us, 0

    def _time_of(self, index: int) -> int:
        return self._begin_us + int(index * 1_000_000 / self.rate_hz)

    def _obey(self, command: Command, at_us: int) -> bytes:
        rate = command.rate_hz
        if not isinstance(command.op, Op):
            return self._frame(Ack(command.command_id, command.op, AckStatus.UNSUPPORTED))
        if command.op is Op.SET_RATE and (rate is None or rate > 1_000_000):
            return self._frame(Ack(command.command_id, command.op, AckStatus.BAD_ARGUMENT))
        out = self._frame(Ack(command.command_id, command.op, AckStatus.OK))
        match command.op:
            case Op.START if not self.running:
                self.running = True
                out += self._anew(at_us)
            case Op.STOP:
                self.running = False
            case Op.SET_RATE:
                assert rate is not None
                self.rate_hz = rate
                out += self._anew(at_us)
            case Op.IDENTIFY:
                out += self._frame(self._hello(at_us))
            case Op.REBOOT:
                self.rebooted = True
        return out

    def _anew(self, at_us: int) -> bytes:
        """Another configuration from here on."""
        self.config_id = self.config_id % 0xFFFF + 1
        self._begin(at_us)
        self._hello_us = at_us + HELLO_EVERY_US
        return self._frame(self._hello(at_us))

    def _hello(self, at_us: int) -> Hello:
        return Hello(
            self.config_id,
            self._firmware,
            self._version,
            self._serial,
            self._channels,
            self.rate_hz,
            at_us % U32,
        )

    def _frame(self, message: Message) -> bytes:
        self._seq += 1
        return framing.encode(protocol.encode(message, self._seq))
