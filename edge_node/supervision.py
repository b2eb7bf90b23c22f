"""What the gateway tells the service manager that started it (systemd's sd_notify protocol): that it is ready, how it is, that it
reads its configuration anew, that it stops; and the watchdog, fed as ``watchdog.py`` allows.

Strategy: one datagram a message on the socket that the environment names; where it names none, nobody supervises us and nothing
is said. Invariants: nothing here waits; READY is said again until it has been sent, and everything that could not be sent is
counted; programs that we start do not inherit the socket.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

import structlog

from edge_node.assembly import Core
from edge_node.sources import Reach
from edge_node.uplink import Uplink
from edge_node.watchdog import Progress, Watchdog
from models.metrics import Family

STATUS_S = 5.0  # how often the status line is looked at where there is no watchdog
FEEDS = 4  # times that the watchdog is fed within its time

log = structlog.get_logger("linewatch.supervision")


class Supervision:
    """Says what there is to say, when it is due."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Takes what is for us out of ``environment``."""
        address = environment.pop("NOTIFY_SOCKET", "")
        watchdog_us = environment.pop("WATCHDOG_USEC", "")
        watchdog_pid = environment.pop("WATCHDOG_PID", str(os.getpid()))
        self.n_unsent = 0
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = None if not address else socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._watchdog = Watchdog()
        self._feed_s: float | None = None
        if watchdog_us.isdecimal() and int(watchdog_us) and watchdog_pid == str(os.getpid()):
            self._feed_s = int(watchdog_us) / 1e6 / FEEDS
        self._every_s = STATUS_S if self._feed_s is None else min(STATUS_S, self._feed_s)
        self._next_s = self._next_feed_s = 0.0
        self._ready = False
        self._reloading = False
        self._status = ""

    def turned(self, core: Core, n_queued: int, reach: Mapping[str, Reach], uplink: Uplink | None) -> None:
        """The loop has turned, and no part of the daemon has failed: it is ready, and alive if windows move."""
        if self._socket is None or (time.monotonic() < self._next_s and self._ready and not self._reloading):
            return
        now_s = time.monotonic()
        self._next_s = now_s + self._every_s
        words: dict[str, str] = {}
        if not self._ready or self._reloading:
            words["READY"] = "1"
        if (status := _status(core, reach, uplink)) != self._status:
            words["STATUS"] = status
        if self._feed_s is not None and now_s >= self._next_feed_s:
            self._next_feed_s = now_s + self._feed_s
            progress = Progress.of(core.pipeline, n_queued)
            if self._watchdog.may_be_fed(progress):
                words["WATCHDOG"] = "1"
            else:
                log.error("windows do not move: the watchdog is not fed", **_as_logged(progress))
        if words and self._say(**words):
            self._status = status
            self._ready, self._reloading = True, False

    def reloading(self) -> None:
        """The configuration is read anew; the next turn ends that."""
        self._reloading = self._ready
        if self._ready:
            self._say(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))

    def stopping(self) -> None:
        """The end has begun."""
        self._say(STOPPING="1", STATUS="stopping: what came in is settled and published")

    def families(self) -> list[Family]:
        """Metrics."""
        withheld = "Times that the service manager's watchdog was not fed, since windows did not move."
        unsent = "Messages that the service manager did not take."
        return [
            Family("watchdog_withheld", withheld, "counter", (), {(): self._watchdog.n_withheld}),
            Family("notifications_unsent", unsent, "counter", (), {(): self.n_unsent}),
        ]

    def _say(self, **words: str) -> bool:
        if self._socket is None:
            return True
        message = "\n".join(f"{key}={value}" for key, value in words.items())
        try:
            self._socket.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
        except OSError as error:
            self.n_unsent += 1
            log.warning(f"the service manager was not told {' '.join(words)}: {error.strerror}")
            return False
        return True


def _status(core: Core, reach: Mapping[str, Reach], uplink: Uplink | None) -> str:
    """For ``systemctl status``: one line."""
    n_up = sum(r.connected for r in reach.values())
    parts = [
        f"{len(core.plans)} device{'s' * (len(core.plans) != 1)}",
        f"{n_up} of {len(reach)} source{'s' * (len(reach) != 1)} connected",
    ]
    parts += [f"{name}: {r.last_error}" for name, r in reach.items() if r.last_error is not None][:2]
    if uplink is None:
        parts.append("no uplink")
    else:
        why = "" if uplink.connected or uplink.last_error is None else f" ({uplink.last_error})"
        parts.append(f"uplink {'connected' if uplink.connected else 'down'}{why}")
        if uplink.n_queued:
            n = uplink.n_queued
            parts.append("1 message waits" if n == 1 else f"{n} messages wait")
    return " ".join("; ".join(parts).split())


def _as_logged(progress: Progress) -> dict[str, int]:
    return {"values_queued": progress.n_queued, "windows_unscored": progress.n_unscored}
