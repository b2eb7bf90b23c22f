"""Requests over MQTT to the real daemon: what each does, what is refused and why, and that nothing is done twice."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.acceptance import Acceptance
from models.recording import read_log
from tests.brokers import Broker, Subscriber, broker, free_port, retained, wait_for
from tests.edge_node.daemons import (
    NS,
    alerts,
    channels,
    config,
    connected,
    feed,
    golden_window,
    metrics,
    of_the_signal,
    replayed,
    running,
    status,
    summed,
)

pytestmark = pytest.mark.tflite_runtime

ROOT = "linewatch/s1/g1"
N = 1800


def rows(*steps: tuple[int, float]) -> list[bytes]:
    """A signal like the fixture's, of which all channels stand so many spreads off from such a row on."""
    window, names = golden_window(), channels()
    rng = np.random.default_rng(7)
    mean, spread = window.mean(axis=0), window.std(axis=0) + 1e-3
    start_ns = (time.time_ns() // NS - N - 5) * NS
    messages = []
    for i in range(N):
        off = sum(sigmas for row, sigmas in steps if i >= row)
        values = mean + spread * (rng.standard_normal(mean.size) + off)
        named = dict(zip(names, map(float, values), strict=True))
        messages.append(json.dumps({"t": start_ns + i * NS, **named}).encode())
    return messages


class Operator:
    """Asks the gateway, and hears all that it says."""

    def __init__(self, seen: Subscriber, port: int) -> None:
        self.seen = seen
        self.port = port
        self._n = 0

    def ask(self, name: str, transaction: str | None = None, **body: Any) -> dict[str, Any]:
        """The answer to a request."""
        self._n += 1
        transaction = transaction or f"t-{self._n}"
        n_before = len(self.answers(name))
        self.send(name, {"transaction": transaction, **body})
        wait_for(lambda: len(self.answers(name)) > n_before, f"the answer to {name} {transaction}")
        answer = self.answers(name)[-1]
        assert answer["transaction"] == transaction
        return answer

    def send(self, name: str, body: Any, *, retain: bool = False) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body)
        self.seen.publish(f"{ROOT}/request/{name}", payload, retain=retain)

    def answers(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(p) for p in self.seen.on(f"{ROOT}/response/{name}")]

    def states(self) -> list[dict[str, Any]]:
        return [json.loads(p) for p in self.seen.on(f"{ROOT}/device/pump-1/state")]

    def machine(self) -> list[dict[str, Any]]:
        return [a for a in alerts(self.seen) if a["kind"] == "machine"]

    def refused(self) -> dict[str, float]:
        """By reason, as /metrics has it."""
        prefix = 'linewatch_requests_refused_total{reason="'
        return {
            k.removeprefix(prefix).removesuffix('"}'): v
            for k, v in metrics(self.port).items()
            if k.startswith(prefix)
        }


@contextmanager
def gateway(
    folder: Path, mosquitto: Broker, *arguments: str, **more: Any
) -> Iterator[tuple[Operator, subprocess.Popen[str], Path]]:
    port = free_port()
    path = config(folder, mosquitto.port, port, **more)
    path.write_text(path.read_text().replace("alerts_per_week = 100", "alerts_per_week = 1"))
    with (
        Subscriber(mosquitto.port, "linewatch/#") as seen,
        running(path, *arguments) as daemon,
    ):
        wait_for(lambda: status(seen) == "online", "status online")
        wait_for(lambda: connected(port), "the source's connection")
        yield Operator(seen, port), daemon, path


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    with broker(tmp_path) as started:
        yield started


