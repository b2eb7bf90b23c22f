"""The stages of the demo, one method each, in the order in which they are called."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from examples.demo.configuration import CLASS, BrokerAddress, gateway_toml, sink_toml
from examples.demo.findings import bytes_text
from examples.demo.live import LiveView
from examples.demo.monitor import OPERATOR, Heard, Monitor
from examples.demo.processes import HOST, Broker, DemoError, free_port
from examples.demo.programs import END_S, Programs
from examples.demo.report import Outcome, facts, faults_table, notes, promises, strips, table
from examples.demo.scenario import Injected, Period, Scenario
from examples.demo.screen import Screen, bar
from examples.plant_simulator import ClockReading, Order
from models import codec
from models.alerting import duration
from models.manifest import ModelManifest
from models.messages import Alert, ModelState, Response
from models.signal import NS_PER_S

MODEL = CLASS  # what the model is called
BATCH_S = 4  # of signal that a machine sends at once
SETTLE_S = 20.0  # for what was sent to arrive
BROKER_ATTEMPTS = 3  # a port that was free may be taken by the time the broker asks for it
# Of real time, eleven minutes of the plant; a canary that has not scored enough after three times that is taken back.
CANARY_HOURS = 0.003
JUDGED_S = 60.0
NEXT = {"shadow": "tries it", "adopted": "adopted it"}


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
        self._monitor = stack.enter_context(Monitor(broker.port, MODEL, folder / "alerts.jsonl"))
        self._programs = Programs(folder, screen, broker, self._monitor, stack, self._hear)
        # The plant's time ends when the demo begins: however fast it is played, nothing comes from the future.
        seconds = scenario.second_day.until_s
        self._epoch_ns = (time.time_ns() // NS_PER_S - seconds) * NS_PER_S
        self._key, models = folder / "plant", folder / "models"
        self._first, self._second = models / MODEL, models / f"{MODEL}-2"
        address = BrokerAddress(HOST, broker.port, broker.mqtt_version)
        self._sink_toml = folder / "sink.toml"
        self._sink_toml.write_text(sink_toml(address))
        self._page_port = free_port()
        for name, machines in scenario.gateways.items():
            port = self._page_port if name == scenario.pilot[0] else 0
            self._toml(name).write_text(
                gateway_toml(name, machines, address, page_port=port, speed=scenario.speed)
            )
        self._boots: dict[str, str] = {}  # boot id of each gateway
        self._began = self._monitor.traffic()  # before the gateways watched
        self._version = 1  # the newest
        self._days: list[Outcome] = []
        self._n_stage = self._n_answered = 0
        self._view: LiveView | None = None
        self._hear_of_model: Callable[[ModelState], None] | None = None

    def first_model(self) -> None:
        """One machine, recorded while it is healthy, and a signed model of it."""
        scenario, screen, programs = self._scenario, self._screen, self._programs
        gateway, machine = scenario.pilot
        recording = self._folder / "history.parquet"
        self._stage(f"A first model, of {duration(scenario.history_s * NS_PER_S)} of {machine}")
        programs.do("cloud-sink", "keygen", self._key)
        with programs.child("edge-node", "record", "-c", self._toml(gateway), "-o", recording) as recorder:
            programs.wait_for_source(recorder)

            def show(reading: ClockReading) -> None:
                recorder.check()
                screen.progress(f"{bar(reading.second / scenario.history_s)} {bytes_text(reading.n_bytes)}")

            self._play(scenario.history, (), show, machines=scenario.gateways[gateway])
            recorder.interrupt()
            recorder.finish(END_S, programs.listen)
        screen.settle()
        programs.do(
            "cloud-sink", "train", recording, "--device", machine, "--features", "vibration", "--key", self._key,
            "-o", self._first,
        )  # fmt: skip
        self._show_model(self._first)

    def start(self) -> None:
        """The gateways and the sink."""
        scenario, screen, programs, monitor = self._scenario, self._screen, self._programs, self._monitor
        gateways = scenario.gateways
        self._stage(
            f"{len(gateways)} gateways for {len(scenario.machines)} machines, all with this model, and a sink"
        )
        sink = programs.start("cloud-sink", "run", "-c", self._sink_toml)
        started = [
            programs.start("edge-node", "run", "-c", self._toml(name), log=name, quiet=i > 0)
            for i, name in enumerate(gateways)
        ]
        for child in started:
            programs.wait_for_source(child)
        programs.wait_for(sink, r'"connected to ', "is not connected")
        programs.until(lambda: set(monitor.statuses) == set(gateways), "a status of every gateway")
        screen.settle()
        self._boots = {name: status.boot_id for name, status in monitor.statuses.items()}
        self._began = monitor.traffic()
        screen.line(
            f"  The page of {scenario.pilot[0]}, as long as it runs: http://{HOST}:{self._page_port}/"
        )

    def first_day(self) -> None:
        """A new product, which the first model has not seen, and faults."""
        self._stage("The first day: a new product, whose load swings further than what was recorded")
        self._day(self._scenario.first_day)

    def learn(self) -> None:
        """A newer version, from summaries and labels."""
        self._stage("A second model, from what the gateways have summed up")
        said = self._programs.do(
            "cloud-sink", "learn", "-c", self._sink_toml, "--like", self._first, "--key", self._key,
            "-o", self._second,
        )  # fmt: skip
        for line in said.splitlines():
            if re.match(r"(learned from|labelled|\s+from summaries)", line):
                self._screen.line(f"  {re.sub(r'  +', ' ', line.strip())}")
        self._show_model(self._second)

    def judge(self) -> None:
        """Whether the newer version may go out: gateways replay what they have recorded with both, and a gate decides."""
        self._stage("A gate: every gateway replays its black box with the second model")
        said = self._programs.do(
            "cloud-sink", "evaluate", "-c", self._sink_toml, self._second, "--wait", f"{JUDGED_S:g}"
        )
        for line in said.splitlines():
            self._screen.line(f"  {line}")

    def roll_out(self) -> None:
        """The newer version: to a canary, then, if that goes well, to all."""
        scenario, screen, programs = self._scenario, self._screen, self._programs
        self._stage("The night, with the old product: the newer version on a canary, then on all")
        self._version = self._manifest(self._second).version
        trouble: list[str] = []

        def hear(state: ModelState) -> None:
            if state.version == self._version:
                what = NEXT.get(state.state, state.state.replace("_", " "))
                screen.line(f"  {state.gateway:<8}  {what:<10}  {state.text}")
                if state.state not in NEXT:
                    trouble.append(f"{state.gateway}: {state.text}")

        def over() -> bool:
            if trouble:
                raise DemoError(f"version {self._version} did not get far: {'; '.join(trouble)}")
            return self._monitor.for_all and set(self._adopted()) == set(scenario.gateways)

        self._hear_of_model = hear
        programs.do(
            "cloud-sink", "rollout", "-c", self._sink_toml, self._second, "--canary", scenario.canary,
            "--hours", f"{CANARY_HOURS:g}", "--windows", str(scenario.windows),
        )  # fmt: skip
        done = self._play(
            scenario.night,
            (),
            lambda reading: screen.progress(f"signal {bytes_text(reading.n_bytes)}"),
            over,
        )
        self._hear_of_model = None
        screen.settle()
        programs.show("cloud-sink", "rollouts", "-c", self._sink_toml)
        if not done:
            raise DemoError(f"version {self._version} was not on all gateways by the end of the night")

    def second_day(self) -> None:
        """The same again, as another day has it."""
        self._stage("The second day: the new product and the same faults again, other noise, other loads")
        self._day(self._scenario.second_day)

    def stop(self) -> None:
        """All that was started, in order; the gateways say what they have counted."""
        statuses = self._monitor.statuses
        self._programs.end()
        self._programs.until(
            lambda: all(s.state == "stopped" for s in statuses.values()), "the last status of every gateway"
        )

    def report(self) -> bool:
        """The tables; returns whether what was promised held."""
        screen, scenario, statuses = self._screen, self._scenario, self._monitor.statuses
        self._stage("Before and after")
        before, after = self._days
        whole = self._monitor.traffic().since(self._began)
        for line in strips(before.day, after.day, scenario.gateways):
            screen.line(f"  {line}")
        for text in (faults_table(before.day, after.day), table(before, after)):
            screen.line()
            for line in text.splitlines():
                screen.line(f"  {line}", *(("red",) if "MISSED" in line else ()))
        screen.line()
        for line in notes(scenario.speed):
            screen.line(f"  {line}", "dim")
        screen.line()
        for name, text in facts(whole):
            screen.line(f"  {name:<10}{text}")
        screen.line()
        found = promises(
            before,
            after,
            whole,
            adopted=self._adopted(),
            gateways=len(scenario.gateways),
            restarted=sum(statuses[name].boot_id != boot for name, boot in self._boots.items()),
        )
        for promise in found:
            mark, style = ("✓", "green") if promise.held else ("✗", "red")
            screen.line(f"  {mark} {promise.text}", style)  # type: ignore[arg-type]
        return all(promise.held for promise in found)

    def _day(self, period: Period) -> None:
        scenario, screen, monitor = self._scenario, self._screen, self._monitor
        before = monitor.traffic()
        view = self._view = LiveView(period, scenario.injected, screen, monitor, self._epoch_ns)
        self._n_answered = 0
        self._play(period, scenario.injected, lambda reading: view.show(reading, scenario.speed))
        self._settle()
        n = sum(episode.kind == "machine" for episode in view.day.episodes)
        self._programs.until(lambda: self._n_answered >= n, "the answers to what the operator said")
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
        return self._programs.play(order, show, over)

    def _settle(self) -> None:
        """Until the gateways have received all that was sent, and have said so; or enough was waited for."""
        monitor, programs = self._monitor, self._programs
        ends_s = time.monotonic() + SETTLE_S
        while (now := monitor.traffic().since(self._began)).received_values < now.raw_values:
            if time.monotonic() > ends_s:
                return  # the report says how much it was
            programs.listen()
        heard = {name: status.updated_at for name, status in monitor.statuses.items()}
        programs.until(
            lambda: all(s.updated_at != heard[name] for name, s in monitor.statuses.items()),
            "a status of every gateway",
        )

    def _adopted(self) -> list[str]:
        """The gateways that run the newest version."""
        statuses = self._monitor.statuses
        return [
            name
            for name, state in self._monitor.models.items()
            if (state.state, state.version) == ("adopted", self._version)
            and any(m.version == self._version for m in statuses[name].models)
        ]

    def _hear(self, item: Heard) -> None:
        """What was published, to whom it concerns."""
        if isinstance(item, ClockReading) and self._view is not None:
            self._view.read_clock(item)
        elif isinstance(item, Alert) and self._view is not None:
            self._view.hear(item)
        elif isinstance(item, ModelState) and self._hear_of_model is not None:
            self._hear_of_model(item)
        elif isinstance(item, Response) and item.request == "label" and item.ok:
            self._n_answered += 1

    def _toml(self, gateway: str) -> Path:
        return self._folder / f"{gateway}.toml"

    def _stage(self, text: str) -> None:
        self._n_stage += 1
        self._screen.stage(f"{self._n_stage}  {text}")

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
