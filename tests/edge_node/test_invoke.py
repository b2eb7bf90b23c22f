"""From rows to invokes: what comes out does not depend on how many go in at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.invoke import MAX_ROWS, evaluate
from edge_node.worker import _rows_of_an_invoke
from models.runtime import Graph, TensorInfo
from models.signal import ArtifactTarget
from tests.edge_node.working import ARTIFACTS, rows

pytestmark = pytest.mark.tflite_runtime


@pytest.mark.parametrize("target", ["cpu-float32", "cpu-int8"])
def test_rows_at_once_change_nothing_but_the_number_of_invokes(target: ArtifactTarget) -> None:
    graph, x, invokes = Graph(ARTIFACTS[target]), rows(100, scale=6.0), [0]

    def count() -> None:
        invokes[0] += 1

    whole = evaluate(graph, x, before=count)
    assert invokes == [1]
    parts = evaluate(graph, x, most=7, before=count)
    assert invokes == [1 + 15]
    assert np.array_equal(whole.output, parts.output)
    assert whole.n_saturated == parts.n_saturated
    assert (whole.saturated is None) == (parts.saturated is None) == (target == "cpu-float32")


class Slow:
    """A graph that takes ``row_s`` for each row, by a clock that nothing else moves."""

    now_s = 0.0

    batch = None
    input = output = TensorInfo("t", 0, (-1, 4), np.dtype(np.float32), 0.0, 0)

    def __init__(self, row_s: float) -> None:
        self._row_s = row_s

    def run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        Slow.now_s += self._row_s * len(inputs)
        return inputs


def test_a_graph_that_is_slow_takes_fewer_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_node.worker.time.perf_counter", lambda: Slow.now_s)
    inputs = np.zeros((2, 4), np.float32)
    assert 100 < _rows_of_an_invoke(Slow(1e-6), inputs) <= MAX_ROWS  # type: ignore[arg-type]
    assert 1 <= _rows_of_an_invoke(Slow(0.005), inputs) <= 10  # type: ignore[arg-type]
    assert _rows_of_an_invoke(Slow(0.06), inputs) == 1  # type: ignore[arg-type]
