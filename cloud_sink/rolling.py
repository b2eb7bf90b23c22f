"""``cloud-sink rollout``, ``rollouts``, ``promote``, ``rollback`` and ``pause``: a model to canaries, then to all, or back.

A running sink of the group judges what was begun here (``leading``); a person may decide at any time.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from cloud_sink.naming import canaries_of, require_heard
from cloud_sink.running import add_config
from models.cli_values import count, positive
from models.messages import rfc3339

if TYPE_CHECKING:
    from cloud_sink.events import EventStore
    from models.manifest import ModelManifest

REFUSED = 1
UNJUDGED = "rolled out unjudged: "


def add(commands: Any) -> None:
    """Adds the commands to the subparsers ``commands``."""
    begin = commands.add_parser(
        "rollout",
        help="try a model on a few gateways, then give it to all",
        description="Publishes a signed bundle that `cloud-sink evaluate` has accepted to canaries. A running sink then watches "
        "what they report: once each has had it in service for so long and has scored so many windows, with alerts within the "
        "budget, it is published to all; where one refuses it, goes back, alerts too often, is silent or does not get that far, "
        "it is taken back.",
    )
    add_config(begin)
    begin.add_argument("bundle", type=Path, metavar="DIR", help="signed")
    begin.add_argument("--canary", action="append", required=True, metavar="SITE/GATEWAY", help="repeatable")
    begin.add_argument(
        "--hours", type=positive, default=24.0, metavar="N", help="in service on each canary; default: 24"
    )
    begin.add_argument(
        "--windows", type=count(1), default=1000, metavar="N", help="on each canary; default: 1000"
    )
    begin.add_argument(
        "--alerts-per-week",
        type=positive,
        default=1.0,
        metavar="N",
        help="that a device is allowed; default: 1",
    )
    begin.add_argument(
        "--unjudged",
        action="store_true",
        help="although `cloud-sink evaluate` has not accepted it; that is kept as a reason",
    )
    begin.set_defaults(act=_begin)
    listed = commands.add_parser(
        "rollouts", help="what is being rolled out, and what was", description="The newest first."
    )
    add_config(listed)
    listed.set_defaults(act=_list)
    for name, text in (
        ("promote", "give a canary's version to all gateways, now"),
        ("rollback", "take a canary's version back, now"),
        ("pause", "leave a canary where it is, and judge nothing; promote or rollback ends that"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        add_config(command)
        command.add_argument("model", metavar="MODEL")
        command.add_argument("version", type=count(1), metavar="VERSION")
        command.set_defaults(act=_decide, decision=name)


def _begin(given: argparse.Namespace) -> int:
    from cloud_sink import rollout_store
    from cloud_sink.bundle import BundleError, read_bundle
    from cloud_sink.config import load_config
    from cloud_sink.events import EventsUnavailable, opened
    from cloud_sink.publishing import NotPublished, send
    from cloud_sink.rollout import Plan
    from models.publication import publication
    from models.topics import ModelTopics

    config = load_config(given.config)
    manifest, artifacts = read_bundle(given.bundle)
    canaries = canaries_of(given.canary, config)
    plan = Plan(
        manifest.model_id,
        manifest.version,
        canaries,
        time.time_ns(),
        given.hours,
        given.windows,
        given.alerts_per_week,
    )
    try:
        topics = ModelTopics(config.broker.prefix, manifest.model_id)
        messages = [
            m for gateway in canaries for m in publication(manifest, artifacts, topics, gateway=gateway)
        ]
    except ValueError as error:
        raise BundleError(f"{given.bundle}: {error}: cloud-sink sign") from error
    try:
        with opened(config.store.events) as store:
            require_heard(canaries, store)
            rollout_store.require_new(store, manifest.model_id, manifest.version)
            unjudged = _unjudged(store, manifest)
            if unjudged is not None and not given.unjudged:
                raise rollout_store.NotBegun(unjudged)
            if unjudged is not None:
                print(f"cloud-sink: WARNING: {UNJUDGED}{unjudged}", file=sys.stderr)
            rollout_store.begin(store, plan, manifest, artifacts, unjudged)
            try:
                send(
                    config.broker,
                    dict.fromkeys(messages),
                    client_id=f"linewatch-publish-{config.sink.name}",
                    manifests=[topics.canary(gateway) for gateway in canaries],
                )
            except (NotPublished, KeyboardInterrupt) as error:
                # A sink would wait for what cannot come; what canaries have been given of it is taken back.
                rollout_store.change(
                    store,
                    plan.model_id,
                    plan.version,
                    (rollout_store.CANARY,),
                    rollout_store.ROLLING_BACK,
                    [str(error) or "interrupted while it was published"],
                    time.time_ns(),
                )
                if isinstance(error, KeyboardInterrupt):
                    raise NotPublished("interrupted: what was published of it is taken back") from None
                raise
    except (EventsUnavailable, NotPublished, rollout_store.NotBegun) as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    print(
        f"{plan.model_id} version {plan.version} is offered to {', '.join(canaries)}: for {plan.hours:g} hours and "
        f"{plan.windows} windows on each, before all gateways get it (cloud-sink rollouts)"
    )
    return 0


def _unjudged(store: EventStore, manifest: ModelManifest) -> str | None:
    """Why the gate does not vouch for ``manifest``; None where it does. Raises EventsUnavailable."""
    from cloud_sink.evaluations import newest_of

    found = newest_of(store, manifest)
    name = f"version {manifest.version} of {manifest.model_id}"
    if found is None:
        return f"{name}, as it is signed, has not been judged: cloud-sink evaluate"
    if found.decision.verdict == "refuse":
        return f"{name} was refused at {rfc3339(found.at_ns)[:19]}Z: {'; '.join(found.decision.reasons)}"
    return None


def _list(given: argparse.Namespace) -> int:
    from cloud_sink import rollout_store
    from cloud_sink.config import load_config
    from cloud_sink.events import EventsUnavailable, opened

    config = load_config(given.config)
    try:
        with opened(config.store.events) as store:
            found = rollout_store.rollouts(store)
    except EventsUnavailable as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    table = [
        (
            r.plan.model_id,
            r.plan.version,
            r.state.replace("_", " "),
            ", ".join(r.plan.canaries),
            f"{rfc3339(r.plan.began_ns)[:19]}Z",
            "; ".join(([] if r.unjudged is None else [UNJUDGED + r.unjudged]) + list(r.reasons)),
        )
        for r in found
    ]
    print(
        tabulate(table, headers=("model", "version", "state", "canaries", "begun", "reasons"))
        if table
        else "nothing was rolled out yet"
    )
    return 0


def _decide(given: argparse.Namespace) -> int:
    from cloud_sink import rollout_store as rollouts
    from cloud_sink.config import load_config
    from cloud_sink.events import EventsUnavailable, opened

    after = {"promote": rollouts.PROMOTING, "rollback": rollouts.ROLLING_BACK, "pause": rollouts.PAUSED}[
        given.decision
    ]
    before = (rollouts.CANARY,) if given.decision == "pause" else (rollouts.CANARY, rollouts.PAUSED)
    config = load_config(given.config)
    try:
        with opened(config.store.events) as store:
            done = rollouts.change(
                store, given.model, given.version, before, after, ["a person decided so"], time.time_ns()
            )
    except EventsUnavailable as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    if not done:
        print(
            f"cloud-sink: version {given.version} of {given.model} is not on canaries now: cloud-sink rollouts",
            file=sys.stderr,
        )
        return REFUSED
    what = {"promote": "goes to all gateways", "rollback": "is taken back", "pause": "stays where it is"}[
        given.decision
    ]
    soon = "" if given.decision == "pause" else ", as soon as a running sink has seen this"
    print(f"{given.model} version {given.version} {what}{soon}")
    return 0
