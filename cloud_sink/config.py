"""sink.toml: one struct a table, its fields the keys, its defaults the defaults; ``examples/sink.toml`` documents each.

Paths are relative to the file. Passwords are never fields: a broker's is read from where ``password_file`` or
``password_env`` says, a database's by its own driver (PGPASSFILE, PGPASSWORD).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from cloud_sink.influx_options import Influx
from cloud_sink.limits import Limits
from cloud_sink.retrain_options import Retrain, check_retrain
from models.broker_checks import check_broker, check_prefix
from models.broker_options import (
    Broker,
    Count,
    LogFormat,
    LogLevel,
    Name,
    PortOrOff,
    Positive,
)
from models.config_http import check_http
from models.config_partial import UNKNOWN, Salvage, as_far_as_known, given, sure
from models.config_text import ConfigError, parse, report
from models.config_validation import Problem, find_problems
from models.secret_values import read_secret
from models.topics import DEFAULT_PREFIX, check_level


class Sink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink]``: this process. ``name`` is its own among all that share the load, and stays."""

    name: Name
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    metrics_host: Name = "127.0.0.1"
    metrics_port: PortOrOff = 9465
    http_token_file: Path | None = None
    http_token_env: Name | None = None


class SinkBroker(Broker, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[broker]``: where gateways publish."""

    prefix: Name = DEFAULT_PREFIX
    shared: bool = False
    group: Name = "linewatch"
    session_expiry_s: Annotated[int, msgspec.Meta(ge=60, le=4_294_967_294)] = 7 * 86_400
    max_inflight: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 2_000


class Store(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[store]``: where what came in is kept. ``events`` is a URL of SQLAlchemy; ``features`` a folder, or a URL of fsspec."""

    events: Name = "sqlite:///events.sqlite"
    features: Name = "features"
    commit_s: Annotated[float, msgspec.Meta(ge=0.01, le=60)] = 0.5
    batch_messages: Count = 2_000
    retention_days: Positive = 400.0
    alert_days: Positive = 400.0
    max_alerts_per_gateway: Count = 100_000
    compact_s: Positive = 3600.0


class Rollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout]``: how models that are tried on canaries are judged."""

    every_s: Annotated[float, msgspec.Meta(ge=0.1, le=86_400)] = 30.0


class Scoring(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[scoring]``: what is scored for gateways. ``models``: what a gateway's model is called -> the bundle that answers for
    it, of the same features; with none, nobody is answered."""

    models: dict[str, Path] = {}
    queue_requests: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 64


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    sink: Sink
    broker: SinkBroker
    store: Store = Store()
    limits: Limits = Limits()
    influx: Influx = Influx()
    rollout: Rollout = Rollout()
    scoring: Scoring = Scoring()
    retrain: Retrain = Retrain()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A valid configuration."""

    path: Path
    sink: Sink
    broker: SinkBroker
    store: Store
    limits: Limits
    influx: Influx
    rollout: Rollout
    scoring: Scoring
    retrain: Retrain


def load_config(path: Path, *, runs: bool = False) -> Config:
    """The configuration in the TOML file ``path``; ConfigError lists everything that is wrong with it, by line. ``runs``: for a
    sink that runs, which needs the bundles and keys of ``[retrain]``, too."""
    raw, lines = parse(path, "[sink] and [broker]")
    base = path.absolute().parent
    problems = find_problems(raw, Document)
    wrong = list(problems)
    salvage = Salvage(problems, base)

    def read(table: str, kind: Any) -> Any:
        if table not in raw and kind in (Sink, SinkBroker):
            return UNKNOWN  # that it is missing, or misspelt, has been said
        return salvage.read(raw.get(table, {}), kind, (table,), wrong)

    sink, broker = read("sink", Sink), read("broker", SinkBroker)
    store, limits, influx = read("store", Store), read("limits", Limits), read("influx", Influx)
    rollout, scoring, retrain = read("rollout", Rollout), read("scoring", Scoring), read("retrain", Retrain)
    if "sink" in raw:
        problems += as_far_as_known(_check_name(sink), check_http(sink, "sink"))
    if "broker" in raw:
        problems += as_far_as_known(
            check_broker(broker, ("broker",)),
            check_prefix(sure(broker.prefix), ("broker", "prefix")),
            _check_group(broker),
        )
    problems += as_far_as_known(
        _check_events(store),
        _check_influx(influx),
        _check_scoring(scoring),
        check_retrain(retrain, files=runs),
    )
    if problems:
        raise ConfigError(report(path, problems, lines, {}))
    placed = msgspec.structs.replace(
        store, events=_placed_events(store.events, base), features=_placed(store.features, base)
    )
    influx = msgspec.structs.replace(influx, queue=str(base / influx.queue))
    retrain = msgspec.structs.replace(retrain, folder=str(base / retrain.folder))
    return Config(
        path=path,
        sink=sink,
        broker=broker,
        store=placed,
        limits=limits,
        influx=influx,
        rollout=rollout,
        scoring=scoring,
        retrain=retrain,
    )


def _check_name(sink: Sink) -> Iterator[Problem]:
    try:
        check_level(sure(sink.name), "name")
    except ValueError as error:
        yield Problem(("sink", "name"), str(error), sink.name, True)


def _check_group(broker: SinkBroker) -> Iterator[Problem]:
    try:
        check_level(sure(broker.group), "group")
    except ValueError as error:
        yield Problem(("broker", "group"), str(error), broker.group, True)
    if given(broker.client_id):
        yield Problem(
            ("broker", "client_id"),
            "the client id of a sink follows from its name: leave this out",
            broker.client_id,
            True,
        )


def _check_events(store: Store) -> Iterator[Problem]:
    at = ("store", "events")
    try:
        url = make_url(sure(store.events))
    except ArgumentError:
        text = "expected a URL such as sqlite:///events.sqlite or postgresql+psycopg://user@host/database"
        yield Problem(at, text, store.events, True)
        return
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        yield Problem(at, "expected sqlite or postgresql", store.events, True)
    if url.password is not None:
        text = "a password does not belong in this file: libpq reads it from PGPASSFILE or PGPASSWORD"
        yield Problem(at, text)


def _check_influx(influx: Influx) -> Iterator[Problem]:
    url = sure(influx.url)
    if url is not None and not url.startswith(("http://", "https://")):
        yield Problem(("influx", "url"), "expected a URL such as http://influx.example:8086", url, True)
    if given(influx.token_file) and given(influx.token_env):
        yield Problem(("influx", "token_env"), "give either this or token_file", influx.token_env, True)
    try:
        read_secret(sure(influx.token_file), sure(influx.token_env))
    except ValueError as error:
        key, value = (
            ("token_file", str(influx.token_file))
            if given(influx.token_file)
            else ("token_env", influx.token_env)
        )
        yield Problem(("influx", key), str(error), value, True)


def _check_scoring(scoring: Scoring) -> Iterator[Problem]:
    for name, folder in sure(scoring.models).items():
        if not (folder / "manifest.json").is_file():
            at = ("scoring", "models", name)
            yield Problem(
                at, f"there is no model here ({folder / 'manifest.json'} does not exist)", str(folder), True
            )


def _placed_events(url: str, base: Path) -> str:
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        return str(parsed.set(drivername="postgresql+psycopg"))
    return f"sqlite:///{base / (parsed.database or 'events.sqlite')}"


def _placed(folder: str, base: Path) -> str:
    return folder if "://" in folder else str(base / folder)
