"""Cross-fit, as it shows in what comes out: no number that a score is judged by has seen the window it judges."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_sink import quantise
from cloud_sink.fit import N_FOLDS, FitOptions, Trained, fit_dataset
from cloud_sink.quantise import FloatGraph, Int8Graph
from models.cross_fit import block_folds
from models.manifest import Family
from models.messages import unpack_floats
from models.scoring import normalise, residuals
from models.signal import ArtifactTarget
from tests.cloud_sink.recordings import dataset, slow_signal

TARGETS: tuple[ArtifactTarget, ...] = ("cpu-float32", "cpu-int8")
N_WINDOWS = 600
MADE: list[tuple[Family, int, int]] = [("mahalanobis", 20, 1), ("mahalanobis", 20, 3), ("linear-ae", 20, 1)]


@pytest.fixture(autouse=True)
def _one_choice_of_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """By how many sigmas int8 reaches is chosen on all windows, which is no score: here it is always the same, and int8
    published whatever it loses."""
    monkeypatch.setattr(quantise, "candidates", lambda _: [quantise.Sigmas(20.0, 30.0)])
    monkeypatch.setattr(quantise, "MIN_CORRELATION", 0.0)


def fitted(family: Family, features: NDArray[np.float32], n: int, hop: int) -> Trained:
    """A model of windows with these ``features``; without re-centring, which carries what it saw from one window to
    the next."""
    healthy = dataset(slow_signal(n + hop * (N_WINDOWS - 1)), n=n, hop=hop)
    data = dataclasses.replace(healthy, features=features)
    return fit_dataset(
        data, FitOptions(family=family, model_id="press", version=1, created_ns=0, recentring=False)
    )


@cache
def undisturbed(family: Family, n: int, hop: int) -> tuple[NDArray[np.float32], Trained]:
    features = dataset(slow_signal(n + hop * (N_WINDOWS - 1)), n=n, hop=hop).features
    return features, fitted(family, features, n, hop)


def oof(trained: Trained, target: ArtifactTarget) -> NDArray[np.float32]:
    """A score for each window; NaN in the first block, which is not judged."""
    artifact = trained.manifest.artifact(target)
    assert artifact is not None
    judged = unpack_floats(artifact.calibration.oof_scores, (-1,))
    n_windows = trained.manifest.training.n_windows
    first = np.linspace(0, n_windows, N_FOLDS + 1).astype(int)[1]
    assert judged.size == n_windows - first
    return np.concatenate([np.full(first, np.nan, np.float32), judged])


@pytest.mark.parametrize(("family", "n", "hop"), MADE)
@pytest.mark.parametrize(
    ("block", "place"),
    [
        (1, "first after"),
        (1, "after those"),
        (2, "within"),
        (2, "last before"),
        (2, "first after"),
        (2, "before those"),
        (2, "after those"),
        (N_FOLDS - 1, "within"),
        (N_FOLDS - 1, "last before"),
        (N_FOLDS - 1, "before those"),
    ],
)
def test_what_judges_a_block_has_seen_nothing_within_a_windows_length_of_it(
    family: Family, n: int, hop: int, block: int, place: str
) -> None:
    """One window is made unlike itself. Scores of a block that it is in, or overlaps, are those that they were; of one
    that it has nothing in common with they are not."""
    features, before = undisturbed(family, n, hop)
    _, inside = block_folds(N_WINDOWS, N_FOLDS, 0)[block - 1]
    first, last = int(inside[0]), int(inside[-1])
    overlap = -(-n // hop)
    spoilt = {
        "within": (first + last) // 2,
        "last before": first - overlap,
        "first after": last + overlap,
        "before those": first - overlap - 1,
        "after those": last + overlap + 1,
    }[place]
    other = features.copy()
    other[spoilt] += features.std(axis=0) * np.float32(0.5)
    after = fitted(family, other, n, hop)
    judged = inside[inside != spoilt]
    for target in TARGETS:
        same = np.array_equal(oof(after, target)[judged], oof(before, target)[judged])
        assert same is not place.endswith("those"), target


def test_false_alarms_are_counted_by_a_calibration_that_has_not_seen_them() -> None:
    """A stretch that is unlike the rest and lies in one block: every window of it is an alarm to who knows the others
    only, and one in a hundred to who knows it too."""
    signal = slow_signal(1200)
    signal[490:700, 2] += 1.0
    trained = fit_dataset(
        dataset(signal),
        FitOptions(family="mahalanobis", model_id="press", version=1, created_ns=0, recentring=False),
    )
    scores = oof(trained, "cpu-float32")
    others = np.concatenate([scores[:470], scores[700:]])
    assert scores[490:680].min() > 1.5 * np.nanmax(others)
    assert trained.manifest.training.cross_fit_far > 0.1


@pytest.mark.parametrize("family", ["mahalanobis", "linear-ae"])
def test_residuals_of_each_graph_are_scaled_by_its_own(family: Family) -> None:
    features, trained = undisturbed(family, 20, 1)
    manifest = trained.manifest
    normalisation = manifest.normalisation
    inputs = normalise(features, np.array(normalisation.centre), np.array(normalisation.scale))
    graphs = {
        "cpu-float32": FloatGraph(trained.artifacts["cpu-float32"]),
        "cpu-int8": Int8Graph(trained.artifacts["cpu-int8"]),
    }
    scales = {}
    for artifact in manifest.artifacts:
        output, _ = graphs[artifact.target].run(inputs)
        scale = scales[artifact.target] = np.array(artifact.residual_scale)
        spread = np.sqrt(
            np.mean(residuals(inputs, output, manifest.output_kind, scale).astype(np.float64) ** 2, axis=0)
        )
        if manifest.output_kind == "whitened":
            assert (scale == 1).all()
        else:
            above_floor = scale > scale.min()
            assert above_floor.sum() > 5
            np.testing.assert_allclose(spread[above_floor], 1.0, rtol=1e-4)
    different = not np.allclose(scales["cpu-float32"], scales["cpu-int8"], rtol=1e-4)
    assert different is (manifest.output_kind == "reconstruction")
