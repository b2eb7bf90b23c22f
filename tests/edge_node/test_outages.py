from __future__ import annotations

from edge_node.outages import Outages
from edge_node.sources import Reach

UP, NOT_YET, ENDED = Reach(True, 1, None), Reach(False, 0, None), Reach(False, 1, None)
DOWN = Reach(False, 3, "connection refused")
SAID = {"m": "source m has been in trouble for 60 s: connection refused"}


def test_an_outage_is_said_once_it_has_lasted_and_until_it_is_over() -> None:
    outages = Outages()
    assert outages.step({"m": NOT_YET}, 0.0) == {}
    assert outages.step({"m": DOWN}, 10.0) == {}
    assert outages.step({"m": DOWN}, 69.9) == {}
    assert outages.step({"m": DOWN}, 70.0) == SAID
    assert outages.step({"m": DOWN}, 700.0) == SAID
    assert outages.step({"m": UP}, 701.0) == {}
    assert outages.step({"m": DOWN}, 702.0) == {}
    assert outages.step({"m": DOWN}, 762.0) == SAID


def test_sources_are_told_apart() -> None:
    outages = Outages()
    assert outages.step({"m": DOWN, "n": DOWN}, 0.0) == {}
    assert outages.step({"m": DOWN}, 30.0) == {}  # n is not configured any more
    assert outages.step({"m": DOWN, "n": DOWN}, 60.0) == SAID
    assert outages.step({"m": DOWN, "n": DOWN}, 120.0).keys() == {"m", "n"}


def test_a_log_that_was_played_to_its_end_is_none_and_a_refused_subscription_is_one() -> None:
    outages = Outages(0.0)
    assert outages.step({"log": ENDED}, 0.0) == {}
    refused = Reach(True, 1, "the broker refused the subscription to 'a/#': Not authorized")
    assert "Not authorized" in outages.step({"m": refused}, 1.0)["m"]
