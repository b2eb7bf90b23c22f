"""``cloud-sink learn``: a model from what gateways have summed up, in place of the one that they run."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tabulate import tabulate

from cloud_sink import signing
from cloud_sink.running import add_config
from models.cli_values import UsageError, count, positive
from models.messages import rfc3339
from models.signal import NS_PER_S

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from cloud_sink.events import EventStore
    from cloud_sink.features_store import FeatureStore
    from cloud_sink.labelled import Names
    from cloud_sink.learning_jobs import Job, Learned
    from cloud_sink.train import FitError
    from models.manifest import ModelManifest

REFUSED = 1
_DAY_NS = 86_400 * NS_PER_S


def add(commands: Any) -> None:
    """Adds ``learn`` to the subparsers ``commands``."""
    learn = commands.add_parser(
        "learn",
        help="make a model from the summaries of many devices",
        description="Makes a newer version of a model from the summaries that its gateways have sent: the same features, so that "
        "they adopt it between two windows. Alerts that operators called false are normal to it.",
    )
    add_config(learn)
    learn.add_argument(
        "--like",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="the bundle in service; repeatable",
    )
    to = learn.add_mutually_exclusive_group(required=True)
    to.add_argument("-o", dest="out", type=Path, metavar="DIR", help="the bundle to write")
    to.add_argument("--out-dir", type=Path, metavar="DIR", help="where to write each, under its model's name")
    learn.add_argument(
        "--class", dest="class_", metavar="NAME", help="of which machines; default: the model's"
    )
    learn.add_argument(
        "--family", choices=("mahalanobis", "linear-ae", "ae"), help="default: that of the bundle in service"
    )
    learn.add_argument(
        "--days", type=positive, default=30.0, metavar="N", help="of the last N days; default: 30"
    )
    learn.add_argument(
        "--min-version", type=count(1), default=1, metavar="N", help="the model gets a number of N or above"
    )
    learn.add_argument("--seed", type=int, default=0, metavar="N")
    learn.add_argument("--edgetpu", action="store_true", help="also a model for a Coral Edge TPU")
    learn.add_argument(
        "--for",
        dest="for_",
        type=_device,
        metavar="SITE/GATEWAY/DEVICE",
        help="for this device alone, which has little history: its own centre, and how features spread and hang together from "
        "the other devices as far as it has not seen enough itself",
    )
    learn.add_argument(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="of a Dask cluster, whose workers read the summaries and learn; default: threads of this process",
    )
    signing.add_key(learn, required=False)
    learn.set_defaults(act=_learn)


def _device(text: str) -> Names:
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not SITE/GATEWAY/DEVICE (cloud-sink gateways)")
    return f"{parts[0]}/{parts[1]}", parts[2]


def _learn(given: argparse.Namespace) -> int:
    from cloud_sink.bundle import read_manifest
    from cloud_sink.computing import ClusterError
    from cloud_sink.config import load_config
    from cloud_sink.events import EventsUnavailable, opened
    from cloud_sink.features_store import FeatureStore, StoreError
    from cloud_sink.learning_jobs import Learned
    from cloud_sink.train import FitError
    from models.keys import read_private_key

    templates = [read_manifest(path) for path in given.like]
    outs = _outs(given, [t.model_id for t in templates])
    config = load_config(given.config)
    key = None if given.key is None else read_private_key(given.key)
    found: list[Job | Learned | FitError] = []
    try:
        features = FeatureStore(config.store.features, config.sink.name)
        with opened(config.store.events) as events:
            for template, out in zip(templates, outs, strict=True):
                try:
                    found.append(_job(given, template, out, features, config.store.features, events))
                except FitError as error:
                    found.append(error)
        found = _done(found, given.scheduler)
    except (StoreError, EventsUnavailable, ClusterError) as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    n_failed = 0
    for template, out, one in zip(templates, outs, found, strict=True):
        if isinstance(one, Learned):
            _write(one, out, key)
        else:
            n_failed += 1
            whose = f"{template.model_id}: " if len(outs) > 1 else ""
            print(f"cloud-sink: {whose}{one}", file=sys.stderr)
    return REFUSED if n_failed else 0


def _outs(given: argparse.Namespace, model_ids: list[str]) -> list[Path]:
    """Where each is written. Raises UsageError."""
    twice = [m for m in model_ids if model_ids.count(m) > 1]
    if twice:
        raise UsageError(f"learn: --like names model {twice[0]} twice")
    if given.out is None:
        outs = [given.out_dir / quote(m, safe="") for m in model_ids]
    elif len(model_ids) == 1:
        outs = [given.out]
    else:
        raise UsageError("learn: several --like are written under --out-dir, not -o")
    if len(model_ids) > 1 and (given.class_ is not None or given.for_ is not None):
        raise UsageError("learn: --class is of one --like, and so is --for")
    return outs


def _job(
    given: argparse.Namespace,
    template: ModelManifest,
    out: Path,
    features: FeatureStore,
    url: str,
    events: EventStore,
) -> Job:
    """Raises FitError, StoreError and EventsUnavailable."""
    from cloud_sink.bundle import next_version
    from cloud_sink.labelled import labelled
    from cloud_sink.learning_jobs import Job
    from cloud_sink.retraining_store import highest_version
    from cloud_sink.train import FitError

    class_ = template.class_ if given.class_ is None else given.class_
    now_ns = time.time_ns()
    from_ns = now_ns - round(given.days * _DAY_NS)
    what = f"of class {class_!r} and schema {template.schema_id} of the last {given.days:g} days"
    days = features.within(class_, template.schema_id, from_ns=from_ns)
    if not days:
        there = {(p.class_, p.schema_id) for p in features.partitions()}
        raise FitError(
            f"there are no summaries {what}; there are of {', '.join(f'{c!r} {s}' for c, s in sorted(there)) or 'nothing'}"
        )
    return Job(
        template=template,
        url=url,
        days=tuple(days),
        from_ns=from_ns,
        what=what,
        known=labelled(events, template.model_id, class_, len(template.normalisation.centre)),
        family=given.family or template.family,
        version=max(
            template.version + 1,
            next_version(out, template.model_id),
            highest_version(events, template.model_id) + 1,
            given.min_version,
        ),
        created_ns=now_ns,
        seed=given.seed,
        edge_tpu=given.edgetpu,
        names=given.for_,
        known_devices=frozenset() if given.for_ is None else frozenset(_known_devices(events)),
    )


def _done(found: list[Job | Learned | FitError], scheduler: str | None) -> list[Job | Learned | FitError]:
    """Jobs done, here or on a cluster. Raises StoreError and ClusterError."""
    from cloud_sink.computing import Threads, cluster
    from cloud_sink.learning_jobs import Job, learn, sees

    jobs = [one for one in found if isinstance(one, Job)]
    if not jobs:
        return found
    if scheduler is None:
        done = iter(learn(jobs, Threads()))
    else:
        with cluster(scheduler) as computer:
            computer.check(partial(sees, jobs[0].url, jobs[0].days[0]))
            done = iter(learn(jobs, computer))
    return [next(done) if isinstance(one, Job) else one for one in found]


def _write(learned: Learned, out: Path, key: Ed25519PrivateKey | None) -> None:
    """Signs and writes it, and says what it is. Raises BundleError."""
    from cloud_sink.bundle import write_bundle
    from models import manifest as manifests

    manifest, used = learned.manifest, learned.used
    if key is not None:
        manifest = manifests.sign(manifest, key)
    write_bundle(out, manifest, learned.artifacts, None if key is None else key.public_key())
    training = manifest.training
    facts = [
        ("learned from", f"{rfc3339(training.start_ns)[:19]}Z to {rfc3339(training.end_ns)[:19]}Z"),
        *(("", note) for note in training.notes),
        (
            "labelled alerts",
            f"{used.n('false_alarm')} false, normal now; {used.n('true_alarm')} true, kept to test with"
            + (f"; {learned.n_others} of other devices, left out" if learned.n_others else ""),
        ),
        (
            "cross-fit false alarms",
            f"{training.cross_fit_far:.2%} of devices' rows at p <= {training.far_level:g}",
        ),
        *(("metric", f"{name} {value:g}") for name, value in manifest.metrics.items()),
    ]
    print(tabulate(facts, tablefmt="plain", disable_numparse=True))
    signed = "" if manifest.key_id is None else f"; signed with key {manifest.key_id}"
    print(
        f"wrote {out} ({manifest.model_id} version {manifest.version}: {', '.join(learned.artifacts)}{signed})"
    )


def _known_devices(events: EventStore) -> set[Names]:
    from sqlalchemy import select

    from cloud_sink import tables

    d = tables.devices.c
    with events.read() as connection:
        return {
            (f"{row.site}/{row.gateway}", row.device)
            for row in connection.execute(select(d.site, d.gateway, d.device))
        }
