"""A fleet out of the store, day by day, as tasks for Dask: no computer needs all of its summaries.

Strategy: a task reads the files of one day of one class and schema, drops doubles (which lie in the same day) and keeps what the
day adds up to, device by device. Days are added up as a tree of :data:`FAN_IN`. Who is believed is decided on the whole; then
the days are read once more for the rows that an even sample of all takes, at most :data:`cloud_sink.fleet.MAX_ROWS`. What
is in one piece of memory are the moments of n devices of k features, 8 n (1 + k + k(k+1)/2) bytes, their names, and those rows.

Summaries that come between the two readings may move the sample by as many rows; its rows are of the store, and of devices
that were counted, all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cloud_sink import tallies
from cloud_sink.features_store import DAY_NS, FeatureStore, Partition, StoreError, between, usual
from cloud_sink.fleet import Fleet, Judged, assembled, judged, sampled
from cloud_sink.summaries import SummaryTable, concatenated
from cloud_sink.tallies import Device, Places, Rows, Tally
from cloud_sink.train import FitError

if TYPE_CHECKING:
    from dask.delayed import Delayed

FAN_IN = 8  # tallies that one task adds up
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Summaries of one class and schema of the last ``days`` before ``now_ns``, in the store ``url``."""

    url: str
    class_: str
    schema_id: str
    now_ns: int
    days: float

    @property
    def from_ns(self) -> int:
        """When the first of them begin."""
        return self.now_ns - round(self.days * DAY_NS)


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """A day, or several: by the names that files give to the features, how many files do, and what they add up to (None: nothing
    in the span)."""

    n_files: Mapping[Names, int]
    tallies: Mapping[Names, Tally]

    @property
    def tally(self) -> Tally | None:
        """Of the usual names."""
        return self.tallies.get(usual(self.n_files)) if self.n_files else None


@dataclass(frozen=True, slots=True)
class Who:
    """Whose rows may be learned from: those in files that give the features these names, but for those of devices left out."""

    names: Names
    left_out: frozenset[Device]


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """A fleet, and when its summaries begin and end."""

    fleet: Fleet
    start_ns: int
    end_ns: int


def gathering(span: Span) -> Delayed:
    """The task that gives the :class:`Gathered` of ``span``, or FitError where no window was summed up in it; it fails with
    StoreError. Raises StoreError, and FitError where the store has no such day."""
    from dask import delayed

    store = FeatureStore(span.url, "", create=False)
    days = store.within(span.class_, span.schema_id, from_ns=span.from_ns)
    if not days:
        raise _nothing(span, store)
    counts = [delayed(partial(counted, span, day), pure=False)() for day in days]
    level = counts
    while len(level) > 1:
        level = [delayed(merged, pure=False)(level[i : i + FAN_IN]) for i in range(0, len(level), FAN_IN)]
    whole = level[0]
    found = delayed(partial(judge, span), pure=False)(whole)
    who = delayed(_who, pure=False)(whole, found)
    numbers = [delayed(_numbers, pure=False)(delayed(_without_moments, pure=False)(c), who) for c in counts]
    places = delayed(_places, pure=False)(whole, found, numbers)
    rows = [delayed(partial(taken, span, day, i), pure=False)(who, places) for i, day in enumerate(days)]
    return delayed(_gathered, pure=False)(whole, found, rows)


def counted(span: Span, day: Partition) -> Counted:
    """What ``day`` adds up to. Raises StoreError."""
    n_files, tables = _read(span, day)
    return Counted(n_files, {names: tallies.tallied(table) for names, table in tables.items()})


def merged(parts: Sequence[Counted]) -> Counted:
    """``parts`` as one."""
    n_files: dict[Names, int] = {}
    by_names: dict[Names, list[Tally]] = {}
    for part in parts:
        for names, n in part.n_files.items():
            n_files[names] = n_files.get(names, 0) + n
        for names, tally in part.tallies.items():
            by_names.setdefault(names, []).append(tally)
    return Counted(n_files, {names: tallies.added(found) for names, found in by_names.items()})


