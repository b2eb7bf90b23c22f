"""All that a replay is watched for, told of its rows, alerts and scores at once: tables, failures, a page. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from edge_node.alert_history import History
from edge_node.assembly import Core
from edge_node.failures import Outcome
from edge_node.replay_failures import FailureWatch, Findings
from edge_node.replay_report import Report
from edge_node.report.axes import Span
from edge_node.report.follow import Follow
from edge_node.report.page import Replayed
from edge_node.settling import Trace
from models.labels import Labels
from models.messages import Alert
from models.signal import SampleBlock


class Watchers:
    """Of one replay; ``failures`` and ``follow`` where they are asked for."""

    def __init__(
        self, core: Core, labels: Labels | None, failures: FailureWatch | None, follow: Follow | None
    ) -> None:
        self.report = Report(core, labels)
        self._core = core
        self._labels = labels
        self._history = History()
        self._failures = failures
        self._follow = follow

    def block(self, block: SampleBlock) -> None:
        """Rows on their way in."""
        self.report.block(block)
        if self._failures is not None:
            self._failures.block(block)
        if self._follow is not None:
            self._follow.block(block)

    def alert(self, alert: Alert) -> None:
        """An alert that came out."""
        self.report.alert(alert)
        if self._failures is not None or self._follow is not None:
            self._history.add(alert)

    def trace(self, trace: Trace) -> None:
        """Scores that came out."""
        self.report.trace(trace)
        if self._failures is not None:
            self._failures.trace(trace)
        if self._follow is not None:
            self._follow.trace(trace)

    def findings(self) -> Findings | None:
        """What there is to say of failures; None: nobody asked."""
        return None if self._failures is None else self._failures.findings(self._history)

    def replayed(self, name: str, logs: Sequence[str], findings: Findings | None) -> Replayed:
        """What the page is made of, once there were rows and the report's text was asked for; a page was."""
        follow, report = self._follow, self.report
        assert follow is not None
        rows, failures = Span(*report.extent), () if findings is None else findings.findings
        # A machine that fails says no more: what is shown goes on to the failure.
        told = (f.failure.time_ns for f in failures if f.outcome is not Outcome.NOT_RECORDED)
        alerts = self._history.alerts
        return Replayed(
            name=name,
            logs=tuple(logs),
            models=tuple(f"{m.model_id} version {m.version}, {m.backend}" for m in self._core.models),
            facts=report.facts(),
            rows=rows,
            span=Span(rows.first_ns, max([rows.last_ns, *told])),
            devices=tuple(
                follow.seen(device, alerts, failures, report.blame.of(device))
                for device in (plan.device.device_id for plan in self._core.plans)
                if report.rows_of[device] or len(self._core.plans) == 1
            ),
            labels=self._labels,
            findings=findings,
            quality=report.quality(),
        )
