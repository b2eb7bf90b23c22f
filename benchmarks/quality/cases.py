"""What is common to the sets: one recording as a case, what a gateway says of it, means over files and seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.product import Rows, Scored, at_rows, replayed
from cloud_sink.fit import Trained
from edge_node.config_schema import Precision
from models.logs import LogOptions
from models.manifest import Family
from models.recording import read_log
from models.signal import SampleBlock

FAMILIES: tuple[Family, ...] = ("mahalanobis", "linear-ae", "ae")
DRAWS_LOTS: frozenset[Family] = frozenset({"ae"})  # a seed changes what is learned
GRAPHS: tuple[Precision, ...] = ("float32", "int8")
PARTS = ("all", "even", "odd")  # of the files, sorted by name, by index from 0

Tick = Callable[[str], None]
Figures = Mapping[str, float | None]
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Scope:
    """How much of a set is run: its first ``n_files`` files (None: all), by ``families``; of those that draw lots means over
    ``seeds``."""

    n_files: int | None = None
    families: Sequence[Family] = FAMILIES
    seeds: Sequence[int] = (0, 1, 2, 3, 4)

    def seeds_of(self, family: Family) -> Sequence[int]:
        """Those that are worth trying: one where nothing is drawn."""
        return self.seeds if family in DRAWS_LOTS else self.seeds[:1]

    def n_trainings(self, n_files: int) -> int:
        """How many models of ``n_files`` files that makes."""
        return sum(len(self.seeds_of(family)) * n_files for family in self.families)


N_RESAMPLED = 1_000

QUICK = Scope(n_files=2, families=FAMILIES[:1], seeds=(0,))  # shows that it runs, measures nothing


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A recording: the gateway is given it from ``skip_rows`` on and judged from ``first_row`` on. ``times_ns`` int64[n] of
    all its rows (of its records, where they are bursts); ``anomalous`` bool[m] of those that are judged; ``recorded``: it is
    a log of ours."""

    name: str
    path: Path
    options: LogOptions
    times_ns: NDArray[np.int64]
    anomalous: NDArray[np.bool_]
    first_row: int
    skip_rows: int
    recorded: bool = False

    def scored(self, model: Trained, graph: Precision, p_threshold: float | None) -> Scored | None:
        """What a gateway says of it; None: training would not publish that graph."""
        return replayed(
            model,
            graph,
            self.path,
            self.options,
            skip_rows=self.skip_rows,
            p_threshold=p_threshold,
            recorded=self.recorded,
        )

    def said(self, model: Trained, graph: Precision, p_threshold: float | None) -> Rows | None:
        """Its last word at each row that is judged."""
        scored = self.scored(model, graph, p_threshold)
        return None if scored is None else at_rows(scored, self.times_ns).after(self.first_row)


def row_times(path: Path, options: LogOptions) -> NDArray[np.int64]:
    """Event times int64[n] of the rows of a log of one device, ascending."""
    blocks = read_log((path,), options, warn=lambda _: None)
    return np.concatenate([b.times() for b in blocks if isinstance(b, SampleBlock) and b.n])


def of_part(part: str, n: int) -> list[int]:
    """Indices of the files of ``part``."""
    return list({"all": range(n), "even": range(0, n, 2), "odd": range(1, n, 2)}[part])


def mean(figures: Iterable[Figures]) -> dict[str, float | None]:
    """Each figure's mean over those that have it."""
    found: dict[str, list[float]] = {}
    for one in figures:
        for name, value in one.items():
            found.setdefault(name, [])
            if value is not None:
                found[name].append(value)
    return {name: statistics.fmean(values) if values else None for name, values in found.items()}


def over_seeds(runs: Sequence[Figures]) -> Row:
    """Each figure's mean over ``runs``, one a seed; under ``over_seeds`` the least and the greatest of those that differ."""
    found: Row = {**mean(runs)}
    differing = {}
    for name in found:
        values = [x for run in runs if (x := run.get(name)) is not None]
        if len(set(values)) > 1:
            differing[name] = [min(values), max(values)]
    return {**found, "over_seeds": differing} if differing else found


def over_files(
    n_files: int, figures: Callable[[NDArray[np.intp]], Mapping[str, float]]
) -> dict[str, list[float]]:
    """The 95 % interval of each of ``figures``, given which of ``n_files`` files there are, over N_RESAMPLED draws of as many
    of them with replacement (Efron's bootstrap, percentiles): what other recordings of the same kind might have given."""
    generator = np.random.default_rng(0)
    draws: dict[str, list[float]] = {}
    for _ in range(N_RESAMPLED):
        for name, value in figures(generator.integers(n_files, size=n_files)).items():
            draws.setdefault(name, []).append(value)
    return {name: np.quantile(values, (0.025, 0.975)).tolist() for name, values in draws.items()}


def loss(float32: Figures, int8: Figures) -> dict[str, float | int]:
    """What the int8 graphs lose of a figure by file: mean and worst over the ``files`` that have both."""
    both = [(value, int8.get(name)) for name, value in float32.items()]
    lost = [a - b for a, b in both if a is not None and b is not None]
    if not lost:
        return {"files": 0}
    return {"mean": statistics.fmean(lost), "worst": max(lost), "files": len(lost)}
