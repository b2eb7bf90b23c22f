"""The port: found by what it is, lost, found again. On real ptys."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import serial
from serial.tools import list_ports

from firmware_bridge import transport
from firmware_bridge.transport import Line, LineSettings, PortName, PortUnavailable, by_path_of, open_port
from tests.brokers import wait_for
from tests.firmware_bridge.ptys import Cable

BACKOFF_S = (0.02, 0.1)


@dataclass
class Ear:
    """Listens, and says what it is told to."""

    data: bytes = b""
    opened_at: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    wrong: Callable[[str], str | None] = lambda path: None
    says: Callable[[], Sequence[bytes]] = list
    hears: Callable[[bytes], None] = lambda data: None

    def opened(self, path: str) -> None:
        self.opened_at.append(path)

    def received(self, data: bytes, mono_ns: int, utc_ns: int) -> None:
        assert abs(mono_ns - time.monotonic_ns()) < 60e9
        assert abs(utc_ns - time.time_ns()) < 60e9
        self.hears(data)
        self.data += data

    def idle(self, mono_ns: int) -> Sequence[bytes]:
        return self.says()

    def rejects(self) -> str | None:
        return self.wrong(self.opened_at[-1])

    def lost(self, why: str) -> None:
        self.losses.append(why)


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    plugged = Cable(tmp_path / "board")
    yield plugged
    plugged.unplug()


class Lines:
    """Starts lines, and stops them all."""

    def __init__(self) -> None:
        self._lines: list[Line] = []

    def start(self, name: PortName | Path, ear: Ear, **settings: object) -> Line:
        if isinstance(name, Path):
            name = PortName(path=str(name))
        line = Line(name, LineSettings(**settings), ear, backoff_s=BACKOFF_S)  # type: ignore[arg-type]
        self._lines.append(line)
        line.start()
        return line

    def stop(self) -> None:
        for line in self._lines:
            line.stop()
            assert line.finished.done()
            assert line.finished.exception() is None


@pytest.fixture
def lines() -> Iterator[Lines]:
    started = Lines()
    yield started
    started.stop()


def n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_sent_is_read_and_what_is_said_is_written(cable: Cable, lines: Lines) -> None:
    said = [b"hello "]
    ear = Ear(says=lambda: [said.pop()] if said else [])
    line = lines.start(cable.link, ear)
    payload = bytes(range(256)) * 400
    wait_for(lambda: line.connected, "the line")
    cable.send(payload)
    wait_for(lambda: len(ear.data) == len(payload), "all of it")
    assert ear.data == payload
    wait_for(lambda: cable.receive() == b"hello ", "what was said")
    assert line.connected
    assert line.path == str(cable.link)
    assert line.n_opens == 1


def test_a_line_that_dribbles_is_read_no_more_often_than_rests_allow(cable: Cable, lines: Lines) -> None:
    """Adapters hand on 64 bytes at a time, thousands of times a second."""
    heard: list[tuple[float, int]] = []
    ear = Ear(hears=lambda data: heard.append((time.monotonic(), len(data))))
    line = lines.start(cable.link, ear)
    wait_for(lambda: line.connected, "the line")
    for i in range(300):
        cable.send(bytes([i % 256]) * 64)
        time.sleep(0.0003)
    wait_for(lambda: len(ear.data) == 300 * 64, "all of it")
    assert ear.data == b"".join(bytes([i % 256]) * 64 for i in range(300))
    rests = [b[0] - a[0] for a, b in pairwise(heard) if a[1] < transport.FULL]
    assert min(rests, default=1.0) > 0.9 * transport.REST_S
    assert line.last_error is None
    assert line.n_unsent == 0


def test_a_board_that_comes_back_under_another_name_goes_on(cable: Cable, lines: Lines) -> None:
    ear = Ear()
    line = lines.start(cable.link, ear)
    wait_for(lambda: line.connected, "the line")
    for i in range(5):
        before = cable.device
        cable.send(b"%d in the middle of a fra" % i)
        wait_for(lambda i=i: ear.data.endswith(b"%d in the middle of a fra" % i), "what was sent")
        cable.plug()
        assert cable.device != before
        wait_for(lambda i=i: line.n_opens == i + 2 and line.connected, "the line again")
    assert len(ear.losses) >= 5
    assert {why for why in ear.losses if "lost" in why} == {
        f"{cable.link}: the line was lost: the device was unplugged"
    }


def test_what_was_read_is_kept_when_the_plug_is_pulled_just_then() -> None:
    """The first byte ends the wait; asking for the others fails."""

    class Pulled:
        def __init__(self) -> None:
            self.asked = 0

        @property
        def in_waiting(self) -> int:
            self.asked += 1
            if self.asked > 1:
                raise OSError(errno.EIO, "I/O error")
            return 0

        def read(self, n: int) -> bytes:
            return b"x"[:n]

    port = Pulled()
    assert transport._read(port) == b"x"  # type: ignore[arg-type]
    with pytest.raises(OSError, match="I/O error"):
        transport._read(port)  # type: ignore[arg-type]


def test_descriptors_do_not_leak_over_reconnections(cable: Cable, lines: Lines) -> None:
    ear = Ear()
    line = lines.start(cable.link, ear)
    wait_for(lambda: line.connected, "the line")
    before = n_descriptors()
    for i in range(10):
        cable.plug()
        wait_for(lambda i=i: line.n_opens == i + 2 and line.connected, "the line again")
    assert n_descriptors() == before


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O error"), serial.SerialException("no"), termios.error(5, "x")]
)
def test_a_dead_descriptor_is_closed_even_if_closing_fails(
    cable: Cable, lines: Lines, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    calls = []

    def close(port: serial.Serial) -> None:
        calls.append(port)
        raise error

    monkeypatch.setattr(serial.Serial, "close", close)
    ear = Ear()
    line = lines.start(cable.link, ear)
    wait_for(lambda: line.connected, "the line")
    before = n_descriptors()
    for i in range(3):
        cable.plug()
        wait_for(lambda i=i: line.n_opens == i + 2 and line.connected, "the line again")
    assert len(calls) == 3
    assert n_descriptors() == before
    monkeypatch.setattr(serial.Serial, "__del__", lambda port: None, raising=False)


def test_a_descriptor_that_is_somebody_elses_by_now_stays_open(
    cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """close() fails after it has closed: the number may have been given to another file."""
    port = open_port(str(cable.link), LineSettings())
    descriptors = transport._descriptors(port)
    assert len(descriptors) == 5
    fd = port.fd
    plain = serial.Serial.close

    def close(self: serial.Serial) -> None:
        plain(self)
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(serial.Serial, "close", close)
    others: list[int] = []

    def close_and_reuse(self: serial.Serial) -> None:
        try:
            close(self)
        finally:
            others.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(6))

    monkeypatch.setattr(serial.Serial, "close", close_and_reuse)
    transport._close(port, descriptors)
    assert fd in others
    for other in others:
        os.close(other)  # still open: else this raises


def test_a_port_is_ours_alone(cable: Cable) -> None:
    port = open_port(str(cable.link), LineSettings())
    try:
        with pytest.raises(PortUnavailable, match=r"another program has it open; `fuser .*board` says which"):
            open_port(str(cable.link), LineSettings())
    finally:
        port.close()
    open_port(str(cable.link), LineSettings()).close()


def test_a_port_that_is_busy_is_waited_for(cable: Cable, lines: Lines) -> None:
    holder = open_port(str(cable.link), LineSettings())
    ear = Ear()
    line = lines.start(cable.link, ear)
    wait_for(lambda: len(ear.losses) >= 3, "three attempts")
    assert "another program has it open" in ear.losses[0]
    assert line.last_error == ear.losses[0]
    assert not line.connected
    holder.close()
    wait_for(lambda: line.connected, "the line")
    assert line.last_error is None


def test_what_cannot_be_opened_says_why(tmp_path: Path, cable: Cable) -> None:
    plain = tmp_path / "file"
    plain.write_text("no port")
    for path, settings, text in (
        (
            tmp_path / "none",
            LineSettings(),
            "there is no such port; `firmware-bridge list` shows those that are there",
        ),
        (plain, LineSettings(), "file: "),
        ("bogus://here", LineSettings(), "bogus"),
    ):
        with pytest.raises(PortUnavailable) as caught:
            open_port(str(path), settings)
        assert text in str(caught.value)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o660, 0o600, 0o620, 0o640])
def test_without_permission_the_line_names_the_fix(cable: Cable, mode: int) -> None:
    """As nobody; only root can become that."""
    if os.geteuid() != 0:
        pytest.skip("only root can open a port as somebody else")
    os.chmod(cable.device, mode)
    program = (
        "import grp, os, sys\n"  # while the interpreter may still be read
        "from firmware_bridge.transport import LineSettings, PortUnavailable, open_port\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n    open_port(sys.argv[1], LineSettings())\n"
        "except PortUnavailable as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, cable.device], capture_output=True, text=True, timeout=60, check=True
    )
    group = Path(cable.device).group()
    if mode == 0o660:
        assert done.stdout == (
            f"{cable.device}: not permitted; add the user to the group that owns it: "
            f"`sudo usermod -aG {group} $USER`, then log in again\n"
        )
    else:
        assert done.stdout.startswith(
            f"{cable.device}: not permitted: its mode is {mode:04o}, with which its group {group} may not read and write "
            f"it; `sudo chgrp dialout {cable.device} && sudo chmod 660 {cable.device}` lets group dialout, until"
        )
        assert done.stdout.count("\n") == 1


def test_a_board_that_never_reads_does_not_hold_up_reading(
    cable: Cable, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line to it fills; what comes from it is read all the same. pyserial's write would spin until it times out."""

    def write(port: serial.Serial, data: bytes) -> int:
        raise AssertionError("waits in a busy loop")

    monkeypatch.setattr(serial.Serial, "write", write)
    said: list[int] = []
    ear = Ear(says=lambda: [bytes(1500)])
    line = lines.start(cable.link, ear)
    wait_for(lambda: line.n_unsent > 5, "frames that nobody takes")
    payload = b""
    for i in range(50):
        payload += b"%04d" % i
        cable.send(b"%04d" % i)
        wait_for(lambda: ear.data == payload, "what was sent")  # noqa: B023
    assert line.connected
    # When the board reads at last, there is room again.
    wait_for(cable.receive, "what waited")
    said.clear()
    ear.says = lambda: [said.append(1), [b"end"]][1] if not said else []  # type: ignore[func-returns-value]
    got = bytearray()
    wait_for(lambda: got.extend(cable.receive()) or got.endswith(b"end"), "what is new")  # type: ignore[func-returns-value]


