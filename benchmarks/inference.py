"""What a process of its own costs inference: time a batch, windows a second, memory; beside the same engine in this process.

Both run the same graph on the same rows, call by call in turn, so that whatever slows the machine slows both. Memory is the
worker's, beside a bare process with numpy and the TFLite runtime.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks import plant
from benchmarks.timing import percentile
from edge_node.inference import Engine, ScoringEngine
from edge_node.workers import Workers
from examples.demo.processes import DemoError

ROWS = (1, 16, 1024)  # of a batch: a lone device's, a plant's, a backlog's
MB = 1e6
BARE = "from models.runtime import runtime_name; runtime_name(); print(flush=True); input()"


def measure(*, quick: bool) -> dict[str, object]:
    """By rows of a batch: microseconds p50 and p99, and windows a second, in a worker and in this process."""
    trained = plant.train(60 if quick else 600)
    n_starts = 2 if quick else 20
    starts_ms = []
    for _ in range(n_starts):
        workers = Workers()
        began = time.perf_counter()
        workers.engine(trained.manifest, trained.artifacts)
        starts_ms.append(1e3 * (time.perf_counter() - began))
        workers.close()
    workers = Workers()
    try:
        engines: dict[str, ScoringEngine] = {
            "process": workers.engine(trained.manifest, trained.artifacts),
            "in_process": Engine(trained.manifest, trained.artifacts),
        }
        width = len(trained.manifest.normalisation.centre)
        by_rows = {}
        for n in ROWS:
            inputs = np.random.default_rng(plant.SEED).normal(size=(n, width)).astype(np.float32)
            by_rows[str(n)] = _in_turn(engines, inputs, 50 if quick else 5000 if n < 1000 else 1000)
        worker = _memory(workers.pids()["cpu"])
        with _bare() as pid:
            bare = _memory(pid)
    finally:
        workers.close()
    return {
        "features": width,
        "by_rows": by_rows,
        "start_ms": {"p50": percentile(starts_ms, 0.5), "max": max(starts_ms), "n": n_starts},
        "worker": worker,
        "bare": bare,
    }


def _in_turn(
    engines: dict[str, ScoringEngine], inputs: NDArray[np.float32], n: int
) -> dict[str, dict[str, float]]:
    us: dict[str, list[float]] = {name: [] for name in engines}
    gc.collect()
    gc.disable()
    try:
        for i in range(n + n // 10):
            for name, engine in engines.items():
                began = time.perf_counter_ns()
                engine.run(inputs)
                if i >= n // 10:  # the first ones warm up
                    us[name].append((time.perf_counter_ns() - began) / 1e3)
    finally:
        gc.enable()
    found = {
        name: {
            "p50_us": percentile(took, 0.5),
            "p99_us": percentile(took, 0.99),
            "windows_per_s": len(inputs) * len(took) / (sum(took) / 1e6),
        }
        for name, took in us.items()
    }
    ours, beside = found["process"], found["in_process"]
    return {**found, "process_over_in_process": {key: ours[key] / beside[key] for key in ours}}


@contextmanager
def _bare() -> Iterator[int]:
    """A process that has loaded numpy and the runtime, and does nothing."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", BARE], **pipes) as process:  # type: ignore[call-overload]
        if not process.stdout.readline():
            raise DemoError("a bare process with the TFLite runtime does not start")
        yield process.pid
        process.communicate(b"\n", timeout=10)


def _memory(pid: int) -> dict[str, float]:
    found = psutil.Process(pid).memory_full_info()
    return {f"{kind}_mb": getattr(found, kind) / MB for kind in ("rss", "pss", "uss") if hasattr(found, kind)}
