"""What the gateway and an inference worker say to each other, and where the numbers lie that they say it of.

Strategy: control goes over a SOCK_SEQPACKET pair, one message a packet: a fixed head, then text. Rows go through one
``Area``: anonymous memory that both have mapped (a memfd, passed as a descriptor: it has no name that could be left
behind). Its first page holds the stamp: when the worker began the present invoke, on the monotonic clock that all
processes share. The area is sealed against shrinking, so neither side can take the other's memory away.

Imports numpy alone: the worker has to start quickly.
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os
import struct
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_HEAD = struct.Struct("<BxxxIQQ")
MAX_MESSAGE = 1 << 14
MAX_TEXT = 4096  # bytes

_STAMP = struct.Struct("=q")
_HEADER = 4096
MOST_VALUES = 1 << 21  # float32 of one direction; the memory is there once it is used
MOST_ROWS = 4096
_SIZE = _HEADER + 2 * 4 * MOST_VALUES + MOST_ROWS


class Kind(enum.IntEnum):
    """What a message says. ``key`` names a model throughout."""

    LOAD = 1  # a: bytes of the model, which is the descriptor that comes with it; b: rows of the trial in the area
    UNLOAD = 2
    RUN = 3  # a: rows; b: number of the request
    READY = 10  # text: name and version of the runtime
    LOADED = 11  # a: width; text: one quantisation step of the output. The trial's outputs are in the area
    REFUSED = 12  # text: kind, detail
    DONE = 13  # a: values that saturated; b: the request. Outputs, and where a is not 0 the mask, are in the area
    FAILED = 14  # b: the request; text: kind, detail


class Failure(enum.StrEnum):
    """What ends a worker or keeps it from scoring, beside ``models.runtime.DelegateFailure``, whose names these share."""

    HUNG = "hung"
    CRASHED = "crashed"
    NOT_STARTED = "not_started"  # the system would not give us the process
    GRAPH_UNUSABLE = "graph_unusable"  # the runtime refuses the graph or its invoke: the worker is well
    MISCALCULATES = "miscalculates"  # the model's worked examples come out wrong


@dataclass(frozen=True, slots=True)
class Message:
    kind: Kind
    key: int = 0
    a: int = 0
    b: int = 0
    text: str = ""

    def pack(self) -> bytes:
        return _HEAD.pack(self.kind, self.key, self.a, self.b) + self.text.encode()[:MAX_TEXT]

    @classmethod
    def unpack(cls, data: bytes) -> Message:
        """Raises ValueError for what no message is."""
        if len(data) < _HEAD.size:
            raise ValueError(f"a message of {len(data)} bytes")
        kind, key, a, b = _HEAD.unpack_from(data)
        return cls(Kind(kind), key, a, b, data[_HEAD.size :].decode("utf-8", "replace"))


def rows_at_once(width: int) -> int:
    """How many rows of ``width`` values an area takes; ValueError where it takes not even one."""
    rows = min(MOST_ROWS, MOST_VALUES // width)
    if not rows:
        raise ValueError(f"a row has {width} values, at most {MOST_VALUES} are possible")
    return rows


class Area:
    """The memory that both sides see, mapped from the descriptor ``fd``, which may be closed afterwards."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _SIZE)
        values = np.frombuffer(self._map, np.float32, 2 * MOST_VALUES, _HEADER)
        self._inputs, self._outputs = values[:MOST_VALUES], values[MOST_VALUES:]
        self._mask = np.frombuffer(self._map, np.bool_, MOST_ROWS, _HEADER + 8 * MOST_VALUES)

    @property
    def stamp(self) -> int:
        """When the present invoke began, or the last one: it changes with every sign of life."""
        return int(_STAMP.unpack_from(self._map)[0])

    def touch(self) -> None:
        """Set the stamp: an invoke begins now."""
        _STAMP.pack_into(self._map, 0, time.monotonic_ns())

    def inputs(self, rows: int, width: int) -> NDArray[np.float32]:
        return self._inputs[: rows * width].reshape(rows, width)

    def outputs(self, rows: int, width: int) -> NDArray[np.float32]:
        return self._outputs[: rows * width].reshape(rows, width)

    def mask(self, rows: int) -> NDArray[np.bool_]:
        return self._mask[:rows]


def new_area() -> int:
    """The descriptor of a new one, closed on exec. Raises OSError."""
    fd = os.memfd_create("linewatch-area", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def blob(data: bytes) -> int:
    """A descriptor of anonymous memory that holds ``data``, to be sent and closed. Raises OSError."""
    fd = os.memfd_create("linewatch-model", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        raise
    return fd


def read_blob(fd: int, n_bytes: int) -> bytes:
    """What :func:`blob` wrote; closes ``fd``."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read(n_bytes)
