"""A model that a gateway fits by itself: as good as a sink's, and held to the same checks."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.model_store import load_bundle
from models import manifest as manifests
from models.features import FeatureSpec, extract, learn_floors
from models.healthy_rows import HealthyRows
from models.linear_fit import DenseGraph, fit_linear
from models.runtime import Graph
from models.sample_size import FitError
from models.scoring import normalise, residuals, scores
from models.sensor_checks import learn_baselines
from models.signal import Channel, Device, Mode, WindowBatch, WindowSpec
from models.time_policy import TimeTreatment, default_policy
from models.whitening import oas, whitening_layers

WINDOW = WindowSpec(n=64, hop=32, rate_hz=Fraction(100), mode=Mode.CONTINUOUS)
DEVICE = Device(
    device_id="d", machine="d", rate_hz=Fraction(100), channels=(Channel(name="x"), Channel(name="y"))
)


def windows(n: int, seed: int = 0, gain: float = 1.0) -> NDArray[np.float32]:
    """``n`` windows of two channels of noise, the second mixed with the first."""
    noise = np.random.default_rng(seed).normal(size=((n + 1) * WINDOW.hop, 2))
    signal = (gain * np.stack([noise[:, 0], noise[:, 0] + 0.5 * noise[:, 1]], axis=1)).astype(np.float32)
    return np.stack([signal[i * WINDOW.hop : i * WINDOW.hop + WINDOW.n] for i in range(n)])


def healthy(n: int, raw: NDArray[np.float32] | None = None) -> HealthyRows:
    raw = windows(n) if raw is None else raw
    valid = np.ones(raw.shape, np.bool_)
    start = np.arange(len(raw)) * WINDOW.hop_ns
    spec = FeatureSpec(set="vibration", floors=learn_floors(raw, valid))
    batch = WindowBatch("d", start, start + WINDOW.window_ns, raw, valid)
    return HealthyRows(
        device=DEVICE,
        window=WINDOW,
        time=TimeTreatment.of(default_policy(WINDOW)),
        spec=spec,
        baselines=learn_baselines([batch], WINDOW),
        examples=raw,
        start_ns=start,
        end_ns=start + WINDOW.window_ns,
        rows=extract(spec, raw, valid, WINDOW.rate_hz),
    )


def test_it_passes_all_that_a_bundle_must_pass(tmp_path: Path) -> None:
    manifest, model = fit_linear(healthy(400), "d", 0)
    (artifact,) = manifest.artifacts
    (tmp_path / artifact.file).write_bytes(model)
    (tmp_path / "manifest.json").write_bytes(manifests.encode(manifest))
    bundle = load_bundle(tmp_path)
    assert (bundle.manifest, bundle.signed) == (manifest, False)


def test_healthy_windows_score_as_the_calibration_says_and_a_fault_far_beyond() -> None:
    manifest, model = fit_linear(healthy(400), "d", 0)
    centre, scale = (np.array(v) for v in (manifest.normalisation.centre, manifest.normalisation.scale))

    def score(raw: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = extract(manifest.features, raw, np.ones(raw.shape, np.bool_), WINDOW.rate_hz)
        inputs = normalise(rows, centre, scale)
        return scores(residuals(inputs, Graph(model).run(inputs), "whitened", np.ones(rows.shape[1])))

    knots = manifest.artifacts[0].calibration.knots
    fresh = score(windows(400, seed=1))
    assert np.mean(fresh > knots[10]) == pytest.approx(
        np.exp(manifest.artifacts[0].calibration.log_p[10]), abs=0.1
    )
    assert score(windows(50, seed=2, gain=3.0)).min() > fresh.max()


def test_the_reference_is_what_the_runtime_computes() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))
    shrunk, _ = oas(np.cov(rows.T), 50.0)
    layers = whitening_layers(rows.mean(axis=0), shrunk)
    from models.export import float_model

    inputs = rows.astype(np.float32)
    np.testing.assert_allclose(
        DenseGraph(layers).run(inputs)[0], Graph(float_model(layers)).run(inputs), atol=1e-4
    )


def test_the_same_rows_give_the_same_bytes() -> None:
    first, second = (fit_linear(healthy(200), "d", 0) for _ in range(2))
    assert first == second


def test_too_few_rows_and_rows_in_which_nothing_moves_are_refused() -> None:
    with pytest.raises(FitError, match="effective ones"):
        fit_linear(healthy(8), "d", 0)
    with pytest.raises(FitError, match="nothing ever changes"):
        fit_linear(healthy(0, np.ones((200, 64, 2), np.float32)), "d", 0)


def test_it_takes_neither_scikit_learn_nor_scipy_nor_a_runtime() -> None:
    program = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('sklearn', 'scipy', 'pandas', 'cloud_sink') or name.endswith('.interpreter'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from tests.models.test_linear_fit import healthy, fit_linear\n"
        "print(fit_linear(healthy(200), 'd', 0)[0].training.n_windows)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "200", done.stderr
