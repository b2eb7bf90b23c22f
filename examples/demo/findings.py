"""What alerts were due to, and how a day looked. Pure.

Times are seconds of the day: an alert's are those of its windows, so a delay is one in event time, however fast the plant
was played.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from examples.demo.scenario import Injected
from models.messages import Alert
from models.signal import NS_PER_S

WINDOW_S = 1.024
SETTLING_S = 5.0  # a window that straddles the end of a fault may still say so


@dataclass(frozen=True, slots=True)
class Episode:
    """An alert from when its first window began to when it was cleared; known at ``raised_s``. ``until_s`` None: still open."""

    alert_id: str
    device: str
    kind: str
    version: int | None
    start_s: float
    raised_s: float
    until_s: float | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a fault: the first alert that is due to it."""

    injected: Injected
    noticed: Episode | None

    @property
    def delay_s(self) -> float | None:
        """From the very beginning of the fault, however small, to the alert."""
        return None if self.noticed is None else self.noticed.raised_s - self.injected.fault.start_s


@dataclass(frozen=True, slots=True)
class Day:
    """A day, judged: what became of every fault, the alerts that nobody had a reason to raise, and all of them."""

    length_s: float
    findings: tuple[Finding, ...]
    false_alarms: tuple[Episode, ...]
    episodes: tuple[Episode, ...]

    @property
    def n_found(self) -> int:
        return sum(finding.noticed is not None for finding in self.findings)

    @property
    def median_delay_s(self) -> float | None:
        delays = [f.delay_s for f in self.findings if f.delay_s is not None]
        return statistics.median(delays) if delays else None

    @property
    def versions(self) -> tuple[int, ...]:
        """Of the models that raised what was raised."""
        return tuple(sorted({e.version for e in self.episodes if e.version is not None}))


def episodes(alerts: Iterable[Alert], zero_ns: int) -> tuple[Episode, ...]:
    """The episodes that ``alerts`` tell, in the order in which they were raised; those that were open at ``zero_ns``, the
    beginning of the day, are not of it."""
    found: dict[str, Episode] = {}
    for alert in alerts:
        end_s = (alert.end_ns - zero_ns) / NS_PER_S
        known = found.get(alert.alert_id)
        if alert.state == "raised" and known is None and end_s > 0:
            start_s = (alert.start_ns - zero_ns) / NS_PER_S
            found[alert.alert_id] = Episode(
                alert.alert_id, alert.device, alert.kind, alert.model_version, start_s, end_s, None
            )
        elif alert.state == "cleared" and known is not None:
            found[alert.alert_id] = Episode(
                known.alert_id, known.device, known.kind, known.version, known.start_s, known.raised_s, end_s
            )
    return tuple(sorted(found.values(), key=lambda e: e.raised_s))


def is_due(episode: Episode, injected: Injected) -> bool:
    """Whether ``injected`` is a reason for ``episode``: of the same machine, begun and raised while it lasted. An episode begins
    with its first window, which may begin a window's length before the fault."""
    fault = injected.fault
    if episode.device != fault.device or episode.kind != "machine":
        return False
    last_s = float("inf") if fault.end_s is None else fault.end_s + SETTLING_S
    return fault.start_s - WINDOW_S <= episode.start_s <= last_s and episode.raised_s >= fault.start_s


def judge(found: Sequence[Episode], faults: Sequence[Injected], length_s: float) -> Day:
    """The day of ``length_s`` with ``faults``, of which ``found`` was said."""
    findings, due = [], set()
    for injected in faults:
        mine = [e for e in found if is_due(e, injected)]
        due |= {e.alert_id for e in mine}
        findings.append(Finding(injected, mine[0] if mine else None))
    return Day(length_s, tuple(findings), tuple(e for e in found if e.alert_id not in due), tuple(found))


QUIET, FALSE, NOTICED, UNNOTICED = "·", "█", "▲", "○"


def strip(day: Day, device: str, n_cells: int) -> str:
    """What was said of ``device`` over the day, a character for each of ``n_cells`` parts of it: whether a false alarm was
    open, a fault was there and an alert due to it open, or was there and none was. An alert is open from when it was told."""
    cells = []
    step_s = day.length_s / n_cells
    false = [e for e in day.false_alarms if e.device == device]
    due = [e for e in day.episodes if e.device == device and e not in day.false_alarms]
    faults = [f.injected.fault for f in day.findings if f.injected.fault.device == device]
    for i in range(n_cells):
        begin_s, end_s = i * step_s, (i + 1) * step_s
        if any(_open(e, begin_s, end_s) for e in due):
            cells.append(NOTICED)
        elif any(_open(e, begin_s, end_s) for e in false):
            cells.append(FALSE)
        elif any(f.start_s < end_s and (f.end_s is None or f.end_s > begin_s) for f in faults):
            cells.append(UNNOTICED)
        else:
            cells.append(QUIET)
    return "".join(cells)


def _open(episode: Episode, begin_s: float, end_s: float) -> bool:
    # Not from its first window on: during the rest after an earlier alert, minutes may pass before a second one is told.
    return episode.raised_s < end_s and (episode.until_s is None or episode.until_s > begin_s)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went upstream, by the gateways' own counters: messages and bytes (topics included) by type; and the signal that
    stayed: bytes and values that machines sent, and those that the gateways say they received."""

    n_messages: Mapping[str, int]
    n_bytes: Mapping[str, int]
    raw_bytes: int
    raw_values: int
    received_values: int

    @property
    def upstream_bytes(self) -> int:
        return sum(self.n_bytes.values())

    @property
    def saved(self) -> float:
        """The share of the signal's bytes that was not sent: -inf where there was no signal."""
        return 1.0 - self.upstream_bytes / self.raw_bytes if self.raw_bytes else float("-inf")

    def since(self, before: Traffic) -> Traffic:
        """What came after ``before``."""
        return Traffic(
            {k: n - before.n_messages.get(k, 0) for k, n in self.n_messages.items()},
            {k: n - before.n_bytes.get(k, 0) for k, n in self.n_bytes.items()},
            self.raw_bytes - before.raw_bytes,
            self.raw_values - before.raw_values,
            self.received_values - before.received_values,
        )


def clock_text(seconds: float) -> str:
    """ "04:22": minutes and seconds of the day."""
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
