"""What operators have called false and true alarms, as feature rows."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import and_, select

from cloud_sink import tables
from cloud_sink.events import EventStore
from models.messages import Alert, unpack_floats


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Feature rows float32[m, k] of alerts of one model, by what they were called; how many alerts that is."""

    false_alarms: NDArray[np.float32]
    true_alarms: NDArray[np.float32]
    n_false: int
    n_true: int


def labelled(store: EventStore, model_id: str, class_: str, k: int) -> Labelled:
    """Of alerts of ``class_`` that ``model_id`` raised, whose gateway sent their rows. Raises EventsUnavailable."""
    a, l_ = tables.alerts.c, tables.labels.c
    wanted = (
        select(a.payload, l_.label)
        .join(
            tables.labels,
            and_(l_.site == a.site, l_.gateway == a.gateway, l_.alert_id == a.alert_id),
        )
        .where(a.model_id == model_id, a["class"] == class_, a.kind == "machine")
        .order_by(a.alert_id)
    )
    found: dict[str, list[NDArray[np.float32]]] = {"false_alarm": [], "true_alarm": []}
    with store.read() as connection:
        for payload, label in connection.execute(wanted):
            alert = msgspec.json.decode(payload, type=Alert)
            if alert.features is None or label not in found:
                continue
            try:
                found[label].append(unpack_floats(alert.features, (-1, k)))
            except ValueError:  # of another model under this name
                continue
    nothing = np.zeros((0, k), np.float32)
    false, true = found["false_alarm"], found["true_alarm"]
    return Labelled(
        np.concatenate([nothing, *false]), np.concatenate([nothing, *true]), len(false), len(true)
    )
