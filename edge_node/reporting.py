"""What there is to say of a running gateway: its status, its metrics, what its page looks at, what is wrong with it."""

from __future__ import annotations

import importlib.metadata
import uuid
from collections.abc import Callable, Mapping

from edge_node import figures
from edge_node.gateway_alerts import Trouble
from edge_node.parts import Parts
from edge_node.troubles import UNHEARD, troubles
from edge_node.web.page import Sight
from models.messages import GatewayState, Status, rfc3339
from models.metrics import Family


class Reporting:
    """Of one run of the daemon. On its loop."""

    def __init__(self, parts: Parts, now_ns: Callable[[], int]) -> None:
        self._parts = parts
        self._now_ns = now_ns
        self._boot_id = uuid.uuid4().hex[:12]
        self._version = importlib.metadata.version("linewatch")
        self._started_at = rfc3339(now_ns())

    def status(self, state: GatewayState) -> Status:
        parts, models = self._parts, self._parts.core.models
        gateway = parts.config.gateway
        return Status(
            site=gateway.site,
            gateway=gateway.name,
            state=state,
            version=self._version,
            boot_id=self._boot_id,
            config_hash=parts.config.config_hash,
            updated_at=rfc3339(self._now_ns()),
            started_at=self._started_at,
            models=models,
            backend=", ".join(dict.fromkeys(m.backend for m in models)),
            counters={} if state == "offline" else figures.flat(self.families()),
            connections={} if state == "offline" else figures.connections(parts.sources.reach()),
            recording_error=parts.recording_error,
            black_box_error=parts.black_box_error,
            conflicts=self._conflicts(),
        )

    def noteworthy(self) -> object:
        """What a status says that must not wait for the next one that is due: compare it with what was."""
        parts = self._parts
        return (
            parts.core.models,
            self._conflicts(),
            figures.connections(parts.sources.reach()),
            parts.recording_error,
            parts.black_box_error,
        )

    def families(self) -> list[Family]:
        """Every metric of the gateway but the process's own."""
        parts = self._parts
        return [
            *figures.families(parts),
            *parts.supervision.families(),
            *parts.models.families(),
            *parts.backtests.families(),
            *parts.front.families(),
        ]

    def sight(self) -> Sight:
        parts = self._parts
        return Sight(
            parts.core,
            parts.config.sources,
            parts.states,
            parts.alerts.open,
            parts.desk.requests,
            parts.uplink,
            parts.continuity.problem,
            parts.latencies.totals(),
            lambda: self.status("online"),
            parts.models.states,
        )

    def troubles(self, outages: Mapping[str, str], blind: Mapping[str, str]) -> list[Trouble]:
        """As :func:`edge_node.troubles.troubles`, and what there is of models."""
        return troubles(self._parts, outages, blind) + self._parts.models.troubles()

    def _conflicts(self) -> tuple[str, ...]:
        """The clones that are there, for as long as the alert of one lasts."""
        uplink = self._parts.uplink
        if uplink is None:
            return ()
        uplink.forget_conflicts(UNHEARD * max(self._parts.config.gateway.status_s, uplink.reconnect_max_s))
        return uplink.conflicts
