"""Samples that wait, bounded, for the Hello that explains them. Pure."""

from __future__ import annotations

from collections import deque

from firmware_bridge.runs import DATA_AT

MAX_BYTES = 1 << 18


class Held:
    """Bodies of Samples, in the order in which they came, and when that was. What waited in vain is for the caller to
    count: each method that gives something up returns its number of rows."""

    def __init__(self) -> None:
        self._bodies: deque[tuple[bytes, int]] = deque()  # and when it came, monotonic ns
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._bodies)

    def put(self, body: bytes, mono_ns: int) -> int:
        """One more; where all do not fit, the oldest are given up."""
        self._bodies.append((body, mono_ns))
        self.n_bytes += len(body)
        n_rows = 0
        while self.n_bytes > MAX_BYTES:
            dropped, _ = self._bodies.popleft()
            self.n_bytes -= len(dropped)
            n_rows += _n_rows(dropped)
        return n_rows

    def take(self, config_id: int) -> tuple[list[tuple[list[bytes], int]], int]:
        """What waited for the Hello of ``config_id``, read by read, and when each came. What waited for another one came
        before this: it will not come, and is given up."""
        reads: list[tuple[list[bytes], int]] = []
        n_rows = 0
        for body, came_ns in self._bodies:
            if config_of(body) != config_id:
                n_rows += _n_rows(body)
            elif reads and reads[-1][1] == came_ns:
                reads[-1][0].append(body)
            else:
                reads.append(([body], came_ns))
        self._bodies.clear()
        self.n_bytes = 0
        return reads, n_rows

    def give_up(self) -> int:
        """Nothing waits any more."""
        n_rows = sum(_n_rows(body) for body, _ in self._bodies)
        self._bodies.clear()
        self.n_bytes = 0
        return n_rows


def config_of(body: bytes) -> int:
    """config_id of a Samples body; -1 where it is too short for one."""
    return body[4] | body[5] << 8 if len(body) >= DATA_AT else -1


def _n_rows(body: bytes) -> int:
    return body[8] | body[9] << 8
