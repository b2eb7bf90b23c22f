"""What is common to the sets: one recording as a case, what a gateway says of it, means over files and seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.product import Rows, at_rows, replayed
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


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A recording: the gateway is given it from ``skip_rows`` on and judged from ``first_row`` on. ``times_ns`` int64[n] of all
    rows, one each ``period_ns``; ``anomalous`` bool[m] of those that are judged."""

    name: str
    path: Path
    options: LogOptions
    times_ns: NDArray[np.int64]
    period_ns: int
    anomalous: NDArray[np.bool_]
    first_row: int
    skip_rows: int
    recorded: bool = field(default=False)

    def said(self, model: Trained, graph: Precision, p_threshold: float | None) -> Rows | None:
        """The last word of a gateway at each row that is judged; None: training would not publish that graph."""
        scored = replayed(
            model,
            graph,
            self.path,
            self.options,
            skip_rows=self.skip_rows,
            p_threshold=p_threshold,
            recorded=self.recorded,
        )
        return (
            None if scored is None else at_rows(scored, self.times_ns, self.period_ns).after(self.first_row)
        )


def row_times(path: Path, options: LogOptions) -> NDArray[np.int64]:
    """Event times int64[n] of the rows of a log of one device, ascending."""
    blocks = read_log((path,), options, warn=lambda _: None)
    return np.concatenate([b.times() for b in blocks if isinstance(b, SampleBlock) and b.n])


def seeds_of(family: Family, seeds: Sequence[int]) -> Sequence[int]:
    """Those that are worth trying: one where nothing is drawn."""
    return seeds if family in DRAWS_LOTS else seeds[:1]


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


def loss(float32: Mapping[str, float], int8: Mapping[str, float]) -> dict[str, float | int]:
    """What the int8 graphs lose of a figure by file: mean and worst over the ``files`` that have both."""
    lost = [float32[name] - int8[name] for name in float32 if name in int8]
    if not lost:
        return {"files": 0}
    return {"mean": statistics.fmean(lost), "worst": max(lost), "files": len(lost)}
