"""The golden vectors of a dataset's model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cloud_sink.dataset import Dataset
from models.calibration import Calibration
from models.golden import Graph, golden_windows
from models.golden import golden_of as golden_of
from models.manifest import GoldenVector
from models.scoring import OutputKind


def golden_vectors(
    dataset: Dataset,
    graph: Graph,
    kind: OutputKind,
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
    residual_scale: NDArray[np.float64],
    calibration: Calibration,
) -> tuple[GoldenVector, ...]:
    """Three examples: a healthy window early and one late in the recording, and the late one with an offset
    of FAULT_SIGMAS standard deviations on every channel. Without re-centring, which has a past."""
    raw = golden_windows(dataset.examples)
    return golden_of(
        raw, dataset.spec, dataset.window.rate_hz, graph, kind, centre, scale, residual_scale, calibration
    )
