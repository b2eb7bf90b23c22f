"""Swaps of models while blocks flow: real graphs, several devices, one of them gated by another."""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from edge_node.assembly import assemble
from edge_node.config import load_config
from edge_node.model_admission import Prepared, examine, prepare
from models.signal import NS_PER_S, SampleBlock
from tests.edge_node.adopting import T0_S
from tests.edge_node.daemons import config as write_config
from tests.edge_node.versions import Version, good, signed, written
from tests.fixtures.make_bundle import WINDOW, signal

ROWS_A_SWAP = 37  # no multiple of the hop: windows are in progress at every swap
DEVICES = ("pump-1", "pump-2", "pump-3")
MORE = """
[[device]]
id = "pump-2"
machine = "pump"
interval_s = 1
channels = [{{ name = "Temperature", unit = "°C" }}, {{ name = "Pressure", unit = "bar" }}]
model = "{bundle}"
alerts_per_week = 100
active_when = "pump-1.Temperature > 0"
[[device]]
id = "pump-3"
machine = "pump"
interval_s = 1
channels = [{{ name = "Temperature", unit = "°C" }}, {{ name = "Pressure", unit = "bar" }}]
model = "{bundle}"
precision = "int8"
alerts_per_week = 100
"""


def blobs(version: Version) -> dict[str, bytes]:
    return {a.sha256: version[1][a.target] for a in version[0].artifacts}


@dataclass(frozen=True, slots=True)
class Swapped:
    """What came of it: ``n_skipped`` windows of the hop's grid that were never scored, ``n_twice`` scored more than once, and
    by how much the process has grown over the last three quarters."""

    n_swaps: int
    n_windows: int
    n_skipped: int
    n_twice: int
    n_dropped: int
    grown_bytes: int


def swap(folder: Path, n_swaps: int) -> Swapped:
    """Swaps so often, with a few rows of every device between."""
    bundle = written(folder / "bundle", signed(good(1)))
    path = write_config(folder, 1883, bundle=bundle, extra=MORE.format(bundle=bundle))
    config = load_config(path)
    core = assemble(config, on_notice=lambda _: None)
    heard = core.pipeline.tap(DEVICES)
    values = {device: signal(n_swaps * ROWS_A_SWAP, seed=i) for i, device in enumerate(DEVICES)}
    kinds = [signed(good(2, seed)) for seed in range(4)]
    process = psutil.Process(os.getpid())
    after_some = 0
    for n in range(n_swaps):
        rows = slice(n * ROWS_A_SWAP, (n + 1) * ROWS_A_SWAP)
        time_ns = (T0_S + np.arange(rows.start, rows.stop)) * NS_PER_S
        core.push(
            *(
                SampleBlock.irregular(
                    device,
                    ("Temperature", "Pressure"),
                    values[device][rows],
                    time_ns=time_ns,
                    arrival_ns=int(time_ns[-1]) + 1,
                )
                for device in DEVICES
            )
        )
        candidate = next_version(config, core.plans, kinds[n % 4], 2 + n)
        for engine in core.adopt(candidate.plans, candidate.engines):
            engine.close()
        assert {p.model.version for p in core.plans if p.model is not None} == {2 + n}
        assert len(core.engines) == 2
        core.pipeline.events()
        if n == n_swaps // 4:
            gc.collect()
            after_some = process.memory_info().rss
    gc.collect()
    grown = process.memory_info().rss - after_some
    core.pipeline.finish()
    core.score()
    counters = core.pipeline.counters()
    n_windows = n_skipped = n_twice = 0
    for device in DEVICES:
        starts = np.concatenate([t.start_ns for t in heard if t.device_id == device])
        first_ns = T0_S * NS_PER_S // WINDOW.hop_ns * WINDOW.hop_ns
        whole = (n_swaps * ROWS_A_SWAP - WINDOW.n) // WINDOW.hop - 1  # the first and the last may be cut
        grid = first_ns + np.arange(1, whole + 1) * WINDOW.hop_ns
        n_windows += starts.size
        n_skipped += int(np.setdiff1d(grid, starts).size)
        n_twice += starts.size - np.unique(starts).size
    n_dropped = sum(counters.window_drops.values()) + counters.n_windows_closed - counters.n_windows_scored
    return Swapped(n_swaps, n_windows, n_skipped, n_twice, n_dropped, grown)


def next_version(config, plans, kind: Version, version: int) -> Prepared:  # type: ignore[no-untyped-def]
    manifest = signed(kind, version=version)[0]
    bundle = examine(manifest, blobs(kind))
    return prepare(
        config,
        plans,
        lambda _: bundle,
        workers=None,
        stop=threading.Event(),
        on_notice=_unexpected,
        probed=True,
    )


def _unexpected(text: str) -> None:
    raise AssertionError(text)
