"""From what a device has learned from to a bundle that may serve it."""

from __future__ import annotations

from edge_node.model_store import Bundle, examine
from edge_node.plans import LearnPlan
from models.healthy_rows import HealthyRows

VERSION = 0  # any that is published is above it


def learned_bundle(healthy: HealthyRows, learn: LearnPlan) -> Bundle:
    """The bundle, checked as one from elsewhere is, but that nobody has signed it: it never left this gateway, and no runtime
    has seen it yet. FitError where what there is makes no model, BundleRefused where that does not hold together."""
    from models.linear_fit import fit_linear  # with what writes graphs, which not every gateway has

    manifest, model = fit_linear(healthy, learn.model_id, VERSION)
    name = f"what {healthy.device.device_id} has learned"
    return examine(manifest, {manifest.artifacts[0].sha256: model}, name, signed=False)
