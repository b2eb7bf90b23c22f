"""Whether a canary has shown enough: a candidate on a few gateways, then on all, or taken back. Pure.

Invariants: nothing but what gateways report is a success: a canary that is stuck, silent, or has scored too little is none,
however long it was out; one that refuses it, or alerts far over its budget, ends it at once. A verdict says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.signal import NS_PER_S

HOUR_NS = 3600 * NS_PER_S
WEEK_NS = 7 * 24 * HOUR_NS
SILENCE_NS = 600 * NS_PER_S
PATIENCE = 3  # times the hours asked for, after which too little is too little
OVER_BUDGET = 2.0
SPARE_ALERTS = 2  # beyond the budget, of which chance may be the cause

Action = Literal["wait", "promote", "roll_back"]


@dataclass(frozen=True, slots=True)
class Plan:
    """``version`` of ``model_id`` on ``canaries`` (each site/gateway) since ``began_ns``, for ``hours`` and ``windows`` on each
    of them; a device is allowed ``alerts_per_week``."""

    model_id: str
    version: int
    canaries: tuple[str, ...]
    began_ns: int
    hours: float
    windows: int
    alerts_per_week: float


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of one canary, ``gateway`` (site/gateway): what it has said of the version (None: nothing), since when and in
    which words; whether it is online, and when it was last heard; windows of the version that were summed up, devices, and
    machine alerts that it raised."""

    gateway: str
    state: str | None = None
    since_ns: int = 0
    text: str = ""
    online: bool = False
    heard_ns: int = 0
    n_windows: int = 0
    n_devices: int = 0
    n_alerts: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    action: Action
    reasons: tuple[str, ...]


def judge(plan: Plan, reports: Sequence[Report], now_ns: int) -> Verdict:
    """What is to become of it; ``reports``: one a canary."""
    against = [f"{r.gateway}: {r.text or r.state}" for r in reports if r.state in ("refused", "rolled_back")]
    against += [text for r in reports if (text := _over_budget(plan, r, now_ns)) is not None]
    if against:
        return Verdict("roll_back", tuple(against))
    lacking = [text for r in reports if (text := _lacking(plan, r, now_ns)) is not None]
    if not reports:
        lacking = ["there is no canary"]
    if not lacking:
        n, alerts = sum(r.n_windows for r in reports), sum(r.n_alerts for r in reports)
        canaries = "1 canary" if len(reports) == 1 else f"{len(reports)} canaries"
        return Verdict(
            "promote", (f"{n} windows on {canaries}, {alerts} {'alert' if alerts == 1 else 'alerts'}",)
        )
    if now_ns - plan.began_ns >= PATIENCE * plan.hours * HOUR_NS:
        return Verdict("roll_back", tuple(lacking))
    return Verdict("wait", tuple(lacking))


def _over_budget(plan: Plan, r: Report, now_ns: int) -> str | None:
    if r.state != "adopted":
        return None
    weeks = max(now_ns - r.since_ns, 0) / WEEK_NS
    allowed = OVER_BUDGET * plan.alerts_per_week * max(1, r.n_devices) * weeks + SPARE_ALERTS
    if r.n_alerts <= allowed:
        return None
    return f"{r.gateway}: {r.n_alerts} alerts since it was adopted, and the budget allows {allowed:.1f}"


def _lacking(plan: Plan, r: Report, now_ns: int) -> str | None:
    """What a canary has not shown yet."""
    if r.state is None:
        return f"{r.gateway}: it has said nothing of version {plan.version}"
    if r.state != "adopted":
        return f"{r.gateway}: version {plan.version} is not in service ({r.state})"
    if not r.online or now_ns - r.heard_ns > SILENCE_NS:
        return f"{r.gateway}: it is silent"
    hours = (now_ns - r.since_ns) / HOUR_NS
    if hours < plan.hours:
        return f"{r.gateway}: {hours:.2g} of {plan.hours:g} hours"
    if r.n_windows < plan.windows:
        return f"{r.gateway}: {r.n_windows} of {plan.windows} windows"
    return None
