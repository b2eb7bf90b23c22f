"""Rollouts in the event database, and what is known of their canaries.

Invariants: a version of a model is rolled out once; a state changes only from the one that whoever changes it has seen, so two
sinks, or a sink and a person, cannot both decide; one sink at a time holds the lease under which rollouts are judged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from cloud_sink import tables
from cloud_sink.events import EventStore
from cloud_sink.features_store import DAY_NS, FeatureStore
from cloud_sink.rollout import Plan, Report
from models import manifest as manifests
from models.manifest import ModelManifest
from models.signal import NS_PER_S, ArtifactTarget

LEASE = "rollouts"
CLOCKS_NS = 300 * NS_PER_S  # by so much a gateway's clock may differ from a sink's
CANARY, PROMOTING, PROMOTED, ROLLING_BACK, ROLLED_BACK, PAUSED = (
    "canary",
    "promoting",
    "promoted",
    "rolling_back",
    "rolled_back",
    "paused",
)
OPEN = (CANARY, PROMOTING, ROLLING_BACK)


class NotBegun(Exception):
    """A rollout cannot begin, or be changed; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """A row, read; ``unjudged``: why the gate did not vouch for it."""

    plan: Plan
    state: str
    reasons: tuple[str, ...]
    unjudged: str | None
    manifest: ModelManifest
    changed_ns: int


def begin(
    store: EventStore,
    plan: Plan,
    manifest: ModelManifest,
    artifacts: Mapping[ArtifactTarget, bytes],
    unjudged: str | None = None,
) -> None:
    """Notes ``plan`` and keeps the bundle, so that any sink can go on with it; ``unjudged``: why the gate does not
    vouch for it. Raises NotBegun and EventsUnavailable."""
    r = tables.rollouts
    with store.begin() as connection:
        store.alone(connection)  # else two that begin at once see nothing of each other
        _require_none_open(connection, plan.model_id)
        for artifact in manifest.artifacts:
            known = connection.execute(
                select(tables.blobs.c.sha256).where(tables.blobs.c.sha256 == artifact.sha256)
            ).first()
            if known is None:
                connection.execute(
                    insert(tables.blobs).values(sha256=artifact.sha256, data=artifacts[artifact.target])
                )
        try:
            connection.execute(
                insert(r).values(
                    model_id=plan.model_id,
                    version=plan.version,
                    state=CANARY,
                    canaries=json.dumps(plan.canaries),
                    reasons="[]",
                    unjudged=unjudged,
                    began_ns=plan.began_ns,
                    hours=plan.hours,
                    windows=plan.windows,
                    alerts_per_week=plan.alerts_per_week,
                    manifest=manifests.encode(manifest),
                    changed_ns=plan.began_ns,
                )
            )
        except IntegrityError as error:
            raise NotBegun(_before(plan.model_id, plan.version)) from error


def require_new(store: EventStore, model_id: str, version: int) -> None:
    """Raises NotBegun where :func:`begin` would, as far as that is known before anything is judged, and EventsUnavailable."""
    r = tables.rollouts.c
    with store.read() as connection:
        _require_none_open(connection, model_id)
        found = connection.execute(select(r.version).where(r.model_id == model_id, r.version == version))
        if found.first() is not None:
            raise NotBegun(_before(model_id, version))


def _before(model_id: str, version: int) -> str:
    return f"version {version} of {model_id} has been rolled out before: make a newer one (cloud-sink learn)"


def _require_none_open(connection: Connection, model_id: str) -> None:
    r = tables.rollouts.c
    other = connection.execute(
        select(r.version).where(r.model_id == model_id, r.state.in_((*OPEN, PAUSED))).limit(1)
    ).scalar()
    if other is not None:
        raise NotBegun(
            f"version {other} of {model_id} is being rolled out: wait for it, or take it back (cloud-sink rollback)"
        )


def rollouts(store: EventStore, states: Sequence[str] = ()) -> list[Rollout]:
    """Those in ``states``, else all, the newest first. Raises EventsUnavailable."""
    r = tables.rollouts
    wanted = select(r).order_by(r.c.began_ns.desc())
    if states:
        wanted = wanted.where(r.c.state.in_(states))
    with store.read() as connection:
        return [_read(row) for row in connection.execute(wanted).mappings()]


def rollout_of(store: EventStore, model_id: str, version: int) -> Rollout:
    """The one of that version, which was begun. Raises EventsUnavailable."""
    r = tables.rollouts
    with store.read() as connection:
        wanted = select(r).where(r.c.model_id == model_id, r.c.version == version)
        return _read(connection.execute(wanted).mappings().one())


def artifacts_of(store: EventStore, manifest: ModelManifest) -> dict[ArtifactTarget, bytes]:
    """The graphs that were kept with it. Raises EventsUnavailable."""
    b = tables.blobs.c
    with store.read() as connection:
        wanted = select(b.sha256, b.data).where(b.sha256.in_([a.sha256 for a in manifest.artifacts]))
        found: dict[str, bytes] = {row.sha256: row.data for row in connection.execute(wanted)}
    return {artifact.target: bytes(found[artifact.sha256]) for artifact in manifest.artifacts}


