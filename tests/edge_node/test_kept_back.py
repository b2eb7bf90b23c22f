"""What waits until a model has been learned: in its order, cut anywhere, shed from the oldest on."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_node.chunk import Silence
from edge_node.kept_back import Item, KeptBack
from models.signal import WindowBatch

SILENCE = -1


def batch(start: int, n: int) -> WindowBatch:
    at = np.arange(start, start + n, dtype=np.int64)
    return WindowBatch("d", at, at + 1, np.zeros((n, 2, 1), np.float32), np.ones((n, 2, 1), np.bool_))


def silence() -> Silence:
    return Silence(kind="stale", start_ns=0, end_ns=0, channels=(), arrival_ns=0, clock="device")


def filled(sizes: list[int]) -> tuple[KeptBack, list[int]]:
    """Batches of ``sizes``, a silence for each 0, and what that is, window by window."""
    kept, told, at = KeptBack(), list[int](), 0
    for n in sizes:
        kept.add(batch(at, n) if n else silence())
        told += range(at, at + n) if n else [SILENCE]
        at += n
    return kept, told


def windows(item: Item) -> list[int]:
    return item.start_ns.tolist() if isinstance(item, WindowBatch) else [SILENCE]


sizes = st.lists(st.integers(0, 5), max_size=8)


@given(sizes, st.lists(st.integers(1, 4), min_size=40, max_size=40))
def test_what_is_taken_bit_by_bit_is_what_was_added(given_sizes: list[int], bits: list[int]) -> None:
    kept, told = filled(given_sizes)
    assert kept.n == sum(given_sizes)
    found = []
    for n in bits:
        if not kept:
            break
        taken = windows(kept.take(n))
        assert len(taken) <= n
        found += taken
    assert (found, bool(kept)) == (told, False)


@given(sizes, st.integers(0, 30))
def test_the_oldest_are_shed_and_no_more(given_sizes: list[int], n: int) -> None:
    kept, told = filled(given_sizes)
    n_shed = kept.shed(n)
    assert n_shed == min(n, sum(given_sizes))
    left = [at for at in told if at == SILENCE or at >= n_shed]
    assert [at for item in kept.state() for at in windows(item)] == left
    assert kept.n == sum(given_sizes) - n_shed
