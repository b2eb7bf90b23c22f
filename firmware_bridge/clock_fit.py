"""The line through a board's time: what exchanges bound, and what arrivals suggest.

Strategy: a TimeSync exchange bounds the map from both sides whatever the delays were: the board had the question after
it was sent, and its answer before that was received. The lines that keep within all bounds are a convex set, found
from the convex hulls of either side (Zhang, Liu & Xia, "Clock synchronization algorithms for network measurements",
INFOCOM 2002). Of each skew the one half-way between the bounds is taken, which is right where the shortest delays to
and fro are alike, and the skews are averaged by how likely the delays that they imply are. How far the result may be
off is read from the whole set. A slow exchange only bounds loosely: it cannot bend the line. Bounds loosen with the
square of their age, as skews change with temperature; those that even then contradict newer ones are to be forgotten.
Pure.

Arithmetic is in ns from the newest exchange, in float64: exact to far below 1 µs over hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.signal import NS_PER_S

Floats = NDArray[np.floating[Any]]

MAX_SKEW = 0.02  # the resonators of small boards are off by up to 1 %
WANDER = (
    0.02e-6 / NS_PER_S
)  # by which a skew may change in a ns: 0.02 ppm a second, a crystal that warms by 2 °C a minute
TICK_NS = 1000.0  # a board's reading is rounded down to its µs
_USUAL_SKEW = 300e-6  # a larger one is believed when more exchanges say so
_MEMORY_NS = 60 * NS_PER_S  # for which delays count in the choice between lines
_FLOOR_NS = 5 * TICK_NS  # below this a mean delay is not known
_MIN_BASE_NS = 30 * NS_PER_S  # of arrivals, before they say anything of skew


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """monotonic ns = ``at_ns`` + (us - ``at_us``) * 1000 * (1 + ``skew``).

    ``corners`` [k, 2]: (ns to add at ``at_us``, skew) of the lines at the edge of all that the bounds allow; none where
    there are no bounds. ``misfit_ns``: by how much the bounds contradict each other.
    """

    at_us: int
    at_ns: int
    skew: float
    corners: Floats
    misfit_ns: float

    def at(self, us: float) -> int:
        return self.at_ns + round((us - self.at_us) * 1000.0 * (1.0 + self.skew))

    def error_ns(self, us: float, served_ns: float) -> float:
        """How far ``served_ns`` for ``us`` may be from the truth."""
        past_ns = (us - self.at_us) * 1000.0
        lines = self.at_ns - served_ns + past_ns + self.corners[:, 0] + self.corners[:, 1] * past_ns
        return float(np.abs(lines).max()) + WANDER * past_ns**2 / 2

    def range_ns(self, us: float) -> tuple[float, float]:
        """The earliest and the latest monotonic ns at which the board's clock can have read ``us``."""
        past_ns = (us - self.at_us) * 1000.0
        lines = past_ns + self.corners[:, 0] + self.corners[:, 1] * past_ns
        wander = WANDER * past_ns**2 / 2
        return self.at_ns + (float(lines.min()) - wander), self.at_ns + (float(lines.max()) + wander)


