"""Records of a burst device, drawn. See timelines.py for how to read the pictures."""

from __future__ import annotations

from models.signal import DropReason, Mode
from tests.models.timelines import play, policy, windower


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
