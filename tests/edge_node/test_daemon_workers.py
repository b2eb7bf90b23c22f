"""The daemon and its workers, all of them real processes: what is lost on the way, what is said of it, what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.brokers import Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import alerts, config, connected, feed, metrics, rows, running, summed
from tests.edge_node.working import Stick, gone

pytestmark = pytest.mark.tflite_runtime


@pytest.fixture
def stick(fake_edgetpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stick:
    monkeypatch.setenv("FAKE_EDGETPU", str(tmp_path / "stick"))
    return Stick(fake_edgetpu, tmp_path / "stick")


def workers(daemon: subprocess.Popen[str]) -> dict[str, int]:
    """Process ids of its workers, by whether they have a delegate."""
    found = {}
    for child in psutil.Process(daemon.pid).children():
        try:
            words = child.cmdline()
        except psutil.Error:  # it has ended
            continue
        if "edge_node.worker" in words:
            found["cpu" if len(words) - words.index("edge_node.worker") == 4 else "edgetpu"] = child.pid
    return found


def system(subscriber: Subscriber, text: str, state: str) -> list[dict[str, Any]]:
    found = [a for a in alerts(subscriber) if a["kind"] == "system" and a["state"] == state]
    return [a for a in found if text in a["message"]]


def backend(subscriber: Subscriber) -> str:
    said = [m for m in subscriber.messages if m.topic.endswith("/status")]
    return json.loads(said[-1].payload)["models"][0]["backend"] if said else ""


@pytest.fixture
def plant(tmp_path: Path, stick: Stick) -> Iterator[tuple[Path, int, Subscriber]]:
    """A configuration with an Edge TPU that may be lost, its metrics' port, and who hears what the gateway says."""
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        gateway = f'edgetpu_library = "{stick.library}"'
        yield (
            config(tmp_path, mosquitto.port, port, gateway=gateway, extra='backend = "auto"'),
            port,
            seen,
        )


@pytest.mark.parametrize("how", ["hang", "killed"])
def test_a_stick_that_is_lost_costs_no_window_and_is_said_until_it_is_back(
    plant: tuple[Path, int, Subscriber], stick: Stick, how: str
) -> None:
    path, port, seen = plant
    messages = rows()
    with running(path) as daemon:
        wait_for(lambda: connected(port), "the source")
        wait_for(lambda: backend(seen).startswith("edgetpu-int8"), "the Edge TPU in the status")
        feed(seen, messages[:400])
        wait_for(lambda: summed(metrics(port), "windows_scored_total") > 30, "windows")
        pids = workers(daemon)
        assert set(pids) == {"cpu", "edgetpu"}
        stick.now("hang")
        if how == "killed":
            os.kill(pids["edgetpu"], signal.SIGKILL)
        feed(seen, messages[400:800])
        raised = wait_for(lambda: system(seen, "Edge TPU", "raised"), "the alert")[0]
        assert ("no answer within" if how == "hang" else "SIGKILL") in raised["message"]
        assert "Scoring on cpu-float32" in raised["message"]
        wait_for(lambda: backend(seen).startswith("cpu-float32"), "the CPU in the status")
        wait_for(lambda: summed(metrics(port), "samples_in_total") == 2 * 800, "all rows")
        values = metrics(port)
        reason = "hung" if how == "hang" else "crashed"
        assert values[f'linewatch_worker_restarts_total{{reason="{reason}",worker="edgetpu"}}'] >= 1
        assert values['linewatch_worker_up{worker="cpu"}'] == 1
        assert values['linewatch_worker_up{worker="edgetpu"}'] == 0
        assert values["linewatch_backend_fallbacks_total"] == 1
        for target in ("cpu-float32", "edgetpu-int8"):
            assert values[f'linewatch_inference_seconds_count{{target="{target}"}}'] > 0
            assert values[f'linewatch_inference_seconds_sum{{target="{target}"}}'] > 0
        searches = wait_for(lambda: workers(daemon).get("edgetpu"), "a search")
        stick.now("works")
        os.kill(searches, signal.SIGKILL)  # it hangs, and would be given up in a while
        over = wait_for(lambda: system(seen, "Edge TPU", "cleared"), "the end of the alert")[0]
        assert over["alert_id"] == raised["alert_id"]
        wait_for(lambda: backend(seen).startswith("edgetpu-int8"), "the Edge TPU in the status again")
        last = set(workers(daemon).values())
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0
    assert gone({*pids.values(), *last})
    final = [json.loads(m.payload) for m in seen.messages if m.topic.endswith("/status")][-1]["counters"]
    assert final["windows_scored"] == final["windows_closed"] > 70
    assert not [name for name in final if name.startswith(("windows_dropped", "inference_failures"))]


