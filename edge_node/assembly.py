"""From a configuration to the core that runs it: bundles loaded and checked, plans resolved, one engine a model.

The daemon and replay build their core here and nowhere else, so both run the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edge_node.config import Config, ConfigError, Settled
from edge_node.config_devices import DeviceConfig
from edge_node.config_schema import Backend, Gateway, Precision
from edge_node.inference import (
    ArtifactMissing,
    EdgeTpuUnavailable,
    Engine,
    NotReady,
    ScoringEngine,
    WorkerLost,
)
from edge_node.model_store import Bundle, BundleRefused, check_device, check_golden, load_bundle
from edge_node.pipeline import Pipeline
from edge_node.plans import DevicePlan, ServedModel
from edge_node.portions import Portion
from edge_node.runs import Runs
from edge_node.scorer import Scorer
from edge_node.state_dir import state_dir_of
from edge_node.teaching import Teacher
from edge_node.workers import SHARED, Workers
from models import codec
from models.alerting import AlertPolicy, usual_policy
from models.calibration import AlertLevel, level_for_budget, level_for_p
from models.features import FeatureSet
from models.manifest import ModelManifest
from models.messages import ModelStatus
from models.runtime import GraphUnusable
from models.signal import ArtifactTarget, Clock, Device, SampleBlock, WindowSpec

# Blocks of a device that complete more windows than this are scored in pieces: bounds memory, changes nothing else.
MAX_WINDOWS_AT_ONCE = 1024
# Of a backlog: what is done once a turn for every device is then done for several windows of it. Events go out after each
# turn, so it stays well below a second's work.
_BLOCKS_A_TURN = 1024
_BLOCKS_OF_A_DEVICE = 8


@dataclass(slots=True)
class Core:
    """A pipeline and the engines that score for it; ``workers``: where they do, None: in this process. ``bundles``: what
    each device was configured with, or has learned."""

    pipeline: Pipeline
    engines: dict[str, ScoringEngine]
    plans: tuple[DevicePlan, ...]
    workers: Workers | None = None
    bundles: dict[str, Bundle] = field(default_factory=dict)
    teacher: Teacher | None = None  # puts into service what devices have learned, where nobody else does
    on_learned: Callable[[str], None] | None = None  # told which device has just got a model from it
    scorer: Scorer = field(init=False)
    _plan_of: dict[str, DevicePlan] = field(init=False)
    _portions: dict[str, Portion] = field(init=False)
    _linked: frozenset[str] = field(init=False)
    _clocks: dict[str, Clock] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.scorer = Scorer(self.pipeline, self.engines)
        self._linked = self.pipeline.linked
        self._plan_of = {p.device.device_id: p for p in self.plans}
        self._portions = {p.device.device_id: Portion.of(p, MAX_WINDOWS_AT_ONCE) for p in self.plans}

    @property
    def blocks_a_turn(self) -> int:
        """How many blocks of a backlog to push at once: a few of every device."""
        return max(_BLOCKS_A_TURN, _BLOCKS_OF_A_DEVICE * len(self.plans))

    def push(self, *blocks: SampleBlock) -> int:
        """Take ``blocks`` and score what they complete, in as few batches as memory allows; the number scored."""
        n = 0
        clocks, portions = self._clocks, self._portions
        push, gather = self.pipeline.push, self.pipeline.gather
        for group in self._by_device(blocks):
            sizes: dict[str, int] = {}  # of what waits, by device
            for block in group:
                device_id = block.device_id
                # An alert says what clock its windows had: those of another are settled first.
                if clocks.setdefault(device_id, block.clock) is not block.clock:
                    clocks[device_id] = block.clock
                    n, sizes = n + self.score(), {}
                portion = portions.get(device_id)
                if portion is None or not len(block.values):
                    push(block)  # counted there
                    continue
                size = len(block.values) if block.time_ns is None else portion.size(block)
                waiting = sizes.get(device_id, 0) + size
                if waiting <= portion.most:  # as nearly always
                    push(block)
                    sizes[device_id] = waiting
                    continue
                for piece in portion.cut(block):
                    n, sizes = n + self.score(), {}
                    push(piece)
                    sizes[device_id] = portion.size(piece)
            gather()
        return n + self.score()

    def _by_device(self, blocks: Sequence[SampleBlock]) -> Iterable[Sequence[SampleBlock]]:
        """What each device sent, together: what its lane needs is then in the cache. Devices that gates link go
        together, in their order."""
        if len(blocks) < 2:
            return (blocks,)
        groups: dict[str | None, list[SampleBlock]] = {}
        linked = self._linked
        for block in blocks:
            key = None if block.device_id in linked else block.device_id
            groups.setdefault(key, []).append(block)
        return groups.values()

    def score(self) -> int:
        """Score all that is ready, as :class:`Scorer` does; returns the number of windows."""
        n = self.scorer.score()
        while self.teacher is not None and (learned := self.pipeline.learned):
            for device_id in learned:
                self.teacher.teach(self, device_id)
                if self.on_learned is not None:
                    self.on_learned(device_id)
            n += self.scorer.score()
        return n

    def close(self) -> None:
        """Gives back what the engines hold: nothing is scored any more."""
        for engine in self.engines.values():
            engine.close()

    @property
    def n_inference_failures(self) -> int:
        """Batches that were dropped because they could not be scored."""
        return self.scorer.failures.total()

    @property
    def last_failure(self) -> str | None:
        """Why the last of them was."""
        return self.scorer.last_failure

    def plan_of(self, device_id: str) -> DevicePlan:
        """As it is now: a device may learn its model, or be given another. KeyError where it is not here."""
        return self._plan_of[device_id]

    @property
    def runs(self) -> Mapping[str, Runs]:
        """How each engine has scored."""
        return self.scorer.runs

    def adopt(
        self, plans: Collection[DevicePlan], engines: Mapping[str, ScoringEngine]
    ) -> list[ScoringEngine]:
        """Serve the devices of ``plans`` as these say from their next window on, with ``engines`` beside those that are
        here; returns the engines that nobody uses any more, for the caller to close. NotDrained and ValueError as
        :meth:`Pipeline.adopt` raises them."""
        self.scorer.score()
        self.pipeline.adopt(plans)
        self._plan_of |= {plan.device.device_id: plan for plan in plans}
        self.plans = tuple(self._plan_of[plan.device.device_id] for plan in self.plans)
        self.engines.update(engines)
        used = {plan.engine for plan in self.plans}
        self.scorer.forget(used)
        return [self.engines.pop(engine) for engine in list(self.engines) if engine not in used]

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


def assemble(config: Config, *, on_notice: Callable[[str], None], workers: Workers | None = None) -> Core:
    """The core for ``config``. ConfigError names the line of every device whose model cannot serve it; ``on_notice`` is
    told of every fallback. It scores in ``workers`` if there are any and the configuration wants that, else in this process.
    """
    if config.gateway.inference == "in_process":
        workers = None
    bundles: dict[Path, Bundle] = {}
    engines: dict[str, ScoringEngine] = {}
    plans: list[DevicePlan] = []
    refusals: dict[str, None] = {}
    for device in config.devices:
        try:
            plans.append(_plan(config, device, bundles, engines, on_notice, workers))
        except ConfigError as error:
            refusals[str(error)] = None
    for device in config.devices:
        if (text := _taken(config, device, bundles)) is not None:
            refusals[text] = None
    if refusals:
        for engine in engines.values():
            engine.close()
        raise ConfigError("\n".join(refusals), partial=True)
    gateway = config.gateway
    pipeline = Pipeline(
        gateway.site,
        gateway.name,
        plans,
        max_batches_out=gateway.max_batches_out,
        max_waiting=gateway.max_waiting,
    )
    configured = {d.device.device_id: bundles[d.model] for d in config.devices if d.model is not None}

    def served(device_id: str, bundle: Bundle, fresh: dict[str, ScoringEngine]) -> DevicePlan:
        return served_plan(config, config.device(device_id), bundle, fresh, on_notice, workers)

    teacher = Teacher(served, on_notice, state_dir_of(config))
    return Core(pipeline, engines, tuple(plans), workers, configured, teacher)


def _plan(
    config: Config,
    device: DeviceConfig,
    bundles: dict[Path, Bundle],
    engines: dict[str, ScoringEngine],
    on_notice: Callable[[str], None],
    workers: Workers | None,
) -> DevicePlan:
    """The plan of ``device``; what it needs is added to ``bundles`` and ``engines``."""
    bundle = _bundle(config, device, bundles)
    if bundle is None:
        return plan_for(config, device, None)
    try:
        return served_plan(config, device, bundle, engines, on_notice, workers)
    except (BundleRefused, ArtifactMissing, EdgeTpuUnavailable, GraphUnusable) as error:
        raise config.error(device.device.device_id, "model", device.model, str(error)) from error


def _taken(config: Config, device: DeviceConfig, bundles: Mapping[Path, Bundle]) -> str | None:
    """What is wrong with the fleet's model of a device that learns: others here are configured with it, and versions of it
    take each other's place on all devices at once."""
    if device.learn is None:
        return None
    fleet, device_id = device.learn.fleet, device.device.device_id
    for other in config.devices:
        bundle = None if other.model is None else bundles.get(other.model)
        if bundle is not None and bundle.manifest.model_id == fleet:
            text = f'{other.device.device_id} has this model already: name it here too, as model, in place of "learn"'
            return str(config.error(device_id, "fleet_model", fleet, text))
    return None


