"""A recording through the product as users run it: trained, exported, written as a bundle, read again, replayed window by
window.

The float32 and the int8 graph of one training each serve alone, by the calibration of their own.
"""

from __future__ import annotations

import tempfile
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
from edge_node.config_schema import Precision
from edge_node.model_store import load_bundle
from edge_node.replay import as_received, play
from models.episodes import AlertPolicy, Episodes
from models.logs import LogOptions
from models.manifest import Family
from models.recording import read_log, select_rows
from models.signal import ArtifactTarget, WindowSpec

TARGETS: dict[Precision, ArtifactTarget] = {"float32": "cpu-float32", "int8": "cpu-int8"}


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scored windows in time order: their ends int64[w], scores float32[w], p-values float64[w], and whether a machine alert
    was open after each, bool[w]; ``changed_ns`` int64[c]: ends of the windows with which one was raised or cleared,
    ``raised_ns`` those of the former."""

    end_ns: NDArray[np.int64]
    score: NDArray[np.float32]
    p: NDArray[np.float64]
    alerting: NDArray[np.bool_]
    changed_ns: NDArray[np.int64]
    raised_ns: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The last word of a gateway at each of n rows: the latest score float64[n], its p-value float64[n], whether an alert was
    open bool[n]; rows int64 at which one was raised, or raised or cleared. Before the first word: score 0, p 1."""

    score: NDArray[np.float64]
    p: NDArray[np.float64]
    alerting: NDArray[np.bool_]
    changed: NDArray[np.int64]
    raised: NDArray[np.int64]

    def after(self, row: int) -> Rows:
        """What was said from ``row`` on."""
        changed, raised = (at[at >= row] - row for at in (self.changed, self.raised))
        return Rows(self.score[row:], self.p[row:], self.alerting[row:], changed, raised)


def trained(request: Request, family: Family, *, seed: int = 0) -> Trained:
    """Raises what training raises: LogError, DatasetError, FitError."""
    options = FitOptions(family=family, model_id="quality", version=1, created_ns=0, seed=seed)
    return fit_dataset(read_dataset(request, warn=_silent), options)


def replayed(
    model: Trained,
    precision: Precision,
    log: Path,
    options: LogOptions,
    *,
    skip_rows: int,
    p_threshold: float | None = None,
    recorded: bool = False,
) -> Scored | None:
    """What a gateway says of ``log`` from row ``skip_rows`` on, alerting on ``p_threshold`` (None: on one alert a week, as it
    does when nothing else is said); ``recorded``: the log is one of ours. None where the model has no graph of ``precision``,
    since training would not publish it."""
    if model.manifest.artifact(TARGETS[precision]) is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        write_bundle(path, model.manifest, model.artifacts)
        bundle = load_bundle(path)
    named = msgspec.structs.replace(options, device_id="machine")
    core = assemble_bundle(bundle, "machine", p_threshold=p_threshold, precision=precision, on_notice=_silent)
    rows = select_rows(read_log((log,), named, warn=_silent), skip_rows=skip_rows)
    traces, changed, raised = [], [], []
    for step in play(as_received(rows, core, recorded=recorded), core, recorded=recorded):
        traces += step.traces
        machine = [a for a in step.alerts if a.kind == "machine"]
        changed += [a.end_ns for a in machine if a.state in ("raised", "cleared")]
        raised += [a.end_ns for a in machine if a.state == "raised"]
    return Scored(
        np.concatenate([np.zeros(0, np.int64), *(t.end_ns for t in traces)]),
        np.concatenate([np.zeros(0, np.float32), *(t.score for t in traces)]),
        np.concatenate([np.zeros(0, np.float64), *(t.p for t in traces)]),
        np.concatenate([np.zeros(0, np.bool_), *(t.alerting for t in traces)]),
        np.array(changed, np.int64),
        np.array(raised, np.int64),
    )


def at_rows(scored: Scored, times_ns: NDArray[np.int64]) -> Rows:
    """What had been said of the rows at ``times_ns`` int64[n], ascending, when the next one came: by windows that end no
    later than it, so by none that holds it. The last row has all that was said."""
    n = times_ns.size
    until = np.append(times_ns[1:], np.iinfo(np.int64).max)
    if not scored.end_ns.size:
        none = np.zeros(0, np.int64)
        return Rows(np.zeros(n), np.ones(n), np.zeros(n, np.bool_), none, none)
    known = np.searchsorted(scored.end_ns, until, side="right") - 1
    word, at = known >= 0, np.maximum(known, 0)
    return Rows(
        np.where(word, scored.score[at].astype(np.float64), 0.0),
        np.where(word, scored.p[at], 1.0),
        word & scored.alerting[at],
        np.unique(np.searchsorted(until, scored.changed_ns)),
        np.unique(np.searchsorted(until, scored.raised_ns)),
    )


def raised_at(
    scored: Scored, window: WindowSpec, level: float, policy: AlertPolicy | None = None
) -> NDArray[np.int64]:
    """Ends int64[r] of the windows with which the gateway's alerting would raise at ``level`` of p, by ``policy`` (None: that
    of slow features): what
    another replay would say, but for alerts that re-centring holds open."""
    policy = AlertPolicy() if policy is None else policy
    gap_ns = max(policy.m_raise * window.hop_ns, window.window_ns)
    episodes = Episodes(policy, window.hop_ns, gap_ns)
    p_clear = min(level * policy.clear_ratio, 0.5)
    found = []
    windows = zip(scored.end_ns.tolist(), scored.p.tolist(), scored.score.tolist(), strict=True)
    for end_ns, p, score in windows:
        if p > level and episodes.quiet:
            continue
        change = episodes.step(
            end_ns - window.window_ns,
            end_ns,
            p <= level,
            p > max(p_clear, level),
            "warning",
            "",
            score,
        )
        if change is not None and change.state == "raised":
            found.append(end_ns)
    return np.array(found, np.int64)


def _silent(text: str) -> None: ...
