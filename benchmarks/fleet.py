"""What is lost by learning from summaries, and won by learning from others: on recorded machines, one file one device.

SKAB (Skoltech Anomaly Benchmark, GPL-3.0; read where it lies, never copied): the first 400 rows of each file are healthy; of
the rest the ROC AUC of window scores against the labels. A model never sees the device that it scores; of that only a warm-up
says where its centre is. Everything is the product's own: windows, features, summaries as gateways make them, gathering, fitting.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cloud_sink.cutting import Request
from cloud_sink.dataset import Dataset, read_dataset
from cloud_sink.fleet import Fleet, Moments, gathered
from cloud_sink.fleet_fit import Basis, fit_moments
from cloud_sink.summaries import SummaryTable
from edge_node.summary import Summariser
from models.labels import label_columns
from models.logs import LogOptions
from models.messages import Summary, pack_floats, rfc3339
from models.scoring import normalise
from models.signal import NS_PER_S

DATA = Path(os.environ.get("LINEWATCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
NO_DATA = "the recorded data is not here: set LINEWATCH_DATA to a folder that holds skab/"
HEALTHY_ROWS, WARM_UPS = 400, (120, 200, 300)
SPAN_NS, N_RESERVOIR = 60 * NS_PER_S, 16
SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """One file: feature rows of its healthy part and of what follows, with labels; how far the healthy rows reach in time."""

    name: str
    healthy: NDArray[np.float32]
    end_ns: NDArray[np.int64]
    after: NDArray[np.float32]
    anomalous: NDArray[np.bool_]
    least: NDArray[np.float64]


def is_there() -> bool:
    """Whether the recordings are."""
    return (DATA / "skab").exists()


def measure(*, quick: bool) -> dict[str, object]:
    """Mean ROC AUC over the files: of models of the other files' summaries and of all their rows; of a device's own model and of
    the fleet's, by the rows of its warm-up."""
    machines = read(6 if quick else None)
    families = {}
    for family in ("mahalanobis", "linear-ae", "ae"):
        seeds = SEEDS if family == "ae" and not quick else SEEDS[:1]
        found = np.array(
            [[_left_out(machines, i, family, seed) for i in range(len(machines))] for seed in seeds]
        )
        summed, whole = found[..., 0], found[..., 1]
        families[family] = {
            "summaries": float(summed.mean()),
            "all_rows": float(whole.mean()),
            "largest_loss": float((whole - summed).mean(axis=0).max()),
        }
    warm = {}
    for n in WARM_UPS:
        pairs = np.array([_warmed_up(machines, i, n) for i in range(len(machines))])
        warm[str(n)] = {
            "own": float(pairs[:, 0].mean()),
            "fleet": float(pairs[:, 1].mean()),
            "better_in": int((pairs[:, 1] > pairs[:, 0]).sum()),
        }
    return {
        "devices": len(machines),
        "healthy_rows": HEALTHY_ROWS,
        "reservoir": N_RESERVOIR,
        "families": families,
        "warm_up": warm,
    }


def read(most: int | None = None) -> list[Machine]:
    """The faulty recordings, each with the same floors: features that mean the same."""
    files = sorted(f for f in (DATA / "skab" / "data").rglob("*.csv") if f.parent.name != "anomaly-free")[
        :most
    ]
    floors: tuple[float, ...] | None = None
    found = []
    for file in files:
        data = _dataset(file, floors)
        floors = data.spec.floors
        last = int(np.flatnonzero(data.used)[-1])
        assert data.anomalous is not None
        after = data.features[last + 1 :]
        truth = data.anomalous[last + 1 :]
        if truth.any() and not truth.all():
            found.append(
                Machine(
                    f"{file.parent.name}/{file.stem}",
                    np.ascontiguousarray(data.features[data.used]),
                    data.end_ns[data.used],
                    np.ascontiguousarray(after),
                    truth,
                    data.min_scale,
                )
            )
    return found


def _dataset(file: Path, floors: tuple[float, ...] | None) -> Dataset:
    options = LogOptions(timezone="UTC")
    request = Request(
        logs=(file,),
        options=options,
        feature_set="slow",
        n_rows=HEALTHY_ROWS,
        labels=label_columns((file,), options),
        floors=floors,
    )
    return read_dataset(request, warn=lambda text: None)


