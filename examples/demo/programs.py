"""The real programs, as the demo runs them: each a process of its own, listened to and looked after for as long as it runs."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from examples.demo.monitor import Heard, Monitor
from examples.demo.processes import HOST, Broker, Child, DemoError
from examples.demo.screen import Screen
from examples.plant_simulator import ClockReading, Order

MODULES = {"edge-node": "edge_node.cli", "cloud-sink": "cloud_sink.cli"}
START_S = 60.0  # for a program to come up, on a slow machine
COMMAND_S = 120.0  # for one to do its work
END_S = 30.0


class Programs:
    """Files in ``folder``; what goes on ends with ``stack``. While something is waited for, what ``monitor`` hears goes to
    ``hear``, and a program that ends by itself is a DemoError."""

    def __init__(
        self,
        folder: Path,
        screen: Screen,
        broker: Broker,
        monitor: Monitor,
        stack: ExitStack,
        hear: Callable[[Heard], None],
    ) -> None:
        self._folder, self._screen = folder, screen
        self._broker, self._monitor, self._stack, self._hear = broker, monitor, stack, hear
        self._running: list[Child] = []

    def child(self, program: str, *arguments: str | Path, log: str = "", quiet: bool = False) -> Child:
        """``program`` with ``arguments``, started; its command is shown unless ``quiet``."""
        words = [str(argument) for argument in arguments]
        if not quiet:
            self._screen.command(shlex.join([program, *words]).replace(f"{self._folder}/", ""))
        command = [sys.executable, "-m", MODULES[program], *words]
        return Child(f"{program} {words[0]}", command, self._folder / f"{log or f'{program}-{words[0]}'}.log")

    def start(self, program: str, *arguments: str | Path, log: str = "", quiet: bool = False) -> Child:
        """The same, and it goes on."""
        if not self._running:
            self._stack.callback(self._interrupt)
        child = self._stack.enter_context(self.child(program, *arguments, log=log, quiet=quiet))
        self._running.append(child)
        return child

    def end(self) -> None:
        """Ends all that go on, at once, and waits for it."""
        self._interrupt()
        ending, self._running = self._running, []
        for child in ending:
            child.finish(END_S, self.listen)

    def do(self, program: str, *arguments: str | Path) -> str:
        """Runs a command to its end; what it said."""
        with self.child(program, *arguments) as child:
            self._screen.progress(f"{child.name} …")
            child.finish(COMMAND_S, self.listen)
            self._screen.settle()
            return child.text()

    def show(self, program: str, *arguments: str | Path) -> None:
        """The same, and shows what it said, but for what it logged."""
        for line in self.do(program, *arguments).splitlines():
            if re.match(r"\d{4}-\d\d-\d\d ", line) is None:
                self._screen.line(f"  {line}")

    def play(self, order: Order, show: Callable[[ClockReading], None], over: Callable[[], bool]) -> bool:
        """Plays ``order`` to its end, or until ``over`` says so; whether it did."""
        text = msgspec.json.encode(order).decode()
        arguments = ["--host", HOST, "--port", str(self._broker.port), "--order", text]
        command = [sys.executable, "-m", "examples.plant_simulator", *arguments]
        self._monitor.new_simulator()
        with Child("the simulator", command, self._folder / "simulator.log") as simulator:
            done = False
            while not (reading := self._reading(simulator)).ended:
                if not done and over():
                    done = True
                    simulator.interrupt()
                show(reading)
            simulator.finish(END_S)
        return done or over()

    def wait_for_source(self, child: Child) -> None:
        """Until ``child`` says in its log that it is connected to the broker."""
        self.wait_for(child, r'"connected to .*"source |"source .*"connected to ', "is not connected")
        time.sleep(0.3)  # its subscriptions follow at once

    def wait_for(self, child: Child, pattern: str, missing: str) -> None:
        """Until a line of its log matches ``pattern``; where none does, ``missing`` is what is wrong."""
        deadline = time.monotonic() + START_S
        self._screen.progress(f"{child.name} is starting")
        while re.search(pattern, child.text()) is None:
            child.check()
            if time.monotonic() > deadline:
                raise DemoError(child.told(f"{missing} after {START_S:g} s"))
            self.listen()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Until ``condition`` holds, for START_S at most."""
        deadline = time.monotonic() + START_S
        while not condition():
            if time.monotonic() > deadline:
                raise DemoError(f"{what} did not come within {START_S:g} s")
            self.listen()

    def listen(self) -> None:
        """Take what was published, and see that all is well."""
        for child in (self._broker, *self._running):
            child.check()
        for item in self._monitor.take(wait_s=0.1):
            self._hear(item)

    def _reading(self, simulator: Child) -> ClockReading:
        """Where the simulator is, once it has begun. Raises DemoError when it failed or says nothing more."""
        deadline = time.monotonic() + START_S
        while True:
            self.listen()
            if simulator.failed:
                simulator.check()
            if self._monitor.clock is not None and (self._monitor.clock.ended or simulator.running):
                return self._monitor.clock
            if time.monotonic() > deadline:
                raise DemoError(simulator.told(f"has said nothing for {START_S:g} s"))

    def _interrupt(self) -> None:
        """All at once, so that nobody waits for one after the other."""
        for child in self._running:
            child.interrupt()
