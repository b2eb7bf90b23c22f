"""Is it now, and who says so?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from edge_node.doctor.findings import Finding, fail, ok, warn
from edge_node.doctor.host import Host

_FIRST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_OFF_S = 1.0  # further off, alerts of several gateways are hard to put in order
_SET = "sudo timedatectl set-ntp true; timedatectl timesync-status says how it goes (or chronyc tracking)"


def clock(host: Host) -> Iterator[Finding]:
    """The time of every alert, and what tells samples that are too old or from the future."""
    now = dt.datetime.fromtimestamp(host.now_s(), dt.UTC)
    text = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    found = host.discipline()
    if now < _FIRST:
        remedy = f"{_SET}; a battery-backed clock keeps it over power cuts"
        yield fail("clock", f"it reads {text}: never set since the computer started", remedy)
    elif found is None:
        yield warn("clock", f"{text}; whether it is kept right cannot be seen here", _SET)
    elif not found.synchronised:
        battery = "" if _battery(host) else ", and no battery keeps it over a power cut"
        yield warn("clock", f"{text}, kept right by nobody{battery}", _SET)
    elif found.max_error_s > _OFF_S:
        yield warn("clock", f"{text}, kept right, but to {found.max_error_s:.1f} s only", _SET)
    else:
        battery = "" if _battery(host) else "; no battery keeps it over a power cut"
        yield ok("clock", f"{text}, right to {found.max_error_s * 1e3:.0f} ms{battery}")


def _battery(host: Host) -> bool:
    return bool(host.glob("/sys/class/rtc/rtc*"))
