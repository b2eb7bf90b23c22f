"""What a page draws of every device, collected as a replay goes: outlines of signals and scores. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_node.alert_history import Told
from edge_node.assembly import Core
from edge_node.plans import DevicePlan
from edge_node.replay_failures import Finding
from edge_node.report.envelope import Envelope, Outline
from edge_node.settling import Trace
from models.calibration import AlertLevel
from models.signal import SampleBlock


@dataclass(frozen=True, slots=True)
class ChannelSeen:
    """One signal, in its unit; ``outline`` has its origin added again."""

    name: str
    unit: str
    outline: Outline


@dataclass(frozen=True, slots=True)
class DeviceSeen:
    """All that there is to draw of one device. ``blame``: by channel, the most to blame first, how many alerts named it
    and its mean share of the machine alerts (None: there was none)."""

    device: str
    machine: str
    n_rows: int
    n_windows: int
    channels: tuple[ChannelSeen, ...]
    score: Outline
    level: AlertLevel | None
    alerts: tuple[Told, ...]
    failures: tuple[tuple[int, Finding], ...]  # by their number among all
    blame: tuple[tuple[str, int, float | None], ...]


class Follow:
    """Outlines of one replay; memory does not grow with the log."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._plans = {plan.device.device_id: plan for plan in core.plans}
        self._signals = {name: Envelope(len(plan.device.channels)) for name, plan in self._plans.items()}
        self._scores = {name: Envelope(1) for name in self._plans}
        self._n_rows = dict.fromkeys(self._plans, 0)
        self._n_windows = dict.fromkeys(self._plans, 0)

    def block(self, block: SampleBlock) -> None:
        """Rows on their way in."""
        plan = self._plans.get(block.device_id)
        if plan is None or not block.n:
            return
        times, names = block.times(), plan.device.channel_names
        self._n_rows[block.device_id] += block.n
        values = block.values
        if block.channels != names:
            values = np.full((block.n, len(names)), np.nan, np.float32)
            for i, name in enumerate(names):
                if name in block.channels:
                    values[:, i] = block.values[:, block.channels.index(name)]
        self._signals[block.device_id].add(times, values)

    def trace(self, trace: Trace) -> None:
        """Scores that came out."""
        self._n_windows[trace.device_id] += trace.score.size
        self._scores[trace.device_id].add(trace.end_ns, trace.score[:, None])

    def seen(
        self,
        device: str,
        alerts: Sequence[Told],
        failures: Sequence[Finding],
        blame: Sequence[tuple[str, int, float | None]],
    ) -> DeviceSeen:
        """All of one device, with what others know of it."""
        plan = self._core.plan_of(device)  # with what it has learned
        return DeviceSeen(
            device,
            plan.device.machine,
            self._n_rows[device],
            self._n_windows[device],
            self._channels(plan),
            self._scores[device].outline(0),
            plan.levels[self._core.engines[plan.engine].target] if plan.model is not None else None,
            tuple(told for told in alerts if told.device == device),
            tuple((k, found) for k, found in enumerate(failures) if device in found.failure.devices),
            tuple(blame),
        )

    def _channels(self, plan: DevicePlan) -> tuple[ChannelSeen, ...]:
        envelope = self._signals[plan.device.device_id]
        found = []
        for i, channel in enumerate(plan.device.channels):
            outline = envelope.outline(i)
            moved = Outline(
                outline.time_ns, outline.low + channel.origin, outline.high + channel.origin, outline.fresh
            )
            found.append(ChannelSeen(channel.name, channel.unit, moved))
        return tuple(found)
