"""From a fleet's summaries to a model that its gateways can adopt between two windows.

The features, windows, treatment of time and worked windows are those of the model in service (``template``). The linear
families follow from the fleet's moments exactly; a network is fitted on the rows of the reservoirs. No number that a score is
judged by is in-sample: out-of-fold scores are of devices that the model which gave them has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_sink.fit import Trained, artifacts_of, graph_scores, graphs_of, published
from cloud_sink.fleet import Fleet
from cloud_sink.fleet_bounds import MAX_SHARE
from cloud_sink.moments import Moments, oas, together
from cloud_sink.quantise import Sweep, rank_correlation, sweep
from cloud_sink.train import (
    FAMILIES,
    MIN_RESIDUAL_SCALE,
    FitError,
    Fitted,
    component_layers,
    residual_scale,
    whitening_layers,
)
from models.calibration import fit_calibration
from models.episodes import AlertPolicy
from models.features import FeatureInfo, describe, min_scales
from models.golden import golden_of
from models.manifest import Family, ModelManifest, Normalisation, TrainingReport
from models.out_of_fold import FAR_LEVEL, false_alarm_rate
from models.scoring import normalise

MIN_FLEET_ROWS = 64  # of the reservoirs
N_FOLDS = 5
# A row of a reservoir stands for the windows around it, which are like it: an alert takes several of them. So
# each is counted as so many windows, and every row above a level as an alert: the cautious way.
WINDOWS_A_ROW = AlertPolicy().n_raise


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """``version`` and ``created_ns`` go into the manifest as they are; ``start_ns`` and ``end_ns``: what was summed up."""

    family: Family
    version: int
    created_ns: int
    start_ns: int
    end_ns: int
    seed: int = 0
    edge_tpu: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Normalisation float64[k] and the model that was fitted on it."""

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    fitted: Fitted


