"""Learning one model of one class, as a task that any computer can carry out: it reads no database and signs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cloud_sink.computing import Computer
from cloud_sink.fit import Trained
from cloud_sink.fleet import widened
from cloud_sink.fleet_fit import FleetOptions, fit_fleet
from cloud_sink.fleet_reading import Gathered, Span, gathering
from cloud_sink.labelled import Labelled
from cloud_sink.train import FitError
from models.manifest import Family, ModelManifest
from models.signal import ArtifactTarget

if TYPE_CHECKING:
    from dask.delayed import Delayed


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A newer ``version`` of ``template``, from the summaries of ``span`` and what operators have called alerts (``known``)."""

    template: ModelManifest
    span: Span
    known: Labelled
    family: Family
    version: int
    created_ns: int
    seed: int = 0
    edge_tpu: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A model, not signed yet."""

    manifest: ModelManifest
    artifacts: Mapping[ArtifactTarget, bytes]


def learn(jobs: Sequence[Job], computer: Computer) -> list[Learned | FitError]:
    """What became of each of ``jobs``: a class that cannot be learned from holds up no other. Raises StoreError and
    ClusterError."""
    from dask import delayed

    found: dict[int, Learned | FitError] = {}
    tasks: dict[int, Delayed] = {}
    for i, job in enumerate(jobs):
        try:
            gathered = gathering(job.span)
        except FitError as error:
            found[i] = error
        else:
            tasks[i] = delayed(partial(learned, job), pure=False)(gathered)
    if tasks:
        what = "learning" if len(jobs) == 1 else f"learning {len(jobs)} models"
        found |= dict(zip(tasks, computer.run(list(tasks.values()), what), strict=True))
    return [found[i] for i in range(len(jobs))]


def learned(job: Job, found: Gathered | FitError) -> Learned | FitError:
    """``job`` done on what was gathered, or why it cannot be."""
    if isinstance(found, FitError):
        return found
    try:
        fleet = widened(found.fleet, job.known.false_alarms)
        options = FleetOptions(
            family=job.family,
            version=job.version,
            created_ns=job.created_ns,
            start_ns=found.start_ns,
            end_ns=found.end_ns,
            seed=job.seed,
            edge_tpu=job.edge_tpu,
        )
        trained = fit_fleet(job.template, fleet, options)
    except FitError as error:
        return error
    manifest = trained.manifest
    if job.known.n_true:
        auc = _auc(trained, fleet.rows, job.known.true_alarms)
        metrics = {**manifest.metrics, "auc_true_alarms": round(auc, 6)}
        manifest = msgspec.structs.replace(manifest, metrics=metrics)
    return Learned(manifest, dict(trained.artifacts))


def _auc(trained: Trained, healthy: NDArray[np.float32], odd: NDArray[np.float32]) -> float:
    """ROC AUC of what operators called true alarms against the fleet's healthy rows, as the float graph scores both."""
    from models.runtime import Graph
    from models.scoring import normalise, residuals, scores

    manifest = trained.manifest
    artifact = manifest.artifact("cpu-float32")
    assert artifact is not None
    rows = np.concatenate([healthy, odd])
    inputs = normalise(rows, np.array(manifest.normalisation.centre), np.array(manifest.normalisation.scale))
    output = Graph(trained.artifacts["cpu-float32"]).run(inputs)
    found = scores(residuals(inputs, output, manifest.output_kind, np.array(artifact.residual_scale)))
    return float(roc_auc_score(np.arange(len(rows)) >= len(healthy), found))
