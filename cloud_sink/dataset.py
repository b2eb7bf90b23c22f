"""From recordings to a feature matrix, by the very functions that serve on the gateway.

A recording is read twice, in bounded memory: once to learn what a channel does when healthy (baselines,
amplitude floors) and to keep a few raw windows, once to compute features; and once before that where its machine
rests now and then. A window is *used* when it lies in the part asked for and nothing speaks against it; every other
one is counted under the reason why not.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_sink.activity import find_running
from cloud_sink.cutting import (
    DatasetError,
    Progress,
    Request,
    read_blocks,
    shape,
    usual_policy,
    windower_for,
    windows,
)
from cloud_sink.rates import as_served
from models.features import VERSIONS, FeatureInfo, FeatureSpec, describe, extract, learn_floors, min_scales
from models.gating import GateSpec, Running
from models.logs import Tick, Warn
from models.recording import select_rows
from models.sensor_checks import ChannelBaseline, SensorChecks, learn_baselines
from models.signal import (
    NS_PER_S,
    Device,
    DropReason,
    Mode,
    SampleBlock,
    WindowBatch,
    WindowSpec,
    samples_to_ns,
)
from models.time_policy import TimePolicy, TimeTreatment

SLOW_BELOW_HZ, FAST_FROM_HZ = 10, 100  # where vibration, and where slow features are out of place
INACTIVE, SENSOR_FAULT = DropReason.INACTIVE.value, DropReason.SENSOR_FAULT.value  # never scored either
MAX_EXAMPLES = 1024  # raw windows kept to learn amplitude floors from


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Windows of one device as features, oldest first.

    ``features`` float32[w, k] before re-centring; ``used`` bool[w]: to train on; ``anomalous`` bool[w] by the
    labels at the window's end, None without labels; ``examples`` float32[e, n, c] raw used windows,
    wholly valid where there is one, else filled as windows are; ``set_aside`` counts the windows of the training part that
    were not used, by reason. ``gate`` says when the machine ran; windows in which it did not are none of these.
    """

    device: Device
    window: WindowSpec
    time: TimeTreatment
    spec: FeatureSpec
    infos: tuple[FeatureInfo, ...]
    min_scale: NDArray[np.float64]
    baselines: tuple[ChannelBaseline, ...]
    examples: NDArray[np.float32]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    features: NDArray[np.float32]
    used: NDArray[np.bool_]
    anomalous: NDArray[np.bool_] | None
    set_aside: Mapping[str, int]
    sample_drops: Mapping[str, int]
    gate: GateSpec | None = None

    @property
    def step_ns(self) -> int:
        """The usual time from one used window to the next: the hop, or more where records come in bursts."""
        starts = self.start_ns[self.used]
        if self.window.mode is not Mode.BURST or starts.size < 2:
            return self.window.hop_ns
        return max(self.window.hop_ns, int((starts[-1] - starts[0]) // (starts.size - 1)))


def read_dataset(request: Request, *, warn: Warn, progress: Progress = lambda _: None) -> Dataset:
    """The windows of ``request``. ``progress`` is told the number of rows read, pass by pass.

    Raises LogError for a log that cannot be read and DatasetError for one that gives nothing to train on.
    """
    request = as_served(request)
    device, window = shape(request)
    _warn_of_features(request, window, warn)
    running = find_running(request, device, progress)
    part = _Part(request, device, window, running)
    healthy = _Healthy(part)
    usual = usual_policy(request, device, window)
    windower = windower_for(device, window, usual)
    selected = select_rows(
        read_blocks(request, device, warn, progress),
        n_rows=request.n_rows,
        from_ns=request.from_ns,
        until_ns=request.until_ns,
    )
    used = healthy.pick(windows(windower, window, part.watch(selected)))
    first = next(used, None)
    baselines = learn_baselines(itertools.chain([first], used), window) if first is not None else ()
    set_aside = Counter(healthy.set_aside)
    set_aside.update({reason.value: n for reason, n in windower.window_drops.items()})
    if first is None:
        raise DatasetError(_nothing(request, device, window, part, set_aside))
    _check_movement(request, device, baselines, warn)
    values, valid = healthy.examples()
    spec = FeatureSpec(
        version=VERSIONS[request.feature_set][-1],
        set=request.feature_set,
        n_fast=request.n_fast if request.feature_set == "slow" else FeatureSpec(set="slow").n_fast,
        floors=learn_floors(values, valid) if request.floors is None else request.floors,
    )
    if len(spec.floors) != len(device.channels):
        raise DatasetError(
            f"the recording has {len(device.channels)} channels, and the model that it is to be like {len(spec.floors)}"
        )
    n_channels = len(device.channels)
    columns = _second_pass(request, device, window, usual, spec, part, warn, progress)
    _warn_of_intervals(request, part, columns, warn)
    finite = np.isfinite(columns.features).all(axis=1)
    if n_bad := int(np.count_nonzero(columns.used & ~finite)):
        set_aside["not_finite"] += n_bad
    whole = valid.all(axis=(1, 2))
    return Dataset(
        device=device,
        window=window,
        time=TimeTreatment.of(windower.policy),
        spec=spec,
        infos=describe(spec, device.channels, window.rate_hz, window.n),
        min_scale=min_scales(spec, n_channels, window.n),
        baselines=baselines,
        examples=values[whole] if whole.any() else values,
        start_ns=columns.start_ns[finite],
        end_ns=columns.end_ns[finite],
        features=np.ascontiguousarray(columns.features[finite]),
        used=columns.used[finite],
        anomalous=request.labels.at(columns.end_ns[finite] - 1) if request.labels is not None else None,
        set_aside={reason: n for reason, n in sorted(set_aside.items()) if n},
        sample_drops={reason.value: n for reason, n in windower.sample_drops.items() if n},
        gate=None if running is None else running.spec,
    )


class _Part:
    """The part of a recording to train on: which windows of a batch are used, and why the others are not."""

    def __init__(self, request: Request, device: Device, window: WindowSpec, running: Running | None) -> None:
        self._request = request
        self._running = running
        self._checks = (device.channels, window)
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self._period_ns = samples_to_ns(1, window.rate_hz)

    def watch(self, items: Iterable[SampleBlock | Tick]) -> Iterator[SampleBlock | Tick]:
        """``items`` unchanged; the part is widened by every block."""
        for item in items:
            if isinstance(item, SampleBlock) and item.n:
                times = item.times()
                first, last = int(times.min()), int(times.max())
                self.first_ns = first if self.first_ns is None else min(first, self.first_ns)
                self.last_ns = last if self.last_ns is None else max(last, self.last_ns)
            yield item

    def within(self, batch: WindowBatch) -> NDArray[np.bool_]:
        """bool[w]: whether a window lies in the part as seen so far, give or take the grid's rounding."""
        if self.first_ns is None or self.last_ns is None:
            return np.zeros(batch.n, np.bool_)
        ends = self.last_ns + 2 * self._period_ns
        starts = self.first_ns - 2 * self._period_ns
        inside: NDArray[np.bool_] = (batch.start_ns >= starts) & (batch.end_ns <= ends)
        return inside

    def checks(self) -> SensorChecks:
        """Sensor checks by what is known of the channels without training."""
        return SensorChecks(self._checks[0], None, self._checks[1])

    def reasons(self, batch: WindowBatch, checks: SensorChecks) -> dict[str, NDArray[np.bool_]]:
        """Per reason, bool[w] of the windows that must not be trained on; the first that holds is counted."""
        found: dict[str, NDArray[np.bool_]] = {}
        if self._running is not None:  # a sensor of a machine at rest may well be flat
            found[INACTIVE] = ~self._running.active(batch.start_ns, batch.end_ns)
        found[SENSOR_FAULT] = np.any(checks.check(batch) != 0, axis=1)
        for labels in self._request.exclude:
            excluded = labels.overlap(batch.start_ns, batch.end_ns)
            found["excluded"] = found.get("excluded", np.zeros(batch.n, np.bool_)) | excluded
        if self._request.labels is not None and not self._request.names_a_part:
            found["labelled_anomalous"] = self._request.labels.overlap(batch.start_ns, batch.end_ns)
        return found


class _Healthy:
    """The used windows of the first pass: counted, thinned to MAX_EXAMPLES, handed on."""

    def __init__(self, part: _Part) -> None:
        self._part = part
        self._stride = 1
        self._kept: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
        self.n_used = 0
        self.set_aside: Counter[str] = Counter()

    def pick(self, batches: Iterable[WindowBatch]) -> Iterator[WindowBatch]:
        checks = self._part.checks()
        for batch in batches:
            good = self._part.within(batch)
            for reason, bad in self._part.reasons(batch, checks).items():
                self.set_aside[reason] += int(np.count_nonzero(good & bad))
                good = good & ~bad
            if good.any():
                used = _rows(batch, good)
                self._keep(used)
                yield used

    def examples(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        return np.stack([v for v, _ in self._kept]), np.stack([ok for _, ok in self._kept])

    def _keep(self, batch: WindowBatch) -> None:
        for i in range(-self.n_used % self._stride, batch.n, self._stride):
            self._kept.append((batch.values[i].copy(), batch.valid[i].copy()))
        self.n_used += batch.n
        while len(self._kept) > MAX_EXAMPLES:
            self._kept = self._kept[::2]
            self._stride *= 2


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    features: NDArray[np.float32]
    used: NDArray[np.bool_]


def _second_pass(
    request: Request,
    device: Device,
    window: WindowSpec,
    usual: TimePolicy,
    spec: FeatureSpec,
    part: _Part,
    warn: Warn,
    progress: Progress,
) -> _Columns:
    # With labels the whole recording is read: what is not trained on tests the model.
    items = read_blocks(request, device, lambda _: None, progress)
    if request.labels is None:
        items = select_rows(items, n_rows=request.n_rows, from_ns=request.from_ns, until_ns=request.until_ns)
    starts, ends, features, used = [], [], [], []
    checks = part.checks()
    for batch in windows(windower_for(device, window, usual), window, items):
        reasons = part.reasons(batch, checks)
        good = part.within(batch)
        for bad in reasons.values():
            good = good & ~bad
        scorable = ~reasons[SENSOR_FAULT]
        if INACTIVE in reasons:
            scorable &= ~reasons[INACTIVE]
        if request.labels is None:
            scorable &= good
        if scorable.any():
            kept = _rows(batch, scorable)
            starts.append(kept.start_ns)
            ends.append(kept.end_ns)
            features.append(extract(spec, kept.values, kept.valid, window.rate_hz))
            used.append(good[scorable])
    return _Columns(
        np.concatenate(starts), np.concatenate(ends), np.concatenate(features), np.concatenate(used)
    )


def _check_movement(
    request: Request, device: Device, baselines: tuple[ChannelBaseline, ...], warn: Warn
) -> None:
    """Say which channels stand still; DatasetError where all do, for anything else would then be an anomaly."""
    still = [c.name for c, baseline in zip(device.channels, baselines, strict=True) if baseline.constant]
    if len(still) == len(baselines):
        names = ", ".join(map(repr, still))
        raise DatasetError(
            f"{', '.join(map(str, request.logs))}: nothing ever changes in the part to train on (channel"
            f"{'s' if len(still) > 1 else ''} {names}): there is nothing to learn from it. Train on a part in which the "
            "machine runs, and see that its sensors work"
        )
    for name in still:
        warn(f"channel {name!r} never changes in training: the model learns nothing of how it moves")


def _warn_of_features(request: Request, window: WindowSpec, warn: Warn) -> None:
    """Say of a feature set that is meant for another kind of signal."""
    rate_hz = float(window.rate_hz)
    if request.feature_set == "vibration" and window.mode is Mode.IRREGULAR and rate_hz < SLOW_BELOW_HZ:
        warn(
            f"vibration features of readings at {rate_hz:.3g} Hz say little: --features slow is meant for them"
        )
    if request.feature_set != "vibration" and rate_hz >= FAST_FROM_HZ:
        warn(
            f"{request.feature_set} features of a signal at {rate_hz:g} Hz miss its spectrum: "
            "--features vibration is meant for it"
        )


def _warn_of_intervals(request: Request, part: _Part, columns: _Columns, warn: Warn) -> None:
    """Say of intervals that mark nothing: mistaken times would pass for a recording without anomalies."""
    zone = "are the times of both in one time zone?"
    first_ns, last_ns = int(columns.start_ns.min()), int(columns.end_ns.max())
    if request.labels is not None and not request.labels.any_within(first_ns, last_ns):
        warn(f"no label lies within the log: {zone}")
    if part.first_ns is None or part.last_ns is None:
        return
    for excluded in request.exclude:
        if not excluded.any_within(part.first_ns, part.last_ns):
            warn(f"no interval of --exclude lies within the recording: {zone}")


def _nothing(
    request: Request, device: Device, window: WindowSpec, part: _Part, set_aside: Mapping[str, int]
) -> str:
    where = ", ".join(str(path) for path in request.logs)
    if part.first_ns is None or part.last_ns is None:
        if not request.names_a_part:
            return f"{where}: holds no rows"
        return f"{where}: no rows in the part asked for: look at --rows, --from and --until"
    n_rows = math.ceil(float((part.last_ns - part.first_ns) * window.rate_hz / NS_PER_S)) + 1
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(set_aside.items()) if n)
    if reasons:
        return f"{where}: every window was set aside ({reasons}): there is no healthy part left to train on"
    return (
        f"{where}: about {n_rows} samples make no window of {window.n}: record for longer, "
        "or choose a shorter --window"
    )


def _rows(batch: WindowBatch, keep: NDArray[np.bool_]) -> WindowBatch:
    if keep.all():
        return batch
    return WindowBatch(
        batch.device_id,
        batch.start_ns[keep],
        batch.end_ns[keep],
        np.ascontiguousarray(batch.values[keep]),
        np.ascontiguousarray(batch.valid[keep]),
    )
