"""Ptys for tests: the board's end, whose name moves as a cable's does."""

from __future__ import annotations

import contextlib
import os
import select
import time
import tty
from pathlib import Path


class Cable:
    """A pty at ``link``, a symbolic link that moves with each :meth:`plug`."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.master = -1
        self._slave = -1
        self.plug()

    @property
    def device(self) -> str:
        return os.ttyname(self._slave)

    def plug(self) -> None:
        """Connects, under another name than before."""
        master, slave = os.openpty()
        if self.master >= 0:  # only now, so that the name is not given again
            self.unplug()
        self.master, self._slave = master, slave
        tty.setraw(slave)
        os.set_blocking(master, False)
        fresh = self.link.with_name(self.link.name + ".new")
        fresh.symlink_to(self.device)
        fresh.replace(self.link)

    def unplug(self) -> None:
        self.link.unlink(missing_ok=True)
        for fd in (self.master, self._slave):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.master = self._slave = -1

    def send(self, data: bytes, within_s: float = 10.0) -> None:
        """All of ``data``, as fast as it is read."""
        deadline = time.monotonic() + within_s
        while data:
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self.master, data) :]
            if data:
                assert time.monotonic() < deadline, "nobody reads"
                select.select([], [self.master], [], 0.05)

    def waits(self, for_s: float) -> bool:
        """Whether anything comes from the host within ``for_s``."""
        try:
            return bool(select.select([self.master], [], [], for_s)[0])
        except (OSError, ValueError):  # unplugged meanwhile
            return False

    def receive(self) -> bytes:
        """What has come from the host."""
        got = b""
        while select.select([self.master], [], [], 0)[0]:
            try:
                got += os.read(self.master, 65536)
            except OSError:  # nobody has the other end open
                break
        return got
