"""A broker that wants to know who comes: client certificates, and one clear line for each reason not to be let in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_node.config_schema import MqttSource, Uplink
from models.broker_options import Tls
from models.mqtt_access import tls_context
from models.mqtt_client import Connection
from tests.authority import Authority, Own
from tests.brokers import HOST, Broker, broker, free_port, wait_for
from tests.edge_node.daemons import config as gateway_toml
from tests.edge_node.daemons import connected, edge_node, metrics, running
from tests.models.test_mqtt_client import Recorded, failure
from tests.models.test_mqtt_client import connection as connecting


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def options(ca: Authority, version: str = "") -> list[str]:
    """Of a broker that lets nobody in without a certificate."""
    own = ca.issue("localhost")
    lines = [f"cafile {ca.pem}", f"certfile {own.cert}", f"keyfile {own.key}", "require_certificate true"]
    return [*lines, "use_identity_as_username true", *([f"tls_version {version}"] if version else [])]


@pytest.fixture(params=["tlsv1.3", "tlsv1.2"])
def strict(tmp_path: Path, ca: Authority, request: pytest.FixtureRequest) -> Iterator[Broker]:
    with broker(tmp_path, *options(ca, request.param)) as started:
        yield started


def source(port: int, ca: Authority, own: Own | None, **more: Any) -> MqttSource:
    cert, key = (None, None) if own is None else own
    tls = Tls(ca_file=ca.pem, cert_file=cert, key_file=key)
    settings: Any = {"reconnect_min_s": 0.05, "reconnect_max_s": 0.2} | more
    return MqttSource(host=HOST, port=port, tls=tls, **settings)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_client_certificate_lets_in(strict: Broker, ca: Authority, version: Any) -> None:
    own = ca.issue("plant-1/hall-3")
    with connecting(source(strict.port, ca, own, version=version)) as conn:
        wait_for(lambda: conn.connected, "the connection")
    assert "u'plant-1/hall-3'" in strict.log()


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize("kind", ["source", "uplink"])
def test_what_the_broker_does_not_take_is_said_and_tried_again(
    strict: Broker, ca: Authority, tmp_path: Path, kind: str, version: Any
) -> None:
    expired, alien = ca.issue("expired", ended=timedelta(days=2)), Authority(tmp_path, "Alien CA")
    for own, text in (
        (None, "the broker wants a client certificate: set tls.cert_file and tls.key_file"),
        (alien.issue("alien"), f"the broker does not trust who signed {tmp_path}/alien.pem"),
        (
            expired,
            f"the broker says that {expired.cert} has expired: {expired.cert} was valid until 20",
        ),
    ):
        settings: Any = source(strict.port, ca, own, version=version)
        if kind == "uplink":
            settings = Uplink(
                host=HOST,
                port=strict.port,
                tls=settings.tls,
                version=version,
                reconnect_min_s=0.05,
                reconnect_max_s=0.2,
            )
        assert failure(settings).startswith(text)


def test_a_broker_that_we_do_not_trust(strict: Broker, ca: Authority, tmp_path: Path) -> None:
    own, other = ca.issue("hall-3"), Authority(tmp_path, "Other CA")
    settings = source(strict.port, other, own)
    assert failure(settings).startswith("the broker's certificate is not trusted: ")


def test_a_broker_whose_certificate_has_expired(tmp_path: Path, ca: Authority) -> None:
    own = ca.issue("hall-3")
    lines = options(ca)
    ca.issue("localhost", ended=timedelta(hours=1))
    with broker(tmp_path, *lines) as stale:
        assert failure(source(stale.port, ca, own)) == (
            "the broker's certificate is not trusted: certificate has expired"
        )


def test_files_that_cannot_be_used_are_named(ca: Authority, tmp_path: Path) -> None:
    own, other = ca.issue("hall-3"), ca.issue("hall-4")
    garbage, locked = tmp_path / "garbage.pem", ca.issue("locked", passphrase="opensesame")
    garbage.write_text("no certificate\n")
    gone = tmp_path / "gone.key"
    for cert, key, text in (
        (own.cert, gone, f"tls.key_file {gone} cannot be read"),
        (own.cert, tmp_path, f"tls.key_file {tmp_path} cannot be read"),
        (gone, own.key, f"tls.cert_file {gone} cannot be read"),
        (own.cert, other.key, f"tls.key_file {other.key} is not the key of tls.cert_file {own.cert}"),
        (own.cert, garbage, f"tls.key_file {garbage} holds no private key as PEM: "),
        (own.cert, None, f"tls.cert_file {own.cert} (there is no key_file) holds no private key as PEM: "),
        (garbage, own.key, f"tls.cert_file {garbage} is not a certificate as PEM: "),
        (locked.cert, locked.key, f"tls.key_file {locked.key}: the key has a passphrase, "),
    ):
        assert failure(source(free_port(), ca, Own(cert, key))).startswith(text)  # type: ignore[arg-type]
    bad = source(free_port(), ca, own)
    bad = MqttSource(
        host=HOST, port=bad.port, tls=Tls(ca_file=garbage), reconnect_min_s=0.05, reconnect_max_s=0.2
    )
    assert failure(bad).startswith(f"tls.ca_file {garbage} is not of certificates as PEM: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's right to read everything")
def test_a_key_that_may_not_be_read_is_named(ca: Authority, tmp_path: Path) -> None:
    own = ca.issue("hall-3")
    own.key.chmod(0)
    program = (
        "import os, sys; from pathlib import Path; from models.broker_options import Tls\n"
        "from models.mqtt_access import tls_context\n"
        "os.setuid(65534)\n"
        f"tls_context(Tls(ca_file=None, cert_file=Path({str(own.cert)!r}), key_file=Path({str(own.key)!r})))"
    )
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stderr.splitlines()[-1] == f"OSError: tls.key_file {own.key} cannot be read"


def test_nobody_is_asked_for_a_passphrase(ca: Authority) -> None:
    """OpenSSL would, on the terminal, and the gateway would wait there for ever."""
    own = ca.issue("hall-3", passphrase="opensesame")
    pid, terminal = os.forkpty()
    if pid == 0:
        try:
            tls_context(Tls(cert_file=own.cert, key_file=own.key))
        except OSError as error:
            os.write(1, f"said: {error}".encode())
        os._exit(0)
    said = b""
    while chunk := _read(terminal):
        said += chunk
    os.waitpid(pid, 0)
    assert b"said: tls.key_file" in said
    assert b"Enter PEM" not in said


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def test_a_renewed_certificate_is_read_when_connecting_again(strict: Broker, ca: Authority) -> None:
    old = ca.issue("hall-3", ended=timedelta(minutes=1))
    session = Recorded()
    with connecting(source(strict.port, ca, old), session) as conn:
        wait_for(lambda: conn.n_failures >= 2, "refusals")
        assert not conn.connected
        assert ca.issue("hall-3") == old, "new ones, in the same files"
        wait_for(lambda: conn.connected, "the connection")
        fresh = old.cert.read_bytes()
        strict.stop()
        old.cert.write_text("half-writt")
        strict.start()
        wait_for(lambda: "is not a certificate" in (conn.last_error or ""), "its name")
        old.cert.write_bytes(fresh)
        wait_for(lambda: conn.connected, "the connection")
        assert conn.n_connects == 2


def test_an_authority_that_is_replaced_is_read_again_too(tmp_path: Path, ca: Authority) -> None:
    own = ca.issue("hall-3")
    with broker(tmp_path, *options(ca)) as strict:
        good = ca.pem.read_bytes()
        other = Authority(tmp_path, "Other CA")
        pinned = tmp_path / "pinned.pem"
        pinned.write_bytes(other.pem.read_bytes())
        tls = Tls(ca_file=pinned, cert_file=own.cert, key_file=own.key)
        settings = MqttSource(host=HOST, port=strict.port, tls=tls, reconnect_min_s=0.05, reconnect_max_s=0.2)
        with connecting(settings) as conn:
            wait_for(lambda: conn.n_failures, "a refusal")
            pinned.write_bytes(good)
            wait_for(lambda: conn.connected, "the connection")


def test_the_daemon_and_its_check_with_certificates(tmp_path: Path, ca: Authority) -> None:
    """Source and uplink; the check says what is wrong with which."""
    own = ca.issue("s1/g1")
    with broker(tmp_path, *options(ca)) as strict:
        port = free_port()
        path = gateway_toml(tmp_path, strict.port, port)
        good = f'tls = {{ ca_file = "{ca.pem}", cert_file = "{own.cert}", key_file = "{own.key}" }}'
        plain = path.read_text()
        address = f"port = {strict.port}\n"
        path.write_text(plain.replace(address, f"{address}{good}\nreconnect_max_s = 1.0\n"))
        with running(path):
            wait_for(lambda: connected(port), "the source's connection")
            wait_for(lambda: metrics(port).get('linewatch_connected{connection="uplink"}'), "the uplink's")
        done = subprocess.run(edge_node("check", "--test", "-c", path), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        path.write_text(plain.replace(address, f'{address}tls = {{ ca_file = "{ca.pem}" }}\n'))
        done = subprocess.run(edge_node("check", "--test", "-c", path), capture_output=True, text=True)
        assert done.returncode == 1
        lines = [line for line in done.stdout.splitlines() if "wants a client certificate" in line]
        assert [line.split(":")[0] for line in lines] == ["source mqtt", "uplink"]


def test_what_a_connection_is_told_is_of_that_attempt(strict: Broker, ca: Authority) -> None:
    """A refusal is over once it is put right."""
    own = ca.issue("hall-3", ended=timedelta(minutes=1))
    conn: Connection
    with connecting(source(strict.port, ca, own)) as conn:
        wait_for(lambda: conn.last_error, "a refusal")
        ca.issue("hall-3")
        wait_for(lambda: conn.connected, "the connection")
        assert conn.last_error is None
