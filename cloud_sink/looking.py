"""``cloud-sink drift``: what has drifted, and what speaks for training a model again; ``cloud-sink retrainings``: what came of
it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from tabulate import tabulate

from cloud_sink.running import add_config
from models.cli_values import positive
from models.messages import rfc3339

REFUSED = 1
DAYS = 30.0


def add(commands: Any) -> None:
    """Adds the commands to the subparsers ``commands``."""
    drift = commands.add_parser(
        "drift",
        help="what has drifted",
        description="Looks through the summaries of the last days: which devices have moved away from what they were when they "
        "took their version of the model on. Of the models of [[retrain.model]], or of --like.",
    )
    add_config(drift)
    drift.add_argument("--like", type=Path, metavar="DIR", help="of this bundle's model alone")
    drift.add_argument(
        "--class", dest="class_", metavar="NAME", help="of which machines, with --like; default: the model's"
    )
    drift.add_argument(
        "--days", type=positive, metavar="N", help="of the last N days; default: as configured, else 30"
    )
    drift.add_argument("--json", action="store_true", help="for programs")
    drift.set_defaults(act=_drift)
    listed = commands.add_parser(
        "retrainings",
        help="when models were trained again, why, and what came of it",
        description="The newest first.",
    )
    add_config(listed)
    listed.set_defaults(act=_retrainings)


def _drift(given: argparse.Namespace) -> int:
    from cloud_sink.config import load_config
    from cloud_sink.events import EventsUnavailable
    from cloud_sink.features_store import StoreError
    from cloud_sink.looks import looks

    config = load_config(given.config)
    models: list[tuple[Path, str | None, float]] = [
        (m.like, m.class_, given.days or m.days) for m in config.retrain.model
    ]
    if given.like is not None:
        models = [(given.like, given.class_, given.days or DAYS)]
    if not models:
        print(f"cloud-sink: {given.config} has no [[retrain.model]]: say --like a bundle", file=sys.stderr)
        return REFUSED
    try:
        found = looks(config, models, time.time_ns())
    except (EventsUnavailable, StoreError) as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    if given.json:
        print(msgspec.json.encode(found).decode())
        return 0
    for one in found:
        drift = one.drift
        print(
            f"{one.model_id} version {one.version}: {drift.n_devices} devices, {drift.n_judged} known for long enough; "
            f"{one.n_windows} new windows since {rfc3339(one.since_ns)[:19]}Z"
        )
        rows = [
            (f"{f.site}/{f.gateway}", f.device, f.version, f.what, f"{rfc3339(f.since_ns)[:19]}Z", f.text)
            for f in drift.findings
        ]
        print(
            tabulate(rows, headers=("gateway", "device", "version", "by", "since", ""))
            if rows
            else "nothing has drifted"
        )
        if drift.fleet is not None:
            print(f"the fleet: {drift.fleet}")
    return 0


def _retrainings(given: argparse.Namespace) -> int:
    from cloud_sink import retraining_store
    from cloud_sink.config import load_config
    from cloud_sink.events import EventsUnavailable, opened

    config = load_config(given.config)
    try:
        with opened(config.store.events) as store:
            found = retraining_store.retrainings(store)
            states = retraining_store.rollout_states(store)
    except EventsUnavailable as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    table = [
        (
            r.model_id,
            r.number,
            f"{rfc3339(r.began_ns)[:19]}Z",
            f"{r.cause}: {r.reason}",
            r.version,
            retraining_store.fate(r, states).replace("_", " "),
            r.text,
        )
        for r in found
    ]
    headers = ("model", "attempt", "begun", "why", "version", "state", "")
    print(tabulate(table, headers=headers) if table else "nothing was trained again yet")
    return 0
