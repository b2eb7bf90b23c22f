"""What is heard of models, and what it can cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_node.config_schema import Uplink as UplinkConfig
from edge_node.model_inbox import Heard, ModelInbox
from edge_node.uplink import Uplink
from models.topics import ModelTopics
from tests.brokers import HOST, Subscriber, broker, wait_for
from tests.edge_node.outgoing_messages import TOPICS as GATEWAY
from tests.edge_node.outgoing_messages import status

PUMP, FAN = ModelTopics("lw", "pump"), ModelTopics("lw", "fan")
A, B = "a" * 64, "b" * 64


def inbox(max_bytes: int = 100) -> tuple[ModelInbox, list[None]]:
    woken: list[None] = []
    made = ModelInbox(lambda: woken.append(None))
    made.aim("lw", "s/gw-1", ["pump"], max_bytes)
    return made, woken


def test_manifests_of_what_runs_here_and_nothing_else() -> None:
    box, woken = inbox()
    assert box.filters == ((PUMP.canary("s/gw-1"), 1), (PUMP.stable, 1))
    box.hear(PUMP.stable, b"x", True)
    box.hear(PUMP.canary("s/gw-2"), b"x", True)
    box.hear(PUMP.canary("t/gw-1"), b"x", True)  # of the same name, at another site
    box.hear(FAN.stable, b"x", True)
    box.hear(PUMP.blob(A), b"x", True)
    assert box.take() == [Heard("pump", False, b"x", 1, True)]
    assert (box.take(), len(woken)) == ([], 1)


def test_the_latest_of_each_topic_waits_and_no_other() -> None:
    """Whatever comes, so much is held and no more."""
    box, _ = inbox()
    for i in range(1000):
        box.hear(PUMP.stable, b"%d" % i, False)
        box.hear(PUMP.canary("s/gw-1"), b"c%d" % i, False)
    assert [heard.payload for heard in box.take()] == [b"999", b"c999"]


def test_what_is_too_large_is_not_held() -> None:
    box, _ = inbox(max_bytes=10)
    box.hear(PUMP.stable, bytes(11), False)
    assert box.take() == [Heard("pump", False, None, 11, False)]
    assert 10 < box.max_bytes < 10 + 4096


def test_a_graph_is_held_while_it_is_wanted_and_of_the_size_that_it_should_have() -> None:
    box, woken = inbox()
    box.want({PUMP.blob(A): (A, 3), PUMP.blob(B): (B, 3)})
    assert [f for f, _ in box.filters][2:] == [PUMP.blob(A), PUMP.blob(B)]
    box.hear(PUMP.blob(A), b"four", True)
    assert (box.blobs([A, B]), woken) == ({}, [])
    box.hear(PUMP.blob(A), b"abc", True)
    assert (box.blobs([A, B]), len(woken)) == ({A: b"abc"}, 1)
    box.want({PUMP.blob(B): (B, 3)})
    assert (box.blobs([A, B]), len(box.filters)) == ({}, 3)


def test_another_aim_forgets_what_is_of_no_use() -> None:
    box, _ = inbox()
    box.hear(PUMP.stable, b"x", True)
    box.aim("lw", "s/gw-1", ["fan"], 100)
    assert (box.take(), [f for f, _ in box.filters]) == ([], [FAN.canary("s/gw-1"), FAN.stable])
    box.aim("lw", "s/gw-1", [], 0)
    assert (box.filters, box.max_bytes) == ((), 0)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_an_uplink_follows_what_is_wanted(tmp_path: Path, version: Any) -> None:
    """Graphs that are retained come when they are wanted, exactly these, and after a reconnect nothing that is not."""
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port) as sink:
        box, _ = inbox()
        box.want({})
        for topic, payload in ((PUMP.blob(A), b"abc"), (PUMP.blob(B), b"abc"), (PUMP.stable, b"manifest")):
            sink.publish(topic, payload, retain=True)
        config = UplinkConfig(
            host=HOST, port=mosquitto.port, version=version, reconnect_min_s=0.1, reconnect_max_s=0.2
        )
        uplink = Uplink(config, GATEWAY, status("offline"), [box])
        uplink.start()
        try:
            heard = wait_for(box.take, "the manifest")
            assert heard == [Heard("pump", False, b"manifest", 8, True)]
            box.want({PUMP.blob(A): (A, 3)})
            wait_for(lambda: box.blobs([A]), "the graph")
            box.want({})
            seen: list[str] = []
            real = box.hear
            box.hear = lambda topic, *more: (seen.append(topic), real(topic, *more))[1]  # type: ignore[method-assign]
            sink.publish(PUMP.stable, b"newer", retain=True)
            wait_for(box.take, "the newer manifest")
            box.want({PUMP.blob(B): (B, 3)})
            wait_for(lambda: box.blobs([B]), "the other graph")
            box.want({})
            mosquitto.stop()
            wait_for(lambda: not uplink.connected, "the loss of the connection")
            mosquitto.start()
            sink.ready()
            sink.publish(PUMP.stable, b"newest", retain=True)
            wait_for(box.take, "the newest manifest")
            assert PUMP.blob(A) not in seen
        finally:
            uplink.stop(status("stopped"))


def test_what_is_wanted_again_at_once_is_asked_for_again() -> None:
    """The uplink is subscribed to it all along, so that the broker would not send what it has retained."""
    box = ModelInbox(lambda: None)
    box.aim("lw", "s/gw-1", ["pump"], 100)
    wanted = {PUMP.blob(A): (A, 3)}
    box.want(wanted)
    assert [topic for topic, _ in box.again()] == [PUMP.blob(A)]
    assert box.again() == []
    box.want(wanted)  # still
    assert box.again() == []
    box.want({})
    box.want(wanted)
    assert [topic for topic, _ in box.again()] == [PUMP.blob(A)]
    box.want({})
    assert box.again() == []
