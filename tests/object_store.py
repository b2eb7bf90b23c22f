"""A real server of the S3 protocol for tests, on a free port of 127.0.0.1, behind a door that can be shut."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import boto3

from tests.brokers import HOST, free_port, wait_for

SERVER = """
import sys, time
from moto.server import ThreadedMotoServer
ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False).start()
time.sleep(3600)
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class Door:
    """A port that leads to another one, as long as it is open."""

    to: int
    port: int = field(default_factory=free_port)
    _listener: socket.socket | None = None
    _ends: list[socket.socket] = field(default_factory=list)

    def open(self) -> None:
        self._listener = socket.create_server((HOST, self.port))
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Nobody is let in, and who is in is thrown out."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        for end in (listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((HOST, self.to))
                self._ends += [client, server]
                for from_, into in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(from_, into), daemon=True).start()

    def _pump(self, from_: socket.socket, into: socket.socket) -> None:
        with suppress(OSError):
            while data := from_.recv(65_536):
                into.sendall(data)
        with suppress(OSError):
            into.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class ObjectStore:
    """A server with an empty bucket, reached through ``door``."""

    door: Door

    @property
    def environment(self) -> dict[str, str]:
        """What a program is told of it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{HOST}:{self.door.port}"}


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stderr=subprocess.DEVNULL)
    door = Door(port)
    try:
        wait_for(lambda: _listens(port), "the object store")
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{HOST}:{port}",
            aws_access_key_id="k",
            aws_secret_access_key="s",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="bucket")
        door.open()
        yield ObjectStore(door)
    finally:
        with suppress(OSError):
            door.shut()
        process.kill()
        process.wait(10)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False
