"""The demo's child processes: each in a session of its own with its output in a file, and none outlives the demo."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

HOST = "127.0.0.1"
CHOICE = "LINEWATCH_DEMO_BROKER"
NO_MOSQUITTO = "mosquitto is not installed (Debian: apt-get install mosquitto)"
TAIL_LINES = 15


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class _Interrupts:
    """What a signal asks for may have to wait: between the birth of a process and the note of it."""

    def __init__(self) -> None:
        self._n_held, self._asked = 0, False

    def ask(self, _number: int, _frame: object) -> None:
        """The handler of a signal."""
        if self._n_held:
            self._asked = True
            return
        raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        self._n_held += 1
        try:
            yield
        finally:
            self._n_held -= 1
        if self._asked and not self._n_held:
            self._asked = False
            raise KeyboardInterrupt


_interrupts = _Interrupts()
_alive: list[Child] = []  # those that nobody has stopped yet


def raise_when_asked_to_end() -> None:
    """From now on SIGINT (unless it is ignored), SIGTERM and SIGHUP raise KeyboardInterrupt, and lose no child."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupts.ask)


def stop_all() -> None:
    """Ends what an interrupt has left running."""
    for child in _alive[:]:
        child.interrupt()
    for child in _alive[:]:
        child.stop()


class Child:
    """A process that runs until :meth:`stop`; ends before that are noticed by :meth:`check`."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("ab") as output, _interrupts.held():
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends its children in order
            )
            _alive.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether it has ended with an error."""
        return self._process.poll() not in (None, 0)

    def text(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        """Raises DemoError when it has ended."""
        if not self.running:
            raise DemoError(self.told(f"ended by itself with code {self._process.returncode}"))

    def finish(self, timeout_s: float, wait: Callable[[], None] = lambda: time.sleep(0.05)) -> None:
        """Wait for its own end, calling ``wait`` meanwhile. Raises DemoError when it fails or takes longer."""
        deadline = time.monotonic() + timeout_s
        while self.running:
            if time.monotonic() > deadline:
                raise DemoError(self.told(f"did not end within {timeout_s:g} s"))
            wait()
        if self._process.returncode != 0:
            raise DemoError(self.told(f"failed with code {self._process.returncode}"))

    def interrupt(self) -> None:
        """Ask it to end."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, patience_s: float = 5.0) -> None:
        """End it: with SIGTERM, and where that does not help in ``patience_s``, with SIGKILL."""
        self.interrupt()
        try:
            self._process.wait(patience_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # who interrupts again will not wait
            self._process.kill()
            self._process.wait()
        if self in _alive:
            _alive.remove(self)

    def told(self, what: str) -> str:
        """``what`` happened to it, and the end of its log."""
        tail = self.text().splitlines()[-TAIL_LINES:]
        said = "\n".join(f"    {line}" for line in tail) or "    (it said nothing)"
        return f"{self.name} {what}; the end of {self.log}:\n{said}"


def mosquitto_path() -> str | None:
    """The mosquitto program, which Debian puts where only root looks."""
    return shutil.which("mosquitto") or shutil.which(
        "mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
    )


class Broker(Child):
    """An MQTT broker on a free port of 127.0.0.1: mosquitto where it is installed, else amqtt, which comes with the
    development tools. ``LINEWATCH_DEMO_BROKER`` = "mosquitto" or "embedded" chooses."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        choice = environment.get(CHOICE, "")
        if choice not in ("", "mosquitto", "embedded"):
            raise DemoError(f'{CHOICE} is {choice!r}: it may be "mosquitto" or "embedded"')
        mosquitto = None if choice == "embedded" else mosquitto_path()
        if choice == "mosquitto" and mosquitto is None:
            raise DemoError(NO_MOSQUITTO)
        self.port = free_port()
        if mosquitto is not None:
            self.kind, self.mqtt_version = "mosquitto", "5"
            config = folder / "mosquitto.conf"
            config.write_text(
                f"listener {self.port} {HOST}\nallow_anonymous true\nset_tcp_nodelay true\n"
                "max_inflight_messages 0\n"  # a sink acknowledges many at once
                "max_queued_messages 0\n"  # by default a subscriber that is slow for a moment loses messages
                + ("user root\n" if os.geteuid() == 0 else "")
            )
            command = [mosquitto, "-c", str(config)]
        else:
            self.kind, self.mqtt_version = "embedded (amqtt)", "3.1.1"
            command = [sys.executable, "-m", "examples.demo.embedded_broker", str(self.port)]
        super().__init__("the broker", command, folder / "broker.log")

    def wait_until_listening(self, timeout_s: float = 15.0) -> None:
        """Raises DemoError when it does not come up."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.check()
            with socket.socket() as sock:
                if sock.connect_ex((HOST, self.port)) == 0:
                    return
            if time.monotonic() > deadline:
                raise DemoError(self.told(f"does not listen after {timeout_s:g} s"))
            time.sleep(0.02)


def free_port() -> int:
    """A TCP port of this machine that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port
