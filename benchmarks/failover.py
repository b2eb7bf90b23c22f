"""How long an Edge TPU that is lost keeps its batch from being scored on the CPU, and when it is used again.

The stick is the tests' stand-in (``tests/edge_node/fake_edgetpu.c``), which hangs, aborts or fails in the middle of a run;
or its worker is killed. A batch goes out every 10 ms; each death is of a worker of its own. Lost until scored is from the
moment of the death until the batch that met it has come back from the CPU, beside the same batch on a CPU that has
nothing to take over.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import percentile
from edge_node.inference import Engine
from edge_node.worker_engine import WorkerEngine
from edge_node.workers import TPU_PATIENCE, Workers
from examples.demo.processes import DemoError
from models import manifest as manifests
from models.signal import ArtifactTarget
from tests.fixtures.bundle_files import BUNDLE, artifact

HOW = ("hang", "abort", "invoke", "kill")
TARGETS: tuple[ArtifactTarget, ...] = ("cpu-float32", "edgetpu-int8")
SOURCE = Path(__file__).parents[1] / "tests" / "edge_node" / "fake_edgetpu.c"
ROWS, EVERY_S = 8, 0.01
PATIENCE_S = 30.0


def measure(*, quick: bool) -> dict[str, object]:
    """Milliseconds from the death to the CPU's score, and from the stick's being well to its next score, by death."""
    n_deaths = 1 if quick else 20
    rng = random.Random(7)
    with tempfile.TemporaryDirectory() as name, _stick(Path(name)) as (library, mode):
        manifest = manifests.decode((BUNDLE / "manifest.json").read_bytes())
        artifacts = {target: artifact(target) for target in TARGETS}
        x = np.random.default_rng(7).normal(size=(ROWS, 10)).astype(np.float32)
        wanted = Engine(manifest, artifacts).run(x).output
        to_cpu: dict[str, list[float]] = {how: [] for how in HOW}
        to_tpu: dict[str, list[float]] = {how: [] for how in HOW}
        healthy_ms: list[float] = []
        n_batches = n_scored = 0
        for i in range(n_deaths * len(HOW)):
            how = HOW[i % len(HOW)]
            mode.write_text("works")
            workers = Workers()
            try:
                engine = workers.engine(manifest, artifacts, device="auto", delegate_library=library)
                plain = workers.engine(manifest, artifacts)
                ends_s = time.monotonic() + rng.uniform(0.1, 0.2)
                while time.monotonic() < ends_s:
                    _score(engine, x, "edgetpu-int8")
                    healthy_ms.append(_score(plain, x, "cpu-float32"))
                    time.sleep(EVERY_S)
                died_s = time.monotonic()
                if how == "kill":
                    os.kill(workers.pids()["edgetpu"], signal.SIGKILL)
                else:
                    _switch(mode, how)
                target = ""
                while target != "cpu-float32":
                    scored = engine.run(x)
                    target, n_batches, n_scored = scored.target, n_batches + 1, n_scored + len(scored.output)
                    if target != "cpu-float32":
                        time.sleep(EVERY_S)
                to_cpu[how].append(1e3 * (time.monotonic() - died_s))
                if not np.array_equal(scored.output, wanted):
                    raise DemoError("the CPU did not score what the Edge TPU owed")
                _switch(mode, "works")
                well_s = time.monotonic()
                while engine.run(x).target != "edgetpu-int8":
                    if time.monotonic() - well_s > PATIENCE_S:
                        raise DemoError("an Edge TPU that was well again was not used")
                    time.sleep(EVERY_S)
                to_tpu[how].append(1e3 * (time.monotonic() - well_s))
            finally:
                workers.close()
    everything = [ms for found in to_cpu.values() for ms in found]
    return {
        "deaths": len(everything),
        "rows": ROWS,
        "watchdog_ms": 1e3 * TPU_PATIENCE.stall_s,
        "to_cpu_ms": {"all": _figures(everything), **{how: _figures(ms) for how, ms in to_cpu.items()}},
        "to_tpu_ms": {how: _figures(ms) for how, ms in to_tpu.items()},
        "healthy_cpu_ms": _figures(healthy_ms),
        "windows_owed": n_batches * ROWS,
        "windows_scored": n_scored,
    }


def _score(engine: WorkerEngine, x: NDArray[np.float32], target: str) -> float:
    began = time.perf_counter()
    if engine.run(x).target != target:
        raise DemoError(f"{target} is not what scores, though nothing was lost")
    return 1e3 * (time.perf_counter() - began)


def _switch(mode: Path, how: str) -> None:
    new = mode.with_suffix(".new")
    new.write_text(how)
    new.replace(mode)


@contextmanager
def _stick(folder: Path) -> Iterator[tuple[str, Path]]:
    """The stand-in's library, and the file that says how it fails."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise DemoError("there is no C compiler (cc) to build the stand-in for an Edge TPU with")
    library, mode = folder / "libfake.so", folder / "mode"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    os.environ["FAKE_EDGETPU"] = str(mode)
    try:
        yield str(library), mode
    finally:
        del os.environ["FAKE_EDGETPU"]


def _figures(ms: list[float]) -> dict[str, float]:
    return {"p50": percentile(ms, 0.5), "p99": percentile(ms, 0.99), "max": max(ms), "n": len(ms)}
