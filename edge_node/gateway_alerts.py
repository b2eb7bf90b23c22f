"""Alerts of kind ``system``: what is wrong with the gateway itself, on ``alert/_gateway``.

A trouble is a count of what went wrong. It is raised when the count grows, and cleared when the count has stood still
for ``hold_s`` or is 0 again (a new configuration). What was open when the gateway stopped goes on being so until it has had
the time to be found again. Unlike all other alerts these depend on the run, not on the signal:
no replay says them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from models.messages import Alert, Severity, episode_id, rfc3339
from models.signal import Clock
from models.topics import GATEWAY_DEVICE

SETTLE_S = 60.0  # after a start: a source that cannot be reached is one only when it has not been for a while


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that can be wrong. ``subject`` tells it from others; ``text`` says it in a sentence; ``n``: how often
    it has happened so far. ``hold_s`` infinite: it lasts as long as ``n`` is not 0."""

    subject: str
    text: str
    n: int
    hold_s: float
    severity: Severity = "warning"


class GatewayAlertsState(msgspec.Struct, kw_only=True):
    """Everything that :class:`GatewayAlerts` remembers: counts as last seen, and what is open."""

    seen: dict[str, int]
    open: dict[str, Alert]


@dataclass(slots=True)
class _Open:
    alert: Alert
    since_s: float  # when n last grew
    settles_s: float = 0.0  # it is not over before then


class GatewayAlerts:
    """The episodes of one gateway's troubles."""

    def __init__(self, site: str, gateway: str) -> None:
        self._site = site
        self._gateway = gateway
        self._seen: dict[str, int] = {}
        self._open: dict[str, _Open] = {}

    @property
    def open(self) -> list[Alert]:
        """What is wrong now."""
        return [found.alert for found in self._open.values()]

    def state(self) -> GatewayAlertsState:
        return GatewayAlertsState(
            seen=dict(self._seen), open={subject: found.alert for subject, found in self._open.items()}
        )

    def restore(self, state: GatewayAlertsState, monotonic_s: float) -> None:
        """Goes on from ``state``: all counts have stood still since ``monotonic_s``; SETTLE_S later what is not there is over."""
        self._seen = dict(state.seen)
        self._open = {
            subject: _Open(alert, monotonic_s, monotonic_s + SETTLE_S)
            for subject, alert in state.open.items()
        }

    def step(self, troubles: Iterable[Trouble], now_ns: int, monotonic_s: float) -> list[Alert]:
        """What there is to say at ``now_ns`` (wall clock); ``monotonic_s`` measures how long a count stood still.

        A trouble that is not listed any more is over.
        """
        said: list[Alert] = []
        over: list[str] = []
        present = {trouble.subject: trouble for trouble in troubles}
        for subject, trouble in present.items():
            grew = trouble.n > self._seen.get(subject, 0)
            self._seen[subject] = trouble.n
            found = self._open.get(subject)
            if grew and found is None:
                alert = self._alert(trouble, now_ns)
                self._open[subject] = _Open(alert, monotonic_s)
                said.append(alert)
            elif grew and found is not None:
                found.since_s = monotonic_s
            elif found is not None and (trouble.n == 0 or monotonic_s - found.since_s >= trouble.hold_s):
                over.append(subject)
        over += [subject for subject in self._open if subject not in present]
        said += [self._cleared(s, now_ns) for s in over if monotonic_s >= self._open[s].settles_s]
        self._seen = {subject: n for subject, n in self._seen.items() if subject in present}
        return said

    def close(self, now_ns: int) -> list[Alert]:
        """The end of everything that is open: the gateway stops, and nothing goes on from here."""
        return [self._cleared(subject, now_ns) for subject in list(self._open)]

    def _cleared(self, subject: str, now_ns: int) -> Alert:
        alert = self._open.pop(subject).alert
        end_ns = max(now_ns, alert.start_ns)
        return msgspec.structs.replace(
            alert,
            state="cleared",
            seq=alert.seq + 1,
            message_id=f"{alert.alert_id}-{alert.seq + 1}",
            message=f"{self._gateway}: over: {alert.message.removeprefix(f'{self._gateway}: ')}",
            end_ns=end_ns,
            end_at=rfc3339(end_ns),
        )

    def _alert(self, trouble: Trouble, now_ns: int) -> Alert:
        alert_id = episode_id(self._gateway, GATEWAY_DEVICE, "system", now_ns, trouble.subject)
        return Alert(
            alert_id=alert_id,
            seq=0,
            message_id=f"{alert_id}-0",
            site=self._site,
            gateway=self._gateway,
            machine=self._gateway,
            class_="",
            device=GATEWAY_DEVICE,
            state="raised",
            kind="system",
            severity=trouble.severity,
            message=f"{self._gateway}: {trouble.text}",
            start_ns=now_ns,
            end_ns=now_ns,
            start_at=rfc3339(now_ns),
            end_at=rfc3339(now_ns),
            score=None,
            p_value=None,
            threshold=None,
            contributions=(),
            features=None,
            model_id=None,
            model_version=None,
            clock=Clock.ARRIVAL,
            evidence=None,
            delivery=None,
        )
