"""From a feature matrix to a fitted model: pure, one table of families, one contract for all of them.

Invariants: a family maps normalised features float32[w, k] (healthy spread about 1 per column) to dense
layers that the exporter can write, and nothing else; column j of the graph's output belongs to feature j, so
one residual per feature follows from it (``models.scoring``); high score = anomalous; the same rows, family
and seed give the same model. Rows must be in time order: what is held back to stop a network's training is
the end of the recording, never a random draw, because neighbouring windows overlap.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.neural_network import MLPRegressor

from models.export import Dense
from models.manifest import Family
from models.sample_size import MIN_ROWS as MIN_ROWS
from models.sample_size import FitError as FitError
from models.scoring import OutputKind, residuals, scores
from models.whitening import dense
from models.whitening import whitening_layers as whitening_layers

MAX_NETWORK_ROWS = 20_000  # a network is fitted on at most this many rows, evenly spaced over the recording
EXPLAINED_VARIANCE = 0.95  # kept by the linear autoencoder
MIN_RESIDUAL_SCALE = 0.1  # a feature that is reconstructed almost exactly must not outweigh all others


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A fitted model: ``layers`` are the graph, ``residual_scale`` float64[k] is what its residuals are
    divided by."""

    family: Family
    output_kind: OutputKind
    layers: tuple[Dense, ...]
    residual_scale: NDArray[np.float64]

    @property
    def n_features(self) -> int:
        return int(self.layers[0].weights.shape[1])

    def activations(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float64]]:
        """Every tensor of the graph for ``inputs`` float32[w, k], the input first and the output last: the
        reference that ranges are chosen by and tests compare the runtime with. Not for scoring: it calls
        BLAS."""
        tensors = [np.asarray(inputs, dtype=np.float64)]
        for layer in self.layers:
            value = tensors[-1] @ layer.weights.astype(np.float64).T + layer.bias
            tensors.append(np.maximum(value, 0.0) if layer.activation == "relu" else value)
        return tensors

    def scores(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[w] of the reference forward pass."""
        output = self.activations(inputs)[-1].astype(np.float32)
        return scores(residuals(inputs, output, self.output_kind, self.residual_scale))


Fit = Callable[[NDArray[np.float64], int], tuple[Dense, ...]]


@dataclass(frozen=True, slots=True)
class FamilySpec:
    """A family of models: ``fit(inputs float64[w, k], seed) -> layers``, what its output means, and a line
    for people."""

    fit: Fit
    output_kind: OutputKind
    summary: str


def fit_model(family: Family, inputs: NDArray[np.float32], *, seed: int = 0) -> Fitted:
    """A model of ``family`` fitted on normalised features float32[w, k] in time order.

    Raises FitError when there are fewer than MIN_ROWS rows or a value is not finite.
    """
    rows = np.ascontiguousarray(inputs, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise FitError(f"features have shape {rows.shape}, expected (windows, at least 2 features)")
    if rows.shape[0] < MIN_ROWS:
        raise FitError(
            f"{rows.shape[0]} windows are too few to fit a model on: at least {MIN_ROWS} are needed"
        )
    if not np.isfinite(rows).all():
        raise FitError("features are not all finite")
    spec = FAMILIES[family]
    layers = spec.fit(rows, seed)
    unscaled = Fitted(family, spec.output_kind, layers, np.ones(rows.shape[1]))
    output = unscaled.activations(inputs)[-1].astype(np.float32)
    return Fitted(family, spec.output_kind, layers, residual_scale(inputs, output, spec.output_kind))


def residual_scale(
    inputs: NDArray[np.float32], output: NDArray[np.float32], kind: OutputKind
) -> NDArray[np.float64]:
    """What a residual is divided by, float64[k]: 1 for a whitened vector (its spread is 1 by construction),
    else the root mean square of the training residual, at least MIN_RESIDUAL_SCALE."""
    n_features = inputs.shape[1]
    if kind == "whitened":
        return np.ones(n_features)
    raw = inputs.astype(np.float64) - output
    rms: NDArray[np.float64] = np.sqrt(np.mean(raw * raw, axis=0))
    return np.maximum(rms, MIN_RESIDUAL_SCALE)


def _fit_mahalanobis(rows: NDArray[np.float64], seed: int) -> tuple[Dense, ...]:
    # Ledoit & Wolf (2004), "A well-conditioned estimator for large-dimensional covariance matrices"; the
    # symmetric square root (ZCA: Kessy, Lewin & Strimmer 2018) is the whitening whose output stays closest to
    # its input, feature by feature.
    covariance, _ = ledoit_wolf(rows)
    return whitening_layers(rows.mean(axis=0), covariance)


def _fit_linear_ae(rows: NDArray[np.float64], seed: int) -> tuple[Dense, ...]:
    # PCA as two dense layers: codes are the leading components, the decoder is the transpose of the encoder.
    mean = rows.mean(axis=0)
    _, singular, axes = np.linalg.svd(rows - mean, full_matrices=False)
    return _component_layers(mean, singular**2, axes)


def component_layers(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> tuple[Dense, ...]:
    """The same of ``mean`` and ``covariance``: of the rows that have these."""
    power, axes = np.linalg.eigh(covariance)
    return _component_layers(mean, np.maximum(power[::-1], 0.0), axes.T[::-1])


def _component_layers(
    mean: NDArray[np.float64], power: NDArray[np.float64], axes: NDArray[np.float64]
) -> tuple[Dense, ...]:
    total = float(power.sum())
    if total <= 0.0:
        n_codes = 1
    else:
        n_codes = int(np.searchsorted(np.cumsum(power) / total, EXPLAINED_VARIANCE) + 1)
    n_codes = max(1, min(n_codes, mean.size - 1, axes.shape[0]))
    encoder = axes[:n_codes]
    return (dense(encoder, -encoder @ mean, "none"), dense(encoder.T, mean, "none"))


MAX_EPOCHS = 400
MAX_STEPS = 6_000  # gradient steps: bounds the time that a long recording takes
PATIENCE = 20
WIDTH = 16  # of wide-ae
HELD_BACK = 0.15  # the share of rows, at the end of the recording, that decides when to stop


def network_shape(n_features: int) -> tuple[int, int, int]:
    """Hidden sizes (h, b, h) of the autoencoder k-h-b-h-k: 42 features give 24-8-24."""
    hidden = max(4, math.ceil(n_features * 4 / 7))
    return hidden, max(2, math.ceil(n_features / 5.25)), hidden


def wide_shape(n_features: int) -> tuple[int, int, int]:
    """As :func:`network_shape`, for a sink's processor: hidden layers WIDTH times as wide around the same code; 42 features give
    384-8-384."""
    hidden, code, _ = network_shape(n_features)
    return WIDTH * hidden, code, WIDTH * hidden


def _fit_ae(rows: NDArray[np.float64], seed: int) -> tuple[Dense, ...]:
    return _fit_network(rows, seed, network_shape(rows.shape[1]))


def _fit_wide_ae(rows: NDArray[np.float64], seed: int) -> tuple[Dense, ...]:
    return _fit_network(rows, seed, wide_shape(rows.shape[1]))


def _fit_network(rows: NDArray[np.float64], seed: int, shape: tuple[int, int, int]) -> tuple[Dense, ...]:
    # The epoch count is found on the end of the recording, then all rows are fitted for that many epochs: a
    # short recording cannot spare its last part.
    stride = max(1, math.ceil(rows.shape[0] / MAX_NETWORK_ROWS))
    rows = rows[::stride]
    n_held = max(1, int(rows.shape[0] * HELD_BACK))
    early, late = rows[:-n_held], rows[-n_held:]
    network = _network(early, seed, shape)
    best, best_epoch = math.inf, 1
    for epoch in range(1, _max_epochs(early.shape[0]) + 1):
        _train_one_epoch(network, early)
        error = float(np.mean((network.predict(late) - late) ** 2))
        if error < best * 0.999:
            best, best_epoch = error, epoch
        elif epoch - best_epoch >= PATIENCE:
            break
    network = _network(rows, seed, shape)
    for _ in range(best_epoch):
        _train_one_epoch(network, rows)
    last = len(network.coefs_) - 1
    return tuple(
        dense(weights.T, bias, "none" if i == last else "relu")
        for i, (weights, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True))
    )


def _batch_size(n_rows: int) -> int:
    return min(n_rows, max(32, min(256, n_rows // 16)))


def _max_epochs(n_rows: int) -> int:
    return max(1, min(MAX_EPOCHS, MAX_STEPS * _batch_size(n_rows) // n_rows))


def _network(rows: NDArray[np.float64], seed: int, shape: tuple[int, int, int]) -> MLPRegressor:
    return MLPRegressor(
        hidden_layer_sizes=shape,
        activation="relu",
        solver="adam",
        learning_rate_init=2e-3,
        batch_size=_batch_size(rows.shape[0]),
        random_state=seed,
    )


def _train_one_epoch(network: MLPRegressor, rows: NDArray[np.float64]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a network of one output warns about its target's shape at every epoch
        network.partial_fit(rows, rows)


FAMILIES: Mapping[Family, FamilySpec] = {
    "mahalanobis": FamilySpec(_fit_mahalanobis, "whitened", "Ledoit-Wolf covariance; one dense layer"),
    "linear-ae": FamilySpec(_fit_linear_ae, "reconstruction", "PCA reconstruction, two dense layers"),
    "ae": FamilySpec(_fit_ae, "reconstruction", "autoencoder k-h-b-h-k with ReLU, four dense layers"),
    "wide-ae": FamilySpec(
        _fit_wide_ae, "reconstruction", "as ae, with hidden layers 16 times as wide: for a sink"
    ),
}
