"""Attempts to train a model again, in the event database.

Invariants: of each model one attempt is open at most; a state changes only from the one that, and under the holder whom, whoever
changes it has seen. So of two sinks that both believe they lead, one begins it, and one goes on with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from cloud_sink import rollout_store as rollouts
from cloud_sink import tables
from cloud_sink.events import EventStore
from cloud_sink.retraining import Attempt, Cause, Result
from cloud_sink.rollout_store import Rollout
from models.manifest import ModelManifest

TRAINING, TRAINED, OFFERED, FAILED = "training", "trained", "offered", "failed"
OPEN = (TRAINING, TRAINED)


@dataclass(frozen=True, slots=True)
class Retraining:
    """A row, read. ``state``: a candidate is being trained; is there, but was not offered to canaries; was offered: what became
    of it then the rollout says; or it failed, and ``text`` says why. ``starts``: how often somebody began with it."""

    model_id: str
    number: int
    state: str
    cause: str
    reason: str
    holder: str
    text: str
    version: int | None
    starts: int
    began_ns: int
    changed_ns: int


def begin(
    store: EventStore, model_id: str, cause: Cause, reason: str, holder: str, now_ns: int
) -> Retraining | None:
    """A new attempt; None where another one is open, or somebody else was quicker. Raises EventsUnavailable."""
    t = tables.retrainings
    with store.begin() as connection:
        known = connection.execute(
            select(t.c.number, t.c.state).where(t.c.model_id == model_id).order_by(t.c.number)
        ).all()
        if any(row.state in OPEN for row in known):
            return None
        new = Retraining(
            model_id,
            1 + max((row.number for row in known), default=0),
            TRAINING,
            cause,
            reason,
            holder,
            "",
            None,
            1,
            now_ns,
            now_ns,
        )
        try:
            with connection.begin_nested():
                connection.execute(insert(t).values(**{f: getattr(new, f) for f in Retraining.__slots__}))
        except IntegrityError:
            return None
    return new


def change(store: EventStore, seen: Retraining, now_ns: int, **values: Any) -> Retraining | None:
    """``seen`` with ``values``; None where it is not any more what was seen. Raises EventsUnavailable."""
    t = tables.retrainings
    with store.begin() as connection:
        done = connection.execute(
            update(t)
            .where(
                t.c.model_id == seen.model_id,
                t.c.number == seen.number,
                t.c.state == seen.state,
                t.c.holder == seen.holder,
                t.c.starts == seen.starts,
            )
            .values(changed_ns=now_ns, **values)
        )
        if not done.rowcount:
            return None
        wanted = select(t).where(t.c.model_id == seen.model_id, t.c.number == seen.number)
        return Retraining(**connection.execute(wanted).mappings().one())


def retrainings(store: EventStore, model_id: str | None = None) -> list[Retraining]:
    """Of a model, or all, the newest first. Raises EventsUnavailable."""
    t = tables.retrainings
    wanted = select(t).order_by(t.c.began_ns.desc(), t.c.model_id)
    if model_id is not None:
        wanted = wanted.where(t.c.model_id == model_id)
    with store.read() as connection:
        return [Retraining(**row) for row in connection.execute(wanted).mappings()]


def fate(retraining: Retraining, states: dict[tuple[str, int], str]) -> str:
    """What became of it, ``states`` being those of rollouts by model and version."""
    if retraining.state != OFFERED or retraining.version is None:
        return retraining.state
    return states.get((retraining.model_id, retraining.version), OFFERED)


def attempts(store: EventStore, model_id: str) -> list[Attempt]:
    """Those of a model, for the policy. Raises EventsUnavailable."""
    states = rollout_states(store)
    results: dict[str, Result] = {
        TRAINING: "open",
        TRAINED: "open",
        FAILED: "nothing",
        rollouts.ROLLING_BACK: "nothing",
        rollouts.ROLLED_BACK: "nothing",
    }
    return [Attempt(r.began_ns, results.get(fate(r, states), "served")) for r in retrainings(store, model_id)]


def rollout_states(store: EventStore) -> dict[tuple[str, int], str]:
    """States of rollouts by model and version. Raises EventsUnavailable."""
    r = tables.rollouts.c
    with store.read() as connection:
        rows = connection.execute(select(r.model_id, r.version, r.state))
        return {(row.model_id, row.version): row.state for row in rows}


def highest_version(store: EventStore, model_id: str) -> int:
    """Of a model, that was ever rolled out or trained here; 0: none. Raises EventsUnavailable."""
    r, t = tables.rollouts.c, tables.retrainings.c
    with store.read() as connection:
        out = connection.execute(select(func.max(r.version)).where(r.model_id == model_id)).scalar()
        made = connection.execute(select(func.max(t.version)).where(t.model_id == model_id)).scalar()
    return max(out or 0, made or 0)


def in_service(store: EventStore, like: ModelManifest) -> ModelManifest:
    """The newest version of the model of ``like`` that went to all gateways by a rollout and that most of them have not gone back
    from, by order or each by itself; or ``like``. Raises EventsUnavailable."""
    versions = [like]
    for rollout in rollouts.rollouts(store, (rollouts.PROMOTED,)):
        if rollout.plan.model_id == like.model_id and not _left(store, rollout):
            versions.append(rollout.manifest)
    return max(versions, key=lambda manifest: manifest.version)


def _left(store: EventStore, rollout: Rollout) -> bool:
    """Whether most of the gateways that have decided since it was promoted run an older version. What is tried on one alone
    (canaries, in shadow) is another matter."""
    m, plan = tables.model_states.c, rollout.plan
    wanted = select(m.running).where(
        m.model_id == plan.model_id,
        m.since_ns >= rollout.changed_ns,
        m.canary.is_(False),
        m.state != "shadow",
    )
    with store.read() as connection:
        running = [int(row.running) for row in connection.execute(wanted)]
    n_left = sum(version < plan.version for version in running)
    return n_left > len(running) / 2
