"""What ``edge-node doctor`` says of real brokers: TLS, limits, access; and that a running gateway does not notice it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from edge_node.config import load_config
from edge_node.doctor import brokers
from edge_node.doctor.findings import Finding
from tests.brokers import Subscriber, broker, certificates, free_port, retained, wait_for
from tests.cloud_sink import sinks
from tests.edge_node.computers import levels
from tests.edge_node.daemons import config, edge_node, metrics, running, status, summed

ROOT = "linewatch/s1/g1"


def visited(path: Path, largest_bytes: int = 4000) -> list[Finding]:
    return list(brokers.uplink(load_config(path), largest_bytes))


def rights(folder: Path, *lines: str) -> str:
    """The broker's option for an ACL of these lines, for everybody."""
    file = folder / "acl"
    file.write_text("".join(f"{line}\n" for line in lines))
    return f"acl_file {file}"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_broker_that_lets_us_in(tmp_path: Path, version: str) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        found = visited(config(tmp_path, mosquitto.port, version=version))
        assert set(levels(found)) == {"ok"}
        assert f"MQTT {version}" in found[0].text
        assert ("20 messages at a time" in found[1].text) is (version == "5")
        assert found[-1].text == f"may publish and subscribe below {ROOT}"
        wait_for(lambda: seen.messages, "the message")
        assert [(m.topic, m.retained) for m in seen.messages] == [(f"{ROOT}/response/doctor", False)]
        assert retained(mosquitto.port, "linewatch") == {}


def test_a_running_sink_does_not_notice(tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port) as operator:
        sink = sinks.config(tmp_path, mosquitto.port, metrics_port=port)
        with sinks.running(sink) as running_sink:
            wait_for(lambda: sinks.fetched(port, "/healthz")[0] == 200, "the sink")
            assert set(levels(visited(config(tmp_path, mosquitto.port)))) == {"ok"}
            # What is no answer comes after it on the same way: once that is counted, all before it has been looked at.
            operator.publish(f"{ROOT}/response/other", b"{}")
            wait_for(lambda: sinks.metric(port, "sink_messages_refused_total"), "the refusal")
            assert sinks.metric(port, "sink_messages_refused_total") == 1
            running_sink.terminate()
            _, said = running_sink.communicate(timeout=20)
    assert "response/other" in said
    assert "response/doctor" not in said


def test_what_may_not_be_published_is_said_with_mqtt_5(tmp_path: Path) -> None:
    with broker(tmp_path, rights(tmp_path, f"topic read {ROOT}/#")) as mosquitto:
        found = visited(config(tmp_path, mosquitto.port))
    assert levels(found)[-1] == "fail"
    assert found[-1].text == f"may not publish below {ROOT}: Not authorized"
    assert f"write below {ROOT}" in found[-1].remedy


def test_the_rules_that_we_give_are_enough(tmp_path: Path) -> None:
    """With them a gateway's user is its site and name."""
    acl = Path(__file__).parents[2] / "examples" / "mosquitto" / "acl"
    (tmp_path / "password").write_text("right")
    uplink = 'username = "{}"\npassword_file = "password"'
    with broker(tmp_path, f"acl_file {acl}", password=("s1/g1", "right")) as mosquitto:
        found = visited(config(tmp_path, mosquitto.port, uplink=uplink.format("s1/g1")))
    assert set(levels(found)) == {"ok"}
    with broker(tmp_path, f"acl_file {acl}", password=("s1/g2", "right")) as mosquitto:
        found = visited(config(tmp_path, mosquitto.port, uplink=uplink.format("s1/g2")))
    assert levels(found)[-1] == "fail"


def test_and_with_311_that_nobody_can_tell(tmp_path: Path) -> None:
    """The broker acknowledges what it throws away; and what it takes, where we may not read it."""
    for acl in (f"topic read {ROOT}/#", f"topic write {ROOT}/#"):
        with broker(tmp_path, rights(tmp_path, acl, f"topic read {ROOT}/status")) as mosquitto:
            found = visited(config(tmp_path, mosquitto.port, version="3.1.1"))
        assert "warn" in levels(found)
        assert "is not said with MQTT 3.1.1" in found[-1].text