def test_an_alert_is_seen_called_false_and_accepted(tmp_path: Path, mosquitto: Broker) -> None:
    """The whole story; and its recording replays to the same alerts."""
    log = tmp_path / "run.jsonl"
    sent = rows((900, 12.0), (1500, 12.0))
    with gateway(tmp_path, mosquitto, "--record", str(log)) as (operator, daemon, path):
        feed(operator.seen, sent[:1120])
        raised = wait_for(operator.machine, "a machine alert")[0]
        alert_id = raised["alert_id"]
        wait_for(lambda: summed(metrics(operator.port), "windows_scored_total") >= 109, "all windows")

        answer = operator.ask("ack", alert_id=alert_id, by="Anna", note="on my way")
        assert answer["ok"] is True, (answer["reason"], answer["text"])
        assert (answer["by"], answer["note"], answer["alert_id"]) == ("Anna", "on my way", alert_id)
        assert (answer["site"], answer["gateway"]) == ("s1", "g1")
        wait_for(lambda: operator.states()[-1]["acked"] == [alert_id], "the state with it")
        assert operator.states()[-1]["open_alerts"] == [alert_id]
        assert len({s["message_id"] for s in operator.states()}) == len(operator.states())

        answer = operator.ask("label", alert_id=alert_id, label="false_alarm", by="Anna", note="tool change")
        assert answer["ok"] is True, (answer["reason"], answer["text"])
        assert (answer["label"], answer["alert_id"], answer["by"]) == ("false_alarm", alert_id, "Anna")
        assert abs(answer["at_ns"] - time.time_ns()) < 60 * NS

        answer = operator.ask("accept_as_normal", device="pump-1", by="Anna")
        assert answer["ok"] is True, (answer["reason"], answer["text"])
        assert answer["device"] == "pump-1"
        ended = operator.machine()[-1]
        assert (ended["state"], ended["alert_id"]) == ("cleared", alert_id)
        assert ended["message"].startswith("pump: accepted as normal by Anna: ")
        assert operator.states()[-1]["state"] == "normal"
        assert operator.states()[-1]["acked"] == []
        again = operator.ask(
            "accept_as_normal", device="pump-1", by="Anna", transaction=answer["transaction"]
        )
        assert again == answer

        n_said = len(operator.machine())
        feed(operator.seen, sent[1120:1500])
        wait_for(lambda: summed(metrics(operator.port), "windows_scored_total") >= 147, "380 s of it")
        assert len(operator.machine()) == n_said
        feed(operator.seen, sent[1500:])
        wait_for(lambda: len(operator.machine()) > n_said, "the further departure")
        assert operator.machine()[n_said]["state"] == "raised"
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0
        wait_for(lambda: status(operator.seen) == "stopped", "status stopped")
        live = [of_the_signal(a) for a in alerts(operator.seen)]
    (word,) = [item for item in read_log(log) if isinstance(item, Acceptance)]
    assert (word.device_id, word.by) == ("pump-1", "Anna")
    assert replayed(log, path, tmp_path / "alerts.jsonl") == live


def test_what_cannot_be_done_says_why(tmp_path: Path, mosquitto: Broker) -> None:
    with gateway(tmp_path, mosquitto) as (operator, _, _):
        unknown = "0" * 16
        for name, body, reason in (
            ("ack", {"alert_id": unknown, "by": "Anna"}, "unknown_alert"),
            ("label", {"alert_id": unknown, "by": "Anna", "label": "true_alarm"}, "unknown_alert"),
            ("label", {"alert_id": unknown, "by": "Anna", "label": "perhaps"}, "malformed"),
            ("ack", {"alert_id": unknown}, "malformed"),
            ("accept_as_normal", {"device": "pump-9", "by": "Anna"}, "unknown_device"),
            ("status", {"gateway": "g2"}, "wrong_gateway"),
            ("status", {"site": "s2"}, "wrong_gateway"),
            ("status", {"reply_to": "linewatch/s1/g2/response/status"}, "malformed"),
            ("open_the_door", {"by": "Anna"}, "unknown_request"),
        ):
            answer = operator.ask(name, **body)
            assert (answer["ok"], answer["reason"]) == (False, reason), answer
            assert answer["text"]
        assert operator.refused() == {
            "unknown_alert": 2,
            "malformed": 3,
            "unknown_device": 1,
            "wrong_gateway": 2,
            "unknown_request": 1,
        }
        topics = {m.topic for m in operator.seen.messages if "/response/" in m.topic}
        assert topics == {
            f"{ROOT}/response/{n}" for n in ("ack", "label", "accept_as_normal", "status", "open_the_door")
        }


