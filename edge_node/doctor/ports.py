"""Serial ports: those that the configuration means, and those that are there."""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_node.config import Config
from edge_node.config_schema import ModbusSource, SerialSource
from edge_node.doctor.findings import Finding, fail, ok, warn
from edge_node.doctor.host import Host
from edge_node.doctor.usb import PLACE, UsbDevice, usb_devices

_COMMON_GROUP = "dialout"


@dataclass(frozen=True, slots=True)
class SerialPort:
    """``places``: what it may be called by where it is plugged in."""

    path: str
    usb: UsbDevice | None
    places: tuple[str, ...]

    @property
    def text(self) -> str:
        """What it is, as the configuration could name it."""
        if self.usb is None:
            return self.path
        serial = f", usb_serial {self.usb.serial}" if self.usb.serial else ""
        return f"{self.path} ({self.usb.vid_pid}{serial}, {self.usb.place})"


def serial_ports(host: Host) -> list[SerialPort]:
    """Those that have hardware, by path."""
    usb = usb_devices(host)
    links = [(link.name, host.real(link)) for link in host.glob("/dev/serial/by-path/*")]
    found = []
    for path in host.glob("/sys/class/tty/*"):
        if host.stat(path / "device") is None or host.number(path / "type") == 0:
            continue  # a terminal; a UART that is not fitted
        node = f"/dev/{path.name}"
        if host.stat(node) is None:
            continue
        real = host.real(path / "device")
        place = next((part for part in reversed(real.parts) if PLACE.fullmatch(part)), None)
        interface = next((part for part in reversed(real.parts) if ":" in part and "-" in part), None)
        names = [name for name, target in links if target == Path(node)]
        places = tuple(p for p in (place, interface, *names) if p is not None)
        found.append(SerialPort(node, usb.get(place or ""), places))
    return found


def serial(host: Host, config: Config | None) -> Iterator[Finding]:
    """Each port that is meant, and what is there beside."""
    here = serial_ports(host)
    meant: set[str] = set()
    for source in config.sources if config is not None else ():
        if isinstance(source, SerialSource) or (isinstance(source, ModbusSource) and source.host is None):
            paths, finding = _source(host, source, here)
            meant |= paths
            yield finding
    if others := [port.text for port in here if port.path not in meant]:
        yield ok("serial", f"also here: {', '.join(others)}")


def _source(
    host: Host, source: SerialSource | ModbusSource, here: list[SerialPort]
) -> tuple[set[str], Finding]:
    name = f"source {source.name}"
    if source.port is not None and "://" in source.port:
        return set(), ok("serial", f"{name}: {source.port} is a URL; edge-node check --test tries it")
    if source.port is not None and not _narrowed(source):
        paths = [source.port] if host.stat(source.port) is not None else []
    else:
        paths = [port.path for port in here if _is(source, port)]
    wanted = ", ".join(_wanted(source))
    if not paths:
        present = ", ".join(port.text for port in here) or "none"
        return set(), fail(
            "serial",
            f"{name}: no port with {wanted}",
            f"plug it in, or correct the source; ports here: {present}",
        )
    real = {str(host.real(path)) for path in paths}
    closed = [path for path in paths if not host.may(path, os.R_OK | os.W_OK)]
    if closed:
        return real, fail(
            "serial", f"{name}: {closed[0]} may not be opened by this user", _let(host, closed[0])
        )
    if len(paths) > 1 and getattr(source, "board", None) is None:
        text = f"{name}: {wanted} fits {len(paths)} ports: {', '.join(paths)}"
        return real, warn("serial", text, "narrow it down by usb_serial or by_path")
    return real, ok("serial", f"{name}: {paths[0]}" + (f" ({wanted})" if [source.port] != paths else ""))


def _narrowed(source: SerialSource | ModbusSource) -> bool:
    return any((source.usb_serial, source.vid_pid, source.by_path))


def _is(source: SerialSource | ModbusSource, port: SerialPort) -> bool:
    usb = port.usb
    if source.usb_serial is not None and (
        usb is None or (usb.serial or "").lower() != source.usb_serial.lower()
    ):
        return False
    if source.vid_pid is not None and (usb is None or usb.vid_pid != source.vid_pid.lower()):
        return False
    if source.port is not None and source.port != port.path:
        return False
    return source.by_path is None or source.by_path in port.places


def _wanted(source: SerialSource | ModbusSource) -> Iterator[str]:
    for key in ("port", "usb_serial", "vid_pid", "by_path"):
        value = getattr(source, key)
        if value is not None:
            yield f"{key} {value}"
    if not (source.port or _narrowed(source)):
        yield "any port"


def _let(host: Host, path: str) -> str:
    found = host.stat(path)
    if found is not None and found.st_mode & 0o060 == 0o060 and found.st_gid:
        group = group_name(found.st_gid)
        return f"sudo usermod -aG {group} USER, then log in again; in a unit SupplementaryGroups={group}"
    return f'a udev rule with GROUP="{_COMMON_GROUP}", MODE="0660" for it'


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
