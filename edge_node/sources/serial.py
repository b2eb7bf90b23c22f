"""A board on a serial line that speaks the framed protocol.

Counts are scaled here, and only here: by what the board says of its channels, then by what the configuration does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from edge_node.config_schema import SerialSource
from edge_node.sources.board_layout import BoardMismatch, layout_of
from edge_node.sources.layout import Layout
from edge_node.sources.serial_port import GARBAGE_HINT, SerialPort
from firmware_bridge.framing import Damage
from firmware_bridge.protocol import Ack, EventSeverity, Refusal
from firmware_bridge.session import Session
from firmware_bridge.session_items import Greeting, Item, Logged, Lost, Reset, Rows
from models.signal import NS_PER_S, Device, DropReason, SampleBlock

HELLO_WAIT_NS = 10 * NS_PER_S  # boards that cannot hear say it every few seconds

log = structlog.get_logger("linewatch.sources.serial")

_LEVELS = {
    EventSeverity.DEBUG: "debug",
    EventSeverity.INFO: "info",
    EventSeverity.WARNING: "warning",
    EventSeverity.ERROR: "error",
}


class SerialBoard(SerialPort):
    """The ``serial`` source with ``protocol = "framed"``."""

    def __init__(self, config: SerialSource, devices: Mapping[str, Device]) -> None:
        super().__init__(config, log)
        self._device = devices[config.device]
        self._session = Session()
        self._counted = _Seen()
        self._layout: tuple[Layout, list[int]] | None = None
        self._unfit = DropReason.UNKNOWN_CHANNEL  # why there is no layout, once a board has said who it is
        self._wrong: str | None = None
        self._waits_since: tuple[int, int] | None = None  # for a Hello: monotonic ns, and bytes by then

    def opened(self, path: str) -> None:
        super().opened(path)
        self._wrong = self._waits_since = None

    def lost(self, why: str) -> None:
        self._session.disconnected()
        self._count()
        super().lost(why)

    def rejects(self) -> str | None:
        return self._wrong

    def idle(self, mono_ns: int) -> Sequence[bytes]:
        session = self._session
        if session.hello is not None:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = mono_ns, session.counters.n_bytes
        elif mono_ns - self._waits_since[0] > HELLO_WAIT_NS:
            self._says_nothing(session.counters.n_bytes - self._waits_since[1])
        self._count_unsent()
        return session.due(mono_ns)

    def received(self, data: bytes, mono_ns: int, utc_ns: int) -> None:
        for item in self._session.receive(data, mono_ns, utc_ns):
            self._take(item)
        self._count()

    def _says_nothing(self, n: int) -> None:
        """``n`` bytes, and no board has said who it is."""
        text = f"no Hello within {HELLO_WAIT_NS // NS_PER_S} s, in {n} bytes"
        text += (
            f": {GARBAGE_HINT}, or no board of this protocol"
            if n
            else ": nothing is connected, or it does not send"
        )
        if self._config.board is not None:
            self._wrong = f"{text}; board = {self._config.board!r} is looked for"
        elif self._trouble is None:
            self._fail(text)

    def _take(self, item: Item) -> None:
        match item:
            case Rows():
                self._rows(item)
            case Lost() if self._wrong is None:  # another board's were never to come
                n = item.n_rows * self._n_channels(item.n_channels)
                self._counters.sample_drops[DropReason.LOST] += n
                self._fault(DropReason.LOST, f"{item.n_rows} rows were lost on the line")
            case Greeting():
                self._greet(item)
            case Reset():
                self._log.info(item.text, off_s=round(item.off_us / 1e6, 3))
            case Logged():
                event = item.event
                getattr(self._log, _LEVELS[event.severity])(
                    f"the board says: {event.text}", code=event.code, port=self._line.path
                )
            case Refusal():
                self._fault(DropReason(item.cause), item.text)
            case Ack() | Lost():
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
            self._trouble = None
            return
        try:
            self._layout, remarks = layout_of(self._device, hello, self._config.channels)
        except BoardMismatch as error:
            self._layout, self._unfit = None, error.reason
            self._fail(str(error))
            return
        self._trouble = None
        rate = "irregular" if hello.rate_hz is None else f"{float(hello.rate_hz):g} Hz"
        self._log.info("board", serial=hello.serial, firmware=f"{hello.firmware} {hello.version}", rate=rate)
        for remark in remarks:
            self._log.warning(remark)

    def _rows(self, rows: Rows) -> None:
        if self._wrong is not None:
            self._counters.sample_drops[DropReason.UNKNOWN_DEVICE] += rows.counts.size
            self._fault(DropReason.UNKNOWN_DEVICE, self._wrong)
            return
        if self._layout is None:
            self._counters.sample_drops[self._unfit] += rows.counts.size
            return
        layout, columns = self._layout
        counts = rows.counts if columns == list(range(rows.counts.shape[1])) else rows.counts[:, columns]
        self._put(
            SampleBlock(
                self._device.device_id,
                layout.channels,
                layout.to_si(counts),
                rows.arrival_ns,
                rows.start_ns if rows.time_ns is None else None,
                rows.hello.rate_hz,
                rows.time_ns,
                rows.clock,
            )
        )

    def _n_channels(self, of_board: int) -> int:
        return of_board if self._layout is None else len(self._layout[1])

    def _count_unsent(self) -> None:
        n, counters = self._line.n_unsent, self._counters
        if n != counters.n_unsent:
            counters.n_unsent = n
            self._warn(
                "unsent",
                "the board does not take what is sent to it: does its firmware read, does flow control hold the line?",
            )

    def _count(self) -> None:
        """What the session has counted since the last time."""
        now, seen, counters = self._session.counters, self._counted, self._counters
        counters.n_bytes += now.n_bytes - seen.n_bytes
        counters.n_messages += now.n_frames - seen.n_frames
        unexplained = now.n_unexplained_rows - seen.n_unexplained_rows
        if unexplained:
            n = unexplained * self._n_channels(len(self._device.channels))
            counters.sample_drops[DropReason.UNEXPLAINED] += n
            self._fault(DropReason.UNEXPLAINED, f"{unexplained} rows came without a Hello that explains them")
        repeated = now.n_repeated_rows - seen.n_repeated_rows
        if repeated:
            n = repeated * self._n_channels(len(self._device.channels))
            counters.sample_drops[DropReason.DUPLICATE] += n
            self._fault(DropReason.DUPLICATE, f"{repeated} rows came twice")
        for cause, n in now.damage.items():
            more = n - seen.damage.get(cause, 0)
            if more:
                counters.message_drops[DropReason(cause)] += more
                if cause in tuple(Damage) and cause != Damage.CUT_IN:  # which is as whenever a line is joined
                    self._fault(
                        DropReason(cause),
                        f"damaged frames: {cause}; {GARBAGE_HINT}, or a buffer that overflowed",
                    )
        self._counted = _Seen(
            now.n_bytes, now.n_frames, now.n_unexplained_rows, now.n_repeated_rows, dict(now.damage)
        )


class _Seen:
    """What of a session's counters was added up already."""

    def __init__(
        self,
        n_bytes: int = 0,
        n_frames: int = 0,
        n_unexplained_rows: int = 0,
        n_repeated_rows: int = 0,
        damage: dict[str, int] | None = None,
    ) -> None:
        self.n_bytes, self.n_frames, self.n_unexplained_rows = n_bytes, n_frames, n_unexplained_rows
        self.n_repeated_rows = n_repeated_rows
        self.damage = damage or {}
