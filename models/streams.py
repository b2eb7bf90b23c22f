"""Which columns of a block go to which stream: channels that arrive together are windowed together.

A channel belongs to the stream that first brought it. A block whose channels are spread over several streams
is taken apart; one that lacks channels of its stream leaves holes there, which another block may fill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAX_PLANS = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Columns of a block that go to one stream."""

    columns: tuple[int, ...]  # the stream's channels, as places among the device's
    n_present: int  # how many of them the block has
    source: list[int] | None  # where they are in the block; None: just so
    target: list[int] | None  # where they go in the stream; None: all of it

    def rows(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n, len(columns)] of a block's ``values``; NaN where the block lacks a channel."""
        if self.source is not None:
            values = values[:, self.source]
        if self.target is None:
            return values
        wide = np.full((len(values), len(self.columns)), np.nan, np.float32)
        wide[:, self.target] = values
        return wide


@dataclass(frozen=True, slots=True)
class Plan:
    """How blocks with the same channels are taken apart."""

    parts: tuple[Part, ...]
    known: tuple[int, ...]  # the device's channels that are in the block
    source: tuple[int, ...]  # and where
    n_unknown: int
    plain: bool  # it is just the channels of the one stream there is, in its order


class Streams:
    """The streams of one device. ``joined``: one for all channels, in the block's order."""

    def __init__(self, names: tuple[str, ...], *, joined: bool) -> None:
        self.streams: list[tuple[int, ...]] = []
        self._places = {name: i for i, name in enumerate(names)}
        self._joined = joined
        self._plans: dict[tuple[str, ...], Plan] = {}

    def plan(self, channels: tuple[str, ...]) -> Plan:
        """The plan for blocks of ``channels``; of channels named twice the first counts."""
        plan = self._plans.get(channels)
        if plan is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[channels] = self._make(channels)
        return plan

    def _make(self, channels: tuple[str, ...]) -> Plan:
        source: dict[int, int] = {}
        for i, name in enumerate(channels):
            if name in self._places:
                source.setdefault(self._places[name], i)
        if self._joined:
            wanted = [tuple(source)] if source else []
        else:
            new = tuple(sorted(source.keys() - {c for stream in self.streams for c in stream}))
            if new:
                self.streams.append(new)
            wanted = [stream for stream in self.streams if not source.keys().isdisjoint(stream)]
        parts = []
        for stream in wanted:
            present = [c for c in stream if c in source]
            taken = [source[c] for c in present]
            whole = taken == list(range(len(channels)))
            target = None if len(present) == len(stream) else [stream.index(c) for c in present]
            parts.append(Part(stream, len(present), None if whole else taken, target))
        n_unknown = len(channels) - len(source)
        plain = (
            len(parts) == 1
            and not n_unknown
            and parts[0].source is None
            and parts[0].target is None
            and len(parts[0].columns) == len(self._places)
        )
        return Plan(tuple(parts), tuple(source), tuple(source.values()), n_unknown, plain)
