"""Boards on ptys for the tests of the command line: the simulator as a process, and lines that a test writes itself."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from firmware_bridge import framing, protocol
from firmware_bridge.protocol import Message
from tests.brokers import wait_for

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


def command(*arguments: str | Path | int | float) -> list[str]:
    """``firmware-bridge`` of this tree."""
    return [sys.executable, "-m", "firmware_bridge.cli", *map(str, arguments)]


def ended(*arguments: str | Path | int | float) -> subprocess.CompletedProcess[str]:
    """``firmware-bridge``, once it has ended by itself."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


class Running:
    """A ``firmware-bridge`` that runs, and what it has said."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self._log = folder / f"{words[3] if len(words) > 3 else 'said'}-{len(list(folder.iterdir()))}.log"
        with self._log.open("wb") as log:
            environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
            self.process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, env=environment)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def says(self, pattern: str) -> re.Match[str]:
        """Waits until it has said something that matches."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.said)
            if match is None and self.process.poll() is not None:
                raise AssertionError(f"it ended without saying {pattern!r}:\n{self.said}")
            return match

        match: re.Match[str] = wait_for(found, f"{pattern!r} in:\n{self.said}", PATIENCE_S)
        return match

    def stop(self, number: signal.Signals = signal.SIGINT) -> str:
        """Ends it as a person does; what it has said."""
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE_S) == 0, self.said
        return self.said


@contextmanager
def running(folder: Path, *arguments: str | Path | int | float) -> Iterator[Running]:
    """``firmware-bridge``, killed in the end if it has not ended."""
    started = Running(folder, command(*arguments))
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


@contextmanager
def simulated(folder: Path, *options: str | float, link: str = "board") -> Iterator[tuple[Path, Running]]:
    """A simulated board: (where it is, its process)."""
    path = folder / link
    with running(folder, "simulate", "--link", path, *options) as process:
        wait_for(path.exists, "the board's pty")
        yield path, process


class OpenLine:
    """A pty whose board is the test. Write once the other end has opened it: opening discards what waits."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._seq = 0

    def write(self, data: bytes) -> None:
        os.write(self._master, data)

    def send(self, *messages: Message) -> None:
        for message in messages:
            self._seq += 1
            self.write(framing.encode(protocol.encode(message, self._seq)))

    def close(self) -> None:
        """Pulls the cable."""
        for end in (self._master, self._slave):
            if end >= 0:
                os.close(end)
        self._master = self._slave = -1

    def __enter__(self) -> OpenLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
