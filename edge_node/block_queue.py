"""The one bounded queue between the sources and the pipeline.

Invariant: never more than ``max_samples`` values wait, a block counting as ``BLOCK_SAMPLES`` at least, since it takes as much
memory; a block that does not fit is refused, and its source counts it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from models.signal import SampleBlock

BLOCK_SAMPLES = 128  # 512 bytes: a block without its values, on CPython 3.11


class BlockQueue:
    """Filled from any thread by :meth:`put`, emptied by the event loop."""

    def __init__(self, max_samples: int, loop: asyncio.AbstractEventLoop) -> None:
        self._max_samples = max_samples
        self._loop = loop
        self._lock = threading.Lock()
        self._blocks: deque[tuple[SampleBlock, int]] = deque()  # and how many values nobody would bring again
        self._n_samples = self._n_taken_up = self._n_at_risk = 0
        self._n_put = self._n_taken = 0
        self._n_accepted = 0
        self._lossy: set[str] = set()
        self._signalled = False
        self._filled = asyncio.Event()

    @property
    def n_samples(self) -> int:
        """Values that wait."""
        return self._n_samples

    def figures(self) -> tuple[int, int]:
        """Values that were accepted since the start, and of these those that wait: of one instant."""
        with self._lock:
            return self._n_accepted, self._n_samples

    @property
    def n_at_risk(self) -> int:
        """Of the values that wait, those that nobody would bring again."""
        return self._n_at_risk

    @property
    def n_taken(self) -> int:
        """The ticket of the last block that was taken: those of all that wait are larger."""
        return self._n_taken

    @property
    def lossy(self) -> frozenset[str]:
        """Devices of which a block came that nobody will bring again."""
        with self._lock:
            return frozenset(self._lossy)

    def put(self, block: SampleBlock, *, kept: bool = False) -> int:
        """Append ``block``, of which its sender keeps a copy until it is acknowledged (``kept``) or not; its ticket, or 0 when
        there is no room for it. Tickets count from 1."""
        with self._lock:
            room = max(block.n_samples, BLOCK_SAMPLES)
            if self._n_taken_up + room > self._max_samples:
                return 0
            at_risk = 0 if kept else block.n_samples
            self._blocks.append((block, at_risk))
            self._n_at_risk += at_risk
            self._n_samples += block.n_samples
            self._n_accepted += block.n_samples
            self._n_taken_up += room
            self._n_put += 1
            ticket = self._n_put
            if not kept:
                self._lossy.add(block.device_id)
            signal = not self._signalled
            self._signalled = True
        if signal:
            self._loop.call_soon_threadsafe(self._filled.set)
        return ticket

    def take(self, max_blocks: int) -> list[SampleBlock]:
        """Up to ``max_blocks`` of the oldest blocks; may be none."""
        with self._lock:
            n = min(max_blocks, len(self._blocks))
            popped = [self._blocks.popleft() for _ in range(n)]
            taken = [block for block, _ in popped]
            self._n_taken += n
            self._n_at_risk -= sum([at_risk for _, at_risk in popped])
            sizes = [block.n_samples for block in taken]
            self._n_samples -= sum(sizes)
            self._n_taken_up -= sum([max(size, BLOCK_SAMPLES) for size in sizes])
            if not self._blocks:
                self._signalled = False
                self._filled.clear()
        return taken

    def wake(self) -> None:
        """End a :meth:`wait` that is under way; on the loop's thread."""
        self._filled.set()

    async def wait(self, timeout_s: float) -> None:
        """Until there is something to take, at most ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._filled.wait()
        except TimeoutError:
            pass
