"""Rows that come long after they were taken: of slow boards, whose frames take seconds to fill. No clock began anew."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware_bridge.board import Board
from firmware_bridge.protocol import BoardChannel, Counts
from firmware_bridge.session import Session
from firmware_bridge.session_items import Item, Reset, Rows
from models.signal import NS_PER_S

UTC_NS = 1_760_000_000 * NS_PER_S
STEP_US = 20_000
DELAY_NS = 1_000_000


def numbers(index: NDArray[np.int64]) -> Counts:
    return (index % 30_000).astype("<i2")[:, None]


def played(rate_hz: Fraction, rows: int, seconds: int) -> list[Item]:
    """What the session makes of a board whose clock is the host's, with 1 ms each way."""
    board = Board((BoardChannel("x"),), rate_hz, numbers, rows=rows)
    session = Session()
    items: list[Item] = []
    for us in range(0, seconds * 1_000_000, STEP_US):
        mono_ns = us * 1000
        out = board.run(us)
        for frame in session.due(mono_ns):
            out += board.receive(frame, us + DELAY_NS // 1000)
        items += session.receive(out, mono_ns + 2 * DELAY_NS, UTC_NS + mono_ns + 2 * DELAY_NS)
    return items


@pytest.mark.parametrize(
    ("rate_hz", "rows"), [(Fraction(10), 64), (Fraction(1), 4), (Fraction(1, 5), 2), (Fraction(1000), 64)]
)
def test_a_frame_that_takes_seconds_to_fill_is_no_reset(rate_hz: Fraction, rows: int) -> None:
    items = played(rate_hz, rows, 60)
    assert not [item for item in items if isinstance(item, Reset)]
    came = [item for item in items if isinstance(item, Rows)]
    assert sum(len(item.counts) for item in came) == int(60 * rate_hz) // rows * rows
    for item in came:
        assert abs(item.start_ns - UTC_NS - item.index * NS_PER_S / rate_hz) < 5 * DELAY_NS
        assert item.device_us == int(item.index * 1_000_000 / rate_hz)
