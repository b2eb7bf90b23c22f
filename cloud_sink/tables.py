"""The tables of the event database, the same in SQLite and in PostgreSQL.

Integers are nanoseconds of Unix UTC where the name says so. Who brings what decides nothing: each row has one key, and which
of two versions of it stays follows from what they say (``seq``, times), or, of what gateways retain, from which was heard last.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    or_,
)
from sqlalchemy.sql import ColumnElement

VERSION = 2
metadata = MetaData()


def _names(*names: str) -> list[Column[str]]:
    return [Column(name, Text, nullable=False) for name in names]


schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

alerts = Table(
    "alerts",
    metadata,
    *_names("site", "gateway", "alert_id"),
    Column("seq", Integer, nullable=False),
    *_names("state", "kind", "severity", "machine", "class", "device", "message"),
    Column("start_ns", BigInteger, nullable=False),
    Column("end_ns", BigInteger, nullable=False),
    Column("score", Float),
    Column("p_value", Float),
    Column("model_id", Text),
    Column("model_version", Integer),
    Column("payload", LargeBinary, nullable=False),  # the whole message, as it came
    Column("heard_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("site", "gateway", "alert_id"),  # an id is its gateway's word alone
    Index("alerts_by_time", "start_ns"),
    Index("alerts_by_device", "site", "gateway", "device"),
)

labels = Table(
    "labels",
    metadata,
    *_names("site", "gateway", "alert_id", "label", "note"),
    Column("by", Text),
    Column("at_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("site", "gateway", "alert_id"),
)

gateways = Table(
    "gateways",
    metadata,
    *_names("site", "gateway", "state", "version", "boot_id", "config_hash", "updated_at", "started_at"),
    Column("payload", LargeBinary, nullable=False),
    Column("heard_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("site", "gateway"),
)

devices = Table(
    "devices",
    metadata,
    *_names("site", "gateway", "device", "machine", "class"),
    Column("schema_id", Text),
    Column("model_id", Text),
    Column("model_version", Integer),
    Column("last_end_ns", BigInteger),  # of its newest summary
    Column("state", Text),
    Column("state_heard_ns", BigInteger),
    PrimaryKeyConstraint("site", "gateway", "device"),
)


def watched() -> ColumnElement[bool]:
    """Of rows of ``devices``: that its gateway has not said that the device is no more."""
    return or_(devices.c.state.is_not(None), devices.c.state_heard_ns.is_(None))


model_states = Table(
    "model_states",
    metadata,
    *_names("site", "gateway", "model_id", "state", "text"),
    Column("version", Integer, nullable=False),
    Column("running", Integer, nullable=False),
    Column("canary", Boolean, nullable=False),
    Column("reason", Text),
    Column("since_ns", BigInteger, nullable=False),
    Column("heard_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("site", "gateway", "model_id"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("model_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    *_names("state", "canaries", "reasons"),  # lists as JSON
    Column("unjudged", Text),  # why the gate did not vouch for it
    Column("began_ns", BigInteger, nullable=False),
    Column("hours", Float, nullable=False),
    Column("windows", Integer, nullable=False),
    Column("alerts_per_week", Float, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("model_id", "version"),
)

retrainings = Table(
    "retrainings",
    metadata,
    Column("model_id", Text, nullable=False),
    Column(
        "number", Integer, nullable=False
    ),  # of the model's attempts: of two who begin one at once, one has it
    *_names("state", "cause", "reason", "holder", "text"),
    Column("version", Integer),  # of the candidate, once there is one
    Column("starts", Integer, nullable=False),
    Column("began_ns", BigInteger, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("model_id", "number"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until_ns", BigInteger, nullable=False),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("model_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False),  # of the signed manifest
    Column("at_ns", BigInteger, nullable=False),
    *_names("verdict", "reasons"),  # a list as JSON
    Column("decision", LargeBinary, nullable=False),  # all of it, with figures and answers
    PrimaryKeyConstraint("model_id", "version", "digest", "at_ns"),
)