def judge(span: Span, whole: Counted) -> Judged | FitError:
    """Which devices of ``whole`` to believe."""
    tally = whole.tally
    if tally is None:
        return _nothing(span, FeatureStore(span.url, "", create=False))
    try:
        return judged(tally)
    except ValueError as error:  # of none was any window healthy
        return FitError(f"{error} of class {span.class_!r} of the last {span.days:g} days")


def taken(span: Span, day: Partition, i: int, who: Who, places: Sequence[Places]) -> Rows:
    """The rows of ``day``, the ``i``-th, at its ``places``. Raises StoreError."""
    table = _read(span, day)[1].get(who.names) if places[i] else None
    if table is None:
        nothing = np.zeros(0, np.str_)
        return Rows(np.zeros((0, len(who.names)), np.float32), nothing, nothing)
    return tallies.picked(table, who.left_out, places[i])


def _who(whole: Counted, found: Judged | FitError) -> Who:
    if isinstance(found, FitError):
        return Who((), frozenset())
    return Who(usual(whole.n_files), found.left_out)


def _without_moments(count: Counted) -> Counted:
    """What is needed of a day once it is added to the others."""
    return Counted(count.n_files, {names: t.without_moments() for names, t in count.tallies.items()})


def _numbers(count: Counted, who: Who) -> dict[str, int]:
    tally = count.tallies.get(who.names)
    return {} if tally is None else tallies.rows_by_gateway(tally, who.left_out)


def _places(whole: Counted, found: Judged | FitError, numbers: Sequence[Mapping[str, int]]) -> list[Places]:
    if isinstance(found, FitError):
        return [{} for _ in numbers]
    assert whole.tally is not None
    return list(tallies.by_parts(sampled(whole.tally, found), numbers))


def _gathered(whole: Counted, found: Judged | FitError, rows: Sequence[Rows]) -> Gathered | FitError:
    if isinstance(found, FitError):
        return found
    assert whole.tally is not None
    fleet = assembled(found, tallies.joined(rows))
    return Gathered(fleet, whole.tally.start_ns, whole.tally.end_ns)


def _read(span: Span, day: Partition) -> tuple[dict[Names, int], dict[Names, SummaryTable]]:
    """By the names of its features: how many files of ``day``, and what is in the span of them, each message once."""
    read = FeatureStore(span.url, "", create=False).read_partition(day)
    if not read:
        raise StoreError(
            f"{span.url} has no file of {day.path} here, where there was one when the reading began: is it the same store?"
        )
    by_names: dict[Names, list[SummaryTable]] = {}
    for table, _ in read:
        by_names.setdefault(table.feature_names, []).append(table)
    inside = {
        names: between(concatenated(found).distinct(), span.from_ns, None)
        for names, found in by_names.items()
    }
    return (
        {names: len(found) for names, found in by_names.items()},
        {names: table for names, table in inside.items() if table is not None},
    )


def _nothing(span: Span, store: FeatureStore) -> FitError:
    there = sorted({(p.class_, p.schema_id) for p in store.partitions()})
    return FitError(
        f"there are no summaries of class {span.class_!r} and schema {span.schema_id} of the last {span.days:g} days; "
        f"there are of {', '.join(f'{c!r} {s}' for c, s in there) or 'nothing'}"
    )


def sees(url: str, day: Partition) -> str | None:
    """What a computer lacks to read ``url``, in which there is ``day``; None: nothing."""
    try:
        store = FeatureStore(url, "", create=False)
        there = store.has(day)
    except StoreError as error:
        return str(error)
    if there:
        return None
    where = f"sees nothing of {url}"
    if store.is_local:
        where += ", a path of that computer: keep the summaries in an object store, or on a file system that all share"
    return where
