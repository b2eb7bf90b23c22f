"""``edge-node run --dry-run``: what the uplink would send, printed in its place. Nothing is connected, and nothing is kept."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from typing import TextIO

from edge_node.config_schema import Uplink as UplinkConfig
from edge_node.departures import Departures
from edge_node.egress import outgoing
from edge_node.uplink import Uplink
from models.messages import Status
from models.topics import GatewayTopics


class DryRun(Uplink):
    """An uplink whose broker is ``out``: one line a message, topic, bytes and payload. Each goes through the same allow-list and
    the same queue, and counts as delivered."""

    def __init__(
        self,
        config: UplinkConfig,
        topics: GatewayTopics,
        offline: Status,
        *,
        departures: Departures,
        out: TextIO | None = None,
    ) -> None:
        super().__init__(config, topics, offline, departures=departures)
        self._out = out
        self.finished = Future()  # it cannot fail

    def start(self) -> None:
        """Says what waits."""
        self.wake()

    def wake(self) -> None:
        out = self._out or sys.stdout
        with self._moved:
            counters = self._departures.counters
            while len(self._queue):
                item = self._queue.take()
                payload = item.payload or b""
                what = payload.decode() or "(the retained message is taken back)"
                print(f"{item.topic}{' retained' if item.retain else ''} {item.n_bytes} B {what}", file=out)
                counters.n_bytes[item.kind] += item.n_bytes
                counters.n_delivered[item.kind] += 1
                self._departures.leave(item)
        out.flush()

    def stop(self, final: Status, timeout_s: float = 5.0) -> int:
        self._departures.put(outgoing(final, self._topics))
        self.wake()
        return 0
