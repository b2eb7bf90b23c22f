"""What scores and alarms are worth against labels: ROC AUC and average precision by scikit-learn, VUS-PR by TSB-AD, F1 of
alarms beside the same alarms at random times. Pure.

None of them adjusts a prediction by what the label says (no point adjustment).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

try:
    from TSB_AD.evaluation.basic_metrics import generate_curve
except (
    ImportError
):  # `make quality` installs it, alone: what it asks for beside numpy and scikit-learn is not for this
    generate_curve = None

VUS_WINDOW, VUS_THRESHOLDS = (
    100,
    250,
)  # the package's own: rows around a label that count in part, and thresholds
N_DRAWS = 200

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Ranking(NamedTuple):
    """How well scores rank anomalous rows above others. ``vus_pr`` None: TSB-AD is not installed, or it was not asked for."""

    auc: float
    average_precision: float
    vus_pr: float | None


class Alarms(NamedTuple):
    """Rows pooled over files: F1; share of the healthy rows that were alarmed at (``far``) and of the anomalous ones that
    were not (``mar``); ``f1_random``: F1 of the same alarms moved, file by file, by a random time, mean of N_DRAWS."""

    f1: float
    far: float
    mar: float
    f1_random: float


def ranking(anomalous: Bools, score: Floats, *, with_vus: bool = True) -> Ranking:
    """Of ``score`` float64[n] against ``anomalous`` bool[n]. ValueError where rows are all of one kind.

    VUS-PR: the volume under the surface of precision, recall and the width of a label's surroundings up to VUS_WINDOW rows,
    which count in part (Paparrizos et al., VLDB 2022)."""
    if anomalous.all() or not anomalous.any():
        raise ValueError("nothing can be ranked: all rows are of one kind")
    vus = None
    if with_vus and generate_curve is not None:
        vus = float(generate_curve(anomalous.astype(int), score, VUS_WINDOW, "opt_mem", VUS_THRESHOLDS)[-1])
    return Ranking(
        float(roc_auc_score(anomalous, score)), float(average_precision_score(anomalous, score)), vus
    )


def alarms(anomalous: Sequence[Bools], alarmed: Sequence[Bools], *, seed: int = 0) -> Alarms:
    """Of ``alarmed``, bool[n] a file, against ``anomalous``. ValueError where rows are all of one kind."""
    truth, said = np.concatenate(anomalous), np.concatenate(alarmed)
    if truth.all() or not truth.any():
        raise ValueError("alarms cannot be judged: all rows are of one kind")
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(N_DRAWS):
        moved = [np.roll(a, int(generator.integers(len(a)))) for a in alarmed]
        draws.append(_f1(truth, np.concatenate(moved)))
    return Alarms(
        f1=_f1(truth, said),
        far=float(said[~truth].mean()),
        mar=float((~said[truth]).mean()),
        f1_random=float(np.mean(draws)),
    )


def _f1(truth: Bools, said: Bools) -> float:
    """Also where nothing is said, of which it is 0."""
    return 2.0 * int(np.count_nonzero(truth & said)) / int(np.count_nonzero(truth) + np.count_nonzero(said))
