"""What a gateway remembers over a restart beside its devices: counters, open alerts of its own, sessions of its sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from edge_node.departures import UplinkCounters
from edge_node.gateway_alerts import GatewayAlertsState
from edge_node.sources import SessionState, SourceCounters
from models import codec
from models.messages import DeviceStateMessage
from models.signal import DropReason

T = TypeVar("T")


class SourceCounts(msgspec.Struct, kw_only=True):
    """:class:`~edge_node.sources.SourceCounters`, as they are kept."""

    n_messages: int
    n_bytes: int
    n_blocks: int
    n_samples: int
    message_drops: dict[DropReason, int]
    sample_drops: dict[DropReason, int]
    n_unsent: int

    @classmethod
    def of(cls, counters: SourceCounters) -> SourceCounts:
        return cls(**{name: getattr(counters, name) for name in cls.__struct_fields__})

    def counters(self) -> SourceCounters:
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in ("message_drops", "sample_drops"):
            fields[name] = Counter(fields[name])
        return SourceCounters(**fields)


class UplinkCounts(msgspec.Struct, kw_only=True):
    """:class:`~edge_node.departures.UplinkCounters`, as they are kept."""

    n_published: dict[str, int]
    n_republished: dict[str, int]
    n_superseded: dict[str, int]
    n_delivered: dict[str, int]
    n_bytes: dict[str, int]
    drops: list[tuple[str, DropReason, int]]

    @classmethod
    def of(cls, counters: UplinkCounters) -> UplinkCounts:
        plain = {name: dict(getattr(counters, name)) for name in cls.__struct_fields__[:-1]}
        return cls(**plain, drops=[(kind, reason, n) for (kind, reason), n in counters.drops.items()])

    def counters(self) -> UplinkCounters:
        plain = {name: Counter(getattr(self, name)) for name in self.__struct_fields__[:-1]}
        drops = Counter({(kind, reason): n for kind, reason, n in self.drops})
        return UplinkCounters(**plain, drops=drops)


class Downtime(msgspec.Struct, kw_only=True):
    """Times in which nobody could receive what was not kept for the gateway: gaps by device, seconds in all, and values that
    waited in the queue when the process died."""

    n_gaps: dict[str, int] = {}
    total_s: float = 0.0
    n_samples: int = 0


class GatewayState(msgspec.Struct, kw_only=True):
    """Written with every checkpoint. ``ran_s``: for how long the gateway has run, over all its processes; ``written_ns``: the
    wall clock; ``n_queued``: values that waited for the pipeline; ``lossy``: devices of which something came that nobody
    would bring again; ``ended``: the process ended in good order, all that it had taken is settled."""

    ran_s: float
    written_ns: int
    ended: bool
    n_queued: int
    lossy: list[str]
    downtime: Downtime
    sources: dict[str, SourceCounts]
    sessions: dict[str, SessionState]
    inference_failures: dict[str, int]  # by kind
    latencies: dict[str, tuple[int, float]]
    site: str
    gateway: str
    alerts: GatewayAlertsState
    device_states: dict[str, DeviceStateMessage]


def packed(value: GatewayState | UplinkCounts) -> bytes:
    return codec.pack_state(value)


def unpacked(data: bytes, kind: type[T]) -> T:
    """Raises msgspec.DecodeError where ``data`` is no ``kind``."""
    return codec.unpack_state(data, kind)


def source_counts(counters: Mapping[str, SourceCounters]) -> dict[str, SourceCounts]:
    return {name: SourceCounts.of(each) for name, each in counters.items()}
