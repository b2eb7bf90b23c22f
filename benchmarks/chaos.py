"""The gateway between real brokers, broken at random moments (``tests/edge_node/chaos.py``), and what came of it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from examples.demo.processes import DemoError
from tests.edge_node import chaos

SECONDS = 180.0


def measure(*, quick: bool) -> dict[str, object]:
    """The report of one run, of a seed that it prints. DemoError where something was lost."""
    seed = int.from_bytes(os.urandom(4), "little")
    seconds = 20.0 if quick else SECONDS
    print(f"seed {seed}, {seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory() as name:
        try:
            return asdict(chaos.run(seed, seconds, Path(name)))
        except chaos.Lost as error:
            raise DemoError(f"seed {seed}: {error}") from error
