"""Summaries on disk: a Parquet dataset in a folder, or in an object store by URL.

Strategy: every commit writes new files and touches no old one; a file is written under a name that no reader looks at, synced and
renamed (an object store makes it appear whole by itself). Files lie by class, schema and day of the summary, so a message that
comes twice, from whichever sink, comes into one partition: who reads, and who compacts, drops doubles by gateway
and ``message_id``.
Compaction writes one file out of many and only then removes those; a reader that meets both drops the doubles again.

Invariants: what :meth:`FeatureStore.append` returned from is on the disk; a file is whole or not there. Bounded by
:meth:`FeatureStore.retain`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from cloud_sink.summaries import QUANTILES, SummaryTable, concatenated
from cloud_sink.unstorable import Unstorable
from models.files import FileIdentity, sync_folder
from models.signal import NS_PER_S

DAY_NS = 86_400 * NS_PER_S
READS = 10  # of a partition of which files go while it is read
COMPACT_FILES = 8  # a partition of more files than this is worth it
_SUFFIX = ".parquet"
_TEXTS = ("message_id", "site", "gateway", "machine", "device", "model_id")
_NUMBERS = ("model_version", "start_ns", "end_ns", "n", "n_excluded")
_ROWS = ("mean", "comoment", "centre", "minimum", "maximum", "score_quantiles")
_NAMES = b"linewatch.feature_names"
# Threads of Arrow's that are still there when a short command ends abort it, now and then.
_ALONE: dict[str, Any] = {"use_threads": False, "pre_buffer": False}

log = structlog.get_logger("linewatch.store")


class StoreError(OSError):
    """The store cannot be read or written now; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Summaries of one class and schema that begin on one day (since the epoch)."""

    class_: str
    schema_id: str
    day: int

    @property
    def path(self) -> str:
        date = datetime.fromtimestamp(self.day * 86_400, UTC).date()
        return f"class={_quoted(self.class_)}/schema={_quoted(self.schema_id)}/day={date.isoformat()}"

    @classmethod
    def at(cls, path: str) -> Partition | None:
        """What the folder ``path`` holds, if it is one of ours."""
        levels = path.strip("/").split("/")[-3:]
        parts = [level.partition("=") for level in levels]
        if [name for name, _, _ in parts] != ["class", "schema", "day"]:
            return None
        try:
            begin = datetime.fromisoformat(parts[2][2]).replace(tzinfo=UTC)
        except ValueError:
            return None
        return cls(
            unquote(parts[0][2]).removeprefix("_"),
            unquote(parts[1][2]).removeprefix("_"),
            int(begin.timestamp() // 86_400),
        )


class FeatureStore:
    """See the module's docstring. ``url``: a path, or a URL of fsspec; ``sink``: who writes, part of every file's name;
    ``create``: the folder, where it is missing."""

    def __init__(self, url: str, sink: str, *, create: bool = True) -> None:
        """Raises StoreError."""
        self._url, self._sink = url, sink
        try:
            # Other sinks write, too: what fsspec would remember of listings is not what is there.
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False, **_bounds(url))
            self._is_local = isinstance(self._fs, LocalFileSystem)
            if create and self._is_local:
                self._fs.makedirs(self._root, exist_ok=True)
            self._folder = FileIdentity.of(self._root) if create and self._is_local else None
        except (OSError, ImportError, ValueError) as error:
            raise StoreError(f"{url} cannot be used: {error}") from error
        self.n_files_written = self.n_bytes_written = 0

    def append(self, tables: Sequence[SummaryTable]) -> int:
        """Writes ``tables``; how many files that made. Raises StoreError, and Unstorable where something of ``tables`` is what no
        file holds: some of it may then be there, which a repetition does not double."""
        if self._folder is not None and FileIdentity.of(self._root) != self._folder:
            raise StoreError(f"{self._url} was removed or replaced: put it back, or start the sink anew")
        n = 0
        with self._errors("written to"):
            for table in tables:
                days = table.start_ns // DAY_NS
                for day in np.unique(days):
                    part = table.take(np.flatnonzero(days == day))
                    self._write(Partition(table.class_, table.schema_id, int(day)), part)
                    n += 1
        return n

    def partitions(self, class_: str | None = None, schema_id: str | None = None) -> list[Partition]:
        """Those that there are, the oldest first. Raises StoreError."""
        with self._errors("read"):
            found = {Partition.at(os.path.dirname(path)) for path in self._files(self._root)}
        chosen = [
            p
            for p in found
            if p is not None and class_ in (None, p.class_) and schema_id in (None, p.schema_id)
        ]
        return sorted(chosen, key=lambda p: (p.day, p.class_, p.schema_id))

    def read(
        self,
        class_: str,
        schema_id: str,
        *,
        from_ns: int | None = None,
        until_ns: int | None = None,
    ) -> SummaryTable | None:
        """All summaries of a class and schema that begin in [from_ns, until_ns), each once, in the order of time; None where
        there is none. Raises StoreError."""
        tables = []
        for partition in self.within(class_, schema_id, from_ns=from_ns, until_ns=until_ns):
            tables += [table for table, _ in self.read_partition(partition)]
        return joined(tables, from_ns=from_ns, until_ns=until_ns)

    def windows_of(
        self, class_: str, schema_id: str, model_id: str, version: int, *, from_ns: int
    ) -> dict[str, int]:
        """How many windows ``version`` of ``model_id`` has scored, as far as they are summed up, by site/gateway: of summaries
        that begin at ``from_ns`` or later. Reads what it takes to count, and no moments. Raises StoreError."""
        columns = ["site", "gateway", "message_id", "n", "n_excluded"]
        ours = (
            (pc.field("model_id") == model_id)
            & (pc.field("model_version") == version)
            & (pc.field("start_ns") >= from_ns)
        )
        counted: dict[str, int] = {}
        for partition in self.within(class_, schema_id, from_ns=from_ns):
            tables = self._tables(partition, columns=columns, filters=ours)
            if not tables:
                continue
            once = (
                pa.concat_tables([table for table, _ in tables])
                .group_by(["site", "gateway", "message_id"])
                .aggregate([("n", "max"), ("n_excluded", "max")])
            )
            by_gateway = once.group_by(["site", "gateway"]).aggregate(
                [("n_max", "sum"), ("n_excluded_max", "sum")]
            )
            for row in by_gateway.to_pylist():
                gateway = f"{row['site']}/{row['gateway']}"
                counted[gateway] = counted.get(gateway, 0) + row["n_max_sum"] + row["n_excluded_max_sum"]
        return counted

    def within(
        self, class_: str, schema_id: str, *, from_ns: int | None = None, until_ns: int | None = None
    ) -> list[Partition]:
        """The days of a class and schema that overlap [from_ns, until_ns), the oldest first. Raises StoreError."""
        return [
            p
            for p in self.partitions(class_, schema_id)
            if (from_ns is None or (p.day + 1) * DAY_NS > from_ns)
            and (until_ns is None or p.day * DAY_NS < until_ns)
        ]

    def read_partition(self, partition: Partition) -> list[tuple[SummaryTable, str]]:
        """What the files of ``partition`` hold, and their paths: doubles included. A file that goes meanwhile was compacted
        into another one: all is looked at once more. Raises StoreError."""
        with self._errors("read"):
            return [(_table(partition, read), path) for read, path in self._tables(partition)]

    def _tables(self, partition: Partition, **asked: Any) -> list[tuple[pa.Table, str]]:
        """The files of ``partition`` as Arrow has them; ``asked``: of pyarrow.parquet.read_table."""
        folder = f"{self._root}/{partition.path}"
        for attempt in range(READS):
            found = []
            try:
                with self._errors("read"):
                    for path in self._files(folder):
                        with self._fs.open(path, "rb") as file:
                            found.append((pq.read_table(file, **_ALONE, **asked), path))
            except FileNotFoundError:
                if attempt == READS - 1:
                    raise StoreError(f"{folder} changes faster than it can be read") from None
                continue
            return found
        return []

    def compact(self, before_ns: int) -> int:
        """Makes one file of the many of each partition whose day ended before ``before_ns``, or that has many; how many files
        went. Raises StoreError."""
        n_gone = 0
        for partition in self.partitions():
            with self._errors("read"):
                n_files = len(self._files(f"{self._root}/{partition.path}"))
            over = (partition.day + 1) * DAY_NS <= before_ns
            if n_files > COMPACT_FILES or (over and n_files > 1):
                n_gone += self._compact(partition)
        return n_gone

    def retain(self, now_ns: int, days: float) -> int:
        """Removes partitions that are older than ``days``; how many files went. Raises StoreError."""
        self._clear_unfinished(now_ns)
        n_gone = 0
        for partition in self.partitions():
            if (partition.day + 1) * DAY_NS <= now_ns - round(days * DAY_NS):
                with self._errors("cleared"):
                    for path in self._files(f"{self._root}/{partition.path}"):
                        self._remove(path)
                        n_gone += 1
        return n_gone

    def _clear_unfinished(self, now_ns: int) -> None:
        """What a sink was writing when it was killed goes after an hour."""
        if not self._is_local:
            return
        with self._errors("cleared"):
            for path in Path(self._root).glob("class=*/schema=*/day=*/.*.new"):
                with contextlib.suppress(FileNotFoundError):
                    if now_ns - path.stat().st_mtime_ns > 3600 * NS_PER_S:
                        path.unlink()

    def _compact(self, partition: Partition) -> int:
        found = self.read_partition(partition)
        by_names: dict[tuple[str, ...], list[SummaryTable]] = {}
        for table, _ in found:
            by_names.setdefault(table.feature_names, []).append(table)
        with self._errors("compacted"):
            for tables in by_names.values():
                self._write(partition, concatenated(tables).distinct())
            for _, path in found:
                self._remove(path)
        return len(found)

    def _write(self, partition: Partition, table: SummaryTable) -> None:
        folder = f"{self._root}/{partition.path}"
        name = f"{_quoted(self._sink)}-{time.time_ns():x}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
        try:
            data = _parquet(table)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise Unstorable(f"no file can hold it: {error}") from error
        if self._is_local:
            self._fs.makedirs(folder, exist_ok=True)
            fresh = f"{folder}/.{name}.new"
            try:
                with open(fresh, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(fresh, f"{folder}/{name}")
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(fresh)
            self._sync(folder)
        else:
            self._fs.pipe_file(f"{folder}/{name}", data)
        self.n_files_written += 1
        self.n_bytes_written += len(data)

    def _sync(self, folder: str) -> None:
        """The name of a new file, and of the folders that were made for it, is on the disk."""
        for level in (Path(folder), *Path(folder).parents[:3]):
            sync_folder(level)

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # another sink was quicker
            self._fs.rm_file(path)

    def _files(self, folder: str) -> list[str]:
        if not self._fs.exists(folder):
            return []
        found = self._fs.find(folder)
        return sorted(p for p in found if p.endswith(_SUFFIX) and not os.path.basename(p).startswith("."))

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except (OSError, pa.ArrowException, *_remote_errors()) as error:
            if isinstance(error, FileNotFoundError) and what == "read":
                raise  # a file that was compacted meanwhile
            raise StoreError(f"{self._url} cannot be {what}: {error}") from error


def _bounds(url: str) -> dict[str, Any]:
    """How long a store that does not answer is waited for, where a program's default is minutes."""
    if urlsplit(url).scheme not in ("s3", "s3a"):
        return {}
    return {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}}


