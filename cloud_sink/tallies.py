"""What the summaries of many devices add up to, device by device, in any order and by parts. Pure.

Strategy: of a part of the summaries (a day's file, say) two things are kept. Moments, which are small, merge exactly (Chan, Golub
& LeVeque 1983), so that parts may be added up as a tree and nobody needs all summaries. And how many rows of each device its
reservoirs hold: who knows these of all parts, in their order, knows which rows an even sample of the whole takes, and asks each
part for its own. So a reading by parts takes the rows that a reading of the whole takes, and never holds more than them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cloud_sink.summaries import SummaryTable

Device = tuple[str, str]  # (site/gateway, device)
Places = Mapping[str, NDArray[np.int64]]  # by site/gateway: which of its rows, in the order of time


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Of m devices of which healthy windows were summed up, ordered by ``gateway`` (site/gateway) and ``device``, each once:
    ``n`` float64[m], ``mean`` float64[m, k], ``comoment`` float64[m, k(k+1)/2], and ``n_rows`` int64[m] in their reservoirs.
    ``start_ns`` to ``end_ns``: of all summaries, ``n_summaries`` of them."""

    gateway: NDArray[np.str_]
    device: NDArray[np.str_]
    n: NDArray[np.float64]
    mean: NDArray[np.float64]
    comoment: NDArray[np.float64]
    n_rows: NDArray[np.int64]
    start_ns: int
    end_ns: int
    n_summaries: int

    def __len__(self) -> int:
        return len(self.n)

    @property
    def k(self) -> int:
        return int(self.mean.shape[1])

    @property
    def devices(self) -> list[Device]:
        return list(zip(self.gateway.tolist(), self.device.tolist(), strict=True))

    def without_moments(self) -> Tally:
        """The same with k = 0: who it is of, and how many rows there are."""
        return replace(self, mean=np.zeros((len(self), 0)), comoment=np.zeros((len(self), 0)))


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Feature rows float32[r, k] of reservoirs, and of which gateway (site/gateway) and device each is; those of a gateway are in
    the order of time."""

    rows: NDArray[np.float32]
    gateway: NDArray[np.str_]
    device: NDArray[np.str_]


def tallied(table: SummaryTable) -> Tally:
    """Of ``table`` (each message once, at least one)."""
    seen = np.flatnonzero(table.n > 0)
    lengths = np.bincount(table.reservoir_of, minlength=len(table))[seen]
    found = _grouped(
        _full(table)[seen],
        table.device[seen],
        table.n[seen].astype(np.float64),
        table.mean[seen],
        table.comoment[seen],
        lengths.astype(np.int64),
    )
    return Tally(*found, int(table.start_ns.min()), int(table.end_ns.max()), len(table))


def added(parts: Sequence[Tally]) -> Tally:
    """``parts`` (at least one, of the same features, no summary in two of them) as one."""
    if len(parts) == 1:
        return parts[0]
    columns = ("gateway", "device", "n", "mean", "comoment", "n_rows")
    found = _grouped(*(np.concatenate([getattr(p, name) for p in parts]) for name in columns))
    return Tally(
        *found,
        min(p.start_ns for p in parts),
        max(p.end_ns for p in parts),
        sum(p.n_summaries for p in parts),
    )


def rows_by_gateway(tally: Tally, left_out: Set[Device]) -> dict[str, int]:
    """How many rows each gateway's devices have, but for those that are left out; gateways without any are there with 0."""
    found: dict[str, int] = {}
    for device, n in zip(tally.devices, tally.n_rows.tolist(), strict=True):
        if device not in left_out:
            found[device[0]] = found.get(device[0], 0) + n
    return found


def evenly(counts: Mapping[str, int], quota: int) -> dict[str, NDArray[np.int64]]:
    """Of each gateway that has ``counts`` rows at most ``quota``, spread evenly."""
    return {
        gateway: np.arange(n) if n <= quota else np.linspace(0, n - 1, quota).astype(np.int64)
        for gateway, n in counts.items()
        if n
    }


