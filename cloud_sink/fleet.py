"""Learning across devices from their summaries alone: what the fleet is like, and which of its devices to believe. Pure.

n, mean and co-moment merge exactly (Chan, Golub & LeVeque 1983), so a linear model of the fleet is the one that all its rows
would have given. Oracle-approximating shrinkage (Chen, Wiesel, Eldar & Hero 2010) depends on n, mean and covariance alone,
which Ledoit and Wolf's does not.

Invariants, whatever one gateway says: it weighs at most ``max_share`` of the whole, or as much as the gateway that has seen
second most; it has one vote, however many devices it invents, on what the fleet is like; a device whose statistics lie far
from that is left out, and said to be; and of those that stay no feature's mean counts as farther off than MAX_OFF, nor its
standard deviation as larger than MAX_WIDER allows. Devices within that are merged as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cloud_sink.summaries import SummaryTable
from cloud_sink.tallies import Device, Rows, Tally, evenly, picked, rows_by_gateway, tallied

MAX_SHARE = 0.25
MAX_ROWS = 20_000  # of reservoirs, that are learned from
MIN_SCREENED = 5  # devices: of fewer nobody can tell which is the odd one
MAX_DISTANCE = 8.0  # robust standard deviations, of the median over features
MAX_OFF = 3.0  # standard deviations, within and between devices, of a feature's mean
MAX_WIDER = 2.0  # times the standard deviation of the usual device, or three robust deviations of all, if that is more
MAX_ROW_OFF = 8.0  # standard deviations of its device, of a feature of a row
_ROUNDED = 1e-5  # of a mean: rows are float32
MAX_LABEL_OFF = 8.0  # standard deviations: so far a false alarm may widen what is normal
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
    median device; ``devices``: each one's own, by (site/gateway, device); ``weighed``: the same, as far as it counts;
    ``rows`` float32[r, k]: a sample of feature rows, with ``row_device`` int64[r] into ``devices``; ``n_windows``: that count;
    ``screened``: who was left out."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Of a fleet what its moments say, before its rows are known: ``devices`` that stay, their moments as they came (``own``), as
    far as they are believable (``bounded``) and as far as they count (``weighed``); ``screened``: who was left out."""

    devices: tuple[Device, ...]
    own: tuple[Moments, ...]
    bounded: tuple[Moments, ...]
    weighed: tuple[Moments, ...]
    screened: tuple[Screened, ...]

    @property
    def left_out(self) -> frozenset[Device]:
        return frozenset((s.gateway, s.device) for s in self.screened)


def gathered(
    table: SummaryTable, *, max_share: float = MAX_SHARE, max_rows: int = MAX_ROWS, screen: bool = True
) -> Fleet:
    """The fleet of ``table`` (of one class and schema, each message once). ValueError where no window was summed up."""
    tally = tallied(table)
    found = judged(tally, max_share=max_share, screen=screen)
    places = sampled(tally, found, max_share=max_share, max_rows=max_rows)
    return assembled(found, picked(table, found.left_out, places))


def judged(tally: Tally, *, max_share: float = MAX_SHARE, screen: bool = True) -> Judged:
    """Which devices of ``tally`` to believe, and how far. ValueError where no window was summed up."""
    if not len(tally):
        raise ValueError("no summary counts a healthy window")
    names = tally.devices
    each = [
        Moments(n, mean, comoment)
        for n, mean, comoment in zip(
            tally.n.tolist(), tally.mean, square(tally.comoment, tally.k), strict=True
        )
    ]
    votes = _votes([gateway for gateway, _ in names])
    left_out = _screened(names, each, votes) if screen else ()
    odd = {(s.gateway, s.device) for s in left_out}
    kept = [i for i, name in enumerate(names) if name not in odd]
    weights = _weights([names[i][0] for i in kept], [each[i].n for i in kept], max_share)
    own = [each[i] for i in kept]
    bounded = _bounded(own, votes[kept])
    weighed = [one.scaled(w) for one, w in zip(bounded, weights, strict=True)]
    return Judged(tuple(names[i] for i in kept), tuple(own), tuple(bounded), tuple(weighed), left_out)


