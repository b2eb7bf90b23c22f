"""Each rule of event time, drawn. See timelines.py for how to read the pictures."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from models.signal import NS_PER_S, DropReason, Mode, SampleBlock, WindowSpec
from models.windowing import Windower, default_policy
from tests.models.timelines import T0_S, assert_conserved, blocks, draw, play, policy, windower


def test_windows_are_aligned_to_multiples_of_the_hop_since_the_epoch() -> None:
    w = windower()
    play(
        w,
        """
in |  cdefghijklmnopq
out|    efgh
out|        ijkl
out|            mnop
""",
    )
    assert (w.n_closed, w.window_drops, w.sample_drops) == (3, {}, {})


def test_windows_overlap_where_the_hop_is_shorter() -> None:
    play(
        windower(hop=2),
        """
in |abcdef
in |      ghij
out|abcd
out|  cdef
out|    efgh
out|      ghij
""",
    )


def test_windows_may_leave_samples_out_where_the_hop_is_longer() -> None:
    w = windower(n=2, hop=5)
    play(
        w,
        """
in |abcdefghijklmno
out|ab
out|     fg
out|          kl
""",
    )
    assert w.n_windowed == 15


def test_a_complete_window_closes_at_once_without_waiting_for_the_lateness() -> None:
    w = windower(policy=policy(lateness_s=1000))
    w.push(blocks("x", "abcd")[0])
    assert [b.n for b in w.take()] == [1]


def test_out_of_order_blocks_fill_the_hole() -> None:
    w = windower()
    play(
        w,
        """
in |abcd  ghij
in |    ef
out|abcd
out|    efgh
""",
    )
    assert w.sample_drops == {}


def test_duplicates_are_dropped() -> None:
    w = windower()
    play(
        w,
        """
in |abcdef
in |    ef
in |   defgh
out|abcd
out|    efgh
""",
    )
    # d is already out of every open window: it is late, not a duplicate.
    assert w.sample_drops == {DropReason.DUPLICATE: 4, DropReason.LATE: 1}


def test_late_samples_are_dropped_once_their_window_has_closed() -> None:
    w = windower()
    play(
        w,
        """
in |abc.efgh
in |        ijkl
in |   d
out|abc.
out|    efgh
out|        ijkl
""",
    )
    assert w.sample_drops == {DropReason.LATE: 1}


def test_a_window_waits_for_the_lateness_before_it_closes_with_a_hole() -> None:
    w = windower()
    play(
        w,
        """
in |abc.efg
in |   d
in |       h
out|abcd
out|    efgh
""",
    )
    assert w.sample_drops == {}


def test_a_gap_drops_the_windows_it_touches_too_much() -> None:
    w = windower()
    play(
        w,
        """
in |abcdef......mnopqrstuv
out|abcd
out|            mnop
out|                qrst
""",
    )
    assert w.window_drops == {DropReason.GAP: 1}  # ef..; the next one, wholly in the gap, never was
    assert w.n_closed == 4


def test_a_year_of_silence_costs_no_windows() -> None:
    w = windower()
    year_s = 366 * 86_400
    w.push(blocks("x", "abcdef")[0])
    later = blocks("x", "ijkl")[0]
    w.push(
        SampleBlock.uniform(
            "d",
            ("x",),
            later.values,
            start_ns=(T0_S + year_s) * NS_PER_S,
            rate_hz=Fraction(1),
            arrival_ns=(T0_S + year_s + 4) * NS_PER_S,
        )
    )
    assert sum(b.n for b in w.take()) == 2
    assert w.n_closed == 3
    assert len(w.snapshot()) < 1500


def test_nan_leaves_a_hole_of_its_own_value() -> None:
    w = windower(("x", "y"))
    values = np.array([[1, 10], [np.nan, 20], [3, np.inf], [4, 40]], np.float32)
    w.push(
        SampleBlock.uniform(
            "d", ("x", "y"), values, start_ns=T0_S * NS_PER_S, rate_hz=Fraction(1), arrival_ns=T0_S * NS_PER_S
        )
    )
    assert w.take() == []  # a value may still come
    for name in "xy":
        w.push(blocks(name, "        ijkl")[0])
    (batch,) = w.take()[:1]
    assert batch.valid[0].tolist() == [[True, True], [False, True], [True, False], [True, True]]
    assert batch.values[0].tolist() == [[1, 10], [1, 20], [3, 20], [4, 40]]  # the last valid one is held
    assert w.sample_drops == {DropReason.NOT_FINITE: 2}
    assert_conserved(w)


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
    assert not w.stale
    play(
        w,
        """
now|                           ^
out|    efg.
""",
    )
    assert w.stale
    assert w.stale_channels == ("x",)
    assert w.n_closed == 2
    play(
        w,
        """
