"""A fleet's summaries become a model that a gateway takes in place of the one it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cloud_sink.bundle import write_bundle
from cloud_sink.fleet import Fleet, gathered
from cloud_sink.fleet_fit import FleetOptions, anchored, fit_fleet, fit_moments, infos_of
from cloud_sink.summaries import SummaryTable
from cloud_sink.train import FitError
from edge_node.model_store import load_bundle
from models import manifest as manifests
from models.calibration import p_values
from models.features import FeatureSpec
from models.manifest import ModelManifest, Normalisation
from models.messages import Summary, pack_floats
from models.recentring import Recentring
from models.runtime import Graph
from models.scoring import normalise, residuals, scores
from tests.cloud_sink.gateways import summary
from tests.fixtures.bundle_files import BUNDLE


@pytest.fixture(scope="module")
def template() -> ModelManifest:
    return manifests.decode((BUNDLE / "manifest.json").read_bytes())


def rows_like(
    template: ModelManifest, n: int, seed: int, shift: float = 0.0
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Feature rows of a machine like the one it was trained on, ``shift`` spreads off."""
    generator = np.random.default_rng(seed)
    k = len(template.normalisation.centre)
    mix = np.random.default_rng(1).normal(size=(k, k)) / k + np.eye(k)
    centre, scale = np.array(template.normalisation.centre), np.array(template.normalisation.scale)
    return centre + scale * (generator.normal(size=(n, k)) @ mix + shift)


def summaries(
    template: ModelManifest, n_devices: int = 6, n_spans: int = 6, keep: int = 16, shift: float = 0.0
) -> list[Summary]:
    found = []
    k = len(template.normalisation.centre)
    for d in range(n_devices):
        for i in range(n_spans):
            rows = rows_like(template, 60, 100 * d + i, shift)
            centred = rows - rows.mean(axis=0)
            found.append(
                summary(
                    i,
                    gateway=f"g{d}",
                    device=f"d{d}",
                    n=60,
                    mean=rows.mean(axis=0).tolist(),
                    comoment=(centred.T @ centred)[np.triu_indices(k)].tolist(),
                    centre=[0.0] * k,
                    minimum=rows.min(axis=0).tolist(),
                    maximum=rows.max(axis=0).tolist(),
                    reservoir=pack_floats(rows[:keep]) if keep else None,
                    feature_names=tuple(f"f{j}" for j in range(k)),
                    schema_id=template.schema_id,
                )
            )
    return found


def fleet(template: ModelManifest, **more: Any) -> Fleet:
    return gathered(SummaryTable.of(summaries(template, **more)))


def options(template: ModelManifest, **more: Any) -> FleetOptions:
    fields: dict[str, Any] = {
        "family": "mahalanobis",
        "version": template.version + 1,
        "created_ns": 1,
        "start_ns": 0,
        "end_ns": 10**12,
    }
    return FleetOptions(**(fields | more))


@pytest.mark.parametrize("family", ["mahalanobis", "linear-ae", "ae"])
def test_a_gateway_takes_it_in_place_of_the_one_it_has(
    template: ModelManifest, tmp_path: Path, family: Any
) -> None:
    made = fit_fleet(template, fleet(template, shift=0.5), options(template, family=family))
    write_bundle(tmp_path / "m", made.manifest, made.artifacts)
    loaded = load_bundle(tmp_path / "m").manifest  # which works out every golden vector
    assert manifests.departures(template, loaded) == []
    assert (loaded.schema_id, loaded.version) == (template.schema_id, template.version + 1)
    assert (loaded.signature, loaded.training.n_windows) == (None, 6 * 6 * 60)
    artifact = loaded.artifact("cpu-float32")
    assert artifact is not None
    centre, scale = np.array(loaded.normalisation.centre), np.array(loaded.normalisation.scale)
    graph = Graph(made.artifacts["cpu-float32"])

    def scored(rows: Any) -> Any:
        inputs = normalise(rows.astype(np.float32), centre, scale)
        output = graph.run(inputs)
        return scores(residuals(inputs, output, loaded.output_kind, np.array(artifact.residual_scale)))

    healthy, odd = scored(rows_like(template, 2000, 999, 0.5)), scored(rows_like(template, 300, 998, 3.5))
    assert roc_auc_score([0] * 2000 + [1] * 300, np.concatenate([healthy, odd])) > 0.97
    p = p_values(artifact.calibration, healthy)
    assert np.mean(p <= 0.01) < 0.03
    assert np.mean(p_values(artifact.calibration, odd) <= 0.01) > 0.8


@pytest.mark.parametrize("family", ["mahalanobis", "linear-ae", "ae"])
def test_where_features_are_measured_from_changes_no_score(template: ModelManifest, family: Any) -> None:
    known = fleet(template, shift=0.7)
    least = np.full(known.rows.shape[1], 1e-9)
    basis = fit_moments(family, known.total, known.rows, least)
    moved = anchored(template, basis)
    rows = rows_like(template, 300, 5, 2.0).astype(np.float32)
    before, after = (b.fitted.scores(normalise(rows, b.centre, b.scale)) for b in (basis, moved))
    assert np.allclose(before, after, rtol=1e-3, atol=1e-4)
    assert not np.allclose(basis.centre, moved.centre, rtol=1e-6)
    alone = msgspec.structs.replace(template, recentring=None)
    assert anchored(alone, basis) is basis


