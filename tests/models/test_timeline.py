"""Clocks: silence, 1970, steps, the future, jitter and drift, drawn. See timelines.py for how to read the pictures."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from models.signal import NS_PER_S, DropReason, SampleBlock
from tests.models.timelines import T0_S, assert_conserved, blocks, draw, play, policy, silent, windower


def test_the_last_windows_of_a_silent_stream_close_on_the_clock() -> None:
    w = windower()
    play(
        w,
        """
in |abcdefg
now|                     ^
out|abcd
""",
    )
    assert silent(w) == []
    play(
        w,
        """
now|                           ^
out|    efg.
""",
    )
    assert silent(w) == ["x"]
    assert w.n_closed == 2
    play(
        w,
        """
now|                                              ^
in |                                                abcdef
out|                                                abcd
""",
    )
    assert silent(w) == []


def test_a_stream_that_resumes_after_silence_is_late_only_for_what_was_closed() -> None:
    w = windower()
    play(
        w,
        """
in |abcde
now|                             ^
in |     fghijkl
out|abcd
out|        ijkl
""",
    )
    assert w.sample_drops == {DropReason.LATE: 3}  # fgh: their window closed on the clock
    assert w.window_drops == {DropReason.GAP: 1}


def test_a_device_that_never_spoke_is_stale_and_resume_gives_it_time() -> None:
    w = windower()
    w.advance(T0_S * NS_PER_S)
    assert silent(w) == []
    w.advance((T0_S + 20) * NS_PER_S)
    assert silent(w) == ["x"]
    w.resume((T0_S + 20) * NS_PER_S)
    assert silent(w) == []


def test_a_gateway_clock_set_back_does_not_hide_a_silence() -> None:
    w = windower()
    play(w, "in |" + " " * 3600 + "abcd\nout|" + " " * 3600 + "abcd")
    for at_s in (10, 29, 30):
        w.advance((T0_S + at_s) * NS_PER_S)
        assert silent(w) == (["x"] if at_s == 30 else [])


def test_timestamps_from_the_future_and_from_1970_are_dropped() -> None:
    w = windower(policy=policy(max_age_s=86_400))
    play(w, "in |abcd\nout|abcd")
    w.push(blocks("x", "efgh", arrival_s=-200)[0])
    assert w.sample_drops == {DropReason.FUTURE: 4}
    values = np.zeros((3, 1), np.float32)
    arrival_ns = (T0_S + 4) * NS_PER_S
    w.push(SampleBlock.uniform("d", ("x",), values, start_ns=0, rate_hz=Fraction(1), arrival_ns=arrival_ns))
    times = np.array([5, 6, 7]) * NS_PER_S
    w.push(SampleBlock.irregular("d", ("x",), values, time_ns=times, arrival_ns=arrival_ns))
    assert w.sample_drops == {DropReason.FUTURE: 4, DropReason.TOO_OLD: 6}
    assert_conserved(w)
    play(w, "in |    efgh\nout|    efgh")  # as if nothing had been


def test_part_of_a_block_may_be_too_old_or_in_the_future() -> None:
    w = windower(policy=policy(max_future_s=2, max_age_s=4))
    w.push(blocks("x", "abcdefghijkl", arrival_s=7)[0])
    assert w.sample_drops == {DropReason.TOO_OLD: 3, DropReason.FUTURE: 2}  # abc; kl
    w.push(blocks("x", "abcdefghijkl", arrival_s=7, timed=True)[0])
    assert w.sample_drops[DropReason.TOO_OLD] == 6
    assert w.sample_drops[DropReason.FUTURE] == 4
    assert w.sample_drops[DropReason.DUPLICATE] + w.sample_drops[DropReason.LATE] == 7
    assert_conserved(w)


def test_1970_at_boot_then_the_clock_is_set() -> None:
    """Stamped on arrival by a gateway without a clock: its 1970 is as good a time as any, then time leaps."""
    w = windower()
    for start_s in (100, 104, T0_S, T0_S + 4):
        values = np.arange(4, dtype=np.float32)[:, None]
        w.push(
            SampleBlock.uniform(
                "d",
                ("x",),
                values,
                start_ns=start_s * NS_PER_S,
                rate_hz=Fraction(1),
                arrival_ns=(start_s + 4) * NS_PER_S,
            )
        )
    starts = [int(s) // NS_PER_S for b in w.take() for s in b.start_ns]
    assert starts == [100, 104, T0_S, T0_S + 4]
    assert w.n_closed == 4


def test_an_ntp_step_forward_is_a_gap() -> None:
    w = windower()
    play(
        w,
        """
in |abcdef
in |             ghijklmnopqrs
out|abcd
out|            .ghi
out|                jklm
out|                    nopq
""",
    )
    assert w.window_drops == {DropReason.GAP: 1}


def test_an_ntp_step_back_is_late_until_time_catches_up() -> None:
    w = windower()
    play(
        w,
        """