def fleet_of(machines: list[Machine], *, centred: bool = True) -> Fleet:
    """What a sink makes of the summaries of ``machines``, each about a common centre, as where a device keeps its own."""
    return gathered(
        SummaryTable.of([s for m in machines for s in _summaries(m, centred=centred)]), screen=False
    )


def _summaries(machine: Machine, *, centred: bool) -> list[Summary]:
    k = machine.healthy.shape[1]
    rows = _about_own(machine) if centred else machine.healthy
    summariser = Summariser(k, SPAN_NS, N_RESERVOIR, machine.name)
    found = []
    for i in range(len(rows)):
        end_ns = machine.end_ns[i : i + 1]
        totals = summariser.close_before(int(end_ns[0]))
        if totals is not None:
            found.append(totals)
        summariser.add(end_ns - NS_PER_S, end_ns, rows[i : i + 1], np.ones(1, np.float32), None)
    if (totals := summariser.close()) is not None:
        found.append(totals)
    return [
        Summary(
            message_id=f"{machine.name}-{t.start_ns}",
            site="s",
            gateway=machine.name,
            machine=machine.name,
            class_="skab",
            device=machine.name,
            start_ns=t.start_ns,
            end_ns=t.end_ns,
            start_at=rfc3339(t.start_ns),
            end_at=rfc3339(t.end_ns),
            n=t.n,
            mean=t.mean.tolist(),
            comoment=t.comoment.tolist(),
            centre=[0.0] * k,
            minimum=t.minimum.tolist(),
            maximum=t.maximum.tolist(),
            excluded=t.excluded,
            score_quantiles=t.score_quantiles,
            reservoir=pack_floats(t.reservoir),
            feature_names=tuple(str(j) for j in range(k)),
            schema_id="skab",
            model_id=None,
            model_version=None,
        )
        for t in found
    ]


def _about_own(machine: Machine) -> NDArray[np.float32]:
    return (machine.healthy - machine.healthy.mean(axis=0, dtype=np.float64)).astype(np.float32)


def _left_out(machines: list[Machine], i: int, family: str, seed: int) -> tuple[float, float]:
    """ROC AUC of machine ``i`` by a model of the others: of their summaries, and of all their rows."""
    others = machines[:i] + machines[i + 1 :]
    fleet = fleet_of(others)
    rows = np.concatenate([_about_own(m) for m in others])
    wide = rows.astype(np.float64)
    mean = wide.mean(axis=0)
    whole = Moments(len(wide), mean, (wide - mean).T @ (wide - mean))
    least = machines[i].least
    centre = machines[i].healthy.mean(axis=0, dtype=np.float64)
    return (
        _auc(machines[i], fit_moments(family, fleet.total, fleet.rows, least, seed=seed), centre),  # type: ignore[arg-type]
        _auc(machines[i], fit_moments(family, whole, rows, least, seed=seed), centre),  # type: ignore[arg-type]
    )


def _warmed_up(machines: list[Machine], i: int, n_rows: int) -> tuple[float, float]:
    """ROC AUC of machine ``i`` by its own model of the first ``n_rows`` rows, and by the fleet's about the centre of these."""
    machine = machines[i]
    n = max(8, n_rows - (HEALTHY_ROWS - len(machine.healthy)))  # windows: the first one takes its length
    wide = machine.healthy[:n].astype(np.float64)
    centre = wide.mean(axis=0)
    off = (wide - centre).astype(np.float32)
    own = Moments(n, np.zeros(len(centre)), (wide - centre).T @ (wide - centre))
    fleet = fleet_of(machines[:i] + machines[i + 1 :])
    return (
        _auc(machine, fit_moments("mahalanobis", own, off, machine.least), centre),
        _auc(machine, fit_moments("mahalanobis", fleet.within, fleet.rows, machine.least), centre),
    )


def _auc(machine: Machine, basis: Basis, centre: NDArray[np.float64]) -> float:
    rows = (machine.after - centre).astype(np.float32)
    scores = basis.fitted.scores(normalise(rows, basis.centre, basis.scale))
    return float(roc_auc_score(machine.anomalous, scores))
