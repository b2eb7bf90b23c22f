"""Pauses before a process is started again."""

from __future__ import annotations

from edge_node.restarts import Restarts


def test_pauses_double_up_to_a_bound() -> None:
    restarts = Restarts(0.0, 0.25, 10.0)
    waits_s = [restarts.failed(0.1) for _ in range(40)]
    assert waits_s[:8] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    assert set(waits_s[8:]) == {10.0}


def test_one_that_worked_for_long_is_forgiven() -> None:
    restarts = Restarts(1.0, 1.0, 60.0, steady_s=30.0)
    assert [restarts.failed(s) for s in (0.0, 29.0, 29.0, 30.0, 0.0)] == [1.0, 1.0, 2.0, 1.0, 1.0]
