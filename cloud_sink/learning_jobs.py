"""Learning a model as tasks that any computer can do: each day of the store is read, then the model is made of them.

Invariants: a task reads no database and has no key; the same days give the same model, wherever they are read, since they are
joined in their order and numbers are worked out on one thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from cloud_sink.borrowing import fit_borrowed
from cloud_sink.features_store import FeatureStore, Partition, StoreError, joined
from cloud_sink.fit import Trained
from cloud_sink.fleet import gathered, widened
from cloud_sink.fleet_fit import FleetOptions, fit_fleet
from cloud_sink.labelled import Labelled, Names
from cloud_sink.moments import finite
from cloud_sink.train import FitError
from models.config_validation import nearest
from models.manifest import Family, ModelManifest
from models.signal import ArtifactTarget

if TYPE_CHECKING:
    from cloud_sink.computing import Computer
    from cloud_sink.summaries import SummaryTable


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A newer ``version`` of ``template`` from the summaries of ``what`` (in words) in ``days`` of the store at ``url`` that
    begin from ``from_ns`` on, and from labelled alerts; for the device ``names`` alone, or for all (None). ``known_devices``:
    others that there are, where ``names`` may be none."""

    template: ModelManifest
    url: str
    days: tuple[Partition, ...]
    from_ns: int
    what: str
    known: Labelled
    family: Family
    version: int
    created_ns: int
    seed: int = 0
    edge_tpu: bool = False
    names: Names | None = None
    known_devices: frozenset[Names] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A model, not signed yet; the labels that were used, and how many of other devices were not."""

    manifest: ModelManifest
    artifacts: Mapping[ArtifactTarget, bytes]
    used: Labelled
    n_others: int


def learn(jobs: Sequence[Job], computer: Computer) -> list[Learned | FitError]:
    """What became of each of ``jobs``: one that cannot be done holds up no other. Raises StoreError and ClusterError."""
    from dask import delayed

    tasks = []
    for job in jobs:
        days = [delayed(read_day, pure=False)(job.url, day) for day in job.days]
        tasks.append(delayed(partial(learned, job), pure=False)(days))
    what = "learning" if len(jobs) == 1 else f"learning {len(jobs)} models"
    return computer.run(tasks, what)


def read_day(url: str, day: Partition) -> list[SummaryTable]:
    """What the files of ``day`` hold. Raises StoreError."""
    return [table for table, _ in FeatureStore(url, "", create=False).read_partition(day)]


def sees(url: str, day: Partition) -> str | None:
    """Why the summaries of ``day`` cannot be read here; None where they can."""
    try:
        found = read_day(url, day)
    except StoreError as error:
        return f"cannot read the summaries: {error}"
    return None if found else f"sees nothing of {url}: share that folder with it, or name an object store"


def learned(job: Job, days: Sequence[Sequence[SummaryTable]]) -> Learned | FitError:
    """``job`` done on what was read, or why it cannot be."""
    table = joined([table for day in days for table in day], from_ns=job.from_ns)
    if table is None:
        return FitError(f"there are no summaries {job.what}")
    if not (table.n > 0).any():
        return FitError(
            f"the {len(table)} summaries {job.what} count no healthy window: cloud-sink gateways says what their devices report; "
            "more time (--days), or another --class"
        )
    options = FleetOptions(
        family=job.family,
        version=job.version,
        created_ns=job.created_ns,
        start_ns=int(table.start_ns.min()),
        end_ns=int(table.end_ns.max()),
        seed=job.seed,
        edge_tpu=job.edge_tpu,
    )
    try:
        with threadpool_limits(1):  # sums of several threads differ in their last bits
            made = _of_fleet if job.names is None else _for_device
            trained, healthy, used = made(job, table, options)
            metrics = dict(trained.manifest.metrics)
            if used.n("true_alarm"):
                metrics["auc_true_alarms"] = round(_auc(trained, healthy, used.rows("true_alarm")), 6)
    except FitError as error:
        silent = sorted(table.devices() - table.take(np.flatnonzero(table.n > 0)).devices())
        if job.names is not None or not silent:
            return error
        named = ", ".join("/".join(name) for name in silent[:5]) + (", ..." if len(silent) > 5 else "")
        return FitError(f"{error}; no healthy window was summed up of {named} (cloud-sink gateways)")
    manifest = msgspec.structs.replace(trained.manifest, metrics=metrics)
    return Learned(manifest, dict(trained.artifacts), used, len(job.known.alerts) - len(used.alerts))


def _of_fleet(
    job: Job, table: SummaryTable, options: FleetOptions
) -> tuple[Trained, NDArray[np.float32], Labelled]:
    """The model of all, its healthy rows, and those labels that are of the fleet's devices."""
    fleet = gathered(table)
    used = job.known.of(set(fleet.devices))
    fleet = widened(fleet, used.by_device("false_alarm"))
    return fit_fleet(job.template, fleet, options), fleet.rows, used


def _for_device(
    job: Job, table: SummaryTable, options: FleetOptions
) -> tuple[Trained, NDArray[np.float32], Labelled]:
    """The same for one device alone."""
    assert job.names is not None
    there = table.devices()
    if job.names not in there:
        label = "/".join(job.names)
        if job.names in job.known_devices:
            raise FitError(f"{label} has no windows to learn from: it has sent no summary {job.what}")
        every = ["/".join(n) for n in sorted(there | job.known_devices)]
        raise FitError(f"no device {label} is known{nearest(label, every)} (cloud-sink gateways)")
    used = job.known.of({job.names})
    made = fit_borrowed(job.template, table, job.names, used.rows("false_alarm"), options)
    return made.trained, made.healthy, used


def _auc(trained: Trained, healthy: np.ndarray[Any, Any], odd: np.ndarray[Any, Any]) -> float:
    """ROC AUC of what operators called true alarms against healthy rows, as the float graph scores both."""
    from models.runtime import Graph
    from models.scoring import normalise, residuals, scores

    manifest = trained.manifest
    artifact = manifest.artifact("cpu-float32")
    assert artifact is not None
    rows = np.concatenate([healthy, odd])
    inputs = normalise(rows, np.array(manifest.normalisation.centre), np.array(manifest.normalisation.scale))
    output = Graph(trained.artifacts["cpu-float32"]).run(inputs)
    found = scores(residuals(inputs, output, manifest.output_kind, np.array(artifact.residual_scale)))
    return float(roc_auc_score(np.arange(len(rows)) >= len(healthy), finite(found)))
