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

from cloud_sink.borrowing import PRIOR_WINDOWS
from cloud_sink.cutting import Request
from cloud_sink.dataset import Dataset, read_dataset
from cloud_sink.fleet import Fleet, borrowed, gathered
from cloud_sink.fleet_fit import Basis, fit_moments
from cloud_sink.moments import Moments, together
from cloud_sink.summaries import SummaryTable
from edge_node.summary import Summariser
from models.commissioning import commission, recentring_spec
from models.labels import label_columns
from models.logs import LogOptions
from models.manifest import Family
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
    """One file, commissioned on the first of its healthy rows: features re-centred in time order as a gateway does it, with its
    own ``centre`` and ``scale`` float64[k]. ``healthy`` float32[w, k] are those it was commissioned on, ``after`` what follows
    the healthy part, ``anomalous`` bool of each of these."""

    name: str
    healthy: NDArray[np.float32]
    end_ns: NDArray[np.int64]
    after: NDArray[np.float32]
    anomalous: NDArray[np.bool_]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    overlap: float = 1.0  # how many windows share a sample

    def in_own_units(self) -> Machine:
        """As its gateway's model sees it."""
        healthy, after = (normalise(rows, self.centre, self.scale) for rows in (self.healthy, self.after))
        one = np.ones(len(self.scale))
        return Machine(self.name, healthy, self.end_ns, after, self.anomalous, 0 * one, one)

    @property
    def moments(self) -> Moments:
        wide = self.healthy.astype(np.float64)
        mean = wide.mean(axis=0)
        return Moments(len(wide), mean, (wide - mean).T @ (wide - mean))


def is_there() -> bool:
    """Whether the recordings are."""
    return (DATA / "skab").exists()


def measure(*, quick: bool) -> dict[str, object]:
    """Mean ROC AUC over the files: of models of the other files' summaries and of all their rows; of a device's own model and of
    the fleet's, by the rows of its warm-up; of ``unseen`` apart, the files of odd numbers, which how a device borrows was
    not chosen on."""
    data = read(6 if quick else None)
    machines = [commissioned(name, one) for name, one in data]
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
        begun = [commissioned(name, one, n) for name, one in data]
        pairs = np.array([_warmed_up(machines, begun[i], i) for i in range(len(machines))])
        unseen = np.array([int(m.name.rsplit("/")[-1]) % 2 == 1 for m in machines])
        warm[str(n)] = {**_of(pairs), "unseen": _of(pairs[unseen])}
    return {
        "devices": len(machines),
        "healthy_rows": HEALTHY_ROWS,
        "reservoir": N_RESERVOIR,
        "families": families,
        "warm_up": warm,
    }


def _of(pairs: NDArray[np.float64]) -> dict[str, float]:
    return {
        "devices": len(pairs),
        "own": float(pairs[:, 0].mean()),
        "fleet": float(pairs[:, 1].mean()),
        "better_in": int((pairs[:, 1] > pairs[:, 0]).sum()),
    }


def read(most: int | None = None) -> list[tuple[str, Dataset]]:
    """The faulty recordings, all with the same floors: features that mean the same."""
    files = sorted(f for f in (DATA / "skab" / "data").rglob("*.csv") if f.parent.name != "anomaly-free")[
        :most
    ]
    floors: tuple[float, ...] | None = None
    found = []
    for file in files:
        data = _dataset(file, floors)
        floors = data.spec.floors
        found.append((f"{file.parent.name}/{file.stem}", data))
    return found


def commissioned(name: str, data: Dataset, n_rows: int = HEALTHY_ROWS) -> Machine:
    """The machine as it is known by its first ``n_rows`` rows."""
    used = np.flatnonzero(data.used)
    first = used[: max(8, len(used) - (HEALTHY_ROWS - n_rows))]  # windows
    learn = np.zeros(len(data.features), np.bool_)
    learn[first] = True
    recentred = np.array([info.recentred for info in data.infos])
    known = commission(
        np.ascontiguousarray(data.features), learn, recentring_spec(data.window), recentred, data.min_scale
    )
    after = slice(int(used[-1]) + 1, None)
    assert data.anomalous is not None
    moved = (known.inputs * known.scale + known.centre).astype(np.float32)
    return Machine(
        name,
        moved[first],
        data.end_ns[first],
        moved[after],
        data.anomalous[after],
        known.centre,
        known.scale,
        data.window.n / data.window.hop,
    )


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


def fleet_of(machines: list[Machine]) -> Fleet:
    """What a sink makes of the summaries of ``machines``."""
    return gathered(SummaryTable.of([s for m in machines for s in _summaries(m)]), screen=False)


def _summaries(machine: Machine) -> list[Summary]:
    k = machine.healthy.shape[1]
    rows = machine.healthy
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


def _left_out(machines: list[Machine], i: int, family: Family, seed: int) -> tuple[float, float]:
    """ROC AUC of machine ``i`` by a model of the others: of their summaries, and of all their rows."""
    one = machines[i].in_own_units()
    others = [m.in_own_units() for m in machines[:i] + machines[i + 1 :]]
    fleet = fleet_of(others)
    rows = np.concatenate([m.healthy for m in others])
    whole = together([m.moments for m in others])
    least = np.full(rows.shape[1], 1e-6)
    return (
        _auc(one, fit_moments(family, fleet.total, fleet.rows, least, seed=seed)),
        _auc(one, fit_moments(family, whole, rows, least, seed=seed)),
    )


def _warmed_up(machines: list[Machine], begun: Machine, i: int) -> tuple[float, float]:
    """ROC AUC of machine ``i``, which has just ``begun``, by a model of its own and by one that borrows from the
    others."""
    fleet = fleet_of(machines[:i] + machines[i + 1 :])
    least = np.full(begun.healthy.shape[1], 1e-9)
    own = begun.moments
    lent = borrowed(own, fleet, worth=PRIOR_WINDOWS * begun.overlap)
    return (
        _auc(begun, fit_moments("mahalanobis", own, begun.healthy, least)),
        _auc(begun, fit_moments("mahalanobis", lent, fleet.rows, least)),
    )


def _auc(machine: Machine, basis: Basis) -> float:
    scores = basis.fitted.scores(normalise(machine.after, basis.centre, basis.scale))
    return float(roc_auc_score(machine.anomalous, scores))
