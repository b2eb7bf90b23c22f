"""Points that wait for their database, on this computer's disk: one SQLite file of whole batches.

Invariants: what :meth:`PointQueue.put` returned from survives a crash; it is forgotten when it has been written, or when there is
too much: then the oldest goes, and is counted. Lines that the database refuses are kept beside it, the last REJECTS of them.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

REJECTS = 1_000

_TABLES = """
CREATE TABLE IF NOT EXISTS batch(id INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER NOT NULL, lines BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS rejected(
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, why TEXT NOT NULL, line TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS count(name TEXT PRIMARY KEY, n INTEGER NOT NULL);
"""


class QueueError(OSError):
    """Nothing can be put into the queue, or taken from it; the text names it and says why."""


class PointQueue:
    """At most ``max_bytes`` of lines, compressed. From any thread."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Raises QueueError."""
        self._path, self._max_bytes = path, max_bytes
        self._lock = threading.Lock()
        with self._errors():
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_TABLES)
            (n_bytes,) = self._db.execute("SELECT coalesce(sum(length(lines)), 0) FROM batch").fetchone()
        self._n_bytes = int(n_bytes)

    def put(self, lines: Sequence[str]) -> None:
        """Raises QueueError."""
        if not lines:
            return
        data = zlib.compress("\n".join(lines).encode(), 1)
        with self._transaction():
            self._db.execute("INSERT INTO batch(n, lines) VALUES (?, ?)", (len(lines), data))
            self._n_bytes += len(data)
            while self._n_bytes > self._max_bytes:
                oldest = self._db.execute(
                    "SELECT id, n, length(lines) FROM batch ORDER BY id LIMIT 1"
                ).fetchone()
                if oldest is None:
                    break
                self._forget(oldest[0], oldest[2])
                self._count("dropped", oldest[1])

    def oldest(self, most: int) -> tuple[list[int], list[str]]:
        """The oldest batches, one at least if there is any, of ``most`` lines in all, and their lines. Raises QueueError."""
        ids: list[int] = []
        lines: list[str] = []
        with self._errors(), self._lock:
            for number, n, data in self._db.execute("SELECT id, n, lines FROM batch ORDER BY id LIMIT 100"):
                if ids and len(lines) + n > most:
                    break
                ids.append(number)
                lines += zlib.decompress(data).decode().split("\n")
        return ids, lines

    def written(self, ids: Sequence[int], n_lines: int, rejected: Sequence[tuple[str, str]] = ()) -> None:
        """The batches ``ids`` are with their database, but for ``rejected`` lines, each with the reason. Raises QueueError."""
        with self._transaction():
            for number in ids:
                found = self._db.execute("SELECT length(lines) FROM batch WHERE id = ?", (number,)).fetchone()
                if found is not None:  # else it has been dropped meanwhile
                    self._forget(number, found[0])
            for text, why in rejected:
                self._db.execute(
                    "INSERT INTO rejected(at, why, line) VALUES (?, ?, ?)", (time.time(), why, text)
                )
            self._db.execute(
                "DELETE FROM rejected WHERE id <= (SELECT max(id) FROM rejected) - ?", (REJECTS,)
            )
            self._count("written", n_lines - len(rejected))
            self._count("rejected", len(rejected))

    def counts(self) -> dict[str, int]:
        """Points ``written``, ``dropped`` and ``rejected``, over restarts, and ``waiting``; bytes as ``waiting_bytes``."""
        with self._errors(), self._lock:
            found = dict(self._db.execute("SELECT name, n FROM count").fetchall())
            (waiting,) = self._db.execute("SELECT coalesce(sum(n), 0) FROM batch").fetchone()
        return {
            "written": 0,
            "dropped": 0,
            "rejected": 0,
            **found,
            "waiting": waiting,
            "waiting_bytes": self._n_bytes,
        }

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _forget(self, number: int, n_bytes: int) -> None:
        self._db.execute("DELETE FROM batch WHERE id = ?", (number,))
        self._n_bytes -= n_bytes

    def _count(self, name: str, n: int) -> None:
        self._db.execute(
            "INSERT INTO count(name, n) VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET n = n + excluded.n",
            (name, n),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors(), self._lock:
            before = self._n_bytes
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._n_bytes = before
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise QueueError(f"{self._path}: {error}") from error
