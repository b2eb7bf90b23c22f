"""Canaries: what is a success, what is none, and who may decide."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud_sink import rollout_store as rollouts
from cloud_sink.events import Batch, EventStore
from cloud_sink.features_store import FeatureStore
from cloud_sink.rollout import HOUR_NS, Plan, Report, judge
from cloud_sink.summaries import SummaryTable
from models.messages import ModelState, rfc3339
from tests.cloud_sink.gateways import NS, alert, status, summary
from tests.edge_node.versions import good, signed

NOW = 1_000 * HOUR_NS
PLAN = Plan("press", 2, ("a", "b"), NOW - 30 * HOUR_NS, 24.0, 1000, 1.0)


def report(gateway: str, **more: Any) -> Report:
    fine = Report(gateway, "adopted", NOW - 25 * HOUR_NS, "", True, NOW - NS, 1500, 3, 1)
    return dataclasses.replace(fine, **more)


def verdict(*reports: Report, **plan: Any) -> tuple[str, str]:
    found = judge(dataclasses.replace(PLAN, **plan), reports, NOW)
    return found.action, "; ".join(found.reasons)


def test_enough_on_every_canary_is_a_success() -> None:
    assert verdict(report("a"), report("b")) == ("promote", "3000 windows on 2 canaries, 2 alerts")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"state": None}, "it has said nothing of version 2"),
        ({"state": "shadow"}, "version 2 is not in service (shadow)"),
        ({"online": False}, "it is silent"),
        ({"heard_ns": NOW - HOUR_NS}, "it is silent"),
        ({"since_ns": NOW - 6 * HOUR_NS}, "6 of 24 hours"),
        ({"n_windows": 999}, "999 of 1000 windows"),
    ],
)
def test_one_that_is_stuck_silent_or_idle_is_none_and_in_the_end_a_failure(
    more: dict[str, Any], text: str
) -> None:
    assert verdict(report("a"), report("b", **more)) == ("wait", f"b: {text}")
    assert verdict(report("a"), report("b", **more), began_ns=NOW - 73 * HOUR_NS) == (
        "roll_back",
        f"b: {text}",
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"state": "refused", "text": "version 2 was refused: too slow"},
            "b: version 2 was refused: too slow",
        ),
        ({"state": "rolled_back", "text": "it flapped"}, "b: it flapped"),
        ({"n_alerts": 40}, "b: 40 alerts since it was adopted, and the budget allows 2.9"),
    ],
)
def test_one_that_speaks_against_it_ends_it_at_once(more: dict[str, Any], text: str) -> None:
    assert verdict(report("a"), report("b", **more), began_ns=NOW - HOUR_NS) == ("roll_back", text)


def test_without_canaries_nothing_is_shown() -> None:
    assert verdict() == ("wait", "there is no canary")


def plan_of(version: int = 2, **more: Any) -> Plan:
    return dataclasses.replace(Plan("fixture", version, ("s1/g1",), 1, 1.0, 10, 1.0), **more)


def test_a_version_is_rolled_out_once_and_one_at_a_time(make: Callable[[], EventStore]) -> None:
    store = make()
    manifest, files = signed(good(2))
    artifacts = {a.target: files[a.target] for a in manifest.artifacts}
    rollouts.begin(store, plan_of(), manifest, artifacts)
    with pytest.raises(rollouts.NotBegun, match="version 2 of fixture is being rolled out"):
        rollouts.begin(store, plan_of(3), manifest, artifacts)
    (found,) = rollouts.rollouts(store)
    assert (found.plan, found.state, found.manifest) == (plan_of(), "canary", manifest)
    assert rollouts.artifacts_of(store, found.manifest) == artifacts
    assert rollouts.change(store, "fixture", 2, ("canary",), "promoted", ["so"], 5)
    assert not rollouts.change(store, "fixture", 2, ("canary",), "rolling_back", ["no"], 6)
    assert rollouts.rollouts(store, rollouts.OPEN) == []
    with pytest.raises(rollouts.NotBegun, match="has been rolled out before"):
        rollouts.begin(store, plan_of(), manifest, artifacts)
    rollouts.begin(store, plan_of(3), manifest, artifacts)
    assert {(r.plan.version, r.state) for r in rollouts.rollouts(store)} == {(3, "canary"), (2, "promoted")}


def test_of_two_who_decide_at_once_one_does(make: Callable[[], EventStore]) -> None:
    manifest, files = signed(good(2))
    first = make()
    rollouts.begin(first, plan_of(), manifest, {a.target: files[a.target] for a in manifest.artifacts})
    done: list[bool] = []
    barrier = threading.Barrier(4)

    def decide(store: EventStore, after: str) -> None:
        barrier.wait()
        done.append(rollouts.change(store, "fixture", 2, ("canary",), after, [], 1))

    threads = [threading.Thread(target=decide, args=(make(), s)) for s in ("promoting", "rolling_back") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False, False, False, True]


def test_one_sink_at_a_time_leads(make: Callable[[], EventStore]) -> None:
    one, two = make(), make()
    assert rollouts.lease(one, "sink-1", 100, 200)
    assert not rollouts.lease(two, "sink-2", 150, 250)
    assert rollouts.lease(one, "sink-1", 180, 280)
    assert not rollouts.lease(two, "sink-2", 250, 350)
    assert rollouts.lease(two, "sink-2", 300, 400), "the first is gone"
    assert not rollouts.lease(one, "sink-1", 310, 410)


def test_what_canaries_report(make: Callable[[], EventStore], tmp_path: Path) -> None:
    store, features = make(), FeatureStore(str(tmp_path / "features"), "s")
    manifest, files = signed(good(2))
    rollouts.begin(
        store,
        plan_of(canaries=("s1/g1", "s2/g1", "s1/g2")),
        manifest,
        {a.target: files[a.target] for a in manifest.artifacts},
    )
    (rollout,) = rollouts.rollouts(store)
    more = {"schema_id": manifest.schema_id, "model_id": "fixture", "model_version": 2}
    table = SummaryTable.of(
        [summary(i, **more) for i in range(3)] + [summary(9, **{**more, "model_version": 1})]
    )
    features.append([table, table])
    said = ModelState(
        message_id="m",
        site="s1",
        gateway="g1",
        model_id="fixture",
        state="adopted",
        version=2,
        running=2,
        canary=True,
        reason=None,
        text="it scores",
        since_ns=7,
        since_at=rfc3339(7),
    )
    alerts = [alert(i, model_id="fixture", model_version=2) for i in range(4)]
    alerts += [
        alert(9, model_id="fixture", model_version=1),
        alert(8, model_id="fixture", model_version=2, kind="limit"),
    ]
    store.commit(Batch(50, statuses=[status("g1")], models=[said], alerts=alerts, summaries=[table]))
    # Another site has a gateway of the same name.
    theirs = SummaryTable.of([summary(i, **more, site="s2", device=f"d{i}") for i in range(2)])
    features.append([theirs])
    refused = msgspec.structs.replace(said, site="s2", state="refused", text="too slow")
    others = [alert(i, site="s2", model_id="fixture", model_version=2) for i in range(9)]
    batch = Batch(60, statuses=[status("g1", site="s2", state="offline")], models=[refused])
    batch.alerts, batch.summaries = others, [theirs]
    store.commit(batch)
    here, there, silent = rollouts.reports(store, features, rollout)
    assert here == Report("s1/g1", "adopted", 7, "it scores", True, 50, 3 * 42, 1, 4)
    assert there == Report("s2/g1", "refused", 7, "too slow", False, 60, 2 * 42, 2, 9)
    assert silent == Report("s1/g2")
    # What it cannot trust it cannot tell the version of.
    untrusted = msgspec.structs.replace(
        refused, site="s1", gateway="g2", version=0, text="not trusted", since_ns=9
    )
    store.commit(Batch(70, models=[untrusted]))
    assert rollouts.reports(store, features, rollout)[2].state == "refused"
    began_ns = 10 + rollouts.CLOCKS_NS
    later = dataclasses.replace(rollout, plan=dataclasses.replace(rollout.plan, began_ns=began_ns))
    assert rollouts.reports(store, features, later)[2].state is None, "that was before"
