"""What every source on a serial line has: its port, its log, its counters.

The line is read on a thread of its own (:mod:`firmware_bridge.transport`), where its bytes become blocks.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from structlog.typing import FilteringBoundLogger

from edge_node.config_schema import SerialSource
from edge_node.sources import Emit, Reach, SourceCounters, refuse
from firmware_bridge.transport import Line, LineSettings, PortName
from models.log_limit import LogLimit
from models.signal import DropReason, SampleBlock

SAME_FAULT_LOG_S = 60.0
GARBAGE_HINT = "another baud rate, a bad cable"


class SerialPort(ABC):
    """A source on a serial line. What derives from it says what the bytes mean."""

    def __init__(self, config: SerialSource, log: FilteringBoundLogger) -> None:
        self._config = config
        self._log = log.bind(source=config.name)
        self._log_limit = LogLimit(SAME_FAULT_LOG_S)
        self._emit: Emit = refuse
        self._counters = SourceCounters()
        self._n_failures = 0
        self._trouble: str | None = None  # why nothing is made of what an open line brings
        self._line = Line(
            PortName(
                path=config.port, usb_serial=config.usb_serial, vid_pid=config.vid_pid, by_path=config.by_path
            ),
            LineSettings(
                baud=config.baud, dtr=config.dtr, rts=config.rts, reset_on_open=config.reset_on_open
            ),
            self,
            backoff_s=(config.reconnect_min_s, config.reconnect_max_s),
        )

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def counters(self) -> SourceCounters:
        return self._counters.copy()

    @property
    def reach(self) -> Reach:
        """Connected while the line is open and is understood."""
        line, trouble = self._line, self._trouble
        return Reach(
            line.connected and trouble is None,
            line.n_opens,
            trouble or line.last_error,
            self._n_failures,
        )

    async def run(self, emit: Emit) -> None:
        """Keeps the line up and emits blocks until cancelled."""
        self._emit = emit
        self._line.start()
        try:
            await asyncio.shield(asyncio.wrap_future(self._line.finished))
        finally:
            await asyncio.to_thread(self._line.stop)

    def opened(self, path: str) -> None:
        self._trouble = None
        self._log.info("line open", port=path)

    def lost(self, why: str) -> None:
        self._n_failures += 1
        self._trouble = None
        n_held = self._log_limit.due(why, time.monotonic())
        if n_held is not None:
            self._log.warning(why + _more(n_held))

    def rejects(self) -> str | None:
        return None

    def idle(self, mono_ns: int) -> Sequence[bytes]:
        return ()

    @abstractmethod
    def received(self, data: bytes, mono_ns: int, utc_ns: int) -> None:
        """Bytes that were read just now."""

    def _put(self, block: SampleBlock) -> None:
        if self._emit(block):
            self._counters.n_blocks += 1
            self._counters.n_samples += block.n_samples
        else:
            self._counters.sample_drops[DropReason.QUEUE_FULL] += block.n_samples
            self._fault(DropReason.QUEUE_FULL, "samples dropped: the gateway cannot keep up")

    def _fail(self, trouble: str) -> None:
        """Nothing can be made of the line until something changes."""
        self._trouble = trouble
        n_held = self._log_limit.due(trouble, time.monotonic())
        if n_held is not None:
            self._log.error(trouble + _more(n_held), port=self._line.path)

    def _fault(self, reason: DropReason, text: str) -> None:
        self._warn(reason, text, reason=str(reason))

    def _warn(self, key: str, text: str, **more: str) -> None:
        n_held = self._log_limit.due(key, time.monotonic())
        if n_held is not None:
            self._log.warning(text + _more(n_held), **more)


def _more(n_held: int) -> str:
    return f" ({n_held} more since it was last logged)" if n_held else ""
