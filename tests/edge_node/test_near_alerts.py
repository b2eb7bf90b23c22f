"""The level that would have raised the first alert, held against the alerting machine at that level."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.near_alerts import NearAlert
from edge_node.settling import Trace
from models.episodes import AlertPolicy, Episodes
from tests.edge_node.plant import T0_S, S, plan, window

WINDOW = window(20, 5)
PLAN = plan(spec=WINDOW)


def trace(
    p: NDArray[np.float64], ends_s: NDArray[np.int64], doubted: NDArray[np.bool_] | None = None
) -> Trace:
    ends = (T0_S + ends_s) * S
    no = np.zeros(p.size, np.bool_)
    return Trace("d", ends - 20 * S, ends, np.zeros(p.size, np.float32), p, no, no, doubted)


def raises(p: NDArray[np.float64], ends_s: NDArray[np.int64], policy: AlertPolicy, level: float) -> bool:
    gap_ns = max(policy.m_raise * WINDOW.hop_ns, WINDOW.window_ns)
    machine = Episodes(policy, WINDOW.hop_ns, gap_ns)
    steps = zip(p.tolist(), ((T0_S + ends_s) * S).tolist(), strict=True)
    return any(
        machine.step(end - 20 * S, end, value <= level, value > level, "warning", "") is not None
        for value, end in steps
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_an_episode_begins_at_this_level_and_at_none_below(data: st.DataObject) -> None:
    m = data.draw(st.integers(1, 6))
    policy = AlertPolicy(
        n_raise=data.draw(st.integers(1, m)),
        m_raise=m,
        min_duration_s=data.draw(st.sampled_from([0, 5, 17, 40])),
    )
    p = np.array(data.draw(st.lists(st.integers(1, 30), max_size=50)), dtype=np.float64) / 100
    # Now and then windows are missing, too many for one run, or the clock is set back.
    steps = data.draw(st.lists(st.sampled_from([5] * 12 + [200, -100]), min_size=p.size, max_size=p.size))
    ends = np.cumsum(np.array(steps, dtype=np.int64))
    near = NearAlert(replace(PLAN, alert=policy), WINDOW.hop_ns)
    cuts = sorted({0, p.size, *data.draw(st.lists(st.integers(0, p.size), max_size=4))})
    for begin, end in pairwise(cuts):
        near.add(trace(p[begin:end], ends[begin:end]))
    if near.p_raise is None:
        assert not raises(p, ends, policy, 1.0)
        return
    assert raises(p, ends, policy, near.p_raise)
    assert not raises(p, ends, policy, math.nextafter(near.p_raise, 0.0))


def test_windows_of_a_suspect_sensor_count_for_no_alert() -> None:
    p, ends = np.array([0.01, 0.02, 0.03, 0.3, 0.04, 0.05, 0.06]), 5 * np.arange(7)
    near = NearAlert(PLAN, WINDOW.hop_ns)
    near.add(trace(p, ends, np.arange(7) == 1))
    assert near.p_raise == 0.06
    near = NearAlert(PLAN, WINDOW.hop_ns)
    near.add(trace(p, ends))
    assert near.p_raise == 0.03
