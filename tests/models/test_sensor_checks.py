"""Sensor faults, drawn as streams: each letter or digit is a sample, each code a window (one a second)."""

from __future__ import annotations

import csv
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import codec
from models.sensor_checks import (
    FAULTS,
    ChannelBaseline,
    SensorChecks,
    SensorFault,
    SensorState,
    fault_of,
    learn_baselines,
    stuck_limits_ns,
)
from models.signal import NS_PER_S, Channel, Mode, WindowBatch, WindowSpec
from tests.data import data_path
from tests.models.windows import cut, join, part, spec, split

LETTER = {None: ".", SensorFault.FLATLINE: "F", SensorFault.STUCK: "S"} | {
    SensorFault.SATURATED: "X",
    SensorFault.OUT_OF_RANGE: "R",
}
W4 = spec(4, 1)  # windows of four samples, one a second
# Runs of at most one second were healthy: a flat line is one of five seconds.
BUSY = ChannelBaseline(longest_run_s=1.0, minimum=4.0, maximum=6.0)


def stream(text: str) -> list[float]:
    return [float(ch) for ch in text.replace(" ", "")]


def faults(
    samples: str,
    *,
    channel: Channel | None = None,
    baseline: ChannelBaseline | None = BUSY,
    window: WindowSpec = W4,
) -> str:
    """One letter a window: see LETTER."""
    checks = SensorChecks([channel or Channel(name="t")], None if baseline is None else [baseline], window)
    return letters(checks, cut(stream(samples), window))


def letters(checks: SensorChecks, batch: WindowBatch) -> str:
    return "".join(LETTER[fault_of(int(code))] for code in checks.check(batch)[:, 0])


# Windows begin at each of the samples but the last three; a run of five 7s is a fault when a window ends at
# the fifth.
FLAT_TIMELINES = [
    ("12345678912", "........"),
    ("1234777765432", ".........."),  # four seconds are not enough
    ("12347777712345", ".....FFFF.."),  # found at the fifth; windows that still hold some of it too
    ("123477777777", ".....FFFF"),
    ("77777777", ".FFFF"),
    ("12340000012345", ".....SSSS.."),  # far outside what healthy data read
    ("12343333312345", ".....FFFF.."),  # near to it
    ("1234777770000012", ".....FFFF.SSS"),  # dead after flat
]


@pytest.mark.parametrize(("samples", "expected"), FLAT_TIMELINES)
def test_a_run_of_one_value_is_a_fault_from_five_times_the_longest_healthy_one(
    samples: str, expected: str
) -> None:
    assert faults(samples) == expected


