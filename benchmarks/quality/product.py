"""A recording through the product as users run it: trained, exported, written as a bundle, read again, replayed window by window.

The float32 and the int8 graph each serve alone, from the same training, with the calibration of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_sink.bundle import write_bundle
from cloud_sink.cutting import Request
from cloud_sink.dataset import read_dataset
from cloud_sink.fit import FitOptions, Trained, fit_dataset
from edge_node.assembly import assemble_bundle
from edge_node.model_store import load_bundle
from edge_node.replay import as_received, play
from models.logs import LogOptions
from models.manifest import Family
from models.recording import read_log, select_rows
from models.signal import ArtifactTarget

DTYPES: Mapping[str, ArtifactTarget] = {"float32": "cpu-float32", "int8": "cpu-int8"}


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scored windows in time order: their ends int64[w], scores float32[w], p-values float64[w], and whether an alert was open
    after each, bool[w]; ``raised_ns`` int64[r]: ends of the windows with which machine alerts were raised."""

    end_ns: NDArray[np.int64]
    score: NDArray[np.float32]
    p: NDArray[np.float64]
    alerting: NDArray[np.bool_]
    raised_ns: NDArray[np.int64]


def trained(request: Request, family: Family, *, seed: int, recentring: bool = True) -> Trained:
    """Raises what training raises."""
    options = FitOptions(
        family=family, model_id="quality", version=1, created_ns=0, seed=seed, recentring=recentring
    )
    return fit_dataset(read_dataset(request, warn=_silent), options)


def replayed(
    model: Trained, dtype: str, log: Path, options: LogOptions, *, skip_rows: int, alerts_per_week: float
) -> Scored | None:
    """What a gateway says of ``log`` from row ``skip_rows`` on; None where the model has no graph of ``dtype``, since training
    would not publish it."""
    artifact = model.manifest.artifact(DTYPES[dtype])
    if artifact is None:
        return None
    alone = msgspec.structs.replace(model.manifest, artifacts=(artifact,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        write_bundle(path, alone, {artifact.target: model.artifacts[artifact.target]})
        bundle = load_bundle(path)
    core = assemble_bundle(bundle, "machine", alerts_per_week=alerts_per_week, on_notice=_silent)
    named = msgspec.structs.replace(options, device_id="machine") if options.device_id is None else options
    rows = select_rows(read_log((log,), named, warn=_silent), skip_rows=skip_rows)
    traces, raised = [], []
    for step in play(as_received(rows, core, recorded=False), core, recorded=False):
        traces += step.traces
        raised += [a.end_ns for a in step.alerts if a.kind == "machine" and a.state == "raised"]
    return Scored(
        np.concatenate([t.end_ns for t in traces]),
        np.concatenate([t.score for t in traces]),
        np.concatenate([t.p for t in traces]),
        np.concatenate([t.alerting for t in traces]),
        np.array(raised, np.int64),
    )


def _silent(text: str) -> None: ...
