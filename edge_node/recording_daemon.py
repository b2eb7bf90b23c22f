"""``edge-node record``: the daemon's sources and clock, written to a log and to nothing else.

Invariant: every value that a source delivered is written, or dropped for a reason that is counted and said; so is every
message that a source refused. Where nothing was written it says why, and leaves no file.
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
from edge_node.sources import Reach, SourceCounters
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
    """How many values were written, and what was not, by reason: ``drops`` values, and ``refusals`` messages or lines of
    them, which came to no values. ``why_nothing``: why there are no values, where there are none."""

    n_values: int
    drops: Counter[DropReason]
    refusals: Counter[DropReason]
    why_nothing: str

    @property
    def dropped(self) -> str:
        """The values that were not written, in words."""
        return _by_reason(self.drops)

    @property
    def refused(self) -> str:
        """The messages that were refused, in words."""
        return _by_reason(self.refusals)


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
    writer = RecordingWriter(output, [device.as_recorded() for device in config.devices])
    recording = _Recording(config, writer, loop)
    try:
        await recording.run(stopping, for_s)
    finally:
        done = recording.so_far()
        log.info("recorded", n_values=done.n_values, dropped=done.dropped, refused=done.refused)
        if done.n_values:
            writer.close()
        else:
            writer.discard()
    return done


class _Recording:
    """From the sources of ``config`` through a queue to ``writer``."""

    def __init__(self, config: Config, writer: RecordingWriter, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._writer = writer
        self._queue = BlockQueue(config.gateway.queue_samples, loop)
        self._sources = RunningSources(self._queue.put)
        self._n_values = 0
        self._reach: dict[str, Reach] = {}
        self._said: tuple[Counter[DropReason], Counter[DropReason]] = (Counter(), Counter())

    def so_far(self) -> Recorded:
        drops: Counter[DropReason] = Counter()
        refusals: Counter[DropReason] = Counter()
        counted = self._sources.counters()
        for counters in counted.values():
            drops.update(counters.sample_drops)
            refusals.update(counters.message_drops)
        why = "; ".join(_why_nothing(name, reach, counted[name]) for name, reach in self._reach.items())
        return Recorded(self._n_values, drops, refusals, "" if self._n_values else why)

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
            self._reach = self._sources.reach()
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
        if (done.drops, done.refusals) != self._said:
            self._said = (done.drops, done.refusals)
            log.warning(
                "not all that comes is written",
                n_values=done.n_values,
                dropped=done.dropped,
                refused=done.refused,
            )
        connected = [name for name, reach in self._sources.reach().items() if reach.connected]
        log.info("recording", n_values=done.n_values, connected=connected)


def _by_reason(counts: Counter[DropReason]) -> str:
    return ", ".join(f"{n} {reason.value}" for reason, n in sorted(counts.items()) if n) or "none"


def _why_nothing(name: str, reach: Reach, counters: SourceCounters) -> str:
    """Why no value of the source was written."""
    if not reach.n_connects:
        return f"source {name} never connected" + (f": {reach.last_error}" if reach.last_error else "")
    if counters.sample_drops or counters.message_drops:
        return f"all that source {name} received was refused or dropped"
    if reach.last_error is not None:
        return f"source {name} received nothing: {reach.last_error}"
    return f"source {name} was connected, but received nothing"


def _refuse_reload(stopping: asyncio.Event) -> None:
    if hung_up():
        stopping.set()
        return
    log.warning(
        "SIGHUP is ignored: a recording keeps the configuration it began with; stop it, and start another"
    )
