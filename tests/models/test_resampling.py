"""Irregular samples on a grid, drawn. See timelines.py for how to read the pictures."""

from __future__ import annotations

import numpy as np

from models.signal import NS_PER_S, DropReason, Mode, SampleBlock
from tests.models.timelines import T0_S, assert_conserved, blocks, play, policy, windower


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
