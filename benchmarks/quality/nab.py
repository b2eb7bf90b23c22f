"""The Numenta Anomaly Benchmark (Lavin & Ahmad 2015; MIT): series of one value, most of servers, five minutes apart.

A model of telemetry features is trained on what the benchmark gives for learning, the first 15 % of a file, of 750 rows at
most; where that is too short for the product's usual window, the window is halved until it is not. One threshold serves all
files: a level of p, since that alone means the same in each. It is learned on the files of even or of odd index, by name, and
judged on the others. Detections are alerts as a gateway raises them of such features, of a random score and a clock as well;
``windows`` figures are of every window at or below the level instead.

A window of telemetry is within its ranges or is not, so nearly all levels say the same. What decides are the features and the
margin of their ranges, which were chosen on the even files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.cases import GRAPHS, Case, Row, Scope, Tick, of_part, over_seeds, row_times
from benchmarks.quality.nab_score import PROFILES, Profile, Series, Sweep, probation, sweep
from benchmarks.quality.product import Scored, at_rows, raised_at, trained
from cloud_sink.cutting import SLOW_WINDOW, Request
from cloud_sink.fit import Trained
from cloud_sink.train import FitError
from edge_node.config_schema import Precision
from models.alerting import usual_policy
from models.features import FeatureSet
from models.logs import LogOptions
from models.manifest import Family
from models.signal import NS_PER_S, Mode, WindowSpec

OPTIONS = LogOptions(timezone="UTC")
LEVELS = tuple(float(p) for p in np.logspace(-0.5, -12, 24))  # of p, half a decade apart
LEAST_WINDOW = 8
FEATURES: FeatureSet = "telemetry"

Windows = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class File:
    """A series and the first and last row of each labelled window."""

    case: Case
    windows: Windows


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """What is said of a file: a score for each row, float64[n], and rows int64 of what is raised at each of LEVELS."""

    score: NDArray[np.float64]
    raised: tuple[NDArray[np.int64], ...]


def paths(data: Path) -> list[Path]:
    """The series by name."""
    return sorted((data / "nab" / "data").rglob("*.csv"))


def n_steps(data: Path, scope: Scope) -> int:
    """How often :func:`measure` calls ``tick``."""
    return 2 + scope.n_trainings(len(_chosen(data, scope)))


def measure(data: Path, tick: Tick, scope: Scope) -> Row:
    """The set's figures, by model, graph and the files that are judged; ``all``: each by the threshold of the others."""
    labels = json.loads((data / "nab" / "labels" / "combined_windows.json").read_text())
    files = [read(path, labels[f"{path.parent.name}/{path.name}"]) for path in _chosen(data, scope)]
    generator = np.random.default_rng(0)
    tick("nab: a random score")
    rows = judge("random", "", files, [[_beside(f, generator.random(f.case.times_ns.size)) for f in files]])
    tick("nab: a clock")
    rows += judge("clock", "", files, [[_beside(f, np.linspace(1, 0, f.case.times_ns.size)) for f in files]])
    halved: dict[str, int] = {}
    alerts: dict[str, Row] = {}
    unpublished: dict[str, list[str]] = {}
    for family in scope.families:
        runs: dict[Precision, list[list[Track]]] = {graph: [] for graph in GRAPHS}
        without: set[str] = set()
        for seed in scope.seeds_of(family):
            run: dict[Precision, list[Track]] = {graph: [] for graph in GRAPHS}
            for file in files:
                tick(f"nab: {family}, {file.case.name}")
                model = _trained(file, family, seed)
                if model.manifest.window.n < SLOW_WINDOW:
                    halved[file.case.name] = model.manifest.window.n
                float32, int8 = (_track(file, model, graph) for graph in GRAPHS)
                assert float32 is not None  # always published
                if int8 is None:
                    without.add(file.case.name)
                run["float32"].append(float32)
                run["int8"].append(int8 or float32)  # all that a gateway would have to run
            for graph in GRAPHS:
                runs[graph].append(run[graph])
        for graph in GRAPHS:
            rows += judge(family, graph, files, runs[graph])
        alerts[family] = _alerts(files, runs["float32"][0])
        unpublished[family] = sorted(without)
    return {
        "files": [f.case.name for f in files],
        "halved": halved,
        "int8_unpublished": unpublished,
        "rows": rows,
        "alerts_by_file": alerts,
    }


def read(path: Path, labelled: Sequence[Sequence[str]]) -> File:
    """A series with its windows, given as times of their first and last row."""
    times = row_times(path, OPTIONS)
    ends = np.array(labelled, dtype="datetime64[ns]").astype(np.int64).reshape(-1, 2)
    windows = np.searchsorted(times, ends)
    if (times[windows] != ends).any():
        raise ValueError(f"{path}: a labelled window begins or ends at no row of it")
    first = probation(times.size)
    anomalous = np.zeros(times.size, np.bool_)
    for left, right in windows.tolist():
        anomalous[left : right + 1] = True
    case = Case(
        name=f"{path.parent.name}/{path.stem}",
        path=path,
        options=OPTIONS,
        times_ns=times,
        anomalous=anomalous[first:],
        first_row=first,
        skip_rows=max(0, first - (SLOW_WINDOW - 1)),
    )
    return File(case, tuple((int(left), int(right)) for left, right in windows))


