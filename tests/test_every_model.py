"""One set of checks that every family of models must pass: the contract of ``cloud_sink.train.FAMILIES``."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_sink.quantise import FloatGraph, Int8Graph, ranges, sweep
from cloud_sink.train import FAMILIES, MIN_ROWS, FitError, Fitted, fit_model, residual_scale
from models.export import float_model, int8_model
from models.manifest import Family
from models.scoring import residuals, scores
from models.tflite_check import check, edge_tpu_check

K = 12
CHANNELS = [f"ch{j // 4}" for j in range(K)]


def healthy(n: int, seed: int, k: int = K) -> NDArray[np.float32]:
    """Correlated features of unit spread: k columns driven by k // 3 causes that wander, and noise."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(max(1, k // 3), k))
    causes = generator.normal(size=(n, max(1, k // 3)))
    for i in range(1, n):
        causes[i] = 0.8 * causes[i - 1] + 0.6 * causes[i]
    rows = causes @ mixing + 0.7 * generator.normal(size=(n, k))
    spread = np.sqrt((mixing**2).sum(axis=0) + 0.49)
    return np.ascontiguousarray(rows / spread, dtype=np.float32)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    name: Family = request.param
    return name


@pytest.fixture(scope="module")
def train_rows() -> NDArray[np.float32]:
    return healthy(600, seed=1)


@pytest.fixture(scope="module")
def fitted(family: Family, train_rows: NDArray[np.float32]) -> Fitted:
    return fit_model(family, train_rows, seed=3)


def test_the_table_holds_every_family_of_the_manifest() -> None:
    assert set(FAMILIES) == set(get_args(Family))


def test_the_same_rows_and_seed_give_the_same_model(
    family: Family, fitted: Fitted, train_rows: NDArray[np.float32]
) -> None:
    again = fit_model(family, train_rows.copy(), seed=3)
    assert float_model(again.layers) == float_model(fitted.layers)
    assert np.array_equal(again.residual_scale, fitted.residual_scale)


def test_the_graph_maps_each_feature_to_a_column_of_its_own(fitted: Fitted) -> None:
    assert fitted.n_features == K
    assert fitted.layers[-1].weights.shape[0] == K
    assert fitted.residual_scale.shape == (K,)
    assert (fitted.residual_scale > 0).all()
    assert all(
        a.weights.shape[0] == b.weights.shape[1]
        for a, b in zip(fitted.layers, fitted.layers[1:], strict=False)
    )
    assert fitted.output_kind == FAMILIES[fitted.family].output_kind


def test_the_tflite_graph_computes_what_was_fitted(fitted: Fitted) -> None:
    rows = healthy(300, seed=2) * np.float32(5)
    output, saturated = FloatGraph(float_model(fitted.layers)).run(rows)
    wanted = fitted.activations(rows)[-1]
    assert np.abs(output - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert not saturated.any()


def test_a_score_does_not_depend_on_its_company(fitted: Fitted) -> None:
    rows = healthy(50, seed=4)
    graph = FloatGraph(float_model(fitted.layers))

    def score(part: NDArray[np.float32]) -> NDArray[np.float32]:
        return scores(residuals(part, graph.run(part)[0], fitted.output_kind, fitted.residual_scale))

    together = score(rows)
    alone = np.concatenate([score(rows[i : i + 1]) for i in range(len(rows))])
    assert together.tobytes() == alone.tobytes()


def test_unseen_healthy_rows_score_about_one(fitted: Fitted) -> None:
    score = fitted.scores(healthy(600, seed=5))
    assert 0.6 < float(np.median(score)) < 1.6


@pytest.mark.parametrize("offset", [-100.0, -20.0, 20.0, 100.0])
def test_a_large_offset_of_any_feature_scores_above_every_training_row(
    fitted: Fitted, train_rows: NDArray[np.float32], offset: float
) -> None:
    rows = np.tile(healthy(1, seed=6), (K, 1)) + offset * np.eye(K, dtype=np.float32)
    assert fitted.scores(rows).min() > fitted.scores(train_rows).max()


def test_a_larger_offset_scores_higher(fitted: Fitted) -> None:
    base = healthy(200, seed=7)
    means = []
    for offset in (0.0, 4.0, 8.0, 16.0, 32.0, 64.0):
        rows = base.copy()
        rows[:, 3] += np.float32(offset)
        means.append(float(fitted.scores(rows).mean()))
    assert means == sorted(means)
    assert means[-1] > 5 * means[0]


def test_the_residual_points_at_the_feature_that_moved(fitted: Fitted) -> None:
    base = healthy(50, seed=8)
    graph = FloatGraph(float_model(fitted.layers))
    hits = 0
    for j in range(K):
        rows = base.copy()
        rows[:, j] += np.float32(15)
        residual = residuals(rows, graph.run(rows)[0], fitted.output_kind, fitted.residual_scale)
        share = (residual.astype(np.float64) ** 2).mean(axis=0)
        hits += int(np.argmax(share)) == j
    assert hits >= K - 2  # a linear autoencoder may hand an offset on to a feature that it is tied to


def test_constant_and_repeated_features_leave_scores_finite(family: Family) -> None:
    rows = healthy(200, seed=9)
    rows[:, 1] = 0.0
    rows[:, 2] = rows[:, 3]
    model = fit_model(family, rows)
    graph = FloatGraph(float_model(model.layers))
    moved = rows.copy()
    moved[:, 1] = 50.0
    moved[:, 2] -= 50.0
    score = scores(residuals(moved, graph.run(moved)[0], model.output_kind, model.residual_scale))
    assert np.isfinite(score).all()
    assert score.min() > model.scores(rows).max()


@pytest.mark.parametrize("k", [3, 40])
def test_the_least_number_of_rows_is_enough_to_fit(family: Family, k: int) -> None:
    rows = healthy(MIN_ROWS, seed=10, k=k)
    model = fit_model(family, rows)
    assert np.isfinite(model.scores(rows * 100)).all()


def test_too_few_rows_or_a_hole_are_refused(family: Family) -> None:
    with pytest.raises(FitError, match=f"at least {MIN_ROWS}"):
        fit_model(family, healthy(MIN_ROWS - 1, seed=11))
    rows = healthy(50, seed=11)
    rows[7, 2] = np.nan
    with pytest.raises(FitError, match="finite"):
        fit_model(family, rows)
    with pytest.raises(FitError, match="features"):
        fit_model(family, healthy(50, seed=11, k=1))


def test_the_int8_twin_ranks_like_the_float_model_and_misses_no_probe(
    fitted: Fitted, train_rows: NDArray[np.float32]
) -> None:
    found = sweep(fitted, train_rows, CHANNELS)
    assert found.publish, found.why_not
    assert found.n_missed == 0
    assert found.n_probes > 100
    graph = Int8Graph(int8_model(fitted.layers, ranges(fitted, train_rows, found.sigmas)))
    output, saturated = graph.run(train_rows)
    scale = residual_scale(train_rows, output, fitted.output_kind)
    trained = scores(residuals(train_rows, output, fitted.output_kind, scale))
    assert saturated.mean() < 0.02
    far = np.repeat(train_rows[:1], K, axis=0) + 100 * np.eye(K, dtype=np.float32)
    output, saturated = graph.run(far)
    assert saturated.all()
    assert scores(residuals(far, output, fitted.output_kind, scale)).min() > trained.max()


def test_the_graphs_pass_the_static_check_and_fit_an_edge_tpu(
    fitted: Fitted, train_rows: NDArray[np.float32]
) -> None:
    check(float_model(fitted.layers))
    found = sweep(fitted, train_rows, CHANNELS)
    static = check(int8_model(fitted.layers, ranges(fitted, train_rows, found.sigmas), 1))
    assert edge_tpu_check(static) == []
