"""The daemon and a real broker: a board's vibration is learned from, and then watched, with no model made elsewhere."""

from __future__ import annotations

import json
import signal as signals
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.cli import main
from edge_node.learned_shelf import FOLDER
from models import manifest as manifests
from models.manifest import ModelManifest
from models.topics import ModelTopics
from tests.brokers import Subscriber, broker, free_port, wait_for
from tests.edge_node.browsers import browser
from tests.edge_node.daemons import (
    alerts,
    connected,
    edge_node,
    metrics,
    of_the_signal,
    replayed,
    running,
    status,
)
from tests.edge_node.test_fleet_takeover import FLEET, VIBRATION, trained
from tests.edge_node.test_learning import DEVICE, HOP, N_LEARN, RATE, broken, vibration, written
from tests.edge_node.versions import PUBLIC, messages, signed

MODEL = "learned-press-4"
N_AT_ONCE = 500
NS = 1_000_000_000


class Board:
    """What the machine does, from the beginning of a run on, a few minutes ago; faster than it did."""

    def __init__(self, to: Subscriber) -> None:
        self._to = to
        self._t0_ns = (time.time_ns() // NS - 400) * NS
        self.n = 0

    def send(self, n: int, make: Callable[[int, int, int], NDArray[np.float32]] = vibration) -> None:
        for _ in range(0, n, N_AT_ONCE):
            part = make(N_AT_ONCE, self.n, self.n)
            times = [self._t0_ns + (self.n + i) * NS // RATE for i in range(len(part))]
            self.n += len(part)
            payload = {"t": times, "x": part[:, 0].tolist(), "y": part[:, 1].tolist()}
            self._to.publish("plant/press-4", json.dumps(payload))
            time.sleep(0.01)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen"
            self.send(N_AT_ONCE)


def gateway(folder: Path, broker_port: int, port: int, more: str = "", device: str = "") -> Path:
    before = f"""
metrics_port = {port}
checkpoint_s = 0.5
state_dir = "state"
{more}
[uplink]
host = "127.0.0.1"
port = {broker_port}
[[source]]
type = "mqtt"
host = "127.0.0.1"
port = {broker_port}
[[source.subscribe]]
topic = "plant/{{device}}"
time_key = "t"
qos = 1
"""
    return written(folder, f"{DEVICE}{device}alert = {{ cooldown_s = 0 }}\n", before, gateway="")


def states(seen: Subscriber) -> list[tuple[str, float | None]]:
    found = [json.loads(payload) for payload in seen.on("linewatch/s1/g1/device/press-4/state")]
    return [(state["state"], state.get("progress")) for state in found]


def serving(seen: Subscriber) -> list[tuple[str, int]]:
    found = seen.on("linewatch/s1/g1/status")
    return [(m["model_id"], m["version"]) for m in json.loads(found[-1])["models"]] if found else []


def shelved(folder: Path) -> tuple[ModelManifest, bytes]:
    """What was learned, from the shelf."""
    (place,) = (folder / "state" / FOLDER / "models" / MODEL).glob("v0-*")
    manifest = manifests.decode((place / "manifest.json").read_bytes())
    return manifest, (place / manifest.artifacts[0].file).read_bytes()


def test_it_learns_over_a_kill_raises_what_is_wrong_and_knows_its_model_after_a_restart(
    tmp_path: Path,
) -> None:
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path, board = gateway(tmp_path, mosquitto.port, port), Board(seen)
        learned = 'linewatch_device_learned_ratio{device="press-4"}'
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            board.send(N_LEARN // 2)
            wait_for(lambda: 0.4 < metrics(port).get(learned, 0.0) < 0.6, "half of what it takes")
            time.sleep(1.5)  # for a checkpoint
            daemon.kill()
            daemon.wait(10)
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            assert metrics(port)[learned] > 0.4
            board.send(N_LEARN // 2 + 20 * HOP)
            wait_for(lambda: serving(seen) == [(MODEL, 0)], "a model in service")
            board.until(lambda: states(seen)[-1] == ("normal", None), "a device that is normal")
            assert {state for state, _ in states(seen)} == {"learning", "normal"}
            assert learned not in metrics(port)
            assert alerts(seen) == []
            began = board.n
            board.send(10 * RATE, broken)
            wait_for(lambda: alerts(seen), "an alert")
            (first, *_) = alerts(seen)
            assert (first["kind"], first["state"], first["model_id"]) == ("machine", "raised", MODEL)
            assert first["end_ns"] - (board._t0_ns + began * NS // RATE) < 10 * NS
            daemon.kill()
            daemon.wait(10)
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            assert metrics(port)[f'linewatch_model_version{{model="{MODEL}"}}'] == 0
            assert learned not in metrics(port)
            n_said = len(alerts(seen))
            board.until(lambda: [a for a in alerts(seen)[n_said:] if a["state"] == "cleared"], "its end")
            n_said = len(alerts(seen))
            board.send(10 * RATE, broken)
            raised = wait_for(lambda: alerts(seen)[n_said:], "another alert")[0]
            # a part of the black box that begins after learning is judged by what was learned
            out, said = tmp_path / "part.parquet", tmp_path / "said.jsonl"
            export = edge_node("recordings", "export", "-c", path, "--alert", raised["alert_id"], "-o", out)
            wait_for(
                lambda: subprocess.run(export, capture_output=True, timeout=60).returncode == 0, "a part"
            )
            replay = edge_node("replay", out, "-c", path, "--output", said)
            done = subprocess.run(replay, capture_output=True, text=True, timeout=60)
            assert (done.returncode, "learns anew" in done.stderr) == (0, False), done.stderr
            told = [json.loads(line) for line in said.read_text().splitlines()]
            assert of_the_signal(raised) in [of_the_signal(alert) for alert in told]
            daemon.send_signal(signals.SIGTERM)
            assert daemon.wait(15) == 0


def test_a_published_model_takes_over_and_stays_over_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    keys = f'[models]\ntrusted_keys = ["{PUBLIC}"]\nshadow_windows = 30\n'
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path, board = gateway(tmp_path, mosquitto.port, port, keys), Board(seen)
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            board.send(N_LEARN)
            board.until(lambda: serving(seen) == [(MODEL, 0)], "a model in service")
            manifest, graph = shelved(tmp_path)
            assert manifest.signature is None
            version = signed((manifest, {"cpu-float32": graph}), version=1)
            for topic, payload in messages(version, topics=ModelTopics("linewatch", MODEL)):
                seen.publish(topic, payload, retain=True)
            board.until(lambda: serving(seen) == [(MODEL, 1)], "the published version in service")
            daemon.send_signal(signals.SIGTERM)
            assert daemon.wait(15) == 0
        with running(path):
            wait_for(lambda: connected(port), "the source's connection")
            assert metrics(port)[f'linewatch_model_version{{model="{MODEL}"}}'] == 1
        assert main(["check", "-c", str(path)]) == 0
        said = capsys.readouterr().out
        assert f"{MODEL} v1, adopted here" in said.split("serves in place of")[0].split(f"\n{MODEL} v1")[0], (
            said
        )
        assert "learned here (" not in said, said
        main(["doctor", "-c", str(path)])
        said = capsys.readouterr().out
        assert "v1, adopted here, serves" in said, said
        assert "whose model this gateway has" not in said, said


def test_a_fleets_model_that_is_there_takes_over_while_a_device_learns_and_stays(tmp_path: Path) -> None:
    port = free_port()
    keys = f'[models]\ntrusted_keys = ["{PUBLIC}"]\nshadow_windows = 30\n'
    fleet = trained(tmp_path / "sink", vibration(60 * RATE, seed=9), *VIBRATION)
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        for topic, payload in messages(fleet, topics=ModelTopics("linewatch", FLEET)):
            seen.publish(topic, payload, retain=True)
        path, board = gateway(tmp_path, mosquitto.port, port, keys, f'fleet_model = "{FLEET}"\n'), Board(seen)
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            board.until(lambda: serving(seen) == [(FLEET, 1)], "the fleet's model in service")
            board.until(lambda: states(seen)[-1] == ("normal", None), "a device that is normal")
            assert {state for state, _ in states(seen)} == {"learning", "normal"}
            assert metrics(port)[f'linewatch_model_version{{model="{FLEET}"}}'] == 1
            daemon.kill()
            daemon.wait(10)
        with running(path):
            wait_for(lambda: connected(port), "the source's connection")
            assert metrics(port)[f'linewatch_model_version{{model="{FLEET}"}}'] == 1
            board.send(10 * RATE, broken)
            raised = wait_for(lambda: [a for a in alerts(seen) if a["kind"] == "machine"], "an alert")[0]
            assert (raised["model_id"], raised["model_version"]) == (FLEET, 1)


def test_a_recording_of_a_run_that_learned_replays_to_its_alerts(tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path, board = gateway(tmp_path, mosquitto.port, port), Board(seen)
        log = tmp_path / "run.jsonl"
        with running(path, "--record", str(log)) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            board.send(N_LEARN + 10 * HOP)
            board.send(10 * RATE, broken)  # whether or not the model serves by then
            wait_for(lambda: [a for a in alerts(seen) if a["kind"] == "machine"], "a machine alert")
            time.sleep(1.0)
            daemon.send_signal(signals.SIGTERM)
            assert daemon.wait(15) == 0
        wait_for(lambda: status(seen) == "stopped", "status stopped")
        live = [of_the_signal(a) for a in alerts(seen)]
    assert replayed(log, path, tmp_path / "alerts.jsonl") == live


def test_the_page_says_how_far_it_is(tmp_path: Path) -> None:
    port, device = free_port(), '[data-device="press-4"]'
    with (
        broker(tmp_path) as mosquitto,
        Subscriber(mosquitto.port, "linewatch/#") as seen,
        browser() as page,
    ):
        path, board = gateway(tmp_path, mosquitto.port, port), Board(seen)
        with running(path):
            wait_for(lambda: connected(port), "the source's connection")
            page.open(f"http://127.0.0.1:{port}/")
            board.send(N_LEARN // 2)
            page.find(f"{device} .state", "Learning")
            page.find(device, "It learns what is normal from its own windows:")
            page.find(f"{device} progress")
            page.find(device, "of running are wanted yet")
            board.send(N_LEARN // 2)
            board.until(lambda: states(seen)[-1] == ("normal", None), "a device that is normal")
            page.find(f"{device} .state", "Normal")
            page.find(f"{device} .score", "alert level")
            assert page.complaints() == []
