"""``edge-node record``: the daemon's sources and clock, written to a log and to nothing else.

Invariant: every value that a source delivered is written, or dropped for a reason that is counted and said.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import structlog

from edge_node.block_queue import BlockQueue
from edge_node.config import Config, ConfigError
from edge_node.running_sources import DaemonFailed, RunningSources
from edge_node.terminal import hung_up
from edge_node.ticks import Ticks
from models.logs import Tick
from models.recording import RecordingWriter
from models.signal import NS_PER_S, DropReason

BLOCKS_A_TURN = 1024
REPORT_NS = 10 * NS_PER_S

log = structlog.get_logger("linewatch.record")


@dataclass(frozen=True, slots=True)
class Recorded:
    """How many values were written, and how many were not, by reason."""

    n_values: int
    drops: Counter[DropReason]

    @property
    def dropped(self) -> str:
        """The values that were not written, in words."""
        return ", ".join(f"{n} {reason.value}" for reason, n in sorted(self.drops.items()) if n) or "none"


async def record(config: Config, output: Path, *, for_s: float | None = None) -> Recorded:
    """Writes what the sources of ``config`` deliver to ``output`` until SIGINT, SIGTERM, ``for_s``, the sources' end or
    the terminal's. Any other SIGHUP is refused, in the log: a recording keeps the configuration it began with.

    Raises LogError when the log cannot be written, ConfigError without sources, DaemonFailed when a source fails; what
    was delivered until then is written.
    """
    if not config.sources:
        raise ConfigError(f"{config.path}: no [[source]]: there is nothing to record")
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, _refuse_reload, stopping)
    with RecordingWriter(output, [device.as_recorded() for device in config.devices]) as writer:
        recording = _Recording(config, writer, loop)
        try:
            await recording.run(stopping, for_s)
        finally:
            done = recording.so_far()
            log.info("recorded", n_values=done.n_values, dropped=done.dropped)
    return done


class _Recording:
    """From the sources of ``config`` through a queue to ``writer``."""

    def __init__(self, config: Config, writer: RecordingWriter, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._writer = writer
        self._queue = BlockQueue(config.gateway.queue_samples, loop)
        self._sources = RunningSources(self._queue.put)
        self._n_values = 0
        self._said: Counter[DropReason] = Counter()

    def so_far(self) -> Recorded:
        drops: Counter[DropReason] = Counter()
        for counters in self._sources.counters().values():
            drops.update(counters.sample_drops)
        return Recorded(self._n_values, drops)

    async def run(self, stopping: asyncio.Event, for_s: float | None) -> None:
        """Until there is a reason to stop; then what waits is written, too."""
        failure: DaemonFailed | None = None
        try:
            self._sources.start(
                self._config.sources, {d.device.device_id: d.device for d in self._config.devices}
            )
            await self._write_on(stopping, for_s)
        except DaemonFailed as error:
            failure = error
        finally:
            # Nothing may come after the last look into the queue.
            await self._sources.stop()
        while self._queue.n_samples:
            self._write_waiting()
        if failure is not None:
            raise failure

    async def _write_on(self, stopping: asyncio.Event, for_s: float | None) -> None:
        ends = None if for_s is None else time.monotonic() + for_s
        ticks, next_report_ns = Ticks(), 0
        while not stopping.is_set() and (ends is None or time.monotonic() < ends):
            await self._queue.wait(ticks.wait_s(time.time_ns()))
            self._write_waiting()
            now_ns = time.time_ns()
            if ticks.due(now_ns):
                self._writer.write(Tick(now_ns))
            if now_ns >= next_report_ns or next_report_ns - now_ns > 2 * REPORT_NS:
                next_report_ns = now_ns + REPORT_NS
                self._report()
            self._sources.check()
            if self._sources.ended and not self._queue.n_samples:
                break

    def _write_waiting(self) -> None:
        for block in self._queue.take(BLOCKS_A_TURN):
            self._writer.write(block)
            self._n_values += block.n_samples

    def _report(self) -> None:
        done = self.so_far()
        if done.drops != self._said:
            self._said = done.drops
            log.warning("values are dropped", n_values=done.n_values, dropped=done.dropped)
        connected = [name for name, up in self._sources.connected().items() if up]
        log.info("recording", n_values=done.n_values, connected=connected)


def _refuse_reload(stopping: asyncio.Event) -> None:
    if hung_up():
        stopping.set()
        return
    log.warning(
        "SIGHUP is ignored: a recording keeps the configuration it began with; stop it, and start another"
    )
