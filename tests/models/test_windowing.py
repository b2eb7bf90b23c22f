"""Where windows lie and what becomes of samples out of order, drawn. See timelines.py for how to read the pictures."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from models.signal import NS_PER_S, DropReason, Mode, SampleBlock, WindowSpec
from models.windowing import Windower, default_policy
from tests.models.timelines import T0_S, assert_conserved, blocks, play, policy, windower


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
        sizes: list[int] = []
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
