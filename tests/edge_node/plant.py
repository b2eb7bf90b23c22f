"""A small plant for pipeline tests: devices with models made by hand, and an engine of one line of Python.

The graph is the identity: a window's score is the root mean square of its features in healthy sigmas, so
that a test can say what a fault must score. ``Plant`` plays blocks and ticks and lets a test hold scores
back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_node.announcing import PipelineEvent
from edge_node.inference import Scored
from edge_node.pipeline import Pipeline, ScoreBatch
from edge_node.plans import DevicePlan, ServedModel
from models import messages
from models.alerting import AlertPolicy
from models.calibration import AlertLevel, fit_calibration, level_for_p
from models.features import FeatureSpec, describe, extract, min_scales, schema_id
from models.manifest import Artifact, ModelManifest, Normalisation, TrainedChannel, TrainingReport
from models.messages import Alert, DeviceStateMessage, Summary
from models.recentring import RecentringSpec
from models.scoring import scores
from models.sensor_checks import ChannelBaseline
from models.signal import NS_PER_S, ArtifactTarget, Channel, Device, Mode, SampleBlock, WindowSpec
from models.time_policy import TimePolicy

S = NS_PER_S
T0_S = 1_700_000_000 // 600 * 600  # a multiple of every hop and summary here
CHANNELS = (Channel(name="Pressure", unit="bar"), Channel(name="Current", unit="A"))
TIME = TimePolicy(
    lateness_s=4, stale_after_s=30, jitter_s=0.25, hold_s=2, min_valid=0.75, reset_after_s=60, max_age_s=None
)
POLICY = AlertPolicy(cooldown_s=60.0, update_s=120.0)
MEANS = (3.0, 8.0)


def healthy(n: int, seed: int = 0, n_channels: int = 2) -> NDArray[np.float32]:
    """float32[n, c]: steady readings with noise of 2 %."""
    rng = np.random.default_rng(seed)
    means = np.array([MEANS[c % 2] for c in range(n_channels)])
    return (means * (1 + 0.02 * rng.normal(size=(n, n_channels)))).astype(np.float32)


def window(n: int = 20, hop: int = 5, mode: Mode = Mode.CONTINUOUS) -> WindowSpec:
    return WindowSpec(n=n, hop=hop, rate_hz=Fraction(1), mode=mode)


def device(
    device_id: str = "d", channels: Sequence[Channel] = CHANNELS, mode: Mode = Mode.CONTINUOUS
) -> Device:
    return Device(
        device_id=device_id,
        machine="press-4",
        class_="press",
        mode=mode,
        rate_hz=Fraction(1),
        channels=tuple(channels),
    )


def served(
    of: Device, spec: WindowSpec, *, recentring: RecentringSpec | None = None, version: int = 1
) -> ServedModel:
    """A model of 5 slow features a channel, fitted on healthy noise."""
    features = FeatureSpec(set="slow", n_fast=5)
    train = healthy(6000, seed=99, n_channels=len(of.channels))
    train = train - np.array([c.origin for c in of.channels], dtype=np.float32)
    starts = range(0, len(train) - spec.n + 1, spec.hop)
    values = np.stack([train[s : s + spec.n] for s in starts])
    raw = extract(features, values, np.ones(values.shape, np.bool_), spec.rate_hz)
    centre, scale = raw.mean(axis=0, dtype=np.float64), raw.std(axis=0, dtype=np.float64)
    scale = np.maximum(scale, min_scales(features, len(of.channels), spec.n))
    score = scores(((raw - centre) / scale).astype(np.float32))
    infos = describe(features, of.channels, spec.rate_hz, spec.n)
    manifest = ModelManifest(
        model_id="identity",
        version=version,
        family="mahalanobis",
        created_ns=T0_S * S,
        schema_id=schema_id(features, of.channel_names, spec, recentring),
        features=features,
        channels=tuple(
            TrainedChannel(
                name=c.name,
                unit=c.unit,
                origin=c.origin,
                baseline=ChannelBaseline(
                    longest_run_s=1.0,
                    minimum=float(train[:, j].min()),
                    maximum=float(train[:, j].max()),
                ),
            )
            for j, c in enumerate(of.channels)
        ),
        window=spec,
        recentring=recentring,
        normalisation=Normalisation(
            centre=tuple(centre.tolist()), scale=tuple(scale.tolist()), start_centre=tuple(centre.tolist())
        ),
        output_kind="whitened",
        artifacts=(
            Artifact(
                target="cpu-float32",
                file="none",
                dtype="float32",
                batch=None,
                sha256="0" * 64,
                n_bytes=0,
                residual_scale=(1.0,) * len(infos),
                calibration=fit_calibration(score, n_effective=len(score) / 4),
                golden=(),
            ),
        ),
        training=TrainingReport(
            start_ns=0,
            end_ns=1,
            n_windows=len(score),
            set_aside={},
            n_effective=len(score) / 4,
            cross_fit_far=0.0,
            far_level=0.01,
        ),
    )
    return ServedModel.build(manifest, of)


def plan(of: Device | None = None, spec: WindowSpec | None = None, **changes: Any) -> DevicePlan:
    """A device with a model, unless ``model`` says otherwise; alerts at p <= 1e-4."""
    of = device() if of is None else of
    spec = window(mode=of.mode) if spec is None else spec
    model = changes.pop("model", "made")
    recentring = changes.pop("recentring", None)
    if model == "made":
        model = served(of, spec, recentring=recentring)
    levels: dict[ArtifactTarget, AlertLevel] = {}
    fields: dict[str, Any] = {"time": TIME, "alert": POLICY, "summary_s": 600.0} | changes
    if model is not None:
        calibration = model.calibration["cpu-float32"]
        levels["cpu-float32"] = level_for_p(calibration, 1e-4, fields["alert"])
    return DevicePlan(
        device=of,
        window=spec,
        model=model,
        engine="identity" if model is not None else "",
        levels=fields.pop("levels", levels),
        **fields,
    )


def block(
    values: NDArray[np.floating],
    at_s: float = 0,
    *,
    to: str = "d",
    channels: Sequence[str] = ("Pressure", "Current"),
    arrival_s: float | None = None,
    rate_hz: Fraction = Fraction(1),
) -> SampleBlock:
    """``values`` [n, c] taken from ``at_s`` seconds after T0 on, arriving when the last has been taken."""
    arrival = at_s + len(values) / rate_hz if arrival_s is None else arrival_s
    return SampleBlock.uniform(
        to,
        tuple(channels),
        values,
        start_ns=round((T0_S + at_s) * S),
        rate_hz=rate_hz,
        arrival_ns=round((T0_S + arrival) * S),
    )


def pieces(whole: SampleBlock, cuts: Iterable[int]) -> list[SampleBlock]:
    """``whole`` cut before the rows ``cuts``."""
    edges = [0, *sorted({c for c in cuts if 0 < c < whole.n}), whole.n]
    return [whole.slice(a, b) for a, b in pairwise(edges)]


Engine = Callable[[ScoreBatch], NDArray[np.float32]]


def identity(batch: ScoreBatch) -> NDArray[np.float32]:
    return batch.inputs


class Identity:
    """What ``identity`` is to a Plant, for a Core."""

    def run(self, inputs: NDArray[np.float32]) -> Scored:
        return Scored(inputs, "cpu-float32", "cpu", None, 0, 0)


class Plant:
    """A pipeline, the engine that scores for it, and all that came out of it."""

    def __init__(self, *plans: DevicePlan, engine: Engine = identity, **bounds: int) -> None:
        self.plans = plans
        self.pipeline = Pipeline("site", "gw", plans, **bounds)
        self.engine = engine
        self.events: list[PipelineEvent] = []
        self.features: list[NDArray[np.float32]] = []
        self.held: list[ScoreBatch] = []
        self.saturated = range(
            0
        )  # numbers of the windows, as they are scored, whose output met the end of its range
        self.n_scored = 0

    def play(self, items: Iterable[SampleBlock | float]) -> Plant:
        """Pushes blocks and lets time pass to seconds after T0, scoring at once."""
        for item in items:
            if isinstance(item, SampleBlock):
                self.pipeline.push(item)
            else:
                self.pipeline.advance(round((T0_S + item) * S))
            self.score()
        return self

    def hold(self) -> None:
        """Takes batches without scoring them."""
        self.held += self.pipeline.take_batches()
        self.check()

    def score(self) -> None:
        while batches := self.pipeline.take_batches():
            for batch in batches:
                self.features.append(batch.features)
                self.give(batch)
        self.collect()

    def give(self, batch: ScoreBatch) -> None:
        numbers = range(self.n_scored, self.n_scored + batch.n)
        self.n_scored += batch.n
        mask = np.array([i in self.saturated for i in numbers])
        n = int(mask.sum())
        output = self.engine(batch)
        self.pipeline.scored(batch.batch_id, output, "cpu-float32", 0, 2 * n, mask if n else None)
        self.check()

    def finish(self) -> Plant:
        self.pipeline.finish()
        self.score()
        return self

    def collect(self) -> None:
        self.events += self.pipeline.events()
        self.check()

    def check(self) -> None:
        """Nothing is lost silently."""
        c = self.pipeline.counters()
        assert c.n_samples_in == c.n_windowed + sum(c.sample_drops.values())
        dropped = sum(c.window_drops.values())
        assert c.n_windows_closed == c.n_windows_scored + c.n_windows_pending + dropped
        assert c.n_windows_pending >= 0

    def restarted(self, *plans: DevicePlan, **bounds: int) -> Plant:
        """Another process that goes on from this one's snapshot; the events so far stay with this one."""
        other = Plant(*(plans or self.plans), engine=self.engine, **bounds)
        other.pipeline.restore(self.pipeline.snapshot())
        other.check()
        return other

    def alerts(self, kind: str | None = None) -> list[Alert]:
        found = [e.event for e in self.events if isinstance(e.event, Alert)]
        return [a for a in found if kind in (None, a.kind)]

    def summaries(self) -> list[Summary]:
        return [e.event for e in self.events if isinstance(e.event, Summary)]

    def states(self, device_id: str = "d") -> list[str]:
        found = [e.event for e in self.events if isinstance(e.event, DeviceStateMessage)]
        return [m.state.value for m in found if m.device == device_id]

    def wire(self, device_id: str | None = None) -> list[bytes]:
        """All that was said (by one device), as bytes, in order."""
        events = [e.event for e in self.events]
        return [messages.encode(e) for e in events if device_id in (None, e.device)]


def story(alerts: Iterable[Alert]) -> list[str]:
    """ "machine raised", "machine cleared", … in order."""
    return [f"{a.kind} {a.state}" for a in alerts]
