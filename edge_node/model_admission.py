"""From a message to a model that could serve, step by step; nothing here touches what is being served.

In this order: signature of a key that is pinned, version (the caller's), sizes, static check of the graphs, fit with the
devices that run the model, a probe in a process of its own, and engines on this gateway's own backends, on which the
golden vectors come out. What does not hold raises NotAdmitted with its reason. It takes a second or more: off the loop.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge_node import model_store
from edge_node.assembly import build_engine, plan_for
from edge_node.config import Config, ConfigError
from edge_node.config_devices import DeviceConfig
from edge_node.inference import ArtifactMissing, EdgeTpuUnavailable, ScoringEngine
from edge_node.model_probe import ProbeFailed, probe
from edge_node.model_record import NotAdmitted
from edge_node.model_store import Bundle, BundleRefused
from edge_node.plans import DevicePlan
from edge_node.workers import SHARED, Workers
from models import manifest as manifests
from models.manifest import ManifestError, ModelManifest
from models.refusals import RefusalReason
from models.runtime import GraphUnusable, RuntimeUnavailable
from models.time_policy import TimeTreatment

MAX_ARTIFACTS = 8
_DIGEST = re.compile(r"[0-9a-f]{64}")

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model that could serve devices from their next window on; ``bundle`` None: nothing would, they learn anew."""

    bundle: Bundle | None
    plans: tuple[DevicePlan, ...]
    engines: dict[str, ScoringEngine]

    def close(self) -> None:
        """It will not serve."""
        for engine in self.engines.values():
            engine.close()


def screen(payload: bytes, model_id: str, trusted: tuple[Ed25519PublicKey, ...]) -> ModelManifest:
    """The manifest in ``payload``, signed by one of the ``trusted`` keys for ``model_id``."""
    try:
        manifest = manifests.decode(payload)
    except ManifestError as error:
        raise NotAdmitted(RefusalReason.BAD_MANIFEST, f"{error}") from error
    try:
        manifests.verify(manifest, trusted)
    except ManifestError as error:
        raise NotAdmitted(RefusalReason.NOT_TRUSTED, f"{error}") from error
    if manifest.model_id != model_id:
        text = f"a manifest of model {manifest.model_id} on a topic of {model_id}"
        raise NotAdmitted(RefusalReason.BAD_MANIFEST, text)
    return manifest


def check_sizes(manifest: ModelManifest, max_bytes: int) -> None:
    """What is to be fetched is no more than may be."""
    if not 0 < len(manifest.artifacts) <= MAX_ARTIFACTS:
        text = f"{len(manifest.artifacts)} artifacts, not 1 to {MAX_ARTIFACTS}"
        raise NotAdmitted(RefusalReason.BAD_MANIFEST, text)
    for artifact in manifest.artifacts:
        if not _DIGEST.fullmatch(artifact.sha256):
            raise NotAdmitted(RefusalReason.BAD_MANIFEST, f"{artifact.sha256!r} is no SHA-256")
        if not 0 < artifact.n_bytes <= max_bytes:
            text = f"{artifact.file} has {artifact.n_bytes} bytes, and [models] max_bytes is {max_bytes}"
            raise NotAdmitted(RefusalReason.TOO_LARGE, text)


def examine(manifest: ModelManifest, blobs: Mapping[str, bytes]) -> Bundle:
    """The bundle of ``manifest`` and the graphs that it names, whatever they hold."""
    try:
        return model_store.examine(manifest, blobs, f"{manifest.model_id} version {manifest.version}")
    except BundleRefused as error:
        raise NotAdmitted(error.reason, str(error)) from error


