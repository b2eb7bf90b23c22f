"""Rows of one payload gathered into as few blocks as possible. This module is pure."""

from __future__ import annotations

import numpy as np

from edge_node.sources.layout import Layout, Refusal, timed_block, untimed_block
from models.signal import Clock, SampleBlock


class Rows:
    """Rows as they are read: those of one device with the same channels and a time, or without one, become
    one block."""

    def __init__(self, arrival_ns: int, clock: Clock) -> None:
        self._arrival_ns = arrival_ns
        self._clock = clock
        self._groups: dict[
            tuple[str, tuple[int, ...], bool], tuple[Layout, list[int], list[list[float]]]
        ] = {}
        self.refused: list[Refusal] = []

    def add(self, layout: Layout, present: tuple[int, ...], time_ns: int | None, values: list[float]) -> None:
        """A row with ``values`` for the channels at positions ``present`` of ``layout``."""
        key = (layout.device.device_id, present, time_ns is None)
        group = self._groups.get(key)
        if group is None:
            part = layout if len(present) == len(layout.channels) else layout.subset(present)
            group = self._groups[key] = (part, [], [])
        group[2].append(values)
        if time_ns is not None:
            group[1].append(time_ns)

    def blocks(self) -> list[SampleBlock]:
        """One block a group, in the order of their first rows."""
        result = []
        for layout, times, values in self._groups.values():
            raw = np.array(values, dtype=np.float64)
            if times:
                result.append(
                    timed_block(layout, raw, np.array(times, dtype=np.int64), self._arrival_ns, self._clock)
                )
            else:
                result.append(untimed_block(layout, raw, self._arrival_ns))
        return result
