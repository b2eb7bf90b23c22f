"""``cloud-sink evaluate``: gateways replay their black boxes with a candidate, and the gate decides on what they answer."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from cloud_sink.gate import Answer, Decision, Figures, HeldOut, Int8, Limits, judge
from cloud_sink.naming import full_names
from cloud_sink.running import add_config
from models.cli_values import UsageError, count, positive
from models.messages import rfc3339
from models.signal import NS_PER_S

if TYPE_CHECKING:
    from cloud_sink.config import Config
    from cloud_sink.events import EventStore
    from models.manifest import ModelManifest
    from models.signal import ArtifactTarget

REFUSED = 1
MAX_HOURS = 8784.0
_DAY_NS = 86_400 * NS_PER_S


def add(commands: Any) -> None:
    """Adds ``evaluate`` to the subparsers ``commands``."""
    evaluate = commands.add_parser(
        "evaluate",
        help="whether a model may be rolled out",
        description="Asks the gateways that run a model to replay what they have recorded with a newer version of it (raw signal "
        "stays there), measures what can be measured here, and decides. Every decision is kept; `cloud-sink rollout` wants one "
        "that accepts. Exit code 0: accepted, 1: refused.",
    )
    add_config(evaluate)
    evaluate.add_argument("bundle", type=Path, nargs="?", metavar="DIR", help="signed; not with --show")
    evaluate.add_argument(
        "--show",
        nargs="?",
        const="",
        metavar="MODEL",
        help="decisions so far, with their figures; of all, or of a model",
    )
    evaluate.add_argument(
        "--gateway", action="append", default=[], metavar="SITE/GATEWAY", help="ask only this one; repeatable"
    )
    evaluate.add_argument(
        "--hours", type=positive, default=24.0, metavar="N", help="of signal and features; default: 24"
    )
    evaluate.add_argument(
        "--wait", type=positive, default=900.0, metavar="S", help="for answers, at most; default: 900"
    )
    evaluate.add_argument(
        "--days", type=positive, default=30.0, metavar="N", help="of summaries; default: 30"
    )
    least = Limits()
    evaluate.add_argument(
        "--min-gateways",
        type=count(1),
        default=least.min_gateways,
        metavar="N",
        help=f"that must answer; default: {least.min_gateways}",
    )
    evaluate.add_argument(
        "--min-windows",
        type=count(1),
        default=least.min_windows,
        metavar="N",
        help=f"that each must have replayed; default: {least.min_windows}",
    )
    evaluate.add_argument(
        "--alerts-per-week",
        type=positive,
        default=least.alerts_per_week,
        metavar="N",
        help=f"that a device is allowed; default: {least.alerts_per_week:g}",
    )
    evaluate.add_argument("--seed", type=int, default=0, metavar="N")
    evaluate.set_defaults(act=_evaluate)


def _evaluate(given: argparse.Namespace) -> int:
    from cloud_sink import evaluations
    from cloud_sink.bundle import read_bundle
    from cloud_sink.config import load_config
    from cloud_sink.events import EventsUnavailable, opened
    from cloud_sink.features_store import StoreError
    from cloud_sink.publishing import NotPublished

    if (given.show is None) == (given.bundle is None):
        raise UsageError("evaluate: name the bundle to judge, or say --show")
    if given.hours > MAX_HOURS:
        raise UsageError(f"evaluate: --hours {given.hours:g}: at most {MAX_HOURS:g}")
    config = load_config(given.config)
    try:
        with opened(config.store.events) as store:
            if given.show is not None:
                return _show(store, given.show or None)
            manifest, artifacts = read_bundle(given.bundle)
            limits = Limits(
                min_gateways=given.min_gateways,
                min_windows=given.min_windows,
                alerts_per_week=given.alerts_per_week,
            )
            answers, unbelieved = _asked(given, config, store, manifest, artifacts)
            found, int8, runtime = _measured(given, config, store, manifest, artifacts)
            figures = Figures(
                answers=tuple(answers),
                held_out=found,
                int8=int8,
                has_int8="cpu-int8" in artifacts,
                unbelieved=dict(unbelieved),
                runtime=runtime,
            )
            decision = judge(figures, limits)
            evaluations.keep(store, manifest, decision, time.time_ns())
    except (EventsUnavailable, NotPublished, StoreError) as error:
        print(f"cloud-sink: {error}; nothing was decided", file=sys.stderr)
        return REFUSED
    print(text_of(manifest.model_id, manifest.version, decision))
    return 0 if decision.verdict == "accept" else REFUSED


def _asked(
    given: argparse.Namespace,
    config: Config,
    store: EventStore,
    manifest: ModelManifest,
    artifacts: Mapping[ArtifactTarget, bytes],
) -> tuple[Sequence[Answer], Mapping[str, int]]:
    from cloud_sink.asking import ask
    from cloud_sink.bundle import BundleError
    from cloud_sink.publishing import NotPublished, send
    from models import manifest as manifests
    from models.publication import candidacy
    from models.requests import BacktestRequest
    from models.topics import ModelTopics

    running = {"/".join(names): names for names in _running(store, manifest.model_id)}
    wanted = full_names("--gateway", given.gateway, running)
    unknown = set(wanted) - set(running)
    if unknown:
        raise UsageError(
            f"--gateway {', '.join(sorted(unknown))}: is not known to run {manifest.model_id} (cloud-sink gateways)"
        )
    gateways = [names for full, names in running.items() if not wanted or full in wanted]
    try:
        topics = ModelTopics(config.broker.prefix, manifest.model_id)
        messages = dict(candidacy(manifest, artifacts, topics))
    except ValueError as error:
        raise BundleError(f"{given.bundle}: {error}: cloud-sink sign") from error
    if not gateways:
        return (), {}
    payload = manifests.encode(manifest)
    sha256 = hashlib.sha256(payload).hexdigest()
    at_ns = time.time_ns()
    client_id = (
        f"linewatch-evaluate-{config.sink.name}-{at_ns:x}"  # two at once do not take each other's place
    )
    asked = {
        names: BacktestRequest(
            transaction=f"evaluate-{at_ns:x}-{i}",
            model_id=manifest.model_id,
            sha256=sha256,
            n_bytes=len(payload),
            hours=given.hours,
            by=config.sink.name[:64],
        )
        for i, names in enumerate(gateways)
    }
    send(config.broker, messages.items(), client_id=client_id)
    try:
        return ask(
            config.broker,
            config.broker.prefix,
            asked,
            manifest.version,
            wait_s=given.wait,
            client_id=client_id,
            progress=_progress(len(asked)),
        )
    finally:  # its graphs stay: what is in service may name them, too
        try:
            send(config.broker, [(topics.blob(sha256), b"")], client_id=client_id)
        except NotPublished as error:
            print(f"cloud-sink: its manifest stays on {topics.blob(sha256)}: {error}", file=sys.stderr)


def _progress(n_all: int) -> Callable[[int], None]:
    said = -1

    def tell(n: int) -> None:
        nonlocal said
        if n != said:
            said = n
            print(f"cloud-sink: {n} of {n_all} gateways have answered", file=sys.stderr)

    return tell


def _running(store: EventStore, model_id: str) -> list[tuple[str, str]]:
    """The gateways with devices that run the model, as far as is known."""
    from sqlalchemy import select, union

    from cloud_sink import tables

    d, m = tables.devices.c, tables.model_states.c
    wanted = union(
        select(d.site, d.gateway).where(d.model_id == model_id),
        select(m.site, m.gateway).where(m.model_id == model_id),
    )
    with store.read() as connection:
        return sorted((row[0], row[1]) for row in connection.execute(wanted))


def _classes(store: EventStore, model_id: str) -> list[str]:
    """The classes of the devices that run the model, as far as is known."""
    from sqlalchemy import select

    from cloud_sink import tables

    d = tables.devices.c
    with store.read() as connection:
        found = connection.execute(select(d["class"]).where(d.model_id == model_id).distinct())
        return sorted(row[0] for row in found)


def _measured(
    given: argparse.Namespace,
    config: Config,
    store: EventStore,
    manifest: ModelManifest,
    artifacts: Mapping[ArtifactTarget, bytes],
) -> tuple[tuple[HeldOut, ...], Int8 | None, str]:
    from cloud_sink.features_store import FeatureStore
    from cloud_sink.fleet import gathered
    from cloud_sink.held_out import held_out, int8_loss
    from cloud_sink.labelled import labelled
    from models.runtime import runtime_name

    features = FeatureStore(config.store.features, config.sink.name)
    from_ns = time.time_ns() - round(given.days * _DAY_NS)
    # The class is the machines', which a model need not name.
    tables = (
        features.read(class_, manifest.schema_id, from_ns=from_ns)
        for class_ in _classes(store, manifest.model_id) or [manifest.class_]
    )
    table = max((t for t in tables if t is not None), key=len, default=None)
    if table is None or not (table.n > 0).any():
        return (), None, runtime_name()
    fleet = gathered(table)
    odd = labelled(store, manifest.model_id, table.class_, table.k).by_device("true_alarm")
    return (
        held_out(manifest, fleet, odd, seed=given.seed),
        int8_loss(manifest, artifacts, fleet, odd, seed=given.seed),
        runtime_name(),
    )


def text_of(model_id: str, version: int, decision: Decision) -> str:
    """A decision with its figures, for people."""
    rows = []
    for answer in decision.figures.answers:
        b = answer.backtest
        if b is None:
            rows.append((answer.gateway, "", "", "", "", "", "", answer.why_not))
            continue
        quantiles = " / ".join(
            f"{side.p_quantiles.get('q0.01', 1.0):.2g}" for side in (b.served, b.candidate)
        )
        rows.append(
            (
                answer.gateway,
                str(b.candidate.n_windows),
                str(b.n_from_features),
                f"{b.served.n_alerts} -> {b.candidate.n_alerts}",
                f"+{b.n_gained} -{b.n_lost}",
                quantiles,
                f"{b.served.invoke_us:.0f} / {b.candidate.invoke_us:.0f}",
                "; ".join(b.notes),
            )
        )
    headers = ("gateway", "windows", "of features", "alerts", "changed", "p at 1 %", "us a window", "notes")
    parts = [tabulate(rows, headers=headers, disable_numparse=True)] if rows else ["no gateway was asked"]
    facts = [
        f"leaving one device out, by {h.anomalies}: AUC {h.mean:.4f} in the mean of {h.n_devices} devices, worst {h.worst:.4f}"
        for h in decision.figures.held_out
    ]
    if (i := decision.figures.int8) is not None:
        facts.append(
            f"int8 against float in {decision.figures.runtime}: {i.mean_loss:z.4f} AUC lost in the mean of {i.n_devices} "
            f"devices, {i.worst_loss:z.4f} at worst ({i.worst_device}); {i.mean_share:.2%} of the float model's remain"
        )
    facts += [f"answers not believed: {n} {reason}" for reason, n in decision.figures.unbelieved.items()]
    verdict = "accepted" if decision.verdict == "accept" else "REFUSED"
    parts += [
        "",
        *facts,
        f"{model_id} version {version} is {verdict}:",
        *(f"- {r}" for r in decision.reasons),
    ]
    return "\n".join(parts)


def _show(store: EventStore, model_id: str | None) -> int:
    from cloud_sink.evaluations import evaluations

    found = evaluations(store, model_id)
    for one in found:
        print(f"== {rfc3339(one.at_ns)[:19]}Z, manifest {one.digest[:12]}")
        print(text_of(one.model_id, one.version, one.decision))
    if not found:
        print(
            f"nothing of {'any model' if model_id is None else model_id} was evaluated yet, says {store.where}"
        )
    return 0
