"""What is served over HTTP is for this computer, or for those who know the token: real sockets, a real daemon."""

from __future__ import annotations

import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from structlog.testing import capture_logs

from edge_node.config import ConfigError, load_config
from edge_node.config_schema import Gateway
from models import local_http
from models.config_http import is_loopback
from tests.brokers import HOST, broker, free_port, wait_for
from tests.edge_node.daemons import config, edge_node, running

TOKEN = "correct-horse-battery"


def hello(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


@contextmanager
def served(gateway: Gateway) -> Iterator[tuple[str, local_http.Guard]]:
    guard = local_http.Guard(hello, gateway.http_token_file, gateway.http_token_env)
    server = local_http.serve(HOST, 0, guard)
    try:
        yield f"http://{HOST}:{server.server_port}/", guard
    finally:
        server.shutdown()
        server.server_close()


def get(url: str, authorization: str | None = None) -> tuple[int, str, Any]:
    headers = {} if authorization is None else {"Authorization": authorization}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as reply:
            return reply.status, reply.read().decode(), reply.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_without_a_token_it_is_served_to_this_computer() -> None:
    with served(Gateway(name="g")) as (url, guard):
        assert get(url)[:2] == (200, "hello")
        assert guard.n_refused == 0


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN} {TOKEN}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN.upper()}",
        "Bearer \xff\xfe",
    ],
)
def test_who_does_not_know_the_token_gets_401(tmp_path: Path, given: str | None) -> None:
    file = tmp_path / "http.token"
    file.write_text(f"{TOKEN}\n")
    with (
        capture_logs() as logs,
        served(Gateway(name="g", http_token_file=file, metrics_host="0.0.0.0")) as (url, guard),
    ):
        code, text, headers = get(url, given)
        assert code == 401
        assert headers["WWW-Authenticate"] == 'Bearer realm="linewatch"'
        assert "hello" not in text
        assert TOKEN not in text
        assert guard.n_refused == 1
    assert TOKEN not in str(logs)


def test_who_knows_it_gets_in_and_a_new_one_counts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "http.token"
    file.write_text(f"{TOKEN}\n")
    with served(Gateway(name="g", http_token_file=file)) as (url, _):
        assert get(url, f"Bearer {TOKEN}")[:2] == (200, "hello")
        assert get(url, f"bearer {TOKEN}")[0] == 200
        file.write_text("another-token-of-16")
        assert get(url, f"Bearer {TOKEN}")[0] == 401
        assert get(url, "Bearer another-token-of-16")[0] == 200
        file.unlink()
        assert get(url, "Bearer another-token-of-16")[0] == 401, "nobody is let in by a file that is gone"
    monkeypatch.setenv("LW_HTTP", TOKEN)
    with served(Gateway(name="g", http_token_env="LW_HTTP")) as (url, _):
        assert get(url)[0] == 401
        assert get(url, f"Bearer {TOKEN}")[0] == 200


def test_a_client_that_says_nothing_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_http._Quiet, "timeout", 0.2)
    with served(Gateway(name="g")) as (url, _):
        port = int(url.rsplit(":", 1)[1].strip("/"))
        with socket.create_connection((HOST, port)) as silent:
            silent.settimeout(10)
            silent.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
            assert get(url)[0] == 200
            assert silent.recv(1) == b"", "and is dropped"


def test_which_hosts_are_this_computer() -> None:
    assert all(is_loopback(h) for h in ("127.0.0.1", "127.3.2.1", "localhost", "LOCALHOST", "::1"))
    assert not any(
        is_loopback(h) for h in ("0.0.0.0", "::", "10.0.0.1", "gateway.local", "127.0.0.1.evil.org")
    )


DEVICE = '[[device]]\nid = "d"\ninterval_s = 1\nchannels = ["x"]\n'


def problems(folder: Path, *lines: str) -> list[str]:
    path = folder / "gateway.toml"
    path.write_text("\n".join(['[gateway]\nname = "g"', *lines, DEVICE]))
    try:
        load_config(path)
    except ConfigError as error:
        return str(error).replace(f"{path}:", "").splitlines()
    return []


def test_others_are_let_in_only_with_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all = 'metrics_host = "0.0.0.0"'
    assert problems(tmp_path, open_to_all) == [
        '3: [gateway]: metrics_host = "0.0.0.0": others than this computer could read what is served there: give '
        "http_token_file or http_token_env"
    ]
    assert problems(tmp_path, open_to_all, "metrics_port = 0") == []
    (tmp_path / "t").write_text(TOKEN)
    assert problems(tmp_path, open_to_all, 'http_token_file = "t"') == []
    monkeypatch.setenv("LW_HTTP", TOKEN)
    assert problems(tmp_path, open_to_all, 'http_token_env = "LW_HTTP"') == []
    monkeypatch.delenv("LW_HTTP")
    for line, text in (
        ('http_token_file = "gone"', "this file cannot be read: No such file or directory"),
        ('http_token_env = "LW_HTTP"', "this environment variable is not set"),
    ):
        (found,) = problems(tmp_path, open_to_all, line)
        assert found.startswith("4: [gateway]: ")
        assert found.endswith(f": {text}")
    (found,) = problems(tmp_path, 'http_token_file = "t"', 'http_token_env = "LW_HTTP"')[:1]
    assert "give either this or http_token_file" in found


@pytest.mark.parametrize("bad", ["short", "fifteen-letters", "with a blank in it", "ümläut-ümläut-ümläut"])
def test_a_token_that_is_none_is_refused_and_not_shown(tmp_path: Path, bad: str) -> None:
    (tmp_path / "t").write_text(bad)
    (found,) = problems(tmp_path, 'http_token_file = "t"')
    assert "at least 16 printable ASCII characters, no spaces" in found
    assert bad not in found


def test_the_daemon_wants_the_token_and_counts_who_has_none(tmp_path: Path) -> None:
    (tmp_path / "t").write_text(TOKEN)
    with broker(tmp_path) as mosquitto:
        port = free_port()
        path = config(
            tmp_path, mosquitto.port, port, gateway='metrics_host = "0.0.0.0"\nhttp_token_file = "t"'
        )
        url = f"http://{HOST}:{port}/metrics"
        with running(path) as daemon:

            def answers() -> bool:
                with socket.socket() as sock:
                    return sock.connect_ex((HOST, port)) == 0

            wait_for(answers, "the metrics")
            assert get(url)[0] == 401
            assert get(url, "Bearer guess")[0] == 401
            code, text, _ = get(url, f"Bearer {TOKEN}")
            assert code == 200
            assert "linewatch_http_refused_total 2.0" in text
            daemon.terminate()
            _, said = daemon.communicate(timeout=15)
        assert TOKEN not in said
        assert "without the right token" in said
        path.write_text(path.read_text().replace('http_token_file = "t"', ""))
        done = subprocess.run(edge_node("run", "-c", path), capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert f"{path}:6: [gateway]: metrics_host" in done.stderr
