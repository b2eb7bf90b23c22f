"""From one core to the next when the configuration is taken up anew."""

from __future__ import annotations

from edge_node.assembly import Core
from edge_node.plans import DevicePlan


def carry_over(old: Core, new: Core, *, same_gateway: bool) -> int:
    """Gives ``new`` what ``old`` remembers of devices that mean the same to both, none if the gateway is another;
    returns of how many. What ``old`` still had to say, and the end of all that it leaves open, ``new`` says."""
    before = {plan.device.device_id: plan for plan in old.plans}
    kept = {
        plan.device.device_id
        for plan in new.plans
        if same_gateway and plan.device.device_id in before and _same(plan, before[plan.device.device_id])
    }
    new.pipeline.restore(old.pipeline.snapshot(), only=kept)
    return len(kept)


def gone(old: Core, new: Core, *, same_gateway: bool) -> list[str]:
    """The devices of ``old`` of whose state nothing will be said any more where ``old`` said it."""
    still = {plan.device.device_id for plan in new.plans} if same_gateway else set()
    return [plan.device.device_id for plan in old.plans if plan.device.device_id not in still]


def _same(a: DevicePlan, b: DevicePlan) -> bool:
    """Whether what one remembers means the same to the other."""
    models = [None if plan.model is None else plan.model.manifest for plan in (a, b)]
    return models[0] == models[1] and (
        a.device,
        a.window,
        a.time,
        a.alert,
        a.limits,
        a.gate,
        a.summary_s,
        _learned(a),
    ) == (
        b.device,
        b.window,
        b.time,
        b.alert,
        b.limits,
        b.gate,
        b.summary_s,
        _learned(b),
    )


def _learned(plan: DevicePlan) -> tuple[str, str] | None:
    """What a device learns, whatever takes its place."""
    return None if plan.learn is None else (plan.learn.feature_set, plan.learn.model_id)
