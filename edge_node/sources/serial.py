"""A board on a serial line, framed or in lines of text.

The line is read on a thread of its own (:mod:`firmware_bridge.transport`), where its bytes become blocks. Counts are
scaled here, and only here: by what the board says of its channels, then by what the configuration does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import structlog

from edge_node.config_schema import SerialSource
from edge_node.log_limit import LogLimit
from edge_node.sources import Emit, Reach, SourceCounters
from edge_node.sources.board_layout import BoardMismatch, layout_of
from edge_node.sources.layout import Layout
from firmware_bridge.framing import Damage
from firmware_bridge.protocol import Ack, EventSeverity, Refusal
from firmware_bridge.session import Greeting, Item, Logged, Lost, Reset, Rows, Session
from firmware_bridge.transport import Line, LineSettings, PortName
from models.signal import Device, DropReason, SampleBlock

SAME_FAULT_LOG_S = 60.0

log = structlog.get_logger("linewatch.sources.serial")

_LEVELS = {
    EventSeverity.DEBUG: "debug",
    EventSeverity.INFO: "info",
    EventSeverity.WARNING: "warning",
    EventSeverity.ERROR: "error",
}


class SerialBoard:
    """The ``serial`` source."""

    def __init__(self, config: SerialSource, devices: Mapping[str, Device]) -> None:
        self._config = config
        self._device = devices[config.device]
        self._log = log.bind(source=config.name)
        self._log_limit = LogLimit(SAME_FAULT_LOG_S)
        self._emit: Emit = _refuse
        self._counters = SourceCounters()
        self._session = Session()
        self._counted = _Seen()
        self._layout: tuple[Layout, list[int]] | None = None
        self._wrong: str | None = None
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
        line = self._line
        return Reach(line.connected, line.n_opens, line.last_error)

    async def run(self, emit: Emit) -> None:
        """Keeps the line up and emits blocks until cancelled."""
        self._emit = emit
        self._line.start()
        try:
            await asyncio.shield(asyncio.wrap_future(self._line.finished))
        finally:
            await asyncio.to_thread(self._line.stop)

    def opened(self, path: str) -> None:
        self._wrong = None
        self._log.info("line open", port=path)

    def lost(self, why: str) -> None:
        self._session.disconnected()
        self._count()
        n_held = self._log_limit.due(why, time.monotonic())
        if n_held is not None:
            self._log.warning(why + (f" ({n_held} more since it was last logged)" if n_held else ""))

    def rejects(self) -> str | None:
        return self._wrong

    def idle(self, mono_ns: int) -> Sequence[bytes]:
        return self._session.due(mono_ns)

    def received(self, data: bytes, mono_ns: int, utc_ns: int) -> None:
        for item in self._session.receive(data, mono_ns, utc_ns):
            self._take(item)
        self._count()

    def _take(self, item: Item) -> None:
        match item:
            case Rows():
                self._rows(item)
            case Lost():
                n = item.n_rows * self._n_channels(item.n_channels)
                self._counters.sample_drops[DropReason.LOST] += n
                self._fault(DropReason.LOST, f"{item.n_rows} rows were lost on the line")
            case Greeting():
                self._greet(item)
            case Reset():
                self._log.info("the board's clock began anew", off_s=round(item.off_us / 1e6, 3))
            case Logged():
                event = item.event
                getattr(self._log, _LEVELS[event.severity])(
                    f"the board says: {event.text}", code=event.code, port=self._line.path
                )
            case Refusal():
                self._fault(DropReason(item.cause), item.text)
            case Ack():
                pass

    def _greet(self, greeting: Greeting) -> None:
        hello = greeting.hello
        wanted = self._config.board
        if wanted is not None and hello.serial != wanted:
            self._wrong = f"this is board {hello.serial}, board = {wanted!r} is looked for"
            self._layout = None
            return
        self._wrong = None
        if not greeting.new and self._layout is not None:
            return
        try:
            self._layout, remarks = layout_of(self._device, hello, self._config.channels)
        except BoardMismatch as error:
            self._layout = None
            self._log.error(str(error))
            return
        rate = "irregular" if hello.rate_hz is None else f"{float(hello.rate_hz):g} Hz"
        self._log.info("board", serial=hello.serial, firmware=f"{hello.firmware} {hello.version}", rate=rate)
        for remark in remarks:
            self._log.warning(remark)

    def _rows(self, rows: Rows) -> None:
        if self._layout is None:
            self._counters.sample_drops[DropReason.UNKNOWN_CHANNEL] += rows.counts.size
            return
        layout, columns = self._layout
        counts = rows.counts if columns == list(range(rows.counts.shape[1])) else rows.counts[:, columns]
        block = SampleBlock(
            self._device.device_id,
            layout.channels,
            layout.to_si(counts),
            rows.arrival_ns,
            rows.start_ns if rows.time_ns is None else None,
            rows.hello.rate_hz,
            rows.time_ns,
            rows.clock,
        )
        if self._emit(block):
            self._counters.n_blocks += 1
            self._counters.n_samples += block.n_samples
        else:
            self._counters.sample_drops[DropReason.QUEUE_FULL] += block.n_samples
            self._fault(DropReason.QUEUE_FULL, "samples dropped: the gateway cannot keep up")

    def _n_channels(self, of_board: int) -> int:
        return of_board if self._layout is None else len(self._layout[1])

    def _count(self) -> None:
        """What the session has counted since the last time."""
        now, seen, counters = self._session.counters, self._counted, self._counters
        counters.n_bytes += now.n_bytes - seen.n_bytes
        counters.n_messages += now.n_frames - seen.n_frames
        unexplained = now.n_unexplained_rows - seen.n_unexplained_rows
        if unexplained:
            counters.sample_drops[DropReason.UNEXPLAINED] += unexplained * self._n_channels(
                len(self._device.channels)
            )
            self._fault(DropReason.UNEXPLAINED, f"{unexplained} rows came without a Hello that explains them")
        for cause, n in now.damage.items():
            more = n - seen.damage.get(cause, 0)
            if more:
                counters.message_drops[DropReason(cause)] += more
                if cause != Damage.CUT_IN:  # as whenever a line is joined
                    self._fault(DropReason(cause), f"damaged frames: {cause}; {_DAMAGE_HINT}")
        self._counted = _Seen(now.n_bytes, now.n_frames, now.n_unexplained_rows, dict(now.damage))

    def _fault(self, reason: DropReason, text: str) -> None:
        n_held = self._log_limit.due(reason, time.monotonic())
        if n_held is not None:
            more = f" ({n_held} more since it was last logged)" if n_held else ""
            self._log.warning(text + more, reason=str(reason))


_DAMAGE_HINT = "another baud rate, a bad cable, or a buffer that overflowed"


class _Seen:
    """What of a session's counters was added up already."""

    def __init__(
        self,
        n_bytes: int = 0,
        n_frames: int = 0,
        n_unexplained_rows: int = 0,
        damage: dict[str, int] | None = None,
    ) -> None:
        self.n_bytes, self.n_frames, self.n_unexplained_rows = n_bytes, n_frames, n_unexplained_rows
        self.damage = damage or {}


def _refuse(_block: SampleBlock) -> bool:
    """Stands where ``run`` puts the daemon's queue."""
    return False
