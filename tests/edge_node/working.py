"""Inference workers for tests: the fixture's model, a stick that can die and come back, and processes looked at from outside."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from edge_node.workers import Workers
from models import manifest as manifests
from models.manifest import ModelManifest
from models.signal import ArtifactTarget
from tests.brokers import wait_for
from tests.fixtures.bundle_files import BUNDLE, artifact

TARGETS: tuple[ArtifactTarget, ...] = ("cpu-float32", "cpu-int8", "edgetpu-int8")
ARTIFACTS = {target: artifact(target) for target in TARGETS}


def manifest() -> ModelManifest:
    return manifests.decode((BUNDLE / "manifest.json").read_bytes())


def rows(n: int, scale: float = 1.0, seed: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, 10), scale=scale).astype(np.float32)


class Stick:
    """The stand-in for an Edge TPU: it fails as ``path`` says, which the environment names."""

    def __init__(self, library: str, path: Path) -> None:
        self.library = library
        self.path = path
        self.now("works")

    def now(self, how: str) -> None:
        """From now on it fails like this; ``works``: not at all."""
        new = self.path.with_suffix(".new")
        new.write_text(how)
        new.replace(self.path)


def gone(pids: Iterable[int], timeout_s: float = 10.0) -> bool:
    """Whether all of these processes end in time; a zombie has not."""
    ends_s = time.monotonic() + timeout_s
    left = [pid for pid in pids if psutil.pid_exists(pid)]
    while left and time.monotonic() < ends_s:
        time.sleep(0.01)
        left = [pid for pid in left if psutil.pid_exists(pid)]
    return not left


def settle(workers: Workers, *, up: set[str]) -> None:
    """Look after the workers until those in ``up`` are."""

    def is_so() -> bool:
        workers.step()
        return {name for name, is_up in workers.figures().up.items() if is_up} == up

    wait_for(is_so, f"workers {up}")
