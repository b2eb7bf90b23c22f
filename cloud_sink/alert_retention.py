"""Alerts and labels leave the event database again: by age, and where one gateway has too many.

Invariant: what an operator labelled is what candidates are tested with, so of a gateway that has too many alerts the unlabelled
ones go first. Rows go a thousand at a time, each a transaction of its own, so that storing waits for none of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, case, delete, exists, func, select, tuple_

from cloud_sink import tables
from cloud_sink.events import EventStore
from cloud_sink.features_store import DAY_NS

ROWS_AT_ONCE = 1_000


def retain(store: EventStore, now_ns: int, days: float, per_gateway: int) -> Counter[tuple[str, str]]:
    """Removes alerts that ended, and labels that were given, more than ``days`` ago, and of each gateway the oldest of more than
    ``per_gateway``. How many rows went, by (table, reason). Raises EventsUnavailable."""
    a, labels = tables.alerts, tables.labels
    before_ns = now_ns - round(days * DAY_NS)
    gone: Counter[tuple[str, str]] = Counter()
    labelled = exists().where(
        labels.c.site == a.c.site, labels.c.gateway == a.c.gateway, labels.c.alert_id == a.c.alert_id
    )
    alerts_first = (case((labelled, 1), else_=0), a.c.end_ns)
    for table, age, first in (
        (a, a.c.end_ns, alerts_first),
        (labels, labels.c.at_ns, (labels.c.at_ns,)),
    ):
        gone[table.name, "age"] += _remove(store, table, select(*_key(table)).where(age < before_ns))
        for site, gateway, n in _crowds(store, table, per_gateway):
            of_it = and_(table.c.site == site, table.c.gateway == gateway)
            oldest = select(*_key(table)).where(of_it).order_by(*first)
            gone[table.name, "count"] += _remove(store, table, oldest, n - per_gateway)
    return +gone


def _crowds(store: EventStore, table: Table, most: int) -> list[tuple[str, str, int]]:
    n = func.count()
    wanted = select(table.c.site, table.c.gateway, n).group_by(table.c.site, table.c.gateway).having(n > most)
    with store.read() as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(wanted)]


def _remove(store: EventStore, table: Table, chosen: Select[Any], most: int | None = None) -> int:
    """Removes the first ``most`` rows that ``chosen`` names by their keys, or all of them."""
    n_gone = 0
    while most is None or n_gone < most:
        n = ROWS_AT_ONCE if most is None else min(ROWS_AT_ONCE, most - n_gone)
        with store.begin() as connection:
            keys = [tuple(row) for row in connection.execute(chosen.limit(n))]
            if keys:
                connection.execute(delete(table).where(tuple_(*_key(table)).in_(keys)))
        n_gone += len(keys)
        if len(keys) < n:
            break
    return n_gone


def _key(table: Table) -> list[ColumnElement[Any]]:
    return list(table.primary_key)