def sampled(
    tally: Tally, found: Judged, *, max_share: float = MAX_SHARE, max_rows: int = MAX_ROWS
) -> dict[str, NDArray[np.int64]]:
    """Which rows of the reservoirs are learned from: evenly by gateway, of each at most :func:`_most`."""
    counts = rows_by_gateway(tally, found.left_out)
    most = _most([float(n) for n in counts.values()], max_share)
    return evenly(counts, max(1, min(max_rows // len(counts), int(most))))


def assembled(found: Judged, rows: Rows) -> Fleet:
    """The fleet that ``found`` and its sampled ``rows`` make; a row of a device that ``found`` does not know is left out."""
    weights = [m.n for m in found.weighed]
    place = {device: i for i, device in enumerate(found.devices)}
    of = np.array(
        [place.get(d, -1) for d in zip(rows.gateway.tolist(), rows.device.tolist(), strict=True)], np.int64
    )
    known = np.flatnonzero(of >= 0)
    return Fleet(
        together(found.weighed),
        np.average([m.correlation for m in found.weighed], axis=0, weights=weights),
        np.median([m.spread for m in found.weighed], axis=0),
        dict(zip(found.devices, found.own, strict=True)),
        found.weighed,
        _bounded_rows(rows.rows[known], of[known], found.own, found.bounded),
        of[known],
        int(sum(weights)),
        len({gateway for gateway, _ in found.devices}),
        found.screened,
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


def _votes(gateways: Sequence[str]) -> NDArray[np.float64]:
    """Of each device, of ``gateways``: together 1 for each gateway."""
    counts = Counter(gateways)
    return np.array([1.0 / counts[gateway] for gateway in gateways])


def _median(values: NDArray[np.float64], votes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median over ``values`` float64[m, k] by ``votes`` float64[m], float64[k]; between two halves their mean."""
    order = np.argsort(values, axis=0)
    ranked = np.take_along_axis(values, order, axis=0)
    below = np.cumsum(votes[order], axis=0) / votes.sum()
    column = np.arange(values.shape[1])
    low = np.argmax(below >= 0.5 - 1e-9, axis=0)
    high = np.argmax(below > 0.5 + 1e-9, axis=0)
    found: NDArray[np.float64] = ranked[low, column] / 2.0 + ranked[high, column] / 2.0
    return found


def _log_variances(each: Sequence[Moments]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", over="ignore"):
        found: NDArray[np.float64] = np.log(np.maximum([np.diag(m.covariance) for m in each], 1e-300))
    return found


def _screened(
    names: list[tuple[str, str]], each: list[Moments], votes: NDArray[np.float64]
) -> tuple[Screened, ...]:
    """Devices whose means, or whose spreads, lie far from the others': by the median over features of the distance to the median
    device, in robust standard deviations. What most features say decides, for one feature of a good device may be far."""
    if len(each) < MIN_SCREENED:
        return ()
    means = np.array([m.mean for m in each])
    with np.errstate(over="ignore", invalid="ignore"):
        log_variance = _log_variances(each)
        spread = np.exp(_median(log_variance, votes) / 2)
        off = _distance(means, _LEAST_SPREAD * spread, votes)
        wide = _distance(log_variance, np.full(means.shape[1], _LEAST_SPREAD), votes)
    found, n_votes = [], 0.0
    for i, (gateway, device) in enumerate(names):
        what = "means" if off[i] > MAX_DISTANCE else "spreads" if wide[i] > MAX_DISTANCE else None
        if what is not None:
            far = max(off[i], wide[i])
            n_votes += float(votes[i])
            found.append(
                Screened(
                    gateway, device, f"its {what} lie {far:.3g} deviations from those of the other devices"
                )
            )
    return tuple(found) if n_votes <= votes.sum() / 2 else ()


def _distance(
    values: NDArray[np.float64], least: NDArray[np.float64], votes: NDArray[np.float64]
) -> NDArray[np.float64]:
    deviation = np.abs(values - _median(values, votes))
    scale = np.maximum(_MAD * _median(deviation, votes), least)
    found: NDArray[np.float64] = np.median(deviation / np.maximum(scale, 1e-300), axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def _bounded(each: Sequence[Moments], votes: NDArray[np.float64]) -> list[Moments]:
    """``each`` with no feature farther off, or wider, than the fleet's own devices make believable."""
    means, log_variance = np.array([m.mean for m in each]), _log_variances(each)
    middle, usual = _median(means, votes), _median(log_variance, votes)
    between = _MAD * _median(np.abs(means - middle), votes)
    room = MAX_OFF * np.sqrt(np.exp(usual) + between**2)
    wider = np.maximum(2.0 * np.log(MAX_WIDER), 3.0 * _MAD * _median(np.abs(log_variance - usual), votes))
    found = []
    for one, log in zip(each, log_variance, strict=True):
        mean = np.clip(one.mean, middle - room, middle + room)
        narrowed = np.exp(np.minimum(usual + wider - log, 0.0) / 2.0)
        with np.errstate(over="ignore"):
            comoment = (one.comoment * narrowed[:, None]) * narrowed[None, :]
        found.append(Moments(one.n, mean, comoment))
    return found


def _bounded_rows(
    rows: NDArray[np.float32], of: NDArray[np.int64], own: Sequence[Moments], bounded: Sequence[Moments]
) -> NDArray[np.float32]:
    """``rows`` float32[r, k], each of device ``of``, moved as the moments of its device were, and none farther than MAX_ROW_OFF
    standard deviations from their mean."""
    if not len(rows):
        return rows
    used, of = np.unique(of, return_inverse=True)
    with np.errstate(over="ignore"):
        before, after = (np.array([each[i].mean for i in used]) for each in (own, bounded))
        before_spread, spread = (np.array([each[i].spread for i in used]) for each in (own, bounded))
        narrowed = spread / np.where(before_spread > 0.0, before_spread, 1.0)
        moves = (narrowed < 1.0 - 1e-9) | (after != before)
        factor = np.where(before_spread > 0.0, narrowed, 1.0)
        wide = rows.astype(np.float64)
        moved = np.where(moves[of], (wide - before[of]) * factor[of] + after[of], wide)
        room = MAX_ROW_OFF * spread + _ROUNDED * np.abs(after)
        return np.clip(moved, (after - room)[of], (after + room)[of]).astype(np.float32)


def _weights(gateways: list[str], n: list[float], max_share: float) -> list[float]:
    """Of each device: its windows, but those of one gateway together at most :func:`_most`."""
    by_gateway: dict[str, float] = {}
    for gateway, count in zip(gateways, n, strict=True):
        by_gateway[gateway] = by_gateway.get(gateway, 0.0) + count
    most = _most(list(by_gateway.values()), max_share)
    return [count * min(1.0, most / by_gateway[gateway]) for gateway, count in zip(gateways, n, strict=True)]


def _most(counts: list[float], max_share: float) -> float:
    """What counts, at most, of each of ``counts``, one a gateway: ``max_share`` of all that then counts, or as much as the second
    largest, if that is more: who has just begun does not make little of what the others have seen."""
    second = sorted(counts)[-2] if len(counts) > 1 else counts[0]
    low, high = second, max(counts)
    for _ in range(100):  # the share of the largest grows with it
        middle = (low + high) / 2.0
        if middle <= max_share * sum(min(count, middle) for count in counts):
            low = middle
        else:
            high = middle
    return low


MAX_LABEL_SHARE = 0.05


def widened(fleet: Fleet, false_alarms: NDArray[np.float32]) -> Fleet:
    """``fleet`` for which the feature rows float32[m, k] of false alarms are normal, too: they count as healthy windows, but
    together as MAX_LABEL_SHARE of all at most, and as as large a part of its rows, and none as farther off than MAX_LABEL_OFF; so
    no operator alone makes all normal."""
    if not len(false_alarms):
        return fleet
    room = MAX_LABEL_OFF * np.maximum(fleet.total.spread, np.finfo(np.float32).tiny)
    wide = np.clip(false_alarms.astype(np.float64), fleet.total.mean - room, fleet.total.mean + room)
    mean = wide.mean(axis=0)
    own = Moments(float(len(wide)), mean, (wide - mean).T @ (wide - mean))
    most = MAX_LABEL_SHARE / (1.0 - MAX_LABEL_SHARE)
    weight = min(own.n, most * fleet.total.n)
    n_rows = min(len(wide), max(1, int(most * len(fleet.rows))))
    chosen = wide.astype(np.float32)[np.linspace(0, len(wide) - 1, n_rows).astype(np.int64)]
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
