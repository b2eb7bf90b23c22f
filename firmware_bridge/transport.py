"""The serial port: found by what it is, opened gently, read whole, found again when it comes back. The only I/O of a
board's line.

Strategy: one thread a line, so that a stuck one holds up no other. ``read(max(1, in_waiting))`` takes whatever is
there; after little, some more is let come first, for adapters hand on a few dozen bytes at a time. An error closes the
descriptor, even where closing fails, and the port is looked for anew, with back-off. A name such as ttyUSB0 is only a
fallback: a USB serial number, vendor and product, or the place it is plugged into stay the same when names change.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import termios
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import serial
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from firmware_bridge.permissions import who_may

READ_TIMEOUT_S = 0.05
REST_S = 0.002  # after a read of fewer than
FULL = 1024  # bytes: what a UART at 3 Mbaud brings meanwhile, 600, is far from the 4096 that a tty holds
WRITE_TIMEOUT_S = 0.2  # of ports that cannot be asked to take what they can
MAX_UNSENT = 4096  # bytes for a board that does not take them; what is more is not sent
BACKOFF_S = (0.2, 10.0)  # at first, at most


class PortUnavailable(Exception):
    """The port cannot be used now: one line that says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortName:
    """What a port is called. One of: ``path`` (or a URL that pyserial opens), ``usb_serial``, ``vid_pid``
    ("1a86:7523"), ``by_path`` (a name in /dev/serial/by-path, or a USB location such as "1-1.4"). Several narrow it
    down."""

    path: str | None = None
    usb_serial: str | None = None
    vid_pid: str | None = None
    by_path: str | None = None

    def __str__(self) -> str:
        given = [self.path] + [f"{k.replace('_', ' ')} {v}" for k, v in self._wanted().items()]
        return ", ".join(g for g in given if g) or "any port"

    def _wanted(self) -> dict[str, str]:
        wanted = {"usb_serial": self.usb_serial, "vid_pid": self.vid_pid, "by_path": self.by_path}
        return {key: value for key, value in wanted.items() if value is not None}

    def matches(self, port: ListPortInfo) -> bool:
        """Whether ``port`` is it, as far as it says."""
        if self.usb_serial is not None and (port.serial_number or "").lower() != self.usb_serial.lower():
            return False
        if self.vid_pid is not None and vid_pid_of(port) != self.vid_pid.lower():
            return False
        return self.by_path is None or self.by_path in (port.location, *by_path_of(port.device))

    def candidates(self) -> list[str]:
        """Paths to try, in order; none: it is not there now."""
        if not self._wanted():
            return [self.path] if self.path is not None else [p.device for p in list_ports.comports()]
        return [p.device for p in list_ports.comports() if self.matches(p) and self.path in (None, p.device)]


def vid_pid_of(port: ListPortInfo) -> str | None:
    """Vendor and product of a USB port, as lsusb writes them."""
    return None if port.vid is None else f"{port.vid:04x}:{port.pid:04x}"


def by_path_of(device: str) -> list[str]:
    """Names of ``device`` in /dev/serial/by-path: where it is plugged in."""
    folder = Path("/dev/serial/by-path")
    if not folder.is_dir():
        return []
    real = os.path.realpath(device)
    return [link.name for link in folder.iterdir() if os.path.realpath(link) == real]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """``dtr``, ``rts``: the level to set; None: leave it. ``reset_on_open`` False: the control lines stay as they are
    when the port is closed, so that opening it again does not reset boards that reset on DTR."""

    baud: int = 115200
    parity: str = "N"
    stop_bits: int = 1
    dtr: bool | None = None
    rts: bool | None = None
    reset_on_open: bool = False


