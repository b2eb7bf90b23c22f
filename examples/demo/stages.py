"""The stages of the demo, one method each, in the order in which they are called."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec

from examples.demo.board_log import WORN_FROM, sent_by, worn_ns
from examples.demo.findings import bytes_text, judge
from examples.demo.live import LiveView
from examples.demo.monitor import Monitor
from examples.demo.processes import HOST, Broker, Child, DemoError, free_port
from examples.demo.report import SentByBoard, facts, fault_table, notes
from examples.demo.scenario import Scenario, gateway_config, units_of
from examples.demo.screen import Screen, bar
from examples.plant_simulator import ClockReading, Order
from firmware_bridge.simulator import FRAME_S
from models import codec
from models.alerting import duration
from models.manifest import ModelManifest
from models.messages import Alert
from models.signal import NS_PER_S

TEMPLATE = Path(__file__).parents[1] / "simulated_plant.toml"
PROGRAMS = {
    "edge-node": "edge_node.cli",
    "cloud-sink": "cloud_sink.cli",
    "firmware-bridge": "firmware_bridge.cli",
}
RECORDING_SPEED = 60.0
QUIET_SPEED = 1200.0  # while only the process sensors send
START_S = 60.0  # for a program to come up, on a slow machine
SETTLE_S = 1.0  # for what was sent last to arrive
BROKER_ATTEMPTS = 3  # a port that was free may be taken by the time the broker asks for it


def start_broker(stack: ExitStack, folder: Path, screen: Screen, environment: Mapping[str, str]) -> Broker:
    """A broker that listens. Raises DemoError."""
    screen.stage("1  A broker")
    for attempt in range(1, BROKER_ATTEMPTS + 1):
        broker = stack.enter_context(Broker(folder, environment))
        try:
            broker.wait_until_listening()
        except DemoError:
            if attempt == BROKER_ATTEMPTS:
                raise
            continue
        break
    screen.line(f"  {broker.kind} on {HOST}:{broker.port}")
    return broker


class Demo:
    """What the stages share. Each raises DemoError when it cannot be done."""

    def __init__(
        self, scenario: Scenario, folder: Path, screen: Screen, broker: Broker, monitor: Monitor
    ) -> None:
        self._scenario, self._folder, self._screen = scenario, folder, screen
        self._broker, self._monitor = broker, monitor
        self._config = folder / "gateway.toml"
        self._recording = folder / "history.parquet"
        # The plant's time ends when the demo begins: however fast it is played, nothing comes from the future.
        seconds = scenario.history_s + scenario.live_s
        self._epoch_ns = (time.time_ns() // NS_PER_S - seconds) * NS_PER_S
        self._live = LiveView(scenario, screen, self._epoch_ns)
        self._window_s: dict[str, float] = {}
        self._port = folder / "compressor-4"  # of the board
        self._by_board: SentByBoard | None = None
        text = gateway_config(
            TEMPLATE.read_text(),
            scenario,
            port=broker.port,
            version=broker.mqtt_version,
            board_port=str(self._port),
        )
        page_port = free_port()
        self._page = f"http://{HOST}:{page_port}/"
        self._config.write_text(text.replace("metrics_port = 0", f"metrics_port = {page_port}"))

    def record_history(self) -> None:
        """The healthy plant, by ``edge-node record``."""
        scenario, screen = self._scenario, self._screen
        screen.stage("2  The healthy plant, recorded")
        with ExitStack() as stack:
            board = stack.enter_context(self._board("recorded")) if scenario.worn is not None else None
            words = ("edge-node", "record", "-c", self._config, "-o", self._recording)
            recorder = stack.enter_context(self._child(*words))
            self._wait_for_source(recorder)
            if board is not None:
                self._wait_for(recorder, '"line open"', "has not opened the board's port")
            began = time.monotonic()
            order = Order(
                epoch_ns=self._epoch_ns,
                from_s=0,
                until_s=scenario.history_s,
                speed=RECORDING_SPEED,
                quiet_speed=QUIET_SPEED,
                vibration_from_s=scenario.history_s - scenario.vibration_s,
                machines=scenario.machines,
            )
            with self._simulator(order) as simulator:
                while not (reading := self._reading(simulator)).ended:
                    recorder.check()
                    minutes = f"{reading.second / 60:.0f} of {scenario.history_s / 60:.0f} min"
                    share = reading.second / scenario.history_s
                    screen.progress(f"{bar(share)} {minutes} of plant time, {bytes_text(reading.n_bytes)}")
                simulator.finish(10.0)
            if scenario.worn is not None:
                self._record_on(recorder, began + scenario.worn.record_s)
            time.sleep(SETTLE_S)
            recorder.interrupt()
            recorder.finish(30.0)
        screen.settle()
        size = bytes_text(self._recording.stat().st_size)
        wrote = recorder.text().strip().splitlines()[-1]
        worn = scenario.worn
        board_too = "" if worn is None else f", and {worn.record_s:g} s of {worn.board.machine}'s board"
        screen.line(
            f"  {scenario.history_s // 60} min of process values, the last {scenario.vibration_s // 60} of them with vibration "
            f"at 1 kHz: {reading.n_samples:,} values sent{board_too}; {wrote.partition(' to ')[0]}, {size} on disk"
        )

    def train(self) -> None:
        """A model for every device, by ``cloud-sink train``, as many at a time as there are processors."""
        screen, waiting = self._screen, list(self._scenario.devices)
        screen.stage("3  A model for each device")
        shown = False
        n_all, n_done = len(waiting), 0
        running: dict[Child, tuple[str, float]] = {}
        with ExitStack() as stack:
            while waiting or running:
                while waiting and len(running) < min(os.cpu_count() or 1, 4):
                    device = waiting.pop(0)
                    child = self._trainer(device, quiet=shown)
                    shown = True
                    running[stack.enter_context(child)] = (device, time.monotonic())
                names = ", ".join(device for device, _ in running.values())
                screen.progress(f"{bar(n_done / n_all)} {n_done} of {n_all} models; training {names}")
                time.sleep(0.05)
                for child in [child for child in running if not child.running]:
                    child.finish(0.0)
                    device, began = running.pop(child)
                    n_done += 1
                    self._show_model(device, time.monotonic() - began)
        screen.settle()

    def watch(self) -> None:
        """The gateway, while faults begin."""
        scenario, screen = self._scenario, self._screen
        screen.stage(
            f"4  The gateway watches: {scenario.live_s // 60} min at {scenario.speed:g} times real time"
        )
        with self._child("edge-node", "run", "-c", self._config) as gateway:
            self._wait_for_source(gateway)
            screen.line(f"  Its page, as long as it runs: {self._page}")
            order = Order(
                epoch_ns=self._epoch_ns,
                from_s=scenario.history_s,
                until_s=scenario.history_s + scenario.live_s,
                speed=scenario.speed,
                quiet_speed=scenario.speed,
                vibration_from_s=0,
                faults=scenario.plant_faults,
                machines=scenario.machines,
            )
            self._monitor.clock = None
            with ExitStack() as stack:
                simulator = stack.enter_context(self._simulator(order))
                board = None
                if scenario.worn is not None:
                    board = stack.enter_context(
                        self._board("watched", "--worn-after", f"{scenario.worn.worn_s:g}")
                    )
                    self._wait_for(board, WORN_FROM, "does not say when its fault begins")
                    self._live.expect_wear(worn_ns(board.text()))
                while not (reading := self._reading(simulator)).ended:
                    gateway.check()
                    if board is not None:
                        board.check()
                    self._live.show_plant(reading, self._monitor.upstream())
                simulator.finish(10.0)
                if board is not None and scenario.worn is not None:
                    board.interrupt()
                    board.finish(10.0, self._listen)
                    self._by_board = sent_by(scenario.worn, board.text())
            deadline = time.monotonic() + SETTLE_S
            while time.monotonic() < deadline:
                self._listen()
            gateway.interrupt()
            gateway.finish(30.0, self._listen)
        deadline = time.monotonic() + 10.0
        while self._monitor.status is None or self._monitor.status.state != "stopped":
            if time.monotonic() > deadline:
                raise DemoError(gateway.told('ended without saying "stopped"'))
            self._listen()
        screen.settle()

    def report(self) -> int:
        """The table; returns how many faults were missed."""
        screen, scenario = self._screen, self._scenario
        findings, false_alarms = judge(self._live.raised, self._live.faults, self._window_s)
        assert self._monitor.clock is not None
        screen.stage("5  What was noticed")
        missed = [finding for finding in findings if finding.noticed is None]
        for line in fault_table(findings).splitlines():
            screen.line(f"  {line}", *(("red", "bold") if "MISSED" in line else ()))
        for note in notes(scenario):
            screen.line(f"  {note}", "dim")
        screen.line()
        upstream = self._monitor.upstream()
        raised, sent = self._live.raised, self._monitor.clock
        for name, text in facts(scenario, raised, false_alarms, sent, upstream, self._by_board):
            screen.line(f"  {name:<14}{text}")
        return len(missed)

    def _child(self, program: str, *arguments: str | Path, log: str = "", quiet: bool = False) -> Child:
        words = [str(argument) for argument in arguments]
        if not quiet:
            self._screen.command(shlex.join([program, *words]).replace(str(self._folder), "$FOLDER"))
        name = log or f"{program}-{words[0]}"
        command = [sys.executable, "-m", PROGRAMS[program], *words]
        return Child(f"{program} {words[0]}", command, self._folder / f"{name}.log")

    def _simulator(self, order: Order) -> Child:
        text = msgspec.json.encode(order).decode()
        arguments = ["--host", HOST, "--port", str(self._broker.port), "--order", text]
        command = [sys.executable, "-m", "examples.plant_simulator", *arguments]
        return Child("the simulator", command, self._folder / "simulator.log")

    def _board(self, log: str, *options: str) -> Child:
        """The board on its serial line."""
        assert self._scenario.worn is not None
        board = self._scenario.worn.board
        words = ("--link", self._port, "--serial", board.serial, "--rate-hz", f"{board.rate_hz}", *options)
        return self._child("firmware-bridge", "simulate", *words, log=f"board-{log}")

    def _record_on(self, recorder: Child, until_s: float) -> None:
        """The board, in real time, takes longer than the plant."""
        while (left_s := until_s - time.monotonic()) > 0:
            recorder.check()
            self._screen.progress(f"the board is recorded in real time: {left_s:.0f} s more")
            self._listen()

    def _trainer(self, device: str, *, quiet: bool) -> Child:
        features = "slow" if device.endswith("-process") else "vibration"
        machine = self._scenario.devices[device]
        units = units_of(self._config.read_text(), device).items()
        return self._child(
            "cloud-sink",
            "train",
            self._recording,
            *("--device", device, "--class", machine.partition("-")[0], "--features", features),
            *(word for channel, unit in units for word in ("--unit", f"{channel}={unit}")),
            *("-o", self._folder / "models" / device),
            log=f"train-{device}",
            quiet=quiet,
        )

    def _show_model(self, device: str, took_s: float) -> None:
        bundle = self._folder / "models" / device
        manifest = codec.decode((bundle / "manifest.json").read_bytes(), ModelManifest)
        worn = self._scenario.worn
        real_time = worn is not None and device == worn.board.device
        # A frame of the board is worn or not as a whole.
        length_s = manifest.window.window_ns / NS_PER_S + (FRAME_S if real_time else 0.0)
        self._window_s[device] = length_s * (self._scenario.speed if real_time else 1.0)
        artifact = manifest.artifact("cpu-float32")
        assert artifact is not None
        training = manifest.training
        self._screen.line(
            f"  {device:<23}{training.n_windows:>5} windows of {duration(manifest.window.window_ns)}, "
            f"{artifact.n_bytes / 1024:.1f} KB; cross-fit false alarms {training.cross_fit_far:.2%} at p {training.far_level:g}; "
            f"{took_s:.0f} s"
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
        """Take what was published, and show it."""
        self._broker.check()
        for at_ns, item in self._monitor.take(wait_s=0.1):
            if isinstance(item, ClockReading):
                self._live.read_clock(at_ns, item)
            elif isinstance(item, Alert):
                self._live.show_alert(item)
