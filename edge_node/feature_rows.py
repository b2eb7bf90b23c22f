"""Features of windows on their way into the feature log and back. Pure.

Strategy: on disk they are a block of the block log whose rows are windows, so that files, thread and bounds are those of the
black box. A row is its start as the event time, and as float32 values: what is no float, bit for bit (the length in
nanoseconds, two words; which channels are suspect, a bit each), and then the features as they were extracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.signal import Clock, SampleBlock

_LENGTH_WORDS = 2
_BITS = 32


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Windows of one device that are to be scored, in the order in which they closed: int64[m] each, half-open; ``raw``
    float32[m, k] before re-centring; ``suspect`` bool[m, c]: the channel has stood still for too long (None: none has).
    A window of a machine at rest, or with a faulty sensor, has no row: for alerts and re-centring there is no such window."""

    device_id: str
    arrival_ns: int
    clock: str
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    raw: NDArray[np.float32]
    suspect: NDArray[np.bool_] | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.raw.shape[0])

    def take(self, which: NDArray[np.bool_]) -> FeatureRows:
        """The rows of which ``which`` bool[m] is True."""
        if which.all():
            return self
        suspect = None if self.suspect is None else self.suspect[which]
        start, end, raw = self.start_ns[which], self.end_ns[which], self.raw[which]
        return FeatureRows(self.device_id, self.arrival_ns, self.clock, start, end, raw, suspect)


def n_words(n_channels: int) -> int:
    """How many values of a row on disk are not features, for a device of so many channels."""
    return _LENGTH_WORDS + -(-n_channels // _BITS)


def column_names(n_channels: int, features: Sequence[str]) -> tuple[str, ...]:
    """What the values of a row on disk are."""
    return tuple(f"bits {i}" for i in range(n_words(n_channels))) + tuple(features)


def as_block(rows: Sequence[FeatureRows], n_channels: int, names: tuple[str, ...]) -> SampleBlock:
    """``rows`` of one device and one clock, as a block with the columns ``names`` (:func:`column_names`)."""
    last = rows[-1]
    start = np.concatenate([r.start_ns for r in rows])
    length = np.concatenate([r.end_ns for r in rows]) - start
    m, begin = start.size, n_words(n_channels)
    words = np.zeros((m, begin), np.uint32)
    words[:, :_LENGTH_WORDS] = length.astype("<i8").view("<u4").reshape(m, _LENGTH_WORDS)
    at = 0
    for some in rows:
        if some.suspect is not None:
            words[at : at + some.n, _LENGTH_WORDS:] = _packed(some.suspect)
        at += some.n
    values = np.empty((m, begin + last.raw.shape[1]), np.float32)
    values.view(np.uint32)[:, :begin] = words
    np.concatenate([r.raw for r in rows], out=values[:, begin:])
    # Not by SampleBlock.irregular: nothing may touch the bits.
    return SampleBlock(
        last.device_id, names, values, last.arrival_ns, None, None, start.astype(np.int64), Clock(last.clock)
    )


def of_block(block: SampleBlock, n_channels: int) -> FeatureRows:
    """The inverse of :func:`as_block`, as one. ValueError for a block that is none of it."""
    begin = n_words(n_channels)
    if block.time_ns is None or block.values.shape[1] <= begin:
        raise ValueError(f"{len(block.channels)} columns are no features of {n_channels} channels")
    words = np.ascontiguousarray(block.values[:, :begin]).view(np.uint32)
    length = np.ascontiguousarray(words[:, :_LENGTH_WORDS]).astype("<u4").view("<i8")[:, 0].astype(np.int64)
    suspect = None
    if (bits := words[:, _LENGTH_WORDS:]).any():
        suspect = _unpacked(bits, n_channels)
    raw = np.ascontiguousarray(block.values[:, begin:])
    return FeatureRows(
        block.device_id,
        block.arrival_ns,
        block.clock.value,
        block.time_ns,
        block.time_ns + length,
        raw,
        suspect,
    )


def _packed(suspect: NDArray[np.bool_]) -> NDArray[np.uint32]:
    m, c = suspect.shape
    wide = np.zeros((m, -(-c // _BITS) * _BITS), np.bool_)
    wide[:, :c] = suspect
    found: NDArray[np.uint32] = np.packbits(wide, axis=1, bitorder="little").view("<u4").astype(np.uint32)
    return found


def _unpacked(bits: NDArray[np.uint32], n_channels: int) -> NDArray[np.bool_]:
    octets = np.ascontiguousarray(bits).astype("<u4").view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little", count=n_channels).astype(np.bool_)
