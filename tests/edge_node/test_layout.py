"""Scaling to float32 in SI units: the same whichever way few or many values are looked at."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.sources.layout import Layout
from models.signal import Channel, Device

FACTORS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x != 0)
SHIFTS = st.floats(allow_nan=False, allow_infinity=False)
RAW = st.one_of(st.floats(), st.floats(width=32), st.floats(-1e3, 1e3))


def layout(*scaling: tuple[float, float]) -> Layout:
    channels = tuple(Channel(name=f"c{i}", scale=a, offset=b) for i, (a, b) in enumerate(scaling))
    device = Device(device_id="d", machine="d", rate_hz=Fraction(1), channels=channels)
    return Layout.of(device, {c.name: c.name for c in channels})


def expected(raw: NDArray[np.floating], *scaling: tuple[float, float]) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        scale, offset = np.array(scaling, dtype=np.float64).T
        values = (raw * scale + offset).astype(np.float32)
    return np.where(np.isfinite(values), values, np.float32(np.nan))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(
    st.tuples(FACTORS, SHIFTS),
    st.tuples(FACTORS, SHIFTS),
    st.lists(st.tuples(RAW, RAW), min_size=1, max_size=4),
)
def test_what_float32_does_not_hold_is_missing(
    dtype: type[np.floating],
    one: tuple[float, float],
    other: tuple[float, float],
    rows: list[tuple[float, float]],
) -> None:
    with np.errstate(over="ignore"):
        raw = np.array(rows).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = layout(one, other).to_si(raw)
    np.testing.assert_array_equal(values, expected(raw, one, other))
    assert values.dtype == np.float32
    assert values.flags.c_contiguous


@given(st.lists(st.tuples(RAW, RAW), min_size=1, max_size=4))
def test_values_in_si_units_only_change_their_width(rows: list[tuple[float, float]]) -> None:
    raw = np.array(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = layout((1.0, 0.0), (1.0, 0.0)).to_si(raw)
    np.testing.assert_array_equal(values, expected(raw, (1.0, 0.0), (1.0, 0.0)))


@pytest.mark.parametrize("n", [1, 10, 5000])
@pytest.mark.parametrize("scaling", [(1.0, 0.0), (2.5, -1.0), (1e30, 0.0), (1.0, 1e38), (-1e200, 1e300)])
def test_few_and_many_values_are_scaled_alike(n: int, scaling: tuple[float, float]) -> None:
    row = np.array([[1.5, 3e8]])
    raw = np.asfortranarray(np.repeat(row, n, axis=0))
    values = layout(scaling, (1.0, 0.0)).to_si(raw)
    np.testing.assert_array_equal(values, np.repeat(expected(row, scaling, (1.0, 0.0)), n, axis=0))
    assert values.flags.c_contiguous
