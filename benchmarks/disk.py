"""What the gateway writes to disk, at rest and with 100 devices, beside the bytes that its checkpoints hold.

The system's own count of what the process had written to the disk (``/proc/PID/io``), so journals, whole pages, and pages that
are written twice are in it. At rest: configured, connected, and nothing arrives.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import live, plant
from examples.demo.processes import DemoError

N_DEVICES = 100
SETTLE_S, REST_S, LOAD_S = (
    75.0,
    90.0,
    180.0,
)  # a checkpoint comes every minute; devices that never spoke are silent after one
DAY_S = 86_400.0


def measure(*, quick: bool) -> dict[str, object]:
    """Bytes written a day by state; by their ratio what a checkpoint's bytes become on the disk."""
    settle_s, rest_s, load_s = (1.0, 2.0, 4.0) if quick else (SETTLE_S, REST_S, LOAD_S)
    trained = plant.train(60 if quick else 600)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = plant.write_model(trained, folder)
        with (
            live.broker(folder) as broker,
            live.gateway(folder, model, broker.port, n_devices=N_DEVICES, black_box=False) as gateway,
        ):
            process = psutil.Process(gateway.child.pid)
            time.sleep(settle_s)
            rest = _written(process, gateway, lambda: time.sleep(rest_s))
            with live.publisher(broker.port) as client:
                boards = live.Boards(client, N_DEVICES, settle_s + load_s)
                boards.play(settle_s)
                load = _written(process, gateway, lambda: boards.play(settle_s + load_s))
            gateway.end()
    if not quick and not load["bytes"]:
        raise DemoError("the system counts no bytes here: the temporary folder is no disk (TMPDIR)")
    return {
        "devices": N_DEVICES,
        "rest": rest,
        "load": load,
        "bytes_per_day": {
            state: DAY_S * found["bytes"] / found["seconds"]
            for state, found in (("rest", rest), ("load", load))
        },
        "disk_over_checkpoints": load["bytes"] / max(load["checkpoint_bytes"], 1.0),
    }


def _written(
    process: psutil.Process, gateway: live.Gateway, wait: live.Callable[[], None]
) -> dict[str, float]:
    """What is written during ``wait``."""
    began_s = time.perf_counter()
    before = _now(process, gateway)
    wait()
    after = _now(process, gateway)
    return {
        "seconds": time.perf_counter() - began_s,
        **{name: after[name] - before[name] for name in before},
    }


def _now(process: psutil.Process, gateway: live.Gateway) -> dict[str, float]:
    return {
        "bytes": float(process.io_counters().write_bytes),
        "checkpoints": gateway.metric("linewatch_checkpoints_total"),
        "checkpoint_bytes": gateway.metric("linewatch_checkpoint_bytes_total"),
        "checkpoint_s": gateway.metric("linewatch_checkpoint_seconds_total"),
    }
