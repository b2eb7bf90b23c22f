"""``edge-node record``: the daemon's sources and clock, written to a log and to nothing else."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import structlog

from edge_node.block_queue import BlockQueue
from edge_node.config import Config, ConfigError
from edge_node.running_sources import raise_failure
from edge_node.sources import SOURCES
from models.logs import Tick
from models.recording import RecordingWriter
from models.signal import NS_PER_S

TICK_S = 0.25

log = structlog.get_logger("linewatch.record")


async def record(config: Config, output: Path, *, for_s: float | None = None) -> int:
    """Writes what the sources of ``config`` deliver to ``output`` until SIGINT, SIGTERM, ``for_s`` or the sources' end.

    Returns the number of values written. Raises LogError when the log cannot be written, ConfigError without sources,
    DaemonFailed when a source fails.
    """
    if not config.sources:
        raise ConfigError(f"{config.path}: no [[source]]: there is nothing to record")
    loop = asyncio.get_running_loop()
    queue = BlockQueue(config.gateway.queue_samples, loop)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    devices = {d.device.device_id: d.device for d in config.devices}
    sources = [SOURCES[str(s.__struct_config__.tag)](s, devices) for s in config.sources]
    tasks = [asyncio.create_task(source.run(queue.put)) for source in sources]
    ends = None if for_s is None else time.monotonic() + for_s
    n_values = 0
    next_tick_ns = next_report_ns = 0
    try:
        with RecordingWriter(output, [d.as_recorded() for d in config.devices]) as writer:
            while not stopping.is_set() and (ends is None or time.monotonic() < ends):
                await queue.wait(TICK_S)
                for block in queue.take(1024):
                    writer.write(block)
                    n_values += block.n_samples
                now_ns = time.time_ns()
                if abs(now_ns - next_tick_ns) > TICK_S * NS_PER_S or now_ns >= next_tick_ns:
                    writer.write(Tick(now_ns))
                    next_tick_ns = now_ns + round(TICK_S * NS_PER_S)
                if now_ns >= next_report_ns:
                    next_report_ns = now_ns + 10 * NS_PER_S
                    log.info(
                        "recording", n_values=n_values, connected=[s.name for s in sources if s.connected]
                    )
                failed = any(t.done() and not t.cancelled() and t.exception() for t in tasks)
                if failed or (all(task.done() for task in tasks) and not queue.n_samples):
                    break
            while blocks := queue.take(1024):
                for block in blocks:
                    writer.write(block)
                    n_values += block.n_samples
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for source, task in zip(sources, tasks, strict=True):
        if not task.cancelled():
            raise_failure(f"source {source.name}", task.exception())
    return n_values
