"""Which of last year's failures the alerts of a replay would have announced: followed as it goes, counted at the end.

The rule is that of :mod:`edge_node.failures`. Of each budget the same is counted, so that what it costs in alerts stands
beside what it would have caught. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_node.alert_history import History, Told
from edge_node.assembly import Core
from edge_node.budgets import Budget, common_budget
from edge_node.failures import COUNTED, Failure, Outcome, Times, Watched, by_chance, judge
from edge_node.settling import Trace
from models.messages import AlertKind
from models.signal import Mode, SampleBlock

_OF_THE_LEVEL: frozenset[AlertKind] = frozenset({"machine", "drift"})


@dataclass(frozen=True, slots=True)
class Finding:
    """What there is to say of one failure. ``alert``: the first that counts, raised ``lead_ns`` before it; ``n_counting``:
    how many count; ``chance``: how likely the same alerts would have caught it at other times; ``open_since_ns``: of one
    that was missed, when an alert that was still open then was raised, too early to count."""

    failure: Failure
    outcome: Outcome
    alert: Told | None
    n_counting: int
    chance: float
    open_since_ns: int | None

    @property
    def lead_ns(self) -> int | None:
        return None if self.alert is None else self.failure.time_ns - self.alert.raised_ns


@dataclass(frozen=True, slots=True)
class Point:
    """What one budget comes to; ``alerts_per_week`` None: the levels in service are of no one budget. ``median_lead_ns`` of
    the failures caught; ``chance``: how many the same alerts would have caught at other times, expected."""

    alerts_per_week: float | None
    in_service: bool
    n_raised: int
    n_false: int
    n_caught: int
    chance: float
    median_lead_ns: int | None


@dataclass(frozen=True, slots=True)
class Findings:
    """The whole answer. ``watched_ns``: time in which windows were scored, over all devices; ``n_false_after``: false alerts
    that were raised no longer than a lead after a failure; ``n_always``: alerts that no budget changes."""

    lead_ns: int
    findings: tuple[Finding, ...]
    points: tuple[Point, ...]  # the one in service is among them
    n_false: int
    n_false_after: int
    n_always: int
    watched_ns: int

    @property
    def judged(self) -> list[Finding]:
        """Those that could be caught."""
        return [f for f in self.findings if f.outcome in (Outcome.CAUGHT, Outcome.MISSED)]

    @property
    def n_caught(self) -> int:
        return sum(f.outcome is Outcome.CAUGHT for f in self.findings)

    @property
    def n_missed(self) -> int:
        return sum(f.outcome is Outcome.MISSED for f in self.findings)

    @property
    def n_covered(self) -> int:
        """Missed, while an alert that was raised too early to count was still open."""
        return sum(f.open_since_ns is not None for f in self.findings)

    @property
    def chance(self) -> float:
        return sum(f.chance for f in self.judged)


class FailureWatch:
    """Follows one replay."""

    def __init__(
        self, core: Core, failures: Sequence[Failure], lead_ns: int, budgets: Sequence[Budget]
    ) -> None:
        self._core = core
        self._failures = list(failures)
        self._lead_ns = lead_ns
        self._budgets = budgets
        self._recorded = np.zeros(len(failures), np.bool_)
        self._of: defaultdict[str, list[int]] = defaultdict(list)  # failures by device
        for k, failure in enumerate(failures):
            for device in failure.devices:
                self._of[device].append(k)
        self._watched: dict[str, Watched] = {}
        for plan in core.plans:
            window = plan.window
            # Between records a burst device is watched too, for whatever happens shows in the next.
            joined = window.mode is Mode.BURST or (plan.model is None and plan.learn is None)
            gap_ns = None if joined else max(window.hop_ns, window.window_ns)
            self._watched[plan.device.device_id] = Watched(gap_ns)
        # A device without a model has no scores: its limits are watched from its first row to its last. One that learns will.
        self._unscored = {
            plan.device.device_id: self._watched[plan.device.device_id]
            for plan in core.plans
            if plan.model is None and plan.learn is None
        }

    def block(self, block: SampleBlock) -> None:
        """Rows on their way in."""
        if not block.n or block.device_id not in self._watched:
            return
        waiting = [k for k in self._of.get(block.device_id, ()) if not self._recorded[k]]
        unscored = self._unscored.get(block.device_id)
        if not waiting and unscored is None:
            return
        times = block.times()
        first_ns, last_ns = int(times.min()), int(times.max())
        if unscored is not None:
            unscored.add(np.array([first_ns]), np.array([last_ns + 1]))
        for k in waiting:
            failed_ns = self._failures[k].time_ns
            if first_ns <= failed_ns and last_ns >= failed_ns - self._lead_ns:
                inside = (times <= failed_ns) & (times >= failed_ns - self._lead_ns)
                self._recorded[k] = bool(inside.any())

    def trace(self, trace: Trace) -> None:
        """Scores that came out."""
        self._watched[trace.device_id].add(trace.start_ns, trace.end_ns)

    def findings(self, history: History) -> Findings:
        """The answer, ``history`` being that of all alerts of the replay."""
        raised = history.raised()
        judgement = judge(self._failures, raised, self._lead_ns)
        chance = by_chance(self._failures, raised, self._lead_ns, self._watched)
        first = {(told.device, told.raised_ns): told for told in reversed(history.alerts) if told.counts}
        findings = []
        for k, failure in enumerate(self._failures):
            if not self._recorded[k]:
                findings.append(Finding(failure, Outcome.NOT_RECORDED, None, 0, 0.0, None))
                continue
            caught = bool(judgement.caught[k])
            if not caught and not self._is_watched(failure):
                findings.append(Finding(failure, Outcome.NOT_WATCHED, None, 0, 0.0, None))
                continue
            findings.append(
                Finding(
                    failure,
                    Outcome.CAUGHT if caught else Outcome.MISSED,
                    first[judgement.first_device[k], int(judgement.first_ns[k])] if caught else None,
                    int(judgement.n_counting[k]),
                    float(chance[k]),
                    None if caught else _open_since(failure, history, self._lead_ns),
                )
            )
        can = np.array([f.outcome in (Outcome.CAUGHT, Outcome.MISSED) for f in findings], dtype=np.bool_)
        points = [self._point(common_budget(self._core), raised, can, in_service=True)]
        other = {kind for kind in COUNTED if kind not in _OF_THE_LEVEL}
        always = history.raised(other)
        for budget in self._budgets:
            if budget.alerts_per_week != points[0].alerts_per_week:
                points.append(self._point(budget.alerts_per_week, _joined(budget.raised(), always), can))
        points.sort(key=lambda point: point.alerts_per_week or 0.0)
        return Findings(
            self._lead_ns,
            tuple(findings),
            tuple(points),
            judgement.n_false,
            self._n_after(judgement.false),
            sum(times.size for times in always.values()),
            sum(watched.total_ns for watched in self._watched.values()),
        )

    def _is_watched(self, failure: Failure) -> bool:
        """Whether one of its devices was watched at some time of its lead."""
        lead = np.array([failure.time_ns - self._lead_ns, failure.time_ns])
        return any(float(np.diff(self._watched[d].positions(lead))[0]) > 0.0 for d in failure.devices)

    def _point(
        self, budget: float | None, raised: Times, can: NDArray[np.bool_], *, in_service: bool = False
    ) -> Point:
        """``can`` bool[n]: of which failures it can be said."""
        judgement = judge(self._failures, raised, self._lead_ns)
        caught = np.flatnonzero(judgement.caught & can)
        leads = [self._failures[k].time_ns - int(judgement.first_ns[k]) for k in caught.tolist()]
        chance = by_chance(self._failures, raised, self._lead_ns, self._watched)
        return Point(
            budget,
            in_service,
            sum(times.size for times in raised.values()),
            judgement.n_false,
            caught.size,
            float(chance[can].sum()),
            round(float(np.median(leads))) if leads else None,
        )

    def _n_after(self, false: Times) -> int:
        """How many of the ``false`` alerts were raised no longer than a lead after a failure of their device."""
        n = 0
        for device, times in false.items():
            after = np.zeros(times.size, np.bool_)
            for k in self._of.get(device, ()):
                failed_ns = self._failures[k].time_ns
                after |= (times > failed_ns) & (times <= failed_ns + self._lead_ns)
            n += int(np.count_nonzero(after))
        return n


def _open_since(failure: Failure, history: History, lead_ns: int) -> int | None:
    """When the last alert was raised that was open when ``failure`` came, but raised before its lead."""
    found = [
        told.raised_ns
        for told in history.alerts
        if told.counts
        and told.device in failure.devices
        and told.raised_ns < failure.time_ns - lead_ns
        and (told.cleared_ns is None or told.cleared_ns > failure.time_ns)
    ]
    return max(found, default=None)


def _joined(a: Times, b: Times) -> Times:
    """The times of both."""
    none = np.zeros(0, np.int64)
    return {
        device: np.sort(np.concatenate([a.get(device, none), b.get(device, none)])) for device in {**a, **b}
    }
