"""Whether a model's golden vectors come out again: the numbers of its manifest alone, then through features and graph.

A number may differ by the vector's ``tolerance`` (at most ``MAX_TOLERANCE``) times the largest magnitude of what is
compared, inputs each by its own; an int8 output by a further 4 steps, which is what runtimes differ by, and its score by
what such steps amount to.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_node.inference import ScoringEngine
from models import scoring
from models.calibration import p_values
from models.features import describe, extract
from models.manifest import MAX_TOLERANCE, Artifact, GoldenVector, ModelManifest
from models.score_tails import shape_of

INT8_STEPS = 4  # by how many quantisation steps two runtimes may differ
_LEAST_INPUT = 1e-6  # inputs have a spread of 1: less is nothing
_SHAPE_TOLERANCE = 1e-3

Floats = NDArray[np.floating]


class Mismatch(ValueError):
    """What does not come out, and by how much."""


def check_start(manifest: ModelManifest) -> None:
    """Raises Mismatch where re-centring starts where it can never stand."""
    normalisation, spec = manifest.normalisation, manifest.recentring
    channels = tuple(c.as_channel() for c in manifest.channels)
    infos = describe(manifest.features, channels, manifest.window.rate_hz, manifest.window.n)
    centre, scale = np.array(normalisation.centre), np.array(normalisation.scale)
    off = np.abs(np.array(normalisation.start_centre) - centre)
    bound = np.zeros(len(infos))
    if spec is not None:
        bound = np.where([info.recentred for info in infos], spec.max_drift_sigma * scale, 0.0)
    if (off > bound * (1.0 + MAX_TOLERANCE) + MAX_TOLERANCE * np.minimum(scale, np.abs(centre))).any():
        raise Mismatch("normalisation.start_centre is further from the centre than re-centring goes")


def check_calibration(artifact: Artifact) -> None:
    """Raises Mismatch where the tail that a calibration names is not that of its table."""
    calibration = artifact.calibration
    found = shape_of(calibration.tail, np.array(calibration.knots), np.array(calibration.log_p))
    if not math.isclose(found, calibration.tail_shape, rel_tol=_SHAPE_TOLERANCE, abs_tol=1e-6):
        raise Mismatch(
            f"calibration of {artifact.target} states tail_shape {calibration.tail_shape:.6g}, and its table has "
            f"{found:.6g}"
        )


def check_numbers(manifest: ModelManifest, artifact: Artifact, golden: GoldenVector) -> None:
    """Raises Mismatch unless the manifest's own numbers give the golden inputs, score and p-value: no runtime is asked."""
    target, tolerance = artifact.target, golden.tolerance
    if not 0.0 < tolerance <= MAX_TOLERANCE:
        raise Mismatch(
            f"tolerance of a golden vector of {target} is {tolerance:g}, not above 0 and at most {MAX_TOLERANCE:g}"
        )
    _, features, wanted, output = golden.arrays(manifest.window.n, len(manifest.channels))
    inputs = _inputs(manifest, features)
    _comparable("inputs", inputs, wanted)
    error = np.abs(inputs.astype(np.float64) - wanted)
    bad = np.flatnonzero(error > tolerance * np.abs(wanted) + _LEAST_INPUT)
    if bad.size:
        j = int(bad[0])
        raise Mismatch(
            f"normalisation makes input {j} of a golden vector of {target} {inputs[j]:.6g}, not {wanted[j]:.6g}"
        )
    _comparable("output", output, wanted)
    scale = np.array(artifact.residual_scale)
    (score,) = scoring.scores(
        scoring.residuals(wanted[None], output[None], manifest.output_kind, scale)
    ).tolist()
    if not math.isclose(score, golden.score, rel_tol=tolerance):
        raise Mismatch(
            f"residual_scale of {target} makes the score of a golden vector {score:.6g}, not {golden.score:.6g}"
        )
    (p,) = p_values(artifact.calibration, np.array([golden.score])).tolist()
    log_p = math.log(p) if p > 0.0 else math.nan
    if not math.isclose(log_p, golden.log_p, rel_tol=tolerance, abs_tol=tolerance * 1e-3):
        raise Mismatch(
            f"calibration of {target} gives a golden score of {golden.score:.6g} log p {log_p:.6g}, not {golden.log_p:.6g}"
        )


def check_vector(
    manifest: ModelManifest, artifact: Artifact, golden: GoldenVector, engine: ScoringEngine
) -> None:
    """Raises Mismatch unless this gateway's features, graph and score give what the vector says."""
    window, features, inputs, output = golden.arrays(manifest.window.n, len(manifest.channels))
    valid = np.ones((1, *window.shape), dtype=np.bool_)
    got = extract(manifest.features, window[None], valid, manifest.window.rate_hz)
    _close("features", got[0], features, golden.tolerance, 0.0)
    # From the stated inputs on: one on the edge of a quantisation step must not fall to either side.
    scored = engine.run(inputs[None])
    if scored.target != artifact.target:
        return  # it has just fallen back to another artifact, whose own vectors were checked
    slack = INT8_STEPS * engine.step
    _close("output", scored.output[0], output, golden.tolerance, slack)
    scale = np.array(artifact.residual_scale)
    score = scoring.scores(scoring.residuals(inputs[None], scored.output, manifest.output_kind, scale))
    # |rms(a) - rms(b)| <= rms(a - b)
    score_slack = float(np.sqrt(np.mean((slack / scale) ** 2)))
    _close("score", score, np.array([golden.score], np.float32), golden.tolerance, score_slack)


def trial(manifest: ModelManifest, artifact: Artifact) -> NDArray[np.float32]:
    """The golden inputs of ``artifact``, float32[g, k]."""
    shape = manifest.window.n, len(manifest.channels)
    return np.stack([golden.arrays(*shape)[2] for golden in artifact.golden]).astype(np.float32)


def check_trial(
    manifest: ModelManifest, artifact: Artifact, outputs: NDArray[np.float32], step: float
) -> None:
    """Raises Mismatch unless ``outputs`` float32[g, k] of :func:`trial` are what the vectors say."""
    shape = manifest.window.n, len(manifest.channels)
    for got, golden in zip(outputs, artifact.golden, strict=True):
        _close("output", got, golden.arrays(*shape)[3], golden.tolerance, INT8_STEPS * step)


def _inputs(manifest: ModelManifest, features: NDArray[np.float32]) -> NDArray[np.float32]:
    normalisation = manifest.normalisation
    centre, scale = np.array(normalisation.centre), np.array(normalisation.scale)
    if features.size != centre.size:
        raise Mismatch(f"features has {features.size} values, not {centre.size}")
    return scoring.normalise(features[None], centre, scale).reshape(-1)


def _comparable(what: str, got: Floats, wanted: Floats) -> None:
    if got.shape != wanted.shape:
        raise Mismatch(f"{what} has {got.size} values, not {wanted.size}")
    if not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        raise Mismatch(f"{what} is not finite")


def _close(what: str, got: Floats, wanted: Floats, tolerance: float, slack: float) -> None:
    _comparable(what, got, wanted)
    allowed = tolerance * float(np.max(np.abs(wanted), initial=0.0)) + slack
    error = float(np.max(np.abs(got.astype(np.float64) - wanted), initial=0.0))
    if not error <= allowed:
        raise Mismatch(f"{what} differs by {error:.3g}, at most {allowed:.3g} is allowed")
