"""What :mod:`cloud_sink.drift` finds, as it goes from the process that looks to the sink. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

What = Literal["scores", "features"]
Key = tuple[str, str, str]  # site, gateway, device


@dataclass(frozen=True, slots=True)
class Finding:
    """A device that has drifted, since ``since_ns``, by ``size``: robust deviations of its scores, or the largest index of a
    feature."""

    site: str
    gateway: str
    device: str
    machine: str
    version: int
    what: What
    since_ns: int
    end_ns: int
    size: float
    text: str


@dataclass(frozen=True, slots=True)
class Drift:
    """``findings`` of all devices; ``n_judged``: devices of which enough is known. ``fleet``: why it is one of the fleet, and not
    of this or that device, or None."""

    findings: tuple[Finding, ...]
    n_devices: int
    n_judged: int
    fleet: str | None


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model: what has drifted, and how many healthy windows have been summed up since ``since_ns``."""

    model_id: str
    class_: str
    version: int
    served_ns: int
    since_ns: int
    n_windows: int
    drift: Drift