def served_plan(
    config: Config,
    device: DeviceConfig,
    bundle: Bundle,
    engines: dict[str, ScoringEngine],
    on_notice: Callable[[str], None],
    workers: Workers | None,
) -> DevicePlan:
    """The plan of ``device`` as served by ``bundle``, whatever the configuration names; an engine that it needs is added to
    ``engines``. Raises as :func:`plan_for` and :func:`build_engine` do."""
    plan = plan_for(config, device, bundle)
    if plan.engine not in engines:
        engines[plan.engine] = build_engine(
            config.gateway, bundle, device.backend, device.precision, on_notice=on_notice, workers=workers
        )
    departure = config.departure(device, bundle.manifest)
    if departure is not None:
        on_notice(departure)
    return plan


def plan_for(config: Config, device: DeviceConfig, bundle: Bundle | None) -> DevicePlan:
    """The plan of ``device`` with ``bundle`` (None: without a model). Raises ConfigError and BundleRefused where they do not
    fit."""
    if bundle is None:
        return _plan_of(device, config.settle(device, None), None, "")
    settled = config.settle(device, bundle.manifest)
    check_device(bundle, settled.device, settled.window)
    engine = f"{_identity(bundle.manifest)}@{device.backend}/{device.precision}"
    return _plan_of(device, settled, bundle, engine)