def _remote_errors() -> tuple[type[Exception], ...]:
    """What object stores raise that is no OSError: of the libraries that are in use, none of which has to be here."""
    found = []
    for module, names in (
        ("botocore.exceptions", ("BotoCoreError", "ClientError")),
        ("aiohttp", ("ClientError",)),
    ):
        found += [getattr(sys.modules[module], name) for name in names if module in sys.modules]
    return tuple(found)


def joined(
    tables: Sequence[SummaryTable], *, from_ns: int | None = None, until_ns: int | None = None
) -> SummaryTable | None:
    """Those of ``tables``, of one class and schema, that begin in [from_ns, until_ns), each once, in the order of time; None
    where there is none."""
    if not tables:
        return None
    names = [t.feature_names for t in tables]
    usual = max(set(names), key=names.count)  # a schema has one: who says otherwise is not counted
    table = concatenated([t for t in tables if t.feature_names == usual]).distinct()
    inside = np.ones(len(table), np.bool_)
    if from_ns is not None:
        inside &= table.start_ns >= from_ns
    if until_ns is not None:
        inside &= table.start_ns < until_ns
    return table.take(np.flatnonzero(inside)) if inside.any() else None


def _quoted(name: str) -> str:
    """``name`` as a level of a path, never empty nor hidden."""
    return "_" + quote(name, safe="")


