"""What the bodies of frames mean: bytes to messages and back. docs/protocol.md has every layout.

Every body begins with version (major in the high half of the byte, minor in the low one), type and a sequence number
that counts the sender's frames. Numbers are little-endian. A newer minor version may append fields to a message and
add types: an older peer ignores the former and counts the latter. A newer major version is refused. Nothing that
arrives raises: what cannot be read is a :class:`Refusal`. Pure.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.framing import MAX_BODY

MAJOR, MINOR = 1, 0
VERSION = MAJOR << 4 | MINOR
MAX_CHANNELS = 64
U16, U32 = 1 << 16, 1 << 32

HEADER = struct.Struct("<BBH")  # version, type, sequence number
_HELLO = struct.Struct("<HBBIII")  # config_id, n_channels, reserved, rate numerator, denominator, now_us
_SAMPLES = struct.Struct("<HBBHHII")  # config_id, format, n_channels, n_rows, reserved, first_us, index
_TIME_SYNC = struct.Struct("<BBHII")  # kind, reserved, token, received_us, sent_us
_EVENT = struct.Struct("<IHB")  # at_us, code, severity; then the text
_COMMAND = struct.Struct("<HBBII")  # command_id, op, reserved, rate numerator, denominator
_ACK = struct.Struct("<HBB")  # command_id, op, status
_SCALING = struct.Struct("<ff")


class Type(enum.IntEnum):
    HELLO = 1
    SAMPLES = 2
    TIME_SYNC = 3
    EVENT = 4
    COMMAND = 5
    ACK = 6


class Format(enum.IntEnum):
    """How the values of a Samples frame are written."""

    INT16 = 1
    INT32 = 2
    FLOAT32 = 3


Counts = NDArray[np.int16] | NDArray[np.int32] | NDArray[np.float32]

DTYPES = {Format.INT16: "<i2", Format.INT32: "<i4", Format.FLOAT32: "<f4"}
_FORMATS = {np.dtype(name): format_ for format_, name in DTYPES.items()}


class Op(enum.IntEnum):
    START = 1
    STOP = 2
    SET_RATE = 3
    IDENTIFY = 4  # answer with a Hello
    REBOOT = 5


class AckStatus(enum.IntEnum):
    OK = 0
    UNSUPPORTED = 1
    BAD_ARGUMENT = 2
    BUSY = 3


class EventSeverity(enum.IntEnum):
    DEBUG = 0
    INFO = 1
    WARNING = 2
    ERROR = 3


class Cause(enum.StrEnum):
    """Why an intact body was not read."""

    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Refusal:
    cause: Cause
    text: str


@dataclass(frozen=True, slots=True)
class BoardChannel:
    """value in ``unit`` = count * scale + offset."""

    name: str
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Hello:
    """What a board is and sends. ``config_id`` is new after every boot and every change of rate or channels, and ties
    Samples to their Hello. ``rate_hz`` None: irregular, one row a frame."""

    config_id: int
    firmware: str
    version: str
    serial: str
    channels: tuple[BoardChannel, ...]
    rate_hz: Fraction | None
    now_us: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Rows as they are: ``counts`` [n_rows, n_channels] int16, int32 or float32. ``first_us``: device time of the
    first row, modulo 2^32; ``index``: its number since the configuration began, modulo 2^32."""

    config_id: int
    counts: Counts
    first_us: int
    index: int


@dataclass(frozen=True, slots=True)
class TimeSync:
    """The host asks with a token; the board answers with when it received that and when it sends this."""

    token: int
    reply: bool = False
    received_us: int = 0
    sent_us: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """A log line or a fault code of the board."""

    at_us: int
    code: int
    severity: EventSeverity
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    command_id: int
    op: Op | int  # an int: of a newer minor version, which a board answers with UNSUPPORTED
    rate_hz: Fraction | None = None  # SET_RATE


