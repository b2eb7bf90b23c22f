"""An Edge TPU: is it there, may we open it, does it get its power, is it on a fast port?"""

from __future__ import annotations

import os
from collections.abc import Iterator

from edge_node.config import Config
from edge_node.doctor.findings import Finding, fail, ok, warn
from edge_node.doctor.host import Host
from edge_node.doctor.usb import UsbDevice, usb_devices

IDS = {"1a6e:089a": "as plugged in, not yet used", "18d1:9302": "in use since it was plugged in"}
NEEDS_MA = 900
USB_3_MBIT = 5000

_UDEV = "install packaging/udev/70-linewatch-edgetpu.rules, add the gateway's user to plugdev, and plug it in again"
_PI_5_POWER = "/proc/device-tree/chosen/power/usb_max_current_enable"


def edge_tpu(host: Host, config: Config | None) -> Iterator[Finding]:
    """Nothing is said where there is none and none is asked for."""
    wanted = {d.backend for d in config.devices if d.model is not None} if config is not None else set()
    usb = usb_devices(host)
    found = [device for device in usb.values() if device.vid_pid in IDS]
    pcie = host.glob("/dev/apex_*")
    if not found and not pcie:
        where = "no Edge TPU is on USB (1a6e:089a, 18d1:9302) or PCIe (/dev/apex_0)"
        if "edgetpu" in wanted:
            yield fail("edge tpu", where, 'plug it in, or set backend = "auto"')
        elif "auto" in wanted:
            yield warn("edge tpu", f"{where}: the CPU scores", 'plug it in, or set backend = "cpu"')
        return
    for node in pcie:
        if host.may(node, os.R_OK | os.W_OK):
            yield ok("edge tpu", f"{node} on PCIe")
        else:
            yield fail("edge tpu", f"{node} may not be opened by this user", _UDEV)
    for device in found:
        yield from _on_usb(host, device, usb)
    if not wanted & {"edgetpu", "auto"}:
        yield warn("edge tpu", "no device uses it", 'set backend = "auto" where a model was trained for it')


def _on_usb(host: Host, device: UsbDevice, usb: dict[str, UsbDevice]) -> Iterator[Finding]:
    speed = "" if device.speed_mbit is None else f" at {device.speed_mbit:g} Mbit/s"
    power = "" if device.wants_ma is None else f", asks for {device.wants_ma} mA"
    name = f"{device.vid_pid} on USB {device.place}{speed}{power} ({IDS[device.vid_pid]})"
    if not host.may(device.node, os.R_OK | os.W_OK):
        yield fail("edge tpu", f"{name}: {device.node} may not be opened by this user", _UDEV)
    else:
        yield ok("edge tpu", name)
    if device.speed_mbit is not None and device.speed_mbit < USB_3_MBIT:
        yield warn(
            "edge tpu",
            f"it runs as USB 2, {device.speed_mbit:g} of {USB_3_MBIT} Mbit/s: models that do not fit into its memory are slow",
            "use a USB 3 port (blue) and its own cable",
        )
    hub = usb.get(device.parent)
    if hub is not None and hub.is_hub and not hub.self_powered:
        yield warn(
            "edge tpu",
            f"the hub at {hub.place} has no supply of its own, and it draws up to {NEEDS_MA} mA",
            "plug it into the computer itself, or into a hub with a supply",
        )
    enabled = host.path(_PI_5_POWER)
    if enabled.is_file() and not any(enabled.read_bytes()):
        yield warn(
            "edge tpu",
            f"this Raspberry Pi gives all its USB ports 600 mA together; it draws up to {NEEDS_MA} mA",
            "use the supply of 5 V and 5 A, or set usb_max_current_enable=1 in /boot/firmware/config.txt",
        )
