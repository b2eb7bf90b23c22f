"""What a sink takes from a real broker, stored and acknowledged, beside a bare decode of the same bytes.

The broker holds a backlog for the sink's session before that starts; CPU time is of the sink's whole process, from the first
message to the last one that is stored.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import psutil
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from benchmarks import live
from benchmarks.timing import take_turns
from benchmarks.wire import HOST
from cloud_sink.features_store import FeatureStore
from examples.demo.processes import Child, free_port
from models.messages import Summary, encode, pack_floats, rfc3339
from models.signal import NS_PER_S

N_FEATURES, N_RESERVOIR, N_DEVICES = 16, 16, 500


def measure(*, quick: bool) -> dict[str, object]:
    """Summaries a second of one sink: by the clock and by its CPU time; CPU time of a bare msgspec decode of the same bytes."""
    n = 300 if quick else 30_000
    payloads = _payloads(n)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drained = drain(payloads, folder)
        table = FeatureStore(str(folder / "features"), "bench").read("press", "bench")
        assert table is not None
        assert len(table) == n
    bare = take_turns({"bare": _Bare([p for _, p in payloads[: min(n, 5_000)]])}, 5)["bare"]
    return {
        "summaries": n,
        "bytes_per_summary": sum(len(p) for _, p in payloads) / n,
        "features": N_FEATURES,
        "per_s": n / drained.wall_s,
        "per_cpu_s": n / drained.cpu_s,
        "bare_us": bare.unit_s * 1e6,
        "ours_us": drained.cpu_s / n * 1e6,
        "bare_over_ours": bare.unit_s / (drained.cpu_s / n),
        "rss_mb": drained.rss_mb,
        "broker": live.mosquitto_version(),
    }


class Drained(NamedTuple):
    """What a sink took to store and acknowledge what the broker had for it."""

    wall_s: float
    cpu_s: float
    rss_mb: float


def drain(payloads: list[tuple[str, bytes]], folder: Path) -> Drained:
    """``payloads`` (topic, bytes) wait in a broker for a sink that stores in ``folder``, which then starts. CPU time is of the
    sink's process, from when it is healthy to the last message that is stored."""
    with live.broker(folder) as broker:
        with _sink(folder, broker.port):
            pass  # the broker keeps a session for it from now on
        _publish(broker.port, payloads)
        with _sink(folder, broker.port) as sink:
            process, port = psutil.Process(sink.child.pid), sink.port
            began_s, began_cpu_s = time.monotonic(), _cpu_s(process)
            live.wait_for(
                lambda: _stored(port) >= len(payloads), "the last message", sink.child, timeout_s=300
            )
            wall_s, cpu_s = time.monotonic() - began_s, _cpu_s(process) - began_cpu_s
            return Drained(wall_s, cpu_s, process.memory_info().rss / 1e6)


class _Running:
    def __init__(self, child: Child, port: int) -> None:
        self.child, self.port = child, port

    def __enter__(self) -> _Running:
        live.wait_for(lambda: _healthy(self.port), "the sink", self.child)
        return self

    def __exit__(self, *_: object) -> None:
        self.child.stop()


def _sink(folder: Path, broker: int) -> _Running:
    port = free_port()
    config = folder / "sink.toml"
    config.write_text(
        f'[sink]\nname = "bench"\nmetrics_port = {port}\n[broker]\nhost = "{HOST}"\nport = {broker}\nmax_inflight = 4000\n'
    )
    child = Child(
        "the sink", [sys.executable, "-m", "cloud_sink", "run", "-c", str(config)], folder / "sink.log"
    )
    return _Running(child, port)


def _payloads(n: int) -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(7)
    begin_ns = time.time_ns() - 3600 * NS_PER_S
    names = tuple(f"feature_{i}" for i in range(N_FEATURES))
    upper = np.triu_indices(N_FEATURES)
    found = []
    for i in range(n):
        rows = rng.normal(size=(60, N_FEATURES))
        centred = rows - rows.mean(axis=0)
        start_ns = begin_ns + i // N_DEVICES * 10 * NS_PER_S
        gateway, device = f"g{i % 50}", f"d{i % N_DEVICES}"
        summary = Summary(
            message_id=f"{i:016x}",
            site="s",
            gateway=gateway,
            machine="press",
            class_="press",
            device=device,
            start_ns=start_ns,
            end_ns=start_ns + 10 * NS_PER_S,
            start_at=rfc3339(start_ns),
            end_at=rfc3339(start_ns + 10 * NS_PER_S),
            n=60,
            mean=rows.mean(axis=0).tolist(),
            comoment=(centred.T @ centred)[upper].tolist(),
            centre=[0.0] * N_FEATURES,
            minimum=rows.min(axis=0).tolist(),
            maximum=rows.max(axis=0).tolist(),
            excluded={},
            score_quantiles={"q0.5": 1.0, "q0.9": 1.5, "q0.99": 2.0, "q1": 2.5},
            reservoir=pack_floats(rows[:N_RESERVOIR]),
            feature_names=names,
            schema_id="bench",
            model_id="press",
            model_version=1,
        )
        found.append((f"linewatch/s/{gateway}/summary/{device}", encode(summary)))
    return found


def _publish(port: int, payloads: list[tuple[str, bytes]]) -> None:
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    client.max_inflight_messages_set(1000)
    client.connect(HOST, port)
    client.loop_start()
    for i in range(0, len(payloads), 2000):
        sent = [client.publish(topic, payload, qos=1) for topic, payload in payloads[i : i + 2000]]
        for one in sent:
            one.wait_for_publish(60)
    client.disconnect()
    client.loop_stop()


def _get(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def _healthy(port: int) -> bool:
    return _get(port, "/healthz") == "ok\n"


def _stored(port: int) -> float:
    lines = _get(port, "/metrics").splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("linewatch_sink_messages_stored_total{")
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class _Bare:
    def __init__(self, payloads: list[bytes]) -> None:
        self._payloads = payloads
        self._decoder = msgspec.json.Decoder(Summary)

    def __call__(self) -> float:
        decode = self._decoder.decode
        for payload in self._payloads:
            decode(payload)
        return len(self._payloads)


if __name__ == "__main__":
    print(json.dumps(measure(quick=bool(os.environ.get("QUICK"))), indent=2))