def fit_moments(
    family: Family,
    moments: Moments,
    rows: NDArray[np.float32],
    min_scale: NDArray[np.float64],
    *,
    seed: int = 0,
) -> Basis:
    """A model of ``family``: of ``moments`` alone if it is linear, else of ``rows`` float32[r, k] normalised by them."""
    centre = moments.mean
    scale = np.maximum(np.sqrt(np.maximum(np.diag(moments.covariance), 0.0)), min_scale)
    inputs = normalise(rows, centre, scale)
    covariance = moments.covariance / np.outer(scale, scale)
    k = centre.size
    zero = np.zeros(k)
    kind = FAMILIES[family].output_kind
    if family == "mahalanobis":
        shrunk, _ = oas(covariance, moments.n)
        return Basis(centre, scale, Fitted(family, kind, whitening_layers(zero, shrunk), np.ones(k)))
    if family == "linear-ae":
        layers = component_layers(zero, covariance)
        rest = np.eye(k) - layers[1].weights.astype(np.float64) @ layers[0].weights.astype(np.float64)
        power = np.maximum(np.diag(rest @ covariance @ rest.T), 0.0)
        spread = np.maximum(np.sqrt(power), MIN_RESIDUAL_SCALE)
        return Basis(centre, scale, Fitted(family, kind, layers, spread))
    layers = FAMILIES[family].fit(np.asarray(inputs, np.float64), seed)
    unscaled = Fitted(family, kind, layers, np.ones(k))
    output = unscaled.activations(inputs)[-1].astype(np.float32)
    return Basis(centre, scale, Fitted(family, kind, layers, residual_scale(inputs, output, kind)))


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a model is calibrated by: scores float32[r] of feature rows by the dtype of the graph that gave them, each out of
    ``folds`` (train, test: indices); ``n_windows`` that the rows stand for; ``set_aside`` and ``notes`` for the manifest."""

    out_of_fold: Mapping[str, NDArray[np.float32]]
    folds: list[tuple[NDArray[np.intp], NDArray[np.intp]]]
    n_windows: int
    set_aside: Mapping[str, int]
    notes: tuple[str, ...]


def anchored(template: ModelManifest, basis: Basis) -> Basis:
    """The same model, of the same scores, where features that are re-centred or ranged have the centre and scale of
    ``template``.

    Re-centring, or their place in the running range, has taken them there before they were summed up, and its bound is
    measured from there, in that scale: were these learned anew each time, a slow fault that is beyond the bound would be
    learned away little by little, and its ``drift`` with it.
    """
    recentres = template.recentring is not None
    moves = np.array([info.ranged or (info.recentred and recentres) for info in infos_of(template)])
    if not moves.any():
        return basis
    normal = template.normalisation
    centre = np.where(moves, normal.centre, basis.centre)
    scale = np.where(moves, normal.scale, basis.scale)
    # What the model takes is (x - basis.centre) / basis.scale = factor * (x - centre) / scale + off.
    factor, off = scale / basis.scale, (centre - basis.centre) / basis.scale
    layers = list(basis.fitted.layers)
    first = layers[0]
    layers[0] = replace(
        first,
        weights=(first.weights * factor).astype(np.float32),
        bias=(first.bias + first.weights @ off).astype(np.float32),
    )
    spread = basis.fitted.residual_scale
    if basis.fitted.output_kind == "reconstruction":
        last = layers[-1]
        layers[-1] = replace(
            last,
            weights=(last.weights / factor[:, None]).astype(np.float32),
            bias=((last.bias - off) / factor).astype(np.float32),
        )
        spread = spread / factor
    return Basis(centre, scale, replace(basis.fitted, layers=tuple(layers), residual_scale=spread))


def fit_fleet(template: ModelManifest, fleet: Fleet, options: FleetOptions) -> Trained:
    """The model of ``fleet`` in place of ``template``. Raises FitError where the fleet is too small to vouch for one."""
    _require(fleet)
    least = least_scales(template, fleet.rows.shape[1])
    basis = anchored(template, fit_moments(options.family, fleet.total, fleet.rows, least, seed=options.seed))
    inputs = normalise(fleet.rows, basis.centre, basis.scale)
    infos = infos_of(template)
    ranged = any(info.ranged for info in infos)
    found = sweep(basis.fitted, inputs, [i.channel for i in infos], seed=options.seed, ranged=ranged)

    n_devices = len(fleet.devices)
    n_folds = min(N_FOLDS, n_devices)
    out_of_fold = {name: np.empty(len(fleet.rows), np.float32) for name in ("float32", "int8")}
    folds = []
    for fold in range(n_folds):
        held = np.arange(n_devices) % n_folds == fold
        test = np.flatnonzero(held[fleet.row_device])
        train = np.flatnonzero(~held[fleet.row_device])
        if not test.size:
            continue
        rest = together([m for m, out in zip(fleet.weighed, held, strict=True) if not out])
        part = anchored(
            template, fit_moments(options.family, rest, fleet.rows[train], least, seed=options.seed)
        )
        seen = normalise(fleet.rows[train], part.centre, part.scale)
        unseen = normalise(fleet.rows[test], part.centre, part.scale)
        for name, (graph, scale) in graphs_of(part.fitted, seen, found.sigmas).items():
            out_of_fold[name][test] = graph_scores(part.fitted, graph, scale, unseen)
        folds.append((train, test))
    notes = (
        f"from summaries of {n_devices} devices of {fleet.n_gateways} gateways, {fleet.n_windows} windows, "
        f"{len(fleet.rows)} feature rows",
        *few_speak(fleet),
        *left_out(fleet),
    )
    set_aside = {"screened_devices": len(fleet.screened)} if fleet.screened else {}
    evidence = Evidence(out_of_fold, folds, fleet.n_windows, set_aside, notes)
    return assembled(template, basis, inputs, found, evidence, options)


def assembled(
    template: ModelManifest,
    basis: Basis,
    inputs: NDArray[np.float32],
    found: Sweep,
    evidence: Evidence,
    options: FleetOptions,
) -> Trained:
    """The bundle of ``basis`` in place of ``template``, calibrated by ``evidence``, its int8 as ``found`` on ``inputs``
    float32[r, k]."""
    n_rows = len(evidence.out_of_fold["float32"])
    overlap = template.window.overlap
    n_effective = min(float(n_rows), evidence.n_windows / overlap)
    step_ns = _step_ns(template, evidence.n_windows, n_rows)
    calibration = {
        name: fit_calibration(np.repeat(scores, WINDOWS_A_ROW), n_effective, (), step_ns)
        for name, scores in evidence.out_of_fold.items()
    }
    graphs = graphs_of(basis.fitted, inputs, found.sigmas)
    files, notes = published(basis.fitted, inputs, found, edge_tpu=options.edge_tpu)
    windows = np.stack(
        [g.arrays(template.window.n, len(template.channels))[0] for g in template.artifacts[0].golden]
    )
    artifacts = artifacts_of(
        files,
        graphs,
        calibration,
        lambda graph, scale, one: golden_of(
            windows,
            template.features,
            template.window.rate_hz,
            graph,
            basis.fitted.output_kind,
            basis.centre,
            basis.scale,
            scale,
            one,
        ),
    )
    out_of_fold = evidence.out_of_fold
    metrics = {
        "score_correlation": rank_correlation(out_of_fold["float32"], out_of_fold["int8"]),
        "probe_correlation": found.probe_correlation,
        "int8_saturated_share": found.saturated_healthy,
    }
    manifest = msgspec.structs.replace(
        template,
        version=options.version,
        family=options.family,
        created_ns=options.created_ns,
        normalisation=Normalisation(
            centre=tuple(basis.centre.tolist()),
            scale=tuple(basis.scale.tolist()),
            start_centre=tuple(basis.centre.tolist()),
        ),
        output_kind=basis.fitted.output_kind,
        artifacts=artifacts,
        training=TrainingReport(
            start_ns=options.start_ns,
            end_ns=options.end_ns,
            n_windows=evidence.n_windows,
            set_aside=dict(evidence.set_aside),
            n_effective=round(n_effective, 3),
            cross_fit_far=false_alarm_rate(
                out_of_fold["float32"], [t for _, t in evidence.folds], n_effective
            ),
            far_level=FAR_LEVEL,
            notes=(*evidence.notes, *notes),
        ),
        metrics={name: round(value, 6) for name, value in metrics.items()},
        signature=None,
        key_id=None,
        rollback=msgspec.UNSET,
    )
    return Trained(manifest, files, found, {})


def few_speak(fleet: Fleet) -> tuple[str, ...]:
    """That rows are of so few of its gateways that one has more than MAX_SHARE of them, in words: nobody else has sent any, and
    fewer of theirs would say no more of the others."""
    names = [gateway for gateway, _ in fleet.devices]
    there = sorted({names[i] for i in np.unique(fleet.row_device)})
    if not there or len(there) * MAX_SHARE >= 1.0 or len(there) == fleet.n_gateways:
        return ()
    return (
        f"feature rows came from {len(there)} of {fleet.n_gateways} gateways alone ({', '.join(there)}), with which all is "
        'calibrated: privacy = "features" on more of them would tell',
    )


def left_out(fleet: Fleet) -> tuple[str, ...]:
    """Who was, in words."""
    return tuple(f"{s.gateway} {s.device} was left out: {s.text}" for s in fleet.screened)


def least_scales(template: ModelManifest, k: int) -> NDArray[np.float64]:
    """float64[k], below which no feature's scale goes. Raises FitError unless summaries of ``k`` features fit the model."""
    if (wanted := len(infos_of(template))) != k:
        raise FitError(f"the summaries have {k} features, and the model {wanted}")
    return min_scales(template.features, len(template.channels), template.window.n)


