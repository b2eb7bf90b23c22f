"""The Skoltech Anomaly Benchmark (Katser & Kozitsin 2020; GPL-3.0, read where it lies): a water circuit whose valves are
closed, 8 sensors, a row a second.

A model is trained on the first 400 rows of each file and judged on the rows after them. An alarm is an open alert of the
gateway's at p <= .01 of the model's own cross-fit calibration: a level that nothing but the training part has set. Design
choices are made on the files of even index, by name; the odd ones are shown apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.cases import (
    GRAPHS,
    PARTS,
    Case,
    Figures,
    Row,
    Scope,
    Tick,
    loss,
    mean,
    of_part,
    over_files,
    over_seeds,
    row_times,
)
from benchmarks.quality.changepoints import WIDTH, Detected, changepoint_score
from benchmarks.quality.metrics import N_DRAWS, Ranking, alarms, ranking
from benchmarks.quality.product import Rows, trained
from cloud_sink.cutting import SLOW_WINDOW, Request
from cloud_sink.fit import Trained
from edge_node.config_schema import Precision
from models.labels import label_columns
from models.logs import LogOptions
from models.manifest import Family

HEALTHY_ROWS = 400
FREE_ROWS = {"": HEALTHY_ROWS, "_hour": 3_600}  # of the anomaly-free recording: as of the others, and an hour
P_ALARM = 0.01
OPTIONS = LogOptions(timezone="UTC")
CLOCK_STEP = 10  # rows: how finely the clock is set


@dataclass(frozen=True, slots=True, eq=False)
class File:
    """A recording, and the rows at which it changed, int64, both from the end of the healthy part on; ``whole``: the same
    with the healthy part."""

    case: Case
    changes: NDArray[np.int64]
    whole: Case


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """What a gateway says of a file with alerts at P_ALARM, and with one a week, which is the level when nothing is said; how
    well its scores rank, None where nothing can be ranked. ``whole``: at P_ALARM, from the first row on."""

    at_p: Rows
    weekly: Rows
    whole: Rows
    ranked: Ranking | None


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What models of one family and seed say of each file and of the anomaly-free recording; None: no such graph."""

    words: list[Words | None]
    free: dict[str, Words | None]  # by FREE_ROWS


def paths(data: Path) -> list[Path]:
    """The faulty recordings by name."""
    found = (f for f in (data / "skab" / "data").rglob("*.csv") if f.parent.name != "anomaly-free")
    return sorted(found, key=lambda f: (f.parent.name, f.stem))


def n_steps(data: Path, scope: Scope) -> int:
    """How often :func:`measure` calls ``tick``."""
    n_free = len(FREE_ROWS) if scope.n_files is None else 1
    return 1 + scope.n_trainings(n_free + len(paths(data)[: scope.n_files]))


def measure(data: Path, tick: Tick, scope: Scope) -> Row:
    """The set's figures, by model, graph and part of the files."""
    files = [read(path) for path in paths(data)[: scope.n_files]]
    still = data / "skab" / "data" / "anomaly-free" / "anomaly-free.csv"
    lengths = list(FREE_ROWS.items()) if scope.n_files is None else list(FREE_ROWS.items())[:1]
    free = {suffix: read(still, n_rows) for suffix, n_rows in lengths}
    tick("skab: a random score, a clock")
    rows = beside(files)
    by_file: dict[str, dict[str, dict[str, float | None]]] = {}
    alarms_by_file: dict[str, dict[str, dict[str, Figures]]] = {}
    for family in scope.families:
        runs = [_run(files, free, family, seed, tick) for seed in scope.seeds_of(family)]
        by_file[family], alarms_by_file[family] = {}, {}
        for graph in GRAPHS:
            known = [
                mean(x for run in runs if (x := _of_file(f, run[graph].words[i])) is not None)
                for i, f in enumerate(files)
            ]
            for part in PARTS:
                figures = over_seeds([judge(files, run[graph], part) for run in runs])
                likely = _likely([(files[i], known[i]) for i in of_part(part, len(files)) if known[i]])
                rows.append({"model": family, "graph": graph, "part": part, **figures, "over_files": likely})
            by_file[family][graph] = mean(_aucs(files, run[graph]) for run in runs)
            alarms_by_file[family][graph] = {f.case.name: k for f, k in zip(files, known, strict=True)}
    return {
        "files": [f.case.name for f in files],
        "healthy_rows": HEALTHY_ROWS,
        "p_alarm": P_ALARM,
        "rows": rows,
        "auc_by_file": by_file,
        "alarms_by_file": alarms_by_file,
        "int8_auc_loss": {f: loss(graphs["float32"], graphs["int8"]) for f, graphs in by_file.items()},
    }