def subscriptions(folder: Path, *allowed: str) -> tuple[str, str]:
    """The broker's options with which anybody may publish, and subscribe to ``allowed`` alone. (An ACL file of mosquitto lets
    anybody subscribe, and then delivers nothing.)"""
    found = list(Path("/usr/lib").rglob("mosquitto_dynamic_security.so"))
    if not found:
        pytest.skip("this mosquitto has no dynamic security plugin: apt-get install mosquitto")
    acls = [{"acltype": "publishClientSend", "topic": "#", "priority": 0, "allow": True}]
    acls += [{"acltype": "subscribeLiteral", "topic": t, "priority": 0, "allow": True} for t in allowed]
    file = folder / "security.json"
    access = dict.fromkeys(("publishClientReceive", "unsubscribe"), True)
    access |= dict.fromkeys(("publishClientSend", "subscribe"), False)
    security = {
        "defaultACLAccess": access,
        "clients": [],
        "groups": [{"groupname": "anybody", "roles": [{"rolename": "some"}]}],
        "roles": [{"rolename": "some", "acls": acls}],
        "anonymousGroup": "anybody",
    }
    file.write_text(json.dumps(security))
    return f"plugin {found[0]}", f"plugin_opt_config_file {file}"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_what_may_not_be_heard_is_named(tmp_path: Path, version: str) -> None:
    allowed = subscriptions(tmp_path, f"{ROOT}/response/doctor", f"{ROOT}/status")
    with broker(tmp_path, *allowed) as mosquitto:
        found = visited(config(tmp_path, mosquitto.port, version=version))
    assert [f.level for f in found if "may not subscribe" in f.text] == ["warn"]
    assert f"may not subscribe to {ROOT}/request/+: what operators ask" in found[-1].text
    assert "fail" not in levels(found)


def test_limits_that_are_too_small(tmp_path: Path) -> None:
    with broker(tmp_path, "max_packet_size 3000", "max_inflight_messages 5") as mosquitto:
        path = config(tmp_path, mosquitto.port)
        large, small = visited(path, 3500), visited(path, 1000)
    assert levels(large)[1] == "fail"
    assert "3000 bytes, and summaries or alerts here are up to 3500" in large[1].text
    assert levels(small)[1] == "warn"
    assert "5 messages at a time" in small[1].text


def test_tls(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    with broker(tmp_path, *files.options) as mosquitto:
        good = visited(config(tmp_path, mosquitto.port, uplink=f'tls = {{ ca_file = "{files.ca}" }}'))
        other = visited(config(tmp_path, mosquitto.port, uplink=f'tls = {{ ca_file = "{files.other_ca}" }}'))
        none = visited(config(tmp_path, mosquitto.port))
    assert good[0].level == "warn"  # the test's certificate is of today alone
    assert "TLSv1.3, the broker's certificate is good for 1 days" in good[0].text
    assert levels(good)[1:] == ["ok", "ok"]
    assert levels(other) == ["fail"]
    assert "not trusted" in other[0].text
    assert "tls.ca_file" in other[0].remedy
    assert levels(none) == ["fail"]
    assert "tls = {}" in none[0].remedy


def test_who_is_not_there_or_does_not_let_us_in(tmp_path: Path) -> None:
    (nobody,) = visited(config(tmp_path, free_port()))
    assert (nobody.level, "start the broker" in nobody.remedy) == ("fail", True)
    (tmp_path / "password").write_text("wrong")
    with broker(tmp_path, password=("g1", "right")) as mosquitto:
        uplink = 'username = "g1"\npassword_file = "password"'
        (refused,) = visited(config(tmp_path, mosquitto.port, uplink=uplink))
    assert (refused.level, "password_file" in refused.remedy) == ("fail", True)


def test_sources(tmp_path: Path) -> None:
    with broker(tmp_path, *subscriptions(tmp_path, "plant/pump-1")) as mosquitto:
        loaded = load_config(config(tmp_path, mosquitto.port))
        (of,) = loaded.sources
        found = list(brokers.source(of))  # type: ignore[arg-type]
    assert levels(found) == ["ok", "fail"]
    assert "may not subscribe to plant/+" in found[1].text


def test_a_running_gateway_does_not_notice(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port, uplink='client_id = "g1"')
        with running(path) as daemon:
            wait_for(lambda: status(seen) == "online", "status online")
            wait_for(lambda: retained(mosquitto.port, ROOT), "what is retained")
            before = sorted(retained(mosquitto.port, ROOT))
            done = subprocess.run(
                edge_node("doctor", "-c", path, "--json"), capture_output=True, text=True, timeout=60
            )
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            assert done.returncode == (1 if any(line["level"] == "fail" for line in lines) else 0)
            assert {line["check"] for line in lines} >= {
                "python",
                "runtime",
                "configuration",
                "models",
                "user",
                "state",
                "disk",
                "clock",
                "source mqtt",
                "uplink",
                "access",
            }
            assert [line["level"] for line in lines if line["check"] in ("uplink", "access", "models")] == [
                "ok"
            ] * 4
            assert all(line["remedy"] for line in lines if line["level"] != "ok")
            assert done.stderr == ""
            assert status(seen) == "online"
            assert sorted(retained(mosquitto.port, ROOT)) == before
            assert json.loads(retained(mosquitto.port, ROOT)[f"{ROOT}/status"])["conflicts"] == []
            assert summed(metrics(port), "source_failures_total") == 0
            assert daemon.poll() is None
            daemon.kill()
            _, said = daemon.communicate(timeout=10)
    assert said.count("connected to") == 2
    assert "lost" not in said
