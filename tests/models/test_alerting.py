"""Whom an alert blames and how it reads: what stands here is what an operator gets to see."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from models.alerting import (
    blame,
    contribution,
    drift_sentence,
    limit_sentence,
    machine_sentence,
    sensor_sentence,
    stale_sentence,
)
from models.features import FeatureInfo, FeatureSpec, describe
from models.limits import LimitSpec
from models.messages import AlertState, Contribution
from models.sensor_checks import SensorFault
from models.signal import NS_PER_S, Channel

S = NS_PER_S
MIN = 60 * S
PRESSURE = Channel(name="Pressure", unit="bar", origin=3.0)
THERMOCOUPLE = Channel(name="Thermocouple", unit="°C", valid_range=(-40.0, 400.0), full_scale=500.0)
SLOW = describe(FeatureSpec(set="slow"), [PRESSURE, THERMOCOUPLE], Fraction(1), 60)
VIBRATION = describe(FeatureSpec(set="vibration"), [Channel(name="x", unit="g")], Fraction(1000), 1024)


def column(infos: tuple[FeatureInfo, ...], name: str) -> FeatureInfo:
    return next(info for info in infos if info.name == name)


def machine(
    info: FeatureInfo,
    value: float,
    centre: float,
    scale: float,
    origin: float = 0.0,
    lasted: int = 4 * MIN,
    state: AlertState = "raised",
) -> str:
    top = contribution(info, value, centre, scale, 0.8, origin)
    return machine_sentence("press-4", [top], VIBRATION + SLOW, centre, 0, lasted, state)


LOG3 = math.log(3.1)
BAND = next(i for i in VIBRATION if i.low_hz == 312.5)


def test_a_device_of_one_channel_has_no_other_readings() -> None:
    alone = describe(FeatureSpec(set="slow"), [PRESSURE], Fraction(1), 60)
    top = contribution(column(alone, "Pressure.mean"), 0.05, 0.0, 0.1 / 3, 1.0, 3.0)
    said = machine_sentence("press-4", [top], alone, 0.0, 0, 2 * MIN, "raised")
    assert said == "press-4: Pressure mean 3.05 bar, in an unusual pattern, for 2 min"


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        (machine(BAND, LOG3 - 5, -5.0, 0.2), "press-4: x vibration 3.1 times normal at 312-375 Hz for 4 min"),
        (
            machine(BAND, 9.0, -5.0, 0.2),
            "press-4: x vibration more than 1000 times normal at 312-375 Hz for 4 min",
        ),
        (machine(BAND, -6.0, -5.0, 0.2), "press-4: x vibration 37 % of normal at 312-375 Hz for 4 min"),
        (
            machine(BAND, -4.9, -5.0, 0.2),
            "press-4: x vibration 1.1 times normal at 312-375 Hz, unusual beside the other readings, for 4 min",
        ),
        (
            machine(BAND, LOG3 - 5, -5.0, 0.2, state="cleared", lasted=2 * 60 * MIN),
            "press-4: normal again after 2 h (at worst x vibration 3.1 times normal at 312-375 Hz)",
        ),
        (
            machine(VIBRATION[0], LOG3, 0.0, 0.2),
            "press-4: x vibration 3.1 times normal at 0-62.5 Hz for 4 min",
        ),
        (
            machine(column(VIBRATION, "x.log_rms"), LOG3, 0.0, 0.2),
            "press-4: x vibration RMS 3.1 times normal for 4 min",
        ),
        (
            machine(column(VIBRATION, "x.crest"), LOG3, 1.0, 0.01),
            "press-4: x vibration crest factor 1.1 times normal for 4 min",
        ),
        (
            machine(column(VIBRATION, "x.peak"), 4.21, 1.0, 0.1, lasted=60 * S),
            "press-4: x vibration peak 4.21 g, expected 0.7 to 1.3, for 60 s",
        ),
        (
            machine(column(VIBRATION, "x.peak"), 0.0093, 0.002, 0.001, lasted=60 * S),
            "press-4: x vibration peak 9.3 mg, expected 0 to 5, for 60 s",
        ),
        (
            machine(column(SLOW, "Pressure.mean"), -0.69, 0.0, 0.1 / 3, 3.0, 2 * MIN),
            "press-4: Pressure mean 2.31 bar, expected 2.9 to 3.1, for 2 min",
        ),
        (
            machine(column(SLOW, "Pressure.mean_fast"), -0.69, 0.0, 0.1 / 3, 3.0, 2 * MIN),
            "press-4: Pressure mean 2.31 bar, expected 2.9 to 3.1, for 2 min",
        ),
        (
            machine(column(SLOW, "Pressure.last"), 0.05, 0.0, 0.1 / 3, 3.0, 2 * MIN),
            "press-4: Pressure 3.05 bar, unusual beside the other readings, for 2 min",
        ),
        (
            machine(column(SLOW, "Pressure.mean"), -0.69, 0.0, 0.1 / 3, 3.0, 2 * MIN, "cleared"),
            "press-4: normal again after 2 min (at worst Pressure mean 2.31 bar, expected 2.9 to 3.1)",
        ),
        (
            machine(column(SLOW, "Pressure.log_std_fast"), math.log(0.02), math.log(0.1), 0.3, 3.0, 8400 * S),
            "press-4: Pressure standard deviation 20 % of normal for 2 h 20 min",
        ),
    ],
)
def test_a_machine_alert_reads_well(sentence: str, text: str) -> None:
    assert sentence == text


@pytest.mark.parametrize(
    ("fault", "value", "state", "text"),
    [
        ("flatline", 25.4, "raised", "press-4: sensor Thermocouple flat at 25.4 °C for 10 min"),
        ("stuck", -40.0, "raised", "press-4: sensor Thermocouple stuck at -40 °C for 10 min"),
        ("saturated", 499.9, "updated", "press-4: sensor Thermocouple saturated at 500 °C for 10 min"),
        (
            "out_of_range",
            400.3,
            "raised",
            "press-4: sensor Thermocouple at 400.3 °C, outside its range of -40 to 400, for 10 min",
        ),
        ("out_of_range", math.nan, "updated", "press-4: sensor Thermocouple out of range for 10 min"),
        ("flatline", math.nan, "updated", "press-4: sensor Thermocouple flat for 10 min"),
        ("flatline", math.nan, "cleared", "press-4: sensor Thermocouple works again after 10 min"),
    ],
)
def test_a_sensor_alert_reads_well(fault: str, value: float, state: AlertState, text: str) -> None:
    assert sensor_sentence("press-4", THERMOCOUPLE, fault, value, 0, 10 * MIN, state) == text


def test_every_fault_has_its_words() -> None:
    sentences = {sensor_sentence("m", PRESSURE, fault.value, 1.0, 0, S, "raised") for fault in SensorFault}
    assert len(sentences) == len(SensorFault)


@pytest.mark.parametrize(
    ("above", "below", "value", "state", "text"),
    [
        (85.0, None, 91.23, "raised", "bearing temperature 91.2 °C above the limit of 85 °C for 60 s"),
        (85.0, None, 85.04, "raised", "bearing temperature 85.04 °C above the limit of 85 °C for 60 s"),
        (
            85.0,
            None,
            84.52,
            "updated",
            "bearing temperature 84.52 °C, still near the limit of 85 °C, for 60 s",
        ),
        (85.0, None, 70.0, "cleared", "bearing temperature back within its limit of 85 °C after 60 s"),
        (None, 5.0, 2.0, "raised", "bearing temperature 2 °C below the limit of 5 °C for 60 s"),
        (85.0, 5.0, 2.0, "raised", "bearing temperature 2 °C below the limit of 5 °C for 60 s"),
        (85.0, 5.0, 99.0, "raised", "bearing temperature 99 °C above the limit of 85 °C for 60 s"),
        (85.0, 5.0, 5.5, "updated", "bearing temperature 5.5 °C, still near the limit of 5 °C, for 60 s"),
        (85.0, 5.0, 50.0, "cleared", "bearing temperature back within its limits of 5 to 85 °C after 60 s"),
        (85.0, 5.0, math.nan, "updated", "bearing temperature beyond its limits of 5 to 85 °C for 60 s"),
        (85.0, None, math.nan, "updated", "bearing temperature beyond its limit of 85 °C for 60 s"),
    ],
)
def test_a_limit_alert_reads_well(
    above: float | None, below: float | None, value: float, state: AlertState, text: str
) -> None:
    channel = Channel(name="bearing temperature", unit="°C")
    limit = LimitSpec(name="bearing-hot", channel=channel.name, above=above, below=below)
    assert limit_sentence("press-4", channel, limit, value, 0, 60 * S, state) == f"press-4: {text}"


@pytest.mark.parametrize(
    ("value", "n_others", "state", "text"),
    [
        (-0.69, 0, "raised", "Pressure mean has drifted to 2.31 bar, beyond the allowed 2.9 to 3.1"),
        (
            -0.69,
            1,
            "updated",
            "Pressure mean has drifted to 2.31 bar, beyond the allowed 2.9 to 3.1 (1 more channel too)",
        ),
        (
            0.05,
            2,
            "updated",
            "Pressure mean has drifted: now 3.05 bar, allowed 2.9 to 3.1 (2 more channels too)",
        ),
        (0.05, 0, "cleared", "Pressure mean is back from its drift after 3 days"),
    ],
)
def test_a_drift_alert_reads_well(value: float, n_others: int, state: AlertState, text: str) -> None:
    info = column(SLOW, "Pressure.mean")
    seen = contribution(info, value, 0.0, 0.1 / 3, 1.0, 3.0)
    assert drift_sentence("press-4", seen, info, n_others, 0, 72 * 60 * MIN, state) == f"press-4: {text}"


@pytest.mark.parametrize(
    ("device", "channels", "state", "text"),
    [
        ("press-4-vibration", (), "raised", "press-4: no data from press-4-vibration for 30 s"),
        ("press-4", (), "raised", "press-4: no data for 30 s"),
        (
            "press-4-temps",
            ("inlet", "outlet"),
            "raised",
            "press-4: no data from press-4-temps (inlet, outlet) for 30 s",
        ),
        ("press-4-vibration", (), "cleared", "press-4: data from press-4-vibration again after 30 s"),
        ("press-4", (), "cleared", "press-4: data again after 30 s"),
    ],
)
def test_a_stale_alert_reads_well(
    device: str, channels: tuple[str, ...], state: AlertState, text: str
) -> None:
    assert stale_sentence("press-4", device, channels, 0, 30 * S, state) == text


# --- blame ---


def blamed(residual: list[float], n: int = 3) -> tuple[Contribution, ...]:
    """Of two slow channels, five features each; origin 3 bar and 0 °C."""
    k = len(SLOW)
    observed = (np.arange(k) / 10).astype(np.float32)
    return blame(
        np.array(residual, dtype=np.float32),
        SLOW,
        observed,
        np.full(k, 0.5),
        np.full(k, 0.1),
        [PRESSURE.origin, THERMOCOUPLE.origin],
        n,
    )


def test_the_channel_with_most_of_the_squared_residual_is_first_by_its_strongest_feature() -> None:
    found = blamed([0, 0, -3, 0, 0, 1, 4, 0, 0, 0])
    assert [(c.channel, c.feature) for c in found] == [
        ("Thermocouple", "Thermocouple.log_std"),
        ("Pressure", "Pressure.last"),
    ]
    assert [c.share for c in found] == pytest.approx([17 / 26, 9 / 26])


def test_a_contribution_says_what_was_observed_and_expected_in_the_unit_of_the_channel() -> None:
    (found,) = blamed([0, 0, 5, 0, 0, 0, 0, 0, 0, 0])
    assert found.unit == "bar"
    assert (found.observed, found.expected_low, found.expected_high) == pytest.approx((3.2, 3.2, 3.8))
    (found,) = blamed([0, 5, 0, 0, 0, 0, 0, 0, 0, 0])  # a logarithm is read as the amplitude
    assert (found.observed, found.expected_low, found.expected_high) == pytest.approx(
        (math.exp(0.1), math.exp(0.2), math.exp(0.8))
    )


def test_what_hardly_matters_is_left_out() -> None:
    assert [c.channel for c in blamed([0, 0, 10, 0, 0, 0, 2, 0, 0, 0])] == ["Pressure"]
    assert len(blamed([0, 0, 10, 0, 0, 0, 3, 0, 0, 0])) == 2
    assert len(blamed([0, 0, 10, 0, 0, 0, 9, 0, 0, 0], n=1)) == 1
    assert len(blamed([0.0] * 10)) == 1  # someone is always named