now|                                              ^
in |                                                abcdef
out|                                                abcd
""",
    )
    assert not w.stale


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
    assert not w.stale
    w.advance((T0_S + 20) * NS_PER_S)
    assert w.stale
    w.resume((T0_S + 20) * NS_PER_S)
    assert not w.stale


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


def test_channels_from_several_topics_are_joined() -> None:
    w = windower(("x", "y"))
    play(
        w,
        """
in x |abcdef
in y |ABCDEFGH
in x |      gh
out x|abcd
out x|    efgh
out y|ABCD
out y|    EFGH
""",
    )


def test_of_joined_channels_one_dies() -> None:
    w = windower(("x", "y"), policy=policy(lateness_s=3, stale_after_s=8))
    play(
        w,
        """
in y |ABCDEF
in x |abcdefg
in x |       hijklmnopqrstuvwxy
now  |                         ^
out x|abcd
out y|ABCD
""",
    )
    assert w.window_drops[DropReason.GAP] == w.n_closed - 1 == 4
    assert w.stale_channels == ("y",)


def test_a_channel_that_only_sends_nan_is_silent() -> None:
    w = windower(("x", "y"), policy=policy(stale_after_s=8))
    for k in range(4):
        values = np.array([[1, np.nan]] * 4, np.float32)
        start_ns = (T0_S + 4 * k) * NS_PER_S
        arrival_ns = start_ns + 4 * NS_PER_S
        w.push(
            SampleBlock.uniform(
                "d", ("x", "y"), values, start_ns=start_ns, rate_hz=Fraction(1), arrival_ns=arrival_ns
            )
        )
    assert w.stale_channels == ("y",)


def test_unknown_devices_channels_and_rates_are_counted() -> None:
    w = windower(("x", "y"))
    values = np.ones((4, 3), np.float32)
    start_ns = T0_S * NS_PER_S
    for device, channels, rate in (
        ("other", ("x", "y", "z"), 1),
        ("d", ("x", "z", "y"), 1),
        ("d", ("x", "y", "z"), 2),
        ("d", ("x", "x", "x"), 1),
    ):
        w.push(
            SampleBlock.uniform(
                device, channels, values, start_ns=start_ns, rate_hz=Fraction(rate), arrival_ns=start_ns
            )
        )
        assert_conserved(w)
    assert w.sample_drops == {
        DropReason.UNKNOWN_DEVICE: 12,
        DropReason.UNKNOWN_CHANNEL: 4 + 4 + 8,
        DropReason.WRONG_RATE: 8,
        DropReason.LATE: 4,
    }


def test_columns_in_another_order_or_in_parts_go_to_their_places() -> None:
    w = windower(("x", "y", "z"))
    start_ns = T0_S * NS_PER_S

    def push(channels: tuple[str, ...], at_s: int) -> None:
        values = np.array([[ord(c) + i for c in channels] for i in range(4)], np.float32)
        at_ns = start_ns + at_s * NS_PER_S
        w.push(
            SampleBlock.uniform("d", channels, values, start_ns=at_ns, rate_hz=Fraction(1), arrival_ns=at_ns)
        )

    push(("z", "x"), 0)
    push(("y",), 0)
    push(("x", "y", "z"), 4)
    push(("y", "z"), 8)
    push(("x",), 8)
    values = np.concatenate([b.values for b in w.take()])
    expected = np.array([[120 + i, 121 + i, 122 + i] for i in range(4)])
    assert values.shape == (3, 4, 3)
    assert (values == expected).all()
    assert w.sample_drops == {}
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


def test_bursts_are_windowed_from_their_first_sample_and_silence_between_is_expected() -> None:
    w = windower(mode=Mode.BURST, n=4, hop=2)
    play(
        w,
        """
in | bcdefg              vwxyz
now|                                                            ^
out| bcde
out|   defg
out|                     vwxy
""",
    )
    assert w.window_drops == {}
    assert w.n_closed == 3


def test_a_burst_cut_short_is_a_gap() -> None:
    w = windower(mode=Mode.BURST, policy=policy(lateness_s=3))
    play(
        w,
        """
in |abc         mnop
now|                      ^
in |                          ABCD    EF
now|                                                    ^
out|            mnop
out|                          ABCD
""",
    )
    assert w.window_drops == {DropReason.GAP: 2}
    assert w.n_closed == 4


def test_a_burst_in_several_blocks_and_repeated() -> None:
    w = windower(mode=Mode.BURST)
    play(
        w,
        """
in | bc
in | bc
in |   defghi
in | bc
in |            mnop
in |    ef
out| bcde
out|     fghi
out|            mnop
""",
    )
    assert w.sample_drops == {DropReason.DUPLICATE: 2, DropReason.LATE: 4}


def test_bursts_from_two_topics_are_joined_by_their_start() -> None:
    w = windower(("x", "y"), mode=Mode.BURST)
    play(
        w,
        """
