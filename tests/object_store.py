"""A real server of the S3 protocol for tests, on a free port of 127.0.0.1, behind a door that can be shut."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import boto3

from tests.brokers import HOST, free_port, wait_for
from tests.relays import Relay

SERVER = """
import sys, time
from moto.server import ThreadedMotoServer
ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False).start()
time.sleep(3600)
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class ObjectStore:
    """A server with an empty bucket, reached through ``door``."""

    door: Relay

    @property
    def environment(self) -> dict[str, str]:
        """What a program is told of it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{HOST}:{self.door.port}"}


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stderr=subprocess.DEVNULL)
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
        with Relay(port) as door:
            yield ObjectStore(door)
    finally:
        process.kill()
        process.wait(10)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False
