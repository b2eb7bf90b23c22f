"""Which windows make a machine alert, and what it says of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import messages
from models.messages import unpack_floats
from tests.edge_node.plant import POLICY, T0_S, Plant, S, block, device, healthy, pieces, plan, story, window


def with_fault(
    begin: int, end: int, channel: int = 0, times: float = 1.3, n: int = 1200
) -> NDArray[np.float32]:
    values = healthy(n)
    values[begin:end, channel] *= times
    return values


def play(values: NDArray[np.float32], **changes: Any) -> Plant:
    return Plant(plan(**changes)).play(pieces(block(values), range(0, len(values), 90))).finish()


def test_an_alert_says_what_was_seen_and_what_was_expected() -> None:
    raised = play(with_fault(500, 700)).alerts()[0]
    assert raised.message == "press-4: Pressure mean 3.66 bar, expected 2.961 to 3.042, for 30 s"
    first = raised.contributions[0]
    assert (first.channel, first.feature, first.unit) == ("Pressure", "Pressure.mean", "bar")
    assert first.share > 0.95
    assert first.expected_low is not None
    assert first.expected_high is not None
    assert first.expected_low < 3.0 < first.expected_high < first.observed
    assert sum(c.share for c in raised.contributions) <= 1.0 + 1e-6
    assert (raised.machine, raised.class_, raised.device, raised.clock) == ("press-4", "press", "d", "device")
    assert (raised.model_id, raised.model_version) == ("identity", 1)
    assert raised.threshold is not None
    assert raised.score is not None
    assert raised.score > raised.threshold
    assert raised.p_value is not None
    assert 0 < raised.p_value <= 1e-4
    assert raised.delivery is None  # left to whoever sends it


def test_it_begins_with_its_first_window_and_is_raised_by_its_third() -> None:
    raised = play(with_fault(500, 700)).alerts()[0]
    # The first window above ends at 505.
    assert raised.start_ns == (T0_S + 485) * S
    assert raised.end_ns == (T0_S + 515) * S
    assert raised.start_at == messages.rfc3339(raised.start_ns)


def test_fewer_windows_in_a_row_than_asked_for_are_no_alert() -> None:
    one_sample = with_fault(500, 501)
    patient = msgspec.structs.replace(POLICY, n_raise=5, m_raise=5)
    quiet = play(one_sample, alert=patient)
    assert not quiet.alerts()
    # The four windows that hold it are not healthy all the same.
    assert sum(s.excluded.get("anomalous", 0) for s in quiet.summaries()) == 4
    assert play(one_sample).alerts()


def test_the_channel_to_blame_is_named_and_its_origin_added() -> None:
    channels = [
        msgspec.structs.replace(c, origin=o) for c, o in zip(device().channels, (2.0, 5.0), strict=True)
    ]
    values = with_fault(500, 700, channel=1) - np.array([2.0, 5.0], dtype=np.float32)
    raised = play(values, of=device(channels=channels)).alerts()[0]
    assert raised.message == "press-4: Current mean 9.82 A, expected 7.89 to 8.10, for 30 s"
    assert raised.contributions[0].channel == "Current"


def test_updates_are_paced_and_numbered() -> None:
    told = play(with_fault(300, 1100)).alerts()
    assert story(told) == ["machine raised", *["machine updated"] * (len(told) - 2), "machine cleared"]
    assert [a.seq for a in told] == list(range(len(told)))
    assert [a.message_id for a in told] == [f"{told[0].alert_id}-{i}" for i in range(len(told))]
    ends = [a.end_ns // S for a in told]
    assert POLICY.update_s == 120.0
    assert all(b - a >= POLICY.update_s for a, b in pairwise(ends[:-1]))
    assert 5 <= len(told) <= 9


def test_what_gets_worse_is_said_at_once() -> None:
    values = with_fault(500, 900, times=1.05)
    values[600:900, 0] *= 1.5
    told = play(values, alert=msgspec.structs.replace(POLICY, critical_p_ratio=1e20)).alerts()
    raised, worse = told[0], told[1]
    assert (raised.state, raised.severity) == ("raised", "warning")
    assert (worse.state, worse.severity) == ("updated", "critical")
    assert (T0_S + 600) * S < worse.end_ns <= (T0_S + 610) * S
    assert told[-1].severity == "critical"


def test_another_channel_to_blame_is_said_with_its_own_worst_window() -> None:
    values = with_fault(500, 600)
    values[600:700, 1] *= 1.5
    told = play(values).alerts()
    named = [a.contributions[0].channel for a in told if a.state == "updated"]
    assert "Current" in named
    update = next(a for a in told if a.contributions[0].channel == "Current" and a.state == "updated")
    assert "Current" in update.message
    assert update.end_ns < (T0_S + 660) * S


def test_the_worst_stays_when_it_gets_better() -> None:
    told = play(with_fault(500, 700)).alerts()
    cleared = told[-1]
    assert cleared.message.startswith("press-4: normal again after 4 min (at worst Pressure mean 3.9")
    assert cleared.score == max(a.score or 0.0 for a in told)
    assert cleared.p_value == min(a.p_value or 1.0 for a in told)
    assert cleared.start_ns == told[0].start_ns


def test_after_a_cooldown_the_next_fault_is_another_episode() -> None:
    values = with_fault(300, 400)
    values[800:900, 0] *= 1.3
    told = play(values).alerts()
    assert [a.state for a in told].count("raised") == 2
    assert len({a.alert_id for a in told}) == 2
    assert [a.state for a in told].count("cleared") == 2


def test_the_last_feature_rows_go_along_where_privacy_allows() -> None:
    values = with_fault(500, 700)
    raised = play(values).alerts()[0]
    assert raised.features is not None
    rows = unpack_floats(raised.features, (-1, 10))
    assert rows.shape == (3, 10)
    updated = play(values).alerts()[1]
    assert updated.features is not None
    assert unpack_floats(updated.features, (-1, 10)).shape == (8, 10)
    assert all(a.features is None for a in play(values, privacy="statistics").alerts())


def test_readings_that_are_ordinary_one_by_one_are_told_so() -> None:
    """A level that any window passes: the worst feature is where it is expected."""
    base = plan()
    level = msgspec.structs.replace(base.levels["cpu-float32"], p_raise=0.999, p_clear=0.9995)
    raised = play(healthy(200), levels={"cpu-float32": level}).alerts()[0]
    assert ", unusual beside the other readings, for 30 s" in raised.message


def test_a_hole_in_the_signal_is_no_fault_of_the_machine() -> None:
    """At every hop some window ends just after, in, or just before a hole."""
    values = healthy(1200)
    for begin in range(100, 1100, 50):
        values[begin : begin + begin // 50 % 5 + 1, begin // 50 % 2] = np.nan
    # A level far beyond a tail of two or three samples, not beyond one without spread.
    base = plan(spec=window(20, 1))
    level = msgspec.structs.replace(base.levels["cpu-float32"], p_raise=1e-9, p_clear=1e-9)
    hasty = msgspec.structs.replace(POLICY, n_raise=1, m_raise=1)
    holes = play(values, spec=window(20, 1), alert=hasty, levels={"cpu-float32": level})
    assert not holes.alerts()
    assert holes.pipeline.counters().n_windows_scored > 1000
