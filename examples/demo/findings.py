"""Which alert noticed which fault, after how long, and which alerts nobody had a reason to raise. Pure.

Times are seconds of the scenario: an alert's are those of its windows, so a delay is one in event time, however
fast the plant was played. Only a silence is noticed by the gateway's clock; its time is where the plant was
when the alert was sent.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from examples.demo.scenario import Injected
from examples.simulated_plant import FaultKind
from models.messages import Alert
from models.signal import NS_PER_S

SETTLING_S = 5.0  # a window that straddles the end of a fault may still say so


class PlantClock:
    """Event time and wall-clock time in seconds of the scenario, whose second 0 is at ``zero_ns`` of event time. The event
    time of ``real_time`` devices is the wall clock's."""

    def __init__(self, zero_ns: int, real_time: Collection[str] = ()) -> None:
        self._zero_ns = zero_ns
        self._real_time = real_time
        self._wall_ns: list[int] = []
        self._at_s: list[float] = []

    def read(self, wall_ns: int, at_s: float) -> None:
        """The simulator was at ``at_s`` when the clock showed ``wall_ns``."""
        self._wall_ns.append(wall_ns)
        self._at_s.append(at_s)

    def of_event(self, time_ns: int, device: str) -> float:
        if device in self._real_time:
            return self.of_wall(time_ns)
        return (time_ns - self._zero_ns) / NS_PER_S

    def of_wall(self, wall_ns: int) -> float:
        """Where the simulator was at ``wall_ns``, between its readings."""
        i = bisect.bisect(self._wall_ns, wall_ns)
        if i == 0 or i == len(self._wall_ns):
            return self._at_s[min(i, len(self._at_s) - 1)] if self._at_s else math.nan
        (w0, w1), (s0, s1) = self._wall_ns[i - 1 : i + 1], self._at_s[i - 1 : i + 1]
        return s0 + (s1 - s0) * (wall_ns - w0) / max(w1 - w0, 1)


@dataclass(frozen=True, slots=True)
class Raised:
    """An alert when it was raised: its first window began at ``start_s``, it was known at ``at_s``."""

    alert: Alert
    start_s: float
    at_s: float

    @classmethod
    def of(cls, alert: Alert, clock: PlantClock) -> Raised:
        known_s = clock.of_event(alert.end_ns, alert.device)
        if alert.kind == "stale" and alert.delivery is not None:
            known_s = clock.of_wall(alert.delivery.emitted_ns)
        return cls(alert, clock.of_event(alert.start_ns, alert.device), known_s)

    @property
    def channel(self) -> str:
        """The one that it blames most."""
        return self.alert.contributions[0].channel if self.alert.contributions else ""

    @property
    def latency_ms(self) -> float:
        """From the arrival of the last sample that was needed to the alert's being sent."""
        latency_ms = self.alert.delivery.latency_ms if self.alert.delivery is not None else None
        return math.nan if latency_ms is None else latency_ms


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a fault: the alerts that are due to it, by time."""

    injected: Injected
    alerts: tuple[Raised, ...]

    @property
    def noticed(self) -> Raised | None:
        """The alert that had to come."""
        return next((a for a in self.alerts if a.alert.kind == self.injected.must), None)

    @property
    def shown(self) -> tuple[Raised, ...]:
        """The first alert, and the one that had to come where that is another."""
        return tuple(dict.fromkeys(a for a in (*self.alerts[:1], self.noticed) if a is not None))


def judge(
    raised: Sequence[Raised], faults: Sequence[Injected], window_s: dict[str, float]
) -> tuple[tuple[Finding, ...], tuple[Raised, ...]]:
    """(what became of every fault, false alarms). ``window_s``: length of each device's windows, in the plant's seconds: an
    episode begins with its first window, which may begin so long before the fault."""
    left = sorted(raised, key=lambda a: a.at_s)
    findings = []
    for injected in faults:
        due = [a for a in left if _is_due(a, injected, window_s.get(a.alert.device, 0.0))]
        left = [a for a in left if a not in due]
        findings.append(Finding(injected, tuple(due)))
    return tuple(findings), tuple(left)


def _is_due(raised: Raised, injected: Injected, window_s: float) -> bool:
    alert, fault = raised.alert, injected.fault
    if alert.device != fault.device or alert.kind not in (injected.must, *injected.may):
        return False
    if fault.kind is FaultKind.STUCK and raised.channel != fault.channel:
        return False
    last_s = math.inf if fault.end_s is None else fault.end_s + SETTLING_S
    return fault.start_s - window_s - 1.0 <= raised.start_s <= last_s and raised.at_s >= fault.start_s


def clock_text(seconds: float) -> str:
    """ "04:22": minutes and seconds of the scenario."""
    whole = max(int(seconds), 0)
    return f"{whole // 60:02d}:{whole % 60:02d}"


def bytes_text(n: int) -> str:
    """``n`` bytes for a person: "31.7 MB"."""
    size, unit = float(n), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