def _parquet(table: SummaryTable) -> bytes:
    arrays: dict[str, pa.Array] = {
        name: pa.array(getattr(table, name).tolist(), pa.string()) for name in _TEXTS
    }
    arrays |= {name: pa.array(getattr(table, name)) for name in _NUMBERS}
    for name in _ROWS:
        values = getattr(table, name)
        arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    counts = np.bincount(table.reservoir_of, minlength=len(table))
    order = np.argsort(table.reservoir_of, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(counts)]) * table.k
    flat = np.ascontiguousarray(table.reservoir[order]).ravel()
    arrays["reservoir"] = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(flat))
    batch = pa.table(arrays).replace_schema_metadata({_NAMES: json.dumps(table.feature_names).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(batch, sink, compression="zstd", use_dictionary=list(_TEXTS))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _table(partition: Partition, read: pa.Table) -> SummaryTable:
    names = tuple(json.loads(read.schema.metadata[_NAMES]))
    k, m = len(names), read.num_rows
    widths = dict.fromkeys(_ROWS, k) | {"comoment": k * (k + 1) // 2, "score_quantiles": len(QUANTILES)}

    def rows(name: str) -> NDArray[np.float64]:
        flat = read.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, np.float64).reshape(m, widths[name])

    reservoir = read.column("reservoir").combine_chunks()
    lengths = np.diff(reservoir.offsets.to_numpy()) // k
    columns: dict[str, Any] = {name: np.array(read.column(name).to_pylist(), np.str_) for name in _TEXTS}
    columns |= {name: read.column(name).to_numpy().astype(np.int64) for name in _NUMBERS}
    columns |= {name: rows(name) for name in _ROWS}
    return SummaryTable(
        class_=partition.class_,
        schema_id=partition.schema_id,
        feature_names=names,
        **columns,
        reservoir=reservoir.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, k),
        reservoir_of=np.repeat(np.arange(m), lengths).astype(np.int64),
    )
