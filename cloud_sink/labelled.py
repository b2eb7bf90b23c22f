"""What operators have called false and true alarms, as feature rows."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import and_, select

from cloud_sink import tables
from cloud_sink.events import EventStore
from models.messages import Alert, unpack_floats
from models.requests import AlertLabel

Names = tuple[str, str]  # site/gateway, device


class Said(NamedTuple):
    """What an alert of the device ``names`` was called by its gateway's operators, and its feature rows float32[m, k]."""

    names: Names
    label: AlertLabel
    rows: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Alerts of one model whose gateways sent ``k`` features a row."""

    alerts: tuple[Said, ...]
    k: int

    def n(self, label: AlertLabel) -> int:
        """How many were called so."""
        return sum(said.label == label for said in self.alerts)

    def of(self, devices: Container[Names]) -> Labelled:
        """Those of ``devices`` alone."""
        return Labelled(tuple(said for said in self.alerts if said.names in devices), self.k)

    def rows(self, label: AlertLabel) -> NDArray[np.float32]:
        """The rows float32[m, k] of all that were called so."""
        nothing = np.zeros((0, self.k), np.float32)
        return np.concatenate([nothing, *(said.rows for said in self.alerts if said.label == label)])

    def by_device(self, label: AlertLabel) -> dict[Names, NDArray[np.float32]]:
        """The same, by device."""
        names = dict.fromkeys(said.names for said in self.alerts if said.label == label)
        return {
            name: np.concatenate([s.rows for s in self.alerts if (s.names, s.label) == (name, label)])
            for name in names
        }


def labelled(store: EventStore, model_id: str, class_: str, k: int) -> Labelled:
    """Alerts of ``class_`` that ``model_id`` raised and operators have called something. Raises EventsUnavailable."""
    a, l_ = tables.alerts.c, tables.labels.c
    wanted = (
        select(a.payload, l_.label)
        .join(
            tables.labels,
            and_(l_.site == a.site, l_.gateway == a.gateway, l_.alert_id == a.alert_id),
        )
        .where(a.model_id == model_id, a["class"] == class_, a.kind == "machine")
        .order_by(a.site, a.gateway, a.alert_id)
    )
    found: list[Said] = []
    with store.read() as connection:
        for payload, label in connection.execute(wanted):
            alert = msgspec.json.decode(payload, type=Alert)
            if alert.features is None:
                continue
            try:
                rows = unpack_floats(alert.features, (-1, k))
            except ValueError:  # of another model under this name
                continue
            if np.isfinite(rows).all():
                found.append(Said((f"{alert.site}/{alert.gateway}", alert.device), label, rows))
    return Labelled(tuple(found), k)