def test_since_when_it_has_been_flat() -> None:
    checks = SensorChecks([Channel(name="t")], [BUSY], W4)
    codes, since = checks.examine(cut(stream("1234777777"), W4))
    assert (since[:, 0] // NS_PER_S).tolist() == [3, 4, 4, 4, 4, 4, 4]
    assert codes[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 1]


class TestLimits:
    """How long may a channel read one value?"""

    def test_what_the_channel_says_goes_before_what_was_learned(self) -> None:
        stuck = Channel(name="t", stuck_s=3.0)
        assert faults("1234777654321", channel=stuck) == "...FFFF..."
        assert faults("1234777654321", channel=stuck, baseline=None) == "...FFFF..."

    def test_without_a_baseline_and_a_limit_stillness_says_nothing(self) -> None:
        assert faults("7" * 20, baseline=None) == "." * 17

    def test_a_channel_that_was_constant_when_healthy_never_is_a_fault(self) -> None:
        constant = ChannelBaseline(longest_run_s=400.0, minimum=32.0, maximum=32.0)
        assert faults("3" * 5000, baseline=constant) == "." * 4997

    def test_a_quiet_channel_has_its_own_measure(self) -> None:
        quiet = ChannelBaseline(longest_run_s=60.0, minimum=1.0, maximum=9.0)
        assert "F" not in faults("1" + "7" * 299, baseline=quiet)
        assert faults("1" + "7" * 300, baseline=quiet)[-1] == "F"

    def test_never_less_than_a_window(self) -> None:
        window = spec(60, 1)
        limits = stuck_limits_ns([Channel(name="t")], [BUSY], window)
        assert limits.tolist() == [60 * NS_PER_S]


class TestGaps:
    def test_a_run_is_not_vouched_for_over_a_gap(self) -> None:
        checks = SensorChecks([Channel(name="t")], [BUSY], W4)
        batch = join(cut(stream("1777"), W4), cut(stream("777777"), W4, start=100))
        assert letters(checks, batch) == "..FF"
        codes, since = SensorChecks([Channel(name="t")], [BUSY], W4).examine(batch)
        assert (since[:, 0] // NS_PER_S).tolist() == [1, 100, 100, 100]
        assert codes.shape == (4, 1)

    def test_the_silence_between_bursts_is_expected(self) -> None:
        window = spec(4, 4, Fraction(40), Mode.BURST)  # 0.1 s
        frozen = Channel(name="t", stuck_s=25.0)
        records = [cut(stream("7777"), window, start=400 * i) for i in range(5)]  # one every 10 s
        assert letters(SensorChecks([frozen], None, window), join(*records)) == "...FF"

    def test_windows_may_lie_apart_by_design(self) -> None:
        window = spec(3, 5)
        assert faults("7" * 23, window=window) == ".FFFF"

    def test_rates_that_do_not_divide_a_second_leave_no_gap(self) -> None:
        window = spec(3, 3, Fraction(3))
        frozen = Channel(name="t", stuck_s=9.0)
        assert faults("7" * 3 * 12, channel=frozen, window=window) == "." * 8 + "F" * 4


class TestInvalidSamples:
    def run(self, samples: str) -> str:
        """``x``: invalid, filled with what a windower would hold, or rubbish."""
        text = samples.replace(" ", "")
        values = np.array([5000.0 if ch == "x" else float(ch) for ch in text])
        valid = np.array([ch != "x" for ch in text])
        return letters(SensorChecks([Channel(name="t")], [BUSY], W4), cut(values, W4, valid=valid))

    def test_they_do_not_break_a_run(self) -> None:
        assert self.run("1234 77x77 7") == ".....FF"

    def test_nor_make_one(self) -> None:
        assert self.run("12345 xxxxx 6789") == "..........."

    def test_a_window_of_nothing_carries_the_run_over(self) -> None:
        assert self.run("1237 xxxx 777") == ".....FFF"

    def test_rubbish_in_their_place_is_not_out_of_range(self) -> None:
        checks = SensorChecks([Channel(name="t", valid_range=(0, 10), full_scale=10.0)], None, W4)
        valid = np.array([True, False, False, False])
        assert letters(checks, cut([5.0, 1e9, -1e9, 1e9], W4, valid=valid)) == "."


class TestRange:
    def test_one_sample_outside_is_enough_and_only_for_windows_that_hold_it(self) -> None:
        channel = Channel(name="t", valid_range=(2.0, 8.0))
        assert faults("34569654345", channel=channel) == ".RRRR..."
        assert faults("34561654345", channel=channel) == ".RRRR..."

    def test_the_range_is_in_the_unit_before_the_origin(self) -> None:
        channel = Channel(name="p", valid_range=(100_000.0, 100_008.0), origin=100_000.0)
        assert faults("1234567", channel=channel) == "...."
        assert faults("1234569", channel=channel) == "...R"

    def test_float32_rounding_is_not_outside(self) -> None:
        channel = Channel(name="t", valid_range=(-0.1, 0.1))
        assert float(np.float32(0.1)) > 0.1
        checks = SensorChecks([channel], None, W4)
        assert letters(checks, cut([0.1, -0.1, 0.05, 0.1], W4)) == "."

    def test_it_tells_more_than_a_flat_line(self) -> None:
        channel = Channel(name="t", valid_range=(2.0, 8.0))
        assert faults("345699999999", channel=channel) == ".RRRRRRRR"


class TestSaturation:
    def clipped(self, n_clipped: int, n: int = 1000) -> str:
        window = spec(n, n, Fraction(1000))
        values = np.sin(np.arange(n, dtype=np.float64))
        values[10 : 10 + n_clipped] = np.where(np.arange(n_clipped) % 2, -15.99, 16.0)
        return letters(SensorChecks([Channel(name="x", full_scale=16.0)], None, window), cut(values, window))

    def test_a_hard_impact_may_touch_full_scale(self) -> None:
        assert self.clipped(9) == "."

    def test_one_percent_of_a_window_at_either_end_is_clipping(self) -> None:
        assert self.clipped(10) == "X"

    def test_at_least_three_samples(self) -> None:
        assert self.clipped(2, n=100) == "."
        assert self.clipped(3, n=100) == "X"

    def test_it_tells_more_than_out_of_range_or_a_flat_line(self) -> None:
        channel = Channel(name="t", full_scale=9.0, valid_range=(0.0, 8.0))
        assert faults("345699999999", channel=channel) == ".RRXXXXXX"


def test_the_reading_to_show() -> None:
    channel = Channel(name="t", origin=20.0, valid_range=(20.0, 26.0), full_scale=100.0)
    checks = SensorChecks([channel], [BUSY], W4)
    batch = cut([1.0, 8.0, -3.0, 5.0], W4)

    def shown(of: WindowBatch, fault: SensorFault) -> float:
        return float(checks.readings(of, np.array([[FAULTS.index(fault) + 1]], np.uint8))[0, 0])

    assert shown(batch, SensorFault.FLATLINE) == 25.0
    assert shown(batch, SensorFault.OUT_OF_RANGE) == 17.0
    assert shown(batch, SensorFault.SATURATED) == 28.0
    nothing = cut([1.0] * 4, W4, valid=np.zeros(4, dtype=bool))
    assert math.isnan(shown(nothing, SensorFault.STUCK))
    tail = cut([1.0, 8.0, -3.0, 5.0], W4, valid=np.array([True, True, False, False]))
    assert shown(tail, SensorFault.STUCK) == 28.0
    assert shown(tail, SensorFault.OUT_OF_RANGE) == 28.0


def test_each_channel_is_judged_alone() -> None:
    values = np.stack([stream("123456789123"), stream("123477777777"), stream("000000000000")], axis=1)
    checks = SensorChecks([Channel(name=n) for n in "abc"], [BUSY, BUSY, BUSY], W4)
    codes = checks.check(cut(values, W4))
    assert [[LETTER[fault_of(c)] for c in row] for row in codes.tolist()][4:6] == [
        [".", ".", "S"],
        [".", "F", "S"],
    ]


class TestBaselines:
    def test_what_healthy_data_did(self) -> None:
        values = np.stack([stream("1233345678"), stream("5555555555"), stream("1212121212")], axis=1)
        learned = learn_baselines([cut(values, W4)], W4)
        assert learned == (
            ChannelBaseline(longest_run_s=3.0, minimum=1.0, maximum=8.0),
            ChannelBaseline(longest_run_s=10.0, minimum=5.0, maximum=5.0),
            ChannelBaseline(longest_run_s=1.0, minimum=1.0, maximum=2.0),
        )
        assert [b.constant for b in learned] == [False, True, False]

    def test_batches_and_gaps_between_sessions(self) -> None:
        one, two = cut(stream("12777"), W4), cut(stream("77789"), W4, start=50)
        learned = learn_baselines([part(one, slice(0, 1)), part(one, slice(1, 2)), two], W4)
        assert learned[0].longest_run_s == 3.0

    def test_invalid_samples_are_not_seen(self) -> None:
        valid = np.array([True, True, False, True])
        assert learn_baselines([cut([1, 2, 99, 3], W4, valid=valid)], W4)[0].maximum == 3.0
        nothing = learn_baselines([cut([1, 2, 3, 4], W4, valid=np.zeros(4, dtype=bool))], W4)
        assert nothing == (ChannelBaseline(longest_run_s=0.0, minimum=0.0, maximum=0.0),)

    def test_none_without_a_window(self) -> None:
        with pytest.raises(ValueError, match="no window"):
            learn_baselines([cut([1, 2], W4)], W4)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_how_windows_are_split_over_calls_and_restarts_does_not_show(data: st.DataObject) -> None:
    n, hop = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 8))
    mode = data.draw(st.sampled_from([Mode.CONTINUOUS, Mode.BURST]))
    window = spec(n, hop, Fraction(data.draw(st.sampled_from(["1", "3", "1/7"]))), mode)
    pieces, start = [], 0
    for _ in range(data.draw(st.integers(1, 3))):
        length = data.draw(st.integers(n, 30))
        values = np.array(data.draw(st.lists(st.integers(0, 2), min_size=2 * length, max_size=2 * length)))
        valid = np.array(data.draw(st.lists(st.integers(0, 4), min_size=2 * length, max_size=2 * length))) > 0
        pieces.append(cut(values.reshape(-1, 2), window, start=start, valid=valid))
        start += length + data.draw(st.integers(0, 20))
    batch = join(*pieces)
    channels = [Channel(name="a", valid_range=(0.0, 1.0)), Channel(name="b", stuck_s=3.0, full_scale=2.0)]
    baselines = [ChannelBaseline(longest_run_s=0.4, minimum=0.0, maximum=1.0)] * 2

    whole = SensorChecks(channels, baselines, window)
    codes, since = whole.examine(batch)
    checks = SensorChecks(channels, baselines, window)
    got = []
    for piece in split(batch, data.draw(st.lists(st.integers(0, batch.n)))):
        got.append(checks.examine(piece))
        restored = SensorChecks(channels, baselines, window)
        restored.restore(codec.decode(codec.encode(checks.state()), SensorState))
        checks = restored
    assert np.concatenate([g[0] for g in got]).tolist() == codes.tolist()
    assert np.concatenate([g[1] for g in got]).tolist() == since.tolist()
    assert checks.state() == whole.state()


