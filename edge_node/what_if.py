"""The alerts of a device at another level, from the same scores: its machine and drift alerts once more, beside its own.

Scores do not depend on the level, so whoever wonders about ten levels need not score ten times. Invariant: at the level in
service these are the alerts of the device itself. Limits, sensors and silence have nothing to do with the level, and are not
repeated. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_node.announcing import Announcer
from edge_node.check_alerts import Said
from edge_node.chunk import Chunk
from edge_node.drift_alerts import DriftAlerts, DriftState
from edge_node.machine_alerts import MachineAlerts, MachineState
from edge_node.plans import DevicePlan


@dataclass(frozen=True, slots=True)
class Memory:
    """What the device's own alerts remember when this begins; each level goes on from it."""

    machine: MachineState
    drift: DriftState | None
    accepted: NDArray[np.float64] | None


class WhatIf:
    """See the module's docstring; driven by :class:`edge_node.settling.Settler` alone."""

    def __init__(self, site: str, gateway: str, plan: DevicePlan) -> None:
        """``plan``: the device's own, with other levels; it has a model."""
        assert plan.model is not None
        announcer = Announcer(site, gateway, plan)
        self._machine = MachineAlerts(plan, plan.model, announcer)
        spec = plan.model.manifest.recentring
        self._drift = None if spec is None else DriftAlerts(plan, plan.model, spec, announcer)
        self.raised_ns: list[int] = []  # ends of the windows with which machine and drift alerts were raised

    def settle(self, chunk: Chunk) -> None:
        """Scored windows, later than those before."""
        said: Said = []
        judged = self._machine.settle(chunk, said, self._drift)
        if self._drift is not None and judged is None:
            self._drift.settle(chunk, said)
        self.raised_ns += [alert.end_ns for _, _, alert in said if alert.state == "raised"]

    def accept(self, shift: NDArray[np.float64]) -> None:
        """An operator has moved the centre by ``shift`` float64[k]: what is open is over."""
        self._machine.end()
        if self._drift is not None:
            self._drift.end()
            self._drift.move(shift)

    def recall(self, memory: Memory) -> None:
        """Go on from ``memory``."""
        self._machine.restore(memory.machine)
        if self._drift is not None and memory.drift is not None:
            self._drift.restore(memory.drift)
            if memory.accepted is not None:
                self._drift.move(memory.accepted)
