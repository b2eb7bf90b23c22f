"""A real Dask scheduler and real workers on 127.0.0.1, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.brokers import HOST, free_port, wait_for

ROOT = Path(__file__).parents[2]


@contextmanager
def process(
    folder: Path, name: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m arguments``, which logs to ``folder``; killed at the end, frozen or not."""
    with (folder / f"{name}.log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        )
    try:
        yield running
    finally:
        running.kill()
        running.wait(timeout=10)


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address, and its process, once it listens."""
    port = free_port()
    arguments = ("--host", HOST, "--port", str(port), "--no-dashboard", "--no-show")
    with process(folder, "scheduler", "distributed.cli.dask_scheduler", *arguments) as running:
        log = folder / "scheduler.log"
        wait_for(lambda: b"Scheduler at" in log.read_bytes(), "the scheduler", timeout_s=30)
        yield f"tcp://{HOST}:{port}", running


@contextmanager
def workers(
    folder: Path, address: str, n: int = 2, *, env: Mapping[str, str] | None = None, first: int = 0
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of one thread each, called ``worker-0`` and so on, once they are registered."""
    with ExitStack() as stack:
        found = []
        for i in range(first, first + n):
            here = folder / f"worker-{i}"
            here.mkdir(exist_ok=True)
            arguments = (
                *(address, "--name", f"worker-{i}", "--nthreads", "1", "--no-nanny", "--no-dashboard"),
                *("--host", HOST, "--local-directory", str(here), "--memory-limit", "0"),
            )
            found.append(
                stack.enter_context(
                    process(folder, f"worker-{i}", "distributed.cli.dask_worker", *arguments, env=env)
                )
            )
        for i in range(first, first + n):
            log = folder / f"worker-{i}.log"
            wait_for(lambda log=log: b"Registered to" in log.read_bytes(), f"{log.stem}", timeout_s=30)  # type: ignore[misc]
        yield found
