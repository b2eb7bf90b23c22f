"""The daemon as a process of its own, for tests: its configuration, its input, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from models.messages import unpack_floats
from tests.brokers import Subscriber

BUNDLE = Path(__file__).parents[1] / "fixtures" / "bundle"
N_ROWS, FAULT_FROM = 1200, 900
NS = 1_000_000_000


def channels(bundle: Path = BUNDLE) -> list[str]:
    """Names of the channels that ``bundle`` was trained on."""
    return [c["name"] for c in json.loads((bundle / "manifest.json").read_text())["channels"]]


def config(
    folder: Path,
    port: int,
    metrics_port: int = 0,
    version: str = "5",
    extra: str = "",
    bundle: Path = BUNDLE,
    uplink: str = "",
    gateway: str = "",
) -> Path:
    """gateway.toml in ``folder`` for one device that ``bundle`` watches; lines to add to its tables."""
    units = [
        {k: c[k] for k in ("name", "unit", "origin")}
        for c in json.loads((bundle / "manifest.json").read_text())["channels"]
    ]
    listed = ", ".join(
        "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in unit.items()) + " }" for unit in units
    )
    path = folder / "gateway.toml"
    path.write_text(
        f"""
[gateway]
name = "g1"
site = "s1"
metrics_port = {metrics_port}
{gateway}
[uplink]
host = "127.0.0.1"
port = {port}
version = "{version}"
{uplink}
[[source]]
type = "mqtt"
host = "127.0.0.1"
port = {port}
[[source.subscribe]]
topic = "plant/{{device}}"
time_key = "t"
qos = 1
[[device]]
id = "pump-1"
machine = "pump"
interval_s = 1
channels = [{listed}]
model = "{bundle}"
alerts_per_week = 100
{extra}
"""
    )
    return path


def edge_node(*arguments: str | Path) -> list[str]:
    """The command line of ``edge-node``."""
    return [sys.executable, "-m", "edge_node.cli", *map(str, arguments)]


@contextmanager
def running(config: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``edge-node run``, killed at the end if it has not ended by then."""
    command = edge_node("run", "-c", config, *arguments)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def golden_window() -> np.ndarray[Any, np.dtype[np.float32]]:
    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    return unpack_floats(manifest["artifacts"][0]["golden"][0]["window"], (manifest["window"]["n"], -1))


def rows() -> list[bytes]:
    """A healthy signal like the fixture's, then every channel far off; the newest row is from just now."""
    window, names = golden_window(), channels()
    rng = np.random.default_rng(7)
    mean, spread = window.mean(axis=0), window.std(axis=0) + 1e-3
    start_ns = (time.time_ns() // NS - N_ROWS - 5) * NS
    messages = []
    for i in range(N_ROWS):
        values = mean + spread * rng.standard_normal(mean.size) + (12 * spread if i >= FAULT_FROM else 0)
        named = dict(zip(names, map(float, values), strict=True))
        messages.append(json.dumps({"t": start_ns + i * NS, **named}).encode())
    return messages


def alerts(subscriber: Subscriber) -> list[dict[str, Any]]:
    return [json.loads(m.payload) for m in subscriber.messages if "/alert/" in m.topic]


def of_the_signal(alert: dict[str, Any]) -> dict[str, Any]:
    """``alert`` without what depends on the run."""
    return {**alert, "evidence": None, "delivery": None}


def replayed(log: Path, config: Path, out: Path) -> list[dict[str, Any]]:
    """The alerts of a replay of ``log``, which are written to ``out``."""
    command = edge_node("replay", log, "-c", config, "--output", out)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]


def status(subscriber: Subscriber) -> str | None:
    found = [m for m in subscriber.messages if m.topic.endswith("/status")]
    return json.loads(found[-1].payload)["state"] if found else None


def metrics(port: int) -> dict[str, float]:
    """What the daemon counts; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
    except urllib.error.URLError:
        return {}
    return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def summed(values: dict[str, float], name: str) -> float:
    return sum(v for k, v in values.items() if k.split("{")[0] == f"linewatch_{name}")


def feed(subscriber: Subscriber, messages: list[bytes]) -> None:
    for i, message in enumerate(messages):
        subscriber.publish("plant/pump-1", message)
        if i % 100 == 99:
            time.sleep(0.02)


def connected(port: int) -> bool:
    """Whether the daemon hears its source."""
    return metrics(port).get('linewatch_connected{connection="source mqtt"}') == 1.0