def judge(model: str, graph: str, files: Sequence[File], runs: Sequence[Sequence[Track]]) -> list[Row]:
    """Rows for the even files, by the threshold of the odd ones, the odd ones and all; means over ``runs``."""
    judged = [_judge(files, run) for run in runs]
    return [
        {"model": model, "graph": graph, "part": part, **over_seeds([found[part] for found in judged])}
        for part in ("all", "even", "odd")
    ]


def _judge(files: Sequence[File], tracks: Sequence[Track]) -> dict[str, dict[str, float | None]]:
    """By part: the score of each profile; ``best_`` with the threshold that is best for all files, as the benchmark's own table
    has it."""
    found: dict[str, dict[str, float | None]] = {"all": {}, "even": {}, "odd": {}}
    for name, profile in PROFILES.items():
        for suffix, curve in (("", _alert_curve), ("_windows", _window_curve)):
            half = {
                part: curve([files[i] for i in which], [tracks[i] for i in which], profile)
                for part in ("even", "odd")
                if (which := of_part(part, len(files))) and any(files[i].windows for i in which)
            }
            if len(half) == 2:
                even = half["even"].at(half["odd"].best[0])
                odd = half["odd"].at(half["even"].best[0])
                n_even, n_odd = half["even"].n_windows, half["odd"].n_windows
                found["even"][name + suffix], found["odd"][name + suffix] = even, odd
                found["all"][name + suffix] = (even * n_even + odd * n_odd) / (n_even + n_odd)
            found["all"][f"best_{name}{suffix}"] = curve(files, tracks, profile).best[1]
    return found


def _alerts(files: Sequence[File], tracks: Sequence[Track]) -> Row:
    """What the float32 graph said of each file at the level that the other half's standard score asks for."""
    found: Row = {}
    for part, other in (("even", "odd"), ("odd", "even")):
        theirs = of_part(other, len(files))
        if not any(files[i].windows for i in theirs):
            continue
        curve = _alert_curve([files[i] for i in theirs], [tracks[i] for i in theirs], PROFILES["standard"])
        level = curve.best[0]
        for i in of_part(part, len(files)):
            file, k = (
                files[i],
                int(np.argmin(np.abs(-np.log10(LEVELS) - level))) if np.isfinite(level) else None,
            )
            raised = np.zeros(0, np.int64) if k is None else tracks[i].raised[k]
            raised = raised[raised >= file.case.first_row]
            hit = [((raised >= left) & (raised <= right)) for left, right in file.windows]
            found[file.case.name] = {
                "log10_p": -level if k is not None else None,
                "windows": len(hit),
                "hit": sum(bool(h.any()) for h in hit),
                "false": int(raised.size - sum(int(h.sum()) for h in hit)),
            }
    return found


def _window_curve(files: Sequence[File], tracks: Sequence[Track], profile: Profile) -> Sweep:
    return sweep([Series(t.score, f.windows) for f, t in zip(files, tracks, strict=True)], profile)


def _alert_curve(files: Sequence[File], tracks: Sequence[Track], profile: Profile) -> Sweep:
    """As :func:`_window_curve`, of what is raised at each level: what a laxer one raises need not hold what a stricter does."""
    scores, n_windows = [], 0
    for k in range(len(LEVELS)):
        series = []
        for file, track in zip(files, tracks, strict=True):
            said = np.zeros(track.score.size)
            said[track.raised[k]] = 1.0
            series.append(Series(said, file.windows))
        found = sweep(series, profile)
        scores.append(found.at(1.0))
        n_windows = found.n_windows
    return Sweep(-np.log10(LEVELS)[::-1], np.array(scores)[::-1], n_windows)


def _trained(file: File, family: Family, seed: int) -> Trained:
    n = SLOW_WINDOW
    while True:
        request = Request(
            logs=(file.case.path,), options=OPTIONS, feature_set=FEATURES, n=n, n_rows=file.case.first_row
        )
        try:
            return trained(request, family, seed=seed)
        except FitError:
            if n // 2 < LEAST_WINDOW:
                raise
            n //= 2


def _track(file: File, model: Trained, graph: Precision) -> Track | None:
    scored = file.case.scored(model, graph, LEVELS[-1])  # p-values are the same at any
    return None if scored is None else _heard(file, scored, model.manifest.window)


def _heard(file: File, scored: Scored, window: WindowSpec) -> Track:
    times = file.case.times_ns
    until = np.append(times[1:], np.iinfo(np.int64).max)
    rows = at_rows(scored, times)
    policy = usual_policy(FEATURES, window)
    raised = tuple(np.unique(np.searchsorted(until, raised_at(scored, window, p, policy))) for p in LEVELS)
    return Track(-np.log10(rows.p), raised)


def _beside(file: File, p: NDArray[np.float64]) -> Track:
    """``p`` float64[n] as if it were of windows that end with each row."""
    ends = np.append(file.case.times_ns[1:], file.case.times_ns[-1] + NS_PER_S)
    n = p.size
    none = np.zeros(0, np.int64)
    scored = Scored(ends, np.zeros(n, np.float32), np.maximum(p, 1e-300), np.zeros(n, np.bool_), none, none)
    step_ns = max(1, int(np.median(np.diff(ends))))
    window = WindowSpec(n=SLOW_WINDOW, hop=1, rate_hz=Fraction(NS_PER_S, step_ns), mode=Mode.CONTINUOUS)
    return _heard(file, scored, window)


def _chosen(data: Path, scope: Scope) -> list[Path]:
    """All, or of the files that have labels the first few."""
    found = paths(data)
    if scope.n_files is None:
        return found
    return [path for path in found if "NoAnomaly" not in path.parent.name][: scope.n_files]
