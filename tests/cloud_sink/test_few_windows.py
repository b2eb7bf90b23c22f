"""Windows that overlap are few: what the scale of a feature and the level of a score may take from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_sink.fit import FitOptions, fit_dataset
from cloud_sink.quantise import FloatGraph
from models.calibration import fit_calibration, p_values
from models.commissioning import LEAST_EFFECTIVE, commission, prediction, recentring_spec
from models.recentring import Recentring
from models.scoring import normalise, residuals, scores
from tests.cloud_sink.recordings import dataset, slow_signal
from tests.models.healthy_scores import ar_scores

N, K = 60, 12


def overlapping(n: int, seed: int) -> NDArray[np.float32]:
    """``n`` means over N samples of noise, one sample apart, of K channels that have nothing to do with each other."""
    noise = np.random.default_rng(seed).normal(size=(n + N - 1, K))
    sums = np.cumsum(np.vstack([np.zeros(K), noise]), axis=0)
    found: NDArray[np.float32] = ((sums[N:] - sums[:-N]) / math.sqrt(N)).astype(np.float32)
    return found


# --- the scale of features that are re-centred ---


def test_the_scale_knows_how_little_was_seen() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 1)).astype(np.float32)
    assert prediction(noise, 1.0) == pytest.approx([math.sqrt((1 + 1 / 400) * 400 / 399)], abs=0.02)
    # 400 windows of 60 samples: 6.7 at most.
    slow = prediction(overlapping(400, 3), float(N))
    n = 400 / N
    assert (slow >= math.sqrt((1 + 1 / n) * n / (n - 1)) - 0.02).all()
    # However long it went one way, that is few windows.
    ramp = np.linspace(0, 1, 20_000, dtype=np.float32)[:, None]
    assert prediction(overlapping(20_000, 3), float(N)).max() < 1.02
    assert prediction(ramp, float(N))[0] > 1.1
    most = math.sqrt((1 + 1 / LEAST_EFFECTIVE) * LEAST_EFFECTIVE / (LEAST_EFFECTIVE - 1))
    assert prediction(np.ones((20, 2), np.float32), float(N)) == pytest.approx([most, most])


def test_only_what_is_re_centred_has_a_wider_scale() -> None:
    rows = overlapping(400, 4)
    everything, least = np.ones(len(rows), np.bool_), np.full(K, 1e-3)
    moves = np.arange(K) < 5
    spec = recentring_spec(dataset(slow_signal(100), n=N).window)
    plain = commission(rows, everything, None, moves, least)
    done = commission(rows, everything, spec, moves, least)
    assert done.scale[~moves].tolist() == plain.scale[~moves].tolist()
    assert done.scale[moves] == pytest.approx(plain.scale[moves] * prediction(rows[:, moves], float(N)))


# --- the level ---


@pytest.mark.parametrize("n_effective", [1.0, 4.0, 40.0])
def test_a_level_is_raised_for_what_is_not_known_of_the_median(n_effective: float) -> None:
    known = ar_scores(400, 0.0, 1)
    sure, unsure = (fit_calibration(known, n).tail_shape for n in (1e12, n_effective))
    assert unsure / sure == pytest.approx(math.sqrt(1 + 1 / n_effective))


def test_a_level_of_few_windows_is_near_what_it_says_over_many_machines() -> None:
    """400 rows of a machine, and what it goes on to do."""
    shares: list[list[float]] = []
    for seed in range(24):
        data = dataset(slow_signal(3000, seed=seed), n=N, used=400 - N + 1)
        made = fit_dataset(data, FitOptions(family="mahalanobis", model_id="press", version=1, created_ns=0))
        manifest, artifact = made.manifest, made.manifest.artifacts[0]
        normal = manifest.normalisation
        centre, scale = np.array(normal.centre), np.array(normal.scale)
        assert manifest.recentring is not None
        follower = Recentring(
            manifest.recentring, centre, scale, np.ones(len(centre), np.bool_), np.array(normal.start_centre)
        )
        moved, _ = follower.apply(np.ascontiguousarray(data.features[~data.used]))
        inputs = normalise(moved, centre, scale)
        output, _ = FloatGraph(made.artifacts["cpu-float32"]).run(inputs)
        score = scores(residuals(inputs, output, manifest.output_kind, np.array(artifact.residual_scale)))
        p = p_values(artifact.calibration, score)
        shares.append([float(np.mean(p <= level)) for level in (0.05, 0.01)])
    of_twenty, of_hundred = np.mean(shares, axis=0)
    assert 0.01 < of_twenty < 0.06
    assert 0.002 < of_hundred < 0.015
