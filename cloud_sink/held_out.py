"""What the sink can tell of a candidate without signal: from the feature rows of its fleet, and of labelled alerts.

Strategy: leaving one device out, a model like the candidate is fitted on all others and asks of the rows of this one: are its
anomalies above what is healthy? Anomalies are the rows of alerts that operators called true, and offsets of healthy rows as
``quantise`` makes them. The candidate's int8 graph is compared with its float one on the same rows, in the runtime of the edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cloud_sink.fleet import Fleet
from cloud_sink.fleet_fit import fit_moments
from cloud_sink.gate import HeldOut, Int8
from cloud_sink.labelled import Names
from cloud_sink.moments import finite, together
from cloud_sink.quantise import FloatGraph, Int8Graph, feature_groups, probes
from models.features import describe, min_scales
from models.manifest import ModelManifest
from models.scoring import normalise, residuals, scores
from models.signal import ArtifactTarget

MAX_JUDGED = 64  # devices, spread evenly, and as many that have labels: each costs a fit
MIN_ROWS = 8  # healthy ones of a device, below which its AUC says nothing

Rows = NDArray[np.float32]


def held_out(
    candidate: ModelManifest, fleet: Fleet, odd: Mapping[Names, Rows], *, seed: int = 0
) -> tuple[HeldOut, ...]:
    """By labels, where there are any, and by probes; nothing where fewer than two devices have rows. Without a device are the
    moments and rows that a model of the candidate's family is fitted on."""
    least = min_scales(candidate.features, len(candidate.channels), candidate.window.n)
    aucs: dict[str, list[float]] = {"labels": [], "probes": []}
    n_rows = {"labels": 0, "probes": 0}
    names = list(fleet.devices)
    if len(names) < 2:
        return ()
    judged = np.unique(np.linspace(0, len(names) - 1, min(len(names), MAX_JUDGED)).round().astype(int))
    labelled = [i for i, name in enumerate(names) if name in odd][:MAX_JUDGED]
    for i in sorted({*judged.tolist(), *labelled}):
        name = names[i]
        own, rest = fleet.rows[fleet.row_device == i], fleet.rows[fleet.row_device != i]
        if len(own) < MIN_ROWS or len(rest) < MIN_ROWS:
            continue
        others = together([m for j, m in enumerate(fleet.weighed) if j != i])
        basis = fit_moments(candidate.family, others, rest, least, seed=seed)
        healthy = normalise(own, basis.centre, basis.scale)
        known = basis.fitted.scores(healthy)
        for kind, rows in _anomalies(candidate, healthy, odd.get(name), basis.centre, basis.scale, seed):
            aucs[kind].append(_auc(known, basis.fitted.scores(rows)))
            n_rows[kind] += len(rows)
    return tuple(
        HeldOut(
            anomalies=kind,
            mean=round(float(np.mean(aucs[kind])), 6),
            worst=round(min(aucs[kind]), 6),
            n_devices=len(aucs[kind]),
            n_rows=n_rows[kind],
        )
        for kind in ("labels", "probes")
        if aucs[kind]
    )


def int8_loss(
    candidate: ModelManifest,
    artifacts: Mapping[ArtifactTarget, bytes],
    fleet: Fleet,
    odd: Mapping[Names, Rows],
    *,
    seed: int = 0,
) -> Int8 | None:
    """By device: its healthy rows against all anomalies that there are of it, as either graph scores them. None where there is no
    int8 graph, or no device has enough rows."""
    if "cpu-int8" not in artifacts or "cpu-float32" not in artifacts:
        return None
    centre = np.array(candidate.normalisation.centre)
    scale = np.array(candidate.normalisation.scale)
    graphs: dict[ArtifactTarget, FloatGraph | Int8Graph] = {
        "cpu-float32": FloatGraph(artifacts["cpu-float32"]),
        "cpu-int8": Int8Graph(artifacts["cpu-int8"]),
    }

    def scored(target: ArtifactTarget, rows: Rows) -> NDArray[np.floating]:
        artifact = candidate.artifact(target)
        assert artifact is not None
        output, _ = graphs[target].run(rows)
        return scores(residuals(rows, output, candidate.output_kind, np.array(artifact.residual_scale)))

    losses: dict[str, tuple[float, float]] = {}
    for i, name in enumerate(fleet.devices):
        own = fleet.rows[fleet.row_device == i]
        if len(own) < MIN_ROWS:
            continue
        healthy = normalise(own, centre, scale)
        rows = np.concatenate(
            [r for _, r in _anomalies(candidate, healthy, odd.get(name), centre, scale, seed)]
        )
        auc_float = _auc(scored("cpu-float32", healthy), scored("cpu-float32", rows))
        auc_int8 = _auc(scored("cpu-int8", healthy), scored("cpu-int8", rows))
        losses[" ".join(name)] = (auc_float - auc_int8, auc_int8 / auc_float if auc_float > 0 else 0.0)
    if not losses:
        return None
    worst = max(losses, key=lambda name: losses[name][0])
    return Int8(
        mean_loss=round(float(np.mean([loss for loss, _ in losses.values()])), 6),
        worst_loss=round(losses[worst][0], 6),
        mean_share=round(float(np.mean([share for _, share in losses.values()])), 6),
        worst_share=round(min(share for _, share in losses.values()), 6),
        worst_device=worst,
        n_devices=len(losses),
    )


def _anomalies(
    candidate: ModelManifest,
    healthy: Rows,
    odd: Rows | None,
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
    seed: int,
) -> Iterator[tuple[str, Rows]]:
    """Normalised rows, by kind."""
    if odd is not None and len(odd):
        yield "labels", normalise(odd, centre, scale)
    channels = tuple(c.as_channel() for c in candidate.channels)
    infos = describe(candidate.features, channels, candidate.window.rate_hz, candidate.window.n)
    yield "probes", probes(healthy, feature_groups([info.channel for info in infos]), seed)


def _auc(healthy: NDArray[np.floating], odd: NDArray[np.floating]) -> float:
    """ROC AUC; a score beyond what a float holds is the largest one."""
    truth = np.arange(len(healthy) + len(odd)) >= len(healthy)
    return float(roc_auc_score(truth, finite(np.concatenate([healthy, odd]))))
