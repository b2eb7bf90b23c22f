"""Feature sets: the numbers against their formulas, pinned per version, and the same bits in any company."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.features import (
    VERSIONS,
    FeatureSpec,
    describe,
    extract,
    learn_floors,
    min_scales,
    readable,
    schema_id,
)
from models.recentring import RecentringSpec
from models.signal import Channel, Mode, WindowSpec
from tests.data import data_path

RATE = Fraction(1000)
SLOW = FeatureSpec(set="slow")
VIBRATION = FeatureSpec(set="vibration")
TELEMETRY = FeatureSpec(set="telemetry", version=2)
X = Channel(name="x", unit="g")


def windows(w: int, n: int, c: int) -> NDArray[np.float32]:
    """Wide-band values from integer arithmetic alone, so that they are the same everywhere and for ever."""
    index = np.arange(w * n * c, dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) + np.uint64(12345)) % np.uint64(2**32)
    mixed = (mixed ^ (mixed >> np.uint64(15))) * np.uint64(2246822519) % np.uint64(2**32)
    return (mixed.astype(np.float64) / 2**31 - 1).reshape(w, n, c).astype(np.float32)


def tone(n: int, cycles: float, amplitude: float) -> NDArray[np.float32]:
    return (amplitude * np.sin(2 * np.pi * cycles * np.arange(n) / n)).astype(np.float32).reshape(1, n, 1)


def all_valid(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.ones(values.shape, dtype=bool)


def columns(spec: FeatureSpec, values: NDArray[np.float32], channel: Channel = X) -> dict[str, float]:
    """Feature name (less the channel) -> readable value of the first window."""
    infos = describe(spec, [channel], RATE, values.shape[1])
    row = extract(spec, values, all_valid(values), RATE)[0].tolist()
    return {
        i.name.removeprefix("x."): readable(i, v, channel.origin) for i, v in zip(infos, row, strict=True)
    }


# What the version of each set computed when it was released. Never edit: outputs that differ are a new version.
GOLDEN = {
    "slow": [
        2.9180861,
        -0.54557878,
        3.6713879,
        2.8736935,
        -0.68251652,
        2.9804993,
        -0.24687178,
        3.4088225,
        2.7997956,
        -0.15873015,
    ],
    "vibration": [
        -1.166446,
        -1.1388048,
        -1.3552853,
        -1.3311688,
        -0.54557878,
        0.62147433,
        0.5809679,
        1.0788217,
        -1.0224316,
        -0.83611071,
        -0.93529558,
        -0.9863621,
        -0.24687178,
        0.34328341,
        0.93636024,
        0.98115671,
    ],
    "telemetry": [
        3.6713879,
        2.9180861,
        2.7316732,
        3.6713879,
        3.4088225,
        2.9804993,
        3.0176213,
        3.4088225,
    ],
}


@pytest.mark.parametrize("name", ["slow", "vibration", "telemetry"])
def test_outputs_of_a_version_never_change(name: str) -> None:
    values = windows(1, 64, 2) + np.float32(3)
    floors = (0.0078125, 0.5)
    version = VERSIONS[name][-1]  # type: ignore[index]
    spec = FeatureSpec(set=name, version=version, n_bands=4, floors=floors)  # type: ignore[arg-type]
    row = extract(spec, values, all_valid(values), RATE)[0]
    np.testing.assert_allclose(row, GOLDEN[name], rtol=1e-6, atol=1e-7)


def test_schema_ids_of_a_version_never_change() -> None:
    window = WindowSpec(n=1024, hop=512, rate_hz=Fraction(1000), mode=Mode.CONTINUOUS)
    assert schema_id(VIBRATION, ("x", "y", "z"), window, None) == "cadc79d588daa428"
    slow = WindowSpec(n=60, hop=1, rate_hz=Fraction(1), mode=Mode.IRREGULAR, n_fast=10)
    assert schema_id(SLOW, ("p", "t"), slow, RecentringSpec()) == "2ea5acf5519379b0"
    telemetry = WindowSpec(n=60, hop=1, rate_hz=Fraction(1, 300), mode=Mode.CONTINUOUS)
    assert schema_id(TELEMETRY, ("v",), telemetry, None) == "a6e5675d93f8060c"


class TestSlow:
    def test_statistics_of_the_window_and_of_its_tail(self) -> None:
        values = windows(1, 60, 1)
        x = values[0, :, 0].astype(np.float64)
        got = columns(SLOW, values)
        assert got == pytest.approx(
            {
                "mean": x.mean(),
                "log_std": x.std(),
                "last": x[-1],
                "mean_fast": x[-10:].mean(),
                "log_std_fast": x[-10:].std(),
            },
            rel=1e-5,
        )

    def test_invalid_samples_are_left_out(self) -> None:
        values = windows(1, 60, 1)
        valid = all_valid(values)
        valid[0, [3, 30, 55, 59], 0] = False
        x = values[0, valid[0, :, 0], 0].astype(np.float64)
        tail = x[-8:]
        values[~valid] = 1e6
        row = extract(SLOW, values, valid, RATE)[0]
        expected = [x.mean(), math.log(x.std()), x[-1], tail.mean(), math.log(tail.std())]
        np.testing.assert_allclose(row, expected, rtol=1e-5)

    def test_a_tail_without_a_valid_sample_takes_the_whole_window(self) -> None:
        values = windows(1, 60, 1)
        valid = all_valid(values)
        valid[0, -10:, 0] = False
        mean, log_std, _, mean_fast, log_std_fast = extract(SLOW, values, valid, RATE)[0].tolist()
        assert (mean_fast, log_std_fast) == (mean, log_std)

    def test_no_fast_columns_where_the_window_is_no_longer_than_the_tail(self) -> None:
        values = windows(2, 10, 1)
        assert extract(SLOW, values, all_valid(values), RATE).shape == (2, 3)
        assert len(describe(SLOW, [X], RATE, 10)) == 3

    def test_a_changed_digit_of_a_still_channel_is_no_thousandfold_noise(self) -> None:
        healthy = np.where(windows(50, 60, 1) > 0.999, np.float32(20.1), np.float32(20.0)).astype(np.float32)
        spec = FeatureSpec(set="slow", floors=learn_floors(healthy, all_valid(healthy)))
        still = np.full((1, 60, 1), 20.0, dtype=np.float32)
        moved = still.copy()
        moved[0, 30:] = 20.1
        ratio = columns(spec, moved)["log_std"] / columns(spec, still)["log_std"]
        assert 1.5 < ratio < 5


class TestVibration:
    def test_a_tone_is_read_as_its_rms_in_its_band_alone(self) -> None:
        got = columns(VIBRATION, tone(1024, 334, 2.0))  # 334 / 1024 of 1000 Hz: 326 Hz
        assert got["band_312_375hz"] == pytest.approx(math.sqrt(2), rel=1e-6)
        others = [v for k, v in got.items() if k.startswith("band_") and k != "band_312_375hz"]
        assert len(others) == 7
        assert max(others) < 1e-5
        assert got["log_rms"] == pytest.approx(math.sqrt(2), rel=1e-6)
        assert got["crest"] == pytest.approx(math.sqrt(2), rel=1e-3)
        assert got["kurtosis"] == pytest.approx(1.5, rel=1e-6)
        assert got["peak"] == pytest.approx(2.0, rel=1e-3)

    @pytest.mark.parametrize("n", [17, 63, 64, 1000, 1024, 2560])
    @pytest.mark.parametrize("n_bands", [1, 3, 8])
    def test_the_bands_share_out_all_of_the_power(self, n: int, n_bands: int) -> None:
        spec = FeatureSpec(set="vibration", n_bands=n_bands)
        values = windows(1, n, 1)
        row = extract(spec, values, all_valid(values), RATE)[0].astype(np.float64)
        assert np.exp(2 * row[:n_bands]).sum() == pytest.approx(values.astype(np.float64).var(), rel=1e-5)

    def test_an_offset_is_not_vibration(self) -> None:
        values = windows(1, 256, 1)
        shifted = columns(VIBRATION, values + np.float32(8))
        assert shifted == pytest.approx(columns(VIBRATION, values), rel=1e-4)

    def test_twice_the_vibration_shifts_every_amplitude_by_ln_2(self) -> None:
        values = windows(1, 256, 1)
        once, twice = (extract(VIBRATION, v, all_valid(v), RATE)[0] for v in (values, values * np.float32(2)))
        np.testing.assert_allclose((twice - once)[:9], math.log(2), rtol=1e-5)
        np.testing.assert_allclose((twice - once)[9:11], 0, atol=1e-6)  # crest factor and kurtosis are ratios

    def test_invalid_samples_stand_at_the_mean(self) -> None:
        values = windows(1, 256, 1) + np.float32(5)
        valid = all_valid(values)
        valid[0, 100:110, 0] = False
        filled = values.copy()
        filled[0, 100:110, 0] = values[valid].astype(np.float64).mean()
        values[~valid] = -1e9
        np.testing.assert_allclose(
            extract(VIBRATION, values, valid, RATE),
            extract(VIBRATION, filled, all_valid(filled), RATE),
            rtol=1e-4,
        )

    def test_silence_reads_as_gaussian_noise_at_the_floor(self) -> None:
        spec = FeatureSpec(set="vibration", floors=(0.25,))
        got = columns(spec, np.zeros((1, 64, 1), dtype=np.float32))
        assert got["log_rms"] == pytest.approx(0.25)
        assert got["crest"] == pytest.approx(1)
        assert got["kurtosis"] == pytest.approx(3)
        assert got["peak"] == 0

    def test_silence_without_a_floor_is_finite(self) -> None:
        values = np.zeros((1, 64, 1), dtype=np.float32)
        assert np.isfinite(extract(VIBRATION, values, all_valid(values), RATE)).all()


@pytest.mark.parametrize("spec", [SLOW, VIBRATION, TELEMETRY], ids=lambda s: s.set)
def test_a_channel_without_a_valid_sample_is_nan_and_the_others_are_not(spec: FeatureSpec) -> None:
    values = windows(2, 64, 2)
    valid = all_valid(values)
    valid[1, :, 0] = False
    got = extract(spec, values, valid, RATE)
    k = got.shape[1] // 2
    assert np.isnan(got[1, :k]).all()
    assert np.isfinite(got[0]).all()
    assert np.isfinite(got[1, k:]).all()


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["slow", "vibration", "telemetry"]),
    w=st.integers(1, 40),
    n=st.integers(17, 200),
    c=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    share_invalid=st.sampled_from([0.0, 0.002, 0.3]),
    floored=st.booleans(),
)
def test_rows_are_the_same_bits_in_any_company(
    name: str, w: int, n: int, c: int, seed: int, share_invalid: float, floored: bool
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(w, n, c)) * 10.0 ** rng.integers(-6, 7, size=(w, 1, c))).astype(np.float32)
    valid: NDArray[np.bool_] = np.asarray(rng.random(values.shape) >= share_invalid)
    version = VERSIONS[name][-1]  # type: ignore[index]
    spec = FeatureSpec(set=name, version=version, floors=(0.5,) * c if floored else ())  # type: ignore[arg-type]
    whole = extract(spec, values, valid, RATE)
    one_by_one = [extract(spec, values[i : i + 1], valid[i : i + 1], RATE) for i in range(w)]
    assert whole.tobytes() == np.concatenate(one_by_one).tobytes()
    order = rng.permutation(w)
    assert extract(spec, values[order], valid[order], RATE).tobytes() == whole[order].tobytes()
    views = np.lib.stride_tricks.as_strided(values, values.shape, values.strides, writeable=False)
    assert extract(spec, np.asfortranarray(views), valid, RATE).tobytes() == whole.tobytes()


def test_rows_are_the_same_bits_across_work_chunks() -> None:
    values = windows(100, 1024, 3)  # many times what is worked on at once
    whole = extract(VIBRATION, values, all_valid(values), RATE)
    for i in (0, 9, 10, 11, 63, 99):
        part = values[i : i + 1]
        assert extract(VIBRATION, part, all_valid(part), RATE).tobytes() == whole[i : i + 1].tobytes()


class TestTelemetry:
    @pytest.mark.parametrize("n", [1, 7, 60])
    def test_the_newest_value_and_two_means_of_all(self, n: int) -> None:
        values = windows(3, n, 2)
        x = values.astype(np.float64)
        row = extract(TELEMETRY, values, all_valid(values), RATE).reshape(3, 2, 4)
        np.testing.assert_array_equal(row[..., 0], values[:, -1])
        np.testing.assert_allclose(row[..., 1], x.mean(axis=1), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(row[..., 2], np.median(x, axis=1), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(row[..., 3], row[..., 0])

    @settings(max_examples=40, deadline=None)
    @given(n=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.1, 0.5, 0.95]))
    def test_invalid_samples_are_left_out(self, n: int, seed: int, share: float) -> None:
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(1, n, 1)).astype(np.float32)
        valid = np.asarray(rng.random(values.shape) >= share)
        last, mean, median, daily = extract(TELEMETRY, values, valid, RATE)[0].tolist()
        seen = values[0, valid[0, :, 0], 0].astype(np.float64)
        if not seen.size:
            assert np.isnan([last, mean, median, daily]).all()
            return
        assert (last, daily) == (seen[-1], seen[-1])
        assert mean == pytest.approx(seen.mean(), rel=1e-5, abs=1e-6)
        assert median == pytest.approx(np.median(seen), rel=1e-5, abs=1e-6)


class TestDescribe:
    def test_columns_are_named_in_the_order_of_the_matrix(self) -> None:
        infos = describe(VIBRATION, [X, Channel(name="y", unit="g")], RATE, 1024)
        values = windows(1, 1024, 2)
        assert len(infos) == extract(VIBRATION, values, all_valid(values), RATE).shape[1] == 24
        assert [i.name for i in infos[:12]] == [
            "x.band_0_62.5hz",
            "x.band_62.5_125hz",
            "x.band_125_188hz",
            "x.band_188_250hz",
            "x.band_250_312hz",
            "x.band_312_375hz",
            "x.band_375_438hz",
            "x.band_438_500hz",
            "x.log_rms",
            "x.crest",
            "x.kurtosis",
            "x.peak",
        ]
        assert infos[5].label == "x vibration at 312-375 Hz"
        assert (infos[5].low_hz, infos[5].high_hz) == (312.5, 375.0)
        assert [i.channel for i in infos] == ["x"] * 12 + ["y"] * 12
        assert [i.log for i in infos[:12]] == [True] * 11 + [False]

    def test_names_are_unique_at_any_rate(self) -> None:
        for rate in (Fraction(1, 300), Fraction(1), Fraction(100), Fraction(25600)):
            names = [i.name for i in describe(VIBRATION, [X], rate, 256)]
            assert len(set(names)) == len(names)

    def test_slow_features_are_recentred_but_wear_indicators_are_not(self) -> None:
        channels = [
            Channel(name="temperature", unit="degC"),
            Channel(name="velocity", unit="mm/s"),
            Channel(name="debris", unit="ppm", wear=True),
        ]
        recentred = {i.channel: i.recentred for i in describe(SLOW, channels, RATE, 60)}
        assert recentred == {"temperature": True, "velocity": False, "debris": False}
        assert not any(i.recentred for i in describe(VIBRATION, channels, RATE, 64))

    def test_telemetry_is_ranged_and_the_range_of_a_wear_indicator_does_not_widen(self) -> None:
        channels = [Channel(name="load", unit="%"), Channel(name="debris", unit="ppm", wear=True)]
        infos = describe(TELEMETRY, channels, RATE, 60)
        names = ("last", "mean", "median", "daily")
        assert [i.name for i in infos] == [f"{c}.{name}" for c in ("load", "debris") for name in names]
        assert all(i.ranged and not i.recentred for i in infos)
        assert [i.widens for i in infos] == [True] * 4 + [False] * 4
        assert [i.daily for i in infos] == [False] * 3 + [True] + [False] * 4  # nor is its day learned away
        assert not any(i.ranged for spec in (SLOW, VIBRATION) for i in describe(spec, channels, RATE, 64))

    def test_a_mean_is_read_with_its_origin_and_an_amplitude_without(self) -> None:
        pressure = Channel(name="x", unit="Pa", origin=101325.0)
        values = windows(1, 60, 1)
        got, plain = columns(SLOW, values, pressure), columns(SLOW, values)
        assert got["mean"] == pytest.approx(101325 + plain["mean"])
        assert got["last"] == pytest.approx(101325 + plain["last"])
        assert got["log_std"] == plain["log_std"]


class TestSchemaId:
    WINDOW = WindowSpec(n=60, hop=1, rate_hz=Fraction(1), mode=Mode.IRREGULAR, n_fast=10)

    def test_everything_that_changes_the_meaning_of_a_row_changes_it(self) -> None:
        window = self.WINDOW
        ids = [
            schema_id(SLOW, ("p", "t"), window, None),
            schema_id(SLOW, ("t", "p"), window, None),
            schema_id(SLOW, ("p", "t"), window, RecentringSpec()),
            schema_id(SLOW, ("p", "t"), window, RecentringSpec(tau_windows=300)),
            schema_id(FeatureSpec(set="slow", floors=(1.0, 2.0)), ("p", "t"), window, None),
            schema_id(VIBRATION, ("p", "t"), window, None),
            schema_id(FeatureSpec(set="vibration", n_bands=4), ("p", "t"), window, None),
        ]
        for change in ({"n": 61}, {"hop": 2}, {"rate_hz": Fraction(2)}, {"mode": Mode.CONTINUOUS}):
            fields = {"n": 60, "hop": 1, "rate_hz": Fraction(1), "mode": Mode.IRREGULAR, **change}
            ids.append(schema_id(SLOW, ("p", "t"), WindowSpec(**fields), None))  # type: ignore[arg-type]
        assert len(set(ids)) == len(ids)

    def test_parameters_of_the_other_set_do_not(self) -> None:
        window = self.WINDOW
        assert schema_id(SLOW, ("p",), window, None) == schema_id(
            FeatureSpec(set="slow", n_bands=4), ("p",), window, None
        )
        with pytest.raises(ValueError, match="n_fast"):
            schema_id(FeatureSpec(set="slow", n_fast=20), ("p",), window, None)


class TestFloors:
    def test_a_resolution_is_found_and_equal_sensors_agree(self) -> None:
        step = 0.25
        for seed in range(3):
            noise = np.random.default_rng(seed).normal(size=(20, 60, 1))
            values = (np.round(noise / step) * step).astype(np.float32)
            assert learn_floors(values, all_valid(values)) == (
                0.0625,
            )  # 0.25 / sqrt(12) = 0.072, rounded down

    def test_invalid_samples_are_no_steps(self) -> None:
        values = np.full((5, 60, 1), 4.0, dtype=np.float32)
        valid = all_valid(values)
        values[:, 30], valid[:, 30] = 0, False
        assert learn_floors(values, valid) == (2.0**-8,)  # constant: 4 / 1024

    def test_a_channel_of_zeros_has_one_too(self) -> None:
        values = np.zeros((5, 60, 1), dtype=np.float32)
        assert learn_floors(values, all_valid(values)) == (2.0**-10,)

    @pytest.mark.parametrize("spec", [SLOW, VIBRATION], ids=lambda s: s.set)
    def test_least_scales_are_floors_for_values_and_a_share_for_logarithms(self, spec: FeatureSpec) -> None:
        floored = FeatureSpec(set=spec.set, floors=(0.5, 2.0))
        scales = min_scales(floored, 2, 64)
        infos = describe(floored, [X, Channel(name="y")], RATE, 64)
        floors = {"x": 0.5, "y": 2.0}
        assert scales.tolist() == [0.05 if i.log else floors[i.channel] for i in infos]
        assert (min_scales(spec, 2, 64) > 0).all()


class TestRefusals:
    def test_an_unknown_version(self) -> None:
        with pytest.raises(ValueError, match="no version 2; this release computes 1"):
            describe(FeatureSpec(set="slow", version=2), [X], RATE, 60)

    def test_floors_of_another_device(self) -> None:
        values = windows(1, 60, 1)
        with pytest.raises(ValueError, match="floors must be 1 positive"):
            extract(FeatureSpec(set="slow", floors=(1.0, 1.0)), values, all_valid(values), RATE)

    def test_a_window_too_short_for_its_bands(self) -> None:
        values = windows(1, 16, 1)
        with pytest.raises(ValueError, match="8 bands need a window of at least 17 samples, not 16"):
            extract(VIBRATION, values, all_valid(values), RATE)

    def test_a_mask_of_another_shape(self) -> None:
        values = windows(1, 60, 2)
        with pytest.raises(ValueError, match="valid"):
            extract(SLOW, values, all_valid(values[:, :, :1]), RATE)


def test_no_window_gives_no_row() -> None:
    empty = np.zeros((0, 64, 2), dtype=np.float32)
    assert extract(VIBRATION, empty, all_valid(empty), RATE).shape == (0, 24)


@pytest.mark.parametrize("bearing", ["Bearing1_2", "Bearing2_2", "Bearing3_1"])
def test_a_failing_bearing_stands_out_in_the_vibration_set(bearing: str) -> None:
    """Mahalanobis distance from the first quarter of its life: the last tenth against the second quarter."""
    from sklearn.covariance import OAS
    from sklearn.metrics import roc_auc_score

    recorded = np.load(data_path("femto", f"{bearing}_every3rd.npz"))
    values = (recorded["acc"] * float(recorded["scale_g"])).astype(np.float32)
    z = extract(VIBRATION, values, all_valid(values), Fraction(int(recorded["fs_hz"]))).astype(np.float64)
    quarter, tenth = len(z) // 4, len(z) // 10
    healthy = z[:quarter]
    z = (z - healthy.mean(axis=0)) / np.maximum(
        healthy.std(axis=0), min_scales(VIBRATION, 2, values.shape[1])
    )
    score = OAS(assume_centered=True).fit(z[:quarter]).mahalanobis(z)
    labels = np.r_[np.zeros(quarter), np.ones(tenth)]
    assert roc_auc_score(labels, np.r_[score[quarter : 2 * quarter], score[-tenth:]]) > 0.97
