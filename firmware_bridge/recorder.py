"""``firmware-bridge record``: a board's rows in a log that ``edge-node replay`` and ``cloud-sink train`` read."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from firmware_bridge.figures import board_text, dropped_text, loss_text, plural, rate_text, silence_text
from firmware_bridge.following import Follower, follow
from firmware_bridge.news import Came
from firmware_bridge.protocol import Hello
from firmware_bridge.session_items import Greeting, Rows
from firmware_bridge.stopping import Stopping
from firmware_bridge.telling import Teller
from models.codec import parse_rate
from models.logs import Tick
from models.recording import RecordingWriter, check_new
from models.signal import NS_PER_S, Channel, Mode, SampleBlock
from models.time_policy import RecordedDevice

TICK_NS = NS_PER_S // 4


class NotRecordable(Exception):
    """There is nothing to record; one line that says why."""


def record(
    follower: Follower,
    path: Path,
    stopping: Stopping,
    *,
    device_id: str | None = None,
    interval_s: float | None = None,
    for_s: float | None = None,
    wait: bool = False,
) -> int:
    """Writes until it is stopped, or the board becomes another one; returns the exit code. LogError where ``path`` cannot
    be written, NotRecordable where nothing was; PortUnavailable as :func:`follow`. ``interval_s``: from row to row, of an
    irregular board."""
    check_new(path)
    log = _Log(path, device_id, interval_s)
    teller = Teller()
    try:
        for news in follow(follower, stopping, for_s=for_s, wait=wait):
            for new in news:
                if isinstance(new, Came) and isinstance(new.item, Rows):
                    log.write(new.item)
                    continue
                _say(teller.tell(new, time.monotonic()))
                if isinstance(new, Came) and isinstance(new.item, Greeting):
                    log.meet(new.item.hello)
            _say(teller.hint(follower.standing(), time.monotonic()))
            log.tick(time.time_ns())
            if log.over is not None:
                break
    finally:
        log.close()
    standing = follower.standing()
    if not log.n_rows:
        why = teller.trouble or (
            silence_text(standing) if standing.hello is None else "the board sent no rows"
        )
        raise NotRecordable(f"nothing was recorded: {why}")
    if log.over is not None:
        print(log.over)
    if not stopping.hung_up:
        rows = plural(log.n_rows, "row")
        print(
            f"wrote {log.n_values} values ({rows}) of {log.device_id} to {path}; "
            f"{loss_text(standing.counters)}{dropped_text(standing)}"
        )
    return 0


class _Log:
    """The file, from the first Hello on."""

    def __init__(self, path: Path, device_id: str | None, interval_s: float | None) -> None:
        self.device_id = device_id
        self.n_rows = self.n_values = 0
        self.over: str | None = None  # why it ended before it was stopped
        self._path, self._interval_s = path, interval_s
        self._writer: RecordingWriter | None = None
        self._hello: Hello | None = None
        self._tick_ns = 0

    def meet(self, hello: Hello) -> None:
        """The board says who it is: the log begins, goes on, or is over."""
        if self._hello is not None:
            if _kind(hello) != _kind(self._hello):
                self.over = (
                    f"the recording ends here: it describes the board as it was, and what follows is of {board_text(hello)}, "
                    f"{', '.join(c.name for c in hello.channels)} at {rate_text(hello.rate_hz)}"
                )
            return
        if hello.rate_hz is None and self._interval_s is None:
            raise NotRecordable(
                f"board {hello.serial} sends at no fixed rate: say how far apart its rows are, with --interval-s"
            )
        if self.device_id is None:
            if not hello.serial:
                raise NotRecordable("the board has no serial number: say what it is called, with --device")
            self.device_id = hello.serial
        self._writer = RecordingWriter(self._path, [_device(self.device_id, hello, self._interval_s)])
        self._hello = hello

    def write(self, rows: Rows) -> None:
        if self._writer is None or self._hello is None or self.over is not None:
            return
        assert self.device_id is not None
        names = tuple(c.name for c in rows.hello.channels)
        values = np.ascontiguousarray(rows.to_si(), np.float32)
        self._writer.write(
            SampleBlock(
                self.device_id,
                names,
                values,
                rows.arrival_ns,
                rows.start_ns if rows.time_ns is None else None,
                rows.hello.rate_hz,
                rows.time_ns,
                rows.clock,
            )
        )
        self.n_rows += len(values)
        self.n_values += values.size

    def tick(self, now_ns: int) -> None:
        """The clock of whoever would have watched."""
        if self._writer is not None and not 0 <= now_ns - self._tick_ns < TICK_NS:
            self._writer.write(Tick(now_ns))
            self._tick_ns = now_ns

    def close(self) -> None:
        if self._writer is None:
            return
        if self.n_rows:
            self._writer.close()
        else:
            self._writer.discard()


def _kind(hello: Hello) -> tuple[object, ...]:
    return hello.serial, hello.channels, hello.rate_hz


def _device(device_id: str, hello: Hello, interval_s: float | None) -> RecordedDevice:
    irregular = hello.rate_hz is None
    rate = hello.rate_hz or 1 / parse_rate(interval_s)
    return RecordedDevice(
        device_id=device_id,
        machine=device_id,
        mode=Mode.IRREGULAR if irregular else Mode.CONTINUOUS,
        rate_hz=rate,
        channels=tuple(Channel(name=c.name, unit=c.unit) for c in hello.channels),
        interval_s=interval_s if irregular else None,
    )


def _say(text: str | None) -> None:
    if text is not None:
        print(text, flush=True)
