"""``cloud-sink learn``: a model from what gateways have summed up, in place of the one that they run."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tabulate import tabulate

from cloud_sink import signing
from cloud_sink.running import add_config
from models.cli_values import count, positive
from models.config_validation import nearest
from models.messages import rfc3339
from models.signal import NS_PER_S

if TYPE_CHECKING:
    from cloud_sink.events import EventStore
    from cloud_sink.fit import Trained
    from cloud_sink.fleet_fit import FleetOptions
    from cloud_sink.labelled import Labelled, Names
    from cloud_sink.summaries import SummaryTable
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
    learn.add_argument(
        "--for",
        dest="for_",
        type=_device,
        metavar="SITE/GATEWAY/DEVICE",
        help="for this device alone, which has little history: its own centre, and how features spread and hang together from "
        "the other devices as far as it has not seen enough itself",
    )
    signing.add_key(learn, required=False)
    learn.set_defaults(act=_learn)


def _device(text: str) -> Names:
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not SITE/GATEWAY/DEVICE (cloud-sink gateways)")
    return f"{parts[0]}/{parts[1]}", parts[2]


def _learn(given: argparse.Namespace) -> int:
    from cloud_sink.bundle import next_version, read_manifest, write_bundle
    from cloud_sink.config import load_config
    from cloud_sink.events import EventStore, EventsUnavailable
    from cloud_sink.features_store import FeatureStore, StoreError
    from cloud_sink.fleet_fit import FleetOptions
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
        what = f"of class {class_!r} and schema {template.schema_id} of the last {given.days:g} days"
        if table is None:
            there = {(p.class_, p.schema_id) for p in features.partitions()}
            raise FitError(
                f"there are no summaries {what}; "
                f"there are of {', '.join(f'{c!r} {s}' for c, s in sorted(there)) or 'nothing'}"
            )
        if not (table.n > 0).any():
            raise FitError(
                f"the {len(table)} summaries {what} count no healthy window: cloud-sink gateways says what their devices "
                "report; more time (--days), or another --class"
            )
        events.create()
        known = labelled(events, template.model_id, class_, table.k)
        options = FleetOptions(
            family=given.family or template.family,
            version=max(template.version + 1, next_version(given.out, template.model_id), given.min_version),
            created_ns=now_ns,
            start_ns=int(table.start_ns.min()),
            end_ns=int(table.end_ns.max()),
            seed=given.seed,
            edge_tpu=given.edgetpu,
        )
        learn = _of_fleet if given.for_ is None else partial(_for_device, given.for_, events, what)
        trained, healthy, used = learn(template, table, known, options)
    except (StoreError, EventsUnavailable, FitError) as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    finally:
        events.close()
    manifest = trained.manifest
    if used.n("true_alarm"):
        auc = _auc(trained, healthy, used.rows("true_alarm"))
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
            f"{used.n('false_alarm')} false, normal now; {used.n('true_alarm')} true, kept to test with"
            + (f"; {n} of other devices, left out" if (n := len(known.alerts) - len(used.alerts)) else ""),
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
        f"wrote {given.out} ({manifest.model_id} version {manifest.version}: {', '.join(trained.artifacts)}{signed})"
    )
    return 0


def _of_fleet(
    template: ModelManifest, table: SummaryTable, known: Labelled, options: FleetOptions
) -> tuple[Trained, NDArray[np.float32], Labelled]:
    """The model of all, its healthy rows, and those labels that are of the fleet's devices."""
    from cloud_sink.fleet import gathered, widened
    from cloud_sink.fleet_fit import fit_fleet

    fleet = gathered(table)
    known = known.of(set(fleet.devices))
    fleet = widened(fleet, known.by_device("false_alarm"))
    return fit_fleet(template, fleet, options), fleet.rows, known


def _for_device(
    names: Names,
    events: EventStore,
    what: str,
    template: ModelManifest,
    table: SummaryTable,
    known: Labelled,
    options: FleetOptions,
) -> tuple[Trained, NDArray[np.float32], Labelled]:
    """The same for the device ``names`` alone."""
    from cloud_sink.borrowing import fit_borrowed
    from cloud_sink.train import FitError

    there = table.devices()
    if names not in there:
        elsewhere = _known_devices(events)
        label = "/".join(names)
        if names in elsewhere:
            raise FitError(f"{label} has no windows to learn from: it has sent no summary {what}")
        every = ["/".join(n) for n in sorted(there | elsewhere)]
        raise FitError(f"no device {label} is known{nearest(label, every)} (cloud-sink gateways)")
    known = known.of({names})
    alarms = known.rows("false_alarm")
    made = fit_borrowed(template, table, names, alarms, options)
    return made.trained, made.healthy, known


def _known_devices(events: EventStore) -> set[Names]:
    from sqlalchemy import select

    from cloud_sink import tables

    d = tables.devices.c
    with events.read() as connection:
        return {
            (f"{row.site}/{row.gateway}", row.device)
            for row in connection.execute(select(d.site, d.gateway, d.device))
        }


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
