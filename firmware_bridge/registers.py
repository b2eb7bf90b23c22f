"""What Modbus registers mean: which to read together, how words become numbers, counters become rates, and when a slave
that does not answer is asked again. Pure: replies and times are arguments.

Addresses are zero-based, as they go over the wire: register 40001 of a manual is address 0 of function 3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

ValueType = Literal["bit", "uint16", "int16", "uint32", "int32", "float32", "uint64", "int64", "float64"]
Order = Literal["big", "little"]

MAX_WORDS = 125  # of one request, by the standard
MAX_BITS = 2000
BACKOFF_MAX_S = 60.0

_CODES: dict[str, str] = {
    "uint16": "H",
    "int16": "h",
    "uint32": "I",
    "int32": "i",
    "float32": "f",
    "uint64": "Q",
    "int64": "q",
    "float64": "d",
}


class Register(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One value of a slave: ``function`` 1 coils, 2 discrete inputs, 3 holding, 4 input registers. ``word_order`` big:
    the high word comes first; ``byte_order`` big: the high byte of each word does, as the standard has it. The value is
    raw * scale + offset; a ``counter`` becomes its increase a second, over wraps and not over resets."""

    slave: int
    address: int
    function: Literal[1, 2, 3, 4] = 3
    type: ValueType = "uint16"
    word_order: Order = "big"
    byte_order: Order = "big"
    scale: float = 1.0
    offset: float = 0.0
    counter: bool = False

    @property
    def n_words(self) -> int:
        """Registers (or bits) that it takes."""
        return 1 if self.type == "bit" else struct.calcsize(_CODES[self.type]) // 2

    @property
    def is_bit(self) -> bool:
        return self.function in (1, 2)


@dataclass(frozen=True, slots=True)
class Request:
    """One read; ``registers``: which of the configured ones it answers, by their place there."""

    slave: int
    function: Literal[1, 2, 3, 4]
    address: int
    count: int
    registers: tuple[int, ...]


def plan(registers: Sequence[Register]) -> list[Request]:
    """The fewest reads that cover ``registers``. Only neighbours are read together: many slaves refuse a read over an
    address that they do not have."""
    order = sorted(range(len(registers)), key=lambda i: _place(registers[i]))
    requests: list[Request] = []
    for i in order:
        register = registers[i]
        end = register.address + register.n_words
        last = requests[-1] if requests else None
        most = MAX_BITS if register.is_bit else MAX_WORDS
        if (
            last is not None
            and (last.slave, last.function) == (register.slave, register.function)
            and register.address <= last.address + last.count
            and max(end, last.address + last.count) - last.address <= most
        ):
            count = max(end, last.address + last.count) - last.address
            requests[-1] = Request(last.slave, last.function, last.address, count, (*last.registers, i))
        else:
            requests.append(_alone(i, register))
    return requests


def singly(request: Request, registers: Sequence[Register]) -> list[Request]:
    """``request`` as one read a register: for a slave that refuses to read them together."""
    return [_alone(i, registers[i]) for i in request.registers]


def value_of(register: Register, words: Sequence[int]) -> int | float:
    """The raw number in ``words`` (or bits), as many as ``n_words``; exact, for a counter of 64 bits counts on where floats
    have gaps."""
    if register.type == "bit" or register.is_bit:
        return int(words[0] != 0)
    ordered = words if register.word_order == "big" else words[::-1]
    data = b"".join(int(word).to_bytes(2, register.byte_order) for word in ordered)
    value: int | float = struct.unpack(">" + _CODES[register.type], data)[0]
    return value


class Rate:
    """A counter's increase a second."""

    def __init__(self, register: Register) -> None:
        self._span = 0 if register.type.startswith("float") else 1 << (16 * register.n_words)
        self._before: tuple[int | float, int] | None = None

    def step(self, raw: int | float, mono_ns: int) -> float | None:
        """The rate since the last reading; None for the first one, and where the counter was reset. A fall by more
        than half of what the type can hold is a wrap."""
        before, self._before = self._before, (raw, mono_ns)
        if before is None or mono_ns <= before[1]:
            return None
        step = raw - before[0]
        if step < 0:
            step += self._span
            if not 0 <= step < self._span / 2:
                return None
        return step * 1e9 / (mono_ns - before[1])


class Patience:
    """When a slave is asked: at its turn, and after failures ever more rarely, so that one that is dead costs the others
    little."""

    def __init__(self, poll_s: float) -> None:
        self._poll_ns = round(poll_s * 1e9)
        self._n_failures = 0
        self._not_before_ns = 0

    @property
    def is_tried(self) -> bool:
        """Whether it failed when it was last asked."""
        return self._n_failures > 0

    @property
    def not_before_ns(self) -> int:
        """When it is its turn again; 0: always."""
        return self._not_before_ns

    def due(self, mono_ns: int) -> bool:
        return mono_ns >= self._not_before_ns

    def answered(self) -> None:
        self._n_failures = self._not_before_ns = 0

    def failed(self, mono_ns: int) -> None:
        self._n_failures += 1
        wait_ns = min(self._poll_ns * 2.0 ** min(self._n_failures, 30), BACKOFF_MAX_S * 1e9)
        self._not_before_ns = mono_ns + round(max(wait_ns, self._poll_ns))


def turns(patience: Mapping[int, Patience], mono_ns: int) -> list[int]:
    """The slaves whose turn it is: first those that answer, then those that did not, the longest overdue before the others."""
    due = [slave for slave, waits in patience.items() if waits.due(mono_ns)]
    return sorted(due, key=lambda slave: patience[slave].not_before_ns)


def _alone(i: int, register: Register) -> Request:
    return Request(register.slave, register.function, register.address, register.n_words, (i,))


def _place(register: Register) -> tuple[int, int, int, int]:
    return (register.slave, register.function, register.address, register.n_words)
