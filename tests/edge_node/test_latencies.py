from __future__ import annotations

from edge_node.announcing import PipelineEvent
from edge_node.latencies import Latencies
from models.messages import Alert
from tests.edge_node.outgoing_messages import AT, alert


def latency_ms(latencies: Latencies, said: Alert, arrival_ns: int | None) -> float | None:
    stamped = latencies.stamped(said, PipelineEvent(said, arrival_ns, None), AT)
    assert stamped.delivery is not None
    assert stamped.delivery.emitted_ns == AT
    return stamped.delivery.latency_ms


def test_from_the_arrival_to_the_alert() -> None:
    latencies = Latencies()
    assert latency_ms(latencies, alert(), AT - 2_500_000) == 2.5
    assert latency_ms(latencies, alert(), AT + 1) == 0.0  # the clock was set back
    assert latencies.totals() == {"machine": (2, 0.0025)}


def test_what_follows_from_no_arrival_has_no_latency() -> None:
    latencies = Latencies()
    assert latency_ms(latencies, alert(state="cleared"), None) is None
    assert latencies.totals() == {}
