"""The stages of the demo, one method each, in the order in which they are called."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec

from examples.demo.configuration import CLASS, BrokerAddress, gateway_toml, sink_toml
from examples.demo.findings import bytes_text
from examples.demo.live import LiveView
from examples.demo.monitor import OPERATOR, Monitor
from examples.demo.processes import HOST, Broker, Child, DemoError, free_port
from examples.demo.report import Outcome, facts, faults_table, promises, strips, table
from examples.demo.scenario import Injected, Period, Scenario
from examples.demo.screen import Screen, bar
from examples.plant_simulator import ClockReading, Order
from models import codec
from models.alerting import duration
from models.manifest import ModelManifest
from models.messages import Alert, ModelState, Response
from models.signal import NS_PER_S

MODEL = CLASS  # what the model is called
PROGRAMS = {"edge-node": "edge_node.cli", "cloud-sink": "cloud_sink.cli"}
BATCH_S = 4  # of signal that a machine sends at once
START_S = 60.0  # for a program to come up, on a slow machine
SETTLE_S = 20.0  # for what was sent to arrive
COMMAND_S = 120.0  # for one to do its work
BROKER_ATTEMPTS = 3  # a port that was free may be taken by the time the broker asks for it
CANARY_HOURS = 0.001  # of real time: the night is short


def start_broker(stack: ExitStack, folder: Path, screen: Screen, environment: Mapping[str, str]) -> Broker:
    """A broker that listens. Raises DemoError."""
    for attempt in range(1, BROKER_ATTEMPTS + 1):
        broker = stack.enter_context(Broker(folder, environment))
        try:
            broker.wait_until_listening()
        except DemoError:
            if attempt == BROKER_ATTEMPTS:
                raise
            continue
        break
    screen.line(f"broker: {broker.kind} on {HOST}:{broker.port}")
    return broker


class Demo:
    """What the stages share. Each raises DemoError when it cannot be done. Processes that go on end with ``stack``."""

    def __init__(
        self, scenario: Scenario, folder: Path, screen: Screen, broker: Broker, stack: ExitStack
    ) -> None:
        self._scenario, self._folder, self._screen = scenario, folder, screen
        self._broker, self._stack = broker, stack
        self._monitor = stack.enter_context(Monitor(broker.port, MODEL, folder / "alerts.jsonl"))
        # The plant's time ends when the demo begins: however fast it is played, nothing comes from the future.
        seconds = scenario.second_day.until_s
        self._epoch_ns = (time.time_ns() // NS_PER_S - seconds) * NS_PER_S
        self._key, self._models = folder / "plant", folder / "models"
        self._first, self._second = self._models / MODEL, self._models / f"{MODEL}-2"
        address = BrokerAddress(HOST, broker.port, broker.mqtt_version)
        self._sink_toml = folder / "sink.toml"
        self._sink_toml.write_text(sink_toml(address))
        self._pages = {name: free_port() for name in scenario.gateways}
        for name, machines in scenario.gateways.items():
            text = gateway_toml(name, machines, address, page_port=self._pages[name], speed=scenario.speed)
            self._toml(name).write_text(text)
        self._running: dict[str, Child] = {}
        self._boots: dict[str, str] = {}
        self._version = 1
        self._days: list[Outcome] = []
        self._n_stage = 0
        self._view: LiveView | None = None
        self._said_of_models: Callable[[ModelState], None] | None = None
        self._n_answered = 0
        self._before = self._monitor.traffic()

    def first_model(self) -> None:
        """One machine, recorded while it is healthy, and a signed model of it."""
        scenario, screen = self._scenario, self._screen
        gateway, machine = scenario.pilot
        recording = self._folder / "history.parquet"
        self._stage(f"A first model: {scenario.history_s // 60} minutes of {machine}, healthy")
        self._do("cloud-sink", "keygen", self._key)
        with self._child("edge-node", "record", "-c", self._toml(gateway), "-o", recording) as recorder:
            self._wait_for_source(recorder)

            def show(reading: ClockReading) -> None:
                recorder.check()
                screen.progress(f"{bar(reading.second / scenario.history_s)} {bytes_text(reading.n_bytes)}")

            self._play(scenario.history, (), show, machines=scenario.gateways[gateway])
            recorder.interrupt()
            recorder.finish(30.0, self._listen)
        screen.settle()
        self._do(
            "cloud-sink", "train", recording, "--device", machine, "--features", "vibration", "--key", self._key,
            "-o", self._first,
        )  # fmt: skip
        self._show_model(self._first)

    def start(self) -> None:
        """The gateways and the sink."""
        scenario, screen = self._scenario, self._screen
        n = len(scenario.machines)
        self._stage(f"{len(scenario.gateways)} gateways for {n} machines, and a sink: all with version 1")
        self._stack.callback(self._interrupt_all)
        sink = self._child("cloud-sink", "run", "-c", self._sink_toml)
        self._running["the sink"] = self._stack.enter_context(sink)
        for i, name in enumerate(scenario.gateways):
            child = self._child("edge-node", "run", "-c", self._toml(name), log=name, quiet=i > 0)
            self._running[name] = self._stack.enter_context(child)
        for name in scenario.gateways:
            self._wait_for_source(self._running[name])
        self._wait_for(sink, r'"connected', "is not connected")
        self._until(
            lambda: set(self._monitor.statuses) == set(scenario.gateways), "a status of every gateway"
        )
        screen.settle()
        self._before = self._monitor.traffic()
        self._boots = {name: status.boot_id for name, status in self._monitor.statuses.items()}
        name = scenario.pilot[0]
        screen.line(f"  The page of {name}, as long as it runs: http://{HOST}:{self._pages[name]}/")

    def first_day(self) -> None:
        """A new product, which the first model has not seen, and faults."""
        self._stage("The first day: a new product, whose load swings further than what was recorded")
        self._day(self._scenario.first_day)

    def learn(self) -> None:
        """A newer version, from summaries and labels."""
        self._stage("A second model, from what the gateways have summed up")
        said = self._do(
            "cloud-sink", "learn", "-c", self._sink_toml, "--like", self._first, "--key", self._key,
            "-o", self._second,
        )  # fmt: skip
        for line in said.splitlines():
            if re.match(r"(learned from|labelled|\s+from summaries)", line):
                self._screen.line(f"  {re.sub(r'  +', ' ', line.strip())}")
        self._show_model(self._second)

    def roll_out(self) -> None:
        """The newer version: to a canary, then, if that goes well, to all."""
        scenario, screen, canary = self._scenario, self._screen, self._scenario.canary
        self._stage("The night: the newer version on a canary, then on all")
        self._version = self._manifest(self._second).version
        trouble: list[str] = []

        def heard(state: ModelState) -> None:
            if state.version != self._version:
                return
            what = {"shadow": "tries it", "adopted": "adopted it"}.get(
                state.state, state.state.replace("_", " ")
            )
            screen.line(f"  {state.gateway:<8}  {what:<10}  {state.text}")
            if state.state in ("refused", "rolled_back"):
                trouble.append(f"{state.gateway}: {state.text}")

        def over() -> bool:
            if trouble:
                raise DemoError(f"version {self._version} did not get far: {'; '.join(trouble)}")
            return self._monitor.for_all and set(self._adopted()) == set(scenario.gateways)

        self._said_of_models = heard
        self._do(
            "cloud-sink", "rollout", "-c", self._sink_toml, self._second, "--canary", canary,
            "--hours", f"{CANARY_HOURS:g}", "--windows", str(scenario.windows),
        )  # fmt: skip
        if not self._play(
            scenario.night, (), lambda _: screen.progress("the plant runs as it was recorded"), over
        ):
            rollouts = self._do("cloud-sink", "rollouts", "-c", self._sink_toml)
            raise DemoError(
                f"version {self._version} is not on all gateways by the end of the night:\n{rollouts}"
            )
        self._said_of_models = None
        screen.settle()
        for line in self._do("cloud-sink", "rollouts", "-c", self._sink_toml).splitlines():
            screen.line(f"  {line}")

    def second_day(self) -> None:
        """The same again, as another day has it."""
        self._stage("The second day: the new product and the same faults again, other noise, other loads")
        self._day(self._scenario.second_day)

    def stop(self) -> None:
        """All that was started, in order; the gateways say what they have counted."""
        self._interrupt_all()
        ending, self._running = self._running, {}
        for child in ending.values():
            child.finish(30.0, self._listen)
        self._until(
            lambda: all(s.state == "stopped" for s in self._monitor.statuses.values()), "the last status of every gateway"
        )  # fmt: skip

    def report(self) -> bool:
        """The tables; returns whether what was promised held."""
        screen, scenario = self._screen, self._scenario
        self._stage("Before and after")
        before, after = self._days
        for line in strips(before.day, after.day, scenario.gateways):
            screen.line(f"  {line}")
        for text in (faults_table(before.day, after.day), table(before, after)):
            screen.line()
            for line in text.splitlines():
                screen.line(f"  {line}", *(("red",) if "MISSED" in line else ()))
        screen.line()
        whole = self._monitor.traffic().since(self._before)
        for name, text in facts(whole):
            screen.line(f"  {name:<10}{text}")
        screen.line()
        statuses = self._monitor.statuses
        found = promises(
            before,
            after,
            whole,
            adopted=self._adopted(),
            gateways=len(scenario.gateways),
            restarted=sum(statuses[name].boot_id != boot for name, boot in self._boots.items()),
        )
        for promise in found:
            screen.line(
                f"  {'✓' if promise.held else '✗'} {promise.text}", "green" if promise.held else "red"
            )
        return all(promise.held for promise in found)

    def _day(self, period: Period) -> None:
        scenario, screen, monitor = self._scenario, self._screen, self._monitor
        before = monitor.traffic()
        view = self._view = LiveView(period, scenario.injected, screen, monitor, self._epoch_ns)
        self._n_answered = 0
        self._play(period, scenario.injected, lambda reading: view.show(reading, scenario.speed))
        n = sum(episode.kind == "machine" for episode in view.day.episodes)
        self._until(lambda: self._n_answered >= n, "the answers to what the operator said")
        heard = {name: status.updated_at for name, status in monitor.statuses.items()}
        self._until(
            lambda: all(s.updated_at != heard[name] for name, s in monitor.statuses.items()), "a status of every gateway"
        )  # fmt: skip
        self._view = None
        screen.settle()
        day, traffic = view.day, monitor.traffic().since(before)
        screen.line(
            f"  {len(day.episodes)} alerts, {len(day.false_alarms)} of them false: {OPERATOR} has said of each what it was. "
            f"{day.n_found} of {len(day.findings)} faults noticed. {bytes_text(traffic.raw_bytes)} of signal, "
            f"{bytes_text(traffic.upstream_bytes)} upstream."
        )
        self._days.append(Outcome(day, traffic))

    def _play(
        self,
        period: Period,
        faults: tuple[Injected, ...],
        show: Callable[[ClockReading], None],
        over: Callable[[], bool] = lambda: False,
        machines: tuple[str, ...] = (),
    ) -> bool:
        """Play ``period`` to its end, or until ``over`` says so; whether it did."""
        order = Order(
            epoch_ns=self._epoch_ns,
            from_s=period.from_s,
            until_s=period.until_s,
            speed=self._scenario.speed,
            faults=self._scenario.faults_in(period) if faults else (),
            machines=machines or self._scenario.machines,
            swing=period.swing,
            seed=period.seed,
            batch_s=BATCH_S,
        )
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
            simulator.finish(10.0)
        return done or over()

    def _settle(self) -> None:
        """Until the gateways have received all that was sent, and have said so; or enough was waited for."""
        ends_s = time.monotonic() + SETTLE_S
        while (now := self._monitor.traffic().since(self._before)).received_values < now.raw_values:
            if time.monotonic() > ends_s:
                return  # the report says how much it was
            self._listen()
        heard = {name: status.updated_at for name, status in self._monitor.statuses.items()}
        self._until(
            lambda: all(s.updated_at != heard[name] for name, s in self._monitor.statuses.items()),
            "a status of every gateway",
        )

    def _adopted(self) -> list[str]:
        """The gateways that run the newer version."""
        statuses = self._monitor.statuses
        return [
            name
            for name, state in self._monitor.models.items()
            if (state.state, state.version) == ("adopted", self._version)
            and any(m.version == self._version for m in statuses[name].models)
        ]

    def _interrupt_all(self) -> None:
        """All at once, so that nobody waits for one after the other."""
        for child in self._running.values():
            child.interrupt()

    def _toml(self, gateway: str) -> Path:
        return self._folder / f"{gateway}.toml"

    def _stage(self, text: str) -> None:
        self._n_stage += 1
        self._screen.stage(f"{self._n_stage}  {text}")

    def _child(self, program: str, *arguments: str | Path, log: str = "", quiet: bool = False) -> Child:
        words = [str(argument) for argument in arguments]
        if not quiet:
            self._screen.command(shlex.join([program, *words]).replace(f"{self._folder}/", ""))
        command = [sys.executable, "-m", PROGRAMS[program], *words]
        return Child(f"{program} {words[0]}", command, self._folder / f"{log or f'{program}-{words[0]}'}.log")

    def _do(self, program: str, *arguments: str | Path) -> str:
        """Run a command to its end; what it said."""
        with self._child(program, *arguments) as child:
            self._screen.progress(f"{child.name} …")
            child.finish(COMMAND_S, self._listen)
            self._screen.settle()
            return child.text()

    def _manifest(self, bundle: Path) -> ModelManifest:
        return codec.decode((bundle / "manifest.json").read_bytes(), ModelManifest)

    def _show_model(self, bundle: Path) -> None:
        manifest = self._manifest(bundle)
        training = manifest.training
        n_bytes = sum(artifact.n_bytes for artifact in manifest.artifacts)
        self._screen.line(
            f"  version {manifest.version}: {training.n_windows:,} windows of {duration(manifest.window.window_ns)}, "
            f"{len(manifest.artifacts)} graphs of {n_bytes / 1024:.1f} KB in all, signed; cross-fit false alarms "
            f"{training.cross_fit_far:.2%} at p {training.far_level:g}"
        )

    def _wait_for_source(self, child: Child) -> None:
        """Until ``child`` says in its log that it is connected to the broker."""
        self._wait_for(child, r'"connected to .*"source |"source .*"connected to ', "is not connected")
        time.sleep(0.3)  # its subscriptions follow at once

    def _wait_for(self, child: Child, pattern: str, missing: str) -> None:
        """Until a line of its log matches ``pattern``."""
        deadline = time.monotonic() + START_S
        self._screen.progress(f"{child.name} is starting")
        while re.search(pattern, child.text()) is None:
            child.check()
            if time.monotonic() > deadline:
                raise DemoError(child.told(f"{missing} after {START_S:g} s"))
            self._listen()

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            if time.monotonic() > deadline:
                raise DemoError(f"{what} did not come within {START_S:g} s")
            self._listen()

    def _reading(self, simulator: Child) -> ClockReading:
        """Where the simulator is, once it has begun. Raises DemoError when it failed or says nothing more."""
        deadline = time.monotonic() + START_S
        while True:
            self._listen()
            if simulator.failed:
                simulator.check()
            if self._monitor.clock is not None and (self._monitor.clock.ended or simulator.running):
                return self._monitor.clock
            if time.monotonic() > deadline:
                raise DemoError(simulator.told(f"has said nothing for {START_S:g} s"))

    def _listen(self) -> None:
        """Take what was published, show it, and see that all is well."""
        for child in (self._broker, *self._running.values()):
            child.check()
        for item in self._monitor.take(wait_s=0.1):
            if isinstance(item, ClockReading) and self._view is not None:
                self._view.read_clock(item)
            elif isinstance(item, Alert) and self._view is not None:
                self._view.hear(item)
            elif isinstance(item, ModelState) and self._said_of_models is not None:
                self._said_of_models(item)
            elif isinstance(item, Response) and item.request == "label" and item.ok:
                self._n_answered += 1
