"""The parts of a running gateway in one place, for whoever looks at many of them: metrics, status, page, checkpoints, alerts.

Invariant: they are the daemon's own, which replaces some when it takes up a new configuration: look here, keep nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.messages import DeviceStateMessage

if TYPE_CHECKING:
    from edge_node.adoption import Adoption
    from edge_node.assembly import Core
    from edge_node.backtests import Backtests
    from edge_node.black_box import BlackBox
    from edge_node.block_queue import BlockQueue
    from edge_node.cloud_scoring import CloudScoring
    from edge_node.config import Config
    from edge_node.continuity import Continuity
    from edge_node.feature_log import FeatureLog
    from edge_node.gateway_alerts import GatewayAlerts
    from edge_node.latencies import Latencies
    from edge_node.recording import Recording
    from edge_node.request_desk import RequestDesk
    from edge_node.running_sources import RunningSources
    from edge_node.supervision import Supervision
    from edge_node.uplink import Uplink
    from edge_node.web.front import Front


@dataclass(slots=True)
class Parts:
    """See the module's docstring. ``states``: the last that was said of each device."""

    config: Config
    core: Core
    alerts: GatewayAlerts
    latencies: Latencies
    desk: RequestDesk
    supervision: Supervision
    recording: Recording | None
    cloud: CloudScoring
    front: Front = field(init=False)
    queue: BlockQueue = field(init=False)  # from here on: there is one once the gateway runs
    sources: RunningSources = field(init=False)
    continuity: Continuity = field(init=False)
    models: Adoption = field(init=False)
    backtests: Backtests = field(init=False)
    black_box: BlackBox | None = None
    feature_log: FeatureLog | None = None
    uplink: Uplink | None = None
    states: dict[str, DeviceStateMessage] = field(default_factory=dict)

    @property
    def recording_error(self) -> str | None:
        return None if self.recording is None else self.recording.error

    @property
    def black_box_error(self) -> str | None:
        return None if self.black_box is None else self.black_box.error
