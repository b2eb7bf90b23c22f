"""A command whose terminal is closed ends as well as one that is asked to."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.recording import read_log
from models.signal import SampleBlock
from tests.brokers import Subscriber, broker, wait_for
from tests.edge_node.daemons import channels, config, edge_node, rows, status


class Terminal:
    """The one terminal of a process, until it is closed."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()

    def close(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


@contextmanager
def in_a_terminal(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    """``edge-node`` as a person starts it."""
    terminal = Terminal()
    process = subprocess.Popen(
        edge_node(*arguments),
        stdin=terminal.slave,
        stdout=terminal.slave,
        stderr=terminal.slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal.slave)
    try:
        yield process, terminal
    finally:
        terminal.close()
        if process.poll() is None:
            process.kill()
        process.wait()


def test_a_recording_ends_well_with_its_terminal(tmp_path: Path) -> None:
    with broker(tmp_path, "log_type all") as mosquitto, Subscriber(mosquitto.port) as sensors:
        path, log = config(tmp_path, mosquitto.port), tmp_path / "log.parquet"
        with in_a_terminal("record", "-c", path, "-o", log) as (recorder, terminal):
            wait_for(lambda: "Sending SUBACK to linewatch-mqtt" in mosquitto.log(), "its subscription")
            for message in rows()[:20]:
                sensors.publish("plant/pump-1", message)
            wait_for(lambda: mosquitto.log().count("Received PUBACK from linewatch-mqtt") >= 20, "the rows")
            terminal.close()
            assert recorder.wait(timeout=20) == 0
    n = sum(item.n_samples for item in read_log([log]) if isinstance(item, SampleBlock))
    assert n == 20 * len(channels())


def test_a_gateway_ends_well_with_its_terminal(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        with in_a_terminal("run", "-c", config(tmp_path, mosquitto.port)) as (daemon, terminal):
            wait_for(lambda: status(seen) == "online", "status online")
            terminal.close()
            assert daemon.wait(timeout=20) == 0
        wait_for(lambda: status(seen) == "stopped", "status stopped")
