"""Many summaries of one class and schema as arrays: what is stored, merged and learned from. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from models.messages import Summary, unpack_floats

QUANTILES = ("q0.5", "q0.9", "q0.99", "q1")
_LARGEST = float(np.finfo(np.float32).max)  # of a feature
_ROUNDED = 1e-5  # of a mean: rows are float32
_SLACK = 1e-6  # of a covariance: how far beyond what rows can have rounding may take it


@dataclass(frozen=True, slots=True, eq=False)
class SummaryTable:
    """m summaries of k features, as :class:`models.messages.Summary` has them; columns of equal length.

    ``comoment`` float64[m, k(k+1)/2]; ``minimum`` and ``maximum`` are NaN where no window was seen, ``score_quantiles``
    float64[m, 4] NaN where there was no score. ``reservoir`` float32[r, k] holds the rows of all of them, and
    ``reservoir_of`` int64[r] of which summary each is.
    """

    class_: str
    schema_id: str
    feature_names: tuple[str, ...]
    message_id: NDArray[np.str_]
    site: NDArray[np.str_]
    gateway: NDArray[np.str_]
    machine: NDArray[np.str_]
    device: NDArray[np.str_]
    model_id: NDArray[np.str_]  # "": none
    model_version: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    n: NDArray[np.int64]
    n_excluded: NDArray[np.int64]
    mean: NDArray[np.float64]
    comoment: NDArray[np.float64]
    centre: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    score_quantiles: NDArray[np.float64]
    reservoir: NDArray[np.float32]
    reservoir_of: NDArray[np.int64]

    @classmethod
    def of(cls, summaries: Sequence[Summary]) -> SummaryTable:
        """Of at least one; they agree in class, schema and names, and their arrays have the sizes that these ask for."""
        first = summaries[0]
        k = len(first.feature_names)
        nothing = [np.nan] * k
        rows = [
            np.zeros((0, k), np.float32) if s.reservoir is None else unpack_floats(s.reservoir, (-1, k))
            for s in summaries
        ]
        return cls(
            class_=first.class_,
            schema_id=first.schema_id,
            feature_names=first.feature_names,
            message_id=np.array([s.message_id for s in summaries], np.str_),
            site=np.array([s.site for s in summaries], np.str_),
            gateway=np.array([s.gateway for s in summaries], np.str_),
            machine=np.array([s.machine for s in summaries], np.str_),
            device=np.array([s.device for s in summaries], np.str_),
            model_id=np.array([s.model_id or "" for s in summaries], np.str_),
            model_version=np.array([s.model_version or 0 for s in summaries], np.int64),
            start_ns=np.array([s.start_ns for s in summaries], np.int64),
            end_ns=np.array([s.end_ns for s in summaries], np.int64),
            n=np.array([s.n for s in summaries], np.int64),
            n_excluded=np.array([sum(s.excluded.values()) for s in summaries], np.int64),
            mean=np.array([s.mean for s in summaries], np.float64),
            comoment=np.array([s.comoment for s in summaries], np.float64),
            centre=np.array([s.centre for s in summaries], np.float64),
            minimum=np.array([s.minimum or nothing for s in summaries], np.float64),
            maximum=np.array([s.maximum or nothing for s in summaries], np.float64),
            score_quantiles=np.array(
                [[s.score_quantiles.get(q, np.nan) for q in QUANTILES] for s in summaries], np.float64
            ),
            reservoir=np.concatenate(rows),
            reservoir_of=np.repeat(np.arange(len(rows)), [len(r) for r in rows]).astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.n)

    @property
    def k(self) -> int:
        return len(self.feature_names)

    @property
    def full_gateway(self) -> NDArray[np.str_]:
        """site/gateway of each."""
        return np.char.add(np.char.add(self.site, "/"), self.gateway)

    def devices(self) -> set[tuple[str, str]]:
        """(site/gateway, device) of all."""
        return {(str(g), str(d)) for g, d in zip(self.full_gateway, self.device, strict=True)}

    def take(self, index: NDArray[np.int64]) -> SummaryTable:
        """The summaries at ``index``, in that order, each at most once."""
        place = np.full(len(self), -1, np.int64)
        place[index] = np.arange(len(index))
        of = place[self.reservoir_of]
        chosen = np.flatnonzero(of >= 0)
        chosen = chosen[np.argsort(of[chosen], kind="stable")]
        columns = {name: getattr(self, name)[index] for name in _COLUMNS}
        return SummaryTable(
            self.class_,
            self.schema_id,
            self.feature_names,
            **columns,
            reservoir=self.reservoir[chosen],
            reservoir_of=of[chosen],
        )

    def distinct(self) -> SummaryTable:
        """Each message once, the first of equal ones, in the order of time. An id is its gateway's word alone."""
        whose = np.char.add(np.char.add(self.site, "\x1f"), np.char.add(self.gateway, "\x1f"))
        _, first = np.unique(np.char.add(whose, self.message_id), return_index=True)
        order = np.lexsort((self.message_id[first], self.start_ns[first]))
        return self.take(first[order].astype(np.int64))

    def faults(self) -> dict[int, str]:
        """What is wrong with the numbers of which summary; no rows of features can have such moments."""
        found: dict[int, str] = {}
        numbers = (self.mean, self.comoment, self.centre)
        finite = np.all([np.isfinite(a).all(axis=1) for a in numbers], axis=0)
        finite &= ~np.isinf(self.minimum).any(axis=1) & ~np.isinf(self.maximum).any(axis=1)
        finite &= ~np.isinf(self.score_quantiles).any(axis=1)
        bad_rows = self.reservoir_of[~np.isfinite(self.reservoir).all(axis=1)]
        finite[bad_rows] = False
        for i in np.flatnonzero(~finite):
            found[int(i)] = "it holds numbers that are not finite"
        rows, columns = np.triu_indices(self.k)
        diagonal = np.flatnonzero(rows == columns)
        with np.errstate(over="ignore", invalid="ignore"):
            variances = self.comoment[:, diagonal]
            bound = variances[:, rows] * variances[:, columns]
            beyond = self.comoment**2 > bound * (1 + _SLACK) + np.finfo(np.float64).tiny
            bad = (variances < 0).any(axis=1) | beyond.any(axis=1)
            off = np.abs(self.reservoir.astype(np.float64) - self.mean[self.reservoir_of])
            off = np.maximum(off - _ROUNDED * np.abs(self.mean[self.reservoir_of]), 0.0)
            no_room = (off**2 > variances[self.reservoir_of] * (1 + _SLACK) + np.finfo(np.float64).tiny).any(
                axis=1
            )
            n = self.n.astype(np.float64)[:, None]
            beyond_rows = (np.abs(self.mean) > _LARGEST).any(axis=1)
            beyond_rows |= (variances > n * (2.0 * _LARGEST) ** 2).any(axis=1)
        for i in np.flatnonzero(beyond_rows):
            found.setdefault(int(i), "its mean or co-moments are larger than those of any rows of float32")
        bad |= (self.n == 0) & (self.comoment != 0).any(axis=1)
        for i in np.unique(self.reservoir_of[no_room]):
            found.setdefault(
                int(i), "a row of its reservoir is farther off than its own co-moments have room for"
            )
        for i in np.flatnonzero(bad & finite):
            found[int(i)] = (
                "its co-moments are of no rows: a variance below zero, or a correlation beyond one"
            )
        return found


_COLUMNS = tuple(
    f.name
    for f in fields(SummaryTable)
    if f.name not in ("class_", "schema_id", "feature_names", "reservoir", "reservoir_of")
)


def concatenated(tables: Sequence[SummaryTable]) -> SummaryTable:
    """``tables`` of one class, schema and names (at least one) one after the other."""
    first = tables[0]
    offsets = np.cumsum([0, *(len(t) for t in tables[:-1])])
    columns: Mapping[str, NDArray[np.generic]] = {
        name: np.concatenate([getattr(t, name) for t in tables]) for name in _COLUMNS
    }
    return SummaryTable(
        first.class_,
        first.schema_id,
        first.feature_names,
        **columns,  # type: ignore[arg-type]
        reservoir=np.concatenate([t.reservoir for t in tables]),
        reservoir_of=np.concatenate([t.reservoir_of + o for t, o in zip(tables, offsets, strict=True)]),
    )
