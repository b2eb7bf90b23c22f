"""Where a batch goes, and that nothing goes to and fro."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.router import ENOUGH, GOOD, LONGEST_PAUSE_S, PAUSE_S, SILENT, Place, Router

LIMIT_NS = 1_000_000
E = "engine"


def slow(now_s: float = 0.0) -> Router:
    """One whose edge has just been found too slow."""
    router = Router(LIMIT_NS)
    for _ in range(ENOUGH):
        assert router.place(E, now_s) is Place.EDGE
        router.measured(E, LIMIT_NS + 1, now_s)
    return router


def test_the_edge_comes_first_and_keeps_what_it_does_in_time() -> None:
    router = Router(LIMIT_NS)
    for i in range(100):
        assert router.place(E, i) is Place.EDGE
        router.measured(E, LIMIT_NS if i % 3 else 50 * LIMIT_NS, i)  # now and then one is slow
    assert E not in router.away


def test_what_is_too_slow_goes_to_the_cloud_where_there_is_a_way() -> None:
    router = slow()
    assert router.place(E, 1.0) is Place.CLOUD
    assert router.place("another", 1.0) is Place.EDGE


def test_it_comes_back_only_once_it_is_clearly_fast_enough() -> None:
    router, now_s = slow(), 0.0
    for took, n in ((LIMIT_NS, 10), (LIMIT_NS * 8 // 10, GOOD - 1)):
        for _ in range(n):
            now_s += PAUSE_S
            assert router.place(E, now_s) is Place.EDGE  # a trial
            router.measured(E, took, now_s)
            assert router.place(E, now_s) is Place.CLOUD
    now_s += PAUSE_S
    assert router.place(E, now_s) is Place.EDGE
    router.measured(E, LIMIT_NS * 8 // 10, now_s)
    assert router.place(E, now_s) is Place.EDGE
    assert E not in router.away
    assert router.n_moves == 2


def test_an_edge_that_fails_is_tried_ever_more_rarely() -> None:
    router, now_s, tried = Router(LIMIT_NS), 0.0, []
    router.failed(E, now_s)
    while now_s < 2000:
        now_s += 1.0
        if router.place(E, now_s) is Place.EDGE:
            tried.append(now_s)
            router.failed(E, now_s)
    gaps = [b - a for a, b in itertools.pairwise(tried)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == LONGEST_PAUSE_S
    assert gaps[0] < 4 * PAUSE_S


def test_a_sink_that_is_silent_is_left_alone_and_tried_by_one_request() -> None:
    router = slow()
    for _ in range(SILENT):
        assert router.place(E, 1.0) is Place.CLOUD
        router.asked(E)
        router.unanswered(E, 1.0)
    assert not router.asks(E, 1.0)
    assert router.place(E, 1.5) is Place.EDGE
    later = 2.0 + PAUSE_S
    assert router.asks(E, later)
    router.asked(E)
    assert not router.asks(E, later)
    router.unanswered(E, later)
    assert not router.asks(E, later + PAUSE_S)  # it doubles
    assert router.asks(E, later + 2 * PAUSE_S)
    router.asked(E)
    router.answered(E)
    assert router.asks(E, later + 2 * PAUSE_S)


def test_engines_that_are_gone_are_forgotten() -> None:
    router = slow()
    router.forget({"another"})
    assert E not in router.away


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.9, 1.1), min_size=200, max_size=200))
def test_one_that_is_about_as_slow_as_is_allowed_does_not_flap(factors: list[float]) -> None:
    router, now_s = Router(LIMIT_NS), 0.0
    for factor in factors:
        now_s += 1.0
        if router.place(E, now_s) is Place.EDGE:
            router.measured(E, round(factor * LIMIT_NS), now_s)
    assert router.n_moves <= 1  # it may leave, and does not come back for 10 % more or less
