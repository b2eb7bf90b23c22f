from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_node.config_schema import MqttSource, Uplink
from models.broker_options import Tls
from models.log_limit import LogLimit
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Receipt, Will, backoff_s
from tests.brokers import HOST, Broker, Subscriber, broker, certificates, free_port, wait_for


class Recorded:
    """A session that writes down what happens to it."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.messages: list[tuple[str, bytes, bool]] = []
        self.acked: list[tuple[int, str | None]] = []
        self.lost: list[bool] = []
        self.threads: set[str] = set()

    def on_connected(self, link: Link) -> None:
        self.links.append(link)
        link.subscribe([("in/#", 1)])
        self.threads.add(threading.current_thread().name)

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        self.messages.append((topic, payload, retained))

    def on_acked(self, mid: int, refusal: str | None) -> None:
        self.acked.append((mid, refusal))

    def on_lost(self, blameless: bool) -> None:
        self.lost.append(blameless)

    def on_turn(self, link: Link) -> None:
        self.threads.add(threading.current_thread().name)


def config(port: int, **more: Any) -> MqttSource:
    settings: Any = {"host": HOST, "port": port, "reconnect_min_s": 0.05, "reconnect_max_s": 0.2} | more
    return MqttSource(**settings)


@contextmanager
def connection(
    broker_config: MqttSource | Uplink, session: Recorded | None = None, **more: Any
) -> Iterator[Connection]:
    conn = Connection(
        broker_config,
        session or Recorded(),
        label="test",
        client_id="linewatch-test",
        max_packet_bytes=1 << 20,
        **more,
    )
    conn.start()
    try:
        yield conn
    finally:
        conn.stop()
        assert conn.finished.result(10) is None
        assert not conn.connected


def failure(broker_config: MqttSource, **more: Any) -> str:
    """The one line that says why the connection fails, as it is logged; the attempts go on."""
    session = Recorded()
    with capture_logs() as logs, connection(broker_config, session, **more) as conn:
        wait_for(lambda: conn.n_failures >= 2, "a second attempt", 30)
        assert not conn.connected
        assert conn.last_error is not None
    assert session.links == []
    assert session.lost == []
    warned = [e["event"] for e in logs if e["log_level"] == "warning"]
    assert len(warned) == 1
    assert "\n" not in warned[0]
    assert conn.last_error in warned[0]
    return conn.last_error


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    with broker(tmp_path) as started:
        yield started


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_connect_publish_receive(mosquitto: Broker, version: Any) -> None:
    session = Recorded()
    with capture_logs() as logs, connection(config(mosquitto.port, version=version), session) as conn:
        wait_for(lambda: conn.connected, "the connection")
        with Subscriber(mosquitto.port) as other:
            other.publish("in/a", b"\x00\xff")
            wait_for(lambda: session.messages, "a message")
    assert session.messages == [("in/a", b"\x00\xff", False)]
    assert session.lost == [False]
    assert session.threads == {"mqtt test"}
    assert [e["event"] for e in logs] == [f"connected to 127.0.0.1:{mosquitto.port} with MQTT {version}"]


def test_nagle_is_off(mosquitto: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []
    real = socket.create_connection

    def spy(*args: Any, **kwargs: Any) -> socket.socket:
        opened.append(real(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(socket, "create_connection", spy)
    with connection(config(mosquitto.port)) as conn:
        wait_for(lambda: conn.connected, "the connection")
        assert opened[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_password(tmp_path: Path, version: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("right\n")
    with broker(tmp_path, password=("ann", "right")) as guarded:
        good = config(guarded.port, version=version, username="ann", password_file=secret)
        with connection(good) as conn:
            wait_for(lambda: conn.connected, "the connection")
        monkeypatch.setenv("LW_TEST_PASSWORD", "wrong")
        bad = config(guarded.port, version=version, username="ann", password_env="LW_TEST_PASSWORD")
        assert (
            failure(bad) == "the broker refused the connection: Not authorized: check username and password"
        )
        monkeypatch.delenv("LW_TEST_PASSWORD")
        assert failure(bad) == "password_env LW_TEST_PASSWORD: this environment variable is not set"
        gone = config(guarded.port, version=version, username="ann", password_file=tmp_path / "gone")
        assert failure(gone) == (
            f"password_file {tmp_path}/gone: this file cannot be read: No such file or directory"
        )


def test_a_password_that_is_put_right_is_read_again(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    with broker(tmp_path, password=("ann", "right")) as guarded:
        settings = config(guarded.port, username="ann", password_file=secret)
        with connection(settings) as conn:
            wait_for(lambda: conn.n_failures, "a refusal")
            secret.write_text("right")
            wait_for(lambda: conn.connected, "the connection")


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_tls(tmp_path: Path, version: Any) -> None:
    files = certificates(tmp_path)
    with broker(tmp_path, *files.options) as secure:
        session = Recorded()
        with connection(config(secure.port, version=version, tls=Tls(ca_file=files.ca)), session) as conn:
            wait_for(lambda: conn.connected, "the connection")
        plain = config(secure.port, version=version)
        assert failure(plain) == (
            "it closed the connection before accepting it: is this an MQTT port, and does it want TLS?"
        )
        for tls, text in (
            (Tls(ca_file=files.other_ca), "the broker's certificate is not trusted: "),
            (Tls(), "the broker's certificate is not trusted: "),
            (Tls(ca_file=tmp_path / "gone"), f"tls.ca_file {tmp_path}/gone cannot be read"),
            (
                Tls(ca_file=files.server_key),
                f"tls.ca_file {files.server_key} is not of certificates as PEM: ",
            ),
        ):
            assert failure(config(secure.port, version=version, tls=tls)).startswith(text)


def test_tls_checks_the_name_unless_told_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = certificates(tmp_path)
    real = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda address, *a, **k: real((HOST, address[1]), *a, **k)
    )
    with broker(tmp_path, *files.options) as secure:
        strict = config(secure.port, host="elsewhere.test", tls=Tls(ca_file=files.ca))
        assert "not valid for 'elsewhere.test'" in failure(strict)
        lax = config(secure.port, host="elsewhere.test", tls=Tls(ca_file=files.ca, verify_host=False))
        with connection(lax) as conn:
            wait_for(lambda: conn.connected, "the connection")


def test_tls_against_a_broker_without(mosquitto: Broker) -> None:
    assert failure(config(mosquitto.port, tls=Tls()), connect_timeout_s=1.0)


def test_nobody_listens() -> None:
    assert failure(config(free_port())) == "connection refused: no broker listens there"


def test_no_such_host() -> None:
    text = failure(config(1883, host="no-such-host.invalid"), connect_timeout_s=5.0)
    assert text.startswith("the host name cannot be resolved: ")


@contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """Takes TCP connections; answers the first bytes with ``answer``, or never."""
    with socket.create_server((HOST, 0)) as listening:
        listening.settimeout(0.1)
        stop = threading.Event()
        open_sockets: list[socket.socket] = []

        def serve() -> None:
            while not stop.is_set():
                try:
                    sock, _ = listening.accept()
                except TimeoutError:
                    continue
                open_sockets.append(sock)
                if answer is not None:
                    sock.recv(4096)
                    sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            stop.set()
            thread.join()
            for sock in open_sockets:
                sock.close()


def test_a_broker_that_accepts_and_hangs() -> None:
    with server(None) as port:
        text = failure(config(port), connect_timeout_s=0.3)
        assert text == "it took the connection but did not answer in 0.3 s"
        text = failure(config(port, tls=Tls()), connect_timeout_s=0.3)
        assert text == "no answer: the connection timed out (during the TLS handshake?)"


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x02\x00\x01",
        b"\x20\x00",
        b"\x20\xff\xff\xff\xff\xff",
        b"\x00" * 64,
    ],
)
def test_something_that_is_no_broker(answer: bytes, version: Any) -> None:
    with server(answer) as port:
        assert failure(config(port, version=version), connect_timeout_s=0.5)


def test_a_broker_that_goes_silent(tmp_path: Path) -> None:
    """A broker whose host is gone: TCP says nothing, the keepalive finds out."""
    with server(b"\x20\x02\x00\x00") as port:
        session = Recorded()
        with connection(config(port, keepalive_s=1), session) as conn:
            wait_for(lambda: session.lost, "finding out")
            assert session.lost[0] is True
            assert conn.n_connects >= 1


def test_the_last_will_is_for_connections_that_are_lost(mosquitto: Broker) -> None:
    will = Will("gone", b"offline")
    with Subscriber(mosquitto.port, "gone") as other:
        with connection(config(mosquitto.port), will=will) as conn:
            wait_for(lambda: conn.connected, "the connection")
        other.publish("gone", b"stopped cleanly")
        wait_for(lambda: other.messages, "a message")
        assert other.on("gone") == [b"stopped cleanly"]
        # the same client id from elsewhere: the broker throws the first connection off and publishes its will
        with connection(config(mosquitto.port), will=will) as conn:
            wait_for(lambda: conn.connected, "the connection")
            with connection(config(mosquitto.port)):
                wait_for(lambda: other.on("gone")[1:] == [b"offline"], "the last will")


def test_a_refused_subscription_is_an_error() -> None:
    # mosquitto grants what it will not serve, so a server of our own refuses
    connack, suback = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x80"
    with server(connack + suback) as port, capture_logs() as logs, connection(config(port)) as conn:
        wait_for(lambda: [e for e in logs if e["log_level"] == "error"], "the error")
        assert conn.connected
        assert conn.last_error == "the broker refused the subscription to 'in/#': Unspecified error"
    text = next(e["event"] for e in logs if e["log_level"] == "error")
    assert text.endswith("the broker refused the subscription to 'in/#': Unspecified error")


def test_a_session_that_another_client_took_over_is_named() -> None:
    # mosquitto 2.0.11 just closes the connection, so a server of our own says why
    connack, disconnect = b"\x20\x03\x00\x00\x00", b"\xe0\x02\x8e\x00"
    session = Recorded()
    with (
        server(connack + disconnect) as port,
        capture_logs() as logs,
        connection(config(port, version="5"), session) as conn,
    ):
        wait_for(lambda: conn.n_failures >= 2, "a second attempt")
        assert conn.n_taken_over >= 2
        assert session.lost[0] is True
    text = next(e["event"] for e in logs if e["log_level"] == "warning")
    why = "the broker closed the connection: Session taken over: another client has the client_id 'linewatch-test'"
    assert f": {why}; trying again in " in text


def test_two_of_one_client_id_are_suspected_where_the_broker_says_nothing(mosquitto: Broker) -> None:
    with (
        connection(config(mosquitto.port), Recorded()) as one,
        connection(config(mosquitto.port), Recorded()) as two,
    ):
        wait_for(lambda: any("again and again" in (c.last_error or "") for c in (one, two)), "a suspicion")
        said = [c.last_error or "" for c in (one, two)]
    assert any(text.endswith("has another client the client_id 'linewatch-test'?") for text in said)


@pytest.mark.parametrize("error", [TypeError, ValueError, KeyError, OSError])
@pytest.mark.parametrize("callback", ["on_connected", "on_message", "on_acked", "on_turn", "on_lost"])
def test_a_session_that_fails_ends_the_thread(
    mosquitto: Broker, monkeypatch: pytest.MonkeyPatch, callback: str, error: type[Exception]
) -> None:
    """Also with what paho raises when the other end is no broker: it is no failure of the network."""

    class Broken(Recorded):
        def on_connected(self, link: Link) -> None:
            super().on_connected(link)
            link.publish("in/x", b"1", retain=False)

        def on_acked(self, mid: int, refusal: str | None) -> None:
            super().on_acked(mid, refusal)
            if callback == "on_lost":
                mosquitto.kill()

    def fails(*_: Any) -> None:
        raise error("a defect of ours")

    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    monkeypatch.setattr(Broken, callback, fails)
    conn = Connection(
        config(mosquitto.port), Broken(), label="test", client_id="linewatch-test", max_packet_bytes=1 << 20
    )
    conn.start()
    with pytest.raises(error, match="a defect of ours"):
        conn.finished.result(10)
    conn.stop()
    assert len(raised) == 1
    assert conn.n_connects == 1
    assert conn.n_failures == 0


def test_backoff_doubles_to_its_limit_and_spreads() -> None:
    assert [backoff_s(1, 60, i, 0.0) for i in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_s(1, 60, 10_000, 0.0) == 60
    assert backoff_s(1, 60, 3, 0.999) > 4.0


def test_log_limit() -> None:
    limit = LogLimit(10.0, max_keys=2)
    assert limit.due("a", 0.0) == 0
    assert limit.due("a", 9.0) is None
    assert limit.due("b", 9.0) == 0
    assert limit.due("a", 10.0) == 1
    assert limit.due("c", 10.0) == 0  # the third key and all after it share one
    assert limit.due("d", 10.0) is None
    assert limit.due("e", 20.0) == 1
