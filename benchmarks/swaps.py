"""Models swapped while blocks flow (``tests/edge_node/swapping.py``): windows skipped, scored twice, and memory."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.edge_node.swapping import swap


def measure(*, quick: bool) -> dict[str, object]:
    """What came of it."""
    with tempfile.TemporaryDirectory() as name:
        return asdict(swap(Path(name), 8 if quick else 200))
