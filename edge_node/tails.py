"""The newest rows of each device, kept so that an alert can be given its evidence at once. Pure.

Strategy: blocks are kept as they came, shared with whoever else has them. What becomes too old is dropped in batches; the
rows of an episode that is still open go into its digest before that, in order of event time, so that the end of a long
episode has evidence, too. Invariants: memory is bounded by ``max_bytes``, however many devices there are; an evidence is
either that of all rows of its window that came, or None.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable

from edge_node.plans import DevicePlan
from models.evidence import PREFIX, rows_between, span
from models.messages import Alert
from models.signal import NS_PER_S, SampleBlock

MAX_BYTES = 32 << 20
_BLOCK_BYTES = 768  # of a block without its values, on CPython 3.11
_SLACK = 1.25  # dropped in batches: not before there is so much too much
_MARGIN_S = 10.0
_MAX_OPEN = 64  # episodes of a device


class _Open:
    """The digest of an episode over [start, hashed): all of its rows that are not in the tail any more."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = self.hashed_ns = start_ns
        self.digest = hashlib.sha256()
        self.is_broken = False  # a row came that should have been hashed before others
        self.is_empty = True

    @property
    def is_untouched(self) -> bool:
        """Nothing is hashed yet, so that nothing can come too late for it."""
        return self.hashed_ns == self.start_ns

    def advance(self, blocks: Iterable[SampleBlock], to_ns: int) -> None:
        if to_ns > self.hashed_ns and not self.is_broken:
            rows = rows_between(blocks, self.hashed_ns, to_ns)
            self.digest.update(rows)
            self.is_empty &= not rows
            self.hashed_ns = to_ns


class _Tail:
    """Of one device: the blocks, with the event times of the first and last row of each.

    ``dropped_ns``: latest event time of what is not in the tail any more; rows before ``lost_ns`` were not all recorded. Of
    rows that are further ahead of their arrival than any window reaches, only ``ahead``, where they were, is remembered:
    one row of a wrong clock must not leave its device without evidence for ever.
    """

    def __init__(self, span_ns: int, future_ns: int, max_bytes: int) -> None:
        self.span_ns = span_ns
        self.future_ns = future_ns
        self.max_bytes = max_bytes
        self.blocks: deque[tuple[int, int, SampleBlock]] = deque()
        self.n_bytes = 0
        self.dropped_ns: int | None = None
        self.lost_ns: int | None = None
        self.ahead: tuple[int, int] | None = None
        self.open: dict[str, _Open] = {}

    def push(self, block: SampleBlock) -> None:
        first, last = span(block)
        if self.lost_ns is None:  # what came before this process began
            self.lost_ns = min(first, block.arrival_ns + self.future_ns)
        self.blocks.append((first, last, block))
        self.n_bytes += block.values.nbytes + _BLOCK_BYTES
        if self.open:
            for episode in self.open.values():
                if first < episode.hashed_ns and last >= episode.start_ns and not episode.is_untouched:
                    episode.is_broken = True
        if self.n_bytes > self.max_bytes:
            self._trim(last - self.span_ns, self.max_bytes / _SLACK)
        elif last - self.blocks[0][1] > _SLACK * self.span_ns:
            self._trim(last - self.span_ns, self.max_bytes)

    def lost(self, block: SampleBlock) -> None:
        until = self._reach(block, *span(block)) + 1
        self.lost_ns = until if self.lost_ns is None else max(self.lost_ns, until)

    def evidence(self, alert: Alert) -> str | None:
        key, start, end = alert.alert_id, alert.start_ns, alert.end_ns
        episode = self.open.pop(key, None) if alert.state == "cleared" else self.open.get(key)
        is_lost = self.ahead is not None and self.ahead[0] < end and self.ahead[1] >= start
        if is_lost or self.lost_ns is None or start < self.lost_ns:
            self.open.pop(key, None)
            return None
        if episode is None:
            if self.dropped_ns is not None and start <= self.dropped_ns:
                return None
            episode = _Open(start)
            if alert.state != "cleared" and len(self.open) < _MAX_OPEN:
                self.open[key] = episode
        if episode.is_broken or episode.start_ns != start or end < episode.hashed_ns:
            return None
        rows = rows_between((block for _, _, block in self.blocks), episode.hashed_ns, end)
        if episode.is_empty and not rows:
            return None
        digest = episode.digest.copy()
        digest.update(rows)
        return PREFIX + digest.hexdigest()

    def _trim(self, before_ns: int, max_bytes: float) -> None:
        """Drop what is older than ``before_ns``, and the oldest until ``max_bytes`` are left."""
        n, n_bytes, dropped = 0, self.n_bytes, self.dropped_ns
        for first, last, block in self.blocks:
            if last >= before_ns and n_bytes <= max_bytes:
                break
            n += 1
            n_bytes -= block.values.nbytes + _BLOCK_BYTES
            reach = self._reach(block, first, last)
            dropped = reach if dropped is None else max(dropped, reach)
        if not n:
            return
        assert dropped is not None
        for episode in self.open.values():
            if episode.start_ns <= dropped:
                episode.advance((block for _, _, block in self.blocks), dropped + 1)
        for _ in range(n):
            self.blocks.popleft()
        self.n_bytes, self.dropped_ns = n_bytes, dropped

    def _reach(self, block: SampleBlock, first: int, last: int) -> int:
        """Event time up to which ``block``, of which nothing is left here, has rows that a window may hold."""
        reach = min(last, block.arrival_ns + self.future_ns)
        if last > reach:
            first = max(first, reach)
            self.ahead = (first, last) if self.ahead is None else _around(self.ahead, (first, last))
        return reach


