"""Decisions of the gate in the event database: each stays, with the figures that it was made on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import insert, select

from cloud_sink import tables
from cloud_sink.events import EventStore
from cloud_sink.gate import Decision
from models import manifest as manifests
from models.manifest import ModelManifest


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A decision on one candidate; ``digest``: of its signed manifest."""

    model_id: str
    version: int
    digest: str
    at_ns: int
    decision: Decision


def keep(store: EventStore, manifest: ModelManifest, decision: Decision, at_ns: int) -> None:
    """Raises EventsUnavailable."""
    with store.begin() as connection:
        connection.execute(
            insert(tables.evaluations).values(
                model_id=manifest.model_id,
                version=manifest.version,
                digest=manifests.digest(manifest),
                at_ns=at_ns,
                verdict=decision.verdict,
                reasons=json.dumps(list(decision.reasons)),
                decision=msgspec.json.encode(decision),
            )
        )


def evaluations(store: EventStore, model_id: str | None = None, most: int = 50) -> Sequence[Evaluation]:
    """The newest first. Raises EventsUnavailable."""
    e = tables.evaluations
    wanted = select(e).order_by(e.c.at_ns.desc()).limit(most)
    if model_id is not None:
        wanted = wanted.where(e.c.model_id == model_id)
    with store.read() as connection:
        return [_read(row) for row in connection.execute(wanted).mappings()]


def newest_of(store: EventStore, manifest: ModelManifest) -> Evaluation | None:
    """The last decision on exactly this bundle. Raises EventsUnavailable."""
    e = tables.evaluations
    wanted = (
        select(e)
        .where(
            e.c.model_id == manifest.model_id,
            e.c.version == manifest.version,
            e.c.digest == manifests.digest(manifest),
        )
        .order_by(e.c.at_ns.desc())
        .limit(1)
    )
    with store.read() as connection:
        row = connection.execute(wanted).mappings().first()
    return None if row is None else _read(row)


def _read(row: Any) -> Evaluation:
    decision = msgspec.json.decode(bytes(row["decision"]), type=Decision)
    return Evaluation(row["model_id"], row["version"], row["digest"], row["at_ns"], decision)
