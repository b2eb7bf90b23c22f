"""Float features through a graph of floats or of int8, any number of rows.

The one way from inputs to outputs, for the engine in this process and for the worker alike, so that both give the same
bits. Imports numpy and the runtime alone: the worker has to start quickly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.runtime import Graph, dequantise, quantise

MAX_ROWS = 4096  # rows of one invoke of a dynamic graph: bounds the interpreter's memory


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """``output`` float32[w, k]: NaN rows where the input was not finite. ``saturated`` bool[w] (None: none is): rows of
    which ``n_saturated`` values in all met an end of an int8 range."""

    output: NDArray[np.float32]
    saturated: NDArray[np.bool_] | None
    n_saturated: int


def evaluate(
    graph: Graph,
    inputs: NDArray[np.float32],
    *,
    most: int = MAX_ROWS,
    before: Callable[[], None] = lambda: None,
) -> Evaluated:
    """What ``graph`` makes of float32[w, k]; ``before`` each invoke, of at most ``most`` rows where their number is free.

    A row's output does not depend on the others, nor on ``most``. Raises ValueError for another shape, and what
    :meth:`models.runtime.Graph.run` raises.
    """
    width = graph.input.shape[1]
    if inputs.ndim != 2 or inputs.shape[1] != width:
        raise ValueError(f"inputs have shape {inputs.shape}, the model takes (w, {width})")
    finite = np.isfinite(inputs)
    broken = None if finite.all() else ~finite.all(axis=1)
    given = inputs if broken is None else np.where(finite, inputs, np.float32(0))
    saturated, n_saturated = None, 0
    if graph.input.dtype == np.int8:
        raw, clipped = quantise(given, graph.input)
        result = _invoke(graph, raw, most, before)
        at_end = (result == -128) | (result == 127)
        output = dequantise(result, graph.output)
        n_saturated = int(np.count_nonzero(clipped)) + int(np.count_nonzero(at_end))
        if n_saturated:
            saturated = clipped.any(axis=1) | at_end.any(axis=1)
    else:
        output = _invoke(graph, np.ascontiguousarray(given, dtype=np.float32), most, before)
    if broken is not None:
        output[broken] = np.nan
    return Evaluated(output, saturated, n_saturated)


def _invoke(graph: Graph, inputs: NDArray[Any], most: int, before: Callable[[], None]) -> NDArray[Any]:
    n = inputs.shape[0]
    rows = graph.batch or most
    if n == rows or (graph.batch is None and n <= rows):
        before()
        return graph.run(inputs)
    output = np.empty((n, graph.output.shape[1]), graph.output.dtype)
    for start in range(0, n, rows):
        part = inputs[start : start + rows]
        short = rows - part.shape[0] if graph.batch is not None else 0
        padded = np.pad(part, ((0, short), (0, 0))) if short else part
        before()
        output[start : start + rows] = graph.run(padded)[: part.shape[0]]
    return output