def change(
    store: EventStore,
    model_id: str,
    version: int,
    before: Sequence[str],
    after: str,
    reasons: Sequence[str],
    now_ns: int,
) -> bool:
    """From one of the states ``before`` to ``after``; False where it is in another one. Raises EventsUnavailable."""
    r = tables.rollouts
    with store.begin() as connection:
        done = connection.execute(
            update(r)
            .where(r.c.model_id == model_id, r.c.version == version, r.c.state.in_(before))
            .values(state=after, reasons=json.dumps(list(reasons)), changed_ns=now_ns)
        )
        return bool(done.rowcount)


def lease(store: EventStore, holder: str, now_ns: int, until_ns: int) -> bool:
    """Takes or keeps the lease; False while another sink has it. Raises EventsUnavailable."""
    t = tables.leases
    with store.begin() as connection:
        found = connection.execute(
            update(t)
            .where(t.c.name == LEASE, or_(t.c.holder == holder, t.c.until_ns < now_ns))
            .values(holder=holder, until_ns=until_ns)
        )
        if found.rowcount:
            return True
        if connection.execute(select(t.c.holder).where(t.c.name == LEASE)).first() is not None:
            return False
        store.upsert(
            connection,
            t,
            [{"name": LEASE, "holder": holder, "until_ns": until_ns}],
            lambda new: t.c.until_ns < now_ns,
        )
        return connection.execute(select(t.c.holder).where(t.c.name == LEASE)).scalar() == holder


def reports(store: EventStore, features: FeatureStore, rollout: Rollout) -> list[Report]:
    """What is known of each canary. Raises EventsUnavailable and StoreError."""
    plan = rollout.plan
    m, g, d, a = tables.model_states.c, tables.gateways.c, tables.devices.c, tables.alerts.c
    found = []
    with store.read() as connection:
        for full in plan.canaries:
            site, _, gateway = full.partition("/")
            said = connection.execute(
                select(m.state, m.since_ns, m.text).where(
                    m.site == site,
                    m.gateway == gateway,
                    m.model_id == plan.model_id,
                    or_(
                        m.version == plan.version,
                        # Of a manifest that it does not trust a gateway cannot tell the version.
                        and_(
                            m.version == 0,
                            m.canary,
                            m.state == "refused",
                            m.since_ns >= plan.began_ns - CLOCKS_NS,
                        ),
                    ),
                )
            ).first()
            status = connection.execute(
                select(g.state, g.heard_ns).where(g.site == site, g.gateway == gateway)
            ).first()
            n_devices = connection.execute(
                select(func.count()).where(
                    and_(d.site == site, d.gateway == gateway, d.model_id == plan.model_id, tables.watched())
                )
            ).scalar()
            n_alerts = connection.execute(
                select(func.count()).where(
                    a.site == site,
                    a.gateway == gateway,
                    a.model_id == plan.model_id,
                    a.model_version == plan.version,
                    a.kind == "machine",
                )
            ).scalar()
            found.append(
                Report(
                    full,
                    None if said is None else said.state,
                    0 if said is None else said.since_ns,
                    "" if said is None else said.text,
                    status is not None and status.state == "online",
                    0 if status is None else status.heard_ns,
                    0,
                    int(n_devices or 0),
                    int(n_alerts or 0),
                )
            )
    counted = _windows(features, rollout)
    return [
        Report(
            r.gateway,
            r.state,
            r.since_ns,
            r.text,
            r.online,
            r.heard_ns,
            counted.get(r.gateway, 0),
            r.n_devices,
            r.n_alerts,
        )
        for r in found
    ]


def _windows(features: FeatureStore, rollout: Rollout) -> dict[str, int]:
    """Windows that the version has scored, as far as they are summed up, by gateway. What a gateway had to catch up with is
    older than the rollout; what is older by days cannot be of it."""
    counted: Counter[str] = Counter()
    schema, plan = rollout.manifest.schema_id, rollout.plan
    from_ns = plan.began_ns - 2 * DAY_NS
    for class_ in {p.class_ for p in features.partitions(schema_id=schema)}:
        counted.update(features.windows_of(class_, schema, plan.model_id, plan.version, from_ns=from_ns))
    return counted


def _read(row: Any) -> Rollout:
    plan = Plan(
        row["model_id"],
        row["version"],
        tuple(json.loads(row["canaries"])),
        row["began_ns"],
        row["hours"],
        row["windows"],
        row["alerts_per_week"],
    )
    return Rollout(
        plan,
        row["state"],
        tuple(json.loads(row["reasons"])),
        row["unjudged"],
        manifests.decode(bytes(row["manifest"])),
        row["changed_ns"],
    )
