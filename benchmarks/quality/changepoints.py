"""The changepoint score of the Skoltech Anomaly Benchmark: NAB's idea, with windows that begin at the changepoints. Pure.

The first detection in a window is worth 1 at its left end and less towards the right, on a hyperbolic tangent, down to the
cost of a false one; a detection outside all windows costs .11, a window without any 1. 0: says nothing; 100: right at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TP, FP, FN = 1.0, -0.11, -1.0
WIDTH = 30  # rows of a second: "30 sec" in the benchmark's notebooks


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """Rows at which changes were said to be, and at which they were, int64 both."""

    said: NDArray[np.int64]
    true: NDArray[np.int64]


def worth(position: float) -> float:
    """Of a first detection at ``position`` of its window, 0 (left) to 1."""
    x = np.pi * (position - 0.5)
    return float((TP - FP) / 2.0 * (1.0 - np.tanh(x) / np.tanh(np.pi / 2.0)) + FP)


def changepoint_score(files: Sequence[Detected], *, before: int = 0, width: int = WIDTH) -> float:
    """Over all ``files``, with windows of ``width`` rows that begin ``before`` rows ahead of a changepoint: 0 in the
    benchmark's published table, half the width in its later notebooks, by which a detector may speak before anything has
    happened.

    Windows, both ends included, that would meet begin where the one before ends. ValueError where there is no changepoint."""
    total, n = 0.0, 0
    for file in files:
        outside = np.ones(len(file.said), np.bool_)
        end: int | None = None
        for true in np.sort(file.true).tolist():
            begin = true - before if end is None else max(true - before, end)
            end = true - before + width
            n += 1
            within = (file.said >= begin) & (file.said <= end)
            outside &= ~within
            first = file.said[within]
            total += worth((int(first.min()) - begin) / max(end - begin, 1)) if first.size else FN
        total += FP * int(np.count_nonzero(outside))
    if not n:
        raise ValueError("there is no changepoint")
    return 100.0 * (total - FN * n) / (n * (TP - FN))
