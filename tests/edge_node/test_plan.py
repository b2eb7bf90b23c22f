"""``edge-node plan``: what it says of sizes is what real messages take, in a real outbox."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from edge_node.assembly import assemble
from edge_node.cli import main
from edge_node.cli_plan import span
from edge_node.config import load_config
from edge_node.egress import outgoing
from edge_node.outbox import FILE_NAME, Cut, Outbox
from edge_node.planning import checkpoint_bytes, plan_of, stored_bytes
from edge_node.sizing import said, signal_bytes_per_s
from models.cli_values import time_span
from models.signal import Mode
from models.topics import GatewayTopics
from models.wording import size
from tests.brokers import Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import config, connected, metrics, rows, running
from tests.edge_node.plant import Plant, block, device, healthy, plan, window

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
    assert found.disk_bytes == waiting + found.black_box_bytes
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
    path.write_text(path.read_text() + "[black_box]\nenabled = false\n")
    without = plan_of(load_config(path), core, 6 * 3600.0)
    assert without.disk_bytes == waiting
    assert found.day_bytes - without.day_bytes == found.black_box_day_bytes > 0


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
    last = capsys.readouterr().out.splitlines()[-2:]
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
    assert [time_span(t) for t in ("45s", "90m", "6h", "2d", "1.5 h")] == [45, 5400, 21600, 172800, 5400]
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
