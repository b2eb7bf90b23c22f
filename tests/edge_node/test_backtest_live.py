"""Backtests by the real daemon, over a real broker: what they answer, what is refused, and what they leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_node.backtest_process import GIVEN_UP, Task, packed
from models import manifest as manifests
from models.backtest import Backtest, flaw
from models.publication import candidacy
from tests.brokers import Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import config, connected, metrics, running
from tests.edge_node.test_daemon_models import Feed, flapping, healthy
from tests.edge_node.versions import PUBLIC, STRANGER, TOPICS, Version, blind, good, narrow, signed, written

ROOT = "linewatch/s1/g1"
BLACK_BOX = """
[black_box]
flush_s = 0.1
min_free_bytes = 0
"""


class Asker:
    """Publishes candidates, and asks for backtests."""

    def __init__(self, seen: Subscriber) -> None:
        self._seen = seen
        self._n = 0

    def publish(self, version: Version) -> dict[str, Any]:
        """What a request says of it."""
        manifest, files = version
        for topic, payload in candidacy(
            manifest, {a.target: files[a.target] for a in manifest.artifacts}, TOPICS
        ):
            self._seen.publish(topic, payload, retain=True)
        payload = manifests.encode(manifest)
        return {"model_id": "fixture", "sha256": hashlib.sha256(payload).hexdigest(), "n_bytes": len(payload)}

    def send(self, body: dict[str, Any]) -> str:
        self._n += 1
        transaction = f"b-{self._n}"
        self._seen.publish(f"{ROOT}/request/backtest", json.dumps({"transaction": transaction, **body}))
        return transaction

    def answer(self, transaction: str) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            said = [json.loads(p) for p in self._seen.on(f"{ROOT}/response/backtest")]
            return [m for m in said if m["transaction"] == transaction]

        return wait_for(found, f"the answer to {transaction}", 60)[-1]

    def ask(self, version: Version, **more: Any) -> dict[str, Any]:
        return self.answer(self.send(self.publish(version) | more))


FEATURES_ALONE = """
[black_box]
enabled = false
min_free_bytes = 0
[feature_log]
flush_s = 0.2
"""


def configured(folder: Path, port: int, http: int, models: str = "", boxes: str = BLACK_BOX) -> Path:
    path = config(
        folder,
        port,
        http,
        bundle=written(folder / "bundle", signed(good(1))),
        gateway=f'[models]\ntrusted_keys = ["{PUBLIC}"]\n{models}',
    )
    path.write_text(path.read_text() + boxes)
    return path


def recorded(http: int, n: int) -> bool:
    return metrics(http).get("linewatch_black_box_samples_recorded_total", 0) >= n


@pytest.mark.timeout(200)
def test_a_candidate_is_judged_where_the_signal_is(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        http = free_port()
        with running(configured(tmp_path, mosquitto.port, http)) as daemon:
            wait_for(lambda: connected(http), "the source")
            asker, feed = Asker(seen), Feed(seen)
            early = asker.ask(signed(good(2)))
            assert (early["ok"], early["reason"]) == (False, "nothing_recorded"), early["text"]
            for n in range(10):
                feed.send(healthy(n))
            for n in range(12):
                feed.send(flapping(n))
            wait_for(lambda: recorded(http, 3000), "the signal on disk")

            same = asker.ask(signed(good(2)))
            assert same["ok"], same["text"]
            found = Backtest(**{**same["backtest"], "served": 0, "candidate": 0})
            assert (found.version, found.against, found.n_gained, found.n_lost) == (2, 1, 0, 0)
            sides = same["backtest"]["served"], same["backtest"]["candidate"]
            assert sides[0]["n_windows"] == sides[1]["n_windows"] > 50
            assert sides[0]["p_quantiles"] == sides[1]["p_quantiles"]
            assert sides[1]["invoke_us"] > 0
            windows = metrics(http)["linewatch_backtest_windows_total"]
            assert windows == sides[1]["n_windows"]

            floods = asker.ask(signed(narrow(3)))["backtest"]
            assert floods["n_gained"] > 0
            assert len(floods["gained"]) == min(32, floods["n_gained"])
            assert floods["candidate"]["p_quantiles"]["q0.1"] < sides[0]["p_quantiles"]["q0.1"]

            stranger = asker.ask(signed(good(4), STRANGER))
            assert (stranger["ok"], stranger["reason"]) == (False, "candidate_refused")
            assert stranger["text"].startswith("not_trusted: ")
            assert stranger["backtest"] is None
            missing = asker.publish(signed(good(5)))
            other = hashlib.sha256(b"other").hexdigest()
            seen.publish(TOPICS.blob(other), b"x" * missing["n_bytes"], retain=True)
            lie = asker.answer(asker.send({**missing, "sha256": other}))
            assert lie["text"].startswith("corrupt: ")
            nobody = asker.answer(asker.send({**missing, "model_id": "another"}))
            assert nobody["reason"] == "no_model"

            states = [json.loads(p) for p in seen.on(f"{ROOT}/model/fixture")]
            assert not states  # no candidate was offered, tried out or adopted
            assert metrics(http)['linewatch_model_version{model="fixture"}'] == 1
            assert not backtesting(daemon.pid)
    sent = [m for m in seen.messages if m.topic == f"{ROOT}/response/backtest"]
    assert max(len(m.payload) for m in sent) < 16_000


def test_an_answer_that_is_whole_has_no_flaw() -> None:
    import msgspec

    side = {"n_windows": 100, "n_alerts": 2, "p_quantiles": {"q0.5": 0.5}}
    whole = {
        "model_id": "m", "version": 2, "against": 1, "sha256": "0" * 64, "start_ns": 0, "end_ns": 10**13,
        "n_devices": 1, "device_hours": 2.0, "served": side, "candidate": side, "n_kept": 2, "n_gained": 0, "n_lost": 0,
    }  # fmt: skip
    assert flaw(msgspec.convert(whole, Backtest)) is None
    wrong: list[dict[str, Any]] = [
        {"served": {**side, "p_quantiles": {"q0.5": float("nan")}}},
        {"candidate": {**side, "n_alerts": 101}},
        {"candidate": {**side, "invoke_us": float("inf")}},
        {"device_hours": float("nan")},
        {"end_ns": -1},
        {"n_gained": 3},
        {"n_from_features": 101},
        {"n_from_features": -1},
        {"n_kept": 1},
        {"gained": ["0" * 16] * 33},
        {"notes": ["x" * 301]},
    ]
    for change in wrong:
        assert flaw(msgspec.convert({**whole, **change}, Backtest)) is not None, change


def is_backtest(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "edge_node.backtest_process" in process.cmdline()
    except psutil.Error:  # it has just ended
        return False


def backtesting(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children(recursive=True) if is_backtest(p)]


@pytest.mark.timeout(200)
def test_a_gateway_that_is_killed_leaves_no_backtest(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        http = free_port()
        path = configured(tmp_path, mosquitto.port, http)
        asker, feed = Asker(seen), Feed(seen)
        with running(path) as daemon:
            wait_for(lambda: connected(http), "the source")
            for n in range(60):
                feed.send(healthy(n))
            wait_for(lambda: recorded(http, 12_000), "the signal on disk")
            transaction = asker.send(asker.publish(signed(blind(2))))
            child = wait_for(lambda: backtesting(daemon.pid), "the backtest")[0]
            os.kill(child.pid, 19)  # it stops in the midst of it
            busy = asker.answer(asker.send(asker.publish(signed(good(3)))))
            assert busy["reason"] == "busy"
            daemon.kill()
            daemon.wait()
            os.kill(child.pid, 18)
            wait_for(lambda: not is_backtest(child), "its end")
        with running(path):
            wait_for(lambda: connected(http), "the source")
            again = {**asker.publish(signed(blind(2))), "transaction": transaction}
            seen.publish(f"{ROOT}/request/backtest", json.dumps(again))
            assert asker.answer(transaction)["ok"]


@pytest.mark.timeout(200)
def test_features_are_enough_and_outlive_a_kill(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        http = free_port()
        path = configured(tmp_path, mosquitto.port, http, boxes=FEATURES_ALONE)
        asker, feed = Asker(seen), Feed(seen)

        def kept() -> float:
            return metrics(http).get("linewatch_feature_log_values_recorded_total", 0)

        with running(path) as daemon:
            wait_for(lambda: connected(http), "the source")
            early = asker.ask(signed(good(2)))
            assert (early["ok"], early["reason"]) == (False, "nothing_recorded"), early["text"]
            for n in range(10):
                feed.send(healthy(n))
            n_values = wait_for(lambda: kept() > 1000 and kept(), "features on disk")
            daemon.kill()
            daemon.wait()
        with running(path):
            wait_for(lambda: connected(http), "the source")
            for n in range(12):
                feed.send(flapping(n))
            wait_for(lambda: kept() > 1000, "features on disk")
            same = asker.ask(signed(good(2)))
            assert same["ok"], same["text"]
            found = same["backtest"]
            assert found["n_from_features"] == found["served"]["n_windows"]
            width = 13  # three words of bits and ten features
            assert found["served"]["n_windows"] >= (n_values + 1000) / width
            assert (found["n_gained"], found["n_lost"]) == (0, 0)
            assert found["served"]["p_quantiles"] == found["candidate"]["p_quantiles"]
            assert "of them from features" in same["text"]
            floods = asker.ask(signed(narrow(3)))["backtest"]
            assert floods["n_gained"] > 0
    assert not list((tmp_path).rglob("blackbox/*.blocks"))


@pytest.mark.timeout(200)
def test_a_gateway_that_stops_says_so(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        http = free_port()
        asker, feed = Asker(seen), Feed(seen)
        with running(configured(tmp_path, mosquitto.port, http)) as daemon:
            wait_for(lambda: connected(http), "the source")
            feed.send(healthy(0))
            wait_for(lambda: recorded(http, 100), "the signal on disk")
            transaction = asker.send(asker.publish(signed(good(2))))
            child = wait_for(lambda: backtesting(daemon.pid), "the backtest")[0]
            os.kill(child.pid, 19)
            daemon.terminate()
            assert asker.answer(transaction)["reason"] == "stopping"
            assert daemon.wait(20) == 0
            assert not is_backtest(child)


def test_the_process_ends_as_soon_as_nobody_holds_its_input(tmp_path: Path) -> None:
    """However long its replay would take: here one that never ends."""
    program = (
        "import sys, time\n"
        "from edge_node import backtest_process as process\n"
        "process._told = lambda task: time.sleep(600)\n"
        "sys.exit(process._main())\n"
    )
    task = packed(Task(asked=None, graphs={}, memory_mb=512))  # type: ignore[arg-type]
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(task)
    child.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(2)
    child.stdin.close()
    try:
        assert child.wait(20) == GIVEN_UP
    finally:
        child.kill()
        child.wait()
