"""Learning across devices from their summaries alone: what the fleet is like, and which of its devices to believe. Pure.

n, mean and co-moment merge exactly (Chan, Golub & LeVeque 1983), so a linear model of the fleet is the one that all its rows
would have given. Oracle-approximating shrinkage (Chen, Wiesel, Eldar & Hero 2010) depends on n, mean and covariance alone,
which Ledoit and Wolf's does not. Invariant: what one gateway says weighs at most ``max_share`` of the whole, however
many windows it claims to have seen; a device whose statistics lie far from those of the others is left out, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cloud_sink.summaries import SummaryTable

MAX_SHARE = 0.25
MIN_SCREENED = 5  # devices: of fewer nobody can tell which is the odd one
MAX_DISTANCE = 8.0  # robust standard deviations, of the median over features
_MAD = 1.4826  # makes a median absolute deviation a standard deviation, of a Gaussian
_LEAST_SPREAD = 0.05  # in log variances, and in standard deviations: devices are never more alike than that


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


@dataclass(frozen=True, slots=True)
class Screened:
    """A device that is left out, and why."""

    gateway: str
    device: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """What is learned from. ``total`` is over all devices; ``correlation`` float64[k, k] within devices, each in its own units,
    so that none says how the others' features hang together only because it moves more; ``spread`` float64[k] that of the
    median device; ``devices``: each one's own, by (site/gateway, device); ``weighed``: the same, with the weight that it has;
    ``rows`` float32[r, k]: a sample of feature rows, with ``row_device`` int64[r] into ``devices``; ``n_windows``: that were
    summed up; ``screened``: who was left out."""

    total: Moments
    correlation: NDArray[np.float64]
    spread: NDArray[np.float64]
    devices: Mapping[tuple[str, str], Moments]
    weighed: tuple[Moments, ...]
    rows: NDArray[np.float32]
    row_device: NDArray[np.int64]
    n_windows: int
    n_gateways: int
    screened: tuple[Screened, ...]


def merged(n: NDArray[np.float64], mean: NDArray[np.float64], comoment: NDArray[np.float64]) -> Moments:
    """One of many: n float64[m], mean float64[m, k], comoment float64[m, k, k]; n above 0 in all."""
    total = float(n.sum())
    centre = (n[:, None] * mean).sum(axis=0) / total
    off = mean - centre
    between = (off * n[:, None]).T @ off
    return Moments(total, centre, comoment.sum(axis=0) + between)


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


def gathered(
    table: SummaryTable, *, max_share: float = MAX_SHARE, max_rows: int = 20_000, screen: bool = True
) -> Fleet:
    """The fleet of ``table`` (of one class and schema, each message once). ValueError where no window was summed up."""
    seen = np.flatnonzero(table.n > 0)
    if not seen.size:
        raise ValueError("no summary counts a healthy window")
    part = table.take(seen)
    keys = [(str(g), str(d)) for g, d in zip(_full(part), part.device, strict=True)]
    names = sorted(set(keys))
    place = {name: i for i, name in enumerate(names)}
    of = np.array([place[key] for key in keys])
    comoments = square(part.comoment, part.k)
    each = [
        merged(part.n[of == i].astype(np.float64), part.mean[of == i], comoments[of == i])
        for i in range(len(names))
    ]
    left_out = _screened(names, each) if screen else ()
    odd = {(s.gateway, s.device) for s in left_out}
    kept = [i for i, name in enumerate(names) if name not in odd]
    weights = _weights([names[i][0] for i in kept], [each[i].n for i in kept], max_share)
    weighed = [each[i].scaled(w) for i, w in zip(kept, weights, strict=True)]
    total = together(weighed)
    correlation = np.average([m.correlation for m in weighed], axis=0, weights=[m.n for m in weighed])
    rows, row_device = _sample(part, of, kept, [names[i][0] for i in kept], max_rows)
    return Fleet(
        total,
        correlation,
        np.median([m.spread for m in weighed], axis=0),
        {names[i]: each[i] for i in kept},
        tuple(weighed),
        rows,
        row_device,
        int(sum(each[i].n for i in kept)),
        len({names[i][0] for i in kept}),
        left_out,
    )


def oas(covariance: NDArray[np.float64], n: float) -> tuple[NDArray[np.float64], float]:
    """``covariance`` float64[k, k] of n rows, shrunk towards a multiple of the identity, and by how much (0 to 1)."""
    k = len(covariance)
    mean_square = float(np.mean(covariance**2))
    mu = float(np.trace(covariance)) / k
    numerator = mean_square + mu**2
    denominator = (n + 1.0) * (mean_square - mu**2 / k)
    shrinkage = 1.0 if denominator <= 0.0 else min(numerator / denominator, 1.0)
    shrunk = (1.0 - shrinkage) * covariance
    shrunk.flat[:: k + 1] += shrinkage * mu
    return shrunk, shrinkage


def borrowed(own: Moments, fleet: Fleet, *, worth: float) -> Moments:
    """Of a device with little history: its own mean; its spreads, and how its features hang together, its own as far as it has
    seen enough. ``worth``: after so many windows correlations are as much its own as the fleet's; spreads, which fewer tell,
    after a tenth of that."""
    n = own.n + worth
    share, known = own.n / n, own.n / (own.n + worth / 10.0)
    tiny = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(own.spread, tiny)), np.log(np.maximum(fleet.spread, tiny))
    spread = np.exp(known * logs[0] + (1.0 - known) * logs[1])
    correlation = share * own.correlation + (1.0 - share) * fleet.correlation
    return Moments(n, own.mean, correlation * np.outer(spread, spread) * n)


def _full(table: SummaryTable) -> list[str]:
    return [f"{site}/{gateway}" for site, gateway in zip(table.site, table.gateway, strict=True)]


def _screened(names: list[tuple[str, str]], each: list[Moments]) -> tuple[Screened, ...]:
    """Devices whose means, or whose spreads, lie far from the others': by the median over features of the distance to the median
    device, in robust standard deviations. What most features say decides, for one feature of a good device may be far."""
    if len(each) < MIN_SCREENED:
        return ()
    means = np.array([m.mean for m in each])
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        log_variance = np.log(np.maximum([np.diag(m.covariance) for m in each], 1e-300))
        spread = np.exp(np.median(log_variance, axis=0) / 2)
        off = _distance(means, _LEAST_SPREAD * spread)
        wide = _distance(log_variance, np.full(means.shape[1], _LEAST_SPREAD))
    found = []
    for i, (gateway, device) in enumerate(names):
        what = "means" if off[i] > MAX_DISTANCE else "spreads" if wide[i] > MAX_DISTANCE else None
        if what is not None:
            far = max(off[i], wide[i])
            found.append(
                Screened(
                    gateway, device, f"its {what} lie {far:.3g} deviations from those of the other devices"
                )
            )
    return tuple(found) if len(found) <= len(each) // 2 else ()


def _distance(values: NDArray[np.float64], least: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = np.median(values, axis=0)
    deviation = np.abs(values - middle)
    scale = np.maximum(_MAD * np.median(deviation, axis=0), least)
    found: NDArray[np.float64] = np.median(deviation / np.maximum(scale, 1e-300), axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def _weights(gateways: list[str], n: list[float], max_share: float) -> list[float]:
    """Of each device: its windows, but those of one gateway together at most ``max_share`` of all (or an equal share, where there
    are too few gateways for that)."""
    by_gateway: dict[str, float] = {}
    for gateway, count in zip(gateways, n, strict=True):
        by_gateway[gateway] = by_gateway.get(gateway, 0.0) + count
    share = max(max_share, 1.0 / len(by_gateway))
    capped = dict(by_gateway)
    for _ in range(len(capped)):  # what one loses makes the whole smaller, and so perhaps another too large
        total = sum(capped.values())
        over = [g for g, count in capped.items() if count > share * total * (1 + 1e-12)]
        if not over:
            break
        rest = total - sum(capped[g] for g in over)
        room = 1.0 - share * len(over)
        cap = rest / room * share if room > 1e-12 and rest > 0 else min(capped[g] for g in over)
        for g in over:
            capped[g] = min(capped[g], cap)
    return [count * capped[g] / by_gateway[g] for g, count in zip(gateways, n, strict=True)]


def _sample(
    table: SummaryTable, of: NDArray[np.int64], kept: list[int], gateways: list[str], max_rows: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows of the reservoirs, evenly by gateway, and the number of the device among ``kept`` that each is of."""
    number = np.full(int(of.max()) + 1, -1)
    number[kept] = np.arange(len(kept))
    device = number[of[table.reservoir_of]] if len(table.reservoir_of) else np.zeros(0, np.int64)
    quota = max(1, max_rows // max(1, len(set(gateways))))
    chosen: list[NDArray[np.int64]] = []
    for gateway in sorted(set(gateways)):
        mine = [i for i, g in enumerate(gateways) if g == gateway]
        rows = np.flatnonzero(np.isin(device, mine))
        if rows.size > quota:
            rows = rows[np.linspace(0, rows.size - 1, quota).astype(np.int64)]
        chosen.append(rows)
    index = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
    return table.reservoir[index], device[index].astype(np.int64)


MAX_LABEL_SHARE = 0.05


def widened(fleet: Fleet, false_alarms: NDArray[np.float32]) -> Fleet:
    """``fleet`` for which the feature rows float32[m, k] of false alarms are normal, too: they count as healthy windows, but
    together as MAX_LABEL_SHARE of all at most, and as as large a part of its rows; so no operator alone makes all normal."""
    if not len(false_alarms):
        return fleet
    wide = false_alarms.astype(np.float64)
    mean = wide.mean(axis=0)
    own = Moments(float(len(wide)), mean, (wide - mean).T @ (wide - mean))
    most = MAX_LABEL_SHARE / (1.0 - MAX_LABEL_SHARE)
    weight = min(own.n, most * fleet.total.n)
    n_rows = min(len(wide), max(1, int(most * len(fleet.rows))))
    chosen = false_alarms[np.linspace(0, len(wide) - 1, n_rows).astype(np.int64)]
    # Whose they are does not matter for where they are held out: of the first device, say.
    devices = np.concatenate([fleet.row_device, np.zeros(n_rows, np.int64)])
    weighed = list(fleet.weighed)
    weighed[0] = together([weighed[0], own.scaled(weight)])
    return replace(
        fleet,
        total=together([fleet.total, own.scaled(weight)]),
        weighed=tuple(weighed),
        rows=np.concatenate([fleet.rows, chosen]),
        row_device=devices,
    )
