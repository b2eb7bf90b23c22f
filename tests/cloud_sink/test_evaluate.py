"""``cloud-sink evaluate`` with real gateways that have black boxes, and with one that lies."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.keys import read_private_key
from tests.brokers import Subscriber, broker, free_port, wait_for
from tests.cloud_sink.sinks import config as sink_toml
from tests.cloud_sink.sinks import metric
from tests.cloud_sink.sinks import running as sink_running
from tests.cloud_sink.test_loop import Machine, done, gateway_toml, run
from tests.edge_node.daemons import connected, metrics
from tests.edge_node.daemons import running as gateway_running
from tests.edge_node.versions import STRANGER, good, narrow, signed, written

GATEWAYS = ("g1", "g2")
LEAST = ("--min-gateways", "2", "--min-windows", "30", "--alerts-per-week", "10", "--wait", "60")


@contextmanager
def liar(port: int, gateway: str, payload_of: Any) -> Iterator[None]:
    """A gateway that answers requests for backtests with what ``payload_of`` makes of them."""
    ended = threading.Event()
    with Subscriber(port, f"linewatch/s1/{gateway}/request/backtest") as heard:

        def answer() -> None:
            n = 0
            while not ended.wait(0.05):
                for message in heard.messages[n:]:
                    n += 1
                    asked = json.loads(message.payload)
                    heard.publish(f"linewatch/s1/{gateway}/response/backtest", payload_of(asked))

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def nan(asked: dict[str, Any]) -> bytes:
    return b'{"type":"response","transaction":"' + asked["transaction"].encode() + b'","at_ns":NaN}'


@pytest.mark.timeout(300)
def test_gateways_judge_candidates_and_the_sink_decides(tmp_path: Path) -> None:
    done("keygen", tmp_path / "key")
    key = read_private_key(tmp_path / "key")
    first = written(tmp_path / "first", good(1))
    done("sign", first, "--key", tmp_path / "key")
    public = (tmp_path / "key.pub").read_text().split()[-1]
    fine = written(tmp_path / "fine", signed(good(2), key))
    floods = written(tmp_path / "floods", signed(narrow(3), key))
    strange = written(tmp_path / "strange", signed(good(4), STRANGER))
    with ExitStack() as stack:
        mosquitto = stack.enter_context(broker(tmp_path, "max_inflight_messages 0"))
        seen = stack.enter_context(Subscriber(mosquitto.port, "linewatch/#"))
        sink_port = free_port()
        sink = sink_toml(tmp_path, mosquitto.port, metrics_port=sink_port)
        stack.enter_context(sink_running(sink))
        https, machines = [], []
        for i, name in enumerate(GATEWAYS):
            http = free_port()
            path = gateway_toml(tmp_path / name, name, mosquitto.port, http, first, public)
            path.write_text(path.read_text() + "\n[black_box]\nflush_s = 0.1\nmin_free_bytes = 0\n")
            stack.enter_context(gateway_running(path))
            wait_for(lambda http=http: connected(http), f"{name}'s source")  # type: ignore[misc]
            https.append(http)
            machines.append(Machine(seen, name, seed=200 + i))
        for machine in machines:
            machine.run(6000)
        recorded = "linewatch_black_box_samples_recorded_total"
        wait_for(lambda: all(metrics(h).get(recorded, 0) >= 12_000 for h in https), "the signal on disk", 60)
        wait_for(lambda: metric(sink_port, "sink_messages_stored_total") >= 60, "summaries", 60)

        refused = run("rollout", "-c", sink, fine, "--canary", "g1")
        assert (refused.returncode, "has not been judged" in refused.stderr) == (1, True)
        too_few = run("evaluate", "-c", sink, fine, "--min-windows", "30", "--wait", "60")
        assert too_few.returncode == 1, too_few.stderr
        assert "2 of 3 answers with 30 windows or more" in too_few.stdout
        refused = run("rollout", "-c", sink, fine, "--canary", "g1")
        assert "was refused at" in refused.stderr

        stranger = run("evaluate", "-c", sink, fine, *LEAST, "--gateway", "s2/g1")
        assert (stranger.returncode, "s2/g1: is not known to run fixture" in stranger.stderr) == (2, True)
        both = ("--gateway", "g1", "--gateway", "s1/g2")
        accepted = run("evaluate", "-c", sink, fine, *LEAST, *both)
        assert accepted.returncode == 0, accepted.stdout + accepted.stderr
        assert "2 of 2 gateways have answered" in accepted.stderr
        assert "leaving one device out, by probes" in accepted.stdout
        assert "int8 against float in" in accepted.stdout

        flood = run("evaluate", "-c", sink, floods, *LEAST)
        assert flood.returncode == 1, flood.stdout
        assert "REFUSED" in flood.stdout
        assert "the budget allows" in flood.stdout
        wrong_key = run("evaluate", "-c", sink, strange, *LEAST)
        assert wrong_key.returncode == 1
        assert "s1/g1 refuses it: candidate_refused: not_trusted" in wrong_key.stdout

        told = done("models", "-c", sink)
        assert (told.count("accept"), told.count("refuse")) >= (1, 3)
        shown = done("evaluate", "-c", sink, "--show", "fixture")
        assert shown.count("== ") == 4
        assert "the budget allows" in shown
        blobs = [m for m in seen.messages if "/models/fixture/" in m.topic]
        assert not [m for m in blobs if m.topic.endswith("/stable") or "/gateway/" in m.topic]
        raw = [m for m in seen.messages if m.topic.endswith("/response/backtest")]
        assert max(len(m.payload) for m in raw) < 10_000

        done("rollout", "-c", sink, fine, "--canary", "g1")
        unjudged = run("rollout", "-c", sink, floods, "--canary", "g2", "--unjudged")
        assert "is being rolled out" in unjudged.stderr
        done("rollback", "-c", sink, "fixture", "2")
        wait_for(lambda: "rolled back" in done("rollouts", "-c", sink), "the end of it")
        unjudged = run("rollout", "-c", sink, floods, "--canary", "g2", "--unjudged")
        assert unjudged.returncode == 0
        assert "WARNING: rolled out unjudged" in unjudged.stderr
        done("rollback", "-c", sink, "fixture", "3")
        wait_for(lambda: done("rollouts", "-c", sink).count("rolled back") == 2, "the end of that")
        assert "rolled out unjudged" in done("rollouts", "-c", sink)

        # Somebody says that he runs the model, and answers rubbish.
        with sqlite3.connect(tmp_path / "events.sqlite") as database:
            for i, name in enumerate(("nan", "name", "large")):
                database.execute(
                    "INSERT INTO devices (site, gateway, device, machine, class, model_id) VALUES (?, ?, ?, '', '', 'fixture')",
                    ("s1", name, f"d{i}"),
                )
        with (
            liar(mosquitto.port, "nan", nan),
            liar(mosquitto.port, "name", lambda asked: seen.on("linewatch/s1/g1/response/backtest")[-1]),
            liar(mosquitto.port, "large", lambda asked: b"x" * 66_000),
        ):
            lied = run("evaluate", "-c", sink, fine, *LEAST)
        for reason in ("unreadable", "other_name", "too_large"):
            assert f"answers not believed: 1 {reason}" in lied.stdout, lied.stdout
        assert lied.returncode == 0  # two others suffice
