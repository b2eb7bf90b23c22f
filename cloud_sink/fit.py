"""From a dataset to a model: commissioning, cross-fit, int8 twin, calibration, manifest.

No number that a score is judged by is in-sample: out-of-fold scores come from models fitted on other blocks
of time, a window's length away on either side, with normalisation and re-centring of their own, and are of blocks that
have something before them (``models.cross_fit``). The int8
artifact has out-of-fold scores, and so a calibration, of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cloud_sink.dataset import Dataset
from cloud_sink.edgetpu import compile_for_edge_tpu
from cloud_sink.quantise import FloatGraph, Int8Graph, Sigmas, Sweep, ranges, rank_correlation, sweep
from cloud_sink.train import (
    Fitted,
    fit_model,
    residual_scale,
)
from models.calibration import Calibration
from models.commissioning import Commissioned, commission, placed, recentring_spec
from models.export import float_model, int8_model
from models.features import schema_id
from models.golden import golden_of, golden_windows
from models.manifest import (
    Artifact,
    Family,
    GoldenVector,
    ModelManifest,
    Normalisation,
    TrainedChannel,
    TrainingReport,
    artifact_file,
)
from models.out_of_fold import FAR_LEVEL, cross_fit, cut
from models.out_of_fold import N_FOLDS as N_FOLDS
from models.recentring import Recentring, RecentringSpec
from models.sample_size import WARN_EFFECTIVE, more_data
from models.scoring import normalise, residuals, scores
from models.signal import ArtifactTarget
from models.tflite_check import check, edge_tpu_check

Graph = FloatGraph | Int8Graph


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What to fit. ``version`` and ``created_ns`` go into the manifest as they are."""

    family: Family
    model_id: str
    version: int
    created_ns: int
    class_: str = ""
    seed: int = 0
    recentring: bool = True
    edge_tpu: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A model ready to be written, and what a person wants to know of it.

    ``auc`` by dtype, published or not, empty without labels; ``warnings`` are for the person, ``manifest.training.notes`` for
    who serves it.
    """

    manifest: ModelManifest
    artifacts: Mapping[ArtifactTarget, bytes]
    sweep: Sweep
    auc: Mapping[str, float]
    warnings: tuple[str, ...] = ()


Tick = Callable[[str], None]


def n_steps(dataset: Dataset) -> int:
    """How often :func:`fit_dataset` calls ``tick``."""
    return N_FOLDS + 3


def fit_dataset(dataset: Dataset, options: FitOptions, tick: Tick = lambda _: None) -> Trained:
    """The model of ``options.family`` for ``dataset``. ``tick`` is told of each step as it begins.

    Raises FitError when the recording is too short, saying how much more it takes.
    """
    window = dataset.window
    rows = np.ascontiguousarray(dataset.features[dataset.used])
    starts, ends = dataset.start_ns[dataset.used], dataset.end_ns[dataset.used]
    folds = cut(rows.shape[0], window, dataset.step_ns)
    recentred = np.array([info.recentred for info in dataset.infos], dtype=np.bool_)
    recentring = recentring_spec(window) if options.recentring and recentred.any() else None

    def commissioned(learn: NDArray[np.bool_]) -> Commissioned:
        return commission(rows, learn, recentring, recentred, dataset.min_scale, dataset.infos, ends)

    tick("fitting")
    whole = commissioned(np.ones(rows.shape[0], np.bool_))
    fitted = fit_model(options.family, whole.inputs, seed=options.seed)
    tick("choosing int8 ranges")
    ranged = any(info.ranged for info in dataset.infos)
    channels = [info.channel for info in dataset.infos]
    found = sweep(fitted, whole.inputs, channels, seed=options.seed, ranged=ranged)

    def scored(learn: NDArray[np.bool_], test: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
        inputs = commissioned(learn).inputs
        model = fit_model(options.family, inputs[learn], seed=options.seed)
        graphs = graphs_of(model, inputs[learn], found.sigmas)
        return {n: graph_scores(model, graph, scale, inputs[test]) for n, (graph, scale) in graphs.items()}

    judged = cross_fit(folds, scored, starts, window, dataset.step_ns, ranged=ranged, tick=tick)
    out_of_fold, n_effective = judged.scores, judged.n_effective

    tick("checking the graphs")
    graphs = graphs_of(fitted, whole.inputs, found.sigmas)
    normalisation = Normalisation(
        centre=tuple(whole.centre.tolist()),
        scale=tuple(whole.scale.tolist()),
        start_centre=tuple(whole.last_centre.tolist()),
    )
    files, notes = published(fitted, whole.inputs, found, edge_tpu=options.edge_tpu)
    artifacts = artifacts_of(
        files,
        graphs,
        judged.calibration,
        lambda graph, scale, one: golden_of(
            golden_windows(dataset.examples),
            dataset.spec,
            window.rate_hz,
            graph,
            fitted.output_kind,
            whole.centre,
            whole.scale,
            scale,
            one,
        ),
    )
    auc = _auc(dataset, fitted, graphs, whole, recentring, recentred, out_of_fold)
    warnings = []
    if n_effective < WARN_EFFECTIVE:
        warnings.append(
            f"{n_effective:.1f} effective windows are few (below {WARN_EFFECTIVE:.0f}): "
            "false-alarm rates are rough; "
            f"{more_data(window, dataset.step_ns, rows.shape[0], n_effective, WARN_EFFECTIVE)} would do"
        )
    if dataset.anomalous is not None and (n_odd := int(np.count_nonzero(dataset.anomalous & dataset.used))):
        warnings.append(
            f"{n_odd} of the windows trained on are labelled anomalous: name another part, or leave them out "
            "with --exclude"
        )
    metrics = {
        "score_correlation": rank_correlation(out_of_fold["float32"], out_of_fold["int8"]),
        "probe_correlation": found.probe_correlation,
        "int8_saturated_share": found.saturated_healthy,
        **{f"auc_{name}": value for name, value in auc.items()},
    }
    manifest = ModelManifest(
        model_id=options.model_id,
        version=options.version,
        family=options.family,
        class_=options.class_,
        created_ns=options.created_ns,
        schema_id=schema_id(dataset.spec, dataset.device.channel_names, window, recentring),
        features=dataset.spec,
        channels=tuple(
            TrainedChannel.of(channel, baseline)
            for channel, baseline in zip(dataset.device.channels, dataset.baselines, strict=True)
        ),
        window=window,
        time=dataset.time,
        recentring=recentring,
        normalisation=normalisation,
        output_kind=fitted.output_kind,
        artifacts=artifacts,
        training=TrainingReport(
            start_ns=int(starts[0]),
            end_ns=int(ends[-1]),
            n_windows=rows.shape[0],
            set_aside=dict(dataset.set_aside),
            n_effective=round(n_effective, 3),
            cross_fit_far=judged.false_alarm_rate,
            far_level=FAR_LEVEL,
            notes=tuple(notes),
        ),
        metrics={name: round(value, 6) for name, value in metrics.items()},
    )
    return Trained(manifest, files, found, auc, tuple(warnings))


def published(
    fitted: Fitted, inputs: NDArray[np.float32], found: Sweep, *, edge_tpu: bool
) -> tuple[dict[ArtifactTarget, bytes], list[str]]:
    """The graphs of ``fitted`` that are good enough to be published, and why others are not; ``inputs`` are what it was fitted
    on."""
    notes: list[str] = []
    files: dict[ArtifactTarget, bytes] = {"cpu-float32": float_model(fitted.layers)}
    if found.publish:
        files["cpu-int8"] = _int8(fitted, inputs, found.sigmas, None)
    else:
        notes.append(f"int8 not published: {found.why_not}")
        if edge_tpu:
            notes.append(
                "Edge TPU: no model for it, since it runs int8 alone: this one runs on the CPU; another --family may "
                "lose less"
            )
    if edge_tpu and found.publish:
        static = _int8(fitted, inputs, found.sigmas, 1)
        tried = compile_for_edge_tpu(static)
        notes.append(tried.text)
        if not edge_tpu_check(check(static)):
            files["edgetpu-int8"] = tried.compiled or static
    return files, notes


def artifacts_of(
    files: Mapping[ArtifactTarget, bytes],
    graphs: Mapping[str, tuple[Graph, NDArray[np.float64]]],
    calibration: Mapping[str, Calibration],
    golden: Callable[[Graph, NDArray[np.float64], Calibration], tuple[GoldenVector, ...]],
) -> tuple[Artifact, ...]:
    """The manifest's entries for ``files``; ``golden`` makes the worked examples of a graph with its residual scale."""
    found = []
    for target, model_bytes in files.items():
        name = "float32" if target == "cpu-float32" else "int8"
        graph, scale = graphs[name]
        sha256 = hashlib.sha256(model_bytes).hexdigest()
        found.append(
            Artifact(
                target=target,
                file=artifact_file(target, sha256),
                dtype="float32" if name == "float32" else "int8",
                batch=1 if target == "edgetpu-int8" else None,
                sha256=sha256,
                n_bytes=len(model_bytes),
                residual_scale=tuple(scale.tolist()),
                calibration=calibration[name],
                golden=golden(graph, scale, calibration[name]),
            )
        )
    return tuple(found)


