"""Random and mutated messages and models for a running gateway (``tests/edge_node/fuzz_gateway.py``), and what came of it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from examples.demo.processes import DemoError
from tests.edge_node import fuzz_gateway
from tests.edge_node.chaos import Lost

N_MESSAGES, N_MODELS = 40_000, 100


def measure(*, quick: bool) -> dict[str, object]:
    """The report of one run, of a seed that it prints. DemoError where the gateway ended, or did not do its work."""
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}", flush=True)
    n_messages, n_models = (500, 3) if quick else (N_MESSAGES, N_MODELS)
    with tempfile.TemporaryDirectory() as name:
        try:
            return asdict(fuzz_gateway.run(seed, n_messages, n_models, Path(name), quiet=True))
        except Lost as error:
            raise DemoError(f"seed {seed}: {error}") from error
