"""What summaries take on the disk, and to read, and to compact; what statuses, devices and alerts take in the event database.

Memory is the highest that the process had (``VmHWM``), each time in a process of its own.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import scaling_load as load
from benchmarks.scaling_process import measured
from cloud_sink.events import Batch, EventStore
from cloud_sink.features_store import FeatureStore
from models.messages import Status
from models.signal import NS_PER_S
from tests.postgres import postgres

COMMIT = 500  # summaries of a file, as a sink commits them


def measure_features(k: int, *, reservoir: bool, quick: bool) -> dict[str, float]:
    """Bytes a summary as files come and after compaction, beside the numbers alone; how fast files are read; seconds and
    megabytes that compaction takes."""
    n_devices, n_each = (20, 2) if quick else (2_000, 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "features"
        store = FeatureStore(str(folder), "bench")
        table = load.table(k, n_devices, n_each, reservoir=reservoir)
        table = table.take(np.argsort(table.start_ns, kind="stable"))  # as they come: of all devices in turn
        began_s = time.perf_counter()
        for i in range(0, len(table), COMMIT):
            store.append([table.take(np.arange(i, min(i + COMMIT, len(table))))])
        append_s = time.perf_counter() - began_s
        apart = _bytes(folder)
        compacted = measured("benchmarks.scaling_stores_child", "compact", str(folder))
        whole = _bytes(folder)
        read = measured("benchmarks.scaling_stores_child", "read", str(folder))
        assert read["summaries"] == len(table)
        counted = measured("benchmarks.scaling_stores_child", "count", str(folder))
        assert counted["gateways"] == len(set(table.full_gateway.tolist()))
    n = len(table)
    numbers = 8 * (5 * k + k * (k + 1) // 2 + 4 + 5) + (4 * k * load.N_RESERVOIR if reservoir else 0)
    return {
        "summaries": n,
        "append_per_s": n / append_s,
        "bytes_as_they_come": apart / n,
        "bytes": whole / n,
        "numbers_bytes": numbers,  # of a row: what any store would hold
        "read_per_s": n / read["seconds"],
        "read_mb": read["grown_mb"],
        "counted_per_s": n / counted["seconds"],
        "read_bytes_a_summary": read["grown_mb"] * 1e6 / n,
        "compact_s": compacted["seconds"],
        "compact_bytes_a_summary": compacted["grown_mb"] * 1e6 / n,
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def measure_events(status: Status, k: int, *, quick: bool) -> dict[str, object]:
    """SQLite, and PostgreSQL where it is installed: rows a second as sinks write them, bytes a row."""
    n_gateways = 20 if quick else 2_000
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "events.sqlite"
        store = EventStore(f"sqlite:///{path}")
        found["sqlite"] = _events(store, status, k, n_gateways, lambda: _sqlite_bytes(store))
        store.close()
    if shutil.which("initdb") is not None:
        with tempfile.TemporaryDirectory() as name, postgres(Path(name)) as server:
            store = EventStore(server.url("bench"))
            found["postgresql"] = _events(store, status, k, n_gateways, lambda: _postgres_bytes(store))
            store.close()
    return {"gateways": n_gateways, "batch": COMMIT, **found}


def _events(store: EventStore, status: Status, k: int, n_gateways: int, size: object) -> dict[str, float]:
    assert callable(size)
    store.create()
    n_devices = 5 * n_gateways
    found: dict[str, float] = {}

    def put(what: str, batches: list[Batch], n: int) -> None:
        before, began_s = size(), time.perf_counter()
        for batch in batches:
            store.commit(batch)
        found[f"{what}_per_s"] = n / (time.perf_counter() - began_s)
        found[f"{what}_bytes"] = max(0.0, (size() - before) / n)

    said = load.statuses(n_gateways, n_gateways, status)
    put("status", [Batch(1, statuses=said[i : i + COMMIT]) for i in range(0, n_gateways, COMMIT)], n_gateways)
    again = [
        Batch(2 + r, statuses=said[i : i + COMMIT]) for r in range(3) for i in range(0, n_gateways, COMMIT)
    ]
    put("status_again", again, 3 * n_gateways)
    table = load.table(k, n_devices, 1, reservoir=False)
    parts = [table.take(np.arange(i, min(i + COMMIT, n_devices))) for i in range(0, n_devices, COMMIT)]
    put("device", [Batch(1, summaries=[part]) for part in parts], n_devices)
    later = load.table(k, n_devices, 1, reservoir=False)
    later.end_ns[:] = later.end_ns + 300 * NS_PER_S
    parts = [later.take(np.arange(i, min(i + COMMIT, n_devices))) for i in range(0, n_devices, COMMIT)]
    put("device_again", [Batch(2, summaries=[part]) for part in parts], n_devices)
    alerts = load.alerts(n_gateways, k)
    put("alert", [Batch(3, alerts=alerts[i : i + COMMIT]) for i in range(0, n_gateways, COMMIT)], n_gateways)
    return found


def _sqlite_bytes(store: EventStore) -> int:
    with store.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")  # what is to come begins none
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    return int(pages) * int(size)


def _postgres_bytes(store: EventStore) -> int:
    with store.read() as connection:
        return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