@dataclass(frozen=True, slots=True)
class Ack:
    command_id: int
    op: Op | int  # of the Command
    status: AckStatus


Message = Hello | Samples | TimeSync | Event | Command | Ack


def encode(message: Message, seq: int) -> bytes:
    """The body of ``message`` as frame number ``seq``. ValueError for what does not fit the layout."""
    try:
        type_, payload = _encode(message)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{type(message).__name__}: {error}") from None
    body = HEADER.pack(VERSION, type_, seq % U16) + payload
    if len(body) > MAX_BODY:
        raise ValueError(f"{type(message).__name__} of {len(body)} bytes: a body has at most {MAX_BODY}")
    return body


def parse(body: bytes) -> Message | Refusal:
    """The message in ``body``."""
    if len(body) < HEADER.size:
        return Refusal(Cause.MALFORMED, f"a body of {len(body)} bytes: the header alone has {HEADER.size}")
    version, type_, _ = HEADER.unpack_from(body)
    if version >> 4 != MAJOR:
        text = (
            f"the board speaks version {version >> 4}.{version & 15} of the protocol, this gateway {MAJOR}.{MINOR}: "
            "bring the older of the two up to date"
        )
        return Refusal(Cause.UNKNOWN_VERSION, text)
    reader = _READERS.get(type_)
    if reader is None:
        return Refusal(Cause.UNKNOWN_TYPE, f"type {type_}, unknown to version {MAJOR}.{MINOR}")
    try:
        return reader(body)
    except (struct.error, IndexError):
        return Refusal(Cause.MALFORMED, f"{Type(type_).name} of {len(body)} bytes ends too early")
    except ValueError as error:
        return Refusal(Cause.MALFORMED, f"{Type(type_).name}: {error}")


def seq_of(body: bytes) -> int:
    """Sequence number of a body that has a header."""
    return body[2] | body[3] << 8


def _encode(message: Message) -> tuple[Type, bytes]:
    match message:
        case Hello():
            rate = message.rate_hz or Fraction(0)
            fixed = _HELLO.pack(
                message.config_id,
                len(message.channels),
                0,
                rate.numerator,
                rate.denominator,
                message.now_us % U32,
            )
            names = b"".join(_string(t) for t in (message.firmware, message.version, message.serial))
            return Type.HELLO, fixed + names + b"".join(_channel(c) for c in message.channels)
        case Samples():
            counts = message.counts
            n_rows, n_channels = counts.shape
            if counts.dtype not in _FORMATS:
                raise ValueError(f"counts are {counts.dtype}, expected int16, int32 or float32")
            fixed = _SAMPLES.pack(
                message.config_id,
                _FORMATS[counts.dtype],
                n_channels,
                n_rows,
                0,
                message.first_us % U32,
                message.index % U32,
            )
            return Type.SAMPLES, fixed + counts.tobytes()
        case TimeSync():
            times = (message.received_us % U32, message.sent_us % U32)
            return Type.TIME_SYNC, _TIME_SYNC.pack(message.reply, 0, message.token, *times)
        case Event():
            fixed = _EVENT.pack(message.at_us % U32, message.code, message.severity)
            return Type.EVENT, fixed + _string(message.text)
        case Command():
            rate = message.rate_hz or Fraction(0)
            return Type.COMMAND, _COMMAND.pack(
                message.command_id, message.op, 0, rate.numerator, rate.denominator
            )
        case Ack():
            return Type.ACK, _ACK.pack(message.command_id, message.op, message.status)


