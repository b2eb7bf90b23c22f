"""docs/operations.md, "Trying it without machines": its own commands, in its order, from an empty folder to what a sink says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from examples.plant_simulator import Order
from examples.simulated_plant import FaultKind
from tests.brokers import broker, free_port, wait_for
from tests.cloud_sink.sinks import fetched
from tests.edge_node.daemons import connected, metrics, summed

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()
SECTION = PAGE.split("\n## Trying it without machines\n")[1].split("\n## ")[0]
SHOWN, FASTER = 40, 120  # times real time: the page's, and the test's
PLAYED_S = 1200


def ago_s(speed: int) -> int:
    """How long before it is played a plant has to begin that ends when it was played."""
    return round(1 + PLAYED_S * (1 - 1 / speed))


class Trial:
    """The commands of the section in ``folder``, with free ports in place of the usual ones, and played faster."""

    def __init__(self, folder: Path, broker_port: int) -> None:
        self.folder = folder
        self.page_port, self.sink_port = free_port(), free_port()
        changes = {
            'host = "127.0.0.1"': f'host = "127.0.0.1"\nport = {broker_port}',
            'site = "trial"': f'site = "trial"\nmetrics_port = {self.page_port}',
            'name = "sink-1"': f'name = "sink-1"\nmetrics_port = {self.sink_port}',
            "examples.plant_simulator": f"examples.plant_simulator --port {broker_port}",
            f"--speed {SHOWN}": f"--speed {FASTER}",
            f'"speed\\": {SHOWN}': f'"speed\\": {FASTER}',
            f"- {ago_s(SHOWN)} ": f"- {ago_s(FASTER)} ",
        }
        text = SECTION
        for shown, here in changes.items():
            assert shown in text, shown
            text = text.replace(shown, here)
        self.blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),  # the reader begins in the checkout
        }

    def done(self, script: str) -> str:
        """What ``script`` prints; it must succeed."""
        ran = subprocess.run(
            ["sh", "-ec", script], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert ran.returncode == 0, f"{script}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    @contextmanager
    def going_on(self, script: str) -> Iterator[Path]:
        """``script``, one command, in a terminal of its own, until Ctrl-C; what it says."""
        said = self.folder / f"{'-'.join(script.split()[:2])}.log"
        with said.open("w") as log:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {script}"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        try:
            yield said
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0, said.read_text()
        finally:
            process.kill()
            process.wait()


@pytest.mark.timeout(300)
def test_the_commands_of_the_section_in_their_order(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto:
        trial = Trial(tmp_path, mosquitto.port)
        path, describe, start, record, play, train, run, sink, day, look = trial.blocks
        assert path == 'export PATH="$PWD/.venv/bin:$PATH"\n'
        assert start == "mosquitto\n"
        trial.done(describe)
        with trial.going_on(record) as recorder:
            wait_for(lambda: "connected to" in recorder.read_text(), "the recorder")
            trial.done(play)
        assert "dropped none" in recorder.read_text()
        assert "1000 Hz, continuous: x, y, z in m/s2" in trial.done(train)
        with trial.going_on(run) as gateway, trial.going_on(sink):
            wait_for(lambda: connected(trial.page_port), "the gateway")
            wait_for(lambda: fetched(trial.sink_port, "/healthz")[0] == 200, "the sink")
            trial.done(day)
            ended = r"press-1: normal again after \d+ min \(at worst [xyz] vibration"
            wait_for(lambda: re.search(ended, gateway.read_text()), "the end of the alert")
            wait_for(lambda: "trial/hall-1" in trial.done(look), "the sink's word of the gateway")
            seen = trial.done(look)
            assert re.search(r"^trial/hall-1 +online .* press-1 v1 ", seen, re.MULTILINE)
            assert "press-1 version 1: 1 devices" in seen
            assert "0 new windows since" in seen
            # What goes on in real time follows the play; what begins before its end is late.
            n = summed(metrics(trial.page_port), "windows_scored_total")
            simulator = play.split(" --minutes")[0]
            trial.done(f"{simulator} --minutes 0.1")
            wait_for(lambda: summed(metrics(trial.page_port), "windows_scored_total") > n, "more windows")
            assert late(trial) == 0
            trial.done(f"{simulator} --minutes 2 --speed {FASTER}")
            wait_for(lambda: late(trial) > 0, "late samples")


def late(trial: Trial) -> float:
    return sum(
        value
        for name, value in metrics(trial.page_port).items()
        if name.startswith("linewatch_samples_dropped_total{") and 'reason="late"' in name
    )


def test_what_is_said_of_an_order_is_so() -> None:
    (said,) = re.findall(r"- `--minutes` is of.*?(?=\n- )", SECTION, re.DOTALL)
    named = set(re.findall(r"`(\w+)`", said))
    kinds = {str(kind) for kind in FaultKind}
    of_a_fault = {"kind", "device", "start_s", "growth_s", "end_s", "channel"}
    assert named == {f.name for f in msgspec.structs.fields(Order)} | kinds | of_a_fault
    minutes, begins = (
        float(n) for n in re.findall(r"(\d+) minutes at \d+ begin ([\d.]+) minutes ago", said)[0]
    )
    assert begins == minutes * (1 - 1 / SHOWN)
