"""The queue between sources and pipeline: bounded, whatever blocks are made of."""

from __future__ import annotations

import asyncio

import numpy as np

from edge_node.block_queue import BLOCK_SAMPLES, BlockQueue
from models.signal import SampleBlock


def block(n: int) -> SampleBlock:
    times = np.arange(n, dtype=np.int64)
    return SampleBlock.irregular("d", ("x",), np.zeros((n, 1), np.float32), time_ns=times, arrival_ns=0)


def test_small_blocks_count_as_what_they_take() -> None:
    async def fill() -> None:
        queue = BlockQueue(10 * BLOCK_SAMPLES, asyncio.get_running_loop())
        assert [queue.put(block(i % 2)) for i in range(12)] == [*range(1, 11), 0, 0]
        assert queue.n_samples == 5
        assert len(queue.take(4)) == 4
        assert not queue.put(block(4 * BLOCK_SAMPLES + 1))
        assert queue.put(block(4 * BLOCK_SAMPLES))
        assert not queue.put(block(1))
        assert len(queue.take(100)) == 7
        assert queue.n_samples == 0
        assert queue.put(block(10 * BLOCK_SAMPLES))

    asyncio.run(fill())
