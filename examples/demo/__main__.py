"""``python -m examples.demo``: simulated machines, several gateways and a sink, from a first model to a better one on all of
them, and a table of what that changed.

Its stages: one machine is recorded and a model made of it; gateways watch machines whose new product floods it with false
alarms; a second model is learned from what the gateways have summed up and an operator has said; a canary tries it, and it
goes to all; the same day again. Every program is the real one, in a process of its own. Everything is kept in one temporary
folder. Exit codes: 0 what was promised held, 1 it did not or something failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from examples.demo import stages
from examples.demo.processes import DemoError, raise_when_asked_to_end, stop_all
from examples.demo.scenario import FULL, SHORT, Scenario
from examples.demo.screen import Screen

BROKEN, USAGE, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--short", action="store_true", help="three machines, one fault, half the time")
    given = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that knows no °C
    raise_when_asked_to_end()
    screen = Screen()
    folder = Path(tempfile.mkdtemp(prefix="linewatch-demo-"))
    try:
        return run(SHORT if given.short else FULL, folder, screen)
    except DemoError as error:
        screen.settle()
        screen.line(f"\nThe demo cannot go on: {error}", "red")
    except KeyboardInterrupt:
        stop_all()
        screen.settle()
        screen.line("\ninterrupted; every process of the demo has ended", "yellow")
        return INTERRUPTED
    finally:
        stop_all()
        screen.settle()
        screen.line(f"\nEverything is in {folder}", "dim")
    return BROKEN


def run(scenario: Scenario, folder: Path, screen: Screen) -> int:
    """Plays ``scenario`` with all files in ``folder``; returns the exit code. Raises DemoError. All processes end with it."""
    began = time.monotonic()
    screen.line("Linewatch demo: simulated machines, real gateways, a real sink", "bold")
    screen.line(
        f"{len(scenario.machines)} machines at 1 kHz on {len(scenario.gateways)} gateways, in event time that runs "
        f"{scenario.speed:g} times as fast; everything on 127.0.0.1; files in {folder}"
    )
    with ExitStack() as stack:
        broker = stages.start_broker(stack, folder, screen, os.environ)
        demo = stages.Demo(scenario, folder, screen, broker, stack)
        demo.first_model()
        demo.start()
        demo.first_day()
        demo.learn()
        demo.judge()
        demo.roll_out()
        demo.second_day()
        demo.stop()
        held = demo.report()
    screen.line(f"\nThe demo took {time.monotonic() - began:.0f} s.")
    if not held:
        screen.line("What was promised did not hold.", "red", "bold")
    return 0 if held else BROKEN


if __name__ == "__main__":
    sys.exit(main())
