"""The event database: alerts, labels, gateways, devices and what became of models. SQLite by default, PostgreSQL by URL.

Invariants: :meth:`EventStore.commit` is one transaction, and doing it again, from whichever sink, changes nothing: of an alert
the highest ``seq`` stays, of a label and of a model's state the newest, of what gateways retain what was heard last. Rows are
written in the order of their keys, so that sinks that write at once wait for one another, and not each for the other.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
from sqlalchemy import Connection, Table, create_engine, event, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.sql import ColumnElement

from cloud_sink import tables
from cloud_sink.summaries import SummaryTable
from cloud_sink.unstorable import Unstorable
from models.files import FileIdentity
from models.messages import Alert, DeviceStateMessage, ModelState, Response, Status, encode

_BUSY_S = 30.0
_LIMIT_EXCEEDED = "54"  # class of SQLSTATE: a key that no index takes, say
_LOCK = 0x6C696E6577617463  # "linewatc": whoever makes tables, or begins a rollout, holds it
_ROWS_AT_ONCE = 500  # of one statement: SQLite takes 32,766 values

log = structlog.get_logger("linewatch.store")


class EventsUnavailable(Exception):
    """The database cannot be used now; the text says why. Nothing was committed."""


@dataclass(slots=True)
class Batch:
    """What is committed together; ``heard_ns``: when it came."""

    heard_ns: int
    alerts: list[Alert] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    states: dict[tuple[str, str, str], DeviceStateMessage | None] = field(
        default_factory=dict
    )  # by site, gateway and device; None: it is watched no more
    models: list[ModelState] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    summaries: list[SummaryTable] = field(default_factory=list)


@contextlib.contextmanager
def opened(url: str) -> Iterator[EventStore]:
    """The event database at ``url``, closed at the end; a file that is not there is not made: that is a running sink's. Raises
    EventsUnavailable."""
    store = EventStore(url)
    try:
        store.require()
        store.create()
        yield store
    finally:
        store.close()


class EventStore:
    """See the module's docstring. From any thread; ``url`` of SQLAlchemy."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        self._file: FileIdentity | None = None  # of SQLite, once it is there
        options: dict[str, Any] = {"creator": self._open_file} if self._is_sqlite else {"pool_pre_ping": True}
        self.engine: Engine = create_engine(self._url, **options)
        if self._is_sqlite:
            event.listen(self.engine, "connect", _durable)
            event.listen(self.engine, "begin", _immediate)

    @property
    def where(self) -> str:
        """The database, without secrets."""
        return self._url.render_as_string(hide_password=True)

    def require(self) -> None:
        """Raises EventsUnavailable where the file of the database is not there."""
        if self._is_sqlite and not Path(self._url.database or "").is_file():
            raise EventsUnavailable(
                f"{self.where}: there is no such file: a running sink makes it; is this its computer, and its sink.toml?"
            )

    def create(self) -> None:
        """Makes the tables that are missing, once, however many sinks begin at once. Raises EventsUnavailable, also for tables
        of a newer program, or of an older one."""
        with self.begin() as connection:
            self.alone(connection)
            tables.metadata.create_all(connection)
            found = connection.execute(select(func.max(tables.schema_version.c.version))).scalar()
            if found is None:
                connection.execute(insert(tables.schema_version).values(version=tables.VERSION))
            elif found > tables.VERSION:
                raise EventsUnavailable(
                    f"{self.where} is of a newer Linewatch (version {found} of its tables, this one knows {tables.VERSION})"
                )
            elif found < tables.VERSION:
                raise EventsUnavailable(
                    f"{self.where} is of a Linewatch before its first release (version {found} of its tables, this one writes "
                    f"{tables.VERSION}): begin with an empty one"
                )
        if self._is_sqlite:
            self._file = FileIdentity.of(self._url.database)

    def _open_file(self) -> sqlite3.Connection:
        """Once the file has been there, none is made in its place: SQLite would throw away what is in the log beside it."""
        mode = "rwc" if self._file is None else "rw"
        where = f"file:{quote(self._url.database or '')}?mode={mode}"
        return sqlite3.connect(where, uri=True, timeout=_BUSY_S, check_same_thread=False)

    def _require_same_file(self) -> None:
        if self._file is not None and FileIdentity.of(self._url.database) != self._file:
            self.engine.dispose()  # so that all of it is in the file, which may be put back
            raise EventsUnavailable(
                f"{self.where} was removed or replaced: put it back, or start the sink anew"
            )

    def alone(self, connection: Connection) -> None:
        """Until the end of its transaction nobody else is who calls this, either."""
        if not self._is_sqlite:  # which has one writer anyway
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction. Raises EventsUnavailable."""
        self._require_same_file()
        with self._errors(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """To look, at one instant, and not in anybody's way. Raises EventsUnavailable."""
        self._require_same_file()
        with self._errors(), self.engine.connect() as connection:
            yield connection.execution_options(reads=True)

    def commit(self, batch: Batch) -> None:
        """Raises EventsUnavailable, and Unstorable where the database is there and refuses something of ``batch``."""
        with self.begin() as connection, _refusals():
            self._put_alerts(connection, batch)
            self._put_statuses(connection, batch)
            self._put_devices(connection, batch)
            self._put_models(connection, batch)
            self._put_labels(connection, batch)
        self._require_same_file()  # else it was committed to what is gone

    def close(self) -> None:
        self.engine.dispose()

    def _put_alerts(self, connection: Connection, batch: Batch) -> None:
        newest: dict[tuple[str, str, str], Alert] = {}
        for alert in batch.alerts:
            key = (alert.site, alert.gateway, alert.alert_id)
            known = newest.get(key)
            if known is None or alert.seq > known.seq:
                newest[key] = alert
        t = tables.alerts
        rows = [
            {
                "alert_id": a.alert_id,
                "seq": a.seq,
                "state": a.state,
                "kind": a.kind,
                "severity": a.severity,
                "site": a.site,
                "gateway": a.gateway,
                "machine": a.machine,
                "class": a.class_,
                "device": a.device,
                "message": a.message,
                "start_ns": a.start_ns,
                "end_ns": a.end_ns,
                "score": a.score,
                "p_value": a.p_value,
                "model_id": a.model_id,
                "model_version": a.model_version,
                "payload": encode(a),
                "heard_ns": batch.heard_ns,
            }
            for a in newest.values()
        ]
        self.upsert(connection, t, rows, lambda new: new.seq > t.c.seq)

    def _put_statuses(self, connection: Connection, batch: Batch) -> None:
        """An ``offline`` is the will of a gateway: all else in it is from when that connected, and no news."""
        last: dict[tuple[str, str], Status] = {}
        states: dict[tuple[str, str], str] = {}
        for s in batch.statuses:
            key = (s.site, s.gateway)
            states[key] = s.state
            if s.state != "offline" or key not in last:
                last[key] = s
        t = tables.gateways
        rows = {
            key: {
                "site": s.site,
                "gateway": s.gateway,
                "state": states[key],
                "version": s.version,
                "boot_id": s.boot_id,
                "config_hash": s.config_hash,
                "updated_at": s.updated_at,
                "started_at": s.started_at,
                "payload": encode(s),
                "heard_ns": batch.heard_ns,
            }
            for key, s in last.items()
        }
        wills = [row for key, row in rows.items() if last[key].state == "offline"]
        news = [row for key, row in rows.items() if last[key].state != "offline"]
        self.upsert(connection, t, news, lambda new: new.heard_ns >= t.c.heard_ns)
        self.upsert(
            connection, t, wills, lambda new: new.heard_ns >= t.c.heard_ns, changes=("state", "heard_ns")
        )

    def _put_devices(self, connection: Connection, batch: Batch) -> None:
        t = tables.devices
        rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        for table in batch.summaries:
            order = table.end_ns.argsort(kind="stable")
            for i in order:  # the newest of each device stays
                key = (str(table.site[i]), str(table.gateway[i]), str(table.device[i]))
                known = rows.get(key)
                if known is not None and known["last_end_ns"] > int(table.end_ns[i]):
                    continue
                rows[key] = {
                    "site": key[0],
                    "gateway": key[1],
                    "device": key[2],
                    "machine": str(table.machine[i]),
                    "class": table.class_,
                    "schema_id": table.schema_id,
                    "model_id": str(table.model_id[i]) or None,
                    "model_version": int(table.model_version[i]) or None,
                    "last_end_ns": int(table.end_ns[i]),
                }
        self.upsert(
            connection,
            t,
            list(rows.values()),
            lambda new: or_(t.c.last_end_ns.is_(None), new.last_end_ns > t.c.last_end_ns),
        )
        states = [
            {
                "site": s.site,
                "gateway": s.gateway,
                "device": s.device,
                "machine": s.machine,
                "class": s.class_,
                "state": s.state,
                "state_heard_ns": batch.heard_ns,
            }
            for s in batch.states.values()
            if s is not None
        ]
        self.upsert(
            connection,
            t,
            states,
            lambda new: or_(t.c.state_heard_ns.is_(None), new.state_heard_ns >= t.c.state_heard_ns),
        )
        for site, gateway, device in sorted(key for key, s in batch.states.items() if s is None):
            connection.execute(
                update(t)
                .where(
                    t.c.site == site,
                    t.c.gateway == gateway,
                    t.c.device == device,
                    t.c.state_heard_ns <= batch.heard_ns,
                )
                .values(state=None, state_heard_ns=batch.heard_ns)
            )

    def _put_models(self, connection: Connection, batch: Batch) -> None:
        last: dict[tuple[str, str, str], ModelState] = {}
        for m in batch.models:
            key = (m.site, m.gateway, m.model_id)
            if key not in last or m.since_ns >= last[key].since_ns:
                last[key] = m
        t = tables.model_states
        rows = [
            {
                "site": m.site,
                "gateway": m.gateway,
                "model_id": m.model_id,
                "state": m.state,
                "text": m.text,
                "version": m.version,
                "running": m.running,
                "canary": m.canary,
                "reason": None if m.reason is None else m.reason.value,
                "since_ns": m.since_ns,
                "heard_ns": batch.heard_ns,
            }
            for m in last.values()
        ]
        self.upsert(connection, t, rows, lambda new: new.since_ns >= t.c.since_ns)

    def _put_labels(self, connection: Connection, batch: Batch) -> None:
        """What operators called alerts, as gateways have confirmed it."""
        newest: dict[tuple[str, str, str], Response] = {}
        for r in batch.responses:
            if r.request != "label" or not r.ok or r.alert_id is None or r.label is None:
                continue
            key = (r.site, r.gateway, r.alert_id)
            if key not in newest or r.at_ns >= newest[key].at_ns:
                newest[key] = r
        t = tables.labels
        rows = [
            {
                "site": site,
                "gateway": gateway,
                "alert_id": alert_id,
                "label": r.label,
                "note": r.note,
                "by": r.by,
                "at_ns": r.at_ns,
            }
            for (site, gateway, alert_id), r in newest.items()
        ]
        self.upsert(connection, t, rows, lambda new: new.at_ns >= t.c.at_ns)

    def upsert(
        self,
        connection: Connection,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        newer: Any,
        *,
        changes: Collection[str] | None = None,
    ) -> None:
        """Inserts ``rows`` (distinct keys, the same columns); where the key is there, they replace its columns (all, or those of
        ``changes``) if ``newer`` of what would be inserted holds."""
        key = [column.name for column in table.primary_key]
        for chunk in _chunks(sorted(rows, key=lambda row: [row[name] for name in key])):
            statement: Any = (sqlite if self._is_sqlite else postgresql).insert(table).values(list(chunk))
            new = statement.excluded
            change = {name: new[name] for name in changes or chunk[0] if name not in key}
            condition: ColumnElement[bool] = newer(new)
            connection.execute(
                statement.on_conflict_do_update(index_elements=key, set_=change, where=condition)
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            text = str(getattr(error, "orig", None) or error).strip().splitlines()
            raise EventsUnavailable(f"{self.where}: {text[0] if text else type(error).__name__}") from error


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        state = str(getattr(error.orig, "sqlstate", None) or "")
        if isinstance(error, DataError | IntegrityError) or state.startswith(_LIMIT_EXCEEDED):
            raise Unstorable(f"the database refuses it: {str(error.orig).splitlines()[0]}") from error
        raise


def _chunks(rows: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[Mapping[str, Any]]]:
    return (rows[i : i + _ROWS_AT_ONCE] for i in range(0, len(rows), _ROWS_AT_ONCE))


def _durable(connection: Any, _: object) -> None:
    """SQLite keeps a power cut's promise only when asked to; several sinks on one computer share the file."""
    connection.isolation_level = None  # transactions are begun by us
    ends_s = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:  # two that turn it on at once: SQLite lets neither of them wait
            if time.monotonic() > ends_s:
                raise
            time.sleep(0.01)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _immediate(connection: Connection) -> None:
    """Who means to write waits for its turn at the beginning, in place of failing in the middle."""
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