def _plan_of(device: DeviceConfig, settled: Settled, bundle: Bundle | None, engine: str) -> DevicePlan:
    return DevicePlan(
        device=settled.device,
        window=settled.window,
        time=settled.time,
        alert=_policy_of(device, settled.window, bundle),
        model=None if bundle is None else ServedModel.build(bundle.manifest, settled.device),
        engine=engine,
        learn=device.learn,
        levels={} if bundle is None else alert_levels(bundle.manifest, device),
        limits=device.limits,
        gate=device.gate,
        privacy=device.privacy,
        summary_s=device.summary_s,
        n_reservoir=device.n_reservoir,
        may_leave=device.cloud == "fallback" and device.privacy == "features",
    )


def build_engine(
    gateway: Gateway,
    bundle: Bundle,
    backend: Backend,
    precision: Precision,
    *,
    on_notice: Callable[[str], None],
    workers: Workers | None = None,
    group: int = SHARED,
) -> ScoringEngine:
    """What scores with ``bundle`` as ``gateway`` is configured, in ``workers`` (its ``group``; they tell of fallbacks
    themselves) or in this process (None), its golden vectors checked on the backend that it got. Close it when it is not
    needed any more.

    Raises what :class:`Engine` raises, and BundleRefused."""
    engine: ScoringEngine
    if workers is not None:
        engine = workers.engine(
            bundle.manifest,
            bundle.artifacts,
            device=backend,
            precision=precision,
            delegate_library=gateway.edgetpu_library,
            group=group,
        )
    else:
        engine = Engine(
            bundle.manifest,
            bundle.artifacts,
            device=backend,
            precision=precision,
            delegate_library=gateway.edgetpu_library,
            on_notice=on_notice,
        )
    try:
        check_golden(bundle, engine)
    except (BundleRefused, EdgeTpuUnavailable, GraphUnusable):
        engine.close()
        raise
    except (NotReady, WorkerLost) as error:
        engine.close()
        raise GraphUnusable(f"model {bundle.manifest.model_id} cannot be tried: {error}") from error
    return engine