def test_what_cannot_be_answered_is_counted(tmp_path: Path, mosquitto: Broker) -> None:
    with gateway(tmp_path, mosquitto) as (operator, daemon, _):
        operator.send("status", b'{"transaction": "t"')
        operator.send("status", b"\xff")
        operator.send("status", {"transaction": "t", "note": "x" * 9000})
        operator.send("status", b"x" * 200_000)
        operator.seen.publish(f"{ROOT}/request/status/now", b'{"transaction": "deeper"}')
        operator.seen.publish("linewatch/s1/g2/request/status", b'{"transaction": "of another"}')
        wait_for(lambda: sum(operator.refused().values()) == 4, "four refusals")
        assert operator.refused() == {"malformed": 2, "oversize": 2}
        assert metrics(operator.port)["linewatch_requests_untold_total"] == 4
        assert operator.ask("status")["ok"] is True
        assert len(operator.answers("status")) == 1
        assert daemon.poll() is None


def test_a_retained_request_is_never_taken_up(tmp_path: Path, mosquitto: Broker) -> None:
    """It would be done again on every connect."""
    with Subscriber(mosquitto.port) as before:
        body = json.dumps({"transaction": "r-1", "by": "Anna"})
        before.publish(f"{ROOT}/request/reload", body, retain=True)
    with gateway(tmp_path, mosquitto) as (operator, daemon, _):
        wait_for(lambda: operator.answers("reload"), "the refusal")
        assert operator.answers("reload")[0]["reason"] == "retained"
        assert operator.refused() == {"retained": 1}
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=15)
        assert "configuration taken up" not in said


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_what_is_delivered_again_is_done_once(tmp_path: Path, mosquitto: Broker, version: str) -> None:
    with gateway(tmp_path, mosquitto, version=version) as (operator, daemon, _):
        first = operator.ask("reload", transaction="once", by="Anna")
        for _ in range(3):
            assert operator.ask("reload", transaction="once", by="Anna") == first
        other = operator.ask("reload", transaction="once", by="Ben")
        assert other["reason"] == "transaction_reused"
        assert metrics(operator.port)["linewatch_requests_repeated_total"] == 3
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=15)
        assert said.count("configuration taken up") == 1


def test_a_reload_says_whether_the_configuration_was_taken_up(tmp_path: Path, mosquitto: Broker) -> None:
    with gateway(tmp_path, mosquitto) as (operator, daemon, path):
        good = path.read_text()
        before = operator.ask("status")["status"]["config_hash"]
        path.write_text(good + "nonsense = 1\n")
        answer = operator.ask("reload", by="Anna")
        assert (answer["ok"], answer["reason"]) == (False, "bad_config")
        assert "nonsense" in answer["text"]
        n_line = len(good.splitlines()) + 1
        assert f"{path}:{n_line}: " in answer["text"]
        assert operator.ask("status")["status"]["config_hash"] == before
        path.write_text(good.replace("alerts_per_week = 1", "alerts_per_week = 50"))
        assert operator.ask("reload", by="Anna")["ok"] is True
        assert operator.ask("status")["status"]["config_hash"] != before
        # The gateway gets another name: the answer still goes to who asked, under the old one.
        path.write_text(good.replace('name = "g1"', 'name = "g2"'))
        assert operator.ask("reload", by="Anna")["ok"] is True
        wait_for(lambda: operator.seen.on("linewatch/s1/g2/status"), "the status under the new name")
        operator.seen.publish("linewatch/s1/g2/request/status", '{"transaction": "new", "gateway": "g2"}')
        wait_for(lambda: operator.seen.on("linewatch/s1/g2/response/status"), "the answer under the new name")
        assert daemon.poll() is None


def test_a_status_is_that_of_now(tmp_path: Path, mosquitto: Broker) -> None:
    with gateway(tmp_path, mosquitto) as (operator, _, _):
        feed(operator.seen, rows()[:50])
        wait_for(lambda: summed(metrics(operator.port), "source_messages_total") == 50, "fifty messages")
        answer = operator.ask("status", by="Anna")
        assert answer["status"]["state"] == "online"
        assert answer["status"]["counters"]["source_messages.mqtt"] == 50
        # No answer is retained: who comes later does not take it for news.
        assert not [topic for topic in retained(mosquitto.port, ROOT) if "/response/" in topic]


