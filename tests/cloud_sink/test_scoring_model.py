"""A bundle that scores for gateways: by its own numbers, in time, of features that mean the same; else it says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cloud_sink.config import load_config
from cloud_sink.scoring import Scoring
from cloud_sink.scoring_model import ModelUnusable, ScoringModel, answer
from models import manifest as manifests
from models import scoring
from models.calibration import p_values
from models.messages import ScoreRequest, encode, pack_floats
from models.refusals import ScoreRefusal
from models.score_exchange import read_scores
from tests.cloud_sink.sinks import config
from tests.edge_node.versions import good, written

TOPIC = "linewatch/s1/g1/score/request"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ScoringModel:
    return ScoringModel(written(tmp_path_factory.mktemp("large") / "b", good(2, seed=1)))


def rows(model: ScoringModel, n: int = 4) -> np.ndarray[Any, np.dtype[np.float32]]:
    normal = model.manifest.normalisation
    spread = np.random.default_rng(1).normal(size=(n, model.n_features)) * np.array(normal.scale)
    return (np.array(normal.centre) + spread).astype(np.float32)


def request(model: ScoringModel, **more: Any) -> ScoreRequest:
    fields: dict[str, Any] = {
        "transaction": "t", "site": "s1", "gateway": "g1", "model_id": "press", "model_version": 1,
        "schema_id": model.manifest.schema_id, "deadline_ms": 500.0, "n": 4, "features": pack_floats(rows(model)),
    }  # fmt: skip
    return ScoreRequest(**{**fields, **more})


def test_an_answer_is_by_the_numbers_of_the_bundle_that_gives_it(model: ScoringModel) -> None:
    features, artifact = rows(model), model.manifest.artifact("cpu-float32")
    assert artifact is not None
    said = answer(model, request(model), features, 0.1)
    assert (said.reason, said.model_id, said.model_version) == (None, "fixture", 2)
    got = read_scores(said, 4, model.n_features)
    expected = p_values(artifact.calibration, scoring.scores(got.residual))
    assert got.p == pytest.approx(expected, rel=1e-5)
    other = manifests.decode((Path(__file__).parents[1] / "fixtures/bundle/manifest.json").read_bytes())
    of_another = other.artifact("cpu-float32")
    assert of_another is not None
    assert got.p != pytest.approx(p_values(of_another.calibration, scoring.scores(got.residual)), rel=1e-3)


@pytest.mark.parametrize(
    ("more", "waited_s", "reason"),
    [
        ({}, 0.5, ScoreRefusal.LATE),
        ({"schema_id": "other"}, 0.0, ScoreRefusal.OTHER_SCHEMA),
        ({"n": 2}, 0.0, ScoreRefusal.MALFORMED),
    ],
)
def test_what_is_not_scored_is_told_why(
    model: ScoringModel, more: dict[str, Any], waited_s: float, reason: ScoreRefusal
) -> None:
    features = rows(model)
    if "n" in more:
        features = features.reshape(2, -1)
    said = answer(model, request(model, **more), features, waited_s)
    assert (said.reason, said.residual, said.log_p) == (reason, None, None)
    assert said.text


def test_what_cannot_be_scored_is_told_too(model: ScoringModel) -> None:
    huge = np.full((4, model.n_features), 3e38, np.float32)
    assert answer(model, request(model), huge, 0.0).reason == ScoreRefusal.FAILED
    assert answer(None, request(model), rows(model), 0.0).reason == ScoreRefusal.UNKNOWN_MODEL


def test_a_bundle_that_was_damaged_is_not_served(tmp_path: Path) -> None:
    path = written(tmp_path / "b", good(2, seed=1))
    manifest = json.loads((path / "manifest.json").read_text())
    (artifact,) = [a for a in manifest["artifacts"] if a["target"] == "cpu-float32"]
    scale = artifact["residual_scale"]
    artifact["residual_scale"] = [2 * s for s in scale]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelUnusable, match="worked example 0 has log p"):
        ScoringModel(path)
    artifact["residual_scale"] = scale
    (path / "manifest.json").write_text(json.dumps(manifest))
    ScoringModel(path)
    graph = path / artifact["file"]
    graph.write_bytes(graph.read_bytes()[:-4])
    with pytest.raises(ModelUnusable, match="copy the bundle again"):
        ScoringModel(path)


def test_what_waits_is_bounded_and_nobody_else_is_answered(model: ScoringModel, tmp_path: Path) -> None:
    path = config(tmp_path, 1)
    path.write_text(path.read_text() + "[scoring]\nqueue_requests = 2\n")
    served = Scoring(load_config(path), {"press": model})  # whose thread does not run yet
    asked = encode(request(model))
    for _ in range(5):
        served.on_message(TOPIC, asked, False)
    served.on_message("linewatch/s1/g2/score/request", asked, False)
    served.on_message("linewatch/models/g2/score/request", asked, False)
    served.on_message(TOPIC, asked, True)
    served.on_message(TOPIC, b"{", False)
    served.on_message(TOPIC, b"x" * (2 << 20), False)
    served.on_message(TOPIC, encode(msgspec.structs.replace(request(model), features="AAAA")), False)
    found = {f.name: dict(f.values) for f in served.families()}
    assert found["sink_score_requests_waiting"] == {(): 2}
    assert found["sink_score_requests"] == {("busy",): 3, ("malformed",): 1}
    assert found["sink_score_requests_unanswered"] == {
        ("other_name",): 1,
        ("malformed",): 3,
        ("retained",): 1,
    }