in |abcdefghij
in |      klmnop
out|abcd
out|    efgh
out|        ijop
""",
    )
    assert w.sample_drops == {DropReason.LATE: 2, DropReason.DUPLICATE: 2}
    assert w.take_clock_events() == []


def test_a_clock_set_back_for_good_begins_event_time_anew() -> None:
    w = windower()
    later = 100
    play(w, "in |" + " " * later + "abcdef\nout|" + " " * later + "abcd")
    for start, arrival in ((0, 107), (4, 111), (8, 116)):
        w.push(blocks("x", " " * start + "ghij", arrival_s=arrival)[0])
        assert w.sample_drops == {DropReason.LATE: start + 4}
    assert w.take() == []
    w.push(blocks("x", " " * 12 + "klmnop", arrival_s=119)[0])
    (event,) = w.take_clock_events()
    assert (event.at_ns, event.to_ns) == ((T0_S + later + 5) * NS_PER_S, (T0_S + 12) * NS_PER_S)
    assert w.take_clock_events() == []
    assert [draw(w, b)["x"] for b in w.take()] == [[" " * 12 + "klmn"]]
    assert w.window_drops == {DropReason.GAP: 1}  # "ef", open when the clock was set back
    assert w.sample_drops == {DropReason.LATE: 12}
    assert_conserved(w)


def test_late_samples_among_timely_ones_never_restart_the_clock() -> None:
    w = windower()
    for k in range(40):
        w.push(blocks("x", " " * (4 * k) + "abcd")[0])
        w.push(blocks("x", "abcd", arrival_s=4 * k + 4)[0])
    assert w.take_clock_events() == []
    assert w.sample_drops[DropReason.LATE] >= 39 * 4


def test_jitter_neither_opens_gaps_nor_loses_samples() -> None:
    w = windower(policy=policy(jitter_s=0.25))
    for k, late_s in enumerate((0, 0.2, 0.1, 0.24, 0.05)):
        block = blocks("x", "abcd")[0]
        start_ns = (T0_S + 4 * k) * NS_PER_S + round(late_s * NS_PER_S)
        w.push(
            SampleBlock.uniform(
                "d", ("x",), block.values, start_ns=start_ns, rate_hz=Fraction(1), arrival_ns=start_ns
            )
        )
    batches = w.take()
    assert [draw(w, b)["x"][0].strip() for b in batches] == ["abcd"] * 5
    assert w.sample_drops == {}


@pytest.mark.parametrize("ppm", [80, -80, 900, -900])
def test_a_drifting_sampling_clock_is_followed_without_losing_or_doubling_a_sample(ppm: int) -> None:
    """1 kHz nominal, blocks of 100 stamped by a true clock, for 100 s."""
    rate = Fraction(1000)
    w = windower(n=200, hop=100, rate=rate, policy=policy(jitter_s=0.01, lateness_s=1))
    true_rate = 1000 * (1 + ppm * 1e-6)
    start_ns = T0_S * NS_PER_S
    for k in range(1000):
        values = np.arange(100 * k, 100 * k + 100, dtype=np.float32)[:, None]
        at_ns = start_ns + round(100 * k / true_rate * NS_PER_S)
        w.push(SampleBlock.uniform("d", ("x",), values, start_ns=at_ns, rate_hz=rate, arrival_ns=at_ns))
    batches = w.take()
    values = np.concatenate([b.values for b in batches])[:, :, 0].astype(np.float64)
    assert (np.diff(values, axis=1) == 1).all()  # contiguous: nothing lost, nothing twice
    starts = np.concatenate([b.start_ns for b in batches])
    assert (np.diff(starts) == 100_000_000).all()  # and still on the grid
    true_start = values[:, 0] / true_rate * NS_PER_S + start_ns
    assert np.abs(true_start - starts).max() < 2e6  # within two samples
    assert w.sample_drops == {}
    assert w.window_drops == {}


def test_a_sampling_clock_beyond_1000_ppm_is_counted_not_hidden() -> None:
    rate = Fraction(1000)
    w = windower(n=200, hop=200, rate=rate, policy=policy(jitter_s=0.005, lateness_s=1))
    for k in range(400):
        values = np.zeros((100, 1), np.float32)
        at_ns = T0_S * NS_PER_S + round(100 * k / 1010 * NS_PER_S)
        w.push(SampleBlock.uniform("d", ("x",), values, start_ns=at_ns, rate_hz=rate, arrival_ns=at_ns))
    late = sum(w.sample_drops.values())
    assert 250 < late < 450  # 1 % of 40,000, less what was followed
    starts = np.concatenate([b.start_ns for b in w.take()])
    assert abs(int(starts[-1]) - at_ns) < 1.5 * NS_PER_S  # event time does not run away
    assert_conserved(w)


def test_rows_with_times_of_their_own_on_a_uniform_device() -> None:
    for timed in (True, False):
        w = windower()
        play(
            w,
            """
in |abcdef..ijk
in |      gh
in |           l
in |        ijkl
in |            mnop
out|abcd
out|    efgh
out|        ijkl
out|            mnop
""",
            timed=timed,
        )
        assert w.sample_drops == {DropReason.LATE: 4}
