"""Fair timing on a machine that others use too: candidates take turns, and medians are compared."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

VERSIONS_OF = ("linewatch", "numpy", "msgspec", "ai-edge-litert", "paho-mqtt", "cobs", "pyserial")

Run = Callable[[], float]  # does the work once, returns its size (samples, messages)


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds per unit of work in each round, by the clock on the wall and of this process's CPU time."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def unit_s(self) -> float:
        """Median seconds a unit, wall clock."""
        return statistics.median(self.wall)

    def as_dict(self) -> dict[str, object]:
        return {
            "median_s_per_unit": self.unit_s,
            "median_cpu_s_per_unit": statistics.median(self.cpu),
            "spread": spread(self.wall),
            "rounds_s_per_unit": list(self.wall),
        }


def take_turns(candidates: Mapping[str, Run], rounds: int) -> dict[str, Timed]:
    """Runs each candidate once unmeasured, then ``rounds`` times in turn: whatever slows the machine for a
    while slows them all."""
    wall: dict[str, list[float]] = {name: [] for name in candidates}
    cpu: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    gc.collect()
    gc.disable()  # a collection would fall on whoever happens to run
    try:
        for i in range(rounds):
            names = list(candidates)
            for name in names if i % 2 == 0 else reversed(names):
                began_cpu, began = time.process_time(), time.perf_counter()
                n = candidates[name]()
                wall[name].append((time.perf_counter() - began) / n)
                cpu[name].append((time.process_time() - began_cpu) / n)
                gc.collect()
    finally:
        gc.enable()
    return {name: Timed(tuple(wall[name]), tuple(cpu[name])) for name in candidates}


def ratio(of: Timed, to: Timed) -> float:
    """How many times as long ``of`` takes as ``to``: the median over rounds of neighbours' ratios, CPU time,
    which other processes disturb least."""
    return statistics.median(a / b for a, b in zip(of.cpu, to.cpu, strict=True))


def wall_ratio(of: Timed, to: Timed) -> float:
    """As :func:`ratio`, by the clock on the wall."""
    return statistics.median(a / b for a, b in zip(of.wall, to.wall, strict=True))


def spread(rounds: tuple[float, ...]) -> float:
    """(slowest - fastest) / median over the rounds: how noisy the machine was."""
    return (max(rounds) - min(rounds)) / statistics.median(rounds)


def percentile(values: list[float], share: float) -> float:
    """The smallest value with ``share`` of the values at or below it."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-round(share * len(ordered) * 1e6) // 10**6) - 1))]


def environment() -> dict[str, object]:
    """Machine and versions, for the results."""
    versions = {}
    for name in VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "n_cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