def read(path: Path, n_healthy: int = HEALTHY_ROWS) -> File:
    """A recording of the set. It is judged from row ``n_healthy`` on, by windows that may begin before."""
    times = row_times(path, OPTIONS)
    labels = label_columns((path,), OPTIONS)
    after = times[n_healthy:]
    case = Case(
        name=f"{path.parent.name}/{path.stem}",
        path=path,
        options=OPTIONS,
        times_ns=times,
        anomalous=np.zeros(after.size, np.bool_) if labels is None else labels.at(after),
        first_row=n_healthy,
        skip_rows=n_healthy - (SLOW_WINDOW - 1),
    )
    changes = np.zeros(0, np.int64) if labels is None else np.searchsorted(times, labels.changepoints)
    anomalous = np.zeros(times.size, np.bool_) if labels is None else labels.at(times)
    whole = replace(case, anomalous=anomalous, first_row=0, skip_rows=0)
    return File(case, changes[changes >= n_healthy] - n_healthy, whole)


def fitted(file: File, family: Family, seed: int = 0) -> Trained:
    """A model of the healthy rows of ``file``, and of no others."""
    request = Request(logs=(file.case.path,), options=OPTIONS, feature_set="slow", n_rows=file.case.first_row)
    return trained(request, family, seed=seed)