def graphs_of(
    fitted: Fitted, inputs: NDArray[np.float32], sigmas: Sigmas
) -> dict[str, tuple[Graph, NDArray[np.float64]]]:
    """Both graphs of a model, each with the residual scale of its own outputs on the training ``inputs``."""
    found: dict[str, tuple[Graph, NDArray[np.float64]]] = {}
    graph: Graph = FloatGraph(float_model(fitted.layers))
    found["float32"] = (graph, fitted.residual_scale)
    graph = Int8Graph(_int8(fitted, inputs, sigmas, None))
    output, _ = graph.run(inputs)
    found["int8"] = (graph, residual_scale(inputs, output, fitted.output_kind))
    return found


def _int8(fitted: Fitted, inputs: NDArray[np.float32], sigmas: Sigmas, batch: int | None) -> bytes:
    return int8_model(fitted.layers, ranges(fitted, inputs, sigmas), batch)


def graph_scores(
    fitted: Fitted, graph: Graph, scale: NDArray[np.float64], inputs: NDArray[np.float32]
) -> NDArray[np.float32]:
    output, _ = graph.run(inputs)
    return scores(residuals(inputs, output, fitted.output_kind, scale))


def _auc(
    dataset: Dataset,
    fitted: Fitted,
    graphs: Mapping[str, tuple[Graph, NDArray[np.float64]]],
    whole: Commissioned,
    recentring: RecentringSpec | None,
    recentred: NDArray[np.bool_],
    out_of_fold: Mapping[str, NDArray[np.float32]],
) -> dict[str, float]:
    """ROC AUC by graph where labels exist: over what follows the training part, or, where that has not both
    classes, of all labelled anomalies against the out-of-fold scores."""
    if dataset.anomalous is None or not dataset.anomalous.any():
        return {}
    last = int(np.flatnonzero(dataset.used)[-1])
    truth = dataset.anomalous[last + 1 :]
    after = bool(truth.any() and not truth.all())
    rows = dataset.features[last + 1 :] if after else dataset.features
    ends = dataset.end_ns[last + 1 :] if after else dataset.end_ns
    moved = placed(np.ascontiguousarray(rows), whole.centre, whole.scale, dataset.infos, ends)
    if recentring is not None:
        start = whole.last_centre if after else whole.first_centre
        moved, _ = Recentring(recentring, whole.centre, whole.scale, recentred, start).apply(moved)
    inputs = normalise(moved, whole.centre, whole.scale)
    found = {}
    for name, (graph, scale) in graphs.items():
        if after:
            found[name] = float(roc_auc_score(truth, graph_scores(fitted, graph, scale, inputs)))
        else:
            anomalies = graph_scores(fitted, graph, scale, inputs[dataset.anomalous & ~dataset.used])
            healthy = out_of_fold[name]
            both = np.concatenate([healthy, anomalies])
            found[name] = float(roc_auc_score(np.arange(both.size) >= healthy.size, both))
    return found
