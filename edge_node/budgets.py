"""A range of alert budgets, and the alerts that a replay would have raised at each: of one pass over the scores. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_node.assembly import Core
from edge_node.failures import Times
from edge_node.plans import DevicePlan
from edge_node.what_if import WhatIf
from models.calibration import AlertLevel, levels_for_budgets

# Alerts a week and device, in the steps that one would try.
LADDER = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


@dataclass(frozen=True, slots=True)
class Budget:
    """``alerts_per_week`` for every device with a model, and what each raises at it."""

    alerts_per_week: float
    what_ifs: dict[str, WhatIf]  # by device

    def raised(self) -> Times:
        """Times of the machine and drift alerts so far, by device, int64[m] ascending."""
        return {
            device: np.sort(np.array(what_if.raised_ns, np.int64))
            for device, what_if in self.what_ifs.items()
        }


def ask(core: Core) -> list[Budget]:
    """The budgets of :data:`LADDER`, up to the first at which no device's level gets any more lenient; the alerts of
    ``core`` at each of them are kept from now on."""
    levels = {plan.device.device_id: _levels(core, plan) for plan in core.plans if plan.model is not None}
    n = 0
    for found in levels.values():
        p = [level.p_raise for level in found]
        n = max(n, p.index(p[-1]) + 1)
    budgets = [Budget(budget, {}) for budget in LADDER[:n]]
    for device_id, found in levels.items():
        _keep(core, budgets, core.plan_of(device_id), found)
    return budgets


def join(core: Core, budgets: list[Budget], device_id: str) -> None:
    """The device has a model from here on: its alerts at each of ``budgets`` are kept too; where there are none yet, at those
    that :func:`ask` would give."""
    plan = core.plan_of(device_id)
    if not budgets:
        budgets += ask(core)
    elif plan.model is not None:
        _keep(core, budgets, plan, _levels(core, plan))


def _keep(core: Core, budgets: Sequence[Budget], plan: DevicePlan, levels: Sequence[AlertLevel]) -> None:
    """The alerts of ``plan`` at each of ``budgets``, the first of the ladder, of which these are the ``levels``."""
    target = core.engines[plan.engine].target
    for budget, level in zip(budgets, levels, strict=False):
        other = dataclasses.replace(plan, levels={**plan.levels, target: level})
        budget.what_ifs[plan.device.device_id] = core.pipeline.what_if(other)


def common_budget(core: Core) -> float | None:
    """The budget that all devices with a model have; None where they differ, or one has a level of its own."""
    found = {
        plan.levels[core.engines[plan.engine].target].alerts_per_week for plan in core.plans if plan.model
    }
    return found.pop() if len(found) == 1 else None


def _levels(core: Core, plan: DevicePlan) -> list[AlertLevel]:
    """The level of ``plan`` at each budget of the ladder."""
    assert plan.model is not None
    calibration = plan.model.calibration[core.engines[plan.engine].target]
    return levels_for_budgets(calibration, plan.alert, plan.window.hop_ns, LADDER)
