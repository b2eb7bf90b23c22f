"""A recorded log as a live source: its times are moved to now and its rows come when they are due.

The whole log is moved by one span of whole seconds, so that it begins at the moment the source starts;
within it, distances keep. At a speed above 1 event time and arrival run ahead of the gateway's clock
together, and below 1 arrival is the clock's; either way a row is as old when it arrives as it was. Blocks
of our own recordings come as they came; other logs come row by row. A full queue is waited for: a replay
loses nothing that way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping

import msgspec
import numpy as np
import structlog

from edge_node.config_schema import ReplaySource
from edge_node.sources import Emit, Reach, SourceCounters
from models.logs import LogError, LogOptions
from models.recording import is_block_log, log_files, read_log
from models.signal import NS_PER_S, Device, Mode, SampleBlock

PIECE_S = 0.05  # rows of a log without arrivals that are due within this much time go out as one block
MAX_ROWS = 4096  # of a block, so that it fits into the daemon's queue
RETRY_S = 0.01

log = structlog.get_logger("linewatch.sources.replay")


class LogReplay:
    """The ``replay`` source."""

    def __init__(
        self,
        config: ReplaySource,
        devices: Mapping[str, Device],
        *,
        now_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._config = config
        self._devices = devices
        self._now_ns = now_ns
        self._sleep = sleep
        self._log = log.bind(source=config.name)
        self._counters = SourceCounters()
        self._connected = False
        self._n_begun = 0
        self._last_error: str | None = None

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def counters(self) -> SourceCounters:
        return self._counters

    @property
    def reach(self) -> Reach:
        """Connected: begun, and not yet at the log's end."""
        return Reach(self._connected, self._n_begun, self._last_error)

    async def run(self, emit: Emit) -> None:
        """Emits the log once; a log that turns out to be unreadable ends it with an error that is kept and
        logged."""
        self._connected = True
        self._n_begun += 1
        try:
            await self._play(emit)
        except LogError as error:
            self._last_error = str(error)
            self._log.error("replay stopped", error=str(error))
        else:
            self._log.info("replay finished", n_samples=self._counters.n_samples)
        finally:
            self._connected = False

    async def _play(self, emit: Emit) -> None:
        paths = self._config.paths
        fields = {name: getattr(self._config, name) for name in LogOptions.__struct_fields__}
        options = log_options(LogOptions(**fields), self._devices)
        recorded = all(is_block_log(path) for path in log_files(paths))
        blocks = (
            item
            for item in read_log(paths, options, warn=lambda text: self._log.warning(text))
            if isinstance(item, SampleBlock) and item.n
        )
        speed = None if self._config.speed == "max" else float(self._config.speed)
        began_ns, first_ns = self._now_ns(), None
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            for piece in _pieces(block, recorded, speed):
                if first_ns is None:
                    first_ns = piece.arrival_ns if recorded else int(piece.times().min())
                passed_ns = piece.arrival_ns - first_ns
                if speed is not None:
                    due_ns = began_ns + int(passed_ns / speed)
                    while (wait_ns := due_ns - self._now_ns()) > 0:
                        await self._sleep(wait_ns / NS_PER_S)
                shift_ns = (began_ns - first_ns) // NS_PER_S * NS_PER_S
                arrival_ns = max(piece.arrival_ns + shift_ns, self._now_ns() if speed is not None else 0)
                await self._emit(emit, _moved(piece, shift_ns, arrival_ns))

    async def _emit(self, emit: Emit, block: SampleBlock) -> None:
        while not emit(block):
            await self._sleep(RETRY_S)
        self._counters.n_blocks += 1
        self._counters.n_samples += block.n_samples
        await asyncio.sleep(0)


def log_options(options: LogOptions, devices: Mapping[str, Device]) -> LogOptions:
    """``options`` with what they leave open taken from the device of ``devices`` (by id) that the log is of: its
    id where there is only one, its rate, its channels' origins.

    Of a log of several devices only origins, and only where they agree: LogError where they do not.
    """
    if options.device_id is None and options.device_column is None and len(devices) == 1:
        options = msgspec.structs.replace(options, device_id=next(iter(devices)))
    device = devices.get(options.device_id or "")
    concerned = list(devices.values()) if device is None else [device]
    if device is not None and options.rate_hz is None and device.mode is not Mode.IRREGULAR:
        options = msgspec.structs.replace(options, rate_hz=device.rate_hz)
    if not options.origins:
        origins: dict[str, float] = {}
        for channel in (channel for device in concerned for channel in device.channels):
            if origins.setdefault(channel.name, channel.origin) != channel.origin:
                raise LogError(
                    "the configuration",
                    f"channel {channel.name!r} has another origin on each device",
                    remedy="read the log of one device at a time, naming it",
                )
        options = msgspec.structs.replace(options, origins={k: v for k, v in origins.items() if v})
    return options


def _pieces(block: SampleBlock, recorded: bool, speed: float | None) -> Iterator[SampleBlock]:
    """The parts of a block that are due together; each arrives with its last row."""
    if recorded:
        for start in range(0, block.n, MAX_ROWS):
            yield block.slice(start, min(start + MAX_ROWS, block.n)) if block.n > MAX_ROWS else block
        return
    times = block.times()
    edges = np.zeros(0, dtype=np.intp)
    if speed is not None:
        due = np.maximum.accumulate(times) // max(1, int(PIECE_S * speed * NS_PER_S))
        edges = np.flatnonzero(np.diff(due)) + 1
    bounds = np.unique(np.concatenate((edges, np.arange(0, block.n, MAX_ROWS), [block.n])))
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        piece = block.slice(start, stop)
        yield msgspec.structs.replace(piece, arrival_ns=min(int(times[start:stop].max()), block.arrival_ns))


def _moved(block: SampleBlock, shift_ns: int, arrival_ns: int) -> SampleBlock:
    if block.time_ns is not None:
        return msgspec.structs.replace(block, time_ns=block.time_ns + shift_ns, arrival_ns=arrival_ns)
    assert block.start_ns is not None
    return msgspec.structs.replace(block, start_ns=block.start_ns + shift_ns, arrival_ns=arrival_ns)