def test_a_slow_fault_is_not_learned_away_however_often_one_learns(template: ModelManifest) -> None:
    """Every device stands four deviations off, one more than re-centring goes; what it leaves is in the summaries."""
    assert template.recentring is not None
    centre, scale = np.array(template.normalisation.centre), np.array(template.normalisation.scale)
    infos = infos_of(template)
    moves = np.array([info.recentred for info in infos])
    assert moves.any()
    served = template
    for _ in range(4):
        served = fit_fleet(served, fleet(served, shift=1.0), options(served)).manifest
    normal = served.normalisation
    assert np.array_equal(np.array(normal.centre)[moves], centre[moves])
    assert np.array_equal(np.array(normal.scale)[moves], scale[moves])
    recentring = Recentring(
        template.recentring,
        np.array(normal.centre),
        np.array(normal.scale),
        moves,
        np.array(normal.start_centre),
    )
    off = centre + (template.recentring.max_drift_sigma + 1.0) * scale
    rows = np.tile(off, (round(10 * template.recentring.tau_windows), 1)).astype(np.float32)
    _, drifted = recentring.apply(rows)
    assert (drifted[-1][moves] == 1).all()


def test_the_ranges_of_telemetry_stay_as_commissioned(template: ModelManifest) -> None:
    """They are what its centre and scale are; its features are told by their place in them."""
    spec = FeatureSpec(set="telemetry", version=2, floors=template.features.floors)
    k = 4 * len(template.channels)
    normal = Normalisation(centre=(5.0,) * k, scale=(2.0,) * k, start_centre=(5.0,) * k)
    ranged = msgspec.structs.replace(template, features=spec, recentring=None, normalisation=normal)
    known = fleet(ranged, shift=0.3)
    basis = fit_moments("mahalanobis", known.total, known.rows, np.full(k, 1e-9))
    moved = anchored(ranged, basis)
    assert moved.centre.tolist() == [5.0] * k
    assert moved.scale.tolist() == [2.0] * k
    before, after = (b.fitted.scores(normalise(known.rows, b.centre, b.scale)) for b in (basis, moved))
    assert np.allclose(before, after, rtol=1e-3, atol=1e-4)


def test_the_same_fleet_gives_the_same_model(template: ModelManifest) -> None:
    one, two = (fit_fleet(template, fleet(template), options(template)) for _ in range(2))
    assert one.manifest == two.manifest
    assert one.artifacts == two.artifacts


def test_who_was_left_out_is_in_its_notes(template: ModelManifest) -> None:
    odd = msgspec.structs.replace(
        summaries(template, n_devices=1, n_spans=1, keep=0, shift=60.0)[0],
        gateway="evil",
        device="x",
        message_id="x",
    )
    table = SummaryTable.of([*summaries(template), odd])
    notes = fit_fleet(template, gathered(table), options(template)).manifest.training.notes
    assert notes[0] == "from summaries of 6 devices of 6 gateways, 2160 windows, 576 feature rows"
    assert any(note.startswith("s1/evil x was left out: its means lie") for note in notes)


@pytest.mark.parametrize("n_speak", [2, 3, 4, 6])
def test_where_few_gateways_send_rows_it_says_so(template: ModelManifest, n_speak: int) -> None:
    """They are all that there is to calibrate by: a person is told whose word that is."""
    said = [
        s if int(s.gateway[1:]) < n_speak else msgspec.structs.replace(s, reservoir=None)
        for s in summaries(template)
    ]
    known = gathered(SummaryTable.of(said))
    assert len(known.rows) == n_speak * 6 * 16
    notes = fit_fleet(template, known, options(template)).manifest.training.notes
    told = [
        note
        for note in notes
        if note.startswith(f"feature rows came from {n_speak} of 6 gateways alone (s1/g0")
    ]
    assert len(told) == (n_speak < 4)


def test_rows_of_one_device_alone_vouch_for_nothing(template: ModelManifest) -> None:
    said = [
        s if s.gateway == "g4" else msgspec.structs.replace(s, reservoir=None) for s in summaries(template)
    ]
    with pytest.raises(
        FitError, match="all feature rows came from s1/g4 d4, and how it scores is judged by those of"
    ):
        fit_fleet(template, gathered(SummaryTable.of(said)), options(template))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"n_devices": 1}, "two devices or more"),
        ({"keep": 0}, 'privacy = "features"'),
        ({"n_devices": 2, "n_spans": 1, "keep": 8}, "16 feature rows"),
    ],
)
def test_a_fleet_that_vouches_for_nothing(template: ModelManifest, more: dict[str, Any], text: str) -> None:
    with pytest.raises(FitError, match=text):
        fit_fleet(template, fleet(template, **more), options(template))


def test_summaries_of_other_features(template: ModelManifest) -> None:
    with pytest.raises(FitError, match="have 6 features"):
        fit_fleet(
            template,
            gathered(
                SummaryTable.of([summary(i, gateway=f"g{i % 3}", device=f"d{i % 3}") for i in range(60)])
            ),
            options(template),
        )
