"""Training for a person at a terminal: progress on the way, a bundle on disk, a table at the end."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from scipy.stats import binom
from tabulate import tabulate
from tqdm import tqdm

from cloud_sink.bundle import next_version, write_bundle
from cloud_sink.cutting import DatasetError, Progress, Request
from cloud_sink.dataset import Dataset, read_dataset
from cloud_sink.fit import FitOptions, Trained, fit_dataset, n_steps
from models import manifest as manifests
from models.alerting import usual_policy
from models.calibration import AlertLevel, level_for_budget
from models.evidence import Mark
from models.gating import GateSpec
from models.labels import merge
from models.manifest import Family, ModelManifest, TrainingReport
from models.messages import rfc3339
from models.recording import log_beginning
from models.runtime import Graph, runtime_name
from models.sample_size import duration
from models.signal import NS_PER_S, ArtifactTarget, Channel

TIMED_BATCHES = (1, 16)
WEEK_S = 7 * 86_400.0


def run(
    request: Request,
    *,
    out: Path,
    family: Family,
    model_id: str,
    class_: str,
    created_ns: int,
    seed: int,
    recentring: bool,
    edge_tpu: bool,
    alerts_per_week: float,
    key: Ed25519PrivateKey | None = None,
    like: ModelManifest | None = None,
) -> Trained:
    """Trains on ``request``, writes the bundle ``out``, signed with ``key``, and prints what came of it. ``like``: its feature
    rows must mean what those of that one do, else DatasetError.

    Raises LogError, DatasetError, FitError and BundleError; then nothing was written.
    """
    version = next_version(out, model_id)
    if like is not None and like.model_id == model_id:
        version = max(version, like.version + 1)
    options = FitOptions(
        family=family,
        model_id=model_id,
        version=version,
        created_ns=created_ns,
        class_=class_,
        seed=seed,
        recentring=recentring,
        edge_tpu=edge_tpu,
    )
    request = _without_alerts(request)
    with _reading() as progress:
        dataset = read_dataset(request, warn=_warn, progress=progress)
    if not class_:
        options = dataclasses.replace(options, class_=dataset.device.class_)
    with tqdm(total=n_steps(dataset), unit="step", disable=None, leave=False) as bar:
        trained = fit_dataset(dataset, options, tick=lambda step: _advance(bar, step))
    if like is not None and trained.manifest.schema_id != like.schema_id:
        what = "; ".join(manifests.departures(like, trained.manifest)) or "another version of its features"
        raise DatasetError(f"it is not like {like.model_id} version {like.version}: {what}")
    manifest = trained.manifest if key is None else manifests.sign(trained.manifest, key)
    write_bundle(out, manifest, trained.artifacts, None if key is None else key.public_key())
    print(report(dataset, trained, alerts_per_week))
    for warning in trained.warnings:
        _warn(warning)
    for note in trained.manifest.training.notes:
        _warn(note)
    signed = "" if manifest.key_id is None else f"; signed with key {manifest.key_id}"
    print(f"wrote {out} ({model_id} version {version}: {', '.join(trained.artifacts)}{signed})")
    return trained


def _without_alerts(request: Request) -> Request:
    """``request`` without the alerts that a part of a black box says were raised in it: nobody has said that they were false.
    A part that is named is taken at its word."""
    marks: dict[str, Mark] = {}
    for log in request.logs:
        for mark in log_beginning(log).marks:
            if mark.kind != "system" and request.device in (None, mark.device):
                marks[mark.alert_id] = (
                    mark if mark.alert_id not in marks else max(marks[mark.alert_id], mark, key=_seq)
                )
    if not marks:
        return request
    named = ", ".join(
        f"{mark.alert_id} ({rfc3339(mark.start_ns)[:19]}Z)" for mark in list(marks.values())[:5]
    )
    if request.names_a_part:
        _warn(f"alerts were raised in what is trained on, or near it: {named}. Was it healthy?")
        return request
    _warn(
        f"left out, since alerts were raised then: {named}. Name the healthy part to train on all of it (--from, --until)"
    )
    spans = np.array([(mark.start_ns, mark.end_ns + 1) for mark in marks.values()], np.int64)
    return dataclasses.replace(request, exclude=(*request.exclude, merge(spans)))


def _seq(mark: Mark) -> int:
    return mark.seq


def report(dataset: Dataset, trained: Trained, alerts_per_week: float) -> str:
    """Two tables: the recording and what it vouches for; the graphs side by side."""
    manifest = trained.manifest
    training = manifest.training
    window = dataset.window
    artifact = manifest.artifact("cpu-float32")
    assert artifact is not None
    facts: list[tuple[str, str]] = [
        ("trained on", f"{rfc3339(training.start_ns)[:19]}Z to {rfc3339(training.end_ns)[:19]}Z"),
        (
            "signal",
            f"{_rate(float(window.rate_hz))}, {window.mode.value}: {_channels(dataset.device.channels)}",
        ),
        (
            "window",
            f"{window.n} samples ({duration(window.window_ns / NS_PER_S)}), hop {window.hop}; "
            f"{len(dataset.infos)} {dataset.spec.set} features",
        ),
        *([] if dataset.gate is None else [("runs while", _gate(dataset.gate))]),
        ("windows used", str(training.n_windows)),
        ("windows set aside", _counts(training.set_aside)),
        ("values dropped", _counts(dataset.sample_drops)),
        ("effective windows", f"{training.n_effective:.1f}"),
        ("re-centring", _recentring(trained)),
        ("cross-fit false alarms", _false_alarms(training, artifact.calibration.n_effective)),
    ]
    level = level_for_budget(
        artifact.calibration, usual_policy(manifest.features.set, window), window.hop_ns, alerts_per_week
    )
    ranged = manifest.features.set == "telemetry"
    told = (
        "any new extreme, whatever the budget of alerts"
        if ranged
        else f"{level.text()}; p <= {level.p_raise:.2g}"
    )
    facts.append(("level", told))
    lines = [
        tabulate(facts, tablefmt="plain", disable_numparse=True),
        *([] if ranged else _advice(level)),
        "",
        _graphs_table(dataset, trained),
    ]
    return "\n".join(lines)


def _false_alarms(training: TrainingReport, n_effective: float) -> str:
    """The rate, and up to where it may come by chance: the 97.5 % quantile of a binomial of as many windows as those that were
    judged are worth."""
    n = max(1, round(n_effective))
    chance = float(binom.ppf(0.975, n, training.far_level)) / n
    return (
        f"{training.cross_fit_far:.2%} of windows at p <= {training.far_level:g}; of {n} effective ones, chance alone gives up "
        f"to {chance:.2%}"
    )


def _graphs_table(dataset: Dataset, trained: Trained) -> str:
    manifest = trained.manifest
    # What is within its range has no order that int8 could keep.
    which = "probe_correlation" if manifest.features.set == "telemetry" else "score_correlation"
    correlation = {"float32": 1.0, "int8": manifest.metrics[which]}
    rows: list[tuple[str, ...]] = []

    def add(target: ArtifactTarget, size: str, kind: str, times: Sequence[float | None]) -> None:
        auc = "-" if (value := trained.auc.get(kind)) is None else f"{value:.3f}"
        us = ("-" if value is None else f"{value:.2f}" for value in times)
        rows.append((target, size, f"{correlation[kind]:.3f}", auc, *us))

    for artifact in manifest.artifacts:
        times = invoke_us(trained.artifacts[artifact.target], artifact.target, len(dataset.infos))
        add(artifact.target, f"{artifact.n_bytes / 1024:.1f} KB", artifact.dtype, times)
    if not trained.sweep.publish:  # what it would have lost is told all the same
        add("cpu-int8", "not published", "int8", (None,) * len(TIMED_BATCHES))
    headers = (
        "graph",
        "size",
        "score correlation",
        "ROC AUC",
        *(f"µs/window, batch {n}" for n in TIMED_BATCHES),
    )
    table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return f"{table}\n({runtime_name()})"


def invoke_us(model: bytes, target: ArtifactTarget, n_features: int) -> tuple[float | None, ...]:
    """Microseconds per window of ``model``'s invoke at each of TIMED_BATCHES, on one thread of this machine;
    None where the graph does not take that batch here."""
    if target == "edgetpu-int8":
        return (None,) * len(TIMED_BATCHES)
    graph = Graph(model)
    found = []
    for n in TIMED_BATCHES:
        inputs: NDArray[np.generic] = np.zeros((n, n_features), graph.input.dtype)
        rounds = []
        for _ in range(5):
            begin = time.perf_counter_ns()
            for _ in range(100):
                graph.run(inputs)
            rounds.append((time.perf_counter_ns() - begin) / 100 / n / 1000)
        found.append(statistics.median(rounds))
    return tuple(found)


def _advice(level: AlertLevel) -> list[str]:
    """What an extrapolated level is worth, and what would make it more."""
    if not level.extrapolated or level.alerts_per_week is None or not level.verified_per_week:
        return []
    wanted, held = (duration(WEEK_S / rate) for rate in (level.alerts_per_week, level.verified_per_week))
    n = f"{level.alerts_per_week:g} alert{'' if level.alerts_per_week == 1 else 's'} a week"
    return [
        "",
        f"To verify a level of {n} takes about {wanted} of healthy running that is judged, and this holds {held} (a "
        "recording's first fifth is only learned from): until then the level is a cautious guess, and mild faults may be "
        "missed.",
    ]


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()) if n) or "none"


def _gate(gate: GateSpec) -> str:
    settled = f", from {duration(gate.settle_s)} after it starts" if gate.settle_s else ""
    return f"{gate.text}{settled}"


def _recentring(trained: Trained) -> str:
    spec = trained.manifest.recentring
    if spec is None:
        ranged = trained.manifest.features.set == "telemetry"
        return "no: features are judged by the range of all before them" if ranged else "no"
    window = trained.manifest.window
    tau = duration(spec.tau_windows * window.hop_ns / NS_PER_S)
    return f"time constant {tau}, at most {spec.max_drift_sigma:g} sigma"


def _channels(channels: Sequence[Channel]) -> str:
    """Channels by what a gateway's must agree with: "x, y in m/s2; bearing in °C less 20; tip in mm (wear)"."""
    alike: dict[str, list[str]] = {}
    for channel in channels:
        text = f" in {channel.unit}" if channel.unit else " without unit"
        text += f" less {channel.origin:g}" if channel.origin else ""
        alike.setdefault(text + (" (wear)" if channel.wear else ""), []).append(channel.name)
    return "; ".join(f"{', '.join(names)}{text}" for text, names in alike.items())


def _rate(rate_hz: float) -> str:
    return f"{rate_hz:g} Hz" if rate_hz >= 0.1 else f"one sample every {duration(1 / rate_hz)}"


@contextmanager
def _reading() -> Iterator[Progress]:
    with tqdm(unit=" rows", unit_scale=True, desc="reading", disable=None, leave=False) as bar:
        yield bar.update


def _advance(bar: tqdm[None], step: str) -> None:
    bar.set_description(step)
    bar.update()


def _warn(text: str) -> None:
    tqdm.write(f"cloud-sink: warning: {text}", file=sys.stderr)
