"""README's five steps as a user takes them: its own commands, in its order, from sensors to alerts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.model_store import load_bundle
from tests.brokers import wait_for

README = Path(__file__).parents[1] / "README.md"
T0_NS = 1_700_000_000_000_000_000
NS = 1_000_000_000
RATE_HZ, FAULT_HZ = 1000, 340.0
HEALTHY_S, FAULTY_S, FAULT_FROM_S = 120, 60, 30
TEMPERATURE_S = 1500
FAILURES = "### Would it have caught last year's failures?"
FAULT = re.compile(r"press-4: x vibration [\d.]+ times normal at 312-375 Hz for \d+ s")

# Where the sensors are brokers in README, they are files played as if they were live: nothing else differs.
GATEWAY = """
[gateway]
name = "hall-3"
site = "ulm"
metrics_port = 0

[[source]]
type = "replay"
name = "board"
paths = ["sensors/vibration.jsonl"]
device_id = "press-4"
speed = "max"

[[source]]
type = "replay"
name = "probe"
paths = ["sensors/temperature.csv"]
device_id = "press-4-temperature"
speed = "max"

[defaults]
machine = "press-4"
class = "press"

[[device]]
id = "press-4"
rate_hz = 1000
channels = ["x", "y"]
unit = "m/s2"
# model = "models/press-4"

[[device]]
id = "press-4-temperature"
interval_s = 1
channels = [{ name = "bearing", unit = "°C", origin = 40 }, { name = "tip", unit = "mm", wear = true }]
# model = "models/press-4-temperature"
"""


def commands() -> dict[str, str]:
    """What the steps of README's section "Use it" tell to run in a shell, by its first two words, in its order."""
    section = README.read_text().split("## Use it")[1].split("\n##")[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    named = {" ".join(line.split()[:2]): line for line in lines}
    return {
        name: line for name, line in named.items() if not name.startswith("firmware-bridge ")
    }  # the bench's


def block(heading: str, kind: str) -> str:
    """The first block of ``kind`` in the section of README that begins with ``heading``."""
    section = README.read_text().split(f"\n{heading}\n")[1].split("\n##")[0]
    found = re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1].strip()


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """``line`` as a user's shell runs it; fails the test with what it said where it fails."""
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def vibration(n_s: int, seed: int, fault_from_s: int | None = None) -> NDArray[np.float64]:
    """[n, 2] at RATE_HZ in m/s2: a machine's hum and noise; from the fault on a tone that was not there."""
    t = np.arange(n_s * RATE_HZ) / RATE_HZ
    rng = np.random.default_rng(seed)
    hum = 2.0 * np.sin(2 * np.pi * 50.0 * t)[:, None] * [1.0, 0.6]
    signal = hum + rng.normal(size=(t.size, 2))
    if fault_from_s is not None:
        signal[:, 0] += np.where(t >= fault_from_s, 3.0 * np.sin(2 * np.pi * FAULT_HZ * t), 0.0)
    return signal