@settings(max_examples=300, deadline=None)
@given(
    samples=st.lists(st.sampled_from([1.0, 2.0]), min_size=6, max_size=60),
    n=st.integers(2, 6),
    hop=st.integers(1, 6),
    limit=st.integers(2, 12),
)
def test_runs_are_those_of_the_stream(samples: list[float], n: int, hop: int, limit: int) -> None:
    """Against the definition, sample by sample, where windows overlap or touch."""
    window = spec(n, min(hop, n))
    batch = cut(samples, window)
    codes, since = SensorChecks([Channel(name="t", stuck_s=float(limit))], None, window).examine(batch)
    fault_end = -1
    for i in range(batch.n):
        begin, end = int(batch.start_ns[i]) // NS_PER_S, int(batch.end_ns[i]) // NS_PER_S
        first = end - 1
        while first > 0 and samples[first - 1] == samples[end - 1]:
            first -= 1
        if end - first >= limit:
            fault_end = end
        assert since[i, 0] == first * NS_PER_S
        assert bool(codes[i, 0]) == (fault_end > begin)


def test_a_state_of_another_device_is_refused() -> None:
    state = SensorChecks([Channel(name="a")], None, W4).state()
    with pytest.raises(ValueError, match="of 1 channels, expected 2"):
        SensorChecks([Channel(name="a"), Channel(name="b")], None, W4).restore(state)
    with pytest.raises(ValueError, match="1 baselines for 2 channels"):
        SensorChecks([Channel(name="a"), Channel(name="b")], [BUSY], W4)