def test_a_flood_is_held_back_told_of_and_costs_no_alert(tmp_path: Path, mosquitto: Broker) -> None:
    limits = "max_requests_per_minute = 6\nmax_requests_burst = 3"
    with gateway(tmp_path, mosquitto, gateway=limits, uplink="queue_messages = 20") as (operator, _, _):
        for i in range(200):
            operator.send("status", {"transaction": f"f-{i}"})
        wait_for(
            lambda: (
                metrics(operator.port).get('linewatch_requests_total{request="status"}', 0)
                + metrics(operator.port).get('linewatch_requests_total{request="unread"}', 0)
                == 200
            ),
            "all of them",
        )
        done = [a for a in operator.answers("status") if a["ok"]]
        assert 3 <= len(done) <= 5
        assert 3 <= len(operator.answers("status")) <= 10
        assert set(operator.refused()) <= {"rate_limited", "queue_full"}
        assert sum(operator.refused().values()) == 200 - len(done)
        wait_for(
            lambda: [a for a in alerts(operator.seen) if "max_requests_per_minute" in a["message"]],
            "an alert of it",
        )
        assert summed(metrics(operator.port), "events_dropped_total") == 0


def test_requests_of_before_the_start_and_after_the_end_have_no_effect(
    tmp_path: Path, mosquitto: Broker
) -> None:
    """The connection's session is new each time: what was asked while nobody was there is not done later."""
    path = config(tmp_path, mosquitto.port)
    with Subscriber(mosquitto.port, "linewatch/#") as seen:
        seen.publish(f"{ROOT}/request/reload", '{"transaction": "early"}')
        with running(path) as daemon:
            wait_for(lambda: status(seen) == "online", "status online")
            seen.publish(f"{ROOT}/request/status", '{"transaction": "now"}')
            wait_for(lambda: seen.on(f"{ROOT}/response/status"), "an answer")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        assert not seen.on(f"{ROOT}/response/reload")


def test_what_was_answered_survives_a_kill(tmp_path: Path, mosquitto: Broker) -> None:
    """An answer leaves together with what it says was done, or neither does."""
    sent = rows((900, 12.0), (1500, 12.0))
    with gateway(tmp_path, mosquitto) as (operator, daemon, path):
        feed(operator.seen, sent[:1120])
        wait_for(operator.machine, "a machine alert")
        alert_id = operator.machine()[0]["alert_id"]
        wait_for(lambda: summed(metrics(operator.port), "windows_scored_total") >= 109, "all windows")
        said = {
            "ack": {"transaction": "a", "alert_id": alert_id, "by": "Anna"},
            "label": {"transaction": "l", "alert_id": alert_id, "by": "Anna", "label": "false_alarm"},
            "accept_as_normal": {"transaction": "n", "device": "pump-1", "by": "Anna"},
        }
        answers = {name: operator.ask(name, **body) for name, body in said.items()}
        assert all(answer["ok"] for answer in answers.values()), answers
        daemon.kill()
        daemon.wait(10)

        def boots() -> set[str]:
            said = [json.loads(payload) for payload in operator.seen.on(f"{ROOT}/status")]
            return {s["boot_id"] for s in said if s["state"] == "online"}

        n_boots = len(boots())
        with running(path):
            wait_for(lambda: len(boots()) > n_boots, "the status again")
            wait_for(lambda: connected(operator.port), "the source's connection")
            for name, body in said.items():
                assert operator.ask(name, **body) == answers[name]
            n_said = len(operator.machine())
            feed(operator.seen, sent[1120:1500])
            wait_for(lambda: summed(metrics(operator.port), "windows_scored_total") >= 147, "380 s of it")
            assert len(operator.machine()) == n_said, "the centre has stayed where it was moved"
            feed(operator.seen, sent[1500:])
            wait_for(lambda: len(operator.machine()) > n_said, "the further departure")
