"""Random and mutated messages and models for a running gateway: ``python -m tests.edge_node.fuzz_gateway``.

The real daemon, a real mosquitto. What sensors, operators, the sink and strangers could send is mutated (bits flipped, bytes
lost, cut, repeated, spliced, nested, numbers out of any range) and published on every topic that the gateway hears: its sensors
in all payload formats, its requests, its own status, its models. Graphs of models are mutated too, and their manifests signed by
the trusted key, so that they get as far as they can. The run fails when the daemon ends, logs a traceback, is not in balance, or
does not do its work afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from edge_node.sources.payloads import encode_packed
from models import manifest as manifests
from tests.brokers import Broker, Subscriber, free_port
from tests.edge_node.chaos import Lost
from tests.edge_node.daemons import NS, config, edge_node, metrics, summed
from tests.edge_node.test_restart import balanced
from tests.edge_node.versions import PUBLIC, TOPICS, good, messages, signed, with_graph, written
from tests.fixtures.make_bundle import signal as healthy

CHANNELS = ("Temperature", "Pressure")
FORMATS = {
    "json": 'time_key = "t"',
    "csv": 'format = "csv"\ncolumns = ["t", "Temperature", "Pressure"]\ntime_key = "t"\ntime_unit = "s"',
    "influx": 'format = "influx"',
    "packed": 'format = "packed"\nrate_hz = 1',
    "number": 'format = "number"\nchannel = "Temperature"',
}
REQUESTS = ("ack", "label", "accept_as_normal", "reload", "status", "backtest", "")
ROOT = "linewatch/s1/g1"
BATCH = 250


@dataclass(slots=True)
class Report:
    seed: int
    n_messages: int = 0
    n_bytes: int = 0
    n_models: int = 0
    n_model_bytes: int = 0
    by_topic: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)  # models, by what became of them


def payloads(rng: random.Random, now_ns: int) -> dict[str, bytes]:
    """A sound message of each kind, by topic."""
    t, a, b = now_ns - rng.randrange(10**9) * 100, 40 + rng.gauss(0, 1), 3 + rng.gauss(0, 0.1)
    matrix = np.array([[a, b]] * rng.randrange(1, 5), np.float32)
    transaction = f"t-{rng.randrange(50)}"
    request = {
        "transaction": transaction,
        "alert_id": f"{rng.randrange(1 << 64):016x}",
        "by": "Anna",
        "label": "false_alarm",
    }
    manifest = manifests.encode(signed(good(2), version=rng.randrange(1, 50))[0])
    return {
        "fuzz/json/pump-1": json.dumps({"t": t, "Temperature": a, "Pressure": [b]}).encode(),
        "fuzz/csv/pump-1": f"{t / 1e9:.6f},{a},{b}\n".encode(),
        "fuzz/influx/pump-1": f"m,host=x Temperature={a},Pressure={b} {t}".encode(),
        "fuzz/packed/pump-1": encode_packed(matrix, start_ns=t, rate_hz=Fraction(1)),
        "fuzz/number/pump-1": str(a).encode(),
        f"{ROOT}/request/{rng.choice(REQUESTS)}": json.dumps(request).encode(),
        f"{ROOT}/status": json.dumps({"type": "status", "boot_id": "x", "state": "online"}).encode(),
        TOPICS.stable: manifest,
        TOPICS.canary("s1/g1"): manifest,
        TOPICS.blob("0" * 64): rng.randbytes(100),
    }


def _flip(rng: random.Random, data: bytes) -> bytes:
    hurt = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        hurt[rng.randrange(len(hurt))] ^= 1 << rng.randrange(8)
    return bytes(hurt)


def _cut(rng: random.Random, data: bytes) -> bytes:
    i, j = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return rng.choice((data[:i], data[j:], data[:i] + data[j:]))


def _repeat(rng: random.Random, data: bytes) -> bytes:
    i, j = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return data[:j] + data[i:j] * rng.randrange(1, 20) + data[j:]


def _number(rng: random.Random, data: bytes) -> bytes:
    strange = (
        b"1e999",
        b"-0",
        b"9" * 400,
        b"NaN",
        b"null",
        b"true",
        b'"\xff"',
        b"{}",
        b"[]",
        b"1e-320",
        str(1 << 63).encode(),
    )
    digits = [i for i, byte in enumerate(data) if 48 <= byte < 58] or [0]
    at = rng.choice(digits)
    return data[:at] + rng.choice(strange) + data[at + 1 :]


def _nest(rng: random.Random, data: bytes) -> bytes:
    n = rng.choice((10, 1_000, 50_000))
    return rng.choice((b"[" * n, b'{"a":' * n, b"[" * n + data + b"]" * n))


def _random(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 7, 32, 33, 300, 5_000)))


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip,
    _flip,
    _cut,
    _repeat,
    _number,
    _nest,
    _random,
)


def mutated(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        data = rng.choice(MUTATIONS)(rng, data or b"0")
    return data[:200_000]


class Gateway:
    """The daemon under fire."""

    def __init__(self, path: Path, port: int, log: Path) -> None:
        self._port, self._log = port, log
        with log.open("ab") as out:
            self._process = subprocess.Popen(edge_node("run", "-c", path), stdout=out, stderr=out)
        self.wait_for(
            lambda: metrics(port).get('linewatch_connected{connection="source mqtt"}') == 1.0,
            "its connection",
        )

    def alive(self) -> None:
        if self._process.poll() is not None:
            raise Lost(f"the gateway ended ({self._process.returncode}): {self._log.read_text()[-3000:]}")

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.alive()
            if time.monotonic() > deadline:
                raise Lost(f"{what} did not happen: {self._log.read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        if self._process.wait(60) != 0:
            raise Lost(f"it ended badly: {self._log.read_text()[-3000:]}")
        if "Traceback" in self._log.read_text():
            raise Lost(f"it logged a traceback: {self._log.read_text()[-5000:]}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def write_config(folder: Path, broker: int, port: int) -> Path:
    bundle = written(folder / "bundle", signed(good(1)))
    options = f'[models]\ntrusted_keys = ["{PUBLIC}"]\nshadow_windows = 40\nprobe_timeout_s = 10'
    path = config(
        folder, broker, port, bundle=bundle, gateway=f"max_requests_per_minute = 100_000\n{options}"
    )
    more = "".join(
        f'[[source.subscribe]]\ntopic = "fuzz/{name}/{{device}}"\nmax_payload_bytes = 100_000\n{text}\n'
        for name, text in FORMATS.items()
    )
    text = path.read_text()
    device = text[text.index("[[device]]") :]
    text = text.replace("[[device]]", f"{more}[[device]]", 1)
    path.write_text(text + device.replace("pump-1", "pump-2"))  # of which nobody sends nonsense
    return path


def run(seed: int, n_messages: int, n_models: int, folder: Path, *, quiet: bool = False) -> Report:
    """Raises Lost."""
    rng = random.Random(seed)
    report = Report(seed)
    counts: Counter[str] = Counter()
    broker = Broker(folder)
    broker.start()
    port = free_port()
    try:
        gateway = Gateway(write_config(folder, broker.port, port), port, folder / "gateway.log")
        try:
            with Subscriber(broker.port, f"{ROOT}/#") as to:
                while report.n_messages < n_messages:
                    for _ in range(BATCH):
                        topic, sound = rng.choice([*payloads(rng, time.time_ns()).items()])
                        data = mutated(rng, sound)
                        to._client.publish(topic, data, qos=rng.choice((0, 0, 1)), retain=rng.random() < 0.02)
                        report.n_messages += 1
                        report.n_bytes += len(data)
                        counts[
                            topic.split("/")[1]
                            if topic.startswith("fuzz/")
                            else topic.removeprefix(f"{ROOT}/").split("/")[0]
                        ] += 1
                    to.publish("sync", b"")
                    gateway.alive()
                    balanced(port)
                    if not quiet:
                        print(f"{report.n_messages:7} messages, {report.n_bytes / 1e6:.1f} MB", flush=True)
                for topic in (TOPICS.stable, TOPICS.canary("s1/g1")):
                    to.publish(topic, b"", retain=True)
                _models(rng, report, n_models, to, gateway, quiet=quiet)
                _works(to, gateway, port)
            gateway.stop()
        finally:
            gateway.kill()
    finally:
        broker.kill()
    report.by_topic = dict(counts)
    return report


def _models(
    rng: random.Random, report: Report, n: int, to: Subscriber, gateway: Gateway, *, quiet: bool
) -> None:
    """Graphs that are not in order, properly signed: each is refused, and told why."""
    became: Counter[str] = Counter()
    place = f"{ROOT}/model/fixture"
    for i in range(n):
        base = good(2, i % 3)
        index = rng.randrange(len(base[0].artifacts))
        graph = base[1][base[0].artifacts[index].target]
        hurt = graph
        while hurt == graph:
            hurt = rng.choice((_flip, _flip, _flip, _cut, _repeat))(rng, graph) or b"0"
        version = 1_000 + i
        candidate = with_graph(base, hurt, index)
        candidate = signed(candidate, version=version)
        for topic, data in messages(candidate):
            to.publish(topic, data, retain=True)
            report.n_model_bytes += len(data)
        report.n_models += 1

        def told(version: int = version) -> str | None:
            for payload in reversed(to.on(place)):
                said = json.loads(payload)
                if said["version"] == version and said["state"] != "shadow":
                    return str(said["reason"] or said["state"])
                if said["version"] == version:
                    return "harmless: it came as far as its trial"
            return None

        gateway.wait_for(lambda: told() is not None, f"what becomes of version {version}")
        became[told() or ""] += 1
        if not quiet and i % 10 == 9:
            print(f"{i + 1:7} models: {dict(became)}", flush=True)
    report.refused = dict(became)


def _works(to: Subscriber, gateway: Gateway, port: int) -> None:
    """A sound signal is scored, and a fault is told."""
    before = summed(metrics(port), "windows_scored_total")
    values = healthy(900, seed=77)
    values[700:] += 12 * values.std(axis=0)
    start_ns = (time.time_ns() // NS - len(values)) * NS
    for i, row in enumerate(values.tolist()):
        to.publish(
            "plant/pump-2", json.dumps({"t": start_ns + i * NS, **dict(zip(CHANNELS, row, strict=True))})
        )
    gateway.wait_for(
        lambda: summed(metrics(port), "windows_scored_total") > before + 20, "windows of a sound signal"
    )
    gateway.wait_for(
        lambda: any(b'"kind":"machine"' in p for p in to.on(f"{ROOT}/alert/pump-2")), "an alert of a fault"
    )
    balanced(port)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--models", type=int, default=100)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        try:
            report = run(given.seed, given.messages, given.models, Path(name))
        except Lost as error:
            print(f"FAILED (seed {given.seed}): {error}", file=sys.stderr)
            return 1
    for key, value in asdict(report).items():
        print(f"{key:15} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
