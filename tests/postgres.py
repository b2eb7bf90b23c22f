"""A real PostgreSQL for tests, on a free port of 127.0.0.1 with a directory of its own. Without it the tests that need it skip
and say how to get it; with ``LINEWATCH_REQUIRE_SERVICES=1`` they fail instead."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.brokers import HOST, free_port, wait_for

HOW_TO_GET_IT = "PostgreSQL is not installed: apt-get install postgresql"


def program(name: str) -> str:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = shutil.which(name) or next((str(p / name) for p in places if (p / name).exists()), None)
    if path is None:
        if os.environ.get("LINEWATCH_REQUIRE_SERVICES") == "1":
            pytest.fail(HOW_TO_GET_IT)
        pytest.skip(HOW_TO_GET_IT)
    return path


class Postgres:
    """One server."""

    def __init__(self, folder: Path) -> None:
        self._data, self._log = folder / "pg", folder / "pg.log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, object] = {}
        if os.geteuid() == 0:  # it will not run as root
            owner = pwd.getpwnam("postgres")
            self._user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            self._open_way()
            self._data.mkdir()
            os.chown(self._data, owner.pw_uid, owner.pw_gid)
        command = [program("initdb"), "-D", self._data, "-U", "linewatch", "--auth=trust", "-N", "-E", "UTF8"]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **self._user)  # type: ignore[call-overload]

    def _open_way(self) -> None:
        """Another pytest that begins closes the folder that all of them share to whoever is not root."""
        folder = self._data.parent
        for level in (folder, *folder.parents[:3]) if self._user else ():
            level.chmod(level.stat().st_mode | 0o055)

    def start(self) -> None:
        self._open_way()
        options = ["-p", str(self.port), "-h", HOST, "-k", "", "-c", "max_connections=50"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                [program("postgres"), "-D", self._data, *options],
                stdout=log,
                stderr=log,
                cwd="/",
                **self._user,
            )
        wait_for(self._answers, "PostgreSQL", 60)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: at once, but in order; SIGQUIT: as in a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def url(self, database: str) -> str:
        """Of a database that is there afterwards."""
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone()
            if found is None:
                connection.execute(f'CREATE DATABASE "{database}"')  # type: ignore[arg-type]
        return f"postgresql+psycopg://linewatch@{HOST}:{self.port}/{database}"

    def _dsn(self, database: str) -> str:
        return f"host={HOST} port={self.port} user=linewatch dbname={database} connect_timeout=2"

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self._dsn("postgres")):
                return True
        except psycopg.OperationalError:
            return False


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """It runs."""
    server = Postgres(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGQUIT)