def _identity(manifest: ModelManifest) -> str:
    """What tells two bundles apart, also where they go by one name and version."""
    digest = hashlib.sha256(codec.encode(manifest)).hexdigest()[:12]
    return f"{manifest.model_id} v{manifest.version} {digest}"


def alert_levels(manifest: ModelManifest, device: DeviceConfig) -> dict[ArtifactTarget, AlertLevel]:
    """Where each artifact's scores begin to count as anomalous, from the device's budget or p-value."""
    policy = _policy(manifest.features.set, manifest.window, device.alert)
    return _levels(manifest, policy, device.alerts_per_week, device.p_threshold)


def _policy_of(device: DeviceConfig, window: WindowSpec, bundle: Bundle | None) -> AlertPolicy:
    if bundle is not None:
        return _policy(bundle.manifest.features.set, window, device.alert)
    return device.alert if device.learn is None else _policy(device.learn.feature_set, window, device.alert)


def _policy(features: FeatureSet, window: WindowSpec, configured: AlertPolicy) -> AlertPolicy:
    """``configured``, or the usual one of the model's features where that says nothing but how often to update."""
    usual = AlertPolicy(update_s=configured.update_s)
    if configured != usual:
        return configured
    return msgspec.structs.replace(usual_policy(features, window), update_s=configured.update_s)


def _levels(
    manifest: ModelManifest, policy: AlertPolicy, alerts_per_week: float | None, p_threshold: float | None
) -> dict[ArtifactTarget, AlertLevel]:
    levels: dict[ArtifactTarget, AlertLevel] = {}
    for artifact in manifest.artifacts:
        if p_threshold is not None:
            levels[artifact.target] = level_for_p(artifact.calibration, p_threshold, policy)
        else:
            assert alerts_per_week is not None
            levels[artifact.target] = level_for_budget(
                artifact.calibration, policy, manifest.window.hop_ns, alerts_per_week
            )
    return levels


def _bundle(config: Config, device: DeviceConfig, bundles: dict[Path, Bundle]) -> Bundle | None:
    if device.model is None:
        return None
    if device.model not in bundles:
        try:
            keys = config.trusted_keys
            bundles[device.model] = load_bundle(device.model, keys, require_signature=bool(keys))
        except BundleRefused as error:
            raise config.error(device.device.device_id, "model", device.model, str(error)) from error
    return bundles[device.model]


def assemble_bundle(
    bundle: Bundle,
    device_id: str,
    *,
    alerts_per_week: float | None = None,
    p_threshold: float | None = None,
    policy: AlertPolicy | None = None,
    site: str = "replay",
    gateway: str = "replay",
    precision: Precision = "float32",
    on_notice: Callable[[str], None],
) -> Core:
    """A core for one device that is just as ``bundle`` was trained: no configuration needed. It scores on the CPU in
    ``precision``; ``policy`` None: the usual one of its features.

    Raises BundleRefused when the bundle's worked examples come out otherwise here, and what Engine raises.
    """
    manifest = bundle.manifest
    channels = tuple(c.as_channel() for c in manifest.channels)
    window = manifest.window
    device = Device(
        device_id=device_id,
        machine=device_id,
        class_=manifest.class_,
        mode=window.mode,
        rate_hz=window.rate_hz,
        channels=channels,
    )
    engine = Engine(manifest, bundle.artifacts, precision=precision, on_notice=on_notice)
    check_golden(bundle, engine)
    policy = usual_policy(manifest.features.set, window) if policy is None else policy
    budget = alerts_per_week if alerts_per_week is not None or p_threshold is not None else 1.0
    plan = DevicePlan(
        device=device,
        window=window,
        time=manifest.time_policy,
        alert=policy,
        model=ServedModel.build(manifest, device),
        engine=manifest.model_id,
        levels=_levels(manifest, policy, budget, p_threshold),
    )
    return Core(Pipeline(site, gateway, [plan]), {manifest.model_id: engine}, (plan,))
