"""The whole loop with real parts: three gateways, a broker, a sink; a model from their summaries, to a canary, then to all."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Subscriber, broker, free_port, retained, wait_for
from tests.cloud_sink.sinks import cloud_sink, fetched, metric
from tests.cloud_sink.sinks import config as sink_toml
from tests.cloud_sink.sinks import running as sink_running
from tests.edge_node.daemons import NS, config, connected
from tests.edge_node.daemons import running as gateway_running
from tests.edge_node.versions import good, written
from tests.fixtures.make_bundle import signal

GATEWAYS = ("g1", "g2", "g3")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(cloud_sink(*arguments), capture_output=True, text=True, timeout=100)


def done(*arguments: str | Path) -> str:
    found = run(*arguments)
    assert found.returncode == 0, found.stderr
    return found.stdout


class Machine:
    """A healthy machine's signal for one gateway: rows a second apart, in the past."""

    def __init__(self, to: Subscriber, gateway: str, seed: int) -> None:
        self._to, self._topic = to, f"plant/{gateway}/pump-1"
        self._signal = signal(40_000, seed=seed)
        self._at, self._t_ns = 0, (time.time_ns() // NS - 60_000) * NS

    def run(self, n: int) -> None:
        for _ in range(n // 50):
            part = self._signal[self._at : self._at + 50]
            times = [self._t_ns + k * NS for k in range(50)]
            self._at, self._t_ns = self._at + 50, self._t_ns + 50 * NS
            named = {"Temperature": part[:, 0].tolist(), "Pressure": part[:, 1].tolist()}
            self._to.publish(self._topic, json.dumps({"t": times, **named}))


def gateway_toml(folder: Path, name: str, port: int, http: int, bundle: Path, key: str) -> Path:
    folder.mkdir()
    path = config(
        folder,
        port,
        http,
        bundle=bundle,
        gateway=f'checkpoint_s = 1\n[models]\ntrusted_keys = ["{key}"]\nshadow_windows = 30',
        extra='class = "pump"\nsummary_s = 60',
    )
    path.write_text(
        path.read_text()
        .replace('name = "g1"', f'name = "{name}"')
        .replace("plant/{device}", f"plant/{name}/{{device}}")
    )
    return path


@pytest.mark.timeout(240)
def test_from_summaries_to_a_model_on_every_gateway(tmp_path: Path) -> None:
    done("keygen", tmp_path / "key")
    first = written(tmp_path / "first", good(1))
    done("sign", first, "--key", tmp_path / "key")
    public = (tmp_path / "key.pub").read_text().split()[-1]
    with ExitStack() as stack:
        mosquitto = stack.enter_context(broker(tmp_path, "max_inflight_messages 0"))
        seen = stack.enter_context(Subscriber(mosquitto.port, "linewatch/#"))
        sink_port = free_port()
        sink = sink_toml(tmp_path, mosquitto.port, metrics_port=sink_port)
        serving = stack.enter_context(ExitStack())
        process = serving.enter_context(sink_running(sink))
        machines = []
        for i, name in enumerate(GATEWAYS):
            http = free_port()
            path = gateway_toml(tmp_path / name, name, mosquitto.port, http, first, public)
            stack.enter_context(gateway_running(path))
            wait_for(lambda http=http: connected(http), f"{name}'s source")  # type: ignore[misc]
            machines.append(Machine(seen, name, seed=200 + i))
        wait_for(lambda: fetched(sink_port, "/healthz")[0] == 200, "the sink")

        def states(state: str, version: int) -> set[str]:
            found: list[dict[str, Any]] = []
            for gateway in GATEWAYS:
                found += [json.loads(p) for p in seen.on(f"linewatch/s1/{gateway}/model/fixture")]
            return {m["gateway"] for m in found if (m["state"], m["version"]) == (state, version)}

        def until(condition: Any, what: str) -> None:
            ends_s = time.monotonic() + 60
            while not condition():
                assert time.monotonic() < ends_s, f"{what} did not happen"
                for machine in machines:
                    machine.run(100)
                time.sleep(0.1)

        until(lambda: metric(sink_port, "sink_messages_stored_total") >= 45, "summaries")
        learned = tmp_path / "learned"
        refused = run("learn", "-c", sink, "--like", first, "-o", learned, "--class", "press")
        assert refused.returncode == 1
        assert "there are of 'pump'" in refused.stderr
        wait_for(lambda: _rows(sink) >= 64, "rows")
        said = done(
            "learn", "-c", sink, "--like", first, "-o", learned, "--class", "pump", "--key", tmp_path / "key"
        )
        assert "from summaries of 3 devices of 3 gateways" in said
        assert "version 2" in said

        said = done("publish", "-c", sink, learned, "--canary", "g2")
        assert "to s1/g2 as canaries" in said
        until(lambda: states("adopted", 2) == {"g2"}, "the canary")
        came = [m.topic for m in seen.messages if m.topic.startswith("linewatch/models/")]
        assert came[-1] == "linewatch/models/fixture/gateway/s1/g2"  # whoever hears of it finds its graphs
        assert all("/blob/" in topic for topic in came[:-1])
        assert len(came) > 1
        done("publish", "-c", sink, learned)
        until(lambda: states("adopted", 2) == set(GATEWAYS), "version 2 everywhere")
        done("withdraw", "-c", sink, "fixture", "--canary", "s1/g2")
        assert not states("refused", 2)
        assert not states("rolled_back", 2)
        until(lambda: done("models", "-c", sink).count("version 2 adopted") == 3, "the sink knows")
        gateways = done("gateways", "-c", sink)
        assert gateways.count("fixture v2") + gateways.count("fixture v1") == 3
        # By itself: a canary that shows enough is followed by all.
        third = tmp_path / "third"
        done(
            "learn", "-c", sink, "--like", learned, "-o", third, "--class", "pump", "--key", tmp_path / "key"
        )
        gate = ("--min-windows", "30", "--alerts-per-week", "1000", "--wait", "60")
        assert "fixture version 3 is accepted" in done("evaluate", "-c", sink, third, *gate)
        asked = ("--canary", "s1/g2", "--hours", "0.001", "--windows", "30", "--alerts-per-week", "1000")
        done("rollout", "-c", sink, third, *asked)
        until(lambda: states("adopted", 3) == set(GATEWAYS), "version 3 everywhere")
        wait_for(lambda: "promoted" in done("rollouts", "-c", sink), "the end of it")

        # A person decides while no sink runs; the next one that does carries it out.
        fourth = tmp_path / "fourth"
        done("learn", "-c", sink, "--like", third, "-o", fourth, "--class", "pump", "--key", tmp_path / "key")
        done("rollout", "-c", sink, fourth, "--canary", "g1", "--unjudged")
        until(lambda: states("adopted", 4) == {"g1"}, "version 4 on its canary")
        process.kill()
        refused = run("rollout", "-c", sink, fourth, "--canary", "g3", "--unjudged")
        assert (refused.returncode, "is being rolled out" in refused.stderr) == (1, True)
        done("rollback", "-c", sink, "fixture", "4")
        assert run("promote", "-c", sink, "fixture", "4").returncode == 1
        serving.enter_context(sink_running(sink))
        until(lambda: states("rolled_back", 4) == {"g1"}, "version 4 taken back")
        until(lambda: "rolled back" in done("rollouts", "-c", sink), "the end of it, too")
        kept = retained(mosquitto.port, "linewatch/models")
        assert "linewatch/models/fixture/stable" in kept
        assert "linewatch/models/fixture/gateway/s1/g2" not in kept


def _rows(sink: Path) -> int:
    from cloud_sink.config import load_config
    from cloud_sink.features_store import FeatureStore

    store = FeatureStore(load_config(sink).store.features, "test")
    return sum(len(t.reservoir) for p in store.partitions("pump") for t, _ in store.read_partition(p))


def test_what_is_not_signed_or_not_whole_is_not_published(tmp_path: Path) -> None:
    sink = sink_toml(tmp_path, free_port())
    bundle = written(tmp_path / "b", good(1))
    refused = run("publish", "-c", sink, bundle)
    assert (refused.returncode, "is not signed" in refused.stderr) == (1, True)
    graph = next(bundle.glob("*.tflite"))
    graph.write_bytes(graph.read_bytes()[:-1])
    refused = run("publish", "-c", sink, bundle)
    assert (refused.returncode, "copy the bundle again" in refused.stderr) == (1, True)
