"""What is plugged into USB, as sysfs tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge_node.doctor.host import Host

DEVICES = "/sys/bus/usb/devices"
PLACE = re.compile(r"\d+-\d+(\.\d+)*")
_HUB_CLASS = 9
_SELF_POWERED = 0x40  # of bmAttributes


@dataclass(frozen=True, slots=True)
class UsbDevice:
    """``place``: bus and ports, "1-1.4". ``wants_ma``: what it may draw; ``speed_mbit``: at which it runs now."""

    place: str
    vid_pid: str
    product: str | None
    serial: str | None
    wants_ma: int | None
    speed_mbit: float | None
    node: str
    is_hub: bool
    self_powered: bool

    @property
    def parent(self) -> str:
        """The place of the hub that it is plugged into; a root hub's is no place."""
        return self.place.rpartition(".")[0]


def usb_devices(host: Host) -> dict[str, UsbDevice]:
    """By place, root hubs aside."""
    found = {}
    for path in host.glob(f"{DEVICES}/*-*"):
        device = _read(host, path)
        if device is not None:
            found[device.place] = device
    return found


def _read(host: Host, path: Path) -> UsbDevice | None:
    vid, pid = host.text(path / "idVendor"), host.text(path / "idProduct")
    if not PLACE.fullmatch(path.name) or vid is None or pid is None:
        return None
    power = re.match(r"\d+", host.text(path / "bMaxPower") or "")
    speed = re.match(r"[\d.]+", host.text(path / "speed") or "")
    bus, number = host.number(path / "busnum") or 0, host.number(path / "devnum") or 0
    return UsbDevice(
        place=path.name,
        vid_pid=f"{vid}:{pid}".lower(),
        product=host.text(path / "product"),
        serial=host.text(path / "serial"),
        wants_ma=None if power is None else int(power[0]),
        speed_mbit=None if speed is None else float(speed[0]),
        node=f"/dev/bus/usb/{bus:03}/{number:03}",
        is_hub=host.number(path / "bDeviceClass", 16) == _HUB_CLASS,
        self_powered=bool((host.number(path / "bmAttributes", 16) or 0) & _SELF_POWERED),
    )
