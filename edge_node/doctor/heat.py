"""Is the computer too hot, or short of power?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_node.doctor.findings import Finding, fail, ok, warn
from edge_node.doctor.host import Host

WARM_C, HOT_C = 75.0, 85.0  # a Raspberry Pi slows down from 80 on, and more from 85 on

_THROTTLED = "/sys/devices/platform/*/*firmware/get_throttled"
_LOW_VOLTAGE = "/sys/class/hwmon/hwmon*/in0_lcrit_alarm"
_NOW = {
    0x1: "the supply's voltage is too low",
    0x2: "its frequency is capped",
    0x4: "it is slowed down",
    0x8: "it is hot",
}
_ONCE = {bit << 16: text.replace(" is ", " was ") for bit, text in _NOW.items()}
_SUPPLY = "use the supply that was made for it, and a short, thick cable; nothing but what is needed on USB"
_COOL = "give it air: a heat sink or a fan, a place that is not in the cabinet's top"


def heat(host: Host) -> Iterator[Finding]:
    """Nothing is said where nothing tells."""
    degrees = [
        n / 1000 for path in host.glob("/sys/class/thermal/thermal_zone*/temp") if (n := host.number(path))
    ]
    if degrees:
        hottest = max(degrees)
        text = f"{hottest:.0f} °C"
        if hottest >= HOT_C:
            yield fail("heat", f"{text}: it slows down", _COOL)
        elif hottest >= WARM_C:
            yield warn("heat", f"{text}: it slows down from 80 °C on", _COOL)
        else:
            yield ok("heat", text)
    bits = _throttled(host)
    if bits is None:
        for path in host.glob(_LOW_VOLTAGE):
            if host.text(path.parent / "name") == "rpi_volt" and host.number(path):
                bits = 1
    if bits is None:
        return
    now = [text for bit, text in _NOW.items() if bits & bit]
    once = [text for bit, text in _ONCE.items() if bits & bit and not bits & bit >> 16]
    remedy = _SUPPLY if bits & 0x10001 else _COOL
    if now:
        yield fail("power", f"{', '.join(now)} (now)", remedy)
    if once:
        yield warn("power", f"{', '.join(once)} (since it was switched on)", remedy)
    if not now and not once:
        yield ok("power", "enough, and never slowed down since it was switched on")


def _throttled(host: Host) -> int | None:
    """The bits that a Raspberry Pi's firmware tells; None on any other computer."""
    for path in host.glob(_THROTTLED):
        if (bits := host.number(path, 16)) is not None:
            return bits
    if "Raspberry Pi" not in (host.text("/proc/device-tree/model") or ""):
        return None
    said = re.search(r"throttled=0x([0-9a-f]+)", host.output(("vcgencmd", "get_throttled")) or "")
    return None if said is None else int(said[1], 16)