def open_port(path: str, settings: LineSettings) -> serial.Serial:
    """The open port, exclusively ours, reading without waiting long. PortUnavailable says why not."""
    try:
        port: serial.Serial = serial.serial_for_url(path, do_not_open=True)
        port.baudrate = settings.baud
        port.parity, port.stopbits = settings.parity, settings.stop_bits
        port.timeout, port.write_timeout = READ_TIMEOUT_S, WRITE_TIMEOUT_S
        if "://" not in path:
            port.exclusive = True
        if settings.dtr is not None:
            port.dtr = settings.dtr
        if settings.rts is not None:
            port.rts = settings.rts
        port.open()
    except (serial.SerialException, OSError, ValueError, termios.error) as error:
        raise PortUnavailable(_why(path, error, settings)) from error
    if not settings.reset_on_open:
        _keep_lines(port)
    return port


def _keep_lines(port: serial.Serial) -> None:
    """Without HUPCL the kernel does not drop DTR on close, nor pulse it on the next open."""
    with contextlib.suppress(OSError, termios.error, AttributeError, serial.SerialException):
        fd = port.fileno()
        attributes = termios.tcgetattr(fd)
        attributes[2] &= ~termios.HUPCL
        termios.tcsetattr(fd, termios.TCSANOW, attributes)


def _why(path: str, error: Exception, settings: LineSettings) -> str:
    number = getattr(error, "errno", None)
    text = str(error)
    if number == errno.ENOENT or isinstance(error, FileNotFoundError):
        return f"{path}: there is no such port; `firmware-bridge list` shows those that are there"
    if number in (errno.EACCES, errno.EPERM):
        return f"{path}: not permitted{who_may(path)}"
    if number in (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK) or "exclusively lock" in text:
        return f"{path}: another program has it open; `fuser {path}` says which"
    if isinstance(error, termios.error) and error.args[:1] == (errno.EINVAL,):
        line = f"{settings.baud} baud, parity {settings.parity}, stop bits {settings.stop_bits}"
        return f"{path}: {line}: not possible here; another adapter may know it"
    if isinstance(error, termios.error) or "Could not configure port" in text:
        return f"{path}: this is no serial port; `firmware-bridge list` shows those that are there"
    if isinstance(error, ValueError) and "://" in path:
        return f"{path}: {text}"
    if isinstance(error, ValueError) or "baud" in text.lower():
        return f"{path}: {settings.baud} baud is not possible here: {text}"
    return f"{path}: {os.strerror(number) if number else text}"


class Listener(Protocol):
    """What a :class:`Line` tells, on its thread."""

    def opened(self, path: str) -> None:
        """The port is open; bytes may come."""

    def received(self, data: bytes, mono_ns: int, utc_ns: int) -> None:
        """Bytes that were read just now."""

    def idle(self, mono_ns: int) -> Sequence[bytes]:
        """What to write now; asked after every read, whether anything came or not."""

    def rejects(self) -> str | None:
        """Why this is the wrong port (another board answers here), to go on with the next candidate."""

    def lost(self, why: str) -> None:
        """The port is gone, or cannot be opened; it is tried again for ever."""


