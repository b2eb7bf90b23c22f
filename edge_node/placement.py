"""Where a task's model should run: at the edge, in the cloud, or both; by what the task needs and what was measured.

The rule: latency-sensitive data and private data weigh 2 each for the edge, more than 1,000 requests a day weigh 1 for it, and a
large model weighs 3 for the cloud. A side that has any weight is recommended; where both have some, both: hybrid. Pure: what
was measured comes in, what it costs comes out.
"""

from __future__ import annotations

from typing import Literal

import msgspec

MANY_REQUESTS_A_DAY = 1_000
LATENCY_WEIGHT = PRIVACY_WEIGHT = 2
REQUESTS_WEIGHT = 1
LARGE_MODEL_WEIGHT = 3
DAYS_A_MONTH = 30.0

Recommendation = Literal["edge", "cloud", "hybrid"]


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a task asks for."""

    latency_sensitive: bool
    private: bool
    requests_per_day: float
    large_model: bool


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is recommended, the weights on either side, and why in a sentence."""

    recommendation: Recommendation
    edge_weight: int
    cloud_weight: int
    reason: str


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """What is paid for, in one currency: a GB (10^9 bytes) that is sent, a million requests to a model in the cloud, and a month
    of what runs at the edge for this task (a share of the gateway, its power)."""

    per_gb: float = 0.0
    per_million_requests: float = 0.0
    edge_per_month: float = 0.0


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a task: its measured latency in ms (median and 95th percentile of ``n_measured``; None: not measured,
    ``unmeasured`` says why, and ``remedy`` what to look at, where something is wrong), the bytes that leave the gateway and
    come to it for a window, and what a month costs."""

    latency_ms: float | None
    latency_95_ms: float | None
    n_measured: int
    unmeasured: str | None
    remedy: str | None
    bytes_up: float
    bytes_down: float
    cost_per_month: float
    runs: str  # what, in words


def judge(needs: Needs) -> Verdict:
    """The rule of this module."""
    edge = cloud = 0
    why_edge, why_cloud = [], []
    if needs.latency_sensitive:
        edge += LATENCY_WEIGHT
        why_edge.append(f"it is latency-sensitive ({LATENCY_WEIGHT})")
    if needs.private:
        edge += PRIVACY_WEIGHT
        why_edge.append(f"its data is private ({PRIVACY_WEIGHT})")
    if needs.requests_per_day > MANY_REQUESTS_A_DAY:
        edge += REQUESTS_WEIGHT
        why_edge.append(f"{needs.requests_per_day:,.0f} requests a day ({REQUESTS_WEIGHT})")
    if needs.large_model:
        cloud += LARGE_MODEL_WEIGHT
        why_cloud.append(f"its model is large ({LARGE_MODEL_WEIGHT})")
    recommendation: Recommendation
    if edge and cloud:
        recommendation = "hybrid"
    else:
        recommendation = "cloud" if cloud else "edge"
    parts = [
        f"for the {side}: {', '.join(why)}" for side, why in (("edge", why_edge), ("cloud", why_cloud)) if why
    ]
    reason = "; ".join(parts) or "nothing speaks for the cloud, and the model is here"
    return Verdict(recommendation=recommendation, edge_weight=edge, cloud_weight=cloud, reason=reason)


def cost_per_month(prices: Prices, windows_per_day: float, bytes_a_window: float, *, cloud: bool) -> float:
    """What a month of ``windows_per_day`` costs of which each takes ``bytes_a_window`` over the network, both ways."""
    windows = windows_per_day * DAYS_A_MONTH
    sent = windows * bytes_a_window / 1e9 * prices.per_gb
    if cloud:
        return sent + windows / 1e6 * prices.per_million_requests
    return sent + prices.edge_per_month
