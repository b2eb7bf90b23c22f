"""Absolute limits, drawn as streams: each digit is a sample a second, each ! a window in violation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import codec
from models.limits import LimitChecks, LimitSpec, LimitState
from models.signal import NS_PER_S, Channel, Mode, WindowSpec
from tests.models.windows import cut, join, spec, split

T = Channel(name="t", unit="degC")
W1 = spec(2, 1)  # each window shows one sample more than the one before
W4 = spec(4, 4)


def limit(**fields: object) -> LimitSpec:
    return LimitSpec(**{"name": "hot", "channel": "t", **fields})  # type: ignore[arg-type]


def marks(samples: str, judged: LimitSpec, window: WindowSpec = W1) -> str:
    checks = LimitChecks([judged], [T], window)
    violated, *_ = checks.check(cut([float(ch) for ch in samples], window))
    return "".join("!" if v else "." for v in violated[:, 0])


# The first window shows two samples (it is judged by both), every other one more.
TIMELINES = [
    ("3456543", {"above": 5}, "..!..."),  # a sample is judged once, though two windows hold it
    ("3455543", {"above": 5}, "......"),  # at the limit is not beyond it
    ("7654345", {"below": 4}, "...!.."),
    ("5915195", {"above": 8, "below": 2}, "!!.!!."),
    ("36666633", {"above": 5, "for_s": 3}, "..!!!.."),  # the third second over is the third 6
    ("36636663663", {"above": 5, "for_s": 3}, ".....!...."),  # a sample within starts it anew
    ("3655354663", {"above": 5, "hysteresis": 1}, "!!!.." + "." + "!!" + "."),  # 5 is not back, 4 is
    ("3633366663", {"above": 5, "for_s": 2, "hysteresis": 1}, "....." + "!!!" + "."),
    ("9999", {"below": 4}, "..."),
]


@pytest.mark.parametrize(("samples", "fields", "expected"), TIMELINES)
def test_timelines(samples: str, fields: dict[str, object], expected: str) -> None:
    assert marks(samples, limit(**fields)) == expected


def test_a_violation_is_seen_in_the_window_where_it_ends() -> None:
    assert marks("333366633333", limit(above=5), W4) == ".!."
    assert marks("333663333333", limit(above=5, for_s=2), W4) == ".!."  # it lasts across windows


def test_the_extreme_is_the_sample_furthest_beyond_in_the_unit() -> None:
    channel = Channel(name="t", origin=100.0)
    limits = [
        limit(above=106.0),
        limit(name="cold", below=104.0),
        limit(name="both", above=106.0, below=102.0),
    ]
    checks = LimitChecks(limits, [channel], W4)
    violated, extreme, _ = checks.check(cut([5, 7, 3, 5, 5, 7, 0, 5, 5, 5, 5, 5], W4))
    assert extreme.tolist() == [[107, 103, 107], [107, 100, 100], [105, 105, 105]]
    assert violated.tolist() == [[True, True, True], [True, True, True], [False, False, False]]


def test_float32_rounding_is_not_beyond() -> None:
    assert float(np.float32(0.1)) > 0.1
    checks = LimitChecks([limit(above=0.1, below=-0.1)], [T], W4)
    assert not checks.check(cut([0.1, -0.1, 0.1, 0.0], W4))[0].any()


class TestInvalidSamples:
    def test_they_are_not_judged_and_break_nothing(self) -> None:
        values = np.array([3.0, 6, 99, 6, 6, 99, 3, 3])
        valid = values != 99
        checks = LimitChecks([limit(above=5, for_s=4)], [T], W4)
        violated, extreme, _ = checks.check(cut(values, W4, valid=valid))
        assert violated[:, 0].tolist() == [False, True]
        assert extreme[:, 0].tolist() == [6, 6]

    def test_a_window_of_nothing_leaves_all_as_it_was(self) -> None:
        nothing = cut([9.0] * 4, W4, valid=np.zeros(4, dtype=bool))
        checks = LimitChecks([limit(above=5)], [T], W4)
        violated, extreme, _ = checks.check(nothing)
        assert not violated.any()
        assert math.isnan(extreme[0, 0])
        checks.check(cut([6.0] * 4, W4, start=4))
        assert checks.check(cut([0.0] * 4, W4, start=8, valid=np.zeros(4, dtype=bool)))[0].all()


class TestGaps:
    def test_a_gap_starts_the_clock_anew_but_ends_no_violation(self) -> None:
        checks = LimitChecks([limit(above=5, for_s=6)], [T], W4)
        apart = join(cut([6.0] * 4, W4), cut([6.0] * 8, W4, start=100), cut([6.0] * 4, W4, start=200))
        assert checks.check(apart)[0][:, 0].tolist() == [False, False, True, True]

    def test_the_silence_between_bursts_is_expected(self) -> None:
        window = spec(4, 4, Fraction(40), Mode.BURST)
        records = [cut([6.0] * 4, window, start=400 * i) for i in range(5)]
        checks = LimitChecks([limit(above=5, for_s=25)], [T], window)
        assert checks.check(join(*records))[0][:, 0].tolist() == [False, False, False, True, True]


def test_limits_on_many_channels_are_judged_each_alone() -> None:
    channels = [Channel(name="a"), Channel(name="t"), Channel(name="b")]
    values = np.stack([np.full(8, 9.0), np.r_[np.zeros(4), np.full(4, 7.0)], np.full(8, -9.0)], axis=1)
    limits = [limit(above=5), limit(name="a", channel="a", above=10), limit(name="b", channel="b", below=-8)]
    violated, extreme, _ = LimitChecks(limits, channels, W4).check(cut(values, W4))
    assert violated.tolist() == [[False, False, True], [True, False, True]]
    assert extreme.tolist() == [[0, 9, -9], [7, 9, -9]]


def test_no_limits_are_no_columns() -> None:
    violated, extreme, since = LimitChecks([], [T], W4).check(cut([1.0] * 8, W4))
    assert violated.shape == extreme.shape == since.shape == (2, 0)


@pytest.mark.parametrize(
    ("samples", "fields", "expected"),
    [
        ("3333366633333333", {"above": 5}, [None, 5, None, None]),  # within the window
        ("3333333333366666", {"above": 5, "for_s": 3}, [None, None, None, 11]),  # its duration included
        ("3366666666666633", {"above": 5, "for_s": 6}, [None, 2, 2, 2]),  # before the window
        ("3666636666663333", {"above": 5, "for_s": 4}, [None, 1, 6, None]),  # each time it is beyond
        ("6335336633333333", {"above": 5}, [0, 6, None, None]),
        ("6446446344444444", {"above": 5, "hysteresis": 2}, [0, 0, None, None]),  # until it is back
        ("6464446444444444", {"above": 5, "hysteresis": 1}, [0, 6, None, None]),
    ],
)
def test_a_violation_has_lasted_since_the_channel_went_beyond(
    samples: str, fields: dict[str, object], expected: list[int | None]
) -> None:
    batch = cut([float(ch) for ch in samples], W4)
    violated, _, since = LimitChecks([limit(**fields)], [T], W4).check(batch)
    starts = batch.start_ns.tolist()
    wanted = [starts[i] if t is None else starts[0] + t * NS_PER_S for i, t in enumerate(expected)]
    assert violated[:, 0].tolist() == [t is not None for t in expected]
    assert since[:, 0].tolist() == wanted


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_how_windows_are_split_over_calls_and_restarts_does_not_show(data: st.DataObject) -> None:
    n, hop = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 8))
    mode = data.draw(st.sampled_from([Mode.CONTINUOUS, Mode.BURST]))
    window = spec(n, hop, Fraction(data.draw(st.sampled_from(["1", "3", "1/7"]))), mode)
    pieces, start = [], 0
    for _ in range(data.draw(st.integers(1, 3))):
        length = data.draw(st.integers(n, 30))
        values = np.array(data.draw(st.lists(st.integers(0, 9), min_size=length, max_size=length)))
        valid = np.array(data.draw(st.lists(st.integers(0, 4), min_size=length, max_size=length))) > 0
        pieces.append(cut(values, window, start=start, valid=valid))
        start += length + data.draw(st.integers(0, 20))
    batch = join(*pieces)
    limits = [
        limit(above=5, for_s=2, hysteresis=1),
        limit(name="low", below=3),
        limit(name="x", above=6, below=2),
    ]

    whole = LimitChecks(limits, [T], window)
    violated, extreme, since = whole.check(batch)
    checks = LimitChecks(limits, [T], window)
    got = []
    for piece in split(batch, data.draw(st.lists(st.integers(0, batch.n)))):
        got.append(checks.check(piece))
        restored = LimitChecks(limits, [T], window)
        restored.restore(codec.decode(codec.encode(checks.state()), LimitState))
        checks = restored
    assert np.concatenate([g[0] for g in got]).tobytes() == violated.tobytes()
    assert np.concatenate([g[1] for g in got]).tobytes() == extreme.tobytes()
    assert np.concatenate([g[2] for g in got]).tobytes() == since.tobytes()
    assert checks.state() == whole.state()


@settings(max_examples=300, deadline=None)
@given(
    samples=st.lists(st.integers(0, 9), min_size=6, max_size=60),
    n=st.integers(2, 6),
    hop=st.integers(1, 6),
    for_s=st.integers(0, 5),
    hysteresis=st.integers(0, 2),
)
def test_violations_are_those_of_the_stream(
    samples: list[int], n: int, hop: int, for_s: int, hysteresis: int
) -> None:
    """Against the definition, sample by sample, where windows overlap or touch."""
    window = spec(n, min(hop, n))
    batch = cut([float(s) for s in samples], window)
    violated, extreme, _ = LimitChecks(
        [limit(above=5, for_s=for_s, hysteresis=hysteresis)], [T], window
    ).check(batch)
    state, run, states = False, 0, []
    for sample in samples:
        run = run + 1 if sample > 5 else 0
        if sample > 5 and run >= for_s:
            state = True
        elif sample <= 5 - hysteresis:
            state = False
        states.append(state)
    judged = 0
    for i in range(batch.n):
        begin, end = i * window.hop, i * window.hop + n
        assert violated[i, 0] == any(states[max(judged, begin) : end])
        assert extreme[i, 0] == max(samples[begin:end])
        judged = end


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"above": 5, "channel": "q"}, "limit 'hot' is on channel 'q', which is not one of t"),
        ({}, "limit 'hot' has neither `above` nor `below`"),
        ({"above": math.nan}, "not finite"),
        ({"above": 5, "below": 4, "hysteresis": 0.5}, "must be less than"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LimitChecks([limit(**fields)], [T], W4)


def test_names_and_states_must_fit() -> None:
    with pytest.raises(ValueError, match="same name: hot, hot"):
        LimitChecks([limit(above=5), limit(below=4)], [T], W4)
    with pytest.raises(ValueError, match="of 0 limits, expected 1"):
        LimitChecks([limit(above=5)], [T], W4).restore(LimitChecks([], [T], W4).state())
