"""``edge-node plan``: what it says of sizes is what real messages take, in a real outbox."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node.assembly import assemble
from edge_node.cli import main
from edge_node.cli_plan import span
from edge_node.cloud_scoring import CloudScoring
from edge_node.config import load_config
from edge_node.egress import outgoing
from edge_node.outbox import FILE_NAME, Cut, Outbox
from edge_node.pipeline import ScoreBatch
from edge_node.placing import sizes
from edge_node.planning import checkpoint_bytes, plan_of, stored_bytes
from edge_node.sizing import said, signal_bytes_per_s
from models.cli_values import time_span
from models.messages import ScoreRequest
from models.signal import Mode
from models.topics import GatewayTopics
from models.wording import size
from tests.brokers import Subscriber, broker, free_port, wait_for
from tests.cloud_sink.sinks import config as sink_toml
from tests.cloud_sink.sinks import fetched
from tests.cloud_sink.sinks import running as sink_running
from tests.edge_node.daemons import config, connected, metrics, rows, running
from tests.edge_node.plant import Plant, block, device, healthy, plan, window
from tests.edge_node.versions import good, written

TOPICS = GatewayTopics("linewatch", "site", "gw")
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("privacy", ["features", "statistics"])
def test_a_summary_is_as_large_as_the_real_ones(privacy: str) -> None:
    plant = Plant(plan(privacy=privacy, n_reservoir=16, summary_s=300.0)).play([block(healthy(3000))])
    real = [outgoing(s, TOPICS).n_bytes for s in plant.summaries()]
    assert len(real) > 5
    (expected,) = [s for s in said(plant.plans[0], TOPICS, None) if s.kind == "summary"]
    assert expected.every_s == 300.0
    assert expected.n(6 * 3600) == 72
    assert expected.message.n_bytes == pytest.approx(sum(real) / len(real), rel=0.05)


@pytest.mark.parametrize("privacy", ["features", "statistics"])
def test_an_alert_is_as_large_as_the_real_ones(privacy: str) -> None:
    plant = Plant(plan(privacy=privacy)).play([block(healthy(600)), block(healthy(900) * 1.5, at_s=600)])
    real = [outgoing(a, TOPICS).n_bytes for a in plant.alerts("machine") if a.state == "updated"]
    (expected,) = [s for s in said(plant.plans[0], TOPICS, None) if s.kind == "alert"]
    assert real
    delivery = 120  # which the daemon adds
    assert expected.message.n_bytes == pytest.approx(max(real) + delivery, rel=0.2)
    assert expected.every_s == 120.0
    assert expected.n(3600) == 32  # raised, 30 updates, cleared


def test_a_device_without_a_model_says_nothing_of_the_kind() -> None:
    assert said(plan(model=None), TOPICS, None) == []


@pytest.mark.parametrize(
    ("mode", "interval_s", "expected"),
    [(Mode.CONTINUOUS, None, 8.0), (Mode.IRREGULAR, 1.0, 16.0), (Mode.BURST, 100.0, 8 * 20 / 100)],
)
def test_raw_signal(mode: Mode, interval_s: float | None, expected: float) -> None:
    of = plan(device(mode=mode), window(n=20, mode=mode), model=None)
    assert signal_bytes_per_s(of, interval_s) == pytest.approx(expected)


def test_what_it_says_of_the_disk_is_what_an_outbox_takes(tmp_path: Path) -> None:
    messages = [s.message for s in said(plan(), TOPICS, None)]
    each = stored_bytes(messages)
    outbox = Outbox(tmp_path)
    for i in range(50):  # as they come, a few at a time
        for message in messages * 20:
            message.row = outbox.next_row()
            message.place = f"{message.place[:-2]}{i:02}"
            outbox.write(Cut(messages=[message]))
    outbox.close()
    assert (tmp_path / FILE_NAME).stat().st_size == pytest.approx(each * 50 * 20 * len(messages), rel=0.1)


def test_a_plan_adds_up(tmp_path: Path) -> None:
    loaded = load_config(config(tmp_path, 1))
    core = assemble(loaded, on_notice=print)
    found = plan_of(loaded, core, 6 * 3600.0)
    twice = plan_of(loaded, core, 12 * 3600.0)
    assert [line.n for line in found.messages] == [72, 38]
    waiting = sum(line.disk_bytes for line in found.messages) + found.state_bytes + found.journal_bytes
    assert found.disk_bytes == waiting + found.black_box_bytes + found.feature_log_bytes
    assert 0 < found.feature_log_bytes == pytest.approx(35 * found.feature_log_day_bytes)
    assert loaded.black_box.keep_bytes < found.black_box_bytes < loaded.black_box.keep_bytes + 50_000_000
    assert all(line.disk_bytes >= line.n_bytes for line in found.messages)
    assert [t.disk_bytes / f.disk_bytes for t, f in zip(twice.messages, found.messages, strict=True)] == [
        pytest.approx(2, rel=0.06)
    ] * 2
    assert found.state_day_bytes == pytest.approx(found.state_bytes * 86_400 / loaded.gateway.checkpoint_s)
    assert twice.signal_bytes == 2 * found.signal_bytes
    assert found.memory_most_bytes - found.memory_bytes == 4 * loaded.gateway.queue_samples
    assert found.model_bytes > 1000
    path = config(tmp_path, 1)
    path.write_text(path.read_text() + "[black_box]\nenabled = false\n[feature_log]\nenabled = false\n")
    without = plan_of(load_config(path), core, 6 * 3600.0)
    assert without.disk_bytes == waiting
    kept = found.black_box_day_bytes + found.feature_log_day_bytes
    assert found.day_bytes - without.day_bytes == kept > found.black_box_day_bytes > 0


def test_a_checkpoint_is_as_large_as_the_real_ones(tmp_path: Path) -> None:
    """Of a pipeline that has run for a while, written to an outbox again and again."""
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port, gateway="checkpoint_s = 0.1")
        expected = checkpoint_bytes(assemble(load_config(path), on_notice=print))
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            journal = tmp_path / "gateway-state" / f"{FILE_NAME}-wal"
            grown = []
            for message in rows()[:600]:
                seen.publish("plant/pump-1", message)
            for message in rows()[600:612]:
                n = metrics(port)["linewatch_checkpoints_total"]
                before = journal.stat().st_size
                seen.publish("plant/pump-1", message)
                wait_for(lambda n=n: metrics(port)["linewatch_checkpoints_total"] > n, "a checkpoint")  # type: ignore[misc]
                n = metrics(port)["linewatch_checkpoints_total"] - n
                grown.append((journal.stat().st_size - before) / n)
            daemon.kill()
    assert sorted(grown)[len(grown) // 2] == pytest.approx(expected, rel=0.5)


@pytest.mark.parametrize(
    ("option", "held_by"),
    [("queue_messages = 60", "queue_messages"), ("queue_bytes = 100_000", "queue_bytes")],
)
def test_a_queue_that_is_too_small_is_said_and_the_remedy_is_one(
    tmp_path: Path, capsys: Capture, option: str, held_by: str
) -> None:
    path = config(tmp_path, 1, uplink=option)
    assert main(["plan", "-c", str(path), "--offline", "6h"]) == 0
    last = capsys.readouterr().out.split("\n\nwhere to score")[0].splitlines()[-2:]
    assert "too small" in last[0]
    assert held_by in last[0]
    name, _, value = last[1].partition("set in [uplink] ")[2].partition(" = ")
    assert name == held_by
    path.write_text(path.read_text().replace(option, f"{name} = {value}"))
    assert main(["plan", "-c", str(path), "--offline", "6h"]) == 0
    assert "queue   enough for" in capsys.readouterr().out


def test_for_programs(tmp_path: Path, capsys: Capture) -> None:
    assert main(["plan", "-c", str(config(tmp_path, 1)), "--offline", "2d", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["offline_s"] == 2 * 86_400
    assert found["held_by"] == "queue_max_age_s"


def test_lengths_of_time_and_sizes() -> None:
    assert [time_span(t) for t in ("45s", "90m", "6h", "2d", "1.5 h", "1w")] == [
        45,
        5400,
        21600,
        172800,
        5400,
        604800,
    ]
    for wrong in ("6", "h", "-1h", "0s", "6 hours", "nan h"):
        with pytest.raises(argparse.ArgumentTypeError):
            time_span(wrong)
    assert [span(s) for s in (45, 60, 90, 5400, 21600, 86400, 604800)] == [
        "45 s",
        "1 min",
        "90 s",
        "90 min",
        "6 h",
        "1 d",
        "7 d",
    ]
    assert [size(n) for n in (0, 999, 999.6, 9_949, 12_345, 1.5e9)] == [
        "0 B",
        "999 B",
        "1.0 KB",
        "9.9 KB",
        "12 KB",
        "1.5 GB",
    ]


def planned(path: Path, capsys: Capture, *more: str) -> dict[str, Any]:
    """The one task of ``path``, and what people are told of it."""
    assert main(["plan", "-c", str(path), "--json", *more]) == 0
    plan = json.loads(capsys.readouterr().out)
    (task,) = plan["placement"]
    return {**task, "prices": plan["prices"]}


def test_where_a_model_should_run_is_judged_by_what_is_measured(tmp_path: Path, capsys: Capture) -> None:
    sink_port = free_port()
    with broker(tmp_path) as mosquitto:
        path = config(tmp_path, mosquitto.port, gateway="[models]\ncloud_deadline_ms = 1000")
        silent = planned(path, capsys, "--cloud")
        assert silent["cloud"]["unmeasured"] == "no sink answered within 1000 ms (cloud_deadline_ms)"
        remedy = silent["cloud"]["remedy"]
        assert "[scoring] models with fixture, and [broker] prefix linewatch" in remedy
        assert "linewatch/s1/g1/score/request" in remedy
        assert main(["plan", "-c", str(path), "--cloud"]) == 0
        assert f"to measure a sink: {remedy}\n->" in capsys.readouterr().out
        large = written(tmp_path / "large", good(2))
        sink = sink_toml(tmp_path, mosquitto.port, metrics_port=sink_port)
        sink.write_text(sink.read_text() + f'[scoring]\nmodels = {{ fixture = "{large}" }}\n')
        with sink_running(sink):
            wait_for(lambda: fetched(sink_port, "/healthz")[0] == 200, "the sink")
            found = planned(
                path, capsys, "--cloud", "--price-per-gb", "100", "--price-per-million-requests", "10"
            )
            assert main(["plan", "-c", str(path), "--cloud"]) == 0
            people = capsys.readouterr().out
            # What no sink can answer as fast as, is to stay; what the edge takes too long for, is large.
            path.write_text(path.read_text().replace("[models]", "[models]\nmax_latency_ms = 0.000001"))
            both = planned(path, capsys, "--cloud")
    assert found["cloud"]["remedy"] is None
    assert "to measure a sink" not in people
    assert (found["n_devices"], found["windows_per_day"]) == (1, 8640.0)
    assert found["edge"]["n_measured"] == 100
    assert found["cloud"]["n_measured"] == 20
    assert 0 < found["edge"]["latency_ms"] <= found["edge"]["latency_95_ms"]
    assert 0 < found["cloud"]["latency_ms"] <= found["cloud"]["latency_95_ms"]
    assert found["cloud"]["runs"].startswith("fixture v2 on cpu-float32")
    n_bytes = found["cloud"]["bytes_up"] + found["cloud"]["bytes_down"]
    assert found["cloud"]["cost_per_month"] == pytest.approx(8640 * 30 * (n_bytes * 100 / 1e9 + 10 / 1e6))
    assert found["edge"]["cost_per_month"] == found["edge"]["bytes_up"] == 0
    assert found["verdict"]["recommendation"] == "edge"
    assert "-> edge: for the edge: 8,640 requests a day (1)" in people
    assert "fixture v2 on cpu-float32" in people
    assert both["needs"] == {
        "latency_sensitive": True, "private": False, "requests_per_day": 8640.0, "large_model": True,
    }  # fmt: skip
    assert both["verdict"]["recommendation"] == "hybrid"
    assert (both["verdict"]["edge_weight"], both["verdict"]["cloud_weight"]) == (3, 3)


def test_no_sink_is_asked_about_private_data_or_unless_told_to(tmp_path: Path, capsys: Capture) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port)
        assert planned(path, capsys)["cloud"]["unmeasured"] == "ask a sink with --cloud"
        path = config(tmp_path, mosquitto.port, extra='privacy = "statistics"')
        private = planned(path, capsys, "--cloud")
        assert "do not leave" in private["cloud"]["unmeasured"]
        assert private["needs"]["private"]
        assert not seen.messages
    path = config(tmp_path, mosquitto.port)
    assert "cannot be reached" in planned(path, capsys, "--cloud")["cloud"]["unmeasured"]


def test_a_broker_that_takes_no_requests_is_not_taken_for_a_sink_that_is_silent(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "acl").write_text("topic read linewatch/#\n")
    with broker(tmp_path, f"acl_file {tmp_path / 'acl'}") as mosquitto:
        cloud = planned(config(tmp_path, mosquitto.port), capsys, "--cloud")["cloud"]
    told = "the broker did not take a request on linewatch/s1/g1/score/request: Not authorized"
    assert cloud["unmeasured"] == told
    assert "examples/mosquitto/acl" in cloud["remedy"]


def test_a_request_is_as_large_as_the_real_ones(tmp_path: Path) -> None:
    loaded = load_config(config(tmp_path, 1))
    core = assemble(loaded, on_notice=print)
    model = core.plans[0].model
    assert model is not None
    sent: list[ScoreRequest] = []
    cloud = CloudScoring(lambda request: not sent.append(request), lambda: None)  # type: ignore[func-returns-value]
    cloud.configure(TOPICS.site, TOPICS.gateway, 2000.0)
    rows = np.random.default_rng(1).normal(size=(1, len(model.infos))).astype(np.float32)
    batch = ScoreBatch(
        0, "e", model.model_id, rows, rows, ("d",), True, model.version, model.manifest.schema_id
    )
    assert cloud.ask(batch)
    assert sizes(model, TOPICS, 2000.0)[0] == pytest.approx(outgoing(sent[0], TOPICS).n_bytes, abs=8)