def test_a_stuck_device_does_not_hold_up_another(
    cable: Cable, tmp_path: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that never returns from read."""
    released = threading.Event()
    plain = transport.open_port

    class Stuck:
        in_waiting = 0

        def read(self, n: int) -> bytes:
            released.wait(60)
            return b""

        def close(self) -> None:
            pass

    def opening(path: str, settings: LineSettings) -> object:
        return Stuck() if path == "stuck" else plain(path, settings)

    monkeypatch.setattr(transport, "open_port", opening)
    stuck = Line(PortName(path="stuck"), LineSettings(), Ear(), backoff_s=BACKOFF_S)
    stuck.start()
    wait_for(lambda: stuck.connected, "the stuck line")
    ear = Ear()
    line = lines.start(cable.link, ear)
    wait_for(lambda: line.connected, "the other line")
    cable.send(b"alive")
    wait_for(lambda: ear.data == b"alive", "the other line")
    assert line.connected
    stuck.stop(timeout_s=0.1)  # is left behind
    assert not stuck.finished.done()
    released.set()
    stuck.finished.result(10)


def test_a_defect_of_the_listener_reaches_whoever_waits(
    cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)

    def fail(data: bytes) -> None:
        raise ZeroDivisionError

    line = Line(PortName(path=str(cable.link)), LineSettings(), Ear(hears=fail), backoff_s=BACKOFF_S)
    line.start()
    wait_for(lambda: line.connected, "the line")
    cable.send(b"x")
    with pytest.raises(ZeroDivisionError):
        line.finished.result(10)
    assert not line.connected


def test_waits_grow_and_begin_small_again_after_it_went_well(cable: Cable) -> None:
    waits: list[float] = []
    ear = Ear()
    line = Line(PortName(path=str(cable.link)), LineSettings(), ear, backoff_s=(0.02, 0.3))
    plain_wait = line._stopping.wait

    def wait(timeout: float | None = None) -> bool:
        assert timeout is not None
        waits.append(timeout)
        return plain_wait(min(timeout, 0.02))

    line._stopping.wait = wait  # type: ignore[method-assign]
    cable.unplug()
    line.start()
    try:
        wait_for(lambda: len(waits) >= 8, "attempts")
        for i, most in enumerate([0.02, 0.04, 0.08, 0.16, 0.3, 0.3, 0.3]):
            assert most / 2 <= waits[i] <= most
        cable.plug()
        wait_for(lambda: line.connected, "the line")
        time.sleep(0.5)  # longer than the longest wait
        n = len(waits)
        cable.unplug()
        wait_for(lambda: len(waits) > n, "an attempt")
        assert waits[n] <= 0.02
    finally:
        line.stop()


@pytest.mark.parametrize("reset_on_open", [False, True])
def test_hanging_up_on_close_is_left_to_the_settings(cable: Cable, reset_on_open: bool) -> None:
    """HUPCL makes the kernel drop DTR on close, which resets many boards when the port is opened again."""
    slave = os.open(cable.device, os.O_RDWR | os.O_NOCTTY)
    try:
        attributes = termios.tcgetattr(slave)
        attributes[2] |= termios.HUPCL
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        open_port(str(cable.link), LineSettings(reset_on_open=reset_on_open)).close()
        assert bool(termios.tcgetattr(slave)[2] & termios.HUPCL) is reset_on_open
    finally:
        os.close(slave)


@pytest.mark.parametrize("level", [None, True, False])
def test_the_control_lines_are_set_before_the_port_is_opened(
    cable: Cable, monkeypatch: pytest.MonkeyPatch, level: bool | None
) -> None:
    seen: list[tuple[bool, bool]] = []
    plain = serial.Serial.open

    def opening(port: serial.Serial) -> None:
        seen.append((port.dtr, port.rts))
        plain(port)

    monkeypatch.setattr(serial.Serial, "open", opening)
    open_port(str(cable.link), LineSettings(dtr=level, rts=level)).close()
    expected = True if level is None else level  # pyserial's own default
    assert seen == [(expected, expected)]


# What a port is


def usb(
    device: str, serial_number: str | None = None, vid: int | None = None, pid: int | None = None
) -> SimpleNamespace:
    return SimpleNamespace(device=device, serial_number=serial_number, vid=vid, pid=pid, location=None)


PORTS = [
    usb("/dev/ttyS0"),
    usb("/dev/ttyUSB0", "A5XK3RJT", 0x0403, 0x6001),
    usb("/dev/ttyUSB1", "0001", 0x1A86, 0x7523),
    usb("/dev/ttyACM0", "E6616408438B5E2A", 0x2E8A, 0x000A),
    usb("/dev/ttyUSB2", "0002", 0x1A86, 0x7523),
]


@pytest.mark.parametrize(
    ("name", "expected", "shown"),
    [
        (PortName(usb_serial="a5xk3rjt"), ["/dev/ttyUSB0"], "usb serial a5xk3rjt"),
        (PortName(vid_pid="1A86:7523"), ["/dev/ttyUSB1", "/dev/ttyUSB2"], "vid pid 1A86:7523"),
        (
            PortName(vid_pid="1a86:7523", usb_serial="0002"),
            ["/dev/ttyUSB2"],
            "usb serial 0002, vid pid 1a86:7523",
        ),
        (PortName(vid_pid="2e8a:000a"), ["/dev/ttyACM0"], "vid pid 2e8a:000a"),
        (PortName(usb_serial="gone"), [], "usb serial gone"),
        (PortName(path="/dev/ttyX"), ["/dev/ttyX"], "/dev/ttyX"),
        (
            PortName(path="/dev/ttyUSB2", vid_pid="1a86:7523"),
            ["/dev/ttyUSB2"],
            "/dev/ttyUSB2, vid pid 1a86:7523",
        ),
        (PortName(), [p.device for p in PORTS], "any port"),
        (PortName(by_path="1-1.4"), ["/dev/ttyUSB1"], "by path 1-1.4"),
        (PortName(by_path="pci-0:1.2"), ["/dev/ttyUSB2"], "by path pci-0:1.2"),
    ],
)
def test_a_port_is_found_by_what_it_is(
    monkeypatch: pytest.MonkeyPatch, name: PortName, expected: list[str], shown: str
) -> None:
    ports = [
        SimpleNamespace(**{**vars(p), "location": "1-1.4" if p.device.endswith("USB1") else None})
        for p in PORTS
    ]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    monkeypatch.setattr(
        transport, "by_path_of", lambda device: ["pci-0:1.2"] if device.endswith("USB2") else []
    )
    assert name.candidates() == expected
    assert str(name) == shown


def test_where_a_port_is_plugged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cable: Cable) -> None:
    folder = tmp_path / "by-path"
    monkeypatch.setattr(transport, "Path", lambda _: folder)
    assert by_path_of(cable.device) == []  # a host without the folder
    folder.mkdir()
    (folder / "pci-0000:00:14.0-usb-0:2:1.0").symlink_to(cable.device)
    (folder / "another").symlink_to("/dev/null")
    assert by_path_of(cable.device) == ["pci-0000:00:14.0-usb-0:2:1.0"]


def test_a_device_that_comes_back_under_another_name_is_found_by_its_serial_number(
    cable: Cable, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ports() -> list[SimpleNamespace]:
        there = [usb(cable.device, "A5XK3RJT", 0x0403, 0x6001)] if cable.master >= 0 else []
        return [usb("/dev/ttyS0"), *there]

    monkeypatch.setattr(list_ports, "comports", ports)
    ear = Ear()
    line = lines.start(PortName(usb_serial="A5XK3RJT"), ear)
    wait_for(lambda: line.path == cable.device, "the line")
    first = cable.device
    cable.unplug()
    wait_for(lambda: any("not plugged in" in why for why in ear.losses), "the loss")
    assert ear.losses[-1] == (
        "usb serial A5XK3RJT: not plugged in; `firmware-bridge list` shows the ports that are there"
    )
    other = os.openpty()  # takes the name
    try:
        cable.plug()
        assert cable.device != first
        wait_for(lambda: line.path == cable.device, "the line under another name")
        cable.send(b"again")
        wait_for(lambda: ear.data == b"again", "what it sends")
    finally:
        for fd in other:
            os.close(fd)


def test_a_wrong_board_sends_on_to_the_next_candidate(
    tmp_path: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    cables = [Cable(tmp_path / f"board{i}") for i in range(3)]
    try:
        ports = [usb(cable.device, str(i), 0x1A86, 0x7523) for i, cable in enumerate(cables)]
        monkeypatch.setattr(list_ports, "comports", lambda: ports)
        right = cables[2].device
        ear = Ear(wrong=lambda path: None if path == right else "this is board B, board = 'C' is looked for")
        line = lines.start(PortName(vid_pid="1a86:7523"), ear)
        wait_for(lambda: line.path == right, "the right one")
        assert ear.opened_at == [cable.device for cable in cables]
        assert ear.losses == [f"{c.device}: this is board B, board = 'C' is looked for" for c in cables[:2]]
        cables[2].send(b"C")
        wait_for(lambda: ear.data == b"C", "its bytes")
        # One that cannot be opened is gone over as well.
        holder = open_port(cables[0].device, LineSettings())
        ear.wrong = lambda path: "no longer" if path == right else None
        wait_for(lambda: line.path == cables[1].device, "the next that can be opened")
        assert any("another program has it open" in why for why in ear.losses)
        holder.close()
    finally:
        lines.stop()
        for cable in cables:
            cable.unplug()