in x |  cdef
in y |  CDEF
in x |                    rstu
in y |                    RSTU
in x |                                  ABCD
in x |                                                 EFGH
in y |                                                 efgh
out x|  cdef
out x|                    rstu
out x|                                                 EFGH
out y|  CDEF
out y|                    RSTU
out y|                                                 efgh
""",
    )
    assert w.window_drops == {DropReason.GAP: 1}


def test_irregular_samples_hold_for_hold_s_then_are_invalid() -> None:
    w = windower(mode=Mode.IRREGULAR, policy=policy(hold_s=2, lateness_s=0))
    play(
        w,
        """
in |a.cd.f......m...q
out|aacd
out|    dfff
out|            mmm.
""",
    )
    # f is held over two more cells; the window after that is wholly empty and never was.
    assert w.n_closed == 3
    assert w.window_drops == {}


def test_irregular_samples_below_min_valid_are_a_gap() -> None:
    w = windower(mode=Mode.IRREGULAR, policy=policy(hold_s=1, lateness_s=0))
    play(
        w,
        """
in |abcd.....jkl...p
out|abcd
out|        .jkl
""",
    )
    assert w.window_drops == {DropReason.GAP: 1}


def test_irregular_channels_join_and_the_newest_sample_of_a_cell_stays() -> None:
    w = windower(("x", "y"), mode=Mode.IRREGULAR, policy=policy(lateness_s=2, hold_s=3))

    def push(channel: str, *samples: tuple[float, float]) -> None:
        times = np.array([round((T0_S + t) * NS_PER_S) for t, _ in samples])
        values = np.array([[v] for _, v in samples], np.float32)
        w.push(SampleBlock.irregular("d", (channel,), values, time_ns=times, arrival_ns=int(times.max())))

    push("x", (0.1, 1), (0.9, 2), (1.5, 3))
    push("y", (0.5, 10))
    push("x", (0.2, 9), (0.9, 8))  # older than what the cell has; a repetition
    push("x", (3.5, 4), (2.5, 5))  # out of order
    push("y", (4.5, 20), (6.2, 30))
    (batch,) = w.take()
    assert batch.values[0].tolist() == [[2, 10], [3, 10], [5, 10], [4, 10]]
    assert batch.valid.all()
    push("x", (3.9, 7))
    assert w.sample_drops == {DropReason.DUPLICATE: 1, DropReason.LATE: 1}
    assert_conserved(w)


def test_an_irregular_device_goes_on_with_the_clock_and_restarts() -> None:
    w = windower(mode=Mode.IRREGULAR, policy=policy(lateness_s=2, hold_s=3))
    play(
        w,
        """
in |abcde
now|          ^
out|abcd
""",
    )
    play(
        w,
        """
now|           ^
out|    eeee
""",
    )
    assert w.n_closed == 2
    for arrival in (12, 17, 22):
        w.push(blocks("x", "klm", arrival_s=arrival)[0])
    assert [e.kind for e in w.take_clock_events()] == ["restart"]
    play(w, "in |   nopq\nout|klmn")
    assert_conserved(w)


def test_restore_refuses_the_state_of_another_window() -> None:
    state = windower().snapshot()
    with pytest.raises(ValueError, match="4/4 at 1 Hz"):
        windower(n=8).restore(state)
    with pytest.raises(ValueError, match=r"truncated|expected|malformed|valid"):
        windower().restore(state[: len(state) // 2])


def test_default_policies_keep_jitter_under_a_block_and_lateness_over_a_period() -> None:
    for mode, rate in ((Mode.CONTINUOUS, 1000), (Mode.BURST, 25_600), (Mode.IRREGULAR, Fraction(1, 300))):
        spec = WindowSpec(n=60, hop=10, rate_hz=Fraction(rate), mode=mode)
        given = default_policy(spec)
        assert given.lateness_s >= 1 / rate
        assert given.stale_after_s >= 10 / rate
        assert given.jitter_s <= max(0.005, 0.5 / float(rate))


def test_memory_is_bounded_whatever_the_clocks_do() -> None:
    rng = np.random.default_rng(5)
    for mode in Mode:
        w = windower(("x", "y"), mode=mode, hop=2, policy=policy(max_age_s=3600, max_future_s=600))
        sizes = []
        for _ in range(1500):
            n = int(rng.integers(1, 9))
            start_s = T0_S + int(rng.integers(-100, 500)) if rng.random() < 0.5 else T0_S + len(sizes)
            arrival_ns = (T0_S + len(sizes)) * NS_PER_S
            values = rng.normal(size=(n, 1)).astype(np.float32)
            w.push(
                SampleBlock.uniform(
                    "d",
                    (str(rng.choice(["x", "y"])),),
                    values,
                    start_ns=start_s * NS_PER_S,
                    rate_hz=Fraction(1),
                    arrival_ns=arrival_ns,
                )
            )
            w.take()
            w.take_clock_events()
            sizes.append(len(w.snapshot()))
            assert_conserved(w)
        assert max(sizes) < 12_000
        assert isinstance(w, Windower)
