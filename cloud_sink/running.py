"""``cloud-sink run``, ``check`` and ``gateways``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from tabulate import tabulate

from models.config_text import ConfigError
from models.messages import Status
from models.wording import size

REFUSED = 1
_EGRESS = "egress_bytes."
_BLACK_BOX = "black_box_bytes."


def add(commands: Any) -> None:
    """Adds the commands that need sink.toml to the subparsers ``commands``."""
    run = commands.add_parser(
        "run",
        help="gather what gateways publish",
        description="Stores what gateways publish until it is stopped. Several sinks with names of their own share the load.",
    )
    add_config(run)
    run.add_argument(
        "--takeover",
        action="append",
        default=[],
        metavar="NAME",
        help="also take what the broker keeps for this sink, which is gone for good; repeatable",
    )
    run.set_defaults(act=_run)
    check = commands.add_parser(
        "check", help="check a configuration", description="Says what is wrong with it, by line."
    )
    add_config(check)
    check.set_defaults(act=_check)
    gateways = commands.add_parser(
        "gateways",
        help="who is there",
        description="The gateways that have been heard: state, version, models, open alerts, when last, bytes sent, disk.",
    )
    add_config(gateways)
    gateways.set_defaults(act=_gateways)


def _run(given: argparse.Namespace) -> int:
    from cloud_sink.config import load_config
    from cloud_sink.daemon import Daemon, SinkFailed
    from models.program_log import set_up_logging

    config = load_config(given.config, runs=True)
    if config.sink.name in given.takeover:
        raise ConfigError(
            f"--takeover {config.sink.name}: that is this sink itself, which takes what is kept for it anyway"
        )
    set_up_logging(config.sink.log_level, config.sink.log_format)
    try:
        Daemon(config, takeover=given.takeover).run()
    except SinkFailed as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    return 0


def _check(given: argparse.Namespace) -> int:
    from cloud_sink.config import load_config
    from models.mqtt_access import tls_context

    config = load_config(given.config, runs=True)
    if config.broker.tls is not None:
        try:
            tls_context(config.broker.tls)
        except OSError as error:
            raise ConfigError(f"{given.config}: [broker] {error}") from error
    _check_places(given.config, config.store.events, config.store.features)
    host, port = config.broker.address
    print(f"{given.config}: ok; sink {config.sink.name}, broker {host}:{port}, below {config.broker.prefix}/")
    return 0


def _check_places(path: Path, events: str, features: str) -> None:
    """Raises ConfigError where what is local has no place."""
    from sqlalchemy import make_url

    url = make_url(events)
    if url.get_backend_name() == "sqlite":
        folder = Path(url.database or "").parent
        if not folder.is_dir():
            raise ConfigError(f"{path}: [store] events: there is no folder {folder}: make it")
    if "://" not in features and Path(features).exists() and not Path(features).is_dir():
        raise ConfigError(f"{path}: [store] features: {features} is a file: name a folder")


def _gateways(given: argparse.Namespace) -> int:
    from sqlalchemy import func, select

    from cloud_sink import tables
    from cloud_sink.config import load_config
    from cloud_sink.events import EventsUnavailable, opened

    config = load_config(given.config)
    g, d, a = tables.gateways.c, tables.devices.c, tables.alerts.c
    try:
        with opened(config.store.events) as store, store.read() as connection:
            where = store.where
            rows = connection.execute(select(tables.gateways).order_by(g.site, g.gateway)).mappings().all()
            devices = _by_gateway(
                connection.execute(
                    select(d.site, d.gateway, func.count())
                    .where(tables.watched())
                    .group_by(d.site, d.gateway)
                )
            )
            not_cleared = (
                select(a.site, a.gateway, func.count())
                .where(a.state != "cleared")
                .group_by(a.site, a.gateway)
            )
            alerts = _by_gateway(connection.execute(not_cleared))
    except EventsUnavailable as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    table = []
    for row in rows:
        status = msgspec.json.decode(row["payload"], type=Status)
        key = (row["site"], row["gateway"])
        sent = sum(n for name, n in status.counters.items() if name.startswith(_EGRESS))
        table.append(
            (
                "/".join(key),
                row["state"],
                row["version"],
                ", ".join(f"{m.model_id} v{m.version}" for m in status.models),
                devices.get(key, 0),
                alerts.get(key, 0),
                _ago(time.time_ns() - row["heard_ns"]),
                size(sent),
                *_disk(status),
            )
        )
    headers = (
        "gateway",
        "state",
        "version",
        "models",
        "devices",
        "open alerts",
        "last heard",
        "sent",
        "disk free",
        "black box",
    )
    print(tabulate(table, headers=headers) if table else f"no gateway has been heard yet, says {where}")
    return 0


def _disk(status: Status) -> tuple[str, str]:
    """What is free where a gateway keeps its state, and how its black box is: its size, or why it does not record."""
    free = status.counters.get("disk_free_bytes")
    kept = [n for name, n in status.counters.items() if name.startswith(_BLACK_BOX)]
    holds = size(sum(kept)) if kept else "none"
    return "" if free is None else size(free), status.black_box_error or holds


def _by_gateway(rows: Any) -> dict[tuple[str, str], int]:
    return {(site, gateway): n for site, gateway, n in rows}


def _ago(ns: int) -> str:
    seconds = max(ns, 0) / 1e9
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def add_config(command: argparse.ArgumentParser) -> None:
    """Adds ``-c``."""
    command.add_argument(
        "-c", "--config", type=Path, required=True, metavar="FILE", help="sink.toml (see examples/sink.toml)"
    )
