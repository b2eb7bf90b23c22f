"""Small models for the tests, from the exporter (which needs ai-edge-litert's schema)."""

from __future__ import annotations

import numpy as np

from cloud_sink.export import Dense, float_model, int8_model

RANGES = [(-8.0, 8.0), (0.0, 30.0), (-20.0, 20.0)]


def layers(width: int = 6, hidden: int = 4, seed: int = 0) -> list[Dense]:
    rng = np.random.default_rng(seed)

    def dense(n_out: int, n_in: int, activation: str) -> Dense:
        weights = rng.normal(size=(n_out, n_in), scale=n_in**-0.5).astype(np.float32)
        return Dense(
            weights, rng.normal(size=n_out, scale=0.1).astype(np.float32), "relu" if activation else "none"
        )

    return [dense(hidden, width, "relu"), dense(width, hidden, "")]


def float_seed() -> bytes:
    return float_model(layers(), metadata=b'{"card": 1}')


def int8_seed(batch: int | None) -> bytes:
    return int8_model(layers(), RANGES, batch)
