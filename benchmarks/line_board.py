"""``python -m benchmarks.line_board LINK``: a board of 3 axes at 25.6 kHz on a pty, as a USB adapter would hand it on.

What goes over the line are the frames of docs/protocol.md's fastest example; they arrive as they would from a UART at
2 Mbaud behind a full-speed adapter: 64 bytes at a time, whenever the line has carried as many.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
import tty
from fractions import Fraction
from pathlib import Path

from firmware_bridge.board import Board
from firmware_bridge.simulator import VIBRATION, vibration

RATE_HZ = Fraction(25_600)
ROWS = 256  # a frame
BYTES_PER_S = 200_000  # 2 Mbaud, ten bits a byte
PACKET = 64
PACKET_S = PACKET / BYTES_PER_S


def board() -> Board:
    """Freshly booted."""
    return Board(VIBRATION, RATE_HZ, vibration(RATE_HZ, 1), rows=ROWS)


def main(link: Path) -> None:
    """Until it is killed."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    link.symlink_to(os.ttyname(slave))
    sender, began_s = board(), time.monotonic()
    waiting, next_s = b"", 0.0
    while True:
        now_s = time.monotonic() - began_s
        now_us = round(now_s * 1e6)
        waiting += sender.run(now_us)
        if select.select([master], [], [], 0)[0]:
            waiting += sender.receive(os.read(master, 4096), now_us)
        next_s = max(next_s, now_s - 0.1)  # a line that nobody let speak does not catch up for ever
        while waiting and next_s <= now_s:
            n = 0
            with contextlib.suppress(BlockingIOError):
                n = os.write(master, waiting[:PACKET])
            waiting, next_s = waiting[n:], next_s + PACKET_S
        if not waiting:
            next_s = max(next_s, now_s)
        if len(waiting) > BYTES_PER_S:  # nobody reads
            waiting = b""
        time.sleep(PACKET_S if not waiting else max(0.0, next_s - now_s))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
