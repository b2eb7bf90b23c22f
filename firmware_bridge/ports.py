"""Which serial ports there are, and what a person calls one on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from serial.tools import list_ports

from firmware_bridge.transport import PortName, by_path_of, vid_pid_of

NONE = (
    "no serial port is here: plug the board in (`dmesg` says whether the kernel saw it); in a container or a virtual machine "
    "the device must be passed through"
)

_VID_PID = re.compile(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}")
_LOCATION = re.compile(r"\d+-\d+(\.\d+)*(:\d+\.\d+)?")  # USB: bus-port.port:configuration.interface
_BY_PATH = re.compile(r"(pci|platform|acpi|usb)-.+")


@dataclass(frozen=True, slots=True)
class Port:
    """A port that is there now; None: it does not say."""

    path: str
    usb_serial: str | None
    vid_pid: str | None
    by_path: str | None
    description: str | None


def ports() -> list[Port]:
    """Every serial port of this computer, by path."""
    return [
        Port(
            found.device,
            found.serial_number or None,
            vid_pid_of(found),
            next(iter([*by_path_of(found.device), *filter(None, [found.location])]), None),
            None if found.description in (None, "", "n/a") else found.description,
        )
        for found in sorted(list_ports.comports(), key=lambda found: str(found.device))
    ]


def named(text: str) -> PortName:
    """The port that a person calls ``text``: a path, a URL that pyserial opens, vid:pid, the place it is plugged into, or
    else a USB serial number."""
    if "/" in text or Path(text).exists():
        return PortName(path=text)
    if _VID_PID.fullmatch(text):
        return PortName(vid_pid=text)
    if _LOCATION.fullmatch(text) or _BY_PATH.fullmatch(text):
        return PortName(by_path=text)
    return PortName(usb_serial=text)
