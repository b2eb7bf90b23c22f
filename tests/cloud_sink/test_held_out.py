"""What the sink tells of a candidate by feature rows alone; and decisions that stay, in both databases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from cloud_sink import evaluations
from cloud_sink.events import Batch, EventStore
from cloud_sink.fit import Trained
from cloud_sink.fleet import Fleet, gathered
from cloud_sink.fleet_fit import fit_fleet
from cloud_sink.gate import Limits, judge
from cloud_sink.held_out import held_out, int8_loss
from cloud_sink.labelled import labelled
from cloud_sink.summaries import SummaryTable
from models.manifest import ModelManifest
from models.messages import pack_floats
from tests.cloud_sink.gateways import K, alert, label
from tests.cloud_sink.test_fleet_fit import fleet, options, rows_like, summaries
from tests.cloud_sink.test_fleet_fit import template as template  # a fixture
from tests.cloud_sink.test_gate import GOOD, figures

D0 = ("s1/g0", "d0")


@pytest.fixture(scope="module")
def made(template: ModelManifest) -> Trained:
    return fit_fleet(template, fleet(template), options(template))


def odd(template: ModelManifest, shift: float) -> Any:
    return rows_like(template, 40, 7, shift).astype(np.float32)


def test_anomalies_are_told_from_what_is_healthy_of_a_device_left_out(
    template: ModelManifest, made: Trained
) -> None:
    whole = fleet(template)
    labels, probes = held_out(made.manifest, whole, {D0: odd(template, 4.0)})
    assert (labels.anomalies, labels.n_devices, labels.n_rows) == ("labels", 1, 40)
    assert (probes.anomalies, probes.n_devices) == ("probes", 6)
    assert labels.mean > 0.99
    assert probes.mean > 0.9
    alike, _ = held_out(made.manifest, whole, {D0: odd(template, 0.0)})
    assert 0.3 < alike.mean < 0.7  # alarms that are like healthy rows cannot be told from them
    assert judge(figures(*GOOD, held_out=(alike,)), Limits()).verdict == "refuse"


def test_a_device_that_only_its_own_rows_make_normal_shows(template: ModelManifest, made: Trained) -> None:
    """Its rows are far from those of all others: a model that was fitted with it would call them normal."""
    strange = [
        msgspec.structs.replace(s, reservoir=pack_floats(rows_like(template, 16, i, 6.0)))
        if s.gateway == "g0"
        else s
        for i, s in enumerate(summaries(template))
    ]
    found = held_out(made.manifest, gathered(SummaryTable.of(strange)), {D0: odd(template, 4.0)})
    assert found[0].mean < 0.5


def test_one_device_alone_says_nothing(template: ModelManifest, made: Trained) -> None:
    assert held_out(made.manifest, fleet(template, n_devices=1), {}) == ()
    assert held_out(made.manifest, fleet(template, keep=0), {}) == ()


def test_int8_is_compared_with_float_on_every_device(template: ModelManifest, made: Trained) -> None:
    whole: Fleet = fleet(template)
    found = int8_loss(made.manifest, made.artifacts, whole, {D0: odd(template, 4.0)})
    assert found is not None
    assert found.n_devices == 6
    assert found.mean_loss <= found.worst_loss < 0.005
    assert 0.98 < found.worst_share <= found.mean_share
    # An int8 graph that says nothing: the float one's residual scale upside down.
    artifacts = tuple(
        msgspec.structs.replace(a, residual_scale=(*(1e6 for _ in a.residual_scale[:-1]), 1e-6))
        if a.target == "cpu-int8"
        else a
        for a in made.manifest.artifacts
    )
    wrong = int8_loss(msgspec.structs.replace(made.manifest, artifacts=artifacts), made.artifacts, whole, {})
    assert wrong is not None
    assert wrong.worst_loss > 0.02
    assert judge(figures(*GOOD, int8=wrong), Limits()).verdict == "refuse"
    floats = {target: data for target, data in made.artifacts.items() if target == "cpu-float32"}
    assert int8_loss(made.manifest, floats, whole, {}) is None


def test_rows_are_of_alerts_that_operators_called_true(make: Callable[[], EventStore]) -> None:
    store = make()
    rows = np.arange(2 * K, dtype=np.float32).reshape(2, K)
    said = [alert(i, features=pack_floats(rows + i)) for i in range(4)]
    other = alert(9, features=pack_floats(rows[:, :-1]))  # of a model with other features
    broken = alert(8, features=pack_floats(rows * np.nan))
    labels = [label(said[0].alert_id, "true_alarm"), label(said[1].alert_id, "false_alarm")]
    labels += [label(a.alert_id, "true_alarm") for a in (said[2], other, broken)]
    store.commit(Batch(1, alerts=[*said, other, broken], responses=labels))
    found = labelled(store, "press", "press", K).by_device("true_alarm")
    assert list(found) == [("s1/g1", "d1")]
    assert found["s1/g1", "d1"].tolist() == np.concatenate([rows, rows + 2]).tolist()


def test_decisions_stay_with_their_figures(make: Callable[[], EventStore], template: ModelManifest) -> None:
    store = make()
    assert evaluations.newest_of(store, template) is None
    refused, accepted = judge(figures(*GOOD[:1]), Limits()), judge(figures(*GOOD), Limits())
    evaluations.keep(store, template, refused, 1)
    evaluations.keep(store, template, accepted, 2)
    newest = evaluations.newest_of(make(), template)
    assert newest is not None
    assert dataclasses.asdict(newest)["at_ns"] == 2
    assert newest.decision == accepted
    assert [e.decision for e in evaluations.evaluations(store, template.model_id)] == [accepted, refused]
    resigned = msgspec.structs.replace(template, created_ns=template.created_ns + 1)
    assert evaluations.newest_of(store, resigned) is None  # another bundle of that version was not judged
