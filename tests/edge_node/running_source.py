"""A source as the daemon runs it, with a list where the daemon has its queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edge_node.sources import Source
from models.signal import SampleBlock


class Collected:
    """Where the daemon has its queue; takes no more than ``capacity`` blocks."""

    def __init__(self, capacity: int = 10**9) -> None:
        self.blocks: list[SampleBlock] = []
        self.capacity = capacity
        self.n_kept = 0

    def __call__(self, block: SampleBlock, *, kept: bool = False) -> int:
        if len(self.blocks) >= self.capacity:
            return 0
        self.blocks.append(block)
        self.n_kept += kept
        return len(self.blocks)

    def n_values(self) -> int:
        return sum(block.n_samples for block in self.blocks)


@contextmanager
def running(source: Source, collected: Collected | None = None) -> Iterator[Collected]:
    """``source``, from here to the end of the block, on a loop of its own; what it emits."""
    collected = Collected() if collected is None else collected
    loop = asyncio.new_event_loop()
    task = loop.create_task(source.run(collected))

    def serve() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    thread = threading.Thread(target=serve, name=f"source {source.name}")
    thread.start()
    try:
        yield collected
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(20)
        assert not thread.is_alive()
