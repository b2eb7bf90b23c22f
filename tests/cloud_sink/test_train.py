"""From a dataset to a model: what the manifest says must be so, and never in-sample."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_sink import fit, quantise
from cloud_sink.bundle import write_bundle
from cloud_sink.dataset import Dataset
from cloud_sink.fit import FitOptions, Trained, fit_dataset, n_steps
from cloud_sink.quantise import Sweep
from cloud_sink.train import FitError, fit_model
from edge_node.model_store import load_bundle
from models import manifest as manifests
from models.calibration import p_values
from models.commissioning import commission, fit_normalisation, recentring_spec
from models.export import Dense, Range, int8_model
from models.features import FeatureSpec, describe, schema_id
from models.manifest import Family
from models.messages import unpack_floats
from models.recentring import Recentring
from models.running_range import HALF_WIDTH, LEAST
from models.sample_size import duration, more_data, require_enough
from models.scoring import normalise
from models.signal import NS_PER_S, Channel
from tests.cloud_sink.recordings import dataset, slow_signal
from tests.fixtures.bundle_files import BUNDLE
from tests.models.tflite_models import DEQUANTIZE, FLOAT32, with_last_operator


def options(family: Family = "mahalanobis", **changes: object) -> FitOptions:
    base = {"family": family, "model_id": "press", "version": 3, "created_ns": 1_700_000_000_000_000_000}
    return FitOptions(**{**base, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained() -> Trained:
    signal = slow_signal(1600)
    signal[1400:, 0] += 0.3
    return fit_dataset(dataset(signal, anomalous_from=1400, used=1180), options())


def oof(trained: Trained, target: str = "cpu-float32") -> NDArray[np.float32]:
    artifact = next(a for a in trained.manifest.artifacts if a.target == target)
    return unpack_floats(artifact.calibration.oof_scores, (-1,))


def test_normalisation_has_a_floor() -> None:
    rows = np.array([[1.0, 5.0], [3.0, 5.0]], np.float32)
    centre, scale = fit_normalisation(rows, np.array([0.1, 0.25]))
    assert centre.tolist() == [2.0, 5.0]
    assert scale.tolist() == [1.0, 0.25]


def test_commissioning_is_what_serving_repeats() -> None:
    rows = dataset(slow_signal(900)).features
    spec = recentring_spec(dataset(slow_signal(100)).window)
    everything, recentred = np.ones(len(rows), np.bool_), np.ones(rows.shape[1], np.bool_)
    done = commission(rows, everything, spec, recentred, np.full(rows.shape[1], 1e-3))
    serving = Recentring(spec, done.centre, done.scale, recentred, done.first_centre)
    moved, _ = serving.apply(rows)
    assert normalise(moved, done.centre, done.scale).tobytes() == done.inputs.tobytes()
    assert serving.moving_centre.tobytes() == done.last_centre.tobytes()
    assert done.inputs.std(axis=0).min() > 0.5


def test_rows_left_out_teach_commissioning_nothing() -> None:
    rows = dataset(slow_signal(900)).features
    learn = np.arange(len(rows)) < 500
    spoilt = rows.copy()
    spoilt[500:] *= 3
    least, recentred = np.full(rows.shape[1], 1e-3), np.zeros(rows.shape[1], np.bool_)
    a = commission(rows, learn, None, recentred, least)
    b = commission(spoilt, learn, None, recentred, least)
    assert a.centre.tobytes() == b.centre.tobytes()
    assert a.scale.tobytes() == b.scale.tobytes()


def test_the_manifest_is_of_what_was_trained(trained: Trained) -> None:
    manifest = trained.manifest
    assert (manifest.model_id, manifest.version, manifest.family) == ("press", 3, "mahalanobis")
    assert manifest.schema_id == schema_id(
        manifest.features, manifest.channel_names, manifest.window, manifest.recentring
    )
    assert manifest.recentring is not None
    assert manifest.recentring.tau_windows == 200
    assert manifest.training.n_windows == 1180
    assert [a.target for a in manifest.artifacts] == ["cpu-float32", "cpu-int8"]
    for artifact in manifest.artifacts:
        data = trained.artifacts[artifact.target]
        assert (artifact.n_bytes, artifact.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert len(artifact.golden) == 3
        assert artifact.golden[2].score > artifact.golden[0].score
    assert manifests.decode(manifests.encode(manifest)) == manifest


def test_each_artifact_is_calibrated_on_its_own_out_of_fold_scores(trained: Trained) -> None:
    float_scores, int8_scores = oof(trained), oof(trained, "cpu-int8")
    assert (
        float_scores.size == int8_scores.size == 1180 * 4 / 5
    )  # what the first of five blocks teaches is not judged
    assert not np.array_equal(float_scores, int8_scores)
    assert 0.9 < trained.manifest.metrics["score_correlation"] < 1.0
    for artifact in trained.manifest.artifacts:
        p = p_values(artifact.calibration, oof(trained, artifact.target))
        assert 0.3 < float(np.median(p)) < 0.7


def test_a_model_is_never_judged_on_what_it_has_seen() -> None:
    # A stretch that is unlike the rest and lies in one block: a model fitted on it finds it ordinary, the
    # others do not.
    signal = slow_signal(1200)
    signal[500:700, 2] += 1.0
    data = dataset(signal)
    model = fit_dataset(data, options(recentring=False))
    strange, first = slice(510, 680), 1180 // 5
    in_sample = fit_in_sample_scores(data)
    out_of_sample = oof(model)[strange.start - first : strange.stop - first]
    assert np.median(out_of_sample) > 3 * np.median(in_sample[strange])


def fit_in_sample_scores(data: Dataset) -> NDArray[np.float32]:
    centre, scale = fit_normalisation(data.features, data.min_scale)
    inputs = normalise(data.features, centre, scale)
    return fit_model("mahalanobis", inputs).scores(inputs)


def test_the_cross_fit_false_alarm_rate_is_near_its_level() -> None:
    rates = [
        fit_dataset(
            dataset(slow_signal(2000, seed=seed), n=10), options(recentring=False)
        ).manifest.training.cross_fit_far
        for seed in range(3)
    ]
    assert 0.0 <= float(np.mean(rates)) < 0.05


def test_labels_give_an_auc_for_each_graph(trained: Trained) -> None:
    assert trained.auc["float32"] > 0.9
    assert abs(trained.auc["float32"] - trained.auc["int8"]) < 0.03
    assert trained.manifest.metrics["auc_float32"] == pytest.approx(trained.auc["float32"], abs=1e-6)


def test_labelled_anomalies_between_the_healthy_parts_are_tested_against_out_of_fold_scores() -> None:
    signal = slow_signal(1500)
    signal[700:800, 0] += 0.5
    data = dataset(signal)
    first = np.arange(data.used.size)
    touched = (first + 20 > 700) & (first < 800)
    data = dataclasses.replace(data, used=~touched, anomalous=touched)
    assert fit_dataset(data, options()).auc["float32"] > 0.9


@pytest.mark.parametrize("family", ["mahalanobis", "linear-ae", "ae", "wide-ae"])
def test_a_gateway_takes_the_bundle(tmp_path: Path, family: Family) -> None:
    model = fit_dataset(dataset(slow_signal(900)), options(family))
    write_bundle(tmp_path / "press", model.manifest, model.artifacts)
    bundle = load_bundle(tmp_path / "press")
    assert bundle.manifest == model.manifest
    assert dict(bundle.artifacts) == dict(model.artifacts)


def test_the_same_recording_gives_the_same_bytes(trained: Trained) -> None:
    signal = slow_signal(1600)
    signal[1400:, 0] += 0.3
    again = fit_dataset(dataset(signal, anomalous_from=1400, used=1180), options())
    assert manifests.encode(again.manifest) == manifests.encode(trained.manifest)
    assert again.artifacts == trained.artifacts


def test_too_little_is_refused_saying_how_much_more_it_takes() -> None:
    with pytest.raises(
        FitError, match=r"41 windows .* 2\.\d effective.* record about \d+ more samples \(\d+ s\)"
    ):
        fit_dataset(dataset(slow_signal(60)), options())


@pytest.mark.parametrize(
    ("n_windows", "warned"),
    [
        (
            49,
            [
                "49.0 effective windows are few (below 50): false-alarm rates are rough; "
                "about 20 more samples (20 s) would do"
            ],
        ),
        (50, []),
    ],
)
def test_fewer_than_fifty_effective_windows_are_warned_of(n_windows: int, warned: list[str]) -> None:
    noise = np.random.default_rng(0).normal(size=(20 * n_windows, 3))
    signal = np.array([3.0, 32.0, 1.3]) * (1 + 0.02 * noise)
    model = fit_dataset(dataset(signal, n=20, hop=20), options())
    assert model.manifest.training.n_effective == n_windows
    assert list(model.warnings) == warned


def test_fewer_than_five_effective_windows_are_refused() -> None:
    window = dataset(slow_signal(100)).window
    require_enough(100, 5.0, window, window.hop_ns)
    with pytest.raises(FitError, match=r"only 4\.9 effective ones, and a model needs 5: record about 3 more"):
        require_enough(100, 4.9, window, window.hop_ns)


def test_an_int8_twin_that_loses_too_much_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "MIN_CORRELATION", 1.01)
    model = fit_dataset(dataset(slow_signal(600)), options(edge_tpu=True))
    assert [a.target for a in model.manifest.artifacts] == ["cpu-float32"]
    assert set(model.artifacts) == {"cpu-float32"}
    assert any("int8 not published" in note and "1.01" in note for note in model.manifest.training.notes)


def test_every_step_is_told() -> None:
    steps: list[str] = []
    data = dataset(slow_signal(400))
    fit_dataset(data, options(), tick=steps.append)
    assert len(steps) == n_steps(data)


def test_an_edge_tpu_model_is_published_uncompiled_without_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    model = fit_dataset(dataset(slow_signal(400)), options(edge_tpu=True))
    artifact = model.manifest.artifact("edgetpu-int8")
    assert artifact is not None
    assert artifact.batch == 1
    assert any("not on PATH" in note for note in model.manifest.training.notes)


def test_an_int8_model_that_does_not_map_onto_the_edge_tpu_is_not_published_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ending_in_float(layers: Sequence[Dense], ranges: Sequence[Range], batch: int | None = None) -> bytes:
        model = int8_model(layers, ranges, batch)
        return model if batch is None else with_last_operator(model, DEQUANTIZE, FLOAT32)

    monkeypatch.setattr(fit, "int8_model", ending_in_float)
    model = fit_dataset(dataset(slow_signal(400)), options(edge_tpu=True))
    assert set(model.artifacts) == {"cpu-float32", "cpu-int8"}
    assert model.manifest.artifact("edgetpu-int8") is None
    (note,) = model.manifest.training.notes
    assert note.startswith("Edge TPU: does not map: operator 1 (DEQUANTIZE) is not supported; tensor 'last'")


def test_an_edge_tpu_model_is_what_the_compiler_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = BUNDLE / "edgetpu-int8.tflite"
    program = tmp_path / "edgetpu_compiler"
    program.write_text(f'#!/bin/sh\nexec /bin/cp {made} "$3/model_edgetpu.tflite"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    model = fit_dataset(dataset(slow_signal(400)), options(edge_tpu=True))
    assert model.artifacts["edgetpu-int8"] == made.read_bytes()
    assert any("compiled by edgetpu_compiler" in note for note in model.manifest.training.notes)


def test_what_is_missing_is_said_in_samples_and_time() -> None:
    window = dataset(slow_signal(100)).window
    assert more_data(window, window.hop_ns, 50, 2.5, 5.0) == "about 50 more samples (50 s)"
    assert [duration(s) for s in (45, 600, 36_000, 400_000)] == ["45 s", "10 min", "10 h", "4.63 days"]


def judged(healthy: float = 0.99, probing: float = 0.98, n_missed: int = 0) -> Sweep:
    return quantise._judge(quantise.Sigmas(10.0, 30.0), healthy, probing, n_missed, 250, 0.0, 0.1)


def test_int8_is_published_where_it_misses_nothing_and_ranks_alike() -> None:
    for found in (judged(), judged(healthy=quantise.MIN_CORRELATION, probing=quantise.MIN_CORRELATION)):
        assert found.publish
        assert found.why_not is None


def test_int8_that_misses_a_single_offset_is_not_published() -> None:
    found = judged(n_missed=1)
    assert not found.publish
    assert found.why_not == "1 of 250 offsets of up to 100 sigma score no higher than a training window"


@pytest.mark.parametrize("low", [{"healthy": 0.89}, {"probing": 0.89}])
def test_int8_that_ranks_otherwise_is_not_published(low: dict[str, float]) -> None:
    found = judged(**low)
    assert not found.publish
    assert found.why_not is not None
    assert "rank correlation 0.8900" in found.why_not


def test_of_ranged_features_only_probes_are_ranked_and_the_finest_that_rank_well_win() -> None:
    def of(inputs: float, probing: float, n_missed: int = 0) -> Sweep:
        return quantise._judge(quantise.Sigmas(inputs, 30.0), 0.0, probing, n_missed, 250, 0.0, 0.1, True)

    assert of(20.0, 0.91).publish
    assert not of(20.0, 0.89).publish
    better = [of(10.0, 0.99, n_missed=1), of(10.0, 0.89), of(50.0, 0.99), of(20.0, 0.91)]
    assert sorted(better, key=lambda found: quantise._merit(found, ranged=True)) == better


def test_commissioned_ranges_hold_all_that_was_learned_from_and_are_a_share_of_the_widest() -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(400, 4)).astype(np.float32)
    rows[:, 2] *= 1e-4  # a median that hardly moves
    rows[350] = 50.0  # where nothing is learned
    infos = describe(FeatureSpec(set="telemetry", version=2), [Channel(name="load")], Fraction(1, 300), 60)
    learn = np.arange(400) < 300
    ends = np.arange(1, 401, dtype=np.int64) * 300 * NS_PER_S
    done = commission(rows, learn, None, np.zeros(4, np.bool_), np.full(4, 1e-9), infos, ends)
    half, middle = done.scale * HALF_WIDTH, done.centre
    spread = np.ptp(rows[:300].astype(np.float64), axis=0) / 2
    assert half[[0, 1, 3]] == pytest.approx(spread[[0, 1, 3]])
    assert half[2] == pytest.approx(LEAST * spread.max())
    assert (np.abs(rows[:300] - middle) <= half * (1 + 1e-6)).all()
    assert np.abs(done.inputs).max() <= np.float32(HALF_WIDTH)  # of what widens a range as well
    fitted = fit_model("mahalanobis", done.inputs)
    np.testing.assert_allclose(fitted.layers[0].weights, np.eye(4), atol=1e-6)  # no pattern within ranges


def test_ranges_that_miss_less_are_better_whatever_else() -> None:
    assert quantise._merit(judged(healthy=0.5)) > quantise._merit(judged(n_missed=1))
    assert quantise._merit(judged(n_missed=1, healthy=0.5)) > quantise._merit(judged(n_missed=2))
    assert (
        quantise._merit(judged())
        > quantise._merit(judged(healthy=0.97))
        > quantise._merit(judged(probing=0.96))
    )


def test_a_correlation_that_just_fails_is_not_shown_as_enough() -> None:
    found = judged(healthy=0.89999)
    assert found.why_not is not None
    assert "rank correlation 0.8999, at least 0.9 needed" in found.why_not
