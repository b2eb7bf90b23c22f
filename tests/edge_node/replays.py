"""Signals and logs for tests of replay: what the committed bundle (tests/fixtures) was trained on, with faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.assembly import Core, assemble_bundle
from edge_node.model_store import load_bundle
from edge_node.replay import as_received, play
from models.logs import LogOptions
from models.messages import Alert
from models.recording import read_log
from models.signal import NS_PER_S
from tests.fixtures.bundle_files import BUNDLE

T0_S = 1_700_000_000
CHANNELS = ("Temperature", "Pressure")


def signal(n: int, *, seed: int = 7, faults: Sequence[tuple[int, int]] = ()) -> NDArray[np.float64]:
    """float64[n, 2]: temperature and pressure share a slow wave; in [start, stop) of a fault pressure is lost."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(n) / 60) + 0.3 * rng.normal(size=n)
    values = np.stack(
        [40 + 2 * wave + 0.2 * rng.normal(size=n), 3 - 0.5 * wave + 0.05 * rng.normal(size=n)], axis=1
    )
    for start, stop in faults:
        values[start:stop, 1] -= 1.5
    return values


def write_csv(
    path: Path,
    values: NDArray[np.float64],
    *,
    times_s: NDArray[np.int64] | None = None,
    devices: Sequence[str] | None = None,
    anomaly: NDArray[np.bool_] | None = None,
) -> Path:
    """Rows at 1 Hz from T0_S on, or at ``times_s``."""
    times = T0_S + np.arange(len(values)) if times_s is None else times_s
    names = [
        "t",
        *(["device"] if devices is not None else []),
        *CHANNELS,
        *(["anomaly"] if anomaly is not None else []),
    ]
    lines = [",".join(names)]
    for i, row in enumerate(values.tolist()):
        cells = [str(times[i]), *([devices[i]] if devices is not None else [])]
        cells += ["" if v != v else f"{v:.6g}" for v in row]
        lines.append(",".join([*cells, *([str(int(anomaly[i]))] if anomaly is not None else [])]))
    path.write_text("\n".join(lines) + "\n")
    return path


def core(device_id: str = "pump", alerts_per_week: float = 500.0) -> Core:
    return assemble_bundle(
        load_bundle(BUNDLE), device_id, alerts_per_week=alerts_per_week, on_notice=lambda text: None
    )


def replayed(
    path: Path, *, block_rows: int = 65_536, device_id: str = "pump", **options: object
) -> list[Alert]:
    """The alerts of a log of another program."""
    on = core(device_id)
    read = LogOptions(device_id=device_id, block_rows=block_rows, **options)  # type: ignore[arg-type]
    items = as_received(read_log(path, read, warn=lambda text: None), on, recorded=False)
    return [alert for step in play(items, on, recorded=False) for alert in step.alerts]


def at(seconds: float) -> int:
    """Nanoseconds of ``seconds`` after the log's first row."""
    return round((T0_S + seconds) * NS_PER_S)
