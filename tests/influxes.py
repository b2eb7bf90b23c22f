"""Real databases for points: Debian's influxdb 1.x and victoria-metrics, on free ports of 127.0.0.1, each with a directory of
its own. Without them the tests that need them skip and say how to get them; with ``LINEWATCH_REQUIRE_SERVICES=1`` they fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import HOST, free_port, wait_for


def program(name: str, package: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/bin")
    if path is None:
        text = f"{name} is not installed: apt-get install {package}"
        if os.environ.get("LINEWATCH_REQUIRE_SERVICES") == "1":
            pytest.fail(text)
        pytest.skip(text)
    return path


class Server:
    """A process that answers HTTP on ``port``."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self._command, self.port, self._log = command, port, log
        self.url = f"http://{HOST}:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_for(self._answers, f"{self._command[0]} ({self._log})", 60)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def get(self, path: str, **parameters: str) -> bytes:
        return self._ask(urllib.request.Request(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}"))

    def post(self, path: str, **parameters: str) -> bytes:
        data = urllib.parse.urlencode(parameters).encode()
        return self._ask(urllib.request.Request(f"{self.url}{path}", data=data))

    def _ask(self, request: urllib.request.Request) -> bytes:
        with urllib.request.urlopen(request, timeout=10) as answer:
            data: bytes = answer.read()
            return data

    def _answers(self) -> bool:
        try:
            self.get("/ping" if "influxd" in self._command[0] else "/health")
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True


class Influx1(Server):
    """InfluxDB 1."""

    def __init__(self, folder: Path) -> None:
        port, rpc = free_port(), free_port()
        config = folder / "influxdb.conf"
        config.write_text(
            f"""
reporting-disabled = true
bind-address = "{HOST}:{rpc}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
[monitor]
store-enabled = false
[http]
bind-address = "{HOST}:{port}"
log-enabled = false
"""
        )
        super().__init__(
            [program("influxd", "influxdb"), "-config", str(config)], port, folder / "influxd.log"
        )

    def create(self, database: str) -> None:
        self.post("/query", q=f'CREATE DATABASE "{database}"')

    def query(self, database: str, q: str) -> list[dict[str, Any]]:
        """Rows of InfluxQL, each with its tags; AssertionError where the server says that it is wrong."""
        found = json.loads(self.get("/query", db=database, q=q, epoch="ns"))["results"]
        rows = []
        for result in found:
            assert "error" not in result, result["error"]
            for series in result.get("series", []):
                for values in series["values"]:
                    rows.append(
                        {**series.get("tags", {}), **dict(zip(series["columns"], values, strict=True))}
                    )
        return rows


class Victoria(Server):
    """VictoriaMetrics, which takes InfluxDB 2's writes."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        command = [
            program("victoria-metrics", "victoria-metrics"),
            f"-storageDataPath={folder}/vm",
            f"-httpListenAddr={HOST}:{port}",
        ]
        super().__init__([*command, "-retentionPeriod=10y"], port, folder / "vm.log")

    def exported(self, match: str) -> list[dict[str, Any]]:
        self.get("/internal/force_flush")
        lines = self.get(
            "/api/v1/export", **{"match[]": match, "start": "0", "end": "9999999999"}
        ).splitlines()
        return [json.loads(line) for line in lines]


@contextmanager
def influx1(folder: Path, database: str = "linewatch") -> Iterator[Influx1]:
    """It runs, and has the database."""
    server = Influx1(folder)
    server.start()
    try:
        server.create(database)
        yield server
    finally:
        server.stop()


@contextmanager
def victoria(folder: Path) -> Iterator[Victoria]:
    """It runs."""
    server = Victoria(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
