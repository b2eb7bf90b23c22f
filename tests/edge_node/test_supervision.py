"""The real daemon under something that listens as systemd does: ready, alive, reloading, stopping; and not fed while it hangs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from edge_node.assembly import assemble
from edge_node.config import load_config
from edge_node.supervision import Supervision
from tests.brokers import Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import config, connected, edge_node, feed, metrics, rows, status, summed
from tests.edge_node.notify_socket import WATCHDOG_S, supervised

pytestmark = pytest.mark.tflite_runtime

HANGS = """
import os, sys
from edge_node.inference import Engine
run = Engine.run
def hangs(self, inputs):
    if os.path.exists(sys.argv[2]):
        os.read(os.pipe()[0], 1)
    return run(self, inputs)
Engine.run = hangs
"""
LOSES = """
import os, sys
from edge_node.assembly import Core
from models.signal import DropReason
score, lost = Core.score, []
def loses(self):
    if os.path.exists(sys.argv[2]):
        lost.extend(self.pipeline.take_batches())
        return 0
    while lost:
        self.pipeline.failed(lost.pop().batch_id, DropReason.INFERENCE_FAILED)
    return score(self)
Core.score = loses
"""


def test_ready_alive_reloading_stopping(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port)
        with supervised(tmp_path / "notify", path) as (daemon, notified):
            notified.wait("READY", READY="1")
            assert notified.messages[0]["READY"] == "1"  # nothing is said before
            assert notified.messages[0]["STATUS"].startswith("1 device; ")
            wait_for(lambda: status(seen) == "online", "status online")
            wait_for(lambda: notified.n_feeds >= 6, "the watchdog fed at rest")
            wait_for(lambda: connected(port), "the source's connection")
            n_fed = notified.n_feeds
            feed(seen, rows())
            wait_for(lambda: notified.n_feeds >= n_fed + 4, "the watchdog fed under load")
            assert summed(metrics(port), "windows_scored_total") > 0
            wait_for(
                lambda: [m for m in notified.messages if "uplink connected" in m.get("STATUS", "")],
                "the connection in the status",
            )
            assert summed(metrics(port), "watchdog_withheld_total") == 0

            path.write_text(path.read_text().replace("alerts_per_week = 100", "alerts_per_week = 50"))
            before_us = time.monotonic_ns() // 1000
            daemon.send_signal(signal.SIGHUP)
            reloading = notified.wait("RELOADING", RELOADING="1")
            assert before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            wait_for(lambda: len(notified.said(READY="1")) == 2, "READY after the reload")
            assert notified.messages.index(notified.said(READY="1")[1]) > notified.messages.index(reloading)

            path.write_text("= no configuration")
            daemon.send_signal(signal.SIGHUP)
            wait_for(lambda: len(notified.said(READY="1")) == 3, "READY after a reload that was refused")

            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
            notified.wait("STOPPING", STOPPING="1")
            assert len(notified.said(RELOADING="1")) == 2
            assert "STOPPING" in notified.messages[-1]


@pytest.mark.parametrize("program", [HANGS, LOSES], ids=["the loop stands", "the loop turns"])
def test_a_gateway_whose_windows_do_not_move_is_not_fed(tmp_path: Path, program: str) -> None:
    flag = tmp_path / "hang"
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        # A worker that stands is the watchdog's of the workers: here the daemon itself does.
        path = config(tmp_path, mosquitto.port, port, gateway='inference = "in_process"')
        with supervised("@linewatch-test-" + str(os.getpid()), path, str(flag), program=program) as (
            daemon,
            notified,
        ):
            notified.wait("READY", READY="1")
            wait_for(lambda: connected(port), "the source's connection")
            sent = rows()
            feed(seen, sent[:600])
            wait_for(lambda: summed(metrics(port), "windows_scored_total") > 0, "scores")
            n_fed = notified.n_feeds
            wait_for(lambda: notified.n_feeds > n_fed, "the watchdog fed")
            flag.touch()
            feed(seen, sent[600:])
            wait_for(lambda: notified.unfed_s > 2 * WATCHDOG_S, "the watchdog starving")
            assert daemon.poll() is None
            if program is LOSES:
                assert summed(metrics(port), "watchdog_withheld_total") > 0
                flag.unlink()
                wait_for(lambda: notified.unfed_s < WATCHDOG_S, "the watchdog fed again")
            daemon.kill()


def test_nothing_is_said_where_nobody_listens(tmp_path: Path) -> None:
    core = assemble(load_config(config(tmp_path, 1)), on_notice=print)
    alone = Supervision({})
    alone.turned(core, 0, {}, None)
    alone.reloading()
    alone.stopping()
    assert [f.values[()] for f in alone.families()] == [0, 0]


def test_what_is_for_another_process_is_left_and_nothing_is_inherited() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1", "HOME": "/"}
    supervision = Supervision(environment)
    assert environment == {"HOME": "/"}
    assert supervision._feed_s is None


def test_what_is_not_taken_is_counted_and_ready_is_said_again(tmp_path: Path) -> None:
    core = assemble(load_config(config(tmp_path, 1)), on_notice=print)
    place = tmp_path / "notify"
    supervision = Supervision({"NOTIFY_SOCKET": str(place)})
    supervision.turned(core, 0, {}, None)
    assert supervision.n_unsent == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(place))
        listening.settimeout(5)
        supervision.turned(core, 0, {}, None)
        assert listening.recv(4096).startswith(b"READY=1\nSTATUS=1 device; ")
    assert supervision.n_unsent == 1


@pytest.mark.parametrize("is_journal", [True, False])
def test_the_journal_is_told_how_loud_a_line_is(tmp_path: Path, is_journal: bool) -> None:
    with broker(tmp_path) as mosquitto:
        path = config(tmp_path, mosquitto.port)
        place = tmp_path / "journal"
        with place.open("w") as stream:
            found = os.fstat(stream.fileno())
            name = f"{found.st_dev}:{found.st_ino + (not is_journal)}"
            daemon = subprocess.Popen(
                edge_node("run", "-c", path), env={**os.environ, "JOURNAL_STREAM": name}, stderr=stream
            )
            try:
                wait_for(lambda: place.read_text().count("connected to") == 2, "the connections")
                mosquitto.stop()
                wait_for(lambda: "trying again" in place.read_text(), "a warning")
            finally:
                daemon.kill()
                daemon.wait(10)
    heads = {"info": "<6>", "warning": "<4>", "error": "<3>"}
    said = set()
    for line in place.read_text().splitlines():
        head, _, rest = line.partition("{")
        said.add(json.loads("{" + rest)["level"])
        assert head == (heads[json.loads("{" + rest)["level"]] if is_journal else "")
    assert said >= {"info", "warning"}
