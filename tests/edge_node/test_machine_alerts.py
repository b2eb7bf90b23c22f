"""Which windows make a machine alert, and what it says of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models import messages
from models.messages import Alert, unpack_floats
from models.wording import significant
from tests.edge_node.plant import POLICY, T0_S, Plant, S, block, device, healthy, pieces, plan, story, window


def with_fault(
    begin: int, end: int, channel: int = 0, times: float = 1.3, n: int = 1200
) -> NDArray[np.float32]:
    values = healthy(n)
    values[begin:end, channel] *= times
    return values


def play(values: NDArray[np.float32], **changes: Any) -> Plant:
    return Plant(plan(**changes)).play(pieces(block(values), range(0, len(values), 90))).finish()


def saturating(values: NDArray[np.float32], begin: int, end: int) -> Plant:
    """As ``play``, with the outputs of the windows that end from ``begin`` on, before ``end``, at the end of their range."""
    plant = Plant(plan())
    plant.saturated = range((begin - 20) // 5, (end - 20) // 5)
    return plant.play(pieces(block(values), range(0, len(values), 90))).finish()


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
    values[600:900, 1] *= 1.5
    told = play(values).alerts()
    named = [a.contributions[0].channel for a in told if a.state == "updated"]
    assert "Current" in named
    update = next(a for a in told if a.contributions[0].channel == "Current" and a.state == "updated")
    assert "Current" in update.message
    assert update.end_ns < (T0_S + 600 + 2 * 120) * S  # of the second message since


def test_two_channels_that_take_turns_do_not_take_turns_in_the_alert() -> None:
    values = with_fault(500, 1000)
    for at in range(500, 1000, 100):  # for as long as five times n_raise windows
        values[at : at + 50, 0] /= 1.3
        values[at : at + 50, 1] *= 1.3
    told = play(values).alerts()
    assert story(told) == ["machine raised", *["machine updated"] * 4, "machine cleared"]
    assert all(b.end_ns - a.end_ns >= 120 * S for a, b in pairwise(told[:-1]))
    assert len({a.contributions[0].channel for a in told}) == 1


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


@pytest.mark.parametrize(("factor", "n_raised"), [(1.3, 1), (2.5, 2)])
def test_a_much_worse_fault_does_not_wait_for_the_cooldown(factor: float, n_raised: int) -> None:
    values = with_fault(300, 400)
    values[520:600, 0] *= factor
    rests = msgspec.structs.replace(POLICY, cooldown_s=300)
    told = play(values, alert=rests).alerts()
    assert [a.state for a in told].count("raised") == n_raised
    never = play(values, alert=msgspec.structs.replace(rests, worse_ratio=1e300)).alerts()
    assert [a.state for a in never].count("raised") == 1


def test_the_last_feature_rows_above_the_level_go_along_where_privacy_allows() -> None:
    values = with_fault(500, 700)
    raised = play(values).alerts()[0]
    assert raised.features is not None
    rows = unpack_floats(raised.features, (-1, 10))
    assert rows.shape == (3, 10)
    updated = play(values).alerts()[1]
    assert updated.features is not None
    assert unpack_floats(updated.features, (-1, 10)).shape == (8, 10)
    cleared = play(values).alerts()[-1]
    assert (cleared.state, cleared.features is None) == ("cleared", False)
    model = plan().model
    assert model is not None
    rows = unpack_floats(cleared.features or "", (-1, 10))
    assert rows.shape == (8, 10)
    assert (
        np.abs((rows - model.centre) / model.scale).max(axis=1) > 10
    ).all()  # though it ended in normal windows
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


def at_least(alert: Alert) -> str:
    assert alert.score is not None
    return f"score at least {significant(alert.score)}"


def test_a_score_that_is_a_bound_is_told_as_one() -> None:
    sharp, blunt = play(with_fault(500, 700)), saturating(with_fault(500, 700), 520, 700)
    assert story(blunt.alerts()) == story(sharp.alerts())
    assert not [a for a in sharp.alerts() if "at least" in a.message]
    raised, *updated, cleared = blunt.alerts()
    assert "at least" not in raised.message  # it was raised at 515
    assert updated
    for exact, bound in zip(sharp.alerts()[1:-1], updated, strict=True):
        assert bound.score == exact.score
        assert bound.message == f"{exact.message}; {at_least(bound)}"
    assert cleared.message == sharp.alerts()[-1].message.replace(")", f"; {at_least(cleared)})")


def test_one_bound_makes_the_greatest_score_one() -> None:
    first = saturating(with_fault(500, 700), 505, 510).alerts()[0]
    assert first.message.startswith(
        "press-4: Pressure mean 3.66 bar, expected 2.961 to 3.042, for 30 s; score at least "
    )


def test_a_window_at_the_end_of_its_range_never_counts_as_normal() -> None:
    """It scores as a healthy one does, or anything above that: nobody knows."""
    exact = saturating(with_fault(500, 700), 1100, 1100)
    cleared = exact.alerts()[-1]
    assert (cleared.state, cleared.end_ns) == ("cleared", (T0_S + 730) * S)
    assert exact.pipeline.counters().n_saturated == 0
    bound = saturating(with_fault(500, 700), 700, 1100)
    assert bound.pipeline.counters().n_saturated == 2 * (1100 - 700) // 5
    cleared = bound.alerts()[-1]
    assert (cleared.state, cleared.end_ns) == ("cleared", (T0_S + 1110) * S)
    assert "score at least" in cleared.message


def test_at_the_end_of_its_range_a_healthy_score_raises_nothing() -> None:
    plant = saturating(healthy(1200), 20, 1200)
    assert plant.pipeline.counters().n_saturated > 400
    assert not plant.alerts()


def test_the_next_episode_is_told_by_scores_of_its_own() -> None:
    values = with_fault(300, 400)
    values[800:900, 0] *= 1.3
    told = saturating(values, 300, 400).alerts()
    bounds = {a.alert_id: "at least" in a.message for a in told}
    assert list(bounds.values()) == [True, False]


def test_a_bound_is_remembered_over_a_restart() -> None:
    values = with_fault(500, 700)
    before = Plant(plan())
    before.saturated = range(96, 116)
    before.play(pieces(block(values[:600]), range(0, 600, 90)))
    assert "at least" in before.alerts()[-1].message
    after = before.restarted().play([block(values[600:], 600)]).finish()
    cleared = after.alerts()[-1]
    assert cleared.state == "cleared"
    assert "score at least" in cleared.message


def test_bounds_are_of_the_windows_that_they_were_told_of() -> None:
    """Two devices in one batch, the output of one at the end of its range; a window of each is lost."""
    plant = Plant(plan(of=device("a")), plan(of=device("b")))
    for name in ("a", "b"):
        plant.pipeline.push(block(with_fault(100, 300, n=300), to=name))
    (batch,) = plant.pipeline.take_batches()
    n = batch.n // 2
    assert batch.devices == ("a", "b")
    output, saturated = batch.inputs.copy(), np.arange(2 * n) >= n
    output[[3, n + 3]] = np.nan
    plant.pipeline.scored(batch.batch_id, output, "cpu-float32", 0, n, saturated)
    plant.collect()
    assert [(a.device, "at least" in a.message) for a in plant.alerts() if a.state == "raised"] == [
        ("a", False),
        ("b", True),
    ]
