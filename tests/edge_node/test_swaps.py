"""Two hundred swaps while blocks flow: real graphs, several devices, one of them gated by another."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge_node.assembly import assemble
from edge_node.config import load_config
from edge_node.model_admission import Prepared, examine, prepare
from models.signal import NS_PER_S, SampleBlock
from tests.edge_node.adopting import T0_S
from tests.edge_node.daemons import config as write_config
from tests.edge_node.versions import Version, good, signed, written
from tests.fixtures.make_bundle import WINDOW, signal

N_SWAPS = 200
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


def test_no_window_is_skipped_or_scored_twice_and_memory_does_not_grow(tmp_path: Path) -> None:
    bundle = written(tmp_path / "bundle", signed(good(1)))
    path = write_config(tmp_path, 1883, bundle=bundle, extra=MORE.format(bundle=bundle))
    config = load_config(path)
    core = assemble(config, on_notice=lambda _: None)
    heard = core.pipeline.tap(DEVICES)
    values = {device: signal(N_SWAPS * ROWS_A_SWAP, seed=i) for i, device in enumerate(DEVICES)}
    kinds = [signed(good(2, seed)) for seed in range(4)]
    process = psutil.Process(os.getpid())
    after_some = 0
    for swap in range(N_SWAPS):
        rows = slice(swap * ROWS_A_SWAP, (swap + 1) * ROWS_A_SWAP)
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
        candidate = next_version(config, core.plans, kinds[swap % 4], 2 + swap)
        for engine in core.adopt(candidate.plans, candidate.engines):
            engine.close()
        assert {p.model.version for p in core.plans if p.model is not None} == {2 + swap}
        assert len(core.engines) == 2
        core.pipeline.events()
        if swap == N_SWAPS // 4:
            gc.collect()
            after_some = process.memory_info().rss
    gc.collect()
    grown = process.memory_info().rss - after_some
    core.pipeline.finish()
    core.score()
    counters = core.pipeline.counters()
    assert counters.n_windows_scored == counters.n_windows_closed
    assert not counters.window_drops
    for device in DEVICES:
        starts = np.concatenate([t.start_ns for t in heard if t.device_id == device])
        n = (N_SWAPS * ROWS_A_SWAP - WINDOW.n) // WINDOW.hop + 1
        assert len(starts) >= n - 1
        assert np.array_equal(starts, starts[0] + np.arange(len(starts)) * WINDOW.hop_ns), device
        assert starts[0] <= (T0_S + WINDOW.hop) * NS_PER_S
    assert grown < 8 << 20, f"{grown / 1e6:.1f} MB in {3 * N_SWAPS // 4} swaps"


def next_version(config, plans, kind: Version, version: int) -> Prepared:  # type: ignore[no-untyped-def]
    manifest = signed(kind, version=version)[0]
    bundle = examine(manifest, blobs(kind))
    return prepare(
        config,
        plans,
        lambda _: bundle,
        workers=None,
        stop=threading.Event(),
        on_notice=pytest.fail,
        probed=True,
    )
