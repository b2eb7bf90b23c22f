"""The real sink trains by itself: once a reason, whoever dies on the way; and says what came of it."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from cloud_sink import retraining_store
from cloud_sink.config import load_config
from cloud_sink.events import EventStore
from cloud_sink.retraining_runs import Retrainer
from models import manifest as manifests
from models.keys import read_private_key
from models.manifest import ModelManifest
from models.messages import Summary
from tests.brokers import Broker, Subscriber, broker, free_port, retained, wait_for
from tests.cloud_sink.sinks import config, fetched, metric, running
from tests.cloud_sink.test_fleet_fit import summaries
from tests.cloud_sink.test_loop import Machine, done, gateway_toml, run
from tests.cloud_sink.test_sink_live import publish, queried, ready
from tests.edge_node.daemons import connected
from tests.edge_node.daemons import running as gateway_running
from tests.edge_node.versions import good, signed, written

MODEL = "fixture"


def asked(folder: Path, **more: Any) -> str:
    """The tables of sink.toml: a look twice a second."""
    options = {
        "like": folder / "first",
        "key_file": folder / "key",
        "canaries": ["s1/g0"],
        "new_windows": 1000,
        "wait_s": 1,
        **more,
    }
    lines = [f"{name} = {json.dumps(value, default=str)}" for name, value in options.items()]
    return "\n[retrain]\nlook_s = 0.5\n[[retrain.model]]\n" + "\n".join(lines) + "\n"


class Site:
    """A broker, a folder with a key and a signed bundle, and what summaries of its model are."""

    def __init__(self, folder: Path, mosquitto: Broker) -> None:
        self.folder, self.mosquitto, self.port = folder, mosquitto, free_port()
        done("keygen", folder / "key")
        key = read_private_key(folder / "key")
        version = signed(good(1), key)
        self.manifest: ModelManifest = version[0]
        written(folder / "first", version)
        self.public = (folder / "key.pub").read_text().split()[-1]

    def sink(self, name: str = "sink-1", port: int | None = None, **more: Any) -> Path:
        path = config(
            self.folder, self.mosquitto.port, name, metrics_port=self.port if port is None else port
        )
        path.write_text(path.read_text() + asked(self.folder, **more))
        return path

    def summaries(self, n_devices: int = 6, n_spans: int = 6) -> list[Summary]:
        """Of each device one after the other."""
        found = summaries(self.manifest, n_devices, n_spans)
        return [msgspec.structs.replace(s, class_="pump", model_id=MODEL, model_version=1) for s in found]

    def attempts(self) -> list[tuple[str, str, int, str]]:
        """(state, cause, starts, text) of each, the first one first."""
        try:
            with sqlite3.connect(
                f"file:{self.folder / 'events.sqlite'}?mode=ro", uri=True, timeout=10
            ) as database:
                wanted = "SELECT state, cause, starts, text FROM retrainings ORDER BY number"
                return database.execute(wanted).fetchall()
        except sqlite3.OperationalError:
            return []

    def fed(self, n_devices: int = 6) -> None:
        """Summaries are stored."""
        ready(self.port)
        publish(self.mosquitto.port, self.summaries(n_devices))
        n = 6 * n_devices
        wait_for(lambda: metric(self.port, "sink_messages_stored_total") >= n, "the summaries")


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    with broker(folder, "max_inflight_messages 0") as mosquitto:
        yield Site(folder, mosquitto)


def workers(sink: int) -> list[psutil.Process]:
    """Processes that the sink has begun."""
    return [p for p in psutil.Process(sink).children() if "cloud_sink.bounded" in p.cmdline()]


@pytest.mark.timeout(120)
def test_what_the_gate_refuses_is_not_offered_and_it_rests(tmp_path: Path) -> None:
    """No gateway is there to answer."""
    with site(tmp_path) as there:
        path = there.sink()
        with running(path) as sink:
            there.fed()
            wait_for(lambda: [a[0] for a in there.attempts()] == ["failed"], "the end of it", 60)
            (attempt,) = there.attempts()
            assert attempt[1:3] == ("windows", 1)
            assert "the gate refuses version 2: 0 of 3 answers" in attempt[3]
            assert metric(there.port, "sink_retrainings_total") == 1
            time.sleep(2.0)  # four looks
            assert len(there.attempts()) == 1
            assert retained(there.mosquitto.port, f"linewatch/models/{MODEL}/gateway") == {}
            told = done("retrainings", "-c", path)
            assert "windows: 2160 new windows" in told
            assert "failed" in told
            assert "0 of 3 answers" in done("evaluate", "-c", path, "--show", MODEL)
            drift = done("drift", "-c", path)
            assert f"{MODEL} version 1: 6 devices, 0 known for long enough; 0 new windows" in drift
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0
            assert sink.stderr is not None
            assert f"{MODEL} is trained again: 2160 new windows" in sink.stderr.read()


@pytest.mark.timeout(120)
def test_too_small_a_fleet_says_so(tmp_path: Path) -> None:
    with site(tmp_path) as there, running(there.sink(new_windows=10)):
        ready(there.port)
        publish(there.mosquitto.port, there.summaries(1)[:1])
        wait_for(lambda: [a[0] for a in there.attempts()] == ["failed"], "the end of it", 60)
        assert "a fleet has two devices or more" in there.attempts()[0][3]


@pytest.mark.timeout(120)
def test_a_key_that_is_gone_is_named_and_the_sink_goes_on(tmp_path: Path) -> None:
    with site(tmp_path) as there, running(there.sink()):
        ready(there.port)
        (tmp_path / "key").unlink()
        there.fed()
        wait_for(lambda: [a[0] for a in there.attempts()] == ["failed"], "the end of it", 60)
        assert str(tmp_path / "key") in there.attempts()[0][3]
        publish(there.mosquitto.port, there.summaries(7)[-6:])
        wait_for(lambda: metric(there.port, "sink_messages_stored_total") >= 42, "what comes later")
        assert fetched(there.port, "/healthz")[0] == 200


@pytest.mark.timeout(150)
def test_a_sink_that_is_killed_as_it_trains_leaves_nobody_and_is_followed(tmp_path: Path) -> None:
    with site(tmp_path) as there:
        path = there.sink(wait_s=60)
        publish_to = there.mosquitto.port
        with running(path) as sink:
            ready(there.port)
            publish(publish_to, there.summaries())
            wait_for(lambda: [a[0] for a in there.attempts()] == ["training"], "an attempt", 60)
            wait_for(lambda: workers(sink.pid), "its process")
            (worker,) = workers(sink.pid)
            os.kill(sink.pid, signal.SIGKILL)
            sink.wait(10)
            wait_for(lambda: not psutil.pid_exists(worker.pid), "the end of its process")
        assert [a[0] for a in there.attempts()] == ["training"]
        with running(path) as sink:
            wait_for(lambda: [a[0] for a in there.attempts()] == ["trained"], "its candidate", 60)
            assert there.attempts()[0][2] == 2
            candidate = tmp_path / "retraining" / "candidates" / MODEL / "manifest.json"
            assert manifests.decode(candidate.read_bytes()).version == 2
            wait_for(lambda: workers(sink.pid), "the gate")
            (worker,) = workers(sink.pid)
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0
            assert not psutil.pid_exists(worker.pid)


@pytest.mark.timeout(120)
def test_drift_is_an_event_and_a_reason(tmp_path: Path) -> None:
    """Scores of all devices rise by a half, half way through."""
    with site(tmp_path) as there:
        path = there.sink(new_windows=10**9)
        path.write_text(path.read_text().replace("look_s = 0.5", "look_s = 0.5\nsummaries_per_point = 1"))
        risen = [
            msgspec.structs.replace(
                s,
                score_quantiles={
                    q: v * (1.5 if i % 60 >= 40 else 1.0) * (1 + 0.02 * math.sin(i * 1.7))
                    for q, v in s.score_quantiles.items()
                },
            )
            for i, s in enumerate(there.summaries(4, 60))
        ]
        with running(path) as sink:
            ready(there.port)
            publish(there.mosquitto.port, risen)
            wait_for(lambda: [a[0] for a in there.attempts()] == ["failed"], "the end of it", 60)
            assert there.attempts()[0][1] == "drift"
            wait_for(lambda: metric(there.port, "sink_drift_events_total") == 5, "all that has drifted")
            kinds = queried(tmp_path, "SELECT kind, device, state FROM alerts ORDER BY device")
            assert kinds == [("drift", d, "raised") for d in ("_fleet", "d0", "d1", "d2", "d3")]
            told = done("drift", "-c", path)
            assert told.count("its median score went from 1 to 1.5") == 4, told
            assert "the fleet: 4 of 4 devices have drifted (4 in their scores)" in told
            assert "drift: 4 of 4 devices have drifted" in done("retrainings", "-c", path)
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0
            assert sink.stderr is not None
            assert sink.stderr.read().count("has drifted since version 1 was taken on") == 4


@pytest.mark.timeout(120)
def test_of_two_sinks_one_trains_on_a_schedule(tmp_path: Path) -> None:
    with site(tmp_path) as there:
        other = free_port()
        often = {"every_days": 1e-6, "new_windows": 10**9}
        paths = [there.sink(**often), there.sink("sink-2", other, **often)]
        with running(paths[0]), running(paths[1]):
            ready(other)
            there.fed()
            wait_for(lambda: [a[0] for a in there.attempts()] == ["failed"], "the end of it", 60)
            time.sleep(1.5)
            assert [a[1] for a in there.attempts()] == ["schedule"]  # and then it rests
            assert sum(metric(port, "sink_retrainings_total") for port in (there.port, other)) == 1


def test_what_is_asked_for_wrongly_is_named(tmp_path: Path) -> None:
    with site(tmp_path) as there:
        for more, text in (
            ({"key_file": tmp_path / "no"}, "model[0].key_file"),
            ({"like": tmp_path / "no"}, "model[0].like"),
            ({"canaries": []}, "name a gateway or more"),
            ({"canaries": ["s1/hall/g0"]}, "the name of a site 's1/hall' cannot be"),
            ({"canaries": ["s1/"]}, "the name of a gateway '' cannot be"),
            ({"new_window": 5}, "new_windows"),
            ({"every_days": -1}, "every_days"),
        ):
            refused = run("run", "-c", there.sink(**more))
            assert refused.returncode == 1, more
            assert text in refused.stderr, (more, refused.stderr)
            assert "Traceback" not in refused.stderr
        path = there.sink()
        path.write_text(path.read_text() + asked(tmp_path).partition("look_s = 0.5")[2])
        refused = run("run", "-c", path)
        assert (refused.returncode, "fixture has a [[retrain.model]] already" in refused.stderr) == (1, True)


def test_who_leads_again_takes_over_what_another_one_has_gone_on_with(tmp_path: Path) -> None:
    with site(tmp_path) as there:
        loaded = load_config(there.sink(), runs=True)
        events = EventStore(loaded.store.events)
        events.create()
        assert (
            retraining_store.begin(events, MODEL, "windows", "enough", "sink-0", time.time_ns()) is not None
        )
        retrainer = Retrainer(loaded, events, None)
        try:
            retrainer.turn()
            (mine,) = retraining_store.retrainings(events)
            assert (mine.holder, mine.starts) == ("sink-1", 2)
            retrainer.stop()  # it does not lead any more, and another one does for a while
            assert (
                retraining_store.change(events, mine, time.time_ns(), holder="sink-2", starts=3) is not None
            )
            retrainer.turn()
            (found,) = retraining_store.retrainings(events)
            assert (found.state, found.text) == (
                "failed",
                "it was begun 3 times, and its sink was gone each time",
            )
        finally:
            retrainer.stop()
            events.close()


@pytest.mark.timeout(360)
def test_from_new_windows_to_every_gateway_without_anybody(tmp_path: Path) -> None:
    """Real gateways with black boxes: what they summed up becomes a model, which they judge, try and adopt."""
    names = ("g1", "g2")
    with ExitStack() as stack:
        there = stack.enter_context(site(tmp_path))
        seen = stack.enter_context(Subscriber(there.mosquitto.port, "linewatch/#"))
        path = there.sink(
            canaries=["s1/g1"],
            min_gateways=2,
            min_windows=30,
            alerts_per_week=1000,
            wait_s=200,  # backtests run when nothing else wants the CPU
            hours=0.001,
            windows=30,
        )
        stack.enter_context(running(path))
        ready(there.port)
        machines = []
        for i, name in enumerate(names):
            http = free_port()
            toml = gateway_toml(
                tmp_path / name, name, there.mosquitto.port, http, tmp_path / "first", there.public
            )
            toml.write_text(toml.read_text() + "\n[black_box]\nflush_s = 0.1\nmin_free_bytes = 0\n")
            stack.enter_context(gateway_running(toml))
            wait_for(lambda http=http: connected(http), f"{name}'s source")  # type: ignore[misc]
            machines.append(Machine(seen, name, seed=200 + i))
        ends_s = time.monotonic() + 280

        def everywhere() -> bool:
            topics = [f"linewatch/s1/{name}/model/{MODEL}" for name in names]
            newest = [json.loads(said[-1]) for topic in topics if (said := seen.on(topic))]
            return [(m["state"], m["running"]) for m in newest] == [("adopted", 2)] * 2

        while not everywhere():
            assert time.monotonic() < ends_s, there.attempts()
            state = (there.attempts() or [("none",)])[0][0]
            for machine in machines:  # their signal has an end, and the gate does not need it
                machine.run({"none": 200, "offered": 50}.get(state, 0))
            time.sleep(0.2)
        assert there.attempts()[0][:2] == ("offered", "windows")
        assert "promoted" in done("retrainings", "-c", path)
        assert "accept" in done("models", "-c", path)