def prepare(
    config: Config,
    running: Sequence[DevicePlan],
    bundles: Callable[[str], Bundle | None],
    *,
    workers: Workers | None,
    stop: threading.Event,
    on_notice: Notice,
    probed: bool = False,
    apart: bool = True,
) -> Prepared:
    """What would serve the devices of ``running`` with ``bundles`` (by device; None: it learns anew) in place of what does, in
    ``workers`` as that does; ``apart``: in one of its own, so that what is being scored does not wait for it. ``probed``: these
    graphs have passed the probe here before. ProbeStopped when ``stop`` is set."""
    chosen = {plan.device.device_id: bundles(plan.device.device_id) for plan in running}
    plans = tuple(fitting(config, plan, chosen[plan.device.device_id]) for plan in running)
    limits = config.models
    if not probed:
        for tried in {id(b): b for b in chosen.values() if b is not None}.values():
            try:
                probe(tried, memory_mb=limits.probe_memory_mb, timeout_s=limits.probe_timeout_s, stop=stop)
            except ProbeFailed as error:
                raise NotAdmitted(error.reason, str(error)) from error
    engines: dict[str, ScoringEngine] = {}
    group = workers.apart() if workers is not None and apart else SHARED
    try:
        for plan in plans:
            bundle = chosen[plan.device.device_id]
            if bundle is not None and plan.engine not in engines:
                device = config.device(plan.device.device_id)
                engines[plan.engine] = _engine(config, bundle, device, workers, group, on_notice)
    except NotAdmitted:
        for engine in engines.values():
            engine.close()
        raise
    return Prepared(next((b for b in chosen.values() if b is not None), None), plans, engines)


def fitting(config: Config, running: DevicePlan, bundle: Bundle | None) -> DevicePlan:
    """The plan of the device of ``running`` with ``bundle``; the device can go on under it."""
    try:
        plan = plan_for(config, config.device(running.device.device_id), bundle)
    except (BundleRefused, ConfigError) as error:
        raise NotAdmitted(RefusalReason.WRONG_SCHEMA, str(error)) from error
    if running.fits(plan):
        return plan
    cannot = f"{plan.device.device_id} cannot go on with it between two windows"
    text = f"it was made with another treatment of time: {cannot}"
    if running.learn is not None and bundle is not None and not _same_model(running, bundle):
        text = f"{_unlike(running, plan, bundle.manifest)}: {cannot}"
    elif running.model is not None and bundle is not None:
        ours, theirs = running.model.manifest, bundle.manifest
        if ours.schema_id != theirs.schema_id:
            what = "; ".join(manifests.departures(ours, theirs)) or "another version of its features"
            text = f"its features mean something else ({what}): {cannot}. Train it with --like, naming the bundle in service"
    raise NotAdmitted(RefusalReason.WRONG_SCHEMA, text)


def _same_model(running: DevicePlan, bundle: Bundle) -> bool:
    return running.model is not None and running.model.model_id == bundle.manifest.model_id


def _unlike(running: DevicePlan, plan: DevicePlan, manifest: ModelManifest) -> str:
    """In what a device that learns is not as the model of ``manifest`` was trained."""
    here, there = running.device.channel_names, plan.device.channel_names
    if here != there:
        return f"its channels are in the order {', '.join(there)}, and here in the order {', '.join(here)}"
    ours = running.learn.feature_set if running.learn is not None else ""
    if manifest.features.set != ours:
        return f'its features are of the set "{manifest.features.set}", and "{ours}" is learned here'
    if running.window != plan.window or (running.learn is not None and not running.learn.takes(manifest)):
        return "its features have other parameters than those that are learned here"
    treated = TimeTreatment.of(plan.time).departures(running.time, plan.window.mode)
    if trained := ", ".join(
        f"{name} = {there:g} where {here:g} is used here" for name, here, there in treated
    ):
        return f"it was trained with {trained} (time, of the device)"
    return "the device has another configuration than when it was learned"


def _engine(
    config: Config,
    bundle: Bundle,
    device: DeviceConfig,
    workers: Workers | None,
    group: int,
    on_notice: Notice,
) -> ScoringEngine:
    try:
        return build_engine(
            config.gateway,
            bundle,
            device.backend,
            device.precision,
            on_notice=on_notice,
            workers=workers,
            group=group,
        )
    except BundleRefused as error:
        raise NotAdmitted(error.reason, str(error)) from error
    except GraphUnusable as error:
        raise NotAdmitted(RefusalReason.BAD_GRAPH, str(error)) from error
    except RuntimeUnavailable as error:
        raise NotAdmitted(RefusalReason.NO_RUNTIME, str(error)) from error
    except (ArtifactMissing, EdgeTpuUnavailable) as error:
        raise NotAdmitted(RefusalReason.NO_BACKEND, str(error)) from error
