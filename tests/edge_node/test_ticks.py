from __future__ import annotations

from edge_node.ticks import TICK_S, Ticks
from models.signal import NS_PER_S

STEP_NS = round(TICK_S * NS_PER_S)
NOW_NS = 1_700_000_000 * NS_PER_S


def test_ticks_are_even_and_waited_for() -> None:
    ticks = Ticks()
    assert ticks.wait_s(NOW_NS) == 0.0
    assert ticks.due(NOW_NS)
    assert not ticks.due(NOW_NS + STEP_NS - 1)
    assert ticks.wait_s(NOW_NS + STEP_NS // 2) == TICK_S / 2
    assert ticks.due(NOW_NS + STEP_NS)


def test_a_clock_that_was_set_back_ticks_on() -> None:
    ticks = Ticks()
    assert ticks.due(NOW_NS)
    assert ticks.wait_s(NOW_NS - 3600 * NS_PER_S) == TICK_S
    assert ticks.due(NOW_NS - 3600 * NS_PER_S)
    assert not ticks.due(NOW_NS - 3600 * NS_PER_S + 1)
