"""Learning across devices from their summaries alone: what the fleet is like, and what operators add to that. Pure.

Invariant: what one gateway says is believed, and weighs, as far as ``fleet_bounds`` lets it; within that, devices are merged
as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cloud_sink.fleet_bounds import (
    MAX_SHARE,
    Screened,
    bounded,
    bounded_rows,
    median_of,
    most_of,
    screened,
    votes_of,
    weights_of,
)
from cloud_sink.moments import Moments, merged_by, together
from cloud_sink.summaries import SummaryTable

MAX_LABEL_SHARE = 0.05
_LABELLED = MAX_LABEL_SHARE / (1.0 - MAX_LABEL_SHARE)  # of what is not labelled
MAX_LABEL_OFF = 8.0  # standard deviations: so far a false alarm may widen what is normal


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """What is learned from. ``total`` is over all devices; ``correlation`` float64[k, k] within devices, each in its own units,
    so that none says how the others' features hang together only because it moves more; ``spread`` float64[k] that of the
    median device, each gateway with one vote; ``devices``: each one's own, by (site/gateway, device); ``weighed``: the same, as
    far as it counts; ``rows`` float32[r, k]: a sample of feature rows, with ``row_device`` int64[r] into ``devices`` and
    ``row_ns`` int64[r], when the span that each is of began; ``n_windows``: that count; ``screened``: who was left out."""

    total: Moments
    correlation: NDArray[np.float64]
    spread: NDArray[np.float64]
    devices: Mapping[tuple[str, str], Moments]
    weighed: tuple[Moments, ...]
    rows: NDArray[np.float32]
    row_device: NDArray[np.int64]
    row_ns: NDArray[np.int64]
    n_windows: int
    n_gateways: int
    screened: tuple[Screened, ...]


def gathered(
    table: SummaryTable, *, max_share: float = MAX_SHARE, max_rows: int = 20_000, screen: bool = True
) -> Fleet:
    """The fleet of ``table`` (of one class and schema, each message once). ValueError where no window was summed up."""
    seen = np.flatnonzero(table.n > 0)
    if not seen.size:
        raise ValueError("no summary counts a healthy window")
    part = table.take(seen)
    keys = [(str(g), str(d)) for g, d in zip(part.full_gateway, part.device, strict=True)]
    names = sorted(set(keys))
    place = {name: i for i, name in enumerate(names)}
    of = np.array([place[key] for key in keys])
    each = merged_by(of, part.n.astype(np.float64), part.mean, part.comoment)
    votes = votes_of([gateway for gateway, _ in names])
    left_out = screened(names, each, votes) if screen else ()
    odd = {(s.gateway, s.device) for s in left_out}
    kept = [i for i, name in enumerate(names) if name not in odd]
    weights = weights_of([names[i][0] for i in kept], [each[i].n for i in kept], max_share)
    own = [each[i] for i in kept]
    believed = bounded(own, votes[kept])
    weighed = [one.scaled(w) for one, w in zip(believed.each, weights, strict=True)]
    total = together(weighed)
    correlation = np.average([m.correlation for m in weighed], axis=0, weights=[m.n for m in weighed])
    chosen, row_device = _sample(part, of, kept, [names[i][0] for i in kept], max_rows, max_share)
    rows = bounded_rows(part.reservoir[chosen], row_device, own, believed)
    return Fleet(
        total,
        correlation,
        median_of(np.array([m.spread for m in weighed]), votes[kept]),
        {names[i]: each[i] for i in kept},
        tuple(weighed),
        rows,
        row_device,
        part.start_ns[part.reservoir_of[chosen]],
        int(sum(weights)),
        len({names[i][0] for i in kept}),
        left_out,
    )


def borrowed(own: Moments, fleet: Fleet, *, worth: float) -> Moments:
    """Of a device with little history: its own mean; how its features spread and hang together, of its own n windows and of
    ``worth`` windows like the fleet's.

    That is the posterior mean under a conjugate prior of so many windows (Chen 1979, "Bayesian inference for a normal dispersion
    matrix"; Hannart & Naveau 2014), spreads and correlations apart (Barnard, McCulloch & Meng 2000), since devices of a class
    move more or less and hang together alike. No spread is made less than the device's own: windows that follow one another
    show less of it than there is, never more, so what was seen is its least.
    """
    share = own.n / (own.n + worth)
    pooled = np.sqrt(share * own.spread**2 + (1.0 - share) * fleet.spread**2)
    spread = np.maximum(own.spread, pooled)
    correlation = share * own.correlation + (1.0 - share) * fleet.correlation
    n = own.n + worth
    return Moments(n, own.mean, correlation * np.outer(spread, spread) * n)


def _sample(
    table: SummaryTable,
    of: NDArray[np.int64],
    kept: list[int],
    gateways: list[str],
    max_rows: int,
    max_share: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which rows of the reservoirs, evenly by gateway, of each at most :func:`~cloud_sink.fleet_bounds.most_of`, and the number
    of the device among ``kept`` that each is of. Gateways that send none (privacy) do not count."""
    number = np.full(int(of.max()) + 1, -1)
    number[kept] = np.arange(len(kept))
    device = number[of[table.reservoir_of]] if len(table.reservoir_of) else np.zeros(0, np.int64)
    rows = np.flatnonzero(device >= 0)
    if not rows.size:
        return rows, np.zeros(0, np.int64)
    _, gateway = np.unique(gateways, return_inverse=True)
    rows = rows[np.argsort(gateway[device[rows]], kind="stable")]
    there = np.split(rows, np.flatnonzero(np.diff(gateway[device[rows]])) + 1)
    most = most_of([float(one.size) for one in there], max_share)
    quota = max(1, min(max_rows // len(there), int(most)))
    chosen = [
        one if one.size <= quota else one[np.linspace(0, one.size - 1, quota).astype(np.int64)]
        for one in there
    ]
    index = np.concatenate(chosen)
    return index, device[index].astype(np.int64)


def admitted(
    normal: Moments, false_alarms: NDArray[np.float32], share: float = 1.0
) -> tuple[NDArray[np.float32], Moments]:
    """Feature rows float32[m, k] that operators called false alarms, none as farther off than MAX_LABEL_OFF, and what they
    count beside ``normal``: as many healthy windows as they are, but as ``share`` of MAX_LABEL_SHARE of all at most."""
    room = MAX_LABEL_OFF * np.maximum(normal.spread, np.finfo(np.float32).tiny)
    wide = np.clip(false_alarms.astype(np.float64), normal.mean - room, normal.mean + room)
    mean = wide.mean(axis=0)
    own = Moments(float(len(wide)), mean, (wide - mean).T @ (wide - mean))
    return wide.astype(np.float32), own.scaled(min(own.n, share * _LABELLED * normal.n))


def widened(fleet: Fleet, false_alarms: Mapping[tuple[str, str], NDArray[np.float32]]) -> Fleet:
    """``fleet`` for which the feature rows float32[m, k] of false alarms, by (site/gateway, device), are normal, too.

    They are held out with their device, and count as :func:`admitted` says, in moments and as as large a part of the rows:
    those of one gateway as MAX_SHARE of that at most, or as an equal part where the fleet has fewer than four, or where more of
    them have labels; so no operator alone makes all normal. Those of a device that is not in the fleet say nothing.
    """
    said = {i: false_alarms[name] for i, name in enumerate(fleet.devices) if len(false_alarms.get(name, ()))}
    gateway = [site_gateway for site_gateway, _ in fleet.devices]
    n_rows = Counter[str]()
    for i, rows in said.items():
        n_rows[gateway[i]] += len(rows)
    share = min(1.0 / max(1, len(n_rows)), max(MAX_SHARE, 1.0 / fleet.n_gateways))
    weighed, all_rows, devices, times = list(fleet.weighed), [fleet.rows], [fleet.row_device], [fleet.row_ns]
    extras = [fleet.total]
    for i, rows in said.items():
        part = share * len(rows) / n_rows[gateway[i]]
        clipped, extra = admitted(fleet.total, rows, part)
        extras.append(extra)
        weighed[i] = together([weighed[i], extra])
        most = min(len(rows), int(part * _LABELLED * len(fleet.rows)))
        chosen = clipped[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
        all_rows.append(chosen)
        devices.append(np.full(len(chosen), i))
        times.append(np.zeros(len(chosen), np.int64))
    return replace(
        fleet,
        total=together(extras),
        weighed=tuple(weighed),
        rows=np.concatenate(all_rows),
        row_device=np.concatenate(devices),
        row_ns=np.concatenate(times),
    )
