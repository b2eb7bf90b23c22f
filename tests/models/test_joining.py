"""Channels from several topics, drawn. See timelines.py for how to read the pictures."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from models.signal import NS_PER_S, DropReason, SampleBlock
from tests.models.timelines import T0_S, assert_conserved, play, policy, silent, windower


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
    assert silent(w) == ["y"]


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
    assert silent(w) == ["y"]


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