def sense(folder: Path, signal: NDArray[np.float64], n_temperature: int = TEMPERATURE_S) -> None:
    """What the sensors deliver from now on."""
    sensors = folder / "sensors"
    sensors.mkdir(exist_ok=True)
    with (sensors / "vibration.jsonl").open("w") as file:
        for i in range(0, len(signal), RATE_HZ):
            x, y = np.round(signal[i : i + RATE_HZ], 4).T.tolist()
            file.write(
                json.dumps({"t": T0_NS + i * NS // RATE_HZ, "rate_hz": RATE_HZ, "x": x, "y": y}) + "\n"
            )
    bearing, tip = np.random.default_rng(3).normal(size=(2, n_temperature))
    rows = [
        f"{T0_NS // NS + i},{42 + 0.5 * b:.3f},{0.2 + 0.01 * w:.4f}"
        for i, (b, w) in enumerate(zip(bearing, tip, strict=True))
    ]
    (sensors / "temperature.csv").write_text("\n".join(["time,bearing,tip", *rows]) + "\n")


def machine_alerts(path: Path) -> list[dict[str, Any]]:
    alerts = [json.loads(line) for line in path.read_text().splitlines()]
    return [a for a in alerts if a["kind"] == "machine" and a["state"] == "raised"]


@pytest.fixture
def step() -> Callable[[str], str]:
    """The command of a step; each may be taken once."""
    left = commands()
    assert list(left) == [
        "edge-node check",
        "edge-node record",
        "cloud-sink train",
        "edge-node replay",
        "edge-node run",
    ]
    return left.__getitem__


def test_the_five_steps_of_the_readme(tmp_path: Path, step: Callable[[str], str]) -> None:
    gateway = tmp_path / "gateway.toml"
    gateway.write_text(GATEWAY)
    sense(tmp_path, vibration(HEALTHY_S, seed=1))

    # 1. describe, 2. record
    assert "ok, 2 devices, 2 sources" in shell(tmp_path, step("edge-node check")).stdout
    shell(tmp_path, step("edge-node record"))

    # 3. train: for each device from the one recording, and nothing of the configuration is said again
    train = step("cloud-sink train")
    assert not re.search(r"--(unit|origin|wear|mode|rate-hz|class)\b", train)
    table = shell(tmp_path, train).stdout
    assert "1000 Hz, continuous: x, y in m/s2" in table
    slow = train.replace("vibration", "slow").replace("press-4", "press-4-temperature")
    assert "1 Hz, irregular: bearing in °C less 40; tip in mm (wear)" in shell(tmp_path, slow).stdout
    manifest = load_bundle(tmp_path / "models" / "press-4-temperature").manifest
    assert manifest.class_ == "press"
    assert manifest.channels[0].baseline.maximum < 10

    # 4. replay last year's
    sense(tmp_path, vibration(FAULTY_S, seed=2, fault_from_s=FAULT_FROM_S), n_temperature=100)
    (tmp_path / "lastyear").mkdir()
    shell(tmp_path, step("edge-node record").replace("healthy.parquet", "lastyear/fault.parquet"))
    shell(tmp_path, step("edge-node replay"))
    (alert,) = machine_alerts(tmp_path / "alerts.jsonl")
    assert (alert["machine"], alert["device"]) == ("press-4", "press-4")
    assert FAULT.fullmatch(alert["message"])

    # would it have caught them: the file as README shows it, its first failure half a minute after that alert
    given = block(FAILURES, "csv")
    failed_s = alert["end_ns"] // NS + 30
    (tmp_path / "failures.csv").write_text(given.replace("2024-03-12T06:40:00Z", str(failed_s)))
    judged = shell(tmp_path, block(FAILURES, "sh")).stdout
    assert re.search(r"press-4 +bearing seized +caught +(?:29|30) s +x +1\n", judged)
    assert re.search(r"press-4 +belt torn, replaced +not recorded", judged)
    assert re.search(r"^failures caught +1 of 1 ", judged, re.MULTILINE)
    (page,) = (tmp_path / "report").iterdir()
    assert page.read_text().count("<svg") == 5  # what all share, the curve, the score, two channels

    # 5. run: the models are taken as they are, and say the same live
    gateway.write_text(GATEWAY.replace("# model", "model"))
    checked = shell(tmp_path, step("edge-node check")).stdout
    assert "press-4 v1 on cpu" in checked
    assert "press-4-temperature v1 on cpu" in checked
    said = tmp_path / "log"
    with said.open("w") as log:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {step('edge-node run')}"], cwd=tmp_path, env=environment(), stderr=log
        )
        try:
            wait_for(lambda: "312-375 Hz" in said.read_text() or process.poll() is not None, "an alert")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0, said.read_text()
        finally:
            process.kill()
            process.wait()
    events = [json.loads(line) for line in said.read_text().splitlines()]
    (raised,) = [e for e in events if e.get("state") == "raised"]
    assert FAULT.fullmatch(raised["event"])
    assert events[-1]["event"] == "stopped"
