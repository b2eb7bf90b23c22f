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
from models.running_range import MARGIN, STRETCH, WIDEST, RangeState, RunningRange


def one(widens: bool = True) -> RunningRange:
    """One feature, commissioned between 8 and 12."""
    return RunningRange(np.array([10.0]), np.array([2.0]), np.array([widens]))


def rows(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32).reshape(-1, 1)


def sigmas(placed: NDArray[np.float32]) -> list[float]:
    """What a model is given: half-widths from the middle."""
    return ((placed[:, 0].astype(np.float64) - 10.0) / 2.0).tolist()


def test_within_the_commissioned_range_a_feature_is_itself() -> None:
    values = rows(8.0, 12.0, 9.3, 10.0)
    placed, low, high = one().apply(values)
    np.testing.assert_allclose(placed, values, rtol=1e-6)
    assert low[:, 0].tolist() == [8.0] * 4
    assert high[:, 0].tolist() == [12.0] * 4


def test_a_new_extreme_is_far_off_once_and_normal_from_then_on() -> None:
    placed, low, high = one().apply(rows(14.0, 14.0, 13.0, 16.0))
    found = sigmas(placed)
    assert found[0] == pytest.approx(1.0 + STRETCH * (1.0 - MARGIN))  # a half-width beyond
    assert found[1:3] == pytest.approx([1.0, 2.0 / 3.0], abs=1e-6)  # of 8 to 14
    assert found[3] == pytest.approx(1.0 + STRETCH * (2.0 / 3.0 - MARGIN), rel=1e-6)
    assert high[:, 0].tolist() == [12.0, 14.0, 14.0, 14.0]
    assert low[:, 0].tolist() == [8.0] * 4


def test_what_is_beyond_by_a_margin_alone_is_at_the_end_of_the_range_and_widens_it() -> None:
    within = 12.0 + 2.0 * MARGIN * 0.99
    placed, _, high = one().apply(rows(within, within))
    assert sigmas(placed)[0] == pytest.approx(1.0)
    assert high[1, 0] == np.float32(within)


def test_below_is_as_above() -> None:
    up, down = sigmas(one().apply(rows(13.0, 14.5, 9.0))[0]), sigmas(one().apply(rows(7.0, 5.5, 11.0))[0])
    assert up == pytest.approx([-x for x in down], rel=1e-6)


def test_a_row_is_judged_by_what_came_before_it_alone() -> None:
    values = rows(10.0, 12.5, 9.0, 13.0, 7.0, 11.0)
    whole, _, _ = one().apply(values)
    for n in range(1, len(values)):
        changed = values.copy()
        changed[n:] = 1e6
        assert one().apply(changed)[0][:n].tobytes() == whole[:n].tobytes()


def test_the_range_widens_so_far_and_no_further() -> None:
    ranges = one()
    far = 12.0 + 2 * WIDEST * 2.0  # ten times the width of 4 above its upper end
    ranges.apply(rows(far, 100 * far))
    placed, _, high = ranges.apply(rows(far, far + 4.0, far + 4.0, far + 4.0))
    assert high[:, 0].tolist() == [far] * 4
    found = sigmas(placed)
    assert found[0] == pytest.approx(1.0)
    assert min(found[1:]) > 50.0  # what stays beyond the bound stays abnormal


def test_of_a_wear_indicator_it_never_widens() -> None:
    placed, _, high = one(widens=False).apply(rows(14.0, 14.0, 14.0))
    assert sigmas(placed) == pytest.approx([1.0 + STRETCH * (1.0 - MARGIN)] * 3)
    assert high[:, 0].tolist() == [12.0] * 3


def test_what_is_not_finite_stays_so_and_widens_nothing() -> None:
    placed, _, high = one().apply(rows(np.nan, np.inf, 11.0))
    assert np.isnan(placed[0, 0])
    assert not np.isfinite(placed[1, 0])
    assert high[:, 0].tolist() == [12.0] * 3
    assert sigmas(placed)[2] == pytest.approx(0.5)


@settings(max_examples=80, deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 60), st.just(3)),
        elements=st.floats(-1e6, 1e6, width=32) | st.just(float("nan")),
    ),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_how_rows_are_split_does_not_show_nor_does_a_restart(
    values: NDArray[np.float32], cuts: list[int]
) -> None:
    def fresh() -> RunningRange:
        return RunningRange(
            np.array([0.1, -5.0, 3e4]), np.array([0.3, 1e-3, 1e4]), np.array([True, True, False])
        )

    whole = fresh().apply(values)
    ranges, parts = fresh(), []
    for part in np.split(values, sorted(min(c, len(values)) for c in cuts)):
        parts.append(ranges.apply(part))
        kept = codec.encode(ranges.state())
        ranges = fresh()
        ranges.restore(codec.decode(kept, RangeState))
    for i, array in enumerate(whole):
        assert np.concatenate([p[i] for p in parts]).tobytes() == array.tobytes()


def test_a_new_model_goes_on_from_what_was_seen() -> None:
    before = one()
    before.apply(rows(5.0, 18.0))
    after = RunningRange(np.array([9.0]), np.array([6.0]), np.array([True]))  # 3 to 15
    after.follow(before)
    placed, low, high = after.apply(rows(18.0))
    assert (low[0, 0], high[0, 0]) == (3.0, 18.0)
    assert placed[0, 0] == pytest.approx(15.0)


def test_an_acceptance_begins_anew() -> None:
    ranges = one()
    ranges.apply(rows(30.0))
    ranges.begin_anew()
    assert ranges.apply(rows(11.0))[2][0, 0] == 12.0


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
    with pytest.raises(ValueError, match="shape"):
        one().apply(np.zeros((2, 3), np.float32))
