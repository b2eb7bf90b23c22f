"""One command of the sink's in a process of its own, bounded in time and memory: what is heavy does not hold up what comes in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

import structlog

MAX_OUTPUT = 8 << 20  # characters of standard output that are kept
END_S = 5.0

log = structlog.get_logger("linewatch.retrain")


class Child:
    """Running from the start. What it says on standard error is logged; ``shows``: what on standard output, too."""

    def __init__(self, command: Sequence[str], *, minutes: float, memory_mb: int, shows: bool) -> None:
        self.name = command[0]
        self._minutes, self._ends_s = minutes, time.monotonic() + 60.0 * minutes
        self._overdue = self._overfull = False
        self._output: list[str] = []
        self._last = ""
        # The other cores are for what comes in.
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cloud_sink.bounded", str(memory_mb), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | one_thread,
            start_new_session=True,  # Ctrl-C is for the sink, which ends it in order
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._hear, args=(stream, kept, told), daemon=True)
            for stream, kept, told in (
                (self._process.stdout, True, shows),
                (self._process.stderr, False, True),
            )
        ]
        for reader in self._readers:
            reader.start()

    @property
    def running(self) -> bool:
        """Whether it is; after its time it is ended."""
        if self._process.poll() is not None:
            return False
        if time.monotonic() > self._ends_s:
            self._overdue = True
            self.end()
            return False
        return True

    def end(self) -> None:
        """Kills it. Bounded; nothing to do if it has ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(END_S)
        self._join()

    @property
    def output(self) -> str:
        """Its standard output, once it has ended."""
        self._join()
        return "\n".join(self._output)

    @property
    def failure(self) -> str | None:
        """Why it failed, once it has ended; None where it did not."""
        code = self._process.wait(END_S)
        self._join()
        if code == 0:
            return f"{self.name} said more than {MAX_OUTPUT >> 20} MB" if self._overfull else None
        if self._overdue:
            return f"{self.name} took more than {self._minutes:g} minutes"
        if code < 0:
            return f"{self.name} was ended by signal {signal.Signals(-code).name}"
        return self._last.removeprefix("cloud-sink: ") or f"{self.name} ended with code {code}"

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(END_S)
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _hear(self, stream: IO[str], kept: bool, told: bool) -> None:
        n = 0
        for line in stream:
            text = line.rstrip()
            n += len(line)
            if kept and n <= MAX_OUTPUT:
                self._output.append(text)
            self._overfull |= kept and n > MAX_OUTPUT
            if not kept and text:
                self._last = text
            if told and text:
                log.info(text, step=self.name)
        stream.close()
