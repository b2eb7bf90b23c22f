"""A model on trial beside the one in service: the same windows, two scores; what may it do worse?

The candidate is refused when what is normal to the model in service is rare to it, when it alerts alone more than twice
as often as the budget allows, and when it does not see an alert that the model in service has, unless somebody has
labelled that one false. Of a device that still learns there is nothing to compare with: there the candidate answers for
its own scores and alerts alone. Invariant: the verdict is a function of the windows and alerts of the trial. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from edge_node.model_record import NotAdmitted
from edge_node.runs import Runs
from edge_node.settling import Trace
from models.messages import Alert
from models.refusals import RefusalReason

NS_PER_WEEK = 604_800 * 1_000_000_000
ALERTS_OVER_BUDGET = 2.0
RARE_P = 0.01
MAX_RARE = (
    0.2  # share of quiet windows that may be rare to the candidate: twenty times what calibration promises
)
_KINDS = ("machine", "drift")  # what a model has a say in


@dataclass(slots=True)
class _Seen:
    """An alert of one side: of what, whether it is open now, and whether the other side ever had one of its kind open
    with it."""

    device_id: str
    kind: str
    is_open: bool = True
    shared: bool = False


@dataclass(slots=True)
class _Side:
    n: int = 0
    n_quiet: int = 0
    n_rare: int = 0

    @property
    def rare(self) -> float:
        """Share of the quiet windows."""
        return self.n_rare / max(1, self.n_quiet)


class Trial:
    """One trial. ``budgets``: alerts a week by device; ``n_windows``: how many of each device it takes; ``alone``: devices
    that no model in service scores for."""

    def __init__(
        self, budgets: Mapping[str, float], n_windows: int, alone: Collection[str] = frozenset()
    ) -> None:
        self._budgets = dict(budgets)
        self._n_windows = n_windows
        self._seen: dict[str, int] = dict.fromkeys(budgets, 0)
        self._spans: dict[str, tuple[int, int]] = {}
        self._alone = frozenset(alone)
        self._n_alone = 0
        self._live, self._candidate = _Side(), _Side()
        self._live_alerts: dict[str, _Seen] = {}
        self._candidate_alerts: dict[str, _Seen] = {}

    @property
    def n(self) -> int:
        """Windows that the model in service has scored meanwhile, and the candidate where there is none."""
        return self._live.n + self._n_alone

    @property
    def has_alerts(self) -> bool:
        """Whether either side ever had one."""
        return bool(self._live_alerts or self._candidate_alerts)

    @property
    def complete(self) -> bool:
        """Whether every device has shown enough."""
        return all(n >= self._n_windows for n in self._seen.values())

    def hear(self, live: Iterable[Trace], candidate: Iterable[Trace]) -> None:
        """Windows that have been scored since the last call."""
        for trace in live:
            if trace.device_id not in self._alone:
                self._saw(trace)
                _count(self._live, trace)
        for trace in candidate:
            _count(self._candidate, trace)
            if trace.device_id in self._alone:
                self._saw(trace)
                self._n_alone += trace.p.size

    def see(self, device_id: str, live: Iterable[Alert], candidate: Iterable[Alert]) -> None:
        """What is open on a device now, on either side."""
        ours = {a.alert_id: a.kind for a in live if a.kind in _KINDS}
        theirs = {a.alert_id: a.kind for a in candidate if a.kind in _KINDS}
        _note(self._live_alerts, device_id, ours, theirs.values())
        _note(self._candidate_alerts, device_id, theirs, ours.values())

    def judge(self, runs: Iterable[Runs], max_latency_ms: float, labelled_false: Collection[str]) -> str:
        """What there is to say for the candidate, whose engines ran as ``runs`` say; raises NotAdmitted with what there is
        against it."""
        check_runs(runs, max_latency_ms, n_failures=1, n_times=1)
        live, candidate = self._live, self._candidate
        if self.n < self._n_windows:
            text = f"only {self.n} windows came during the trial, and {self._n_windows} are asked for"
            raise NotAdmitted(RefusalReason.TOO_FEW_WINDOWS, text)
        if candidate.n < self.n:
            text = f"{self.n - candidate.n} of {self.n} windows have no finite score"
            raise NotAdmitted(RefusalReason.OTHER_SCORES, text)
        rare = f"p <= {RARE_P:g} in {candidate.rare:.1%} of quiet windows"
        if live.n:
            rare += f", {live.rare:.1%} to the model in service"
        if candidate.rare > MAX_RARE + 2 * live.rare:
            raise NotAdmitted(RefusalReason.OTHER_SCORES, rare)
        self._check_lost(labelled_false)
        alone = [a for a in self._candidate_alerts.values() if a.kind == "machine" and not a.shared]
        expected = sum(
            self._budgets[name] * (end - start) / NS_PER_WEEK for name, (start, end) in self._spans.items()
        )
        if len(alone) > ALERTS_OVER_BUDGET * expected:
            raise NotAdmitted(
                RefusalReason.TOO_MANY_ALERTS,
                f"{len(alone)} alerts in {candidate.n} windows that the model in service does not have, and the budget allows "
                f"{expected:.2g} ({', '.join(dict.fromkeys(a.device_id for a in alone))})",
            )
        return f"{candidate.n} windows on trial: {rare}"

    def _saw(self, trace: Trace) -> None:
        self._seen[trace.device_id] += trace.p.size
        start, end = self._spans.get(trace.device_id, (int(trace.start_ns[0]), 0))
        self._spans[trace.device_id] = (start, max(end, int(trace.end_ns[-1])))

    def _check_lost(self, labelled_false: Collection[str]) -> None:
        open_now = {(a.device_id, a.kind) for a in self._candidate_alerts.values() if a.is_open}
        lost = [
            f"{alert.kind} alert {alert_id} of {alert.device_id}"
            for alert_id, alert in self._live_alerts.items()
            if alert_id not in labelled_false
            and not ((alert.device_id, alert.kind) in open_now if alert.is_open else alert.shared)
        ]
        if lost:
            raise NotAdmitted(
                RefusalReason.LOST_ALERTS,
                f"it does not see {', '.join(lost[:5])}, which nobody has labelled false",
            )


def check_runs(runs: Iterable[Runs], max_latency_ms: float, *, n_failures: int, n_times: int) -> None:
    """Raises NotAdmitted where one of the engines has failed so often, and in a tenth of its batches, or, of as many times
    at least, takes more than ``max_latency_ms`` a window in most."""
    for run in runs:
        if run.n_failed >= n_failures and 10 * run.n_failed >= run.n:
            text = f"inference failed in {run.n_failed} of {run.n} batches"
            raise NotAdmitted(RefusalReason.INFERENCE_FAILED, text)
        if len(run.ns_a_window) >= n_times:
            ms = statistics.median(run.ns_a_window) / 1e6
            if ms > max_latency_ms:
                text = f"it takes {ms:.3g} ms a window, and max_latency_ms = {max_latency_ms:g} allows less"
                raise NotAdmitted(RefusalReason.TOO_SLOW, text)


def _count(side: _Side, trace: Trace) -> None:
    quiet = ~trace.alerting
    side.n += trace.p.size
    side.n_quiet += int(quiet.sum())
    side.n_rare += int((trace.p[quiet] <= RARE_P).sum())


def _note(
    known: dict[str, _Seen], device_id: str, ours: Mapping[str, str], other_kinds: Collection[str]
) -> None:
    for alert_id, seen in known.items():
        if seen.device_id == device_id and alert_id not in ours:
            seen.is_open = False
    for alert_id, kind in ours.items():
        seen = known.setdefault(alert_id, _Seen(device_id, kind))
        seen.is_open = True
        seen.shared = seen.shared or kind in other_kinds
