"""Streams for the fuzz run: frames of every kind, sound and senseless, damaged in every way that a line may, and which
of them were left whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from firmware_bridge import framing, protocol
from firmware_bridge.framing import MAX_BODY
from firmware_bridge.protocol import (
    U16,
    U32,
    Ack,
    AckStatus,
    BoardChannel,
    Command,
    Event,
    EventSeverity,
    Hello,
    Message,
    Op,
    Samples,
    TimeSync,
)

SEGMENT = 1 << 16  # bytes that are made, damaged and fed at once
CONFIGS = (1, 2, 0xBEEF)


def segment(rng: random.Random) -> tuple[bytes, list[bytes], int]:
    """(stream, bodies of the frames in it that are intact, how many frames it was made of)."""
    if rng.random() < 0.15:
        density = rng.choice([1, 4, 60, 256])
        noise = bytearray(rng.randbytes(SEGMENT))
        for _ in range(SEGMENT // density if density > 1 else 0):
            noise[rng.randrange(SEGMENT)] = 0
        return bytes(noise), [], 0
    parts: list[bytes] = []
    intact: list[bytes] = []
    hurt_next, size, n_sent = False, 0, 0
    while size < SEGMENT:
        body = _body(rng)
        frame = framing.encode(body)
        n_sent += 1
        if hurt_next:  # its beginning went with the end of the one before
            frame, hurt_next = frame[rng.randrange(1, len(frame)) :], False
        elif rng.random() < 0.6:
            intact.append(body)
        elif rng.random() < 0.1:
            frame, hurt_next = frame[: rng.randrange(len(frame))], True
        else:
            for _ in range(rng.choice([1, 1, 1, 2, 5])):
                frame = rng.choice(_DAMAGES)(rng, frame)
        parts.append(frame)
        size += len(frame)
        if rng.random() < 0.03:
            parts.append(rng.randbytes(rng.randrange(1, 60)))
        elif rng.random() < 0.02:
            parts.append(frame)  # once more
            if intact and frame == framing.encode(intact[-1]):
                intact.append(intact[-1])
    return b"".join(parts), intact, n_sent


def _flip(rng: random.Random, frame: bytes) -> bytes:
    out = bytearray(frame)
    for _ in range(rng.choice([1, 1, 2, 8]) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _delete(rng: random.Random, frame: bytes) -> bytes:
    at = rng.randrange(len(frame) + 1)
    return frame[:at] + frame[at + rng.choice([1, 1, 2, 20]) :]


def _insert(rng: random.Random, frame: bytes) -> bytes:
    at = rng.randrange(len(frame) + 1)
    noise = rng.choice([b"\0", b"\xff", rng.randbytes(1), rng.randbytes(rng.randrange(1, 300))])
    return frame[:at] + noise + frame[at:]


def _overwrite(rng: random.Random, frame: bytes) -> bytes:
    at, n = rng.randrange(len(frame) + 1), rng.choice([1, 2, 9])
    return frame[:at] + rng.choice([bytes(n), rng.randbytes(n)]) + frame[at + n :]


def _splice(rng: random.Random, frame: bytes) -> bytes:
    other = framing.encode(_body(rng))
    return frame[: rng.randrange(len(frame) + 1)] + other[rng.randrange(len(other)) :]


def _lose(rng: random.Random, frame: bytes) -> bytes:
    return b""


def _swell(rng: random.Random, frame: bytes) -> bytes:
    if rng.random() < 0.9:
        return frame
    at = rng.randrange(len(frame) + 1)
    return frame[:at] + bytes([rng.randrange(1, 256)]) * rng.choice([4096, 4117, 4118, 9000]) + frame[at:]


_DAMAGES: list[Callable[[random.Random, bytes], bytes]] = [
    _flip,
    _flip,
    _delete,
    _insert,
    _overwrite,
    _splice,
    _lose,
    _swell,
]


def _body(rng: random.Random) -> bytes:
    kind = rng.random()
    if kind < 0.5:
        return protocol.encode(_message(rng), rng.choice([rng.randrange(U16), 5]))
    if kind < 0.75:  # a message with senseless fields
        body = bytearray(protocol.encode(_message(rng), rng.randrange(U16)))
        for _ in range(rng.choice([1, 1, 2, 6])):
            body[rng.randrange(len(body))] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        return bytes(body[: rng.randrange(1, len(body) + 1)] if rng.random() < 0.2 else body)
    if kind < 0.85:
        return bytes([protocol.VERSION, rng.randrange(9)]) + rng.randbytes(rng.randrange(60))
    if kind < 0.95:
        return rng.randbytes(rng.randrange(1, 120))
    runs = b"".join(
        bytes([rng.choice([0, 1, 0xFF])]) * rng.randrange(1, 600) for _ in range(rng.randrange(1, 9))
    )
    return runs if rng.random() < 0.8 else (runs * 60)[:MAX_BODY]


def _message(rng: random.Random) -> Message:
    us, rate = (
        rng.choice([rng.randrange(U32), rng.randrange(10**6)]),
        rng.choice([None, Fraction(rng.randrange(1, 9999), 7)]),
    )
    n_channels = rng.choice([1, 3, 3, 3, 64])
    match rng.choice("hssssstteca"):
        case "h":
            channels = tuple(BoardChannel(f"c{i}", "V", 0.5) for i in range(n_channels))
            return Hello(rng.choice(CONFIGS), "fuzz", "1", "s", channels, rate, us)
        case "s":
            dtype = rng.choice(["<i2", "<i2", "<i4", "<f4"])
            n_rows = rng.choice([1, 1, 5, 20]) if n_channels < 64 else 1
            values = rng.choice([bytes, rng.randbytes])(n_rows * n_channels * np.dtype(dtype).itemsize)
            counts = np.frombuffer(values, dtype).reshape(n_rows, n_channels)
            return Samples(
                rng.choice(CONFIGS), counts, us, rng.choice([0, 20, 40, U32 - 20, rng.randrange(U32)])
            )
        case "t":
            return TimeSync(rng.randrange(200), rng.random() < 0.8, us, us + rng.randrange(1000))
        case "e":
            return Event(us, rng.randrange(U16), rng.choice(list(EventSeverity)), "some text")
        case "c":
            return Command(rng.randrange(9), rng.choice(list(Op)), rate)
        case _:
            return Ack(rng.randrange(9), rng.choice(list(Op)), rng.choice(list(AckStatus)))
