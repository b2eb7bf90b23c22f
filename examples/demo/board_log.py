"""What the simulated board says of itself, read. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from examples.demo.report import SentByBoard
from examples.demo.scenario import WornBoard
from models.signal import NS_PER_S

WORN_FROM = r"is damaged from (\S+)Z on"


def worn_ns(said: str) -> int:
    """When its fault begins, Unix UTC; ValueError where it does not say."""
    found = re.search(WORN_FROM, said)
    if found is None:
        raise ValueError("does not say when its fault begins")
    seconds, _, fraction = found[1].partition(".")
    return int(datetime.fromisoformat(f"{seconds}Z").timestamp()) * NS_PER_S + int(fraction.ljust(9, "0"))


def sent_by(worn: WornBoard, said: str) -> SentByBoard:
    """What it has sent; ValueError where it does not say."""
    found = re.search(r"^sent (\d+) rows, (\d+) bytes", said, re.MULTILINE)
    if found is None:
        raise ValueError("does not say what it has sent")
    board = worn.board
    return SentByBoard(board.machine, int(found[2]), int(found[1]) * len(board.channels))
