"""The real ``cloud-sink run``, for tests."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud_sink.config import load_config
from cloud_sink.events import EventStore
from tests.brokers import HOST


def config(
    folder: Path,
    port: int,
    name: str = "sink-1",
    *,
    metrics_port: int = 0,
    store: str = "",
    broker: str = "",
    limits: str = "",
    influx: str = "",
) -> Path:
    """sink.toml in ``folder`` (several sinks share it, and what is in it); lines to add to its tables."""
    path = folder / f"{name}.toml"
    path.write_text(
        f"""
[sink]
name = "{name}"
metrics_port = {metrics_port}
[broker]
host = "{HOST}"
port = {port}
reconnect_min_s = 0.1
reconnect_max_s = 0.5
{broker}
[store]
commit_s = 0.05
{store}
[limits]
{limits}
[influx]
{influx}
[rollout]
every_s = 0.3
"""
    )
    return path


@contextmanager
def database(path: Path) -> Iterator[EventStore]:
    """The event database of sink.toml ``path``, made as a sink makes it that runs."""
    store = EventStore(load_config(path).store.events)
    store.create()
    yield store
    store.close()


def cloud_sink(*arguments: str | Path) -> list[str]:
    """The command line of ``cloud-sink``."""
    return [sys.executable, "-m", "cloud_sink", *map(str, arguments)]


@contextmanager
def running(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``cloud-sink run``, killed at the end if it has not ended by then."""
    command = cloud_sink("run", "-c", path, *arguments)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def fetched(port: int, path: str) -> tuple[int, str]:
    """Status and body of what is served there; 0 where nothing is."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def metric(port: int, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = fetched(port, "/metrics")[1].splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith((f"linewatch_{name} ", f"linewatch_{name}{{"))
    )
