"""A defect of ours in any part ends the daemon: loudly, with one line that names the part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import Subscriber, broker, wait_for
from tests.edge_node.daemons import config, status

pytestmark = pytest.mark.tflite_runtime

# edge-node with one part that raises what no code expects.
BROKEN = """
import sys
import edge_node.{module} as module
from edge_node.cli import main

def broken(*_):
    raise {error}("a defect of ours")

module.{name} = broken
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("module", "name", "error", "part"),
    [
        ("sources.mqtt", "MqttSubscriber.on_connected", "TypeError", "source mqtt"),
        ("sources.mqtt", "MqttSubscriber.on_connected", "ValueError", "source mqtt"),
        ("uplink", "Uplink.on_connected", "TypeError", "the uplink"),
        ("uplink", "Uplink.on_turn", "ValueError", "the uplink"),
    ],
)
def test_a_part_that_fails_ends_the_daemon(
    tmp_path: Path, module: str, name: str, error: str, part: str
) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        program = BROKEN.format(module=module, name=name, error=error)
        path = config(tmp_path, mosquitto.port)
        done = subprocess.run(
            [sys.executable, "-c", program, "run", "-c", path], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 1, done.stderr
        lines = done.stderr.splitlines()
        assert lines[-1] == f"edge-node: {part} failed: {error}: a defect of ours"
        logged = [json.loads(line) for line in lines[:-1]]
        failures = [line for line in logged if line["event"] == lines[-1].removeprefix("edge-node: ")]
        assert len(failures) == 1
        assert "in broken" in failures[0]["exception"]
        if part != "the uplink":
            wait_for(lambda: status(seen) == "offline", "status offline")


def test_a_source_that_fails_ends_a_recording(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto:
        program = BROKEN.format(module="sources.mqtt", name="MqttSubscriber.on_connected", error="TypeError")
        arguments = ["record", "-c", config(tmp_path, mosquitto.port), "-o", tmp_path / "log.jsonl"]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=30
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "edge-node: source mqtt failed: TypeError: a defect of ours"
