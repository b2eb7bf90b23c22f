"""Rates as people and machines write them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from models.codec import parse_rate


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("12800", Fraction(12800)),
        ("1/300", Fraction(1, 300)),
        ("0.5", Fraction(1, 2)),
        ("1e3", Fraction(1000)),
        ("1e-1", Fraction(1, 10)),
        (1 / 3, Fraction(1, 3)),
        (25600, Fraction(25600)),
    ],
)
def test_rates(written: object, rate: Fraction) -> None:
    assert parse_rate(written) == rate


# The last two would take gigabytes if their digits were computed.
@pytest.mark.parametrize(
    "written",
    ["0", "-1", "1/0", "fast", "", "nan", "inf", True, None, [], float("nan"), "1e999999999", "1E-999999999"],
)
def test_what_is_no_rate(written: object) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse_rate(written)
