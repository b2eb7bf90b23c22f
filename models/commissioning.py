"""What a device is commissioned with: normalisation and re-centring, or running ranges, learned together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.cross_fit import effective_windows
from models.features import FeatureInfo, FeatureSet
from models.recentring import Recentring, RecentringSpec
from models.running_range import HALF_WIDTH, LEAST, RunningRange
from models.scoring import normalise
from models.signal import WindowSpec

# (window, hop) in samples where nothing else is asked for, by feature set.
USUAL_WINDOWS: Mapping[FeatureSet, tuple[int, int]] = {
    "slow": (60, 1),
    "vibration": (1024, 512),
    "telemetry": (60, 1),
}
RECENTRING_WINDOW_LENGTHS = 10.0  # its time constant: 600 windows at window 60 and hop 1
LEAST_EFFECTIVE = 1.5  # windows, below which a spread cannot be told
_A_WINDOW = 4  # so many rows of each window's length say how many are independent


@dataclass(frozen=True, slots=True, eq=False)
class Commissioned:
    """Normalisation and re-centring as learned from some rows, and all rows as inputs of the graph.

    ``first_centre`` is where re-centring stood before the first row, ``last_centre`` after the last,
    float64[k].
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    first_centre: NDArray[np.float64]
    last_centre: NDArray[np.float64]
    inputs: NDArray[np.float32] = field(repr=False)


def recentring_spec(window: WindowSpec) -> RecentringSpec:
    """Re-centring for windows like ``window``: the time constant is a number of window lengths, whatever the
    hop."""
    return RecentringSpec(tau_windows=RECENTRING_WINDOW_LENGTHS * window.n / window.hop)


def fit_normalisation(
    features: NDArray[np.float32], min_scale: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(centre, scale) float64[k] of ``features`` float32[w, k]: mean and standard deviation, the latter at
    least ``min_scale`` float64[k] (``models.features.min_scales``)."""
    wide = features.astype(np.float64)
    return wide.mean(axis=0), np.maximum(wide.std(axis=0), min_scale)


def commission(
    rows: NDArray[np.float32],
    learn: NDArray[np.bool_],
    recentring: RecentringSpec | None,
    recentred: NDArray[np.bool_],
    min_scale: NDArray[np.float64],
    infos: Sequence[FeatureInfo] = (),
    end_ns: NDArray[np.int64] | None = None,
) -> Commissioned:
    """Normalisation learned from ``rows[learn]``, re-centring run over all ``rows`` float32[w, k] in time
    order.

    The scale includes the slow drift seen while commissioning, so that much of it is no departure; that of a feature
    that is re-centred is what the next window may be off by, as far as its windows can tell (:func:`prediction`).
    Re-centring starts from the first windows, a window's length of them, as if it had been running before. Features that
    ``infos`` calls ranged are normalised by their range in ``rows[learn]`` in place of their spread, and the running range
    starts from that; it needs ``end_ns`` int64[w] of the rows. Where a row would widen it, the input is the end of the
    range: what has only just been seen first is what alerts are about, and how often that happens in a short recording says
    little of how often it will.
    """
    if any(info.ranged for info in infos):
        assert end_ns is not None
        centre, scale = fit_ranges(rows[learn], min_scale, infos)
        inputs = normalise(placed(rows, centre, scale, infos, end_ns), centre, scale)
        inputs = np.clip(inputs, np.float32(-HALF_WIDTH), np.float32(HALF_WIDTH))
        return Commissioned(centre, scale, centre, centre, inputs)
    centre, scale = fit_normalisation(rows[learn], min_scale)
    if recentring is None:
        return Commissioned(centre, scale, centre, centre, normalise(rows, centre, scale))
    overlap = recentring.tau_windows / RECENTRING_WINDOW_LENGTHS
    scale[recentred] *= prediction(rows[:, recentred][learn], overlap)
    n_first = max(1, round(overlap))
    first_centre = rows[:n_first].astype(np.float64).mean(axis=0)
    follower = Recentring(recentring, centre, scale, recentred, first_centre)
    moved, _ = follower.apply(rows)
    return Commissioned(centre, scale, first_centre, follower.moving_centre, normalise(moved, centre, scale))


def prediction(rows: NDArray[np.float32], overlap: float) -> NDArray[np.float64]:
    """By how much the standard error of a prediction exceeds the standard deviation of each feature, float64[k], of
    ``rows`` float32[w, k] in time order, ``overlap`` of which share a sample.

    sqrt((1 + 1/n) n / (n - 1)) of n effective windows (``models.cross_fit``), at least LEAST_EFFECTIVE: a feature that
    wandered one way while it was commissioned has shown few, and says little of how far it will go.
    """
    step = max(1, int(overlap / _A_WINDOW))
    effective = [effective_windows(column, overlap / step) for column in rows[::step].T]
    n = np.maximum(effective, LEAST_EFFECTIVE)
    found: NDArray[np.float64] = np.sqrt((1.0 + 1.0 / n) * n / (n - 1.0))
    return found


def fit_ranges(
    features: NDArray[np.float32], min_scale: NDArray[np.float64], infos: Sequence[FeatureInfo]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(middle, half the width over HALF_WIDTH) float64[k] of the range of each of ``features`` float32[w, k]. Half the width
    is at least ``min_scale`` float64[k], and LEAST times that of the channel's widest: the mean of values that are still but
    for spikes has hardly a range of its own, and any movement would be far beyond it."""
    wide = features.astype(np.float64)
    low, high = wide.min(axis=0), wide.max(axis=0)
    half = np.maximum((high - low) / 2.0, min_scale)
    channels = np.array([info.channel for info in infos])
    widest = np.array([half[channels == channel].max() for channel in channels])
    return (low + high) / 2.0, np.maximum(half, LEAST * widest) / HALF_WIDTH


def placed(
    rows: NDArray[np.float32],
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
    infos: Sequence[FeatureInfo],
    end_ns: NDArray[np.int64],
) -> NDArray[np.float32]:
    """``rows`` float32[w, k], of windows that end at ``end_ns`` int64[w], by their place in the range that was commissioned
    with ``centre`` and ``scale`` and runs on over them; as they are where none of ``infos`` is ranged."""
    if not any(info.ranged for info in infos):
        return rows
    widens, daily = (np.array([getattr(info, name) for info in infos]) for name in ("widens", "daily"))
    found, _, _ = RunningRange(centre, scale, widens, daily).apply(rows, end_ns)
    return found
