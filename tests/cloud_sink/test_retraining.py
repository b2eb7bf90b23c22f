"""When a model is trained again, and when it rests; and how sinks agree on who does it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_sink import retraining_store as store
from cloud_sink import rollout_store as rollouts
from cloud_sink.events import Batch, EventStore
from cloud_sink.retraining import DAY_NS, HOUR_NS, MOST_RESTS, Attempt, Known, Result, Wish, decide, rest_ns
from cloud_sink.rollout import Plan
from models.messages import ModelState, rfc3339
from tests.edge_node.versions import good, signed

NOW = 1_000 * DAY_NS
Make = Callable[[], EventStore]


def wish(**more: Any) -> Wish:
    return Wish(**{"every_days": 30.0, "new_windows": 1000, "on_drift": True, "rest_hours": 24.0} | more)


def known(**more: Any) -> Known:
    nothing = {
        "served_ns": NOW - DAY_NS,
        "n_windows": 0,
        "drift": None,
        "rolling_out": None,
        "attempts": (),
    }
    return Known(**nothing | more)


@pytest.mark.parametrize(
    ("what", "cause", "text"),
    [
        ({}, None, "there is no reason"),
        ({"drift": "3 of 5 devices have drifted"}, "drift", "3 of 5 devices have drifted"),
        ({"n_windows": 1000}, "windows", "1000 new windows"),
        ({"n_windows": 999}, None, "there is no reason"),
        ({"served_ns": NOW - 30 * DAY_NS}, "schedule", "30 days since the last time"),
        ({"served_ns": NOW - 30 * DAY_NS + HOUR_NS}, None, "there is no reason"),
        ({"drift": "x", "n_windows": 5000, "served_ns": 0}, "drift", "x"),
        ({"drift": "x", "rolling_out": "version 3"}, None, "version 3 is being rolled out"),
        ({"drift": "x", "attempts": [Attempt(0, "open")]}, None, "an attempt is under way"),
    ],
)
def test_reasons(what: dict[str, Any], cause: str | None, text: str) -> None:
    decision = decide(wish(), known(**what), NOW)
    assert (decision.cause, decision.text) == (cause, text)


def test_what_is_not_asked_for_is_no_reason() -> None:
    asked = wish(every_days=None, new_windows=None, on_drift=False)
    assert decide(asked, known(drift="x", n_windows=10**9, served_ns=0), NOW).cause is None


def test_it_rests_and_longer_after_what_led_to_nothing() -> None:
    drifted = {"drift": "x"}
    served = [Attempt(NOW - 23 * HOUR_NS, "served")]
    resting = decide(wish(), known(attempts=served, **drifted), NOW)
    assert (resting.cause, resting.text) == (None, "x; it rests for 1 hours more")
    assert decide(wish(), known(attempts=served, **drifted), NOW + HOUR_NS).cause == "drift"
    in_vain = [Attempt(NOW - i * DAY_NS, "nothing") for i in range(3)]
    assert rest_ns(wish(), in_vain[:1]) == 24 * HOUR_NS
    assert rest_ns(wish(), in_vain) == 4 * 24 * HOUR_NS
    assert rest_ns(wish(), in_vain * 9) == MOST_RESTS * 24 * HOUR_NS
    assert rest_ns(wish(), [*in_vain, Attempt(NOW + 1, "served")]) == 24 * HOUR_NS


def test_a_schedule_counts_from_the_last_attempt() -> None:
    long_ago = {"served_ns": 0}
    tried = [Attempt(NOW - 29 * DAY_NS, "nothing")]
    assert decide(wish(), known(attempts=tried, **long_ago), NOW).cause is None
    assert decide(wish(), known(attempts=tried, **long_ago), NOW + DAY_NS).cause == "schedule"


@given(
    results=st.lists(st.sampled_from(["served", "nothing"]), max_size=30),
    looks=st.lists(st.integers(1, 40), min_size=1, max_size=150),
    rest_hours=st.integers(1, 48),
)
def test_however_often_it_is_asked_it_cannot_thrash(
    results: list[Result], looks: list[int], rest_hours: int
) -> None:
    """Machines that always drift, looked at every so many hours: no two attempts begin within the rest."""
    asked, attempts, now = wish(rest_hours=float(rest_hours)), [], 0
    outcomes = iter(results)
    for hours in looks:
        now += hours * HOUR_NS
        if decide(asked, known(drift="x", attempts=attempts), now).cause is not None:
            attempts.append(Attempt(now, next(outcomes, "served")))
    begun = [a.began_ns for a in attempts]
    assert begun
    assert all(b - a >= rest_hours * HOUR_NS for a, b in pairwise(begun))


def test_of_two_who_begin_at_once_one_does(make: Make) -> None:
    stores = [make() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        begun = list(
            pool.map(lambda i: store.begin(stores[i], "m", "drift", "x", f"sink-{i}", NOW), range(4))
        )
    (attempt,) = [a for a in begun if a is not None]
    assert (attempt.number, attempt.state, attempt.starts) == (1, store.TRAINING, 1)
    assert store.retrainings(stores[0]) == [attempt]
    assert store.begin(stores[0], "m", "drift", "y", "sink-9", NOW) is None  # one is open
    assert store.begin(stores[0], "other", "drift", "y", "sink-9", NOW) is not None


def test_who_was_followed_changes_nothing_any_more(make: Make) -> None:
    events = make()
    mine = store.begin(events, "m", "schedule", "x", "sink-1", NOW)
    assert mine is not None
    theirs = store.change(events, mine, NOW + 1, holder="sink-2", starts=2)
    assert theirs is not None
    assert store.change(events, mine, NOW + 2, state=store.FAILED, text="late") is None
    trained = store.change(events, theirs, NOW + 3, state=store.TRAINED, version=7)
    assert trained is not None
    assert store.retrainings(events, "m") == [trained]
    assert (trained.holder, trained.version, trained.changed_ns) == ("sink-2", 7, NOW + 3)
    assert store.highest_version(events, "m") == 7
    assert [a.result for a in store.attempts(events, "m")] == ["open"]
    failed = store.change(events, trained, NOW + 4, state=store.FAILED, text="refused")
    assert failed is not None
    assert [a.result for a in store.attempts(events, "m")] == ["nothing"]
    second = store.begin(events, "m", "drift", "x", "sink-1", NOW + 5)
    assert second is not None
    assert second.number == 2


def test_the_version_in_service_is_one_that_gateways_have_not_gone_back_from(make: Make) -> None:
    events = make()
    versions = {n: signed(good(n)) for n in (1, 2, 3)}
    for n in (2, 3):
        manifest, files = versions[n]
        plan = Plan("fixture", n, ("s1/g1",), NOW, 1.0, 10, 1.0)
        rollouts.begin(events, plan, manifest, {a.target: files[a.target] for a in manifest.artifacts})
        rollouts.change(events, "fixture", n, (rollouts.CANARY,), rollouts.PROMOTED, [], NOW + n)
    like = versions[1][0]

    def say(
        gateway: str, running: int, state: Any = "adopted", since_ns: int = NOW + 10, **more: Any
    ) -> None:
        fields = {"canary": False, "version": running} | more
        said = ModelState(
            message_id=f"{gateway}-{since_ns}",
            site="s1",
            gateway=gateway,
            model_id="fixture",
            state=state,
            running=running,
            reason=None,
            text="",
            since_ns=since_ns,
            since_at=rfc3339(since_ns),
            **fields,
        )
        events.commit(Batch(1, models=[said]))

    def served() -> int:
        return store.in_service(events, like).version

    assert served() == 3, "nobody has said anything yet"
    say("g1", 3)
    say("g2", 2, since_ns=NOW + 2)  # from before it was promoted
    say("g3", 2, "shadow", version=3)
    say("g4", 1, canary=True)
    assert served() == 3
    say("g2", 2, "rolled_back", version=3)
    assert served() == 3, "one of two"
    say("g3", 2, "adopted", NOW + 20)  # by order
    assert served() == 2
    for gateway in ("g1", "g2", "g3"):
        say(gateway, 1, "adopted", NOW + 30)
    assert served() == 1
