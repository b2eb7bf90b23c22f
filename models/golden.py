"""Golden vectors: worked examples from raw window to score, which every gateway works out again before it
trusts a model. Pure."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration, p_values
from models.features import FeatureSpec, extract
from models.manifest import MAX_TOLERANCE, GoldenVector
from models.messages import pack_floats
from models.scoring import OutputKind, normalise, residuals, scores

FAULT_SIGMAS = 10.0


class Graph(Protocol):
    """What computes a graph's output."""

    def run(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(output float32[w, k], rows that met an end of their range bool[w]) of ``inputs`` float32[w, k]."""
        ...


def golden_of(
    raw: NDArray[np.float32],
    spec: FeatureSpec,
    rate_hz: Fraction,
    graph: Graph,
    kind: OutputKind,
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
    residual_scale: NDArray[np.float64],
    calibration: Calibration,
) -> tuple[GoldenVector, ...]:
    """Of windows ``raw`` float32[w, n, c]. Without re-centring, which has a past."""
    features = extract(spec, raw, np.ones(raw.shape, np.bool_), rate_hz)
    inputs = normalise(features, centre, scale)
    output, _ = graph.run(inputs)
    score = scores(residuals(inputs, output, kind, residual_scale))
    log_p = np.log(p_values(calibration, score))
    return tuple(
        GoldenVector(
            window=pack_floats(raw[i]),
            features=pack_floats(features[i]),
            inputs=pack_floats(inputs[i]),
            output=pack_floats(output[i]),
            score=float(score[i]),
            log_p=float(log_p[i]),
            tolerance=MAX_TOLERANCE,
        )
        for i in range(raw.shape[0])
    )


def golden_windows(examples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Raw windows float32[3, n, c] out of ``examples`` float32[e, n, c], e >= 1: a healthy one early and one late in the
    recording, and the late one with an offset of FAULT_SIGMAS standard deviations on every channel."""
    early, late = examples[0], examples[-1]
    spread = examples.std(axis=(0, 1), dtype=np.float64)
    fault = late + FAULT_SIGMAS * np.where(spread > 0, spread, 1.0)
    return np.stack([early, late, fault.astype(np.float32)])
