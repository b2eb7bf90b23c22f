"""What became of every alert of a replay, an episode each: when it was raised and cleared, and the last that it said of what
was wrong. Memory grows with the number of alerts, not with the log. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edge_node.failures import COUNTED, Times
from models.messages import Alert, AlertKind, Severity


@dataclass(slots=True)
class Told:
    """One alert. ``raised_ns``: the end of the window with which it was raised; ``cleared_ns`` None: it is still open.
    ``channel``: the one that was blamed when it was raised ("" where none is)."""

    device: str
    machine: str
    kind: AlertKind
    severity: Severity
    channel: str
    message: str
    raised_ns: int
    cleared_ns: int | None = None

    @property
    def counts(self) -> bool:
        """Whether it is of a kind that may announce a failure."""
        return self.kind in COUNTED


class History:
    """Alerts as they come."""

    def __init__(self) -> None:
        self.alerts: list[Told] = []  # in the order in which they were raised
        self._open: dict[str, Told] = {}

    def add(self, alert: Alert) -> None:
        """A change of an alert; those that were raised before the log began are left out."""
        if alert.state == "raised":
            channel = alert.contributions[0].channel if alert.contributions else ""
            told = Told(
                alert.device, alert.machine, alert.kind, alert.severity, channel, alert.message, alert.end_ns
            )
            self.alerts.append(told)
            self._open[alert.alert_id] = told
            return
        if (before := self._open.get(alert.alert_id)) is None:
            return
        before.severity, before.message = alert.severity, alert.message
        if alert.state == "cleared":
            before.cleared_ns = alert.end_ns
            del self._open[alert.alert_id]

    def raised(self, kinds: Iterable[AlertKind] = COUNTED) -> Times:
        """When alerts of ``kinds`` were raised, by device, int64[m] ascending."""
        wanted, times = frozenset(kinds), dict[str, list[int]]()
        for told in self.alerts:
            if told.kind in wanted:
                times.setdefault(told.device, []).append(told.raised_ns)
        return {device: np.sort(np.array(found, np.int64)) for device, found in times.items()}
