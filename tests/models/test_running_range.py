"""Running ranges: a new extreme stands out once, and how rows arrive does not show."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from models import codec
from models.daily_profile import BINS
from models.running_range import (
    DAYS_TO_KNOW,
    HALF_WIDTH,
    LEAST,
    MARGIN,
    STRETCH,
    WIDEST,
    RangeState,
    RunningRange,
)
from models.signal import NS_PER_S


def one(widens: bool = True) -> RunningRange:
    """One feature, commissioned between 8 and 12."""
    return RunningRange(np.array([10.0]), np.array([2.0]) / HALF_WIDTH, np.array([widens]))


def at(n: int) -> NDArray[np.int64]:
    """Ends of ``n`` windows, one a second."""
    return np.arange(1, n + 1, dtype=np.int64) * NS_PER_S


def applied(
    ranges: RunningRange, values: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """At whatever time, which is no matter to what is not daily."""
    return ranges.apply(values, at(len(values)))


def rows(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32).reshape(-1, 1)


def sigmas(placed: NDArray[np.float32]) -> list[float]:
    """What a model is given: half-widths from the middle."""
    return ((placed[:, 0].astype(np.float64) - 10.0) / 2.0).tolist()


def test_within_the_commissioned_range_a_feature_is_itself() -> None:
    values = rows(8.0, 12.0, 9.3, 10.0)
    placed, low, high = applied(one(), values)
    np.testing.assert_allclose(placed, values, rtol=1e-6)
    assert low[:, 0].tolist() == [8.0] * 4
    assert high[:, 0].tolist() == [12.0] * 4


def test_a_new_extreme_is_far_off_once_and_normal_from_then_on() -> None:
    placed, low, high = applied(one(), rows(14.0, 14.0, 13.0, 16.0))
    found = sigmas(placed)
    assert found[0] == pytest.approx(1.0 + STRETCH * (1.0 - MARGIN))  # a half-width beyond
    assert found[1:3] == pytest.approx([1.0, 2.0 / 3.0], abs=1e-6)  # of 8 to 14
    assert found[3] == pytest.approx(1.0 + STRETCH * (2.0 / 3.0 - MARGIN), rel=1e-6)
    assert high[:, 0].tolist() == [12.0, 14.0, 14.0, 14.0]
    assert low[:, 0].tolist() == [8.0] * 4


def test_what_is_beyond_by_a_margin_alone_is_at_the_end_of_the_range_and_widens_it() -> None:
    within = 12.0 + 2.0 * MARGIN * 0.99
    placed, _, high = applied(one(), rows(within, within))
    assert sigmas(placed)[0] == pytest.approx(1.0)
    assert high[1, 0] == np.float32(within)


def test_below_is_as_above() -> None:
    up, down = (
        sigmas(applied(one(), rows(13.0, 14.5, 9.0))[0]),
        sigmas(applied(one(), rows(7.0, 5.5, 11.0))[0]),
    )
    assert up == pytest.approx([-x for x in down], rel=1e-6)


def test_a_row_is_judged_by_what_came_before_it_alone() -> None:
    values = rows(10.0, 12.5, 9.0, 13.0, 7.0, 11.0)
    whole, _, _ = applied(one(), values)
    for n in range(1, len(values)):
        changed = values.copy()
        changed[n:] = 1e6
        assert applied(one(), changed)[0][:n].tobytes() == whole[:n].tobytes()


def test_the_range_widens_so_far_and_no_further() -> None:
    ranges = one()
    far = 12.0 + 2 * WIDEST * 2.0  # ten times the width of 4 above its upper end
    applied(ranges, rows(far, 100 * far))
    placed, _, high = applied(ranges, rows(far, far + 4.0, far + 4.0, far + 4.0))
    assert high[:, 0].tolist() == [far] * 4
    found = sigmas(placed)
    assert found[0] == pytest.approx(1.0)
    assert min(found[1:]) > 50.0  # what stays beyond the bound stays abnormal


def test_of_a_wear_indicator_it_never_widens() -> None:
    placed, _, high = applied(one(widens=False), rows(14.0, 14.0, 14.0))
    assert sigmas(placed) == pytest.approx([1.0 + STRETCH * (1.0 - MARGIN)] * 3)
    assert high[:, 0].tolist() == [12.0] * 3


def test_what_is_not_finite_stays_so_and_widens_nothing() -> None:
    placed, _, high = applied(one(), rows(np.nan, np.inf, 11.0))
    assert np.isnan(placed[0, 0])
    assert not np.isfinite(placed[1, 0])
    assert high[:, 0].tolist() == [12.0] * 3
    assert sigmas(placed)[2] == pytest.approx(0.5)


STEP_S = 1800


def mixed() -> RunningRange:
    """Two plain features, one of them a wear indicator, and two daily ones."""
    return RunningRange(
        np.array([0.1, 3e4, 0.1, -5.0]),
        np.array([0.3, 1e4, 0.3, 1e-3]) / HALF_WIDTH,
        np.array([True, False, True, True]),
        np.array([False, False, True, True]),
    )


@settings(max_examples=80, deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 300), st.just(4)),
        elements=st.floats(-1e6, 1e6, width=32) | st.just(float("nan")),
        fill=st.floats(-1, 1, width=32),
    ),
    step_s=st.sampled_from([60, STEP_S, 5 * 3600]),
    cuts=st.lists(st.integers(0, 300), max_size=6),
)
def test_how_rows_are_split_does_not_show_nor_does_a_restart(
    values: NDArray[np.float32], step_s: int, cuts: list[int]
) -> None:
    ends = at(len(values)) * step_s
    whole = mixed().apply(values, ends)
    ranges, parts = mixed(), []
    places = sorted(min(c, len(values)) for c in cuts)
    for part, times in zip(np.split(values, places), np.split(ends, places), strict=True):
        parts.append(ranges.apply(part, times))
        kept = codec.encode(ranges.state())
        ranges = mixed()
        ranges.restore(codec.decode(kept, RangeState))
    for i, array in enumerate(whole):
        assert np.concatenate([p[i] for p in parts]).tobytes() == array.tobytes()


@settings(max_examples=40, deadline=None)
@given(
    values=hnp.arrays(
        np.float32, st.tuples(st.integers(2, 300), st.just(4)), elements=st.floats(-1e6, 1e6, width=32)
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_comes_later_changes_nothing_before(values: NDArray[np.float32], seed: int) -> None:
    n = int(np.random.default_rng(seed).integers(1, len(values)))
    ends = at(len(values)) * STEP_S
    whole, _, _ = mixed().apply(values, ends)
    values[n:] = 7e6
    assert mixed().apply(values, ends)[0][:n].tobytes() == whole[:n].tobytes()


def day(low: float = 8.0, high: float = 12.0) -> NDArray[np.float32]:
    """A value every half hour: the upper half of the day at ``high``."""
    return np.repeat(np.array([low, high], np.float32), BINS // 2).reshape(-1, 1)


def daily() -> RunningRange:
    return RunningRange(np.array([10.0]), np.array([2.0]) / HALF_WIDTH, np.array([True]), np.array([True]))


def test_a_value_that_is_usual_at_another_time_of_the_day_is_far_off() -> None:
    days = [day() for _ in range(6)]
    days[5][:10] = 12.0  # as high as on any afternoon, in the night
    values = np.concatenate(days)
    placed, low, high = daily().apply(values, at(len(values)) * STEP_S)
    found = np.array(sigmas(placed))
    beyond = np.flatnonzero(np.abs(found) > 1.0)
    assert beyond.tolist() == [5 * BINS]  # known from then on
    u = 4.0 / (LEAST * 2.0)
    assert found[5 * BINS] == pytest.approx(1.0 + STRETCH * (u - 1.0 - MARGIN), rel=1e-5)
    assert low[5 * BINS, 0] == pytest.approx(8.0 - LEAST * 2.0)
    assert high[5 * BINS, 0] == pytest.approx(8.0 + LEAST * 2.0)
    assert high[5 * BINS + 1, 0] == pytest.approx(12.0)


def test_nothing_is_said_of_a_time_of_the_day_that_is_hardly_known() -> None:
    rng = np.random.default_rng(3)
    values = rng.uniform(-1e3, 1e3, size=(DAYS_TO_KNOW * BINS, 1)).astype(np.float32)
    found = sigmas(daily().apply(values, at(len(values)) * STEP_S)[0])
    assert np.abs(found).max() <= 1.0 + 1e-6


def test_the_day_after_a_peak_is_not_low() -> None:
    values = np.concatenate([day() for _ in range(6)])
    values[4 * BINS + 3] = 40.0
    found = np.array(sigmas(daily().apply(values, at(len(values)) * STEP_S)[0]))
    assert np.flatnonzero(np.abs(found) > 1.0).tolist() == [4 * BINS + 3]


def test_a_new_model_and_an_acceptance_find_the_day_known_and_unknown() -> None:
    values = np.concatenate([day() for _ in range(5)])
    before = daily()
    before.apply(values, at(len(values)) * STEP_S)
    now = at(len(values) + 1)[-1:] * STEP_S
    night = rows(12.0)
    after = RunningRange(np.array([9.0]), np.array([3.0]) / HALF_WIDTH, np.array([True]), np.array([True]))
    after.follow(before)
    assert after.apply(night, now)[0][0, 0] > 1e3
    before.begin_anew()
    assert before.apply(night, now)[0][0, 0] == pytest.approx(10.0)


def test_a_new_model_goes_on_from_what_was_seen() -> None:
    before = one()
    applied(before, rows(5.0, 18.0))
    after = RunningRange(np.array([9.0]), np.array([6.0]) / HALF_WIDTH, np.array([True]))  # 3 to 15
    after.follow(before)
    placed, low, high = applied(after, rows(18.0))
    assert (low[0, 0], high[0, 0]) == (3.0, 18.0)
    assert placed[0, 0] == pytest.approx(15.0)


def test_an_acceptance_begins_anew() -> None:
    ranges = one()
    applied(ranges, rows(30.0))
    ranges.begin_anew()
    assert applied(ranges, rows(11.0))[2][0, 0] == 12.0


@pytest.mark.parametrize(
    ("centre", "scale", "widens"),
    [
        ([0.0], [0.0], [True]),
        ([np.nan], [1.0], [True]),
        ([0.0], [np.inf], [True]),
        ([0.0, 1.0], [1.0], [True]),
    ],
)
def test_what_is_no_range_is_refused(centre: list[float], scale: list[float], widens: list[bool]) -> None:
    with pytest.raises(ValueError, match="must be"):
        RunningRange(np.array(centre), np.array(scale), np.array(widens))


def test_a_state_of_other_features_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 1"):
        one().restore(RangeState(low=(1.0, 2.0), high=(3.0, 4.0)))
    with pytest.raises(ValueError, match="not finite"):
        one().restore(RangeState(low=(float("nan"),), high=(3.0,)))
    with pytest.raises(msgspec.ValidationError):
        codec.decode(b'{"low": [1]}', RangeState)
    with pytest.raises(ValueError, match="profile"):
        one().restore(RangeState(low=(1.0,), high=(3.0,), profile=mixed().state().profile))
    with pytest.raises(ValueError, match="profile"):
        daily().restore(one().state())
    state = daily().state()
    assert state.profile is not None
    for wrong in ({"days": (-1,) * BINS}, {"sums": (float("inf"),)}, {"counts": ()}):
        profile = msgspec.structs.replace(state.profile, **wrong)
        with pytest.raises(ValueError, match="daily profile"):
            daily().restore(msgspec.structs.replace(state, profile=profile))
    with pytest.raises(ValueError, match="must widen"):
        RunningRange(np.zeros(1), np.ones(1), np.zeros(1, np.bool_), np.ones(1, np.bool_))
    with pytest.raises(ValueError, match="shape"):
        applied(one(), np.zeros((2, 3), np.float32))
