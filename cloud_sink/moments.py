"""n, mean and co-moment of rows of features, and what follows from these alone. Pure.

They merge exactly (Chan, Golub & LeVeque 1983), so a linear model of many devices is the one that all their rows would have
given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.whitening import oas as oas


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """``n`` (a weight: not always whole), mean float64[k] and co-moment float64[k, k] of some rows."""

    n: float
    mean: NDArray[np.float64]
    comoment: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """float64[k, k], of the rows as they are (divided by n)."""
        return self.comoment / self.n

    @property
    def spread(self) -> NDArray[np.float64]:
        """Standard deviations float64[k]."""
        found: NDArray[np.float64] = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        return found

    @property
    def correlation(self) -> NDArray[np.float64]:
        """float64[k, k]; of a feature that stands still, none with any other."""
        unit = np.where(self.spread > 0.0, self.spread, 1.0)
        found: NDArray[np.float64] = self.covariance / np.outer(unit, unit)
        found[np.diag_indices_from(found)] = 1.0
        return found

    def scaled(self, weight: float) -> Moments:
        """As if there were ``weight`` rows like these."""
        return Moments(weight, self.mean, self.comoment * (weight / self.n))


def merged(n: NDArray[np.float64], mean: NDArray[np.float64], comoment: NDArray[np.float64]) -> Moments:
    """One of many: n float64[m], mean float64[m, k], comoment float64[m, k, k]; n above 0 in all."""
    total = float(n.sum())
    centre = (n[:, None] * mean).sum(axis=0) / total
    off = mean - centre
    between = (off * n[:, None]).T @ off
    return Moments(total, centre, comoment.sum(axis=0) + between)


def merged_by(
    of: NDArray[np.int64], n: NDArray[np.float64], mean: NDArray[np.float64], upper: NDArray[np.float64]
) -> list[Moments]:
    """:func:`merged` of each group ``of`` int64[m], 0 to the last, none empty; ``upper``: triangles, as :func:`square` has."""
    order = np.argsort(of, kind="stable")
    starts = np.flatnonzero(np.diff(of[order], prepend=-1))
    totals = np.add.reduceat(n[order], starts)
    centres = np.add.reduceat((n[:, None] * mean)[order], starts) / totals[:, None]
    off = mean - centres[of]
    rows, columns = np.triu_indices(mean.shape[1])
    moved = upper + n[:, None] * off[:, rows] * off[:, columns]
    comoments = square(np.add.reduceat(moved[order], starts), mean.shape[1])
    return [Moments(float(t), c, m) for t, c, m in zip(totals, centres, comoments, strict=True)]


def together(parts: Sequence[Moments]) -> Moments:
    """:func:`merged`, of at least one."""
    return merged(
        np.array([m.n for m in parts]),
        np.array([m.mean for m in parts]),
        np.array([m.comoment for m in parts]),
    )


def square(upper: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """float64[m, k, k] of upper triangles float64[m, k(k+1)/2]."""
    rows, columns = np.triu_indices(k)
    found = np.zeros((len(upper), k, k))
    found[:, rows, columns] = upper
    found[:, columns, rows] = upper
    return found


def finite(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """``scores`` with the largest number there is for what is beyond it: rows that one gateway has sent may be anything."""
    most = float(np.finfo(scores.dtype).max)
    found: NDArray[np.floating] = np.nan_to_num(scores, nan=most, posinf=most, neginf=-most)
    return found
