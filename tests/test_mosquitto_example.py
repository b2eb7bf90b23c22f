"""examples/mosquitto/ against a real mosquitto: who may publish and hear what, each rule of the acl by itself."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edge_node.config_schema import MqttSource
from models.broker_options import Tls
from models.requests import REQUESTS as REQUEST_KINDS
from models.requests import Refusal
from models.topics import GatewayTopics
from tests.authority import Own
from tests.brokers import HOST, Broker, Subscriber, wait_for
from tests.brokers import broker as sensors_broker
from tests.edge_node.daemons import config as gateway_toml
from tests.edge_node.daemons import edge_node, feed, rows, running
from tests.models.test_mqtt_client import connection, failure
from tests.shipped_broker import SHIPPED, Account, Keys, shipped_broker

US, OTHER = "linewatch/plant-1/hall-3", "linewatch/plant-1/hall-4"
ACCOUNTS = {"gateway": "plant-1/hall-3", "sink": "sink", "operator": "operator", "stranger": "visitor"}

OWN = [
    "status",
    "device/press-4/state",
    "alert/press-4",
    "alert/_gateway",
    "summary/press-4",
    "model/pump",
    "response/ack",
    "score/request",
]
REQUESTS = ["ack", "label", "accept_as_normal", "reload", "status", "backtest"]
MODELS = [f"linewatch/models/pump/{what}" for what in ("stable", "gateway/hall-3", "blob/00ff")]

MAY_PUBLISH = {
    "gateway": {f"{US}/{topic}" for topic in OWN},
    "sink": {
        *MODELS,
        f"{US}/score/response",
        f"{OTHER}/score/response",
        *(f"{root}/request/{name}" for root in (US, OTHER) for name in ("status", "backtest")),
    },
    "operator": {f"{root}/request/{name}" for root in (US, OTHER) for name in REQUESTS},
    "stranger": set(),
}
TOPICS = sorted(
    {f"{root}/{topic}" for root in (US, OTHER) for topic in [*OWN, "score/response", "raw/press-4"]}
    | {f"{root}/request/{name}" for root in (US, OTHER) for name in REQUESTS}
    | {*MODELS, "linewatch/plant-2/hall-3/status", "linewatch/anything", "plant/press-4/vibration"}
)
MAY_HEAR = {
    "gateway": {
        *MODELS,
        f"{US}/status",
        f"{US}/score/response",
        *(f"{US}/request/{name}" for name in REQUESTS),
    },
    "sink": {topic for topic in TOPICS if topic.startswith("linewatch/")},
    "operator": {
        *MODELS,
        *(
            f"{root}/{topic}"
            for root in (US, OTHER)
            for topic in OWN
            if not topic.startswith(("summary/", "score/"))
        ),
        "linewatch/plant-2/hall-3/status",
    },
    "stranger": set(MODELS),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def broker(keys: Keys) -> Iterator[Broker]:
    with shipped_broker(keys) as started:
        yield started


@pytest.fixture(scope="module")
def accounts(broker: Broker, keys: Keys) -> Iterator[dict[str, Account]]:
    with ExitStack() as stack:
        yield {
            who: stack.enter_context(Account(broker, keys, name))
            for who, name in [*ACCOUNTS.items(), ("neighbour", "plant-1/hall-4")]
        }


@pytest.mark.parametrize("who", ACCOUNTS)
@pytest.mark.parametrize("topic", TOPICS)
def test_who_may_publish_what(accounts: dict[str, Account], who: str, topic: str) -> None:
    assert accounts[who].publish(topic) == (topic in MAY_PUBLISH[who])


@pytest.mark.parametrize("who", ACCOUNTS)
def test_who_hears_what(broker: Broker, keys: Keys, accounts: dict[str, Account], who: str) -> None:
    """Everything that anybody may publish is published, and then what ``who`` may hear last of all."""
    last = f"linewatch/models/end-of-{who}/stable"
    with Account(broker, keys, ACCOUNTS[who]) as listener:
        published = set()
        for writer, allowed in [*MAY_PUBLISH.items(), ("neighbour", {f"{OTHER}/{topic}" for topic in OWN})]:
            for topic in sorted(allowed):
                assert accounts[writer].publish(topic)
                published.add(topic)
        assert accounts["sink"].publish(last)
        wait_for(lambda: last in listener.topics(), "the last of all")
        assert listener.topics() - {last} == MAY_HEAR[who] & published
        assert {topic for topic in published if topic.startswith("linewatch/")} <= MAY_HEAR["sink"]


def test_a_gateway_publishes_and_hears_all_that_it_needs(accounts: dict[str, Account]) -> None:
    """The topics are those of models/topics.py, not only those that this test knows."""
    topics = GatewayTopics("linewatch", "plant-1", "hall-3")
    for topic in (
        topics.status,
        topics.device_state("press-4"),
        topics.alert("press-4"),
        topics.summary("press-4"),
        topics.model("pump"),
        topics.response("ack"),
    ):
        assert accounts["gateway"].publish(topic), topic
    assert accounts["operator"].publish(topics.request("reload"), b"this one")
    wait_for(lambda: b"this one" in accounts["gateway"].on(topics.request("reload")), "the request")


def source(broker: Broker, keys: Keys, own: Own | None) -> MqttSource:
    cert, key = (None, None) if own is None else own
    tls = Tls(ca_file=keys.ca, cert_file=cert, key_file=key)
    return MqttSource(host=HOST, port=broker.port, tls=tls, reconnect_min_s=0.05, reconnect_max_s=0.2)


def test_nobody_comes_in_without_a_certificate(broker: Broker, keys: Keys) -> None:
    assert failure(source(broker, keys, None)).startswith("the broker wants a client certificate")


def test_the_brokers_own_certificate_lets_nobody_in(broker: Broker, keys: Keys) -> None:
    own = Own(keys.folder / "server.pem", keys.folder / "server.key")
    assert "refuses" in failure(source(broker, keys, own))


def test_a_revoked_certificate_lets_nobody_in(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    own = keys.client("plant-1/hall-5")
    with shipped_broker(keys) as started:
        with connection(source(started, keys, own)) as conn:
            wait_for(lambda: conn.connected, "the connection")
        keys.run("revoke", "plant-1/hall-5")
        started.stop()
        started.start()
        text = failure(source(started, keys, own))
        assert text == f"the broker says that {own.cert} has been revoked"
        own.cert.unlink()
        fresh = keys.client("plant-1/hall-5")
        with connection(source(started, keys, fresh)) as conn:
            wait_for(lambda: conn.connected, "the connection with a new one")


@pytest.mark.parametrize(
    "name",
    ["plant-1/hall-3/request", "/hall-3", "plant-1/", "", "plant-1/+", "#", "a b", "x" * 65, "a/b'c", "ä"],
)
def test_the_script_signs_no_name_that_would_mean_more_than_a_gateway(keys: Keys, name: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        keys.run("client", name)
    assert refused.value.returncode == 1
    assert refused.value.stderr.startswith("keys.sh: ")
    assert not refused.value.stdout


def test_the_script_overwrites_no_authority_and_keeps_keys_to_itself(keys: Keys) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        keys.run("authority")
    for key in keys.folder.glob("*.key"):
        assert key.stat().st_mode & 0o077 == 0, key
    own = keys.client("plant-1/hall-6")
    before = own.cert.read_bytes()
    keys.run("client", "plant-1/hall-6")
    assert own.cert.read_bytes() != before, "renewed"


def test_the_gateway_itself_keeps_to_these_rules(tmp_path: Path, broker: Broker, keys: Keys) -> None:
    """The real daemon under its own name: heard by the sink, asked by the operator; its sensors are on a broker of theirs."""
    with sensors_broker(tmp_path) as sensors, ExitStack() as stack:
        path = gateway_toml(tmp_path, sensors.port, uplink=keys.toml("s1/g1"))
        head, mark, rest = path.read_text().partition("[uplink]\n")
        rest = rest.replace(f"port = {sensors.port}", f"port = {broker.port}", 1)
        rest = rest.replace(
            "alerts_per_week = 100", "alerts_per_week = 1"
        )  # one that is still open when it is asked about
        path.write_text(head + mark + rest)
        sink = stack.enter_context(Account(broker, keys, "sink"))
        operator = stack.enter_context(Account(broker, keys, "operator"))
        feeder = stack.enter_context(Subscriber(sensors.port))
        daemon = stack.enter_context(running(path))
        root = "linewatch/s1/g1"

        def told(topic: str) -> list[dict[str, Any]]:
            return [json.loads(payload) for payload in sink.on(f"{root}/{topic}")]

        wait_for(lambda: [s for s in told("status") if s["connections"]["source mqtt"]["connected"]], "both")
        feed(feeder, rows())
        wait_for(lambda: [a for a in told("alert/pump-1") if a["kind"] == "machine"], "a machine alert")
        alert_id = told("alert/pump-1")[0]["alert_id"]
        body = {"transaction": "t-1", "alert_id": alert_id, "by": "Anna"}
        assert operator.publish(f"{root}/request/ack", json.dumps(body))
        wait_for(lambda: operator.on(f"{root}/response/ack"), "the answer")
        assert told("response/ack")[0]["ok"] is True
        wait_for(lambda: told("device/pump-1/state")[-1]["acked"] == [alert_id], "the state")
        daemon.kill()
        wait_for(lambda: told("status")[-1]["state"] == "offline", "its last will")


@pytest.mark.parametrize("whose", ["s1/g1", "s1/g2"])
def test_check_and_doctor_tell_whose_certificate_it_is(
    tmp_path: Path, broker: Broker, keys: Keys, whose: str
) -> None:
    with sensors_broker(tmp_path) as sensors:
        path = gateway_toml(tmp_path, sensors.port, uplink=keys.toml(whose))
        head, mark, rest = path.read_text().partition("[uplink]\n")
        path.write_text(head + mark + rest.replace(f"port = {sensors.port}", f"port = {broker.port}", 1))
        done = subprocess.run(
            edge_node("check", "-c", path, "--test"), capture_output=True, text=True, timeout=60
        )
        passed, said = done.returncode == 0, done.stdout
        doctor = subprocess.run(
            edge_node("doctor", "-c", path), capture_output=True, text=True, timeout=60
        ).stdout
    assert passed == (whose == "s1/g1")
    if passed:
        assert "and may subscribe and publish" in said
    told = "is the certificate of 's1/g2', and this gateway is s1/g1"
    assert (told in said) == (told in " ".join(doctor.split())) == (not passed)


def test_the_page_names_every_request_and_every_refusal() -> None:
    page = (SHIPPED.parents[1] / "docs" / "operations.md").read_text()
    assert [name for name in (*REQUEST_KINDS, *(r.value for r in Refusal)) if f"`{name}`" not in page] == []


def test_messages_beyond_the_limit_are_not_taken(broker: Broker, keys: Keys) -> None:
    limit = int(re.findall(r"^message_size_limit (\d+)", (SHIPPED / "mosquitto.conf").read_text(), re.M)[0])
    with Account(broker, keys, "sink") as sink, Account(broker, keys, "sink") as other:
        sink.publish("linewatch/models/pump/blob/1", bytes(1 << 20))
        wait_for(lambda: "linewatch/models/pump/blob/1" in other.topics(), "a blob", 30)
        with pytest.raises(pytest.fail.Exception):
            _impatient(sink, bytes(limit + 1))


def _impatient(account: Account, payload: bytes) -> Any:
    mid = account._client.publish("linewatch/models/pump/blob/2", payload, qos=1).mid
    return wait_for(lambda: mid in account._acked and account._acked[mid] == "Success", "a success", 2.0)


def test_what_is_kept_outlives_the_brokers_death(tmp_path: Path) -> None:
    """autosave: each change is on disk a moment later."""
    keys = Keys(tmp_path)
    with shipped_broker(keys) as started:
        with Account(started, keys, "plant-1/hall-3") as gateway:
            assert gateway.publish(f"{US}/status", b"online", retain=True)
        wait_for(lambda: (tmp_path / "mosquitto.db").exists(), "the first save")
        wait_for(lambda: b"hall-3/status" in (tmp_path / "mosquitto.db").read_bytes(), "the save")
        started.kill()
        started.start()
        with Account(started, keys, "sink") as sink:
            wait_for(lambda: sink.on(f"{US}/status") == [b"online"], "the retained status")