class Tails:
    """The tails of all devices that are planned for; others have none."""

    def __init__(self, plans: Iterable[DevicePlan], max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._tails: dict[str, _Tail] = {}
        self.go_on_with(plans)

    def go_on_with(self, plans: Iterable[DevicePlan]) -> None:
        """From here on blocks are of ``plans``; what there is of devices that stay is kept."""
        plans = list(plans)
        share = self._max_bytes // max(1, len(plans))
        before, self._tails = self._tails, {}
        for plan in plans:
            span_ns, future_ns = _span_ns(plan), round(plan.time.max_future_s * NS_PER_S)
            tail = before.get(plan.device.device_id)
            if tail is None:
                tail = _Tail(span_ns, future_ns, share)
            tail.span_ns, tail.future_ns, tail.max_bytes = span_ns, future_ns, share
            self._tails[plan.device.device_id] = tail

    def push(self, block: SampleBlock) -> None:
        """A block that is being recorded, in the order in which the pipeline is given it."""
        tail = self._tails.get(block.device_id)
        if tail is not None and len(block.values):
            tail.push(block)

    def lost(self, block: SampleBlock) -> None:
        """A block that the pipeline is given and that is not recorded."""
        tail = self._tails.get(block.device_id)
        if tail is not None and len(block.values):
            tail.lost(block)

    def evidence(self, alert: Alert) -> str | None:
        """The evidence of ``alert``, which is being said now."""
        tail = self._tails.get(alert.device)
        return None if tail is None else tail.evidence(alert)

    @property
    def n_bytes(self) -> int:
        """What the tails take."""
        return sum(tail.n_bytes for tail in self._tails.values())


def _around(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return min(a[0], b[0]), max(a[1], b[1])


def _span_ns(plan: DevicePlan) -> int:
    """How far back the first window of an alert that is raised now may begin, with some to spare."""
    window, policy = plan.window, plan.alert
    windows_ns = 2 * window.window_ns + policy.m_raise * max(window.hop_ns, 0)
    waits_s = policy.min_duration_s + policy.cooldown_s + plan.time.lateness_s + _MARGIN_S
    return windows_ns + round(waits_s * NS_PER_S)
