from __future__ import annotations

import math

from edge_node.gateway_alerts import SETTLE_S, GatewayAlerts, Trouble
from models.messages import Alert, encode
from models.topics import GATEWAY_DEVICE

NS = 1_000_000_000


def trouble(n: int, subject: str = "inference", hold_s: float = 60.0) -> Trouble:
    return Trouble(subject, "the model failed on 3 batches", n, hold_s)


def said(alerts: list[Alert]) -> list[tuple[str, int]]:
    return [(alert.state, alert.seq) for alert in alerts]


def test_raised_when_the_count_grows_and_cleared_when_it_has_stood_still() -> None:
    gateway = GatewayAlerts("s1", "g1")
    assert gateway.step([trouble(0)], 1 * NS, 1) == []
    raised = gateway.step([trouble(3)], 2 * NS, 2)
    assert said(raised) == [("raised", 0)]
    alert = raised[0]
    assert (alert.kind, alert.device, alert.machine) == ("system", GATEWAY_DEVICE, "g1")
    assert alert.message == "g1: the model failed on 3 batches"
    assert alert.start_ns == 2 * NS
    assert gateway.step([trouble(4)], 50 * NS, 50) == []
    assert gateway.step([trouble(4)], 109 * NS, 109.9) == []
    cleared = gateway.step([trouble(4)], 110 * NS, 110)
    assert said(cleared) == [("cleared", 1)]
    assert cleared[0].alert_id == alert.alert_id
    assert cleared[0].message == "g1: over: the model failed on 3 batches"
    assert cleared[0].end_ns == 110 * NS
    assert encode(cleared[0])
    assert gateway.step([trouble(4)], 300 * NS, 300) == []
    again = gateway.step([trouble(5)], 301 * NS, 301)
    assert said(again) == [("raised", 0)]
    assert again[0].alert_id != alert.alert_id


def test_what_lasts_is_open_until_it_is_gone() -> None:
    gateway = GatewayAlerts("s1", "g1")
    lasting = trouble(1, "edgetpu", math.inf)
    assert said(gateway.step([lasting, trouble(0)], 0, 0)) == [("raised", 0)]
    assert gateway.step([lasting, trouble(0)], 10**6 * NS, 10**6) == []
    assert said(gateway.step([trouble(0, "edgetpu", math.inf)], 10**6 * NS, 10**6)) == [("cleared", 1)]


def test_a_trouble_that_is_listed_no_more_is_over_and_can_come_back() -> None:
    gateway = GatewayAlerts("s1", "g1")
    assert said(gateway.step([trouble(2)], 1, 1)) == [("raised", 0)]
    assert said(gateway.step([], 2, 2)) == [("cleared", 1)]
    assert said(gateway.step([trouble(1)], 3, 3)) == [("raised", 0)]


def test_troubles_are_told_apart_and_all_end_with_the_gateway() -> None:
    gateway = GatewayAlerts("s1", "g1")
    raised = gateway.step([trouble(1, "a"), trouble(1, "b")], 5, 5)
    assert len({alert.alert_id for alert in raised}) == 2
    # The clock was set back meanwhile: an episode does not end before it began.
    ended = gateway.close(1)
    assert said(ended) == [("cleared", 1), ("cleared", 1)]
    assert all(alert.end_ns == alert.start_ns for alert in ended)
    assert gateway.close(9) == []


def test_over_a_restart_an_alert_goes_on_until_it_has_had_the_time_to_be_found_again() -> None:
    before = GatewayAlerts("s1", "g1")
    lasting = [trouble(1, subject, math.inf) for subject in ("source/a", "source/b")]
    raised = before.step(lasting, 5, 5)
    after = GatewayAlerts("s1", "g1")
    after.restore(before.state(), 1000.0)
    assert after.open == raised
    assert after.step([trouble(0)], 6, 1000.2) == []
    assert after.step([lasting[0]], 7, 1000.0 + SETTLE_S / 2) == []  # found again: not raised anew
    (cleared,) = after.step([lasting[0]], 8, 1000.0 + SETTLE_S)
    assert (cleared.alert_id, cleared.state) == (raised[1].alert_id, "cleared")
    assert [alert.alert_id for alert in after.open] == [raised[0].alert_id]
    (cleared,) = after.step([], 9, 1001.0 + SETTLE_S)
    assert cleared.alert_id == raised[0].alert_id
