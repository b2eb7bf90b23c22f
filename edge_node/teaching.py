"""From what a device has learned from to a bundle that may serve it, and, where nobody else does that, into service at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_node.inference import ArtifactMissing, EdgeTpuUnavailable, ScoringEngine
from edge_node.learned_shelf import learned_shelf, seen
from edge_node.model_store import Bundle, BundleRefused, examine
from edge_node.plans import DevicePlan, LearnPlan
from models.healthy_rows import HealthyRows
from models.runtime import GraphUnusable
from models.sample_size import FitError

if TYPE_CHECKING:
    from edge_node.assembly import Core

VERSION = 0  # any that is published is above it


@dataclass(frozen=True, slots=True)
class Teacher:
    """``served(device_id, bundle, engines)``: the plan of a device with a bundle, whose engine it adds. ``state``: the gateway's
    state directory, which is read alone."""

    served: Callable[[str, Bundle, dict[str, ScoringEngine]], DevicePlan]
    on_notice: Callable[[str], None]
    state: Path | None

    def teach(self, core: Core, device_id: str) -> None:
        """``device_id`` has learned enough: it scores by that from its next window on, or learns on."""
        plan = core.plan_of(device_id)
        assert plan.learn is not None
        try:
            self.serve(core, device_id, learned_bundle(core.pipeline.healthy(device_id), plan.learn))
        except (FitError, BundleRefused, ArtifactMissing, EdgeTpuUnavailable, GraphUnusable) as error:
            self.on_notice(f"{device_id} learns on: {error}")
            core.pipeline.learn_on(device_id)

    def serve(self, core: Core, device_id: str, bundle: Bundle) -> None:
        """``device_id`` scores by ``bundle``, which it has learned, from its next window on. Raises as
        :func:`edge_node.assembly.served_plan` does, and ValueError where it does not fit any more."""
        engines: dict[str, ScoringEngine] = {}
        plan = self.served(device_id, bundle, engines)
        core.adopt([plan], engines)
        core.bundles[device_id] = bundle

    def before(self, plan: DevicePlan) -> Bundle | None:
        """What the device of ``plan`` has learned on this gateway before, if anything; NotAdmitted where it is damaged."""
        assert plan.learn is not None
        return seen(learned_shelf(self.state, plan.learn))


def learned_bundle(healthy: HealthyRows, learn: LearnPlan) -> Bundle:
    """The bundle, checked as one from elsewhere is, but that nobody has signed it: it never left this gateway, and no runtime
    has seen it yet. FitError where what there is makes no model, BundleRefused where that does not hold together."""
    from models.linear_fit import fit_linear  # with what writes graphs, which not every gateway has

    manifest, model = fit_linear(healthy, learn.model_id, VERSION)
    name = f"what {healthy.device.device_id} has learned"
    return examine(manifest, {manifest.artifacts[0].sha256: model}, name, signed=False)
