"""A model that has just taken over is watched: does it score, fast enough, and does it alert no more than it may? Pure."""

from __future__ import annotations

from collections.abc import Iterable

from edge_node.model_record import NotAdmitted
from edge_node.model_trial import NS_PER_WEEK, check_runs
from edge_node.runs import Runs
from models.messages import Alert
from models.refusals import RefusalReason

MIN_ALERTS = 3  # fewer are no rate
FAR_OVER = 10.0  # times the budget
MIN_FAILURES = 3  # one may be the machine's fault
MIN_TIMES = 32


class Watch:
    """One version in service since ``since_ns``. ``budget``: alerts a week of all its devices; ``known``: alerts that are
    not its own (None: those of the first step)."""

    def __init__(
        self, budget: float, since_ns: int, max_latency_ms: float, known: Iterable[Alert] | None
    ) -> None:
        self._budget = budget
        self._since_ns = since_ns
        self._max_latency_ms = max_latency_ms
        self._known = None if known is None else {alert.alert_id for alert in known}
        self._own: set[str] = set()

    def step(self, runs: Iterable[Runs], alerts: Iterable[Alert], now_ns: int) -> None:
        """How its engines have run since it took over, and the alerts that are open. Raises NotAdmitted when it
        misbehaves."""
        check_runs(runs, self._max_latency_ms, n_failures=MIN_FAILURES, n_times=MIN_TIMES)
        found = {alert.alert_id for alert in alerts if alert.kind == "machine"}
        if self._known is None:
            self._known = found
        self._own |= found - self._known
        expected = self._budget * max(0, now_ns - self._since_ns) / NS_PER_WEEK
        if len(self._own) >= MIN_ALERTS and len(self._own) > FAR_OVER * expected:
            text = f"{len(self._own)} alerts since it took over, and the budget allows {expected:.2g}"
            raise NotAdmitted(RefusalReason.TOO_MANY_ALERTS, text)
