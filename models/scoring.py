"""From the graph's output to a score: the host-side float half of every model.

The .tflite graph maps normalised features to either a reconstruction or a whitened vector; what follows here is the
same in training, serving and replay. Each row is reduced on its own over a C-contiguous axis, so a score does not
depend on which other rows share its batch. High score = anomalous.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

OutputKind = Literal["reconstruction", "whitened"]


def normalise(
    features: NDArray[np.float32], centre: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float32]:
    """``(features - centre) / scale`` in float64, returned as C-contiguous float32[w, k]: the graph's input."""
    return np.ascontiguousarray((features.astype(np.float64) - centre) / scale, dtype=np.float32)


def residuals(
    inputs: NDArray[np.float32],
    output: NDArray[np.float32],
    kind: OutputKind,
    residual_scale: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Signed residual float32[w, k] per feature, in units of its healthy spread.

    ``reconstruction``: (input - output) / residual_scale. ``whitened``: the symmetric (ZCA) whitening keeps feature j in
    column j, so the output over residual_scale is the residual.
    """
    if kind == "reconstruction":
        raw = inputs.astype(np.float64) - output
    else:
        raw = output.astype(np.float64)
    return np.ascontiguousarray(raw / residual_scale, dtype=np.float32)


def scores(residual: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root mean square residual of each row, float32[w]; about 1 on healthy data."""
    wide = np.ascontiguousarray(residual, dtype=np.float64)
    result: NDArray[np.float32] = np.sqrt(np.mean(wide * wide, axis=1)).astype(np.float32)
    return result
