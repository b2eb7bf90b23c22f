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


def retain(
    store: EventStore, now_ns: int, days: float, per_gateway: int, gone: Counter[tuple[str, str]]
) -> None:
    """Removes alerts whose last news, and labels that, are older than ``days``, and of each gateway the oldest of more than
    ``per_gateway``. How many rows went is added to ``gone`` by (table, reason), as they go. Raises EventsUnavailable."""
    a, labels = tables.alerts, tables.labels
    before_ns = now_ns - round(days * DAY_NS)
    labelled = exists().where(
        labels.c.site == a.c.site, labels.c.gateway == a.c.gateway, labels.c.alert_id == a.c.alert_id
    )
    last_to_go = (case((labelled, 1), else_=0).desc(), a.c.end_ns.desc())
    for table, age, kept in (
        (a, a.c.end_ns, last_to_go),
        (labels, labels.c.at_ns, (labels.c.at_ns.desc(),)),
    ):
        _remove(store, table, select(*_key(table)).where(age < before_ns), gone, "age")
        for site, gateway in _crowds(store, table, per_gateway):
            of_it = and_(table.c.site == site, table.c.gateway == gateway)
            rest = select(*_key(table)).where(of_it).order_by(*kept).offset(per_gateway)
            _remove(store, table, rest, gone, "count")


def _crowds(store: EventStore, table: Table, most: int) -> list[tuple[str, str]]:
    counted = select(table.c.site, table.c.gateway).group_by(table.c.site, table.c.gateway)
    with store.read() as connection:
        return [(row[0], row[1]) for row in connection.execute(counted.having(func.count() > most))]


def _remove(
    store: EventStore, table: Table, chosen: Select[Any], gone: Counter[tuple[str, str]], reason: str
) -> None:
    """Removes the rows that ``chosen`` names by their keys, which it does anew each time: another sink may be at it, too."""
    while True:
        with store.begin() as connection:
            store.alone(connection)
            keys = [tuple(row) for row in connection.execute(chosen.limit(ROWS_AT_ONCE))]
            if keys:
                connection.execute(delete(table).where(tuple_(*_key(table)).in_(keys)))
        if keys:
            gone[table.name, reason] += len(keys)
        if len(keys) < ROWS_AT_ONCE:
            return


def _key(table: Table) -> list[ColumnElement[Any]]:
    return list(table.primary_key)
