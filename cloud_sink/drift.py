"""Whether machines have moved away from what their model was trained on, told from their summaries. Pure.

Of each device two things are watched, from when it took its version of the model on. *Scores*: the medians of its summaries, as
logs, a median over every few of them, go through ADWIN (Bifet & Gavaldà 2007, in river), which says that a mean has changed; it
has drifted where the level since then lies MIN_SHIFT robust deviations from that of before. *Features*: the population-stability
index (the symmetric Kullback-Leibler divergence of Jeffreys 1946, between shares of bins) of a row a summary, the newest
against the first, in deciles of the first; and the same divergence between Gaussians of their moments, which is all there is
where reservoirs are missing. Of two samples of one population the index is (1/n + 1/m) times a chi-square variable (Yurdakul
2018; of one degree of freedom less than bins, of moments of two), n and m being as many independent rows as the correlation in
time leaves of them; what chance explains is no drift.

Invariants: the same summaries give the same findings, however often they are read; scores of two versions are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN
from scipy.stats import chi2

from cloud_sink.findings import Drift, Finding, Key
from cloud_sink.summaries import SummaryTable

PER_POINT = 12  # summaries: an hour of the usual ones
N_BASELINE = 24  # points: a day
THIN = 4  # features are taken so often a point: neighbours are alike
N_PERIOD = 6 * N_BASELINE  # summaries that are compared with as many: 3 days of every third
MIN_AFTER = 6  # points that a new level must have lasted
ADWIN_DELTA = 0.002
MIN_SHIFT = 2.0  # robust deviations of points before
MIN_LOG_SPREAD = 0.05  # points are never more alike than 5 % of a score
N_BINS = 10
MIN_INDEX = 0.25  # where practice calls a population changed (Siddiqi 2006)
CHANCE = 1e-4  # of a false alarm in any feature of a device
MIN_ROWS = 50  # of each sample, for shares of bins; else moments
FLEET_SHARE = 1 / 3
MIN_FLEET = 2
_MAD = 1.4826


@dataclass(slots=True)
class _Period:
    """Of some summaries, one entry each: n, mean float64[k], n times the variances float64[k], and a row float32[k] of the
    reservoir or None."""

    n: list[int] = field(default_factory=list)
    mean: list[NDArray[np.float64]] = field(default_factory=list)
    scatter: list[NDArray[np.float64]] = field(default_factory=list)
    row: list[NDArray[np.float32] | None] = field(default_factory=list)
    first_ns: list[int] = field(default_factory=list)

    def keep(self, most: int) -> None:
        for values in (self.n, self.mean, self.scatter, self.row, self.first_ns):
            del values[: max(0, len(values) - most)]


def _adwin() -> ADWIN:
    return ADWIN(delta=ADWIN_DELTA, clock=1)  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class _Device:
    machine: str
    version: int
    end_ns: int = 0
    waiting: list[float] = field(default_factory=list)  # log medians that make no point yet
    points: list[float] = field(default_factory=list)
    points_ns: list[int] = field(default_factory=list)  # end of each
    adwin: ADWIN = field(default_factory=_adwin)
    spread: float = 0.0  # of the first points; ADWIN is told deviations
    begins: int = 0  # the first point of ADWIN's window, which it empties with each change
    baseline: int | None = None  # how many points had come before the first change,
    changed: int = 0  # and before the last one
    n_seen: int = 0
    first: _Period = field(default_factory=_Period)
    newest: _Period = field(default_factory=_Period)


class Watch:
    """Takes summaries of one model (of a class and schema) in the order of time, and says what has drifted. ``per_point``:
    summaries of which one median is taken."""

    def __init__(self, model_id: str, feature_names: tuple[str, ...], *, per_point: int = PER_POINT) -> None:
        self._model_id, self._names, self._per_point = model_id, feature_names, per_point
        self._devices: dict[Key, _Device] = {}

    def add(self, table: SummaryTable) -> None:
        """Each message once, by their beginnings; none is older than what was added before. Of other models, nothing is taken."""
        k = table.k
        diagonal = np.flatnonzero(np.equal(*np.triu_indices(k)))
        first_row = np.full(len(table), -1)
        first_row[table.reservoir_of[::-1]] = np.arange(len(table.reservoir_of))[::-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            medians = np.log(table.score_quantiles[:, 0])
        for i in np.flatnonzero(table.model_id == self._model_id):
            device = self._device(table, int(i))
            if np.isfinite(medians[i]):
                device.waiting.append(float(medians[i]))
                if len(device.waiting) == self._per_point:
                    _point(device, float(np.median(device.waiting)), int(table.end_ns[i]))
                    device.waiting = []
            device.n_seen += 1
            if table.n[i] > 1 and device.n_seen % max(1, self._per_point // THIN) == 0:
                period = device.first if len(device.first.n) < N_PERIOD else device.newest
                row = first_row[i]
                period.n.append(int(table.n[i]))
                period.mean.append(table.mean[i].copy())  # a view would keep all of the table
                period.scatter.append(table.comoment[i, diagonal])
                period.row.append(None if row < 0 else table.reservoir[row].copy())
                period.first_ns.append(int(table.start_ns[i]))
                device.newest.keep(N_PERIOD)

    def drift(self) -> Drift:
        """What is so now."""
        findings: list[Finding] = []
        judged: set[Key] = set()
        by_scores: set[Key] = set()
        for key, device in sorted(self._devices.items()):
            if len(device.points) >= N_BASELINE + MIN_AFTER:
                judged.add(key)
                if (found := _of_scores(key, device)) is not None:
                    by_scores.add(key)
                    findings.append(found)
            if len(device.newest.n) == N_PERIOD:
                judged.add(key)
                if (found := _of_features(key, device, self._names)) is not None:
                    findings.append(found)
        drifted = {(f.site, f.gateway, f.device) for f in findings}
        fleet = None
        if len(drifted) >= MIN_FLEET and len(drifted) >= FLEET_SHARE * len(judged):
            fleet = f"{len(drifted)} of {len(judged)} devices have drifted ({len(by_scores)} in their scores)"
        return Drift(tuple(findings), len(self._devices), len(judged), fleet)

    def _device(self, table: SummaryTable, i: int) -> _Device:
        key = (str(table.site[i]), str(table.gateway[i]), str(table.device[i]))
        version = int(table.model_version[i])
        device = self._devices.get(key)
        if device is None or device.version != version:
            device = self._devices[key] = _Device(str(table.machine[i]), version)
        device.end_ns = int(table.end_ns[i])
        return device


def _point(device: _Device, value: float, end_ns: int) -> None:
    device.points.append(value)
    device.points_ns.append(end_ns)
    if len(device.points) < N_BASELINE:
        return
    new = [value]
    if len(device.points) == N_BASELINE:
        device.spread, new = _spread(device.points), device.points
    for one in new:
        device.adwin.update(one / device.spread)  # type: ignore[no-untyped-call]
    if device.adwin.drift_detected:
        at = device.begins + _split(np.array(device.points[device.begins :]))
        device.begins = len(device.points)
        if at >= N_BASELINE:
            device.baseline, device.changed = device.baseline or at, at


def _split(values: NDArray[np.float64]) -> int:
    """How many of float64[n] come before the change of their mean, where that is most likely (Hinkley 1970)."""
    n_before = np.arange(1, values.size)
    before = np.cumsum(values)[:-1] / n_before
    after = (values.sum() - n_before * before) / (values.size - n_before)
    weight = n_before * (values.size - n_before)
    return 1 + int(np.argmax(weight * (after - before) ** 2))


def _spread(points: list[float]) -> float:
    """Robust standard deviation."""
    values = np.array(points)
    return max(_MAD * float(np.median(np.abs(values - np.median(values)))), MIN_LOG_SPREAD)


def _of_scores(key: Key, device: _Device) -> Finding | None:
    if device.baseline is None:
        return None
    before, since = device.points[: device.baseline], device.points[device.changed :]
    if len(since) < MIN_AFTER:
        return None
    level = float(np.median(before))
    after = float(np.median(since[-N_BASELINE:]))  # a ramp's end
    shift = (after - level) / _spread(before)
    if abs(shift) < MIN_SHIFT:
        return None
    return Finding(
        *key,
        device.machine,
        device.version,
        "scores",
        device.points_ns[device.changed - 1],
        device.end_ns,
        abs(shift),
        f"its median score went from {np.exp(level):.3g} to {np.exp(after):.3g}, {abs(shift):.1f} deviations of before",
    )


def _of_features(key: Key, device: _Device, names: tuple[str, ...]) -> Finding | None:
    first, newest = device.first, device.newest
    share = independent(np.array(first.mean)), independent(np.array(newest.mean))
    # Its windows overlap and are alike: a summary counts as one row, never as all of them.
    tests = [(gaussian_index(_moments(first), _moments(newest)), 2, len(first.n), len(newest.n))]
    rows = [np.array([r for r in p.row if r is not None], np.float64) for p in (first, newest)]
    if min(map(len, rows)) >= MIN_ROWS:
        tests.append((stability_index(*rows), N_BINS - 1, len(rows[0]), len(rows[1])))
    net = np.zeros(len(names))
    for index, degrees, n, m in tests:
        noise = 1.0 / (n * share[0]) + 1.0 / (m * share[1])
        real = index > noise * float(chi2.isf(CHANCE / len(names) / len(tests), degrees))
        net = np.maximum(net, np.where(real, index - degrees * noise, 0.0))
    beyond = np.flatnonzero(net > MIN_INDEX)
    if not beyond.size:
        return None
    worst = beyond[np.argsort(-net[beyond], kind="stable")]
    told = ", ".join(f"{names[i]} {net[i]:.2f}" for i in worst[:3])
    more = "" if worst.size <= 3 else f" and {worst.size - 3} more"
    return Finding(
        *key,
        device.machine,
        device.version,
        "features",
        newest.first_ns[0],
        device.end_ns,
        float(net[worst[0]]),
        f"population-stability index of {told}{more}",
    )


def stability_index(reference: NDArray[np.float64], current: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[k] of rows float64[n, k] and float64[m, k], in ``N_BINS`` bins of equal share of the reference: the sum of
    (p - q) ln(p / q). Half a row is added to each bin (Krichevsky & Trofimov 1981): an empty one is a small share, not none."""
    found = np.empty(reference.shape[1])
    for j in range(found.size):
        edges = np.unique(np.quantile(reference[:, j], np.arange(1, N_BINS) / N_BINS))
        shares = []
        for rows in (reference[:, j], current[:, j]):
            counts = np.bincount(np.searchsorted(edges, rows, side="left"), minlength=edges.size + 1) + 0.5
            shares.append(counts / counts.sum())
        p, q = shares
        found[j] = float(((p - q) * np.log(p / q)).sum())
    return found