def between(exchanges: NDArray[np.int64]) -> Fit:
    """The likeliest line between the bounds of ``exchanges`` int64[m, 4], oldest first: sent (monotonic ns), received,
    replied (unwrapped µs of the board), answered (monotonic ns)."""
    at_us, at_ns = int(exchanges[-1, 2]), int(exchanges[-1, 3])
    age = np.maximum(at_ns - exchanges[:, 3], 0).astype(np.float64)
    slack = WANDER * age * age / 2
    low_x, high_x = ((exchanges[:, i] - at_us) * 1000.0 for i in (1, 2))
    low = exchanges[:, 0] - at_ns - low_x - slack - TICK_NS
    high = exchanges[:, 3] - at_ns - high_x + slack
    below, above = _hull(low_x, -low), _hull(high_x, high)

    def bounds(skews: Floats) -> tuple[Floats, Floats]:
        """Least and greatest ns at ``at_us`` of lines of each skew."""
        s = skews[:, None]
        return (-below[1] - s * below[0]).max(axis=1), (above[1] - s * above[0]).min(axis=1)

    # The width between them is concave in the skew, and bends where the skew is that of an edge of either hull.
    turns = np.concatenate([-np.diff(below[1]) / np.diff(below[0]), np.diff(above[1]) / np.diff(above[0])])
    turns = np.unique(np.concatenate([[-MAX_SKEW, 0.0, MAX_SKEW], turns[np.abs(turns) < MAX_SKEW]]))
    least, greatest = bounds(turns)
    misfit = max(0.0, -float((greatest - least).max()))
    width = greatest - least + misfit
    skews = np.unique(np.concatenate([_zeros(turns, width), turns[width >= 0]]))
    skews = np.unique(np.concatenate([skews, (skews[1:] + skews[:-1]) / 2]))
    least, greatest = bounds(skews)
    least, greatest = least - misfit / 2, greatest + misfit / 2

    # Delays beyond the least are exponential, with a mean of their own on either side: the tighter one tells the skew.
    weight = np.exp(-age / _MEMORY_NS)
    weight /= weight.sum()
    fro = np.maximum(least - (weight @ low - skews * (weight @ low_x)), 0.0) + _FLOOR_NS
    back = np.maximum(weight @ high - skews * (weight @ high_x) - greatest, 0.0) + _FLOOR_NS
    unlikely = len(exchanges) * np.log(fro * back) + np.log1p((skews / _USUAL_SKEW) ** 2)
    likely = np.exp(unlikely.min() - unlikely)
    if len(skews) > 1:
        likely *= np.gradient(skews)
    likely /= likely.sum()
    skew, middle = float(likely @ skews), float(likely @ (least + greatest)) / 2
    corners = np.concatenate([np.stack([side - middle, skews], axis=1) for side in (least, greatest)])
    return Fit(at_us, at_ns + round(middle), skew, corners, misfit)


def beneath(arrivals: NDArray[np.int64]) -> Fit:
    """The line beneath ``arrivals`` int64[m, 2] (unwrapped µs of the board, monotonic ns), oldest first, that is
    nearest to them on the whole: offset and skew as if the promptest had no delay."""
    at_us, at_ns = int(arrivals[-1, 0]), int(arrivals[-1, 1])
    x = (arrivals[:, 0] - at_us) * 1000.0
    y = arrivals[:, 1] - at_ns - x
    skew = 0.0
    if x[-1] - x[0] >= _MIN_BASE_NS:
        edge_x, edge_y = _hull(x, y)
        i = min(max(int(np.searchsorted(edge_x, x.mean())), 1), len(edge_x) - 1)
        skew = float((edge_y[i] - edge_y[i - 1]) / (edge_x[i] - edge_x[i - 1]))
        skew = min(max(skew, -MAX_SKEW), MAX_SKEW)
    return Fit(at_us, at_ns + round(float((y - skew * x).min())), skew, np.empty((0, 2)), 0.0)


def _hull(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Corners of the lower convex hull of points with ascending ``x``; of those with the same the lowest counts."""
    if len(x) > 1 and not (np.diff(x) > 0).all():
        order = np.lexsort((y, x))
        x, y = x[order], y[order]
        first = np.concatenate([[True], np.diff(x) > 0])
        x, y = x[first], y[first]
    while len(x) > 2:
        # Whatever is above the chord between its neighbours is no corner.
        keep = np.ones(len(x), np.bool_)
        keep[1:-1] = (y[1:-1] - y[:-2]) * (x[2:] - x[:-2]) < (y[2:] - y[:-2]) * (x[1:-1] - x[:-2])
        if keep.all():
            break
        x, y = x[keep], y[keep]
    return x, y


def _zeros(turns: Floats, width: Floats) -> Floats:
    """Where the width, linear between ``turns``, passes through 0."""
    down = np.flatnonzero((width[:-1] >= 0) != (width[1:] >= 0))
    share = width[down] / (width[down] - width[down + 1])
    edges: Floats = turns[down] + share * (turns[down + 1] - turns[down])
    return edges
