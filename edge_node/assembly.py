"""From a configuration to the core that runs it: bundles loaded and checked, plans resolved, one engine a model.

The daemon and replay build their core here and nowhere else, so both run the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_node.config import Config
from edge_node.config_devices import DeviceConfig
from edge_node.inference import ArtifactMissing, EdgeTpuUnavailable, Engine
from edge_node.model_store import Bundle, BundleRefused, check_device, check_golden, load_bundle
from edge_node.pipeline import Pipeline
from edge_node.plans import DevicePlan, ServedModel
from models.calibration import AlertLevel, level_for_budget, level_for_p
from models.manifest import ModelManifest
from models.messages import ModelStatus
from models.runtime import GraphUnusable
from models.signal import ArtifactTarget, DropReason


@dataclass(slots=True)
class Core:
    """A pipeline and the engines that score for it."""

    pipeline: Pipeline
    engines: dict[str, Engine]
    plans: tuple[DevicePlan, ...]
    n_inference_failures: int = 0
    last_failure: str | None = None

    def score(self) -> int:
        """Score all that is ready; returns the number of windows. A batch whose invoke fails is dropped and counted."""
        n = 0
        while batches := self.pipeline.take_batches():
            for batch in batches:
                try:
                    result = self.engines[batch.engine].run(batch.inputs)
                except (GraphUnusable, EdgeTpuUnavailable) as error:
                    self.n_inference_failures += 1
                    self.last_failure = str(error)
                    self.pipeline.failed(batch.batch_id, DropReason.INFERENCE_FAILED)
                    continue
                n += batch.n
                self.pipeline.scored(
                    batch.batch_id, result.output, result.target, result.latency_ns, result.n_saturated
                )
        return n

    @property
    def models(self) -> tuple[ModelStatus, ...]:
        """The models that are loaded, and on what each runs now."""
        found: dict[str, ModelStatus] = {}
        for plan in self.plans:
            if plan.model is not None:
                backend = self.engines[plan.engine].backend
                found[plan.engine] = ModelStatus(
                    model_id=plan.model.model_id, version=plan.model.version, backend=backend
                )
        return tuple(found.values())


def assemble(config: Config, *, on_notice: Callable[[str], None]) -> Core:
    """The core for ``config``. ConfigError names the line of a device whose model cannot serve it; ``on_notice`` is told of
    every fallback."""
    bundles: dict[Path, Bundle] = {}
    engines: dict[str, Engine] = {}
    plans: list[DevicePlan] = []
    for device in config.devices:
        bundle = _bundle(config, device, bundles)
        settled = config.settle(device, bundle.manifest if bundle is not None else None)
        engine = ""
        model: ServedModel | None = None
        levels: dict[ArtifactTarget, AlertLevel] = {}
        if bundle is not None:
            device_id = device.device.device_id
            try:
                check_device(bundle, settled.device, settled.window)
                engine = f"{bundle.manifest.model_id}@{device.backend}/{device.precision}"
                if engine not in engines:
                    engines[engine] = Engine(
                        bundle.manifest,
                        bundle.artifacts,
                        device=device.backend,
                        precision=device.precision,
                        delegate_library=config.gateway.edgetpu_library,
                        on_notice=on_notice,
                    )
                    check_golden(bundle, engines[engine])
            except (BundleRefused, ArtifactMissing, EdgeTpuUnavailable, GraphUnusable) as error:
                raise config.error(device_id, "model", str(device.model), str(error)) from error
            model = ServedModel.build(bundle.manifest, settled.device)
            levels = alert_levels(bundle.manifest, device)
        plans.append(
            DevicePlan(
                device=settled.device,
                window=settled.window,
                time=settled.time,
                alert=device.alert,
                model=model,
                engine=engine,
                levels=levels,
                limits=device.limits,
                gate=device.gate,
                privacy=device.privacy,
                summary_s=device.summary_s,
                n_reservoir=device.n_reservoir,
            )
        )
    pipeline = Pipeline(config.gateway.site, config.gateway.name, plans)
    return Core(pipeline, engines, tuple(plans))


def alert_levels(manifest: ModelManifest, device: DeviceConfig) -> dict[ArtifactTarget, AlertLevel]:
    """Where each artifact's scores begin to count as anomalous, from the device's budget or p-value."""
    levels: dict[ArtifactTarget, AlertLevel] = {}
    for artifact in manifest.artifacts:
        if device.p_threshold is not None:
            levels[artifact.target] = level_for_p(artifact.calibration, device.p_threshold, device.alert)
        else:
            assert device.alerts_per_week is not None
            levels[artifact.target] = level_for_budget(
                artifact.calibration, device.alert, manifest.window.hop_ns, device.alerts_per_week
            )
    return levels


def _bundle(config: Config, device: DeviceConfig, bundles: dict[Path, Bundle]) -> Bundle | None:
    if device.model is None:
        return None
    if device.model not in bundles:
        try:
            bundles[device.model] = load_bundle(device.model)
        except BundleRefused as error:
            raise config.error(device.device.device_id, "model", str(device.model), str(error)) from error
    return bundles[device.model]
