"""Alerts that need no model: sensor faults and absolute limits. Pure."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.announcing import Announcer
from edge_node.chunk import Chunk
from edge_node.plans import DevicePlan
from models import alerting
from models.alerting import Episodes, EpisodesState
from models.limits import LimitSpec
from models.messages import Alert, Contribution
from models.sensor_checks import fault_of
from models.signal import Channel

Said = list[tuple[int, str, Alert]]  # (window of the chunk, episode, alert)


class CheckAlerts:
    """The episodes of every channel's faults and every limit of one device.

    Both are what they are at once: the checks themselves know durations and hysteresis. Sensor faults of a
    machine at rest are frozen (a still machine's sensors may well be flat); limits always hold. What a limit says
    begins when its channel went beyond, before the limit's own duration and whatever the windows.
    """

    def __init__(self, plan: DevicePlan, announcer: Announcer) -> None:
        self._plan = plan
        self._announcer = announcer
        self._channels = {c.name: c for c in plan.device.channels}
        self._limit_policy = msgspec.structs.replace(
            plan.alert, n_raise=1, m_raise=1, n_clear=1, min_duration_s=0.0, cooldown_s=0.0
        )
        # A fault that comes and goes with every other window is one fault.
        self._fault_policy = msgspec.structs.replace(self._limit_policy, n_clear=plan.alert.n_clear)
        self._episodes: dict[str, Episodes] = {}  # those that ever began

    def settle(self, chunk: Chunk, said: Said) -> None:
        """Step all episodes through ``chunk``; what there is to say goes to ``said``."""
        if chunk.faults is not None or self._unquiet("sensor:"):
            for c, channel in enumerate(self._plan.device.channels):
                self._settle_sensor(chunk, c, channel, said)
        if chunk.violated is not None and (chunk.violated.any() or self._unquiet("limit:")):
            for j, limit in enumerate(self._plan.limits):
                self._settle_limit(chunk, j, limit, said)

    def state(self) -> dict[str, EpisodesState]:
        return {key: episodes.state() for key, episodes in self._episodes.items()}

    def restore(self, state: dict[str, EpisodesState]) -> None:
        for key, episodes in state.items():
            self._machine(key).restore(episodes)

    def _unquiet(self, prefix: str) -> bool:
        return bool(self._episodes) and any(
            key.startswith(prefix) and not episodes.quiet for key, episodes in self._episodes.items()
        )

    def _machine(self, key: str) -> Episodes:
        if key not in self._episodes:
            policy = self._fault_policy if key.startswith("sensor:") else self._limit_policy
            self._episodes[key] = Episodes(policy, self._plan.window.hop_ns)
        return self._episodes[key]

    def _settle_sensor(self, chunk: Chunk, c: int, channel: Channel, said: Said) -> None:
        key = f"sensor:{channel.name}"
        codes: NDArray[np.uint8] | None = None if chunk.faults is None else chunk.faults[:, c]
        known = self._episodes.get(key)
        if (codes is None or not codes.any()) and (known is None or known.quiet):
            return
        episodes = self._machine(key)
        seen = range(chunk.n_windows) if chunk.active is None else np.flatnonzero(chunk.active).tolist()
        for row in seen:
            fault = None if codes is None else fault_of(int(codes[row]))
            start, end = int(chunk.start_ns[row]), int(chunk.end_ns[row])
            name = "" if fault is None else fault.value
            change = episodes.step(start, end, fault is not None, fault is None, "warning", name)
            if change is None:
                continue
            contributions: tuple[Contribution, ...] = ()
            since, value = change.start_ns, math.nan
            if fault is not None:
                assert chunk.fault_since_ns is not None
                assert chunk.reading is not None
                since = min(int(chunk.fault_since_ns[row, c]), since)
                value = float(chunk.reading[row, c])
                contributions = (_seen(channel, name, value, *(channel.valid_range or (None, None))),)
            text = alerting.sensor_sentence(
                self._plan.device.machine, channel, change.detail, value, since, end, change.state
            )
            alert = self._announcer.alert(
                "sensor", key, change, text, chunk.clock, contributions=contributions
            )
            said.append((row, key, alert))

    def _settle_limit(self, chunk: Chunk, j: int, limit: LimitSpec, said: Said) -> None:
        assert chunk.violated is not None
        assert chunk.extreme is not None
        assert chunk.violated_since_ns is not None
        key = f"limit:{limit.name}"
        violated = chunk.violated[:, j]
        known = self._episodes.get(key)
        if not violated.any() and (known is None or known.quiet):
            return
        episodes = self._machine(key)
        channel = self._channels[limit.channel]
        for row in range(chunk.n_windows):
            since, end = int(chunk.violated_since_ns[row, j]), int(chunk.end_ns[row])
            above = bool(violated[row])
            change = episodes.step(since, end, above, not above, limit.severity, "")
            if change is None:
                continue
            value = float(chunk.extreme[row, j])
            contributions: tuple[Contribution, ...] = ()
            if math.isfinite(value):
                contributions = (_seen(channel, limit.name, value, limit.below, limit.above),)
            text = alerting.limit_sentence(
                self._plan.device.machine, channel, limit, value, change.start_ns, end, change.state
            )
            alert = self._announcer.alert(
                "limit", key, change, text, chunk.clock, contributions=contributions
            )
            said.append((row, key, alert))


def _seen(
    channel: Channel, feature: str, value: float, low: float | None, high: float | None
) -> Contribution:
    return Contribution(
        channel=channel.name,
        feature=feature,
        share=1.0,
        observed=value,
        expected_low=low,
        expected_high=high,
        unit=channel.unit,
    )