class Line:
    """Keeps one serial line up, from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        name: PortName,
        settings: LineSettings,
        listener: Listener,
        *,
        backoff_s: tuple[float, float] = BACKOFF_S,
    ) -> None:
        self.path: str | None = None  # where it is now
        self.last_error: str | None = None
        self.n_opens = 0
        self.n_unsent = 0  # frames that the board did not take
        self.finished: Future[None] = (
            Future()
        )  # done once the thread has ended; a defect of ours is its exception
        self._name, self._settings, self._listener = name, settings, listener
        self._backoff_s = backoff_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"serial {name}", daemon=True)
        self._random = random.Random()
        self._try_from = 0
        self._n_candidates = 1
        self._unsent = b""

    @property
    def connected(self) -> bool:
        return self.path is not None

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Closes the port; a read or write that is stuck in a driver is left behind after ``timeout_s``."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._keep_up()
        except BaseException as error:  # a defect: whoever waits for the line is told
            self.finished.set_exception(error)
            raise
        self.finished.set_result(None)

    def _keep_up(self) -> None:
        shortest_s, longest_s = self._backoff_s
        wait_s = shortest_s
        while not self._stopping.is_set():
            began, tried = time.monotonic(), self._try_from
            why = self._once()
            if self._stopping.is_set():
                return
            self.last_error = why
            self._listener.lost(why)
            others = tried != self._try_from and self._try_from % self._n_candidates
            if others or time.monotonic() - began > wait_s:
                wait_s = shortest_s  # another candidate is to be tried, or it had gone well for a while
            self._stopping.wait(wait_s * self._random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, longest_s)

    def _once(self) -> str:
        """Opens the port and reads it until it is gone; why that is."""
        candidates = self._name.candidates()
        self._n_candidates = max(1, len(candidates))
        if not candidates:
            return f"{self._name}: not plugged in; `firmware-bridge list` shows the ports that are there"
        path = candidates[self._try_from % len(candidates)]
        try:
            port = open_port(path, self._settings)
        except PortUnavailable as error:
            self._try_from += 1
            return str(error)
        descriptors = _descriptors(port)
        self.path, self.last_error, self._unsent = path, None, b""
        self.n_opens += 1
        try:
            self._listener.opened(path)
            while not self._stopping.is_set():
                if (wrong := self._turn(port)) is not None:
                    self._try_from += 1
                    return f"{path}: {wrong}"
            return "stopped"
        except (serial.SerialException, OSError, termios.error) as error:
            return f"{path}: the line was lost: {_reason(error)}"
        finally:
            self.path = None
            _close(port, descriptors)

    def _turn(self, port: serial.Serial) -> str | None:
        data = _read(port)
        if data:
            self._listener.received(data, time.monotonic_ns(), time.time_ns())
        for frame in self._listener.idle(time.monotonic_ns()):
            if len(self._unsent) + len(frame) > MAX_UNSENT:
                self.n_unsent += 1
            else:
                self._unsent += frame
        if self._unsent:
            self._send(port)
        wrong = self._listener.rejects()
        if wrong is None and 0 < len(data) < FULL:
            time.sleep(REST_S)
        return wrong

    def _send(self, port: serial.Serial) -> None:
        """Writes what the port takes now: reading never waits for a board that does not read."""
        fd = getattr(port, "fd", None)
        if isinstance(fd, int):  # pyserial's own write would wait in a busy loop
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[os.write(fd, self._unsent) :]
            return
        try:
            port.write(self._unsent)
        except serial.SerialTimeoutException:
            self.n_unsent += 1
        self._unsent = b""


def _read(port: serial.Serial) -> bytes:
    """All that is there, or what comes first within READ_TIMEOUT_S. What has been read is not lost where the port is
    gone just then: the next read will say so."""
    n = port.in_waiting
    data: bytes = port.read(max(1, n))
    if data and not n:
        with contextlib.suppress(serial.SerialException, OSError):
            if more := port.in_waiting:
                data += port.read(more)
    return data


_FDS = ("fd", "pipe_abort_read_r", "pipe_abort_read_w", "pipe_abort_write_r", "pipe_abort_write_w")


def _descriptors(port: serial.Serial) -> dict[int, tuple[int, int]]:
    """The file descriptors of an open port, and what each is open on."""
    fds = (getattr(port, name, None) for name in _FDS)
    return {fd: _opened(fd) for fd in fds if isinstance(fd, int)}


def _opened(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _close(port: serial.Serial, descriptors: dict[int, tuple[int, int]]) -> None:
    """Closes the descriptors, even if ``close`` raises, but none that has been given to somebody else since."""
    try:
        port.close()
    except (serial.SerialException, OSError, termios.error):
        for fd, opened in descriptors.items():
            with contextlib.suppress(OSError):
                if _opened(fd) == opened:
                    os.close(fd)


_GONE = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADF)


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number and number not in _GONE:
        return os.strerror(number)
    return "the device was unplugged" if number or "returned no data" in str(error) else str(error)
