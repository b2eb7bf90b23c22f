"""Another board on the same port, that counts its boots as the first one does."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.board import Board
from firmware_bridge.protocol import BoardChannel, Counts
from firmware_bridge.session import Session
from firmware_bridge.session_items import Greeting, Item, Lost, Rows
from models.signal import NS_PER_S

UTC_NS = 1_760_000_000 * NS_PER_S


def numbers(index: NDArray[np.int64]) -> Counts:
    return index.astype("<i2")[:, None]


def test_a_board_of_another_serial_number_is_another_board() -> None:
    session = Session()
    items: list[Item] = []
    for serial, seconds in (("A", 3), ("B", 2)):
        board = Board((BoardChannel("x"),), Fraction(100), numbers, serial=serial, config_id=1, rows=10)
        for ms in range(0, seconds * 1000, 100):
            now_ns = (ms + (0 if serial == "A" else 3000)) * 1_000_000
            items += session.receive(board.run(ms * 1000), now_ns, UTC_NS + now_ns)
        session.disconnected()
    assert [i.hello.serial for i in items if isinstance(i, Greeting) and i.new] == ["A", "B"]
    assert not [i for i in items if isinstance(i, Lost)]
    assert session.counters.n_repeated_rows == 0
    assert sum(len(i.counts) for i in items if isinstance(i, Rows) and i.hello.serial == "B") == 190
