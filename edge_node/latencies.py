"""What the run adds to an alert on its way out: when it was said, how long that took, and what scored it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edge_node.announcing import PipelineEvent
from models.messages import Alert, Delivery, rfc3339


class Latencies:
    """From the arrival of the last samples that an alert needed to its emission, by kind of alert."""

    def __init__(self) -> None:
        self._n: dict[str, int] = {}
        self._total_s: dict[str, float] = {}

    def stamped(self, alert: Alert, event: PipelineEvent, now_ns: int) -> Alert:
        """``alert`` of ``event`` as it goes out at ``now_ns``; counted where anything arrived for it."""
        latency_ms: float | None = None
        if event.arrival_ns is not None:
            latency_ms = round(max((now_ns - event.arrival_ns) / 1e6, 0.0), 3)
            self._n[alert.kind] = self._n.get(alert.kind, 0) + 1
            self._total_s[alert.kind] = self._total_s.get(alert.kind, 0.0) + latency_ms / 1e3
        delivery = Delivery(
            emitted_ns=now_ns,
            emitted_at=rfc3339(now_ns),
            latency_ms=latency_ms,
            backend=event.backend or "",
            scoring_ms=None if event.scoring_ns is None else round(event.scoring_ns / 1e6, 3),
        )
        return msgspec.structs.replace(alert, delivery=delivery)

    def restore(self, totals: Mapping[str, tuple[int, float]]) -> None:
        """Goes on from what :meth:`totals` gave."""
        self._n = {kind: n for kind, (n, _) in totals.items()}
        self._total_s = {kind: total_s for kind, (_, total_s) in totals.items()}

    def totals(self) -> dict[str, tuple[int, float]]:
        """Count and sum in seconds, by kind."""
        return {kind: (n, self._total_s[kind]) for kind, n in self._n.items()}
