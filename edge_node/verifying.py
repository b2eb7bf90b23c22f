"""The evidence of alerts, computed again from what was kept. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from models.evidence import Mark, evidence_of, span
from models.logs import LogItem
from models.signal import SampleBlock

Item = LogItem
Finding = Literal["the same", "no evidence", "not all is kept", "DIFFERENT"]


@dataclass(frozen=True, slots=True)
class Verified:
    """An alert's evidence as it was said, and as it is computed from what is kept."""

    mark: Mark
    recomputed: str | None
    finding: Finding


def verify(items: Iterable[Item | Mark], wanted: Collection[Mark]) -> Iterator[Verified]:
    """The evidence of those marks in ``items`` that are ``wanted``, computed from the blocks before each of them."""
    starts: dict[str, int] = {}
    for mark in wanted:
        starts[mark.device] = min(mark.start_ns, starts.get(mark.device, mark.start_ns))
    blocks: dict[str, list[SampleBlock]] = {device: [] for device in starts}
    earliest: dict[str, int] = {}
    for item in items:
        if isinstance(item, SampleBlock):
            device = item.device_id
            if device in starts and item.n:
                first, last = span(item)
                earliest[device] = min(first, earliest.get(device, first))
                if last >= starts[device]:
                    blocks[device].append(item)
        elif isinstance(item, Mark) and item in wanted:
            recomputed = evidence_of(blocks[item.device], item.start_ns, item.end_ns)
            yield Verified(item, recomputed, _finding(item, recomputed, earliest.get(item.device)))


def _finding(mark: Mark, recomputed: str | None, earliest_ns: int | None) -> Finding:
    if mark.evidence is None:
        return "no evidence"
    if recomputed == mark.evidence:
        return "the same"
    return "not all is kept" if earliest_ns is None or earliest_ns > mark.start_ns else "DIFFERENT"


def with_marks(items: Iterable[Item], marks: Sequence[Mark]) -> Iterator[Item | Mark]:
    """The items of an exported log, with its marks where they stand."""
    left = deque(sorted(marks, key=lambda mark: mark.at or 0))
    for n, item in enumerate(items):
        while left and (left[0].at or 0) <= n:
            yield left.popleft()
        yield item
    yield from left
