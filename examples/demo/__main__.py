"""``python -m examples.demo``: a simulated plant, watched by the real programs, from nothing to a table in about a minute.

Its stages: a broker; the healthy plant, recorded by ``edge-node record``; a model for each device, by ``cloud-sink
train``; ``edge-node run`` as a process of its own, while faults begin at known times; what was noticed when.
Everything is kept in one temporary folder. Exit codes: 0 every fault was noticed, 1 one was missed or something
failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from examples.demo import stages
from examples.demo.monitor import Monitor
from examples.demo.processes import DemoError
from examples.demo.scenario import FULL, SHORT, Scenario
from examples.demo.screen import Screen

MISSED, USAGE, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--short", action="store_true", help="two machines, four faults, half the time")
    given = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that knows no °C
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    screen = Screen()
    folder = Path(tempfile.mkdtemp(prefix="linewatch-demo-"))
    try:
        return run(SHORT if given.short else FULL, folder, screen)
    except DemoError as error:
        screen.settle()
        screen.line(f"\nThe demo cannot go on: {error}", "red")
    except KeyboardInterrupt:
        screen.settle()
        screen.line("\ninterrupted; every process of the demo has ended", "yellow")
        return INTERRUPTED
    finally:
        screen.settle()
        screen.line(f"\nEverything is in {folder}", "dim")
    return MISSED


def run(scenario: Scenario, folder: Path, screen: Screen) -> int:
    """Plays ``scenario`` with all files in ``folder``; returns the exit code. Raises DemoError. All processes end with it."""
    began = time.monotonic()
    screen.line("Linewatch demo: a simulated plant, the real gateway", "bold")
    n_faults = scenario.n_faults
    board = f" (one on a serial line, {scenario.worn.board.machine})" if scenario.worn is not None else ""
    screen.line(
        f"{scenario.n_machines} machine{'s' * (scenario.n_machines > 1)}, {len(scenario.devices)} devices{board}, "
        f"{n_faults} faults; everything on 127.0.0.1; files in {folder}"
    )
    with ExitStack() as stack:
        broker = stages.start_broker(stack, folder, screen, os.environ)
        monitor = stack.enter_context(Monitor(broker.port, folder / "alerts.jsonl"))
        demo = stages.Demo(scenario, folder, screen, broker, monitor)
        demo.record_history()
        demo.train()
        demo.watch()
        n_missed = demo.report()
    screen.line(f"\nThe demo took {time.monotonic() - began:.0f} s.")
    if n_missed:
        screen.line(f"{n_missed} of {n_faults} faults missed", "red", "bold")
    return MISSED if n_missed else 0


def _interrupted(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
