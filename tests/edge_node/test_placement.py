"""The placement rule, exactly as it is written down, and what a month costs."""

from __future__ import annotations

import itertools

import pytest

from edge_node.placement import Needs, Prices, cost_per_month, judge


@pytest.mark.parametrize(
    ("sensitive", "private", "per_day", "large"),
    list(itertools.product((False, True), (False, True), (1_000.0, 1_001.0), (False, True))),
)
def test_the_rule(sensitive: bool, private: bool, per_day: float, large: bool) -> None:
    verdict = judge(
        Needs(latency_sensitive=sensitive, private=private, requests_per_day=per_day, large_model=large)
    )
    edge = 2 * sensitive + 2 * private + (per_day > 1_000)
    cloud = 3 * large
    assert (verdict.edge_weight, verdict.cloud_weight) == (edge, cloud)
    expected = "hybrid" if edge and cloud else "cloud" if cloud else "edge"
    assert verdict.recommendation == expected
    for given, text in (
        (sensitive, "latency-sensitive (2)"),
        (private, "private (2)"),
        (per_day > 1_000, "1,001 requests a day (1)"),
        (large, "large (3)"),
    ):
        assert (text in verdict.reason) == given


def test_a_month_is_paid_for_by_what_is_sent_and_asked() -> None:
    prices = Prices(per_gb=2.0, per_million_requests=10.0, edge_per_month=5.0)
    # 100,000 windows a day are 3 million a month; 500 bytes each are 1.5 GB.
    assert cost_per_month(prices, 1e5, 500, cloud=True) == pytest.approx(3.0 + 30.0)
    assert cost_per_month(prices, 1e5, 0, cloud=False) == 5.0
