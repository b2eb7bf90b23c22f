"""A step in a process of its own, and the memory that it took there: the highest that the process had, less what it had before.

Linux's count (``VmHWM`` of ``/proc/self/status``)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT_S = 300


def measured(module: str, *arguments: str) -> dict[str, Any]:
    """What ``python -m module arguments`` says on its last line, JSON. CalledProcessError where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def peak_mb() -> float:
    """The most memory that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kb = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kb * 1024 / 1e6


def step(act: Callable[[], Any]) -> tuple[Any, float, float]:
    """What ``act`` gives, its seconds, and the megabytes by which it raised the peak."""
    before, began_s = peak_mb(), time.perf_counter()
    given = act()
    return given, time.perf_counter() - began_s, peak_mb() - before
