"""SMAP and MSL (Hundman et al., KDD 2018): telemetry of a satellite and a rover, a row a minute. Of a channel's columns the
first is its value, and that alone is looked at, as the benchmark TSB-AD does in its univariate part: the others, 24 or 54 of
0 and 1, say what commands were sent, which features of slow signals are not made for.

A model is trained on what the set gives for training and judged on its test part, row by row: nothing is adjusted by what the
label says. Its publishers scaled the values by the extremes of the test part, which a gateway would not know.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from benchmarks.quality.cases import GRAPHS, PARTS, Case, Row, Scope, Tick, loss, mean, of_part
from benchmarks.quality.metrics import Ranking, ranking
from benchmarks.quality.product import trained
from cloud_sink.cutting import SLOW_WINDOW, DatasetError, Request
from cloud_sink.train import FitError
from edge_node.config_schema import Precision
from models.logs import LogOptions
from models.logs import Tick as ClockTick
from models.manifest import Family
from models.recording import RecordingWriter
from models.signal import NS_PER_S, Clock, SampleBlock

START_NS = 1_300_000_000 * NS_PER_S  # the set has no dates
PERIOD_NS = 60 * NS_PER_S
ROWS_A_BLOCK = 256
OPTIONS = LogOptions(timezone="UTC")


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """A channel as a case; ``n_train`` rows to train on."""

    case: Case
    n_train: int


def paths(data: Path) -> list[Path]:
    """The channels by name."""
    return sorted((data / "smap_msl").glob("*.npz"))


def n_steps(data: Path, scope: Scope) -> int:
    """How often :func:`measure` calls ``tick``."""
    return 1 + scope.n_trainings(len(_chosen(data, scope)))


def measure(data: Path, tick: Tick, scope: Scope) -> Row:
    """The set's figures, by model, graph and part of the channels; ``refused``: what training would not take, and why."""
    labels = _labels(data)
    by_file: dict[str, dict[str, dict[str, float | None]]] = {}
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        channels = [read(path, labels[path.stem], Path(folder)) for path in _chosen(data, scope)]
        rows: list[Row] = []
        for family in scope.families:
            found: dict[Precision, list[dict[str, Ranking]]] = {graph: [] for graph in GRAPHS}
            for seed in scope.seeds_of(family):
                run: dict[Precision, dict[str, Ranking]] = {graph: {} for graph in GRAPHS}
                for channel in channels:
                    tick(f"smap_msl: {family}, {channel.case.name}")
                    try:
                        ranked = _ranked(channel, family, seed)
                    except (DatasetError, FitError) as error:
                        refused[channel.case.name] = _reason(error)
                        continue
                    for graph, one in ranked.items():
                        run[graph][channel.case.name] = one
                for graph in GRAPHS:
                    found[graph].append(run[graph])
            by_file[family] = {}
            for graph in GRAPHS:
                rows += _rows(family, graph, channels, found[graph])
                by_file[family][graph] = mean({n: r.auc for n, r in run.items()} for run in found[graph])
    tick("smap_msl: a random score, a clock")
    beside = _beside(channels, refused)
    return {
        "files": [c.case.name for c in channels],
        "refused": refused,
        "rows": [*beside, *rows],
        "auc_by_file": by_file,
        "int8_auc_loss": {f: loss(graphs["float32"], graphs["int8"]) for f, graphs in by_file.items()},
    }


def read(path: Path, ranges: list[list[int]], folder: Path) -> Channel:
    """A channel, written to ``folder`` as a log: what it is trained on, and after it what it is judged on. ``ranges``: first
    and last anomalous row of the latter, both included."""
    with np.load(path) as data:
        train, test = data["train"], data["test"]
    values = np.concatenate([train[:, :1], test[:, :1]]).astype(np.float64)
    log = folder / f"{path.stem}.jsonl"
    with RecordingWriter(log) as writer:
        for i in range(0, len(values), ROWS_A_BLOCK):
            part = values[i : i + ROWS_A_BLOCK]
            arrival_ns = START_NS + (i + len(part)) * PERIOD_NS
            writer.write(
                SampleBlock.uniform(
                    "machine",
                    ("value",),
                    part,
                    start_ns=START_NS + i * PERIOD_NS,
                    rate_hz=Fraction(NS_PER_S, PERIOD_NS),
                    arrival_ns=arrival_ns,
                    clock=Clock.SYNCED,
                )
            )
            writer.write(ClockTick(arrival_ns))
    anomalous = np.zeros(len(test), np.bool_)
    for first, last in ranges:
        anomalous[first : last + 1] = True
    case = Case(
        name=path.stem,
        path=log,
        options=OPTIONS,
        times_ns=START_NS + np.arange(len(values), dtype=np.int64) * PERIOD_NS,
        anomalous=anomalous,
        first_row=len(train),
        skip_rows=max(0, len(train) - (SLOW_WINDOW - 1)),
        recorded=True,
    )
    return Channel(case, len(train))


def _ranked(channel: Channel, family: Family, seed: int) -> dict[Precision, Ranking]:
    """By graph; without those that training would not publish."""
    case = channel.case
    request = Request(logs=(case.path,), options=case.options, feature_set="slow", n_rows=channel.n_train)
    model = trained(request, family, seed=seed)
    said = {graph: case.said(model, graph, None) for graph in GRAPHS}
    return {graph: ranking(case.anomalous, word.score) for graph, word in said.items() if word is not None}


def _beside(channels: list[Channel], refused: Mapping[str, str]) -> list[Row]:
    """A score drawn by lot, and one that only grows, on the channels that were trained on."""
    generator = np.random.default_rng(0)
    truth = {c.case.name: c.case.anomalous for c in channels if c.case.name not in refused}
    lots = {name: ranking(t, generator.random(t.size)) for name, t in truth.items()}
    clock = {name: ranking(t, np.arange(t.size, dtype=np.float64)) for name, t in truth.items()}
    return [*_rows("random", "", channels, [lots]), *_rows("clock", "", channels, [clock])]


def _rows(model: str, graph: str, channels: list[Channel], runs: list[dict[str, Ranking]]) -> list[Row]:
    rows: list[Row] = []
    for part in PARTS:
        names = [channels[i].case.name for i in of_part(part, len(channels))]
        figures = mean(run[n]._asdict() for run in runs for n in names if n in run)
        n_files = max(sum(n in run for n in names) for run in runs)
        rows.append({"model": model, "graph": graph, "part": part, "files": float(n_files), **figures})
    return rows


def _labels(data: Path) -> Mapping[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    with (data / "smap_msl" / "labeled_anomalies.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["chan_id"], []).extend(json.loads(row["anomaly_sequences"]))
    return found


def _chosen(data: Path, scope: Scope) -> list[Path]:
    """All, or the smallest few."""
    found = paths(data)
    return found if scope.n_files is None else sorted(found, key=lambda p: p.stat().st_size)[: scope.n_files]


def _reason(error: Exception) -> str:
    """Without the path of a log that was written for the run."""
    return str(error).rpartition(".jsonl: ")[2]