def _hello(body: bytes) -> Hello:
    config_id, n_channels, _, numerator, denominator, now_us = _HELLO.unpack_from(body, HEADER.size)
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise ValueError(f"{n_channels} channels, expected 1 to {MAX_CHANNELS}")
    at = HEADER.size + _HELLO.size
    firmware, at = _text(body, at)
    version, at = _text(body, at)
    serial, at = _text(body, at)
    channels = []
    for _ in range(n_channels):
        name, at = _text(body, at)
        unit, at = _text(body, at)
        scale, offset = _SCALING.unpack_from(body, at)
        at += _SCALING.size
        if not name:
            raise ValueError("a channel without a name")
        if not (math.isfinite(scale) and math.isfinite(offset)) or scale == 0:
            raise ValueError(f"channel {name!r} has scale {scale} and offset {offset}")
        channels.append(BoardChannel(name, unit, _short(scale), _short(offset)))
    names = [c.name for c in channels]
    if len(set(names)) < len(names):
        raise ValueError(f"two channels of one name among {', '.join(names)}")
    if denominator == 0:
        raise ValueError(f"rate {numerator}/{denominator} Hz")
    rate = Fraction(numerator, denominator) or None
    return Hello(config_id, firmware, version, serial, tuple(channels), rate, now_us)


def _samples(body: bytes) -> Samples:
    config_id, code, n_channels, n_rows, _, first_us, index = _SAMPLES.unpack_from(body, HEADER.size)
    dtype = np.dtype(DTYPES[Format(code)])
    n = n_rows * n_channels
    at = HEADER.size + _SAMPLES.size
    if n == 0 or len(body) < at + n * dtype.itemsize:
        raise ValueError(f"{len(body) - at} bytes for {n_rows} rows of {n_channels} channels as {dtype}")
    counts: Counts = np.frombuffer(body, dtype, n, at).reshape(n_rows, n_channels)
    return Samples(config_id, counts, first_us, index)


def _time_sync(body: bytes) -> TimeSync:
    kind, _, token, received_us, sent_us = _TIME_SYNC.unpack_from(body, HEADER.size)
    if kind > 1:
        raise ValueError(f"kind {kind}, expected 0 (request) or 1 (reply)")
    return TimeSync(token, bool(kind), received_us, sent_us)


def _event(body: bytes) -> Event:
    at_us, code, severity = _EVENT.unpack_from(body, HEADER.size)
    text, _ = _text(body, HEADER.size + _EVENT.size)
    return Event(at_us, code, EventSeverity(min(severity, EventSeverity.ERROR)), text)


def _command(body: bytes) -> Command:
    command_id, op, _, numerator, denominator = _COMMAND.unpack_from(body, HEADER.size)
    if denominator == 0:
        raise ValueError(f"rate {numerator}/{denominator} Hz")
    return Command(command_id, Op(op) if op in _OPS else op, Fraction(numerator, denominator) or None)


def _ack(body: bytes) -> Ack:
    command_id, op, status = _ACK.unpack_from(body, HEADER.size)
    return Ack(command_id, Op(op), AckStatus(status))


_OPS = frozenset(Op)
_READERS: dict[int, Callable[[bytes], Message]] = {
    Type.HELLO: _hello,
    Type.SAMPLES: _samples,
    Type.TIME_SYNC: _time_sync,
    Type.EVENT: _event,
    Type.COMMAND: _command,
    Type.ACK: _ack,
}


def _string(text: str) -> bytes:
    data = text.encode()
    if len(data) > 255:
        raise ValueError(f"{text[:40]!r}… has {len(data)} bytes, a string has at most 255")
    return bytes((len(data),)) + data


def _text(body: bytes, at: int) -> tuple[str, int]:
    """The string at ``at``, and where it ends. IndexError past the body's end, ValueError where it is not UTF-8."""
    end = at + 1 + body[at]
    if end > len(body):
        raise IndexError
    return body[at + 1 : end].decode(), end


def _channel(channel: BoardChannel) -> bytes:
    return _string(channel.name) + _string(channel.unit) + _SCALING.pack(channel.scale, channel.offset)


def _short(x: float) -> float:
    """The shortest decimal that is the same float32: 0.002 for what the board wrote as 0.002f."""
    return float(str(np.float32(x)))
