"""Publishing over a real broker: of several at once the newest stands, and who dies on the way leaves what was there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud_sink import rollout_store
from cloud_sink.config import load_config
from cloud_sink.events import Batch, EventStore
from cloud_sink.publishing import NotPublished, Outranked, send
from cloud_sink.rollout import Plan
from models import manifest as manifests
from models.broker_options import Broker as BrokerOptions
from models.publication import outranks
from models.topics import ModelTopics
from tests.brokers import HOST, broker, free_port, retained, wait_for
from tests.cloud_sink.gateways import status
from tests.cloud_sink.sinks import cloud_sink, config, database, running
from tests.edge_node.versions import STRANGER, TOPICS, Version, back_to, good, messages, signed, written
from tests.relays import Relay

WHERE = TOPICS.stable


def options(port: int) -> BrokerOptions:
    return BrokerOptions(host=HOST, port=port, reconnect_min_s=0.05, reconnect_max_s=0.1)


def publish(port: int, version: Version) -> None:
    send(options(port), messages(version), client_id="p", manifests=[WHERE])


def standing(port: int, where: str = WHERE) -> manifests.ModelManifest | None:
    payload = retained(port, "linewatch/models").get(where)
    return None if payload is None else manifests.decode(payload)


def test_a_publisher_that_is_killed_before_the_manifest_changes_nothing(tmp_path: Path) -> None:
    bundle = written(tmp_path / "bundle", signed(good(2)))
    with broker(tmp_path) as mosquitto:
        publish(mosquitto.port, signed(good(1)))
        with Relay(mosquitto.port, hold=b'"schema_id"') as relay:
            cut = config(tmp_path, relay.port, "cut")
            process = subprocess.Popen(cloud_sink("publish", "-c", cut, bundle), stdout=subprocess.DEVNULL)
            assert relay.held.wait(30)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
        kept = retained(mosquitto.port, "linewatch/models")
        graphs = {topic for topic, _ in messages(signed(good(2)))[:-1]}
        assert graphs < set(kept)
        assert manifests.decode(kept[WHERE]).version == 1
        direct = config(tmp_path, mosquitto.port)
        done = subprocess.run(cloud_sink("publish", "-c", direct, bundle), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = standing(mosquitto.port)
        assert found is not None
        assert found.version == 2


def test_a_sink_that_is_killed_as_it_promotes_is_followed_by_another_one(tmp_path: Path) -> None:
    version = signed(good(2))
    manifest, files = version
    with broker(tmp_path) as mosquitto:
        publish(mosquitto.port, signed(good(1)))
        send(options(mosquitto.port), messages(version, "s1/g1"), client_id="p")
        with Relay(mosquitto.port, hold=b'"schema_id"') as relay:
            path = config(tmp_path, relay.port, "cut")
            events = EventStore(load_config(path).store.events)
            events.create()
            plan = Plan("fixture", 2, ("s1/g1",), time.time_ns(), 1.0, 1, 1.0)
            graphs = {a.target: files[a.target] for a in manifest.artifacts}
            rollout_store.begin(events, plan, manifest, graphs, None)
            decided = (rollout_store.CANARY,), rollout_store.PROMOTING, ["so"], time.time_ns()
            assert rollout_store.change(events, "fixture", 2, *decided)
            with running(path) as sink:
                assert relay.held.wait(30)
                sink.kill()
        assert [r.state for r in rollout_store.rollouts(events)] == [rollout_store.PROMOTING]
        found = standing(mosquitto.port)
        assert found is not None
        assert found.version == 1
        assert standing(mosquitto.port, TOPICS.canary("s1/g1")) is not None
        with running(config(tmp_path, mosquitto.port, "cut")):  # the same one, started anew: it has the lease
            wait_for(
                lambda: rollout_store.rollouts(events)[0].state == rollout_store.PROMOTED, "the promotion"
            )
        events.close()
        found = standing(mosquitto.port)
        assert found is not None
        assert found.version == 2
        assert standing(mosquitto.port, TOPICS.canary("s1/g1")) is None


def test_what_cannot_be_promoted_is_taken_back(tmp_path: Path) -> None:
    """A person has published a newer one meanwhile."""
    manifest, files = version = signed(good(2))
    with broker(tmp_path) as mosquitto:
        publish(mosquitto.port, signed(good(3)))
        send(options(mosquitto.port), messages(version, "s1/g1"), client_id="p")
        path = config(tmp_path, mosquitto.port)
        events = EventStore(load_config(path).store.events)
        events.create()
        plan = Plan("fixture", 2, ("s1/g1",), time.time_ns(), 1.0, 1, 1.0)
        rollout_store.begin(
            events, plan, manifest, {a.target: files[a.target] for a in manifest.artifacts}, None
        )
        decided = (rollout_store.CANARY,), rollout_store.PROMOTING, ["so"], time.time_ns()
        assert rollout_store.change(events, "fixture", 2, *decided)
        with running(path):
            wait_for(lambda: rollout_store.rollouts(events)[0].state == rollout_store.ROLLED_BACK, "its end")
        (rollout,) = rollout_store.rollouts(events)
        events.close()
        assert "has version 3 of fixture already" in rollout.reasons[0]
        assert standing(mosquitto.port) == signed(good(3))[0]
        assert standing(mosquitto.port, TOPICS.canary("s1/g1")) is None


def test_what_somebody_has_put_on_a_canary_since_stays(tmp_path: Path) -> None:
    """The rollout of version 2 ends; version 3 was published to one of its canaries meanwhile."""
    manifest, files = version = signed(good(2))
    third = signed(good(3))
    with broker(tmp_path) as mosquitto:
        path = config(tmp_path, mosquitto.port)
        events = EventStore(load_config(path).store.events)
        events.create()
        plan = Plan("fixture", 2, ("s1/g1", "s1/g2", "s1/g3"), time.time_ns(), 1.0, 1, 1.0)
        rollout_store.begin(
            events, plan, manifest, {a.target: files[a.target] for a in manifest.artifacts}, None
        )
        send(options(mosquitto.port), messages(version, "s1/g1"), client_id="p")
        send(options(mosquitto.port), messages(third, "s1/g2"), client_id="p")
        decided = (rollout_store.CANARY,), rollout_store.ROLLING_BACK, ["so"], time.time_ns()
        assert rollout_store.change(events, "fixture", 2, *decided)
        with running(path):
            wait_for(lambda: rollout_store.rollouts(events)[0].state == rollout_store.ROLLED_BACK, "its end")
        events.close()
        assert standing(mosquitto.port, TOPICS.canary("s1/g1")) is None
        assert standing(mosquitto.port, TOPICS.canary("s1/g2")) == third[0]


def test_of_several_who_publish_at_once_the_newest_stands(tmp_path: Path) -> None:
    versions = [signed(good(1), version=n) for n in range(1, 7)]
    order = random.Random(5)
    with broker(tmp_path) as mosquitto, ThreadPoolExecutor(len(versions)) as pool:
        for i in range(12):
            topics = ModelTopics(f"linewatch/round/{i}", "fixture")
            order.shuffle(versions)
            start = threading.Barrier(len(versions))

            def one(
                version: Version, topics: ModelTopics = topics, start: threading.Barrier = start
            ) -> tuple[int, bool]:
                start.wait()
                try:
                    send(
                        options(mosquitto.port),
                        messages(version, topics=topics)[-1:],
                        client_id="p",
                        manifests=[topics.stable],
                    )
                except Outranked:
                    return version[0].version, False
                return version[0].version, True

            outcomes = dict(pool.map(one, versions))
            kept = retained(mosquitto.port, topics.root)[topics.stable]
            assert manifests.decode(kept).version == 6, outcomes
            assert outcomes[6]


def test_a_newer_version_does_not_give_way(tmp_path: Path) -> None:
    seventh = signed(good(7))
    with broker(tmp_path) as mosquitto:
        publish(mosquitto.port, seventh)
        toml = config(tmp_path, mosquitto.port)
        sixth = written(tmp_path / "sixth", signed(good(6)))
        done = subprocess.run(cloud_sink("publish", "-c", toml, sixth), capture_output=True, text=True)
        assert done.returncode == 1
        assert f"{WHERE} has version 7 of fixture already, signed by {seventh[0].key_id}" in done.stderr
        assert standing(mosquitto.port) == seventh[0]
        with pytest.raises(Outranked):
            publish(mosquitto.port, signed(good(7, 1)))  # another model of the same number
        again = signed(good(7), STRANGER)
        publish(mosquitto.port, again)
        back = back_to(good(6), 7)
        publish(mosquitto.port, back)
        assert standing(mosquitto.port) == back[0]
        taken_back = written(tmp_path / "seventh", seventh)
        done = subprocess.run(cloud_sink("publish", "-c", toml, taken_back), capture_output=True, text=True)
        assert done.returncode == 1
        assert "has the order to go back from version 7 of fixture to 6" in done.stderr
        assert standing(mosquitto.port) == back[0]


def test_a_canary_that_is_not_there_is_not_taken_back(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto:
        toml = config(tmp_path, mosquitto.port)
        send(options(mosquitto.port), messages(signed(good(2)), "s1/g1"), client_id="p")
        with database(toml) as events:
            events.commit(Batch(1, statuses=[status("g1"), status("g2")]))

        def withdraw(model: str, *gateways: str) -> subprocess.CompletedProcess[str]:
            canaries = [word for gateway in gateways for word in ("--canary", gateway)]
            command = cloud_sink("withdraw", "-c", toml, model, *canaries)
            return subprocess.run(command, capture_output=True, text=True)

        for model, gateway in (("fixtur", "s1/g1"), ("fixture", "g2")):
            done = withdraw(model, gateway)
            assert (done.returncode, done.stdout) == (1, "")
            assert f"there was no canary of {model} at" in done.stderr
        assert standing(mosquitto.port, TOPICS.canary("s1/g1")) is not None
        done = withdraw("fixture", "g1", "g2")
        assert done.returncode == 1
        assert done.stdout == "the canaries of fixture at s1/g1 are taken back\n"
        assert standing(mosquitto.port, TOPICS.canary("s1/g1")) is None


def test_a_canary_that_nobody_has_heard_of(tmp_path: Path) -> None:
    """A typing error must not use a version up."""
    bundle = written(tmp_path / "b", signed(good(2)))
    with broker(tmp_path) as mosquitto:
        toml = config(tmp_path, mosquitto.port)
        with database(toml) as events:
            events.commit(Batch(1, statuses=[status("hall-1")]))
            asked = ("-c", toml, bundle, "--canary", "s1/hall-2")
            begun = subprocess.run(
                cloud_sink("rollout", *asked, "--unjudged"), capture_output=True, text=True
            )
            assert begun.returncode == 2
            assert 'no gateway of that name has been heard; did you mean "s1/hall-1"?' in begun.stderr
            assert rollout_store.rollouts(events) == []
        assert standing(mosquitto.port, TOPICS.canary("s1/hall-2")) is None
        done = subprocess.run(cloud_sink("publish", *asked), capture_output=True, text=True)
        assert done.returncode == 0, "it may come yet"
        assert "WARNING: --canary s1/hall-2: no gateway of that name has been heard" in done.stderr


def test_an_order_to_go_back_is_from_one_version() -> None:
    eighth, seventh, sixth = (signed(good(n))[0] for n in (8, 7, 6))
    assert outranks(eighth, back_to(good(6), 7)[0])
    assert not outranks(seventh, back_to(good(6), 7)[0])
    assert outranks(back_to(good(6), 7)[0], seventh), "gateways would refuse it"
    assert not outranks(back_to(good(6), 7)[0], eighth)
    assert (outranks(seventh, sixth), outranks(sixth, seventh), outranks(sixth, sixth)) == (
        True,
        False,
        False,
    )


def test_rubbish_on_the_topic_is_in_nobodys_way(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto:
        send(options(mosquitto.port), [(WHERE, b'{"version": 99}')], client_id="p")
        publish(mosquitto.port, signed(good(1)))
        assert standing(mosquitto.port) == signed(good(1))[0]


def test_who_may_not_read_the_topic_publishes_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic write #\n")
    with broker(tmp_path, f"acl_file {rules}") as mosquitto:
        publish(mosquitto.port, signed(good(1)))
    assert f"{WHERE}: published, but not seen there" in "".join(capsys.readouterr())


def test_two_commands_of_one_sink_do_not_take_each_others_place(tmp_path: Path) -> None:
    bundle = written(tmp_path / "bundle", signed(good(1)))
    with broker(tmp_path) as mosquitto:
        toml = config(tmp_path, mosquitto.port)
        both = [
            subprocess.Popen(
                cloud_sink("publish", "-c", toml, bundle, "--canary", g), stdout=subprocess.DEVNULL
            )
            for g in ("s1/g1", "s1/g2")
        ]
        assert [process.wait(60) for process in both] == [0, 0]
        assert all(standing(mosquitto.port, TOPICS.canary(g)) is not None for g in ("s1/g1", "s1/g2"))
        assert "session taken over" not in mosquitto.log()
        assert "already connected" not in mosquitto.log()


def test_a_broker_that_takes_nothing_is_named(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n")
    with (
        broker(tmp_path, f"acl_file {rules}") as mosquitto,
        pytest.raises(NotPublished, match=f"does not take {WHERE}: Not authorized"),
    ):
        send(options(mosquitto.port), messages(signed(good(1)))[-1:], client_id="p", manifests=[WHERE])
    with pytest.raises(NotPublished, match="no broker listens"):
        send(options(free_port()), [("a", b"x")], client_id="p")


def test_a_rollout_that_is_interrupted_is_taken_back(tmp_path: Path) -> None:
    """Its graphs are there, and its manifest is on its way."""
    bundle = written(tmp_path / "b", signed(good(2)))
    with broker(tmp_path) as mosquitto, Relay(mosquitto.port, hold=b'"schema_id"') as relay:
        toml = config(tmp_path, relay.port)
        with database(toml) as events:
            events.commit(Batch(1, statuses=[status("g1")]))
            command = cloud_sink("rollout", "-c", toml, bundle, "--canary", "g1", "--unjudged")
            begun = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert relay.held.wait(60), "all but its manifest is there"
            begun.send_signal(signal.SIGINT)
            said = begun.communicate(timeout=60)[1]
            assert begun.returncode == 1
            assert "interrupted: what was published of it is taken back" in said
            (rollout,) = rollout_store.rollouts(events)
            assert rollout.state == rollout_store.ROLLING_BACK
