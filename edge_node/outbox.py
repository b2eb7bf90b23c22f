"""What must survive the process: messages that wait to leave, and the state to go on from. One SQLite file.

Strategy: everything that belongs together is one :class:`Cut`, written in one transaction with ``synchronous=FULL`` in WAL mode,
so after a crash, or a loss of power, the file holds one whole cut: the pipeline as it was, the counters as they
were, and exactly the messages that these counters call stored. A file that is damaged, or of a newer version, is set aside, and
one that cannot be had at all is kept in memory.

Invariant: the methods that write are called by one thread at a time; :meth:`Outbox.payload` from any.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from edge_node.egress import Outgoing

VERSION = 1  # of the tables below
FILE_NAME = "outbox.sqlite"
WAL_PAGES = 4096  # 16 MB: pages that are written again and again reach the file itself once in a while only
SMALL_JOURNAL = 1 << 20
_SUFFIXES = ("", "-wal", "-shm")
_CLEAN = "clean"

_TABLES = """
CREATE TABLE message(
    row INTEGER PRIMARY KEY, kind TEXT NOT NULL, prefix TEXT NOT NULL, place TEXT NOT NULL, device TEXT NOT NULL,
    rank INTEGER, retain INTEGER NOT NULL, n_bytes INTEGER NOT NULL, ran_s REAL NOT NULL, crc INTEGER NOT NULL,
    payload BLOB NOT NULL);
