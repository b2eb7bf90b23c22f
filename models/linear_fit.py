"""A model of the linear family from rows of features, with numpy alone: what a gateway can fit by itself. Pure.

The steps are those of a sink: normalisation and re-centring, a shrunk covariance, out-of-fold scores for the calibration, a
float32 graph with worked examples. Not there: an int8 graph, whose ranges are found by running it. No BLAS where scores are
made, so that the same rows give the same model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration
from models.commissioning import Commissioned, commission, recentring_spec
from models.export import Dense, float_model
from models.features import describe, min_scales, schema_id
from models.golden import golden_of, golden_windows
from models.healthy_rows import HealthyRows, effective_rows
from models.manifest import (
    Artifact,
    GoldenVector,
    ModelManifest,
    Normalisation,
    TrainedChannel,
    TrainingReport,
    artifact_file,
)
from models.out_of_fold import FAR_LEVEL, cross_fit, cut
from models.sample_size import FitError
from models.scoring import residuals, scores
from models.whitening import oas, whitening_layers


class DenseGraph:
    """What a float32 graph of ``layers`` computes, in float64 and rounded at the end."""

    def __init__(self, layers: Sequence[Dense]) -> None:
        self._layers = layers

    def run(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(output float32[w, k], saturated bool[w]: never) of ``inputs`` float32[w, k]."""
        value = inputs.astype(np.float64)
        for layer in self._layers:
            value = np.einsum("wi,oi->wo", value, layer.weights.astype(np.float64)) + layer.bias
            if layer.activation == "relu":
                value = np.maximum(value, 0.0)
        return value.astype(np.float32), np.zeros(inputs.shape[0], np.bool_)


def fit_linear(healthy: HealthyRows, model_id: str, version: int = 0) -> tuple[ModelManifest, bytes]:
    """The manifest and the float32 graph of a model of ``healthy``; nobody has signed it.

    Raises FitError where the rows are too few, or nothing in them moves.
    """
    window, rows, device = healthy.window, np.ascontiguousarray(healthy.rows), healthy.device
    folds = cut(len(rows), window, healthy.step_ns)
    if all(baseline.constant for baseline in healthy.baselines):
        raise FitError("nothing ever changes: there is nothing to learn while no channel moves")
    infos = describe(healthy.spec, device.channels, window.rate_hz, window.n)
    recentred = np.array([info.recentred for info in infos], dtype=np.bool_)
    recentring = recentring_spec(window) if recentred.any() else None
    least = min_scales(healthy.spec, len(device.channels), window.n)
    unit = np.ones(rows.shape[1])

    def commissioned(learn: NDArray[np.bool_]) -> Commissioned:
        return commission(rows, learn, recentring, recentred, least, infos, healthy.end_ns)

    def scored(learn: NDArray[np.bool_], test: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
        inputs = commissioned(learn).inputs
        output, _ = DenseGraph(_whitening(inputs[learn], window.overlap)).run(inputs[test])
        return {"float32": scores(residuals(inputs[test], output, "whitened", unit))}

    whole = commissioned(np.ones(len(rows), np.bool_))
    layers = _whitening(whole.inputs, window.overlap)
    ranged = any(info.ranged for info in infos)
    found = cross_fit(folds, scored, healthy.start_ns, window, healthy.step_ns, ranged=ranged)
    calibration = found.calibration["float32"]
    model = float_model(layers)
    golden = golden_of(
        golden_windows(healthy.examples),
        healthy.spec,
        window.rate_hz,
        DenseGraph(layers),
        "whitened",
        whole.centre,
        whole.scale,
        unit,
        calibration,
    )
    manifest = ModelManifest(
        model_id=model_id,
        version=version,
        family="mahalanobis",
        class_=device.class_,
        created_ns=int(healthy.end_ns[-1]),
        schema_id=schema_id(healthy.spec, device.channel_names, window, recentring),
        features=healthy.spec,
        channels=tuple(
            TrainedChannel.of(channel, baseline)
            for channel, baseline in zip(device.channels, healthy.baselines, strict=True)
        ),
        window=window,
        time=healthy.time,
        recentring=recentring,
        normalisation=Normalisation(
            centre=tuple(whole.centre.tolist()),
            scale=tuple(whole.scale.tolist()),
            start_centre=tuple(whole.last_centre.tolist()),
        ),
        output_kind="whitened",
        artifacts=(_artifact(model, unit, calibration, golden),),
        training=TrainingReport(
            start_ns=int(healthy.start_ns[0]),
            end_ns=int(healthy.end_ns[-1]),
            n_windows=len(rows),
            set_aside=dict(healthy.set_aside),
            n_effective=round(found.n_effective, 3),
            cross_fit_far=found.false_alarm_rate,
            far_level=FAR_LEVEL,
            notes=healthy.notes,
        ),
    )
    return manifest, model


def _whitening(inputs: NDArray[np.float32], overlap: float) -> tuple[Dense, ...]:
    wide = inputs.astype(np.float64)
    mean = wide.mean(axis=0)
    off = wide - mean
    covariance = np.einsum("wi,wj->ij", off, off) / len(off)
    shrunk, _ = oas(covariance, effective_rows(inputs, overlap))
    return whitening_layers(mean, shrunk)


def _artifact(
    model: bytes, unit: NDArray[np.float64], calibration: Calibration, golden: tuple[GoldenVector, ...]
) -> Artifact:
    sha256 = hashlib.sha256(model).hexdigest()
    return Artifact(
        target="cpu-float32",
        file=artifact_file("cpu-float32", sha256),
        dtype="float32",
        batch=None,
        sha256=sha256,
        n_bytes=len(model),
        residual_scale=tuple(unit.tolist()),
        calibration=calibration,
        golden=golden,
    )
