"""Exported graphs against numpy, on the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="the exporter needs ai-edge-litert's schema")

from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.export import Dense, Quantisation, float_model, int8_model
from models.runtime import Graph
from models.tflite_check import check, edge_tpu_check
from tests.models.tflite_models import RANGES, layers


def reference(stack: list[Dense], x: NDArray[np.float32]) -> NDArray[np.float64]:
    y = x.astype(np.float64)
    for layer in stack:
        y = y @ layer.weights.astype(np.float64).T + layer.bias
        y = np.maximum(y, 0) if layer.activation == "relu" else y
    return y


def run_int8(model: bytes, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Real output for real input, and the output's step."""
    graph = Graph(model)
    i, o = graph.input, graph.output
    q = np.clip(np.rint(x / i.scale) + i.zero_point, -128, 127).astype(np.int8)
    rows = graph.batch or len(q)
    out = np.concatenate([graph.run(q[s : s + rows]) for s in range(0, len(q), rows)])
    return (out.astype(np.float64) - o.zero_point) * o.scale, o.scale


def inputs(n: int, width: int = 6, scale: float = 2.0) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(n, width), scale=scale).astype(np.float32)


def test_float_model_is_the_layers() -> None:
    stack, x = layers(), inputs(50)
    np.testing.assert_allclose(Graph(float_model(stack)).run(x), reference(stack, x), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_int8_model_is_the_layers_within_its_steps(batch: int | None) -> None:
    stack, x = layers(width=16, hidden=8), inputs(100, width=16)
    got, step = run_int8(int8_model(stack, RANGES, batch), x)
    error = np.abs(got - reference(stack, x))
    # Input, hidden layer and output are each rounded to a step, and the weights to 1/254 of their largest.
    assert error.max() < 3 * step
    assert np.sqrt(np.mean(error**2)) < step


def test_a_wide_range_does_not_clip_what_a_narrow_one_does() -> None:
    stack = [Dense(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))]
    x = np.full((1, 4), 50.0, np.float32)
    narrow, _ = run_int8(int8_model(stack, [(-5, 5), (-5, 5)]), x)
    wide, step = run_int8(int8_model(stack, [(-100, 100), (-100, 100)]), x)
    assert narrow.max() < 6
    np.testing.assert_allclose(wide, x, atol=step)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from([1e-9, 1e-3, 1.0, 1e4])
)
def test_what_is_exported_passes_the_static_check(n_in: int, n_out: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    stack = [
        Dense(
            (size * rng.normal(size=(n_out, n_in))).astype(np.float32), np.zeros(n_out, np.float32), "relu"
        ),
        Dense(
            rng.normal(size=(n_in, n_out)).astype(np.float32),
            (size * rng.normal(size=n_in)).astype(np.float32),
        ),
    ]
    ranges = [(-20.0, 20.0), (0.0, 100 * size), (-100 * size, 100 * size)]
    assert check(float_model(stack)).input.shape == (-1, n_in)
    assert check(int8_model(stack, ranges)).output.shape == (-1, n_in)
    assert edge_tpu_check(check(int8_model(stack, ranges, batch=1))) == []


def test_zero_weights_leave_the_bias() -> None:
    stack = [Dense(np.zeros((3, 2), np.float32), np.array([1.0, -2.0, 3.0], np.float32))]
    model = int8_model(stack, [(-1, 1), (-4, 4)])
    check(model)
    got, step = run_int8(model, np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(got[0], [1, -2, 3], atol=step)


def test_a_bias_too_large_for_its_scale_is_kept() -> None:
    stack = [Dense(np.full((1, 1), 1e-7, np.float32), np.array([1000.0], np.float32))]
    got, step = run_int8(int8_model(stack, [(-1, 1), (0, 2000)]), np.zeros((1, 1), np.float32))
    assert got[0, 0] == pytest.approx(1000, abs=step)


def test_equal_layers_give_equal_bytes() -> None:
    assert float_model(layers()) == float_model(layers())
    assert int8_model(layers(), RANGES) == int8_model(layers(), RANGES)


def test_metadata_is_in_the_file_and_passes() -> None:
    model = float_model(layers(), metadata=b'{"trained_on": "press-4"}')
    assert b'{"trained_on": "press-4"}' in model
    check(model)


def test_constants_are_aligned_for_any_processor() -> None:
    model = float_model(layers(width=7, hidden=3))
    weights = np.ascontiguousarray(layers(width=7, hidden=3)[0].weights).tobytes()
    assert model.index(weights) % 16 == 0


@pytest.mark.parametrize(
    ("stack", "text"),
    [
        ([], "at least one layer"),
        ([Dense(np.ones((2, 3), np.float32), np.ones(3, np.float32))], "layer 0"),
        (
            [
                Dense(np.ones((2, 3), np.float32), np.ones(2, np.float32)),
                Dense(np.ones((3, 3), np.float32), np.ones(3, np.float32)),
            ],
            "layer 1 takes 3 values, the one before gives 2",
        ),
        ([Dense(np.full((1, 1), np.nan, np.float32), np.ones(1, np.float32))], "not finite"),
        ([Dense(np.full((1, 1), 1e300), np.ones(1, np.float32))], "not finite"),
    ],
)
def test_layers_that_do_not_fit(stack: list[Dense], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        float_model(stack)


@pytest.mark.parametrize(
    "ranges", [RANGES[:2], [(0.0, 0.0), *RANGES[1:]], [(0.0, float("inf")), *RANGES[1:]]]
)
def test_ranges_that_do_not_fit(ranges: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="range"):
        int8_model(layers(), ranges)


def test_batch_must_be_positive() -> None:
    with pytest.raises(ValueError, match="batch"):
        int8_model(layers(), RANGES, batch=0)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_quantisation_holds_its_range_and_zero(low: float, span: float) -> None:
    q = Quantisation.over(low, low + span)
    assert -128 <= q.zero_point <= 127
    for end in (low, low + span, 0.0):
        assert (-128.5 - 1e-3 - q.zero_point) * q.scale <= end <= (127.5 + 1e-3 - q.zero_point) * q.scale
