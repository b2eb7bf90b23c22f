"""``cloud-sink learn``: a model from what gateways have summed up, in place of the one that they run."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sklearn.metrics import roc_auc_score
from tabulate import tabulate

from cloud_sink import signing
from cloud_sink.running import add_config
from models.cli_values import count, positive
from models.messages import rfc3339
from models.signal import NS_PER_S

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
    learn.add_argument("--like", type=Path, required=True, metavar="DIR", help="the bundle in service")
    learn.add_argument("-o", dest="out", type=Path, required=True, metavar="DIR", help="the bundle to write")
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
    signing.add_key(learn, required=False)
    learn.set_defaults(act=_learn)


def _learn(given: argparse.Namespace) -> int:
    from cloud_sink.bundle import next_version, read_manifest, write_bundle
    from cloud_sink.config import load_config
    from cloud_sink.events import EventStore, EventsUnavailable
    from cloud_sink.features_store import FeatureStore, StoreError
    from cloud_sink.fleet import gathered, widened
    from cloud_sink.fleet_fit import FleetOptions, fit_fleet
    from cloud_sink.labelled import labelled
    from cloud_sink.train import FitError
    from models import manifest as manifests
    from models.keys import read_private_key

    config = load_config(given.config)
    template = read_manifest(given.like)
    key = None if given.key is None else read_private_key(given.key)
    class_ = template.class_ if given.class_ is None else given.class_
    now_ns = time.time_ns()
    events = EventStore(config.store.events)
    try:
        features = FeatureStore(config.store.features, config.sink.name)
        table = features.read(class_, template.schema_id, from_ns=now_ns - round(given.days * _DAY_NS))
        if table is None:
            there = {(p.class_, p.schema_id) for p in features.partitions()}
            raise FitError(
                f"there are no summaries of class {class_!r} and schema {template.schema_id} of the last {given.days:g} days; "
                f"there are of {', '.join(f'{c!r} {s}' for c, s in sorted(there)) or 'nothing'}"
            )
        events.create()
        known = labelled(events, template.model_id, class_, table.k)
        try:
            fleet = widened(gathered(table), known.rows("false_alarm"))
        except ValueError as error:  # of none was any window healthy
            raise FitError(f"{error} of class {class_!r} of the last {given.days:g} days") from error
        version = max(template.version + 1, next_version(given.out, template.model_id), given.min_version)
        options = FleetOptions(
            family=given.family or template.family,
            version=version,
            created_ns=now_ns,
            start_ns=int(table.start_ns.min()),
            end_ns=int(table.end_ns.max()),
            seed=given.seed,
            edge_tpu=given.edgetpu,
        )
        trained = fit_fleet(template, fleet, options)
    except (StoreError, EventsUnavailable, FitError) as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    finally:
        events.close()
    manifest = trained.manifest
    if known.n("true_alarm"):
        auc = _auc(trained, fleet.rows, known.rows("true_alarm"))
        manifest = msgspec.structs.replace(
            manifest, metrics={**manifest.metrics, "auc_true_alarms": round(auc, 6)}
        )
    if key is not None:
        manifest = manifests.sign(manifest, key)
    write_bundle(given.out, manifest, trained.artifacts)
    training = manifest.training
    facts = [
        ("learned from", f"{rfc3339(training.start_ns)[:19]}Z to {rfc3339(training.end_ns)[:19]}Z"),
        *(("", note) for note in training.notes),
        (
            "labelled alerts",
            f"{known.n('false_alarm')} false, normal now; {known.n('true_alarm')} true, kept to test with",
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
        f"wrote {given.out} ({manifest.model_id} version {version}: {', '.join(trained.artifacts)}{signed})"
    )
    return 0


def _auc(trained: Any, healthy: np.ndarray[Any, Any], odd: np.ndarray[Any, Any]) -> float:
    """ROC AUC of what operators called true alarms against the fleet's healthy rows, as the float graph scores both."""
    from models.runtime import Graph
    from models.scoring import normalise, residuals, scores

    manifest = trained.manifest
    artifact = manifest.artifact("cpu-float32")
    rows = np.concatenate([healthy, odd])
    inputs = normalise(rows, np.array(manifest.normalisation.centre), np.array(manifest.normalisation.scale))
    output = Graph(trained.artifacts["cpu-float32"]).run(inputs)
    found = scores(residuals(inputs, output, manifest.output_kind, np.array(artifact.residual_scale)))
    return float(roc_auc_score(np.arange(len(rows)) >= len(healthy), found))
