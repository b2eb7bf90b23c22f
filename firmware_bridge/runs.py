"""Frames in bulk: the bodies of one read to few arrays, without a look at each.

All bodies of a read are laid end to end; what every header says is taken from there at once. Samples of one length
whose fixed fields agree are one structured array, and rows that follow each other one run. What comes out is what
reading body by body would give. Pure.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_bridge import protocol
from firmware_bridge.protocol import U16, U32, Counts, Refusal, Samples, Type

DATA_AT = protocol.HEADER.size + 16  # where a Samples body's values begin
KIND_AT = protocol.HEADER.size  # of a TimeSync: whether it asks or answers
_MOST_LOST = 4096  # frames at once: a number further ahead is one that began anew
_REPEATED = 64  # a number at most so far back is one that was seen already
_FIXED = np.array([0, 1, 4, 5, 6, 7, 8, 9])  # bytes of a Samples body that say what it is


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Rows [n, c] that follow each other, of one configuration and format. ``first_us``: device time of the first row
    of each of its frames, int64[m], modulo 2^32; ``index``: number of the first row, modulo 2^32."""

    config_id: int
    counts: Counts
    index: int
    first_us: NDArray[np.int64]


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
        n_rows, n_channels = message.counts.shape
        layout = _layout(int(self._sizes[first]), message.counts.dtype.str, n_rows * n_channels)
        records = np.frombuffer(self._blob, layout, end - first, int(self._starts[first]))
        counts: Counts = records["data"].reshape((end - first) * n_rows, n_channels)
        index = records["index"].astype(np.int64)
        first_us = records["first_us"].astype(np.int64)
        cuts = (np.flatnonzero((np.diff(index) - n_rows) % U32) + 1).tolist()
        for a, b in zip([0, *cuts], [*cuts, end - first], strict=True):
            rows = counts[a * n_rows : b * n_rows]
            runs.append(Run(message.config_id, rows, int(index[a]), first_us[a:b]))

    def _byte(self, at: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._bytes[self._starts + at].astype(np.int64)
        return found


@functools.lru_cache(maxsize=64)
def _layout(size: int, dtype: str, n: int) -> np.dtype[Any]:
    """One Samples body of ``size`` bytes and ``n`` values as a record."""
    return np.dtype(
        {
            "names": ["first_us", "index", "data"],
            "formats": ["<u4", "<u4", (dtype, (n,))],
            "offsets": [12, 16, DATA_AT],
            "itemsize": size,
        }
    )
