"""Seconds and memory of ``cloud-sink learn``'s steps (reading, gathering, fitting) by the number of devices and of summaries.

``python -m benchmarks.scaling_learning FOLDER K FAMILY`` is one of them, in a process of its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from scipy.optimize import nnls

from benchmarks import scaling_load as load
from benchmarks.scaling_process import measured, peak_mb, step
from cloud_sink.features_store import FeatureStore
from cloud_sink.fleet import gathered
from cloud_sink.fleet_fit import FleetOptions, fit_fleet
from models.manifest import Family

FAMILIES = ("mahalanobis", "linear-ae", "ae")
SIZES = {  # (devices, summaries of each), by features
    16: ((100, 10), (1_000, 10), (1_000, 50), (10_000, 5), (10_000, 10)),
    40: ((100, 10), (1_000, 10), (1_000, 30), (5_000, 3), (10_000, 3)),
}
NETWORK = {16: (1_000, 10)}  # its rows are then as many as they may be; with more features it takes minutes
QUICK = ((20, 2), (40, 2))
WRITTEN = 20_000  # summaries of a file: of a store that is compacted


def measure(k: int, *, quick: bool, looks: float | None = None) -> dict[str, Any]:
    """The linear families at each size, and of few features the network at one where its rows are as many as they may be, so that
    more devices are no more work; in a quick run one family. What follows for other sizes: see :func:`costs`."""
    points: list[dict[str, Any]] = []
    sizes = QUICK if quick else SIZES[k]
    for n_devices, n_each in sizes:
        with tempfile.TemporaryDirectory() as name:
            _write(Path(name) / "features", k, n_devices, n_each)
            network = (n_devices, n_each) == NETWORK.get(k) and not quick
            families = FAMILIES if network else FAMILIES[:1] if quick else FAMILIES[:2]
            for family in families:
                found = measured("benchmarks.scaling_learning", str(Path(name) / "features"), str(k), family)
                points.append({"devices": n_devices, "each": n_each, "family": family, **found})
                print(
                    f"  learning: {k} features, {n_devices} devices, {n_each} summaries each, {family}: "
                    f"{found['seconds']:.1f} s",
                    flush=True,
                )
    return {"points": points, **costs(points, looks)}


def _write(folder: Path, k: int, n_devices: int, n_each: int) -> None:
    store = FeatureStore(str(folder), "bench")
    at_once = max(1, WRITTEN // n_each)
    for first in range(0, n_devices, at_once):
        store.append([load.table(k, min(at_once, n_devices - first), n_each, first=first)])


def costs(points: list[dict[str, Any]], looks: float | None = None) -> dict[str, Any]:
    """Coefficients, none below 0 (non-negative least squares): reading and gathering take seconds, and seconds a summary, a
    device, and a device times a summary; memory megabytes, and megabytes a summary and a device; fitting, by family, seconds and
    seconds a device. ``looks``: seconds of a device times a summary, where they are known, for they do not depend on the
    features. ``worst``: the largest error of any point's time and memory, as a part of it."""
    linear = [p for p in points if p["family"] != "ae"]
    m = np.array([p["devices"] * p["each"] for p in linear], float)
    d = np.array([p["devices"] for p in linear], float)
    one = np.ones(len(m))
    whole = np.array([p["read_s"] + p["gather_s"] for p in linear])
    if looks is None:
        seconds, worst_s = _nnls((one, m, d, m * d), whole)
    else:
        rest, _ = _nnls((one, m, d), np.maximum(whole - looks * m * d, 0.1 * whole))
        seconds = [*rest, looks]
        worst_s = float(np.abs(np.stack((one, m, d, m * d), axis=1) @ seconds / whole - 1.0).max())
    mb, worst_mb = _nnls((one, m, d), np.array([p["grown_mb"] + p["base_mb"] for p in linear]))
    fit: dict[str, dict[str, float]] = {}
    for family in FAMILIES:
        own = [p for p in points if p["family"] == family]
        if len(own) > 1:
            of = np.array([p["devices"] for p in own], float)
            (base, each), _ = _nnls((np.ones(len(own)), of), np.array([p["fit_s"] for p in own]))
            fit[family] = {"s": base, "s_a_device": each}
        elif own:  # a network takes what it takes for its rows, and for devices what the linear ones do
            fit[family] = {"s": own[0]["fit_s"], "s_a_device": fit["mahalanobis"]["s_a_device"]}
    return {
        **dict(zip(("s", "s_a_summary", "s_a_device", "s_a_device_summary"), seconds, strict=True)),
        **dict(zip(("mb", "mb_a_summary", "mb_a_device"), mb, strict=True)),
        "fit": fit,
        "worst": {"seconds": worst_s, "mb": worst_mb},
    }


def _nnls(columns: tuple[np.ndarray[Any, Any], ...], y: np.ndarray[Any, Any]) -> tuple[list[float], float]:
    """Coefficients by relative errors, so that small sizes say as much as large ones; and the largest of those errors."""
    x = np.stack(columns, axis=1) / np.maximum(y, 1e-9)[:, None]
    scale = x.max(axis=0)
    found = nnls(x / scale, np.ones(len(y)))[0] / scale
    return [float(c) for c in found], float(np.abs(x @ found - 1.0).max())


def main(folder: str, k: int, family: str) -> None:
    template = load.template(k)
    store = FeatureStore(folder, "learn")
    base_mb = peak_mb()
    began_s = time.perf_counter()
    table, read_s, _ = step(lambda: store.read(template.class_ or "", template.schema_id))
    read_mb = peak_mb()
    fleet, gather_s, _ = step(lambda: gathered(table))
    gathered_mb = peak_mb()
    options = FleetOptions(
        cast(Family, family),
        template.version + 1,
        template.created_ns,
        int(table.start_ns.min()),
        int(table.end_ns.max()),
    )
    trained, fit_s, _ = step(lambda: fit_fleet(template, fleet, options))
    said = {
        "summaries": len(table),
        "learned_devices": len(fleet.devices),
        "rows": len(fleet.rows),
        "version": trained.manifest.version,
        "read_s": read_s,
        "gather_s": gather_s,
        "fit_s": fit_s,
        "seconds": time.perf_counter() - began_s,
        "base_mb": base_mb,
        "read_mb": read_mb - base_mb,
        "gather_mb": gathered_mb - base_mb,
        "grown_mb": peak_mb() - base_mb,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
