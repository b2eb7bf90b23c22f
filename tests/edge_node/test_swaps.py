"""Two hundred swaps while blocks flow."""

from __future__ import annotations

from pathlib import Path

from tests.edge_node.swapping import swap


def test_no_window_is_skipped_or_scored_twice_and_memory_does_not_grow(tmp_path: Path) -> None:
    came = swap(tmp_path, 200)
    assert came.n_windows > 2000
    assert (came.n_skipped, came.n_twice, came.n_dropped) == (0, 0, 0)
    assert came.grown_bytes < 8 << 20, f"{came.grown_bytes / 1e6:.1f} MB in 150 swaps"
