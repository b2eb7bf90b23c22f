"""The other end of sd_notify, for tests: a real datagram socket, as systemd has one."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import environ
from pathlib import Path

from tests.brokers import wait_for

WATCHDOG_S = 1.0


class NotifySocket:
    """What came, message by message, each as its fields; with when it came."""

    def __init__(self, address: str | Path) -> None:
        self.address = str(address)
        self.messages: list[dict[str, str]] = []
        self.times_s: list[float] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address[1:] if self.address.startswith("@") else self.address)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def said(self, **words: str) -> list[dict[str, str]]:
        """The messages that say all of ``words``."""
        return [m for m in list(self.messages) if words.items() <= m.items()]

    def wait(self, what: str, **words: str) -> dict[str, str]:
        """The first message that says all of ``words``, as soon as it has come."""
        found: dict[str, str] = wait_for(lambda: self.said(**words), what)[0]
        return found

    @property
    def n_feeds(self) -> int:
        return len(self.said(WATCHDOG="1"))

    @property
    def unfed_s(self) -> float:
        """Since the watchdog was last fed."""
        fed = [t for t, m in zip(self.times_s, list(self.messages), strict=False) if "WATCHDOG" in m]
        return time.monotonic() - fed[-1]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _listen(self) -> None:
        while data := self._socket.recv(65536):
            self.times_s.append(time.monotonic())
            self.messages.append(dict(line.split("=", 1) for line in data.decode().splitlines()))


@contextmanager
def supervised(
    address: str | Path, config: Path, *arguments: str, program: str = ""
) -> Iterator[tuple[subprocess.Popen[str], NotifySocket]]:
    """``edge-node run`` as systemd starts it; ``program``: Python that runs first, with ``arguments`` in sys.argv."""
    notified = NotifySocket(address)
    start = "import sys; from edge_node.cli import main; raise SystemExit(main(['run', '-c', sys.argv[1]]))"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program}\n{start}", str(config), *arguments],
        env={**environ, "NOTIFY_SOCKET": notified.address, "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, notified
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)
        notified.close()