@pytest.mark.parametrize("hangs", [False, True])
def test_a_daemon_that_is_killed_leaves_no_process_behind(
    plant: tuple[Path, int, Subscriber], stick: Stick, hangs: bool
) -> None:
    path, port, seen = plant
    with running(path) as daemon:
        wait_for(lambda: connected(port), "the source")
        pids = workers(daemon)
        assert set(pids) == {"cpu", "edgetpu"}
        if hangs:  # in the middle of its start, where nothing is read
            stick.now("hang")
            os.kill(pids["edgetpu"], signal.SIGKILL)
            wait_for(lambda: workers(daemon).get("edgetpu", pids["edgetpu"]) != pids["edgetpu"], "a search")
            pids = workers(daemon)
            os.kill(pids["cpu"], signal.SIGSTOP)
        daemon.kill()
        daemon.wait(10)
        assert gone(pids.values())
    assert not [m for m in seen.messages if m.topic.endswith("/alert/pump-1")]


def test_a_new_configuration_keeps_the_workers_that_it_needs(
    plant: tuple[Path, int, Subscriber], stick: Stick
) -> None:
    path, port, seen = plant
    text = path.read_text()
    with running(path) as daemon:
        wait_for(lambda: connected(port), "the source")
        first = workers(daemon)

        def take_up(new: str, expected: set[str]) -> dict[str, int]:
            path.write_text(new)
            daemon.send_signal(signal.SIGHUP)
            wait_for(lambda: set(workers(daemon)) == expected, f"the workers {expected}")
            return workers(daemon)

        on_cpu = take_up(text.replace('backend = "auto"', ""), {"cpu"})
        assert on_cpu["cpu"] == first["cpu"]
        assert gone([first["edgetpu"]])
        take_up(text.replace("[gateway]", '[gateway]\ninference = "in_process"'), set())
        wait_for(lambda: backend(seen).startswith("edgetpu-int8"), "the Edge TPU, in the daemon")
        take_up(text, {"cpu", "edgetpu"})
        feed(seen, rows()[:400])
        wait_for(lambda: summed(metrics(port), "samples_in_total") == 800, "all rows")
        values = metrics(port)
        assert summed(values, "windows_scored_total") == summed(values, "windows_closed_total") > 30
        assert summed(values, "worker_restarts_total") == 0
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0


def test_a_worker_that_is_killed_is_an_alert_and_costs_no_window(
    plant: tuple[Path, int, Subscriber],
) -> None:
    path, port, seen = plant
    path.write_text(path.read_text().replace('backend = "auto"', ""))
    messages = rows()
    with running(path) as daemon:
        wait_for(lambda: connected(port), "the source")
        for i in range(4):
            feed(seen, messages[i * 100 : i * 100 + 100])
            os.kill(workers(daemon)["cpu"], signal.SIGKILL)
            wait_for(lambda: summed(metrics(port), "worker_restarts_total") == i + 1, "the restart")  # noqa: B023
            wait_for(lambda: "cpu" in workers(daemon), "another")
        wait_for(lambda: summed(metrics(port), "samples_in_total") == 800, "all rows")
        (raised,) = wait_for(lambda: system(seen, "was started again", "raised"), "the alert")
        assert "killed by SIGKILL" in raised["message"]
        wait_for(lambda: summed(metrics(port), "windows_pending") == 0, "what waits")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0
    final = [json.loads(m.payload) for m in seen.messages if m.topic.endswith("/status")][-1]["counters"]
    assert final["windows_scored"] == final["windows_closed"] > 30
    assert final["worker_restarts.cpu.crashed"] == 4