def skab(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open() as file:
        table = list(csv.reader(file, delimiter=";"))
    return table[0][1:9], np.array([row[1:9] for row in table[1:]], dtype=np.float32)


def test_no_sensor_fault_in_recordings_whose_sensors_are_sound() -> None:
    """Coarse ones among them (a pressure of three levels, a flow that stands for half a minute)."""
    window = spec(60, 1)
    for path in sorted(data_path("skab", "data").glob("*/*.csv")):
        names, values = skab(path)
        channels = [Channel(name=n) for n in names]
        baselines = learn_baselines([cut(values[:400], window)], window)
        assert not SensorChecks(channels, baselines, window).check(cut(values, window)).any(), path


def test_a_real_sensor_that_freezes_is_found_alone() -> None:
    window = spec(60, 1)
    names, values = skab(data_path("skab", "data", "valve1", "0.csv"))
    channel = names.index("Thermocouple")
    baselines = learn_baselines([cut(values[:400], window)], window)
    values[600:800, channel] = values[600, channel]
    batch = cut(values, window)
    codes = SensorChecks([Channel(name=n) for n in names], baselines, window).check(batch)
    found = np.flatnonzero(codes[:, channel])
    assert fault_of(int(codes[found[0], channel])) is SensorFault.FLATLINE
    assert batch.end_ns[found[0]] == 660 * NS_PER_S  # once it has lasted a window
    assert batch.start_ns[found[-1]] == 799 * NS_PER_S  # until no window holds any of it
    codes[:, channel] = 0
    assert not codes.any()
