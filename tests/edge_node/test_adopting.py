"""A model that takes another's place between two windows: nothing is lost, nothing is done twice."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.plans import DevicePlan, NotDrained, ServedModel
from models import messages
from models.acceptance import Acceptance
from models.gating import GateSpec
from models.recentring import RecentringSpec
from models.signal import SampleBlock
from tests.edge_node.plant import Plant, block, device, healthy, pieces, plan, served, window

RECENTRING = RecentringSpec(tau_windows=40.0)


def other(of: DevicePlan, version: int = 2, **changes: Any) -> DevicePlan:
    """``of`` under another version of its model, with ``changes`` of the normalisation."""
    assert of.model is not None
    manifest = msgspec.structs.replace(of.model.manifest, version=version)
    normalisation = msgspec.structs.replace(manifest.normalisation, **changes)
    manifest = msgspec.structs.replace(manifest, normalisation=normalisation)
    model = ServedModel.build(manifest, of.device)
    return replaced(of, model=model, engine=f"v{version}")


def replaced(of: DevicePlan, **changes: Any) -> DevicePlan:
    fields = {name: getattr(of, name) for name in DevicePlan.__slots__}
    return DevicePlan(**(fields | changes))


STEADY = plan(recentring=RECENTRING)


def signal(n: int = 900) -> SampleBlock:
    values = healthy(n, seed=3)
    values[400:600] *= 1.3  # raised, and cleared again
    return block(values)


def said(plant: Plant) -> list[dict[str, Any]]:
    """All alerts and states, without what names the model."""
    found = []
    for event in plant.events:
        message = event.event
        if isinstance(message, messages.Summary):
            continue
        tree = msgspec.json.decode(messages.encode(message))
        tree.pop("model_version", None)
        found.append(tree)
    return found


@settings(max_examples=25, deadline=None)
@given(swaps=st.lists(st.integers(1, 899), min_size=1, max_size=6, unique=True), gated=st.booleans())
def test_the_same_numbers_under_another_version_say_the_same(swaps: list[int], gated: bool) -> None:
    """Whenever it is adopted: in the middle of windows, of an alert, of a run that may become one."""
    gate = GateSpec(device_id="d", channel="Current", comparison=">", value=1.0) if gated else None
    steady = replaced(STEADY, gate=gate)
    plain = Plant(steady).play([signal()]).finish()
    changed = Plant(steady)
    current = steady
    heard = changed.pipeline.tap(["d"])
    for i, piece in enumerate(pieces(signal(), swaps)):
        changed.play([piece])
        current = other(current, 2 + i)
        changed.pipeline.adopt([current])
        changed.collect()
    changed.finish()
    assert said(changed) == said(plain)
    states = [a.state for a in plain.alerts("machine")]
    assert (states[0], states[-1]) == ("raised", "cleared")
    starts = np.concatenate([trace.start_ns for trace in heard])
    assert np.array_equal(np.diff(starts), np.full(len(starts) - 1, steady.window.hop_ns))
    assert len(starts) == changed.pipeline.counters().n_windows_scored
    assert changed.pipeline.counters() == plain.pipeline.counters()
    versions = [s.model_version for s in changed.summaries()]
    assert versions == sorted(versions)  # type: ignore[type-var]
    assert sum(s.n for s in changed.summaries()) == sum(s.n for s in plain.summaries())


def test_a_snapshot_after_it_is_of_the_new_model() -> None:
    first = plan()
    second = other(first)
    plant = Plant(first).play([signal(300)])
    plant.pipeline.adopt([second])
    before = plant.pipeline.counters()
    went_on = plant.restarted(second)
    assert went_on.pipeline.counters() == before
    went_on.play([signal().slice(300, 900)]).finish()
    states = [a.state for a in went_on.alerts("machine")]
    assert (states[0], states[-1]) == ("raised", "cleared")


def test_windows_that_are_out_are_settled_by_the_model_that_they_were_made_for() -> None:
    first = plan()
    plant = Plant(first)
    plant.pipeline.push(signal(300))
    plant.hold()
    with pytest.raises(NotDrained):
        plant.pipeline.adopt([other(first)])
    for batch in plant.held:
        plant.give(batch)
    plant.pipeline.adopt([other(first)])


def test_windows_that_are_ready_are_not_left_to_another_model() -> None:
    first = plan()
    plant = Plant(first, max_batches_out=1)
    plant.pipeline.push(signal(300))
    plant.pipeline.gather()
    with pytest.raises(NotDrained):
        plant.pipeline.adopt([other(first)])
    plant.score()
    plant.pipeline.adopt([other(first)])


@pytest.mark.parametrize(
    "changes",
    [
        {"window": window(n=40)},
        {"device": device("e")},
        {"summary_s": 1.0},
        {"model": None},
        {"model": served(device(), window(), recentring=RECENTRING)},
    ],
)
def test_what_is_more_than_another_model_is_refused(changes: dict[str, Any]) -> None:
    first = plan()
    plant = Plant(first).play([signal(100)])
    wrong = replaced(other(first), **changes)
    if "device" in changes:
        wrong = replaced(wrong, device=msgspec.structs.replace(changes["device"], device_id="d", machine="x"))
    with pytest.raises(ValueError, match="cannot go on"):
        plant.pipeline.adopt([wrong])
    plant.play([signal().slice(100, 900)]).finish()
    assert {a.model_version for a in plant.alerts()} == {1}


def test_an_alert_that_is_open_is_cleared_by_the_new_model_under_its_old_name() -> None:
    first = plan()
    plant = Plant(first).play([signal().slice(0, 500)])
    (opened,) = plant.pipeline.open_alerts("d")
    plant.pipeline.adopt([other(first)])
    assert [a.alert_id for a in plant.pipeline.open_alerts("d")] == [opened.alert_id]
    plant.play([signal().slice(500, 900)]).finish()
    last = plant.alerts("machine")[-1]
    assert (last.alert_id, last.state, last.model_version) == (opened.alert_id, "cleared", 2)


def test_re_centring_stays_where_it_stood() -> None:
    """Half a sigma of drift that the first model has followed is no news to one that was commissioned elsewhere."""
    first = plan(recentring=RECENTRING)
    assert first.model is not None
    drifted = block((healthy(4000, seed=5) * 1.005).astype(np.float32))
    stayed, moved = Plant(first).play([drifted]), Plant(first).play([drifted])
    centre = first.model.centre + 0.2 * first.model.scale
    moved.pipeline.adopt([other(first, centre=tuple(centre.tolist()), start_centre=tuple(centre.tolist()))])
    more = block((healthy(400, seed=6) * 1.005).astype(np.float32), at_s=4000)
    n = len(moved.features)
    stayed.play([more]).finish()
    moved.play([more]).finish()
    # What is subtracted brings a row to where it would stand without drift: the two models' own centres.
    recentred = first.model.recentred
    apart = (
        np.concatenate(moved.features[n:])[:, recentred] - np.concatenate(stayed.features[n:])[:, recentred]
    )
    assert np.allclose(apart, (centre - first.model.centre)[recentred], atol=1e-5)
    summary = moved.summaries()[-1]
    assert np.allclose(
        np.array(summary.centre)[recentred], np.array(stayed.summaries()[-1].centre)[recentred], atol=1e-5
    )


def test_where_an_operator_has_put_the_centre_it_stays() -> None:
    """Under a model that was commissioned elsewhere, the same rows depart from it as far as before."""
    first = plan(recentring=RECENTRING)
    assert first.model is not None
    faulty = healthy(1200, seed=8)
    faulty[300:] *= (1.3, 1.0)
    stayed, moved = (Plant(first).play([block(faulty[:900])]) for _ in range(2))
    for plant in (stayed, moved):
        word = Acceptance(device_id="d", arrival_ns=0, transaction="t", by="Anna")
        plant.pipeline.accept(word)
        plant.score()
        (verdict,) = plant.pipeline.take_verdicts()
        assert verdict.refusal is None
    centre = first.model.centre + 0.2 * first.model.scale
    moved.pipeline.adopt([other(first, centre=tuple(centre.tolist()), start_centre=tuple(centre.tolist()))])
    n, n_said = len(moved.features), len(moved.alerts())
    for plant in (stayed, moved):
        plant.play([block(faulty[900:], at_s=900)]).finish()
    apart = np.concatenate(moved.features[n:]) - np.concatenate(stayed.features[n:])
    assert np.allclose(apart, centre - first.model.centre, atol=1e-5)
    assert len(moved.alerts()) == n_said
    assert np.allclose(moved.summaries()[-1].centre, stayed.summaries()[-1].centre, atol=1e-5)


def test_a_snapshot_of_some_is_of_these_alone() -> None:
    a, b = plan(device("a")), plan(device("b"))
    plant = Plant(a, b)
    for name in ("a", "b"):
        plant.play([block(healthy(200), to=name)])
    some = Plant(a)
    some.pipeline.restore(plant.pipeline.snapshot(["a"]))
    assert some.pipeline.counters_by_device() == {"a": plant.pipeline.counters_by_device()["a"]}
    assert not some.pipeline.events()


def test_a_tap_hears_what_traces_hear_and_ends() -> None:
    plant = Plant(plan())
    plant.pipeline.trace_scores()
    heard = plant.pipeline.tap(["d"])
    plant.play([signal(300)])
    assert [t.p.tolist() for t in heard] == [t.p.tolist() for t in plant.pipeline.take_traces()]
    plant.pipeline.untap(heard)
    n = len(heard)
    plant.play([signal().slice(300, 600)])
    assert len(heard) == n
    assert plant.pipeline.take_traces()