def gaussian_index(
    reference: tuple[NDArray[np.float64], NDArray[np.float64]],
    current: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """The same divergence float64[k] between Gaussians of (mean float64[k], variance float64[k]); 0 of a feature that stands
    still at one place in both."""
    (a, va), (b, vb) = reference, current
    tiny = 1e-12 * (a**2 + b**2) + np.finfo(np.float64).tiny
    va, vb, off = np.maximum(va, tiny), np.maximum(vb, tiny), (a - b) ** 2
    found: NDArray[np.float64] = 0.5 * ((va + off) / vb + (vb + off) / va) - 1.0
    return np.where(off + np.abs(va - vb) <= tiny, 0.0, found)


def independent(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[k]: as how large a share of them, if they were independent, rows float64[n, k] one after the other count:
    (1 - r) / (1 + r), r their lag-1 autocorrelation, its bias taken off (Marriott & Pope 1954); one row at least, all at most."""
    n = len(values)
    centred = values - values.mean(axis=0)
    power = (centred**2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(power > 0, (centred[1:] * centred[:-1]).sum(axis=0) / power, 0.0)
    r = np.clip(r + (1.0 + 3.0 * r) / n, 0.0, 1.0)
    found: NDArray[np.float64] = np.maximum((1.0 - r) / (1.0 + r), 1.0 / n)
    return found


def _moments(period: _Period) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n, mean = np.array(period.n, np.float64)[:, None], np.array(period.mean)
    centre = (n * mean).sum(axis=0) / n.sum()
    scatter = np.array(period.scatter).sum(axis=0) + (n * (mean - centre) ** 2).sum(axis=0)
    return centre, scatter / n.sum()