def judge(files: Sequence[File], run: Run, part: str) -> dict[str, float | None]:
    """The figures of a run over the files of ``part``. ``f1``, ``far`` and ``mar`` are of rows with an open alert at P_ALARM,
    ``f1_windows`` of rows whose own p-value is at or below it, ``f1_weekly`` of alerts at one a week; ``_whole`` counts the
    rows that were trained on as well, as the set's own tables do; ``free_far`` is the share of the anomaly-free recording's
    rows with an open alert."""
    found = [(files[i], w) for i in of_part(part, len(files)) if (w := run.words[i]) is not None]
    truth = [f.case.anomalous for f, _ in found]
    counted: dict[str, float | None] = {"files": float(len(found))}
    if not found:
        return counted
    ranked = mean(w.ranked._asdict() for _, w in found if w.ranked is not None)
    pooled = ranking(np.concatenate(truth), -np.concatenate([w.at_p.p for _, w in found]), with_vus=False)
    alerts = alarms(truth, [w.at_p.alerting for _, w in found])
    by_window = alarms(truth, [w.at_p.p <= P_ALARM for _, w in found])
    weekly = alarms(truth, [w.weekly.alerting for _, w in found])
    whole_truth = [f.whole.anomalous for f, _ in found]
    whole = alarms(whole_truth, [w.whole.alerting for _, w in found])
    changes = [Detected(w.at_p.changed, f.changes) for f, w in found]
    return {
        **counted,
        **ranked,
        "auc_pooled_p": pooled.auc,
        **alerts._asdict(),
        "auc_whole": mean(
            ranking(f.whole.anomalous, w.whole.score, with_vus=False)._asdict() for f, w in found
        )["auc"],
        **{f"{name}_whole": value for name, value in whole._asdict().items()},
        "f1_windows": by_window.f1,
        "far_windows": by_window.far,
        "f1_weekly": weekly.f1,
        "far_weekly": weekly.far,
        "changepoint": changepoint_score(changes),
        "changepoint_centred": changepoint_score(changes, before=WIDTH // 2),
        "changepoint_random": _moved(found),
        **{name: x for suffix, words in run.free.items() for name, x in _free(words, suffix).items()},
    }


def _free(words: Words | None, suffix: str) -> dict[str, float | None]:
    if words is None:
        return {}
    return {
        f"free_far{suffix}": float(words.at_p.alerting.mean()),
        f"free_far_windows{suffix}": float((words.at_p.p <= P_ALARM).mean()),
        f"free_far_weekly{suffix}": float(words.weekly.alerting.mean()),
        f"free_alerts{suffix}": float(words.at_p.raised.size),
    }


def beside(files: Sequence[File]) -> list[Row]:
    """A score drawn by lot, and a clock: its score is the row's number; it alarms between the two rows, and says changes at the
    rows, that were best on the files of even index."""
    generator = np.random.default_rng(0)
    even = [files[i] for i in of_part("even", len(files))]
    begin, end = _best_span(even)
    usual = _usual_changes(even)
    rows: list[Row] = []
    for part in PARTS:
        chosen = [files[i] for i in of_part(part, len(files))]
        if not chosen:
            continue
        truth = [f.case.anomalous for f in chosen]
        lots = mean(ranking(t, generator.random(t.size))._asdict() for t in truth)
        rows.append({"model": "random", "graph": "", "part": part, "files": float(len(chosen)), **lots})
        clock = mean(ranking(t, np.arange(t.size, dtype=np.float64))._asdict() for t in truth)
        spans = alarms(truth, [_span(t.size, begin, end) for t in truth])
        changes = [Detected(usual[usual < f.case.anomalous.size], f.changes) for f in chosen]
        rows.append(
            {
                "model": "clock",
                "graph": "",
                "part": part,
                "files": float(len(chosen)),
                **clock,
                **spans._asdict(),
                "changepoint": changepoint_score(changes),
                "changepoint_centred": changepoint_score(changes, before=WIDTH // 2),
            }
        )
    return rows


def _run(
    files: Sequence[File], free: Mapping[str, File], family: Family, seed: int, tick: Tick
) -> dict[Precision, Run]:
    words: dict[Precision, list[Words | None]] = {graph: [] for graph in GRAPHS}
    for file in (*files, *free.values()):
        tick(f"skab: {family}, {file.case.name}")
        request = Request(
            logs=(file.case.path,), options=OPTIONS, feature_set="slow", n_rows=file.case.first_row
        )
        model = trained(request, family, seed=seed)
        for graph in GRAPHS:
            at_p, weekly = (file.case.said(model, graph, p) for p in (P_ALARM, None))
            whole = file.whole.said(model, graph, P_ALARM) if file.case.anomalous.any() else at_p
            if at_p is None or weekly is None or whole is None:
                words[graph].append(None)
                continue
            ranked = ranking(file.case.anomalous, at_p.score) if file.case.anomalous.any() else None
            words[graph].append(Words(at_p, weekly, whole, ranked))
    return {
        graph: Run(found[: len(files)], dict(zip(free, found[len(files) :], strict=True)))
        for graph, found in words.items()
    }


def _aucs(files: Sequence[File], run: Run) -> dict[str, float | None]:
    return {
        f.case.name: w.ranked.auc
        for f, w in zip(files, run.words, strict=True)
        if w is not None and w.ranked is not None
    }


def _of_file(file: File, words: Words | None) -> dict[str, float | None] | None:
    """AUC; ``far`` and ``mar`` of alerts at P_ALARM, ``far_windows`` and ``mar_windows`` of single windows."""
    if words is None:
        return None
    truth = file.case.anomalous
    found: dict[str, float | None] = {"auc": None if words.ranked is None else words.ranked.auc}
    for suffix, said in (("", words.at_p.alerting), ("_windows", words.at_p.p <= P_ALARM)):
        found["far" + suffix] = float(said[~truth].mean()) if not truth.all() else None
        found["mar" + suffix] = float((~said[truth]).mean()) if truth.any() else None
    return found


def _likely(files: Sequence[tuple[File, Figures]]) -> dict[str, list[float]]:
    """95 % intervals of AUC, F1, FAR and MAR over other such files."""
    known = [(f, k) for f, k in files if None not in (k["auc"], k["far"], k["mar"])]
    if not known:
        return {}
    n_true = np.array([np.count_nonzero(f.case.anomalous) for f, _ in known], np.float64)
    n_false = np.array([np.count_nonzero(~f.case.anomalous) for f, _ in known], np.float64)
    auc, far, mar = (np.array([k[name] for _, k in known], np.float64) for name in ("auc", "far", "mar"))
    hit, false = (1.0 - mar) * n_true, far * n_false

    def figures(which: NDArray[np.intp]) -> dict[str, float]:
        tp, fp = hit[which].sum(), false[which].sum()
        positive, negative = n_true[which].sum(), n_false[which].sum()
        return {
            "auc": float(auc[which].mean()),
            "f1": float(2.0 * tp / (tp + fp + positive)),
            "far": float(fp / negative),
            "mar": float(1.0 - tp / positive),
        }

    return over_files(len(known), figures)


def _moved(found: Sequence[tuple[File, Words]]) -> float:
    """The changepoint score of the same statements at random times, mean of N_DRAWS."""
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(N_DRAWS):
        moved = [
            Detected(np.sort((w.at_p.changed + int(generator.integers(n))) % n), f.changes)
            for f, w in found
            if (n := f.case.anomalous.size)
        ]
        draws.append(changepoint_score(moved))
    return float(np.mean(draws))


def _span(n: int, begin: int, end: int) -> NDArray[np.bool_]:
    rows = np.arange(n)
    return (rows >= begin) & (rows < end)


def _best_span(files: Sequence[File]) -> tuple[int, int]:
    """The rows [begin, end) at which an alarm has the highest F1 over ``files``."""
    length = max(f.case.anomalous.size for f in files)
    positive, present = np.zeros(length), np.zeros(length)
    for f in files:
        positive[: f.case.anomalous.size] += f.case.anomalous
        present[: f.case.anomalous.size] += 1
    hits, said = np.append(0, np.cumsum(positive)), np.append(0, np.cumsum(present))
    spans = combinations([*range(0, length, CLOCK_STEP), length], 2)
    return max(spans, key=lambda s: 2 * (hits[s[1]] - hits[s[0]]) / (hits[-1] + said[s[1]] - said[s[0]]))


def _usual_changes(files: Sequence[File]) -> NDArray[np.int64]:
    """Medians of the first, second, ... change over the files that have as many as is usual."""
    n = max(1, int(np.median([f.changes.size for f in files])))
    whole = [f.changes for f in files if f.changes.size == n]
    return np.median(whole, axis=0).astype(np.int64) if whole else np.zeros(0, np.int64)
