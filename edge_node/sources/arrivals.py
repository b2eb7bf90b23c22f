"""Times for rows that came at once and carry none of their own.

A system hands over what a line brought meanwhile: rows that were taken one after the other have one arrival. The last
of them gets it; the others are taken to have come before it at the device's interval, but after every row that was
given out before: where the interval leaves no room, they share what there is. This module is pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.signal import Clock, Device, SampleBlock, samples_to_ns

_LEAST_NS = 1_000  # between two rows; what is nearer counts as the same sample given twice
_BACK_NS = 1_000_000_000  # a clock that is so far behind the last row was set back: time begins anew


class Arrivals:
    """Of one source: what it gave out last, by device and channel."""

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self._devices = devices
        self._last: dict[tuple[str, str], int] = {}

    def spread(self, blocks: list[SampleBlock], arrival_ns: int) -> list[SampleBlock]:
        """``blocks``, all that came at ``arrival_ns``, in their order; those without a time of their own get theirs.

        Uniform ones of the same channels are joined to one that ends on arrival; rows of an irregular device get times
        that increase from block to block, in each channel, and from call to call.
        """
        if not any(block.clock is Clock.ARRIVAL for block in blocks):
            return blocks
        timed = [block for block in blocks if block.clock is not Clock.ARRIVAL]
        uniform: dict[tuple[str, tuple[str, ...], Fraction], list[SampleBlock]] = {}
        irregular: dict[str, list[SampleBlock]] = {}
        for block in blocks:
            if block.clock is not Clock.ARRIVAL:
                continue
            if block.rate_hz is None:
                irregular.setdefault(block.device_id, []).append(block)
            else:
                uniform.setdefault((block.device_id, block.channels, block.rate_hz), []).append(block)
        joined = [_joined(group, arrival_ns) for group in uniform.values()]
        spread = [block for group in irregular.values() for block in self._of_device(group, arrival_ns)]
        return timed + joined + spread

    def _of_device(self, blocks: list[SampleBlock], arrival_ns: int) -> list[SampleBlock]:
        device = blocks[0].device_id
        after: dict[
            str, int
        ] = {}  # channel -> how many rows have it, of those that were looked at: from the end
        from_end: list[int] = []  # of the last row of each block, the last block first
        for block in reversed(blocks):
            behind = max(after.get(channel, 0) for channel in block.channels)
            from_end.append(behind)
            after.update(dict.fromkeys(block.channels, behind + block.n))
        n = max(after.values())
        known = [at for channel in after if (at := self._last.get((device, channel))) is not None]
        interval = samples_to_ns(1, self._devices[device].rate_hz)
        step, end = _steps(n, interval, arrival_ns, max(known, default=None))
        self._last.update(dict.fromkeys(((device, channel) for channel in after), end))
        parts: dict[tuple[str, ...], list[tuple[SampleBlock, NDArray[np.int64]]]] = {}
        for block, behind in zip(blocks, reversed(from_end), strict=True):
            times = end - step * (behind + np.arange(block.n - 1, -1, -1, dtype=np.int64))
            parts.setdefault(block.channels, []).append((block, times))
        return [
            msgspec.structs.replace(
                part[0][0],
                values=_stacked([block for block, _ in part]),
                time_ns=np.concatenate([times for _, times in part]),
            )
            for part in parts.values()
        ]


def _steps(n: int, interval_ns: int, arrival_ns: int, last_ns: int | None) -> tuple[int, int]:
    """(ns from one of ``n`` rows to the next, when the last of them was taken)."""
    room = None if last_ns is None else arrival_ns - last_ns
    if last_ns is None or room is None or room < -_BACK_NS:
        return max(interval_ns, _LEAST_NS), arrival_ns
    step = max(min(interval_ns, room // n), _LEAST_NS)
    return step, max(arrival_ns, last_ns + n * step)


def _joined(blocks: list[SampleBlock], arrival_ns: int) -> SampleBlock:
    if len(blocks) == 1:
        return blocks[0]
    values, rate = _stacked(blocks), blocks[0].rate_hz
    assert rate is not None
    start_ns = arrival_ns - samples_to_ns(len(values) - 1, rate)
    return msgspec.structs.replace(blocks[0], values=values, start_ns=start_ns)


def _stacked(blocks: list[SampleBlock]) -> NDArray[np.float32]:
    return blocks[0].values if len(blocks) == 1 else np.concatenate([block.values for block in blocks])