CREATE TABLE state(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""

log = structlog.get_logger("linewatch.outbox")


class OutboxError(Exception):
    """Nothing was written; the text says why. ``damaged``: nor can anything be, the file is not in order."""

    def __init__(self, text: str, *, damaged: bool = False) -> None:
        super().__init__(text)
        self.damaged = damaged


@dataclass(frozen=True, slots=True)
class Cut:
    """What is written together. ``state`` replaces values by key; ``keep``: keys of which all others are forgotten (None:
    none is). ``gone``: rows of messages that have left. ``hurried``: somebody waits, so nothing is compressed, which takes longer
    than to write it."""

    messages: Sequence[Outgoing] = ()
    gone: Sequence[int] = ()
    state: Mapping[str, bytes] = field(default_factory=dict)
    keep: Collection[str] | None = None
    hurried: bool = False


class Outbox:
    """``folder`` None: in memory. ``problem``: why what was there is not gone on from, or why nothing is written to disk.
    ``free_bytes``: what was free on its disk when it was last looked at; None: in memory, or it cannot be told."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / FILE_NAME
        self.problem: str | None = None
        self.free_bytes: int | None = None
        self._writing = threading.Lock()
        self._reads = threading.Lock()  # of the connection that reads: it does not wait for one that writes
        self._db = self._reader = sqlite3.connect(
            ":memory:", check_same_thread=False
        )  # until the file is open
        self._open()
        self._look_at_disk()
        self._last_row = 0

    @property
    def durable(self) -> bool:
        """Whether what is written survives the process."""
        return self._path is not None

    def next_row(self) -> int:
        """A number for a message that will be written; after :meth:`load`."""
        self._last_row += 1
        return self._last_row

    def load(self) -> tuple[dict[str, bytes], list[Outgoing]]:
        """The state of the last cut, and what had not left then, in the order in which it was said; without payloads but those of
        retained messages. What turns out to be damaged is set aside, and nothing comes of it."""
        try:
            state, messages = self.state(), self.messages()
        except (sqlite3.Error, zlib.error, ValueError) as error:  # text may be no UTF-8
            if _is_passing(error):
                self._do_without(error)
            else:
                self.begin_anew(str(error))
            return {}, []
        self._last_row = max((m.row for m in messages if m.row is not None), default=0)
        return state, messages

    def state(self) -> dict[str, bytes]:
        """The state of the last cut. Raises sqlite3.Error and zlib.error."""
        return {
            key: zlib.decompress(value) for key, value in self._db.execute("SELECT key, value FROM state")
        }

    def messages(self) -> list[Outgoing]:
        """What had not left. Raises sqlite3.Error."""
        columns = "row, kind, prefix, place, device, rank, retain, n_bytes, ran_s"
        found = self._db.execute(
            f"SELECT {columns}, CASE WHEN retain THEN payload END FROM message ORDER BY row"
        )
        return [
            Outgoing(kind, prefix, place, payload, bool(retain), rank, device, n_bytes, row, ran_s)
            for row, kind, prefix, place, device, rank, retain, n_bytes, ran_s, payload in found
        ]

    def payload(self, row: int) -> bytes | None:
        """The payload of a message, None where it cannot be read."""
        with self._reads:
            try:
                found = self._reader.execute(
                    "SELECT place, payload, crc FROM message WHERE row = ?", (row,)
                ).fetchone()
            except (sqlite3.Error, ValueError) as error:
                log.error(f"{self._path}: message {row} cannot be read: {error}")
                return None
        if found is None or _crc(found[0], found[1]) != found[2]:
            return None
        return bytes(found[1])

    def write(self, cut: Cut) -> int:
        """Commits ``cut``, wholly or not at all: OutboxError. Returns how many bytes it came to; the file system writes more."""
        state = [(key, zlib.compress(value, 0 if cut.hurried else 1)) for key, value in cut.state.items()]
        rows = [_row(message) for message in cut.messages]
        try:
            self._commit(cut, state, rows)
        except OutboxError as error:
            # A journal that has grown may be what fills the disk: what is in it goes into the file, and makes room.
            if error.damaged or not self._fold_journal():
                raise
            self._commit(cut, state, rows)
        finally:
            self._look_at_disk()
        if self._journal_is_large():
            self._fold_journal()
        return sum(len(value) for _, value in state) + sum(message.n_bytes for message in cut.messages)

    def _commit(
        self, cut: Cut, state: Sequence[tuple[str, bytes]], rows: Sequence[tuple[object, ...]]
    ) -> None:
        with self._writing:  # sqlite3 serialises calls, but a transaction is several
            try:
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._db.executemany("INSERT OR REPLACE INTO message VALUES(?,?,?,?,?,?,?,?,?,?,?)", rows)
                    self._db.executemany("DELETE FROM message WHERE row = ?", [(row,) for row in cut.gone])
                    if cut.keep is not None:
                        known = {key for (key,) in self._db.execute("SELECT key FROM state")}
                        no_more = known - set(cut.keep)
                        self._db.executemany("DELETE FROM state WHERE key = ?", [(key,) for key in no_more])
                    self._db.executemany("INSERT OR REPLACE INTO state VALUES(?,?)", state)
                    self._db.execute("DELETE FROM state WHERE key = ?", (_CLEAN,))
            except sqlite3.Error as error:
                damaged = not isinstance(error, sqlite3.OperationalError)
                raise OutboxError(f"{self._path}: {error}", damaged=damaged) from error

    def _journal_is_large(self) -> bool:
        """Whether the journal, which SQLite folds into the file at :data:`WAL_PAGES` by itself, takes too much of what is left of
        the disk: what is in it needs as much room in the file."""
        if self._path is None or self.free_bytes is None:
            return False
        try:
            n_bytes = os.stat(f"{self._path}-wal").st_size
        except OSError:
            return False
        return n_bytes > SMALL_JOURNAL and n_bytes > self.free_bytes / 4

    def _look_at_disk(self) -> None:
        if self._path is None:
            self.free_bytes = None
            return
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            self.free_bytes = None
        else:
            self.free_bytes = found.f_bavail * found.f_frsize

    def _fold_journal(self) -> bool:
        """Whether the journal held something, and could be emptied into the file."""
        with self._writing:
            try:
                busy, n_pages, n_moved = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error:
                return False
        return not busy and n_moved == n_pages != -1

    def begin_anew(self, why: str) -> None:
        """Sets the file aside and goes on with an empty one."""
        with self._writing:
            self._begin_anew(why)

    def close(self) -> None:
        """Says that all is in order, and lets go."""
        with self._writing:
            try:
                with self._db:
                    self._db.execute(
                        "INSERT OR REPLACE INTO state VALUES(?, ?)", (_CLEAN, zlib.compress(b"1"))
                    )
            except sqlite3.Error as error:
                log.warning(f"{self._path} could not be closed in good order: {error}")
            self._close_db()

    def _open(self) -> None:
        try:
            self._db = self._connect()
            self._check()
        except (sqlite3.Error, ValueError) as error:  # what it says of itself may be no UTF-8
            if _is_passing(error):
                self._do_without(error)
            else:
                self._begin_anew(str(error))

    def _begin_anew(self, why: str) -> None:
        self._close_db()
        if self._path is not None:
            self._set_aside(why)
        try:
            self._db = self._connect()
            self._create()
        except sqlite3.Error as error:
            self._do_without(error)

    def _do_without(self, error: Exception) -> None:
        """Whatever is there stays as it is, for a start that can read it."""
        self._close_db()
        self.problem = (
            f"{self._path} cannot be used ({error}): what waits for the broker is kept in memory only, until that is mended "
            "and the gateway restarted; what is in the file is sent then"
        )
        log.error(self.problem)
        self._path = None
        self._db = self._connect()
        self._create()

    def _connect(self) -> sqlite3.Connection:
        where = ":memory:" if self._path is None else str(self._path)
        self._db = sqlite3.connect(where, check_same_thread=False, isolation_level=None, timeout=5.0)
        if self._path is not None:
            os.chmod(self._path, 0o600)
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"wal_autocheckpoint = {WAL_PAGES}",
            f"journal_size_limit = {4096 * WAL_PAGES}",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        with self._reads:
            self._reader = self._db if self._path is None else sqlite3.connect(where, check_same_thread=False)
        return self._db

    def _check(self) -> None:
        """Makes the tables of a new file; raises sqlite3.Error for one that cannot be gone on from."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._create()
            return
        if version > VERSION:
            raise sqlite3.DatabaseError(f"it is of a newer Linewatch (version {version}, not {VERSION})")
        clean = self._db.execute("SELECT 1 FROM state WHERE key = ?", (_CLEAN,)).fetchone()
        if clean is None:  # the process or the power failed
            (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)

    def _create(self) -> None:
        self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")

    def _close_db(self) -> None:
        with (
            self._reads,
            contextlib.suppress(sqlite3.Error),
        ):  # of a file that is not in order: let go all the same
            self._reader.close()
            self._db.close()

    def _set_aside(self, why: str) -> None:
        """The file of before keeps its contents under another name; of several the last is kept."""
        assert self._path is not None
        aside = self._path.with_name(f"{FILE_NAME}.set-aside")
        try:
            for suffix in _SUFFIXES:
                file = Path(f"{self._path}{suffix}")
                if file.exists():
                    file.rename(f"{aside}{suffix}")
        except OSError as error:
            why = f"{why}; {error.strerror}"
        self.problem = (
            f"{self._path} cannot be gone on from ({why}): it was set aside as {aside.name} at "
            f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}. What it held is gone: messages that the broker had not "
            "taken, open alerts (they stay open upstream, where nobody clears them), what operators had accepted as normal, "
            "windows in progress"
        )
        log.error(self.problem)


def _is_passing(error: Exception) -> bool:
    """Whether the file may be in order: the disk is full, read-only, out of reach, or fails. SQLite's own word for a file that is
    damaged is another class."""
    return isinstance(error, sqlite3.OperationalError) and "decode" not in str(error)


def _row(m: Outgoing) -> tuple[object, ...]:
    payload = m.payload or b""
    told = (m.row, m.kind, m.prefix, m.place, m.device, m.rank, m.retain, m.n_bytes, m.ran_s)
    return (*told, _crc(m.place, payload), payload)


def _crc(place: str, payload: bytes) -> int:
    """Tells a message that the disk has changed: SQLite checks the shape of a file, not what is in it."""
    return zlib.crc32(payload, zlib.crc32(place.encode()))
