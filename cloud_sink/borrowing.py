"""A model for one device with little history: its own centre, and from the fleet what takes longer to know.

Invariants: the device's own summaries are not among the fleet's; no number that a score is judged by is in-sample: it is
calibrated on the other devices, each as it was after as many windows as this one has, by rows of later spans, with what devices
of other folds lend it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_sink.fit import Trained, graph_scores, graphs_of
from cloud_sink.fleet import Fleet, admitted, borrowed, gathered
from cloud_sink.fleet_fit import (
    MIN_FLEET_ROWS,
    N_FOLDS,
    Evidence,
    FleetOptions,
    anchored,
    assembled,
    few_speak,
    fit_moments,
    infos_of,
    least_scales,
    left_out,
)
from cloud_sink.moments import Moments, together
from cloud_sink.quantise import Sweep, sweep
from cloud_sink.summaries import SummaryTable
from cloud_sink.train import MIN_ROWS, FitError
from models.manifest import Family, ModelManifest
from models.scoring import normalise

LINEAR: tuple[Family, ...] = ("mahalanobis", "linear-ae")  # which follow from moments alone
# What the fleet says weighs as much as so many windows of which no two overlap: one, the unit information prior (Kass & Wasserman
# 1995), which speaks as long as the device itself has said next to nothing.
PRIOR_WINDOWS = 1.0
MIN_LENDERS = 2  # of which one can be held out
MAX_JUDGED = 64  # devices that it is calibrated on, evenly spaced among those that can be
MAX_SEEN = 2_000  # rows that int8 ranges are chosen by

Names = tuple[str, str]  # site/gateway, device


@dataclass(frozen=True, slots=True, eq=False)
class Lent:
    """A model for one device, and feature rows float32[r, k] of the fleet as they would be in its place: healthy ones."""

    trained: Trained
    healthy: NDArray[np.float32]


def fit_borrowed(
    template: ModelManifest,
    table: SummaryTable,
    names: Names,
    false_alarms: NDArray[np.float32],
    options: FleetOptions,
) -> Lent:
    """The model of the device ``names`` in place of ``template``, from ``table``, which has summaries of it and of others.

    Feature rows float32[m, k] of its own ``false_alarms`` are normal to it, as far as the fleet's would be. Raises FitError where
    it has seen too little to have a centre, or the others have to lend.
    """
    if options.family not in LINEAR:
        raise FitError(
            f"{options.family} is fitted on rows, and one device has too few: {' or '.join(LINEAR)}"
        )
    mine = (table.full_gateway == names[0]) & (table.device == names[1])
    label = "/".join(names)
    n_own = int(table.n[mine].sum())
    if n_own < MIN_ROWS:
        raise FitError(
            f"{label} has {n_own} healthy windows in its summaries, and {MIN_ROWS} are needed to know where it stands: let it run"
        )
    own = gathered(table.take(np.flatnonzero(mine)), screen=False).devices[names]
    others = table.take(np.flatnonzero(~mine & (table.n > 0)))
    fleet = gathered(others) if len(others) else None
    if fleet is None or len(fleet.devices) < MIN_LENDERS:
        n_lenders = 0 if fleet is None else len(fleet.devices)
        raise FitError(
            f"{n_lenders} other devices have summaries to borrow from, and {MIN_LENDERS} are needed: more time (--days), or "
            "another --class"
        )
    least = least_scales(template, table.k)
    worth = PRIOR_WINDOWS * template.window.overlap
    lent = _with(borrowed(own, fleet, worth=worth), false_alarms)
    healthy = _in_place_of(fleet, lent)
    basis = fit_moments(options.family, lent, healthy, least, seed=options.seed)
    if (
        template.model_id in table.model_id[mine]
    ):  # else re-centring has not taken it to the centre of the template
        basis = anchored(template, basis)
    inputs = normalise(_some(healthy), basis.centre, basis.scale)
    if len(inputs) < MIN_ROWS:
        raise FitError(_too_few_rows(label, n_own, len(inputs)))
    infos = infos_of(template)
    ranged = any(info.ranged for info in infos)
    found = sweep(basis.fitted, inputs, [i.channel for i in infos], seed=options.seed, ranged=ranged)
    evidence = _evidence(others, fleet, label, own, worth, least, found, options)
    return Lent(assembled(template, basis, inputs, found, evidence, options), healthy)


def _evidence(
    others: SummaryTable,
    fleet: Fleet,
    label: str,
    own: Moments,
    worth: float,
    least: NDArray[np.float64],
    found: Sweep,
    options: FleetOptions,
) -> Evidence:
    """Scores of devices as they were when they had seen as much as this one."""
    names = list(fleet.devices)
    place = {name: i for i, name in enumerate(names)}
    device = np.array(
        [place.get((str(g), str(d)), -1) for g, d in zip(others.full_gateway, others.device, strict=True)]
    )
    begun = [_begun(others, device == i, own.n, options.seed + i) for i in range(len(names))]
    later = [
        np.flatnonzero((fleet.row_device == i) & (fleet.row_ns >= one.until_ns)) if one else np.zeros(0, int)
        for i, one in enumerate(begun)
    ]
    able = [i for i in range(len(names)) if later[i].size]
    judged = [
        able[i] for i in np.unique(np.linspace(0, len(able) - 1, min(len(able), MAX_JUDGED)).astype(int))
    ]
    n_rows = sum(later[i].size for i in judged)
    if n_rows < MIN_FLEET_ROWS:
        raise FitError(_too_few_rows(label, int(own.n), n_rows))
    scores: dict[str, list[NDArray[np.float32]]] = {"float32": [], "int8": []}
    fold_of = []
    n_folds = min(N_FOLDS, len(names))
    for fold in range(n_folds):
        held = [i for i in judged if i % n_folds == fold]
        if not held:
            continue
        rest = gathered(others.take(np.flatnonzero((device >= 0) & (device % n_folds != fold))), screen=False)
        for i in held:
            one = begun[i]
            assert one is not None
            lent = borrowed(one.moments, rest, worth=worth)
            seen = _some(_in_place_of(rest, lent))
            part = fit_moments(options.family, lent, seen, least, seed=options.seed)
            unseen = normalise(fleet.rows[later[i]], part.centre, part.scale)
            inputs = normalise(seen, part.centre, part.scale)
            for dtype, (graph, scale) in graphs_of(part.fitted, inputs, found.sigmas).items():
                scores[dtype].append(graph_scores(part.fitted, graph, scale, unseen))
            fold_of.append(np.full(later[i].size, fold))
    fold_of_row = np.concatenate(fold_of)
    folds = [
        (np.flatnonzero(fold_of_row != fold), np.flatnonzero(fold_of_row == fold))
        for fold in np.unique(fold_of_row)
    ]
    share = own.n / (own.n + worth)
    notes = (
        f"for {label} alone: its centre is its own, of {own.n:.0f} windows; how its features spread and hang together is "
        f"its own to {share:.0%}: {len(names)} other devices of {fleet.n_gateways} gateways count as {worth:.0f} windows",
        f"calibrated on {n_rows} feature rows of {len(judged)} of these, each as it was after as many windows",
        *few_speak(fleet),
        *left_out(fleet),
    )
    set_aside = {"screened_devices": len(fleet.screened)} if fleet.screened else {}
    return Evidence(
        {dtype: np.concatenate(parts) for dtype, parts in scores.items()},
        folds,
        fleet.n_windows,
        set_aside,
        notes,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Begun:
    """A device as it was when the spans before ``until_ns`` were all that it had seen."""

    moments: Moments
    until_ns: int


def _begun(table: SummaryTable, whose: NDArray[np.bool_], n: float, seed: int) -> _Begun | None:
    """The device ``whose`` summaries these are, once it had seen ``n`` windows; None where that is all it has seen. Of a first
    span that is longer, as many rows as are like it."""
    order = np.flatnonzero(whose)
    order = order[np.argsort(table.start_ns[order], kind="stable")]
    enough = int(np.searchsorted(np.cumsum(table.n[order]), n)) + 1
    if enough >= order.size:
        return None
    part = gathered(table.take(order[:enough]), screen=False)
    (moments,) = part.devices.values()
    if enough == 1 and moments.n > n:
        generator = np.random.default_rng(seed)
        rows = generator.multivariate_normal(moments.mean, moments.covariance, round(n), method="eigh")
        mean = rows.mean(axis=0)
        moments = Moments(n, mean, (rows - mean).T @ (rows - mean))
    return _Begun(moments, int(table.start_ns[order[enough]]))


def _in_place_of(fleet: Fleet, target: Moments) -> NDArray[np.float32]:
    """The rows of ``fleet``, each as far off its own device's mean, in that device's spreads, as it then is off ``target``'s."""
    mean, spread = (
        np.array([getattr(m, what) for m in fleet.weighed])[fleet.row_device] for what in ("mean", "spread")
    )
    unit = np.where(spread > 0.0, (fleet.rows - mean) / np.where(spread > 0.0, spread, 1.0), 0.0)
    found: NDArray[np.float32] = (unit * target.spread + target.mean).astype(np.float32)
    return found


def _with(lent: Moments, false_alarms: NDArray[np.float32]) -> Moments:
    if not len(false_alarms):
        return lent
    _, extra = admitted(lent, false_alarms)
    return together([lent, extra])


def _some(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows[:: max(1, -(-len(rows) // MAX_SEEN))]


def _too_few_rows(label: str, n_own: int, n_rows: int) -> str:
    return (
        f"{n_rows} feature rows came from devices that have run longer than {label} ({n_own} windows), and {MIN_FLEET_ROWS} are "
        'needed to calibrate by: more time (--days), or more gateways with privacy = "features"'
    )
