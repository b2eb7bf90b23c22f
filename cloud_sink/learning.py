"""``cloud-sink learn``: a model from what gateways have summed up, in place of the one that they run."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from cloud_sink import signing
from cloud_sink.running import add_config
from models.cli_values import UsageError, positive
from models.messages import rfc3339

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from cloud_sink.config import Config
    from cloud_sink.learning_jobs import Job, Learned
    from cloud_sink.train import FitError
    from models.manifest import ModelManifest

REFUSED = 1


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
        required=True,
        action="append",
        metavar="DIR",
        help="the bundle in service; several times with --out-dir: as many models at once",
    )
    to = learn.add_mutually_exclusive_group(required=True)
    to.add_argument("-o", dest="out", type=Path, metavar="DIR", help="the bundle to write")
    to.add_argument(
        "--out-dir",
        type=Path,
        metavar="DIR",
        help="where to write the bundles, each in a folder named after its model",
    )
    learn.add_argument(
        "--class", dest="class_", metavar="NAME", help="of which machines; default: the model's"
    )
    learn.add_argument(
        "--family", choices=("mahalanobis", "linear-ae", "ae"), help="default: that of the bundle in service"
    )
    learn.add_argument(
        "--days", type=positive, default=30.0, metavar="N", help="of the last N days; default: 30"
    )
    learn.add_argument("--seed", type=int, default=0, metavar="N")
    learn.add_argument("--edgetpu", action="store_true", help="also a model for a Coral Edge TPU")
    learn.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a Dask scheduler (tcp://host:port), whose workers read and learn; default: threads of this process",
    )
    signing.add_key(learn, required=False)
    learn.set_defaults(act=_learn)


def _learn(given: argparse.Namespace) -> int:
    from cloud_sink.bundle import read_manifest
    from cloud_sink.computing import ClusterError
    from cloud_sink.config import load_config
    from cloud_sink.events import EventsUnavailable
    from cloud_sink.features_store import StoreError
    from cloud_sink.train import FitError
    from models.keys import read_private_key

    if given.out is not None and len(given.like) > 1:
        raise UsageError("several models are written with --out-dir, not -o")
    if given.class_ is not None and len(given.like) > 1:
        raise UsageError("--class is of one model: learn them one by one, or without it")
    config = load_config(given.config)
    templates = [read_manifest(path) for path in given.like]
    names = Counter(template.model_id for template in templates)
    if twice := [name for name, n in names.items() if n > 1]:
        raise UsageError(f"--like names model {twice[0]} twice")
    key = None if given.key is None else read_private_key(given.key)
    outs = [given.out or given.out_dir / template.model_id for template in templates]
    try:
        jobs = _jobs(given, config, templates, outs)
        found = _carried_out(jobs, given.scheduler)
    except (StoreError, EventsUnavailable, ClusterError) as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    code = 0
    for job, out, one in zip(jobs, outs, found, strict=True):
        if isinstance(one, FitError):
            print(f"cloud-sink: {job.template.model_id}: {one}", file=sys.stderr)
            code = REFUSED
        else:
            _write(job, out, one, key)
    return code


def _jobs(
    given: argparse.Namespace, config: Config, templates: Sequence[ModelManifest], outs: Sequence[Path]
) -> list[Job]:
    from cloud_sink.bundle import next_version
    from cloud_sink.events import EventStore
    from cloud_sink.fleet_reading import Span
    from cloud_sink.labelled import labelled
    from cloud_sink.learning_jobs import Job

    now_ns = time.time_ns()
    events = EventStore(config.store.events)
    jobs = []
    try:
        events.create()
        for template, out in zip(templates, outs, strict=True):
            class_ = template.class_ if given.class_ is None else given.class_
            jobs.append(
                Job(
                    template,
                    Span(config.store.features, class_, template.schema_id, now_ns, given.days),
                    labelled(events, template.model_id, class_, len(template.normalisation.centre)),
                    family=given.family or template.family,
                    version=max(template.version + 1, next_version(out, template.model_id)),
                    created_ns=now_ns,
                    seed=given.seed,
                    edge_tpu=given.edgetpu,
                )
            )
    finally:
        events.close()
    return jobs


def _carried_out(jobs: Sequence[Job], scheduler: str | None) -> list[Learned | FitError]:
    from cloud_sink.computing import Threads, cluster
    from cloud_sink.features_store import FeatureStore
    from cloud_sink.fleet_reading import sees
    from cloud_sink.learning_jobs import learn

    url = jobs[0].span.url
    days = FeatureStore(url, "", create=False).partitions()
    if scheduler is None:
        return learn(jobs, Threads())
    with cluster(scheduler) as workers:
        workers.check(partial(sees, url, days[-1]) if days else _nothing_to_see)
        return learn(jobs, workers)


def _nothing_to_see() -> None:
    return None


def _write(job: Job, out: Path, found: Learned, key: Ed25519PrivateKey | None) -> None:
    from cloud_sink.bundle import write_bundle
    from models import manifest as manifests

    manifest = found.manifest if key is None else manifests.sign(found.manifest, key)
    write_bundle(out, manifest, found.artifacts)
    training, known = manifest.training, job.known
    facts = [
        ("learned from", f"{rfc3339(training.start_ns)[:19]}Z to {rfc3339(training.end_ns)[:19]}Z"),
        *(("", note) for note in training.notes),
        ("labelled alerts", f"{known.n_false} false, normal now; {known.n_true} true, kept to test with"),
        (
            "cross-fit false alarms",
            f"{training.cross_fit_far:.2%} of devices' rows at p <= {training.far_level:g}",
        ),
        *(("metric", f"{name} {value:g}") for name, value in manifest.metrics.items()),
    ]
    print(tabulate(facts, tablefmt="plain", disable_numparse=True))
    signed = "" if manifest.key_id is None else f"; signed with key {manifest.key_id}"
    print(
        f"wrote {out} ({manifest.model_id} version {manifest.version}: {', '.join(found.artifacts)}{signed})"
    )
