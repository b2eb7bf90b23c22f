"""Learning across devices from their summaries alone: what the fleet is like, and what operators add to that. Pure.

Invariant: what one gateway says is believed, and weighs, as far as ``fleet_bounds`` lets it; within that, devices are merged
as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cloud_sink.fleet_bounds import (
    MAX_SHARE,
    Screened,
    bounded,
    bounded_rows,
    most_of,
    screened,
    votes_of,
    weights_of,
)
from cloud_sink.moments import Moments, merged, square, together
from cloud_sink.summaries import SummaryTable

MAX_LABEL_SHARE = 0.05
MAX_LABEL_OFF = 8.0  # standard deviations: so far a false alarm may widen what is normal


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
    votes = votes_of([gateway for gateway, _ in names])
    left_out = screened(names, each, votes) if screen else ()
    odd = {(s.gateway, s.device) for s in left_out}
    kept = [i for i, name in enumerate(names) if name not in odd]
    weights = weights_of([names[i][0] for i in kept], [each[i].n for i in kept], max_share)
    own = [each[i] for i in kept]
    believed = bounded(own, votes[kept])
    weighed = [one.scaled(w) for one, w in zip(believed, weights, strict=True)]
    total = together(weighed)
    correlation = np.average([m.correlation for m in weighed], axis=0, weights=[m.n for m in weighed])
    rows, row_device = _sample(part, of, kept, [names[i][0] for i in kept], max_rows, max_share)
    rows = bounded_rows(rows, row_device, own, believed)
    return Fleet(
        total,
        correlation,
        np.median([m.spread for m in weighed], axis=0),
        {names[i]: each[i] for i in kept},
        tuple(weighed),
        rows,
        row_device,
        int(sum(weights)),
        len({names[i][0] for i in kept}),
        left_out,
    )


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


def _sample(
    table: SummaryTable,
    of: NDArray[np.int64],
    kept: list[int],
    gateways: list[str],
    max_rows: int,
    max_share: float,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows of the reservoirs, evenly by gateway, of each at most :func:`~cloud_sink.fleet_bounds.most_of`, and the number of the
    device among ``kept`` that each is of. Gateways that send none (privacy) do not count."""
    number = np.full(int(of.max()) + 1, -1)
    number[kept] = np.arange(len(kept))
    device = number[of[table.reservoir_of]] if len(table.reservoir_of) else np.zeros(0, np.int64)
    rows = np.flatnonzero(device >= 0)
    if not rows.size:
        return table.reservoir[:0], np.zeros(0, np.int64)
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
    return table.reservoir[index], device[index].astype(np.int64)


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
