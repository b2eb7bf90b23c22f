"""A model that scores for gateways, and its answer to one request.

What a gateway sends are rows of features as its own model takes them; a bundle of the same ``schema_id`` gives them the same
meaning. They are normalised, scored and judged by *this* bundle's numbers: its centre and scale, its residual scale, its
calibration. So the p-values of an answer are those of the model that gave it, whatever a gateway runs itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cloud_sink.bundle import BundleError, read_bundle
from models import scoring
from models.calibration import p_values
from models.manifest import ModelManifest
from models.messages import ScoreReply, ScoreRequest
from models.refusals import ScoreRefusal
from models.runtime import Graph, GraphUnusable, RuntimeUnavailable, runtime_name
from models.score_exchange import reply
from models.tflite_check import ModelRejected, check

TARGET: Literal["cpu-float32"] = "cpu-float32"


class ModelUnusable(Exception):
    """A bundle that cannot score here; the text names it and says why."""


class ScoringModel:
    """The float32 artifact of the bundle ``path``. Not thread-safe: one per thread."""

    def __init__(self, path: Path) -> None:
        """Raises ModelUnusable, also where its worked examples come out otherwise here."""
        try:
            self.manifest, artifacts = read_bundle(path)
        except BundleError as error:
            raise ModelUnusable(str(error)) from error
        artifact, graph = self.manifest.artifact(TARGET), artifacts.get(TARGET)
        if artifact is None or graph is None:
            raise ModelUnusable(f"{path} has no artifact {TARGET}: train it again")
        try:
            check(graph)
            self._graph = Graph(graph)
            self.backend = f"{TARGET} ({runtime_name()})"
        except (ModelRejected, GraphUnusable, RuntimeUnavailable) as error:
            raise ModelUnusable(f"{path} cannot be run here: {error}") from error
        self._artifact = artifact
        self._residual_scale = np.array(artifact.residual_scale)
        self._centre = np.array(self.manifest.normalisation.centre)
        self._scale = np.array(self.manifest.normalisation.scale)
        self._try_examples(path)

    @property
    def n_features(self) -> int:
        return self._centre.size

    def score(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Residuals float32[w, k] and p-values float64[w] of ``features`` float32[w, k]. Raises GraphUnusable."""
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told below
            inputs = scoring.normalise(features, self._centre, self._scale)
            output = self._graph.run(inputs)
            residual = scoring.residuals(inputs, output, self.manifest.output_kind, self._residual_scale)
            score = scoring.scores(residual)
        if not np.isfinite(score).all():
            raise GraphUnusable("a score is not finite")
        return residual, p_values(self._artifact.calibration, score)

    def _try_examples(self, path: Path) -> None:
        for i, golden in enumerate(self._artifact.golden):
            _, features, _, _ = golden.arrays(self.manifest.window.n, len(self.manifest.channels))
            try:
                _, p = self.score(features[None])
            except (GraphUnusable, ValueError) as error:
                raise ModelUnusable(f"{path}: worked example {i} cannot be scored: {error}") from error
            log_p = float(np.log(p[0]))
            if abs(log_p - golden.log_p) > 1e-2 * max(1.0, abs(golden.log_p)):
                text = f"{path}: worked example {i} has log p {log_p:.6g} here, not {golden.log_p:.6g}: train it again"
                raise ModelUnusable(text)


def answer(
    model: ScoringModel | None, request: ScoreRequest, features: NDArray[np.float32], waited_s: float
) -> ScoreReply:
    """The answer to ``request`` that was heard ``waited_s`` ago, but for its latency; ``model``: what answers for the one that it
    names."""
    if waited_s * 1e3 >= request.deadline_ms:
        return refusal(request, ScoreRefusal.LATE, f"its turn came after {waited_s * 1e3:.0f} ms")
    if model is None:
        text = f"no bundle here answers for {request.model_id[:128]!r}: [scoring] models"
        return refusal(request, ScoreRefusal.UNKNOWN_MODEL, text)
    manifest: ModelManifest = model.manifest
    if request.schema_id != manifest.schema_id:
        text = f"features of {manifest.model_id} version {manifest.version} have schema {manifest.schema_id}"
        return refusal(request, ScoreRefusal.OTHER_SCHEMA, text)
    if features.shape[1] != model.n_features:
        text = f"{features.shape[1]} features a row, not {model.n_features}"
        return refusal(request, ScoreRefusal.MALFORMED, text)
    try:
        residual, p = model.score(features)
    except GraphUnusable as error:
        return refusal(request, ScoreRefusal.FAILED, str(error)[:500])
    return reply(
        request,
        residual,
        p,
        model_id=manifest.model_id,
        model_version=manifest.version,
        backend=model.backend,
        latency_ms=0.0,
    )


def refusal(request: ScoreRequest, reason: ScoreRefusal, text: str) -> ScoreReply:
    """The answer to ``request`` that it is not scored."""
    return ScoreReply(
        transaction=request.transaction,
        site=request.site,
        gateway=request.gateway,
        reason=reason,
        text=text,
    )
