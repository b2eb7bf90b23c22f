"""What the pipeline is told about each device: everything resolved, nothing read from a file. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.alerting import AlertPolicy
from models.calibration import AlertLevel, Calibration
from models.features import VERSIONS, FeatureInfo, FeatureSet, FeatureSpec, describe
from models.gating import GateSpec
from models.limits import LimitSpec
from models.manifest import ModelManifest
from models.running_range import RunningRange
from models.signal import ArtifactTarget, Device, ScoredOn, WindowSpec
from models.windowing import TimePolicy

# How much a pipeline holds, unless its configuration says otherwise.
MAX_WAITING = 8192  # windows of one device
MAX_BATCHES_OUT = 16


class NotDrained(Exception):
    """Windows are out for scoring, or ready for it: a model is changed between two windows."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A manifest's numbers as arrays: what is needed to turn features into inputs and outputs into p-values."""

    manifest: ModelManifest
    infos: tuple[FeatureInfo, ...]
    recentred: NDArray[np.bool_]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    start_centre: NDArray[np.float64]
    residual_scale: Mapping[ArtifactTarget, NDArray[np.float64]]
    calibration: Mapping[ArtifactTarget, Calibration]

    @classmethod
    def build(cls, manifest: ModelManifest, device: Device) -> ServedModel:
        """The model as served to ``device``, whose channels (in the manifest's order) name units and wear."""
        channels = {c.name: c for c in device.channels}
        ordered = tuple(channels[name] for name in manifest.channel_names)
        infos = describe(manifest.features, ordered, manifest.window.rate_hz, manifest.window.n)
        normalisation = manifest.normalisation
        return cls(
            manifest=manifest,
            infos=infos,
            recentred=np.array([i.recentred for i in infos], dtype=np.bool_),
            centre=np.array(normalisation.centre),
            scale=np.array(normalisation.scale),
            start_centre=np.array(normalisation.start_centre),
            residual_scale={a.target: np.array(a.residual_scale) for a in manifest.artifacts},
            calibration={a.target: a.calibration for a in manifest.artifacts},
        )

    def running_range(self) -> RunningRange | None:
        """The running range of its features, as commissioned; None: its features are not judged by it."""
        if not any(info.ranged for info in self.infos):
            return None
        widens, daily = (np.array([getattr(i, name) for i in self.infos]) for name in ("widens", "daily"))
        return RunningRange(self.centre, self.scale, widens, daily)

    @property
    def model_id(self) -> str:
        return self.manifest.model_id

    @property
    def version(self) -> int:
        return self.manifest.version


@dataclass(frozen=True, slots=True)
class LearnPlan:
    """How a device without a model learns one by itself, and what that is called. ``fleet``: the model of which any version that
    is published takes the place of that. ``between_ns``: from burst to burst; None: windows come every hop."""

    feature_set: FeatureSet
    model_id: str
    fleet: str
    between_ns: int | None = None

    def step_ns(self, window: WindowSpec) -> int:
        """From one of the windows to the next."""
        return window.hop_ns if self.between_ns is None else max(self.between_ns, window.hop_ns)

    def spec(self, floors: tuple[float, ...]) -> FeatureSpec:
        """The features, once it is known how fine each channel is resolved."""
        return FeatureSpec(set=self.feature_set, version=VERSIONS[self.feature_set][-1], floors=floors)

    def takes(self, manifest: ModelManifest) -> bool:
        """Whether the model of ``manifest`` may serve: one that was learned here, or a fleet's, of these features. How fine each
        channel is resolved is then the fleet's."""
        alike = msgspec.structs.replace(manifest.features, floors=()) == self.spec(())
        return alike and manifest.model_id in (self.model_id, self.fleet)


@dataclass(frozen=True, slots=True, eq=False)
class DevicePlan:
    """One device: its signal, its windows, its model (None: limits and sensor checks only) and how it alerts."""

    device: Device
    window: WindowSpec
    time: TimePolicy
    alert: AlertPolicy = field(default_factory=AlertPolicy)
    model: ServedModel | None = None
    learn: LearnPlan | None = None  # of a device that is configured to learn one, whatever serves
    engine: str = ""  # what scores for it: devices with one engine share batches
    levels: Mapping[ArtifactTarget, AlertLevel] = field(default_factory=dict)
    limits: tuple[LimitSpec, ...] = ()
    gate: GateSpec | None = None
    privacy: Literal["statistics", "features"] = "features"
    summary_s: float = 300.0
    n_reservoir: int = 16
    may_leave: bool = False  # its features may be scored by a sink

    def level(self, backend: ScoredOn) -> AlertLevel:
        """Where scores by ``backend`` begin to count. Those of a sink's model are judged by their p-value alone, which must be
        as rare as those of the gateway's own float32 artifact (where there is none: of the first that there is)."""
        if backend != "cloud":
            return self.levels[backend]
        return self.levels.get("cpu-float32") or next(iter(self.levels.values()))

    def fits(self, other: DevicePlan) -> bool:
        """Whether a device may go on under ``other`` between two windows: it differs by a model of the same features
        alone, or, where it learns, by what was learned, by its fleet's model or by having to learn anew, and by what follows
        from that."""
        if self._rest != other._rest:
            return False
        ours, theirs = self.model, other.model
        if ours is not None and theirs is not None and ours.model_id == theirs.model_id:
            return ours.manifest.schema_id == theirs.manifest.schema_id
        if self.learn is None or self.learn != other.learn:
            return False
        return theirs is None or self.learn.takes(theirs.manifest)

    @property
    def track(self) -> str | None:
        """The model of which a version that is published takes the place of what scores; None: none does."""
        if self.learn is not None:
            return self.learn.fleet
        return None if self.model is None else self.model.model_id

    @property
    def _rest(self) -> tuple[object, ...]:
        """All but the model and what follows from it."""
        return (
            self.device,
            self.window,
            self.time,
            self.alert,
            self.limits,
            self.gate,
            self.privacy,
            self.summary_s,
            self.n_reservoir,
            self.may_leave,
        )
