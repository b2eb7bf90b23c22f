"""Where a gateway keeps what must survive a restart: one directory, one process at a time.

Invariant: what is in it is read and written by the process that holds its lock, and by no other.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import structlog

from edge_node.config import Config

LOCK_NAME = "lock"

log = structlog.get_logger("linewatch.state")


class StateInUse(Exception):
    """Another process has the directory; the text says what to do."""


class StateDir:
    """A directory that is ours until :meth:`close`. ``path`` is None where none is wanted, or none could be had, and then
    ``problem`` says why: the gateway keeps in memory what it would have kept there."""

    def __init__(self, path: Path | None) -> None:
        """Creates and locks ``path``. Raises StateInUse; a directory that cannot be written to is logged."""
        self.path: Path | None = path
        self.problem: str | None = None
        self._lock: int | None = None
        if path is None:
            return
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._lock, b"\0", 0)  # a file system that has become read-only shows itself here
        except OSError as error:
            self._give_up(error)
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise StateInUse(
                f"{path} is in use by another gateway process: stop that one, or give this one a [gateway] state_dir of "
                "its own"
            ) from error

    def _give_up(self, error: OSError) -> None:
        self.problem = (
            f"{self.path} cannot be written to ({error.strerror}): until that is mended and the gateway restarted, what it "
            "would keep there is kept in memory, and lost with the process"
        )
        log.error(self.problem)
        self.path = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def close(self) -> None:
        """Lets another process have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def state_dir_of(config: Config) -> Path:
    """``[gateway] state_dir``, else the StateDirectory that systemd gives, else beside the configuration file."""
    if config.gateway.state_dir is not None:
        return config.gateway.state_dir
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    path = config.path.absolute()
    return path.parent / f"{path.stem}-state"
