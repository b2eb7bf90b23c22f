"""FEMTO (Nectoux et al. 2012): bearings that run until they fail, a burst of a tenth of a second every ten seconds, or of
those every third.

A model is trained on the first 20 % of a bearing's life. What follows up to 50 % is taken to be healthy, the last 5 % to be
faulty: the set has no labels but the end. Alerts are a gateway's, at p <= .01.

Of more bearings there are features alone, made elsewhere: 8 bands, log-RMS, peak, crest factor and kurtosis a channel, which
is what the product's are. They go through its commissioning, fitting and graphs, and have a ROC AUC; there is no signal to
replay.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from benchmarks.quality.cases import GRAPHS, Case, Row, Scope, Tick, loss, mean, over_files, over_seeds
from benchmarks.quality.metrics import ranking
from benchmarks.quality.product import Rows, trained
from cloud_sink.cutting import Request
from cloud_sink.fit import graph_scores, graphs_of
from cloud_sink.quantise import sweep
from cloud_sink.train import fit_model
from edge_node.config_schema import Precision
from models.commissioning import commission
from models.logs import LogOptions
from models.logs import Tick as ClockTick
from models.manifest import Family
from models.recording import RecordingWriter
from models.signal import NS_PER_S, Clock, SampleBlock

START_NS = 1_300_000_000 * NS_PER_S  # the set has no dates
HEALTHY, HALF, FAILING = 0.2, 0.5, 0.95  # shares of a life
P_ALARM = 0.01
OPTIONS = LogOptions(timezone="UTC")
N_TIME = 8  # columns of log-RMS, peak, crest factor and kurtosis, x and y in turn
NS_PER_HOUR = 3600 * NS_PER_S


@dataclass(frozen=True, slots=True, eq=False)
class Bearing:
    """A bearing as a case, judged from HEALTHY on; of its records those up to ``healthy`` are before half of its life, those
    from ``failing`` on its last; ``n_rows`` to train on."""

    case: Case
    healthy: int
    failing: int
    n_rows: int


def paths(data: Path) -> list[Path]:
    """The bearings of which there is raw signal, by name."""
    return sorted((data / "femto").glob("*.npz"))


def featured(data: Path) -> list[Path]:
    """The bearings of which there are features alone, by name."""
    raw = {path.stem.partition("_every")[0] for path in paths(data)}
    return sorted(path for path in (data / "femto" / "features").glob("*.npz") if path.stem not in raw)


def n_steps(data: Path, scope: Scope) -> int:
    """How often :func:`measure` calls ``tick``."""
    n_featured = len(featured(data)[: scope.n_files])
    return 1 + scope.n_trainings(len(paths(data)[: scope.n_files]) + n_featured)


def measure(data: Path, tick: Tick, scope: Scope) -> Row:
    """The set's figures: a row a model and graph for each bearing and for their mean."""
    by_file: dict[str, dict[str, dict[str, float | None]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bearings = [read(path, Path(folder)) for path in paths(data)[: scope.n_files]]
        tick("femto: a random score, a clock")
        rows = beside(bearings)
        for family in scope.families:
            found: dict[Precision, dict[str, list[dict[str, float | None]]]]
            found = {graph: {b.case.name: [] for b in bearings} for graph in GRAPHS}
            for seed in scope.seeds_of(family):
                for bearing in bearings:
                    tick(f"femto: {family}, {bearing.case.name}")
                    for graph, figures in _figures(bearing, family, seed).items():
                        found[graph][bearing.case.name].append(figures)
                for path in featured(data)[: scope.n_files]:
                    tick(f"femto: {family}, {path.stem}")
                    for graph, auc in _by_features(path, family, seed).items():
                        found[graph].setdefault(path.stem, []).append({"auc": auc})
            by_file[family] = {}
            for graph in GRAPHS:
                means = {name: mean(runs) for name, runs in found[graph].items() if runs}
                of_seeds = zip(*(runs for runs in found[graph].values() if runs), strict=True)
                rows += _rows(family, graph, means, [_mean_and_worst([*runs]) for runs in of_seeds])
                by_file[family][graph] = {name: figures["auc"] for name, figures in means.items()}
    return {
        "files": [b.case.name for b in bearings],
        "of_features": [path.stem for path in featured(data)[: scope.n_files]],
        "p_alarm": P_ALARM,
        "rows": rows,
        "auc_by_file": by_file,
        "int8_auc_loss": {f: loss(graphs["float32"], graphs["int8"]) for f, graphs in by_file.items()},
    }


def read(path: Path, folder: Path) -> Bearing:
    """A bearing, its records written to ``folder`` as a log, in g."""
    with np.load(path) as data:
        counts, scale = data["acc"], float(data["scale_g"])
        times = START_NS + data["record_index"].astype(np.int64) * int(data["record_period_s"]) * NS_PER_S
        rate = Fraction(int(data["fs_hz"]))
    log = folder / f"{path.stem}.jsonl"
    with RecordingWriter(log) as writer:
        for start_ns, record in zip(times.tolist(), counts, strict=True):
            arrival_ns = start_ns + NS_PER_S // 5
            writer.write(
                SampleBlock.uniform(
                    "machine",
                    ("x", "y"),
                    record.astype(np.float64) * scale,
                    start_ns=start_ns,
                    rate_hz=rate,
                    arrival_ns=arrival_ns,
                    clock=Clock.SYNCED,
                )
            )
            writer.write(ClockTick(arrival_ns + NS_PER_S))
    n, n_record = counts.shape[:2]
    first, half, failing = (int(np.ceil(share * n)) for share in (HEALTHY, HALF, FAILING))
    anomalous = np.arange(n) >= failing
    case = Case(
        name=path.stem.partition("_every")[0],
        path=log,
        options=OPTIONS,
        times_ns=times,
        anomalous=anomalous[first:],
        first_row=first,
        skip_rows=first * n_record,
        recorded=True,
    )
    return Bearing(case, half - first, failing - first, first * n_record)


def judge(bearing: Bearing, said: Rows) -> dict[str, float | None]:
    """``auc`` of HEALTHY to HALF against FAILING on; alerts raised before HALF and the share of records there with one open;
    ``lead_h``: hours from the first record after HALF with an open alert to the end, 0 where there is none."""
    healthy = np.arange(bearing.healthy)
    both = np.concatenate([healthy, np.arange(bearing.failing, said.score.size)])
    ranked = ranking(bearing.case.anomalous[both], said.score[both], with_vus=False)
    late = np.flatnonzero(said.alerting[bearing.healthy :]) + bearing.healthy
    times = bearing.case.times_ns[bearing.case.first_row :]
    return {
        "auc": ranked.auc,
        "average_precision": ranked.average_precision,
        "false_alerts": float(np.count_nonzero(said.raised < bearing.healthy)),
        "far": float(said.alerting[healthy].mean()),
        "far_windows": float((said.p[healthy] <= P_ALARM).mean()),
        "lead_h": float(times[-1] - times[late[0]]) / NS_PER_HOUR if late.size else 0.0,
        "life_h": float(times[-1] - bearing.case.times_ns[0]) / NS_PER_HOUR,
    }


def _by_features(path: Path, family: Family, seed: int) -> dict[Precision, float]:
    """ROC AUC as :func:`judge` has it, by graph that training would publish."""
    with np.load(path) as data:
        features = np.concatenate([data["time"][:, :N_TIME], data["b8"]], axis=1).astype(np.float32)
    n, k = features.shape
    first, half, failing = (int(np.ceil(share * n)) for share in (HEALTHY, HALF, FAILING))
    learn = np.arange(n) < first
    known = commission(features, learn, None, np.zeros(k, np.bool_), np.full(k, 1e-6))
    model = fit_model(family, known.inputs[learn], seed=seed)
    found = sweep(model, known.inputs[learn], ["x", "y"] * (N_TIME // 2) + ["x"] * 8 + ["y"] * 8, seed=seed)
    both = np.concatenate([np.arange(first, half), np.arange(failing, n)])
    aucs: dict[Precision, float] = {}
    graphs = graphs_of(model, known.inputs[learn], found.sigmas)
    for graph in GRAPHS:
        if graph == "float32" or found.publish:
            score = graph_scores(model, *graphs[graph], known.inputs[both]).astype(np.float64)
            aucs[graph] = ranking(both >= failing, score, with_vus=False).auc
    return aucs


def beside(bearings: list[Bearing]) -> list[Row]:
    """A score drawn by lot, and one that only grows."""
    generator = np.random.default_rng(0)
    rows: list[Row] = []
    for name in ("random", "clock"):
        means = {}
        for b in bearings:
            n = b.case.anomalous.size
            score = generator.random(n) if name == "random" else np.arange(n, dtype=np.float64)
            none = np.zeros(0, np.int64)
            said = Rows(score, 1.0 - score / (score.max() + 1.0), np.zeros(n, np.bool_), none, none)
            figures = judge(b, said)
            means[b.case.name] = {k: figures[k] for k in ("auc", "average_precision")}
        rows += _rows(name, "", means)
    return rows


def _figures(bearing: Bearing, family: Family, seed: int) -> dict[Precision, dict[str, float | None]]:
    case = bearing.case
    request = Request(logs=(case.path,), options=case.options, feature_set="vibration", n_rows=bearing.n_rows)
    model = trained(request, family, seed=seed)
    said = {graph: case.said(model, graph, P_ALARM) for graph in GRAPHS}
    return {graph: judge(bearing, word) for graph, word in said.items() if word is not None}


def _rows(
    model: str,
    graph: str,
    means: dict[str, dict[str, float | None]],
    of_seeds: Sequence[dict[str, float | None]] = (),
) -> list[Row]:
    """Each bearing's, and their mean with the lowest AUC; ``of_seeds``: the latter, by seed."""
    whole: Row = {**_mean_and_worst([*means.values()]), "files": float(len(means))}
    if len(of_seeds) > 1 and (differing := over_seeds(of_seeds).get("over_seeds")):
        whole["over_seeds"] = differing
    aucs = np.array([auc for figures in means.values() if (auc := figures["auc"]) is not None])
    if aucs.size:
        whole["over_files"] = over_files(aucs.size, lambda which: {"auc": float(aucs[which].mean())})
    parts: dict[str, Row] = {"all": whole, **{name: {**figures} for name, figures in means.items()}}
    return [{"model": model, "graph": graph, "part": part, **figures} for part, figures in parts.items()]


def _mean_and_worst(bearings: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    aucs = [auc for figures in bearings if (auc := figures["auc"]) is not None]
    return {**mean(bearings), "auc_worst": min(aucs, default=None)}