def by_parts(places: Places, counts: Sequence[Mapping[str, int]]) -> list[dict[str, NDArray[np.int64]]]:
    """``places`` in the whole as places in each of its parts, of which each gateway has ``counts`` rows, in the order of time."""
    done: dict[str, int] = {}
    found: list[dict[str, NDArray[np.int64]]] = []
    for part in counts:
        here = {}
        for gateway, n in part.items():
            begin = done.get(gateway, 0)
            done[gateway] = begin + n
            if gateway in places:
                low, high = np.searchsorted(places[gateway], (begin, begin + n))
                if high > low:
                    here[gateway] = places[gateway][low:high] - begin
        found.append(here)
    return found


def picked(table: SummaryTable, left_out: Set[Device], places: Places) -> Rows:
    """The rows of ``table`` at ``places`` among those of each gateway's devices, but for those that are left out. A place beyond
    the last row is none."""
    full = _full(table)
    usable = table.n > 0
    if left_out:
        usable &= np.array(
            [d not in left_out for d in zip(full.tolist(), table.device.tolist(), strict=True)], np.bool_
        )
    rows = np.flatnonzero(usable[table.reservoir_of])
    names, number = np.unique(full[table.reservoir_of[rows]], return_inverse=True)
    order = rows[np.argsort(number, kind="stable")]
    begins = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=len(names)))])
    chosen = [np.zeros(0, np.int64)]
    for i, name in enumerate(names.tolist()):
        mine, wanted = order[begins[i] : begins[i + 1]], places.get(name)
        if wanted is not None:
            chosen.append(mine[wanted[wanted < mine.size]])
    index = np.concatenate(chosen)
    of = table.reservoir_of[index]
    return Rows(table.reservoir[index], full[of], table.device[of])


def joined(parts: Sequence[Rows]) -> Rows:
    """``parts`` (at least one), which follow each other in time, as one: by gateway."""
    gateway = np.concatenate([p.gateway for p in parts])
    order = np.argsort(gateway, kind="stable")
    return Rows(
        np.concatenate([p.rows for p in parts])[order],
        gateway[order],
        np.concatenate([p.device for p in parts])[order],
    )


def _full(table: SummaryTable) -> NDArray[np.str_]:
    return np.char.add(np.char.add(table.site, "/"), table.gateway)


def _grouped(
    gateway: NDArray[np.str_],
    device: NDArray[np.str_],
    n: NDArray[np.float64],
    mean: NDArray[np.float64],
    comoment: NDArray[np.float64],
    n_rows: NDArray[np.int64],
) -> tuple[
    NDArray[np.str_],
    NDArray[np.str_],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.int64],
]:
    """The columns of a :class:`Tally` of these rows, of which several may be of one device."""
    if not n.size:
        return gateway, device, n, mean, comoment, n_rows
    order = np.lexsort((device, gateway))
    gateway, device, n, n_rows = gateway[order], device[order], n[order], n_rows[order]
    mean, comoment = mean[order], comoment[order]
    first = np.ones(n.size, np.bool_)
    first[1:] = (gateway[1:] != gateway[:-1]) | (device[1:] != device[:-1])
    starts, of = np.flatnonzero(first), np.cumsum(first) - 1
    total = np.add.reduceat(n, starts)
    centre = np.add.reduceat(n[:, None] * mean, starts) / total[:, None]
    alone = np.diff(np.append(starts, n.size)) == 1
    centre[alone] = mean[starts[alone]]  # as it came, to the last bit
    off = mean - centre[of]
    rows, columns = np.triu_indices(mean.shape[1])
    between = off[:, rows] * off[:, columns] * n[:, None]
    return (
        gateway[starts],
        device[starts],
        total,
        centre,
        np.add.reduceat(comoment + between, starts),
        np.add.reduceat(n_rows, starts),
    )
