"""Passwords, tokens and keys stay where they are kept: nothing that the gateway says, in whatever trouble, shows one."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from edge_node.config import load_config
from models.mqtt_access import read_password
from models.secret_values import read_secret
from tests.authority import Authority
from tests.brokers import HOST, Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import config, edge_node, running, status

PASSWORD, WRONG, TOKEN = "swordfish-7-uplink", "swordfish-8-wrong!", "token-of-the-page-42"
SECRETS = (PASSWORD, WRONG, TOKEN)


def shown(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("LW_PASSWORD", PASSWORD)
    monkeypatch.setenv("LW_TOKEN", TOKEN)
    return tmp_path


def toml(folder: Path, port: int, metrics_port: int = 0, tls: str = "") -> Path:
    """The uplink's password from a file, the source's from the environment; all is logged."""
    path = config(
        folder,
        port,
        metrics_port,
        uplink=f'username = "ann"\npassword_file = "password"\n{tls}',
        gateway='log_level = "debug"\nhttp_token_env = "LW_TOKEN"',
    )
    text = path.read_text()
    path.write_text(
        text.replace('type = "mqtt"', f'type = "mqtt"\nusername = "ann"\npassword_env = "LW_PASSWORD"\n{tls}')
    )
    return path


def run(*arguments: str | Path) -> str:
    done = subprocess.run(edge_node(*arguments), capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_a_gateway_that_works_shows_none(folder: Path) -> None:
    with broker(folder, password=("ann", PASSWORD)) as mosquitto:
        port = free_port()
        path = toml(folder, mosquitto.port, port)
        said = run("check", "-c", path) + run("check", "--test", "-c", path)
        assert said.count(": ok, ") == 2
        with running(path) as daemon:
            url = f"http://{HOST}:{port}/metrics"
            known = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})

            def figures() -> str:
                try:
                    return str(urllib.request.urlopen(known, timeout=5).read().decode())
                except urllib.error.URLError:
                    return ""

            wait_for(lambda: 'linewatch_connected{connection="uplink"} 1.0' in figures(), "the uplink")
            said += figures()
            said += Path(f"/proc/{daemon.pid}/cmdline").read_text()
            daemon.terminate()
            out, err = daemon.communicate(timeout=15)
            assert daemon.returncode == 0
            said += out + err
    assert shown(said) == []


def test_a_status_and_its_hash_show_none(folder: Path) -> None:
    with broker(folder) as open_to_all, Subscriber(open_to_all.port, "#") as seen:
        path = toml(folder, open_to_all.port)
        before = load_config(path)
        with running(path):
            wait_for(lambda: status(seen) == "online", "status online")
        heard = b"".join(m.payload for m in seen.messages).decode()
        assert before.config_hash in heard
        assert shown(heard) == []
    assert shown(repr(before)) == []
    (folder / "password").write_text(WRONG)
    os.environ["LW_PASSWORD"] = WRONG  # put back by the fixture
    assert load_config(path).config_hash == before.config_hash, "it tells nobody that a password has changed"


def test_a_gateway_that_is_not_let_in_shows_none(folder: Path) -> None:
    with broker(folder, password=("ann", WRONG)) as mosquitto:
        path = toml(folder, mosquitto.port)
        said = run("check", "--test", "-c", path)
        assert said.count("check username and password") == 2
        with running(path) as daemon:
            assert daemon.stderr is not None
            for line in daemon.stderr:
                said += line
                if said.count("Not authorized") >= 4:
                    break
            daemon.terminate()
            said += "".join(daemon.communicate(timeout=15))
    assert shown(said) == []


@pytest.mark.parametrize("what", ["missing", "empty", "binary", "unset"])
def test_a_secret_that_cannot_be_read_is_named_and_not_shown(folder: Path, what: str) -> None:
    path = toml(folder, free_port())
    file = folder / "password"
    if what == "missing":
        file.unlink()
    elif what == "empty":
        file.write_text("\n")
    elif what == "binary":
        file.write_bytes(PASSWORD.encode() + b"\xff\xfe")
    else:
        del os.environ["LW_PASSWORD"]  # put back by the fixture
    said = run("check", "-c", path) + run("run", "-c", path)
    assert said.count("password_env" if what == "unset" else "password_file") == 2
    assert shown(said) == []


CRASH = """
import sys
from edge_node import cli, uplink
def fails(self, link):
    raise RuntimeError("a defect of ours")
uplink.Uplink.on_turn = fails
sys.exit(cli.main(["run", "-c", sys.argv[1]]))
"""


def test_a_gateway_that_dies_of_a_defect_shows_none(folder: Path) -> None:
    with broker(folder, password=("ann", PASSWORD)) as mosquitto:
        path = toml(folder, mosquitto.port)
        command = [sys.executable, "-c", CRASH, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "a defect of ours" in done.stderr
    assert "Traceback" in done.stderr
    assert shown(done.stdout + done.stderr) == []


def test_no_error_holds_one(folder: Path) -> None:
    """Nor do the objects that a traceback would show."""
    path = toml(folder, 1883)
    uplink = load_config(path).uplink
    assert uplink is not None
    assert read_password(uplink) == PASSWORD
    (folder / "password").write_bytes(PASSWORD.encode() + b"\xff")
    for read in (lambda: read_password(uplink), lambda: read_secret(folder / "password", None)):
        with pytest.raises((OSError, ValueError)) as caught:
            read()
        error = caught.value
        assert error.__cause__ is None
        assert shown("".join(traceback.format_exception(error)) + repr(error.args)) == []
        context = error.__context__
        assert not isinstance(context, UnicodeDecodeError), "which holds what could not be decoded"


def test_no_key_is_shown(folder: Path) -> None:
    """Of one that does not fit its certificate, and of one that has a passphrase."""
    ca = Authority(folder)
    own, other = ca.issue("hall-3"), ca.issue("hall-4", passphrase=WRONG)
    secret = own.key.read_text().splitlines()[1]
    with broker(folder) as mosquitto:
        said = ""
        for cert, key in ((other.cert, own.key), (other.cert, other.key)):
            tls = f'tls = {{ ca_file = "{ca.pem}", cert_file = "{cert}", key_file = "{key}" }}'
            said += run("check", "--test", "-c", toml(folder, mosquitto.port, tls=tls))
    assert said.count("is not the key of") == 2
    assert said.count("has a passphrase") == 2
    assert secret not in said
    assert shown(said) == []
