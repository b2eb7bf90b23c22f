"""A model such as a device will learn, before it has: what it will send, keep and take is planned by that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_node.assembly import Core, served_plan
from edge_node.config import Config
from edge_node.inference import ScoringEngine
from edge_node.learner import wanted_windows
from edge_node.model_store import Bundle
from edge_node.plans import DevicePlan, LearnPlan
from edge_node.teaching import learned_bundle
from models.features import describe
from models.healthy_rows import HealthyRows
from models.sensor_checks import ChannelBaseline
from models.time_policy import TimeTreatment


def as_learned(config: Config, core: Core) -> tuple[Core, list[Bundle]]:
    """``core`` for a look at its plans and engines, as if all devices had learned their models, and these. What it was is as it
    was."""
    engines: dict[str, ScoringEngine] = dict(core.engines)
    bundles: list[Bundle] = []
    plans: list[DevicePlan] = []
    for plan in core.plans:
        if plan.learn is not None and plan.model is None:
            bundles.append(bundle := _bundle(plan, plan.learn))
            device = config.device(plan.device.device_id)
            plan = served_plan(config, device, bundle, engines, lambda _: None, None)
        plans.append(plan)
    return replace(core, engines=engines, plans=tuple(plans)), bundles


def _bundle(plan: DevicePlan, learn: LearnPlan) -> Bundle:
    """Of noise: how large it is does not depend on what it was fitted on."""
    window, channels, rng = plan.window, plan.device.channels, np.random.default_rng(0)
    spec = learn.spec((1.0,) * len(channels))
    n = wanted_windows(window.n, window.hop)
    start_ns = np.arange(n, dtype=np.int64) * window.hop_ns
    k = len(describe(spec, channels, window.rate_hz, window.n))
    return learned_bundle(
        HealthyRows(
            device=plan.device,
            window=window,
            time=TimeTreatment.of(plan.time),
            spec=spec,
            baselines=(ChannelBaseline(longest_run_s=0.0, minimum=-1.0, maximum=1.0),) * len(channels),
            examples=rng.normal(size=(2, window.n, len(channels))).astype(np.float32),
            start_ns=start_ns,
            end_ns=start_ns + window.window_ns,
            rows=rng.normal(size=(n, k)).astype(np.float32),
        ),
        learn,
    )
