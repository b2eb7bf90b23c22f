"""Would the alerts have announced the failures? One rule, for an alert's time and a failure's alone.

An alert *counts* for a failure of its device, or of its machine, when it is raised in the failure's lead: no longer than
``lead_ns`` before it, and not after it. One alert may count for several failures whose leads overlap; one that counts for
none is *false*. Whether an alert is cleared, or still open at the end, changes nothing: what was raised was said. A failure
is *recorded* when a row of its device lies in its lead; of others nothing can be said, and they are neither caught nor
missed.

Many alerts catch failures by mere chance, so a count of caught failures never stands alone: *by chance* is how many the same
alerts would have caught had all of a device's come at another time, any being as likely. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.messages import AlertKind

# Kinds that are about the machine. Sensor faults, silence and the gateway's own troubles announce no failure of it, and are no
# false alerts either.
COUNTED: frozenset[AlertKind] = frozenset({"machine", "drift", "limit"})

Index = NDArray[np.int64]
Times = Mapping[str, Index]  # by device, ascending


class Outcome(StrEnum):
    """What became of a failure."""

    CAUGHT = "caught"
    MISSED = "missed"
    NOT_RECORDED = "not recorded"
    NOT_WATCHED = "not watched"  # nothing was scored in its lead


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that failed at ``time_ns`` on one of ``devices``; ``named``: how the file names that; ``text``: what it says
    of it."""

    time_ns: int
    devices: tuple[str, ...]
    named: str
    text: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """Of ``n`` failures, in their order: ``caught`` bool[n]; ``first_ns`` int64[n], when the first alert that counts was
    raised, and ``first_device`` by which device (0 and "" where none was); ``n_counting`` int64[n], how many count.
    ``false``: times of alerts that count for none, by device."""

    caught: NDArray[np.bool_]
    first_ns: Index
    first_device: tuple[str, ...]
    n_counting: Index
    false: Times

    @property
    def n_false(self) -> int:
        return sum(times.size for times in self.false.values())


def judge(failures: Sequence[Failure], raised: Times, lead_ns: int) -> Judgement:
    """What alerts ``raised`` (times int64, ascending, by device) say of ``failures``."""
    n = len(failures)
    first_ns, n_counting = np.zeros(n, np.int64), np.zeros(n, np.int64)
    first_device = [""] * n
    counts = {device: np.zeros(times.size, np.bool_) for device, times in raised.items()}
    for k, failure in enumerate(failures):
        for device in failure.devices:
            times = raised.get(device)
            if times is None:
                continue
            i, j = _within(times, failure.time_ns - lead_ns, failure.time_ns)
            if i == j:
                continue
            if not n_counting[k] or times[i] < first_ns[k]:
                first_ns[k], first_device[k] = times[i], device
            n_counting[k] += j - i
            counts[device][i:j] = True
    false = {device: times[~counts[device]] for device, times in raised.items()}
    return Judgement(n_counting > 0, first_ns, tuple(first_device), n_counting, false)


class Watched:
    """When a device was watched: stretches of time, from windows as they come. A position is the time watched until then."""

    def __init__(self, gap_ns: int | None) -> None:
        """``gap_ns``: what lies further apart is not one stretch; None: there is always one."""
        self._gap_ns = gap_ns
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start_ns: Index, end_ns: Index) -> None:
        """Windows [start, end), int64[m] each, in their order."""
        if not start_ns.size:
            return
        first = self._ends[-1] if self._ends else int(start_ns[0])
        before = np.concatenate([[first], end_ns[:-1]])
        fresh = (
            np.zeros(start_ns.size, np.bool_) if self._gap_ns is None else start_ns - before > self._gap_ns
        )
        fresh[0] |= not self._ends
        bounds = [0, *(np.flatnonzero(fresh[1:]) + 1).tolist(), start_ns.size]
        for i, j in pairwise(bounds):
            end = int(end_ns[i:j].max())
            if fresh[i]:
                # A clock that was set back adds nothing twice.
                start = max([int(start_ns[i]), *self._ends[-1:]])
                self._starts.append(start)
                self._ends.append(max(start, end))
            else:
                self._ends[-1] = max(self._ends[-1], end)

    @property
    def total_ns(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def positions(self, time_ns: Index) -> NDArray[np.float64]:
        """Time watched until each of ``time_ns``, in ns."""
        if not self._starts:
            return np.zeros(time_ns.size)
        starts, ends = np.array(self._starts), np.array(self._ends)
        origin = starts[0]  # float64 holds a century of ns to a microsecond, and 1970 is of no use
        until = np.append(0, np.cumsum(ends - starts))
        knots = np.stack([starts - origin, ends - origin], axis=1).reshape(-1).astype(np.float64)
        values = np.stack([until[:-1], until[1:]], axis=1).reshape(-1).astype(np.float64)
        found: NDArray[np.float64] = np.interp((time_ns - origin).astype(np.float64), knots, values)
        return found


def by_chance(
    failures: Sequence[Failure], raised: Times, lead_ns: int, watched: Mapping[str, Watched]
) -> NDArray[np.float64]:
    """The probability, float64[n], that each failure would have been caught had all alerts of a device come later by one
    random part of the time that it was watched (those beyond its end at its beginning). Exact, so nothing is drawn."""
    missed = np.ones(len(failures))
    for device, times in raised.items():
        of = [k for k, failure in enumerate(failures) if device in failure.devices]
        seen = watched.get(device)
        if not of or not times.size or seen is None or not seen.total_ns:
            continue
        total = float(seen.total_ns)
        at = np.sort(seen.positions(times))
        apart = np.diff(at, append=at[0] + total)  # round the circle
        failed = np.array([failures[k].time_ns for k in of], np.int64)
        lead = seen.positions(failed) - seen.positions(failed - lead_ns)
        # An alert is in the lead for as much of the circle as the lead is long, less what the next one has already.
        hit = np.minimum(apart[None, :], lead[:, None]).sum(axis=1) / total
        missed[of] *= 1.0 - np.minimum(hit, 1.0)
    chance: NDArray[np.float64] = 1.0 - missed
    return chance


def _within(times: Index, first_ns: int, last_ns: int) -> tuple[int, int]:
    """[i, j) of ``times`` in [first, last]."""
    i, j = np.searchsorted(times, first_ns, side="left"), np.searchsorted(times, last_ns, side="right")
    return int(i), int(j)
