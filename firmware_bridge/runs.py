"""Frames in bulk: the bodies of one read to few arrays, without a look at each.

All bodies of a read are laid end to end; what every header says is taken from there at once. Samples of one length
whose fixed fields agree are one structured array, and rows that follow each other one run. A board that is in its stride
sends little else than the same again, a few frames a read: whether that is so is seen sooner without arrays
(:meth:`Pattern.follows`). What comes out is what reading body by body would give. Pure.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from firmware_bridge import protocol
from firmware_bridge.protocol import DTYPES, U16, U32, Counts, Format, Refusal, Samples, Type

# Where the fields of a Samples body begin.
SEQ_AT, CONFIG_AT, FIRST_US_AT, INDEX_AT, DATA_AT = 2, 4, 12, 16, 20
KIND_AT = protocol.HEADER.size  # of a TimeSync: whether it asks or answers
_MOST_LOST = 4096  # frames at once: a number further ahead is one that began anew
_REPEATED = 64  # a number at most so far back is one that was seen already
_FEW = 512  # bodies that Python looks at sooner than numpy
_FIXED_FIELDS = struct.Struct("<HBBHxx")  # config_id, format, n_channels, n_rows
_FIXED = np.array([0, 1, 4, 5, 6, 7, 8, 9])  # bytes of a Samples body that say what it is


class Run(msgspec.Struct, frozen=True, eq=False):
    """Rows [n, c] that follow each other, of one configuration and format. ``first_us``: device time of the first row
    of each of its frames, modulo 2^32; ``index``: number of the first row, modulo 2^32. ``pattern``: of its frames."""

    pattern: Pattern
    counts: Counts
    index: int
    first_us: Sequence[int]

    @property
    def config_id(self) -> int:
        return self.pattern.config_id


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """What Samples bodies that are read alike have in common."""

    config_id: int
    n_rows: int
    n_channels: int
    size: int
    layout: np.dtype[Any]  # of a body
    fields: struct.Struct  # of a body: all but its values, as the four numbers below
    head: int  # version and type, and 0 for the sequence number
    fixed: int  # all that says how the values are to be read

    def follows(self, bodies: Sequence[bytes], seq: int, index: int) -> Run | None:
        """The run that ``bodies`` are if each is like this, numbered on from ``seq``, with rows from ``index`` on. None:
        they are not, or are too many, or a number wraps: look closer."""
        m = len(bodies)
        if m > _FEW or set(map(len, bodies)) != {self.size}:
            return None
        blob = b"".join(bodies)
        head, whole, step = self.head | seq << 16, self.fixed, self.n_rows
        row = index
        first_us: list[int] = []
        for found_head, fixed, us, found_row in self.fields.iter_unpack(blob):
            if found_head != head or found_row != row or fixed != whole:
                return None
            first_us.append(us)
            head += 1 << 16
            row += step
        return Run(self, self.counts(blob, m, 0), index, first_us)

    def counts(self, blob: bytes, n: int, at: int) -> Counts:
        """The rows in ``n`` such bodies, end to end from ``at`` on."""
        records = np.frombuffer(blob, self.layout, n, at)
        found: Counts = records["data"].reshape(n * self.n_rows, self.n_channels)
        return found


class Bodies:
    """Bodies in the order in which they came; each has a whole header."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self._bodies = bodies
        self._blob = b"".join(bodies)
        self._sizes = np.fromiter(map(len, bodies), np.int64, len(bodies))
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._bytes = np.frombuffer(self._blob, np.uint8)
        self.seqs = self._byte(2) | self._byte(3) << 8

    def n_lost(self, last_seq: int | None) -> tuple[int, int | None]:
        """(How many frames are missing before and between these, by their sequence numbers; the number to go on from).
        ``last_seq`` came before them; None: it is not known. A number that was just seen is a repetition, one that is far
        off a restart: nothing is known to be lost. What only a host sends is an echo, with numbers of its own."""
        seqs = self.seqs
        types = self._byte(1)
        echoed = types == Type.COMMAND
        for i in np.flatnonzero(types == Type.TIME_SYNC).tolist():
            body = self._bodies[i]
            echoed[i] = len(body) > KIND_AT and body[KIND_AT] == 0
        if echoed.any():
            seqs = seqs[~echoed]
        if last_seq is not None:
            seqs = np.concatenate([[last_seq], seqs])
        if not len(seqs):
            return 0, last_seq
        steps = (np.diff(seqs) - 1) % U16
        if (steps <= _MOST_LOST).all():
            return int(steps.sum()), int(seqs[-1])
        n, last = 0, int(seqs[0])
        for seq in seqs[1:].tolist():
            step = (seq - last - 1) % U16
            if step < U16 - _REPEATED:
                n += step if step <= _MOST_LOST else 0
                last = seq
        return n, last

    def stretches(self) -> Iterator[tuple[int, int, bool]]:
        """(first, end, whether they are Samples) of bodies that belong together; all others come one by one."""
        samples = (self._byte(1) == Type.SAMPLES) & (self._byte(0) >> 4 == protocol.MAJOR)
        if samples.all():
            yield 0, len(self._bodies), True
            return
        i = 0
        edges = (np.flatnonzero(samples[1:] != samples[:-1]) + 1).tolist()
        for end in [*edges, len(samples)]:
            if samples[i]:
                yield i, end, True
            else:
                for k in range(i, end):
                    yield k, k + 1, False
            i = end

    def runs(self, first: int, end: int) -> tuple[list[Run], list[Refusal]]:
        """The runs in the Samples bodies ``first .. end``, in order, and what was refused."""
        runs: list[Run] = []
        refused: list[Refusal] = []
        sizes = self._sizes[first:end]
        if int(sizes.min()) < DATA_AT:  # hardly ever
            edges = list(range(1, end - first))
        else:
            fixed = self._bytes[self._starts[first:end, None] + _FIXED].view(np.uint64)[:, 0]
            edges = (np.flatnonzero((fixed[1:] != fixed[:-1]) | (sizes[1:] != sizes[:-1])) + 1).tolist()
        a = first
        for b in [*(first + e for e in edges), end]:
            message = protocol.parse(self._bodies[a])
            if isinstance(message, Samples):
                self._alike(a, b, message, runs)
            elif isinstance(message, Refusal):
                refused += [message] * (b - a)
            a = b
        return runs, refused

    def _alike(self, first: int, end: int, message: Samples, runs: list[Run]) -> None:
        """Bodies like the first, which says ``message``, to runs."""
        n_rows = len(message.counts)
        pattern = _pattern(
            self._bodies[first][:SEQ_AT], self._bodies[first][CONFIG_AT:FIRST_US_AT], int(self._sizes[first])
        )
        at = int(self._starts[first])
        counts = pattern.counts(self._blob, end - first, at)
        records = np.frombuffer(self._blob, pattern.layout, end - first, at)
        index = records["index"].astype(np.int64)
        first_us = records["first_us"].tolist()
        cuts = (np.flatnonzero((np.diff(index) - n_rows) % U32) + 1).tolist()
        for a, b in zip([0, *cuts], [*cuts, end - first], strict=True):
            runs.append(Run(pattern, counts[a * n_rows : b * n_rows], int(index[a]), first_us[a:b]))

    def _byte(self, at: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._bytes[self._starts + at].astype(np.int64)
        return found


@functools.lru_cache(maxsize=64)
def _pattern(head: bytes, fixed: bytes, size: int) -> Pattern:
    """Of readable Samples bodies with ``size`` bytes that begin with ``head`` and have ``fixed`` behind their number."""
    config_id, code, n_channels, n_rows = _FIXED_FIELDS.unpack(fixed)
    layout = np.dtype(
        {
            "names": ["first_us", "index", "data"],
            "formats": ["<u4", "<u4", (DTYPES[Format(code)], (n_rows * n_channels,))],
            "offsets": [FIRST_US_AT, INDEX_AT, DATA_AT],
            "itemsize": size,
        }
    )
    fields = struct.Struct(f"<IQII{size - DATA_AT}x")
    start, whole = int.from_bytes(head, "little"), int.from_bytes(fixed, "little")
    return Pattern(config_id, n_rows, n_channels, size, layout, fields, start, whole)