def infos_of(template: ModelManifest) -> tuple[FeatureInfo, ...]:
    """The features of its rows."""
    channels = tuple(c.as_channel() for c in template.channels)
    return describe(template.features, channels, template.window.rate_hz, template.window.n)


def _step_ns(template: ModelManifest, n_windows: int, n_rows: int) -> int:
    """The time that one of the counted windows stands for."""
    span_ns = n_windows * (template.artifacts[0].calibration.step_ns or template.window.hop_ns)
    return max(1, math.floor(span_ns / (n_rows * WINDOWS_A_ROW)))


def _require(fleet: Fleet) -> None:
    if len(fleet.devices) < 2:
        there = (
            f"there {'is' if len(fleet.devices) == 1 else 'are'} {len(fleet.devices)} with healthy windows"
        )
        out = "".join(f"; {text}" for text in left_out(fleet))
        raise FitError(
            f"a fleet has two devices or more, since one alone cannot vouch for how another one scores: {there}{out}"
        )
    if len(fleet.rows) < MIN_FLEET_ROWS:
        raise FitError(
            f"{len(fleet.rows)} feature rows came with the summaries, and {MIN_FLEET_ROWS} are needed: more time, or more "
            'gateways with privacy = "features"'
        )
    speaking = np.unique(fleet.row_device)
    if len(speaking) < 2:
        gateway, device = list(fleet.devices)[speaking[0]]
        raise FitError(
            f"all feature rows came from {gateway} {device}, and how it scores is judged by those of others: privacy = "
            '"features" on another gateway'
        )
