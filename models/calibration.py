"""Score -> p-value -> level, from out-of-fold scores only.

A model never calibrates on windows that it was fitted on: the healthy windows are cut into contiguous blocks, each is
scored by a model fitted on the others, less a purge on either side (windows overlap, and neighbours resemble each other).
The distribution of those scores gives p-values: the empirical one in its body, a fitted tail beyond. The level that a
budget of alerts asks for is found by running the alerting machine over the same scores in time order, since alerts are
not windows times p. Pure.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.episodes import AlertPolicy, count_episodes
from models.messages import pack_floats, unpack_floats
from models.signal import NS_PER_S

MAX_KEPT_SCORES = 20_000
POT_MIN_WINDOWS = 2_000
WEEK_NS = 7 * 86_400 * NS_PER_S

_NORMAL = NormalDist()
_MIN_LOG_P = -690.0  # p-values never reach 0
_N_LEVELS = 96


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an artifact's scores are distributed on healthy windows.

    ``knots`` (scores, ascending) and ``log_p`` (natural log of the probability that a healthy window scores more, falling)
    are interpolated linearly; beyond the last knot the last slope goes on. ``oof_scores`` are the out-of-fold scores in time
    order (base64 float32, the last 20,000 at most) and ``oof_breaks`` the indices before which they are not contiguous.
    """

    tail: Literal["log_gaussian", "pot"]
    tail_shape: float  # GPD's shape, or the standard deviation of the log score
    knots: tuple[float, ...]
    log_p: tuple[float, ...]
    n_windows: int
    n_effective: float
    oof_scores: str
    oof_breaks: tuple[int, ...]

    def scores(self) -> NDArray[np.float32]:
        """The out-of-fold scores kept, float32[w]."""
        return unpack_floats(self.oof_scores, (-1,))


class AlertLevel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where windows begin to count: p-values at or below ``p_raise``; above ``p_clear`` they count as normal again.

    ``verified_per_week`` is the smallest rate of alerts that the healthy data can vouch for (one in their whole span);
    ``extrapolated`` says that the budget asks for less, so the level comes from the fitted tail.
    """

    p_raise: float
    p_clear: float
    score_raise: float
    score_clear: float
    alerts_per_week: float | None
    extrapolated: bool
    verified_per_week: float | None

    def text(self) -> str:
        """One clause for a table or a log line."""
        if self.alerts_per_week is None:
            return f"p <= {self.p_raise:.3g} (score {self.score_raise:.3g})"
        said = f"{self.alerts_per_week:g} alerts a week (score {self.score_raise:.3g})"
        if self.extrapolated and self.verified_per_week is not None:
            said += f", extrapolated, verified only to {self.verified_per_week:.3g} alerts a week"
        return said


def block_folds(n_windows: int, n_folds: int, purge: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(training, test) indices: contiguous test blocks that cover all windows; ``purge`` windows on either side of the test block
    are in neither (Lopez de Prado 2018, ch. 7). ValueError when a fold would have no training windows."""
    if n_folds < 2 or n_windows < n_folds:
        raise ValueError(f"cannot cut {n_windows} windows into {n_folds} folds")
    index = np.arange(n_windows)
    edges = np.linspace(0, n_windows, n_folds + 1).astype(int)
    folds = []
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        train = np.concatenate([index[: max(begin - purge, 0)], index[end + purge :]])
        if train.size == 0:
            raise ValueError(f"{n_windows} windows leave nothing to train on beside a purge of {purge}")
        folds.append((train, index[begin:end]))
    return folds


def effective_windows(series: NDArray[np.floating], overlap: float) -> float:
    """How many independent windows ``series`` float[w] (a score or feature per window, time order) is worth.

    At most the span over the window's length (``w / overlap``, ``overlap`` = n / hop), and no more than w over the integrated
    autocorrelation time 1 + 2 sum rho, summed up to Sokal's automatic window (Sokal 1997, c = 5).
    """
    w = series.size
    by_span = max(w / max(overlap, 1.0), 1.0) if w else 0.0
    x = np.asarray(series, dtype=np.float64)
    x = x - x.mean() if w else x
    power = float(np.dot(x, x))
    if w < 4 or power <= 0.0:
        return by_span
    spectrum = np.fft.rfft(x, 2 * w)
    rho = np.fft.irfft(spectrum * spectrum.conj())[:w] / power
    tau = 2.0 * np.cumsum(rho) - 1.0
    beyond = np.flatnonzero(np.arange(w) >= 5.0 * tau)
    time = float(tau[beyond[0]] if beyond.size else tau[-1])
    return float(min(by_span, w / max(time, 1.0)))


def fit_calibration(
    oof_scores: NDArray[np.floating], n_effective: float, breaks: tuple[int, ...] = ()
) -> Calibration:
    """The calibration of out-of-fold ``oof_scores`` float[w], in time order, of healthy windows.

    Tail: Gaussian in the log score below 2,000 windows, its spread widened for the few effective ones it is known from;
    peaks over threshold above (generalised Pareto by probability-weighted moments, Hosking & Wallis 1987, shape kept in
    [0, 0.5]: no bounded tails). ValueError for fewer than 8 scores or one that is not finite.
    """
    s = np.sort(np.asarray(oof_scores, dtype=np.float64))
    if s.size < 8 or not np.isfinite(s).all():
        raise ValueError(f"a calibration needs at least 8 finite scores, got {s.size}")
    s = np.maximum(s, 1e-12)
    pot = s.size >= POT_MIN_WINDOWS
    p_u = 0.02 if pot else 0.1
    u = float(np.quantile(s, 1.0 - p_u))
    body_p = np.concatenate([[1.0], np.linspace(0.95, p_u, 20)])
    body = np.quantile(s, 1.0 - body_p)
    tail_log_p = np.linspace(math.log(p_u), math.log(1e-12), 60)[1:]
    if pot:
        tail, shape = _gpd_tail(s[s > u] - u, tail_log_p - math.log(p_u))
        tail = u + tail
    else:
        log_s = np.log(s)
        n = max(n_effective, 2.0)
        shape = float(log_s.std(ddof=1)) * math.sqrt((1.0 + 1.0 / n) * n / max(n - 1.0, 1.0))
        shape = max(shape, 1e-6)
        # The tail starts at u whatever the Gaussian's own quantile there.
        z_u = _NORMAL.inv_cdf(1.0 - p_u)
        z = np.array([_upper_quantile(q) for q in tail_log_p.tolist()])
        tail = np.exp(math.log(u) + shape * (z - z_u))
    knots = np.maximum.accumulate(np.concatenate([body, tail]))
    log_p = np.concatenate([np.log(body_p), tail_log_p])
    rising = np.concatenate([[True], np.diff(knots) > 1e-12 * np.maximum(1.0, knots[1:])])
    kept = np.asarray(oof_scores, dtype=np.float32)[-MAX_KEPT_SCORES:]
    cut = max(np.asarray(oof_scores).size - MAX_KEPT_SCORES, 0)
    return Calibration(
        tail="pot" if pot else "log_gaussian",
        tail_shape=shape,
        knots=tuple(knots[rising].tolist()),
        log_p=tuple(log_p[rising].tolist()),
        n_windows=int(s.size),
        n_effective=float(n_effective),
        oof_scores=pack_floats(kept),
        oof_breaks=tuple(b - cut for b in breaks if b > cut),
    )


def p_values(calibration: Calibration, scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probability float64[w] in (0, 1] that a healthy window scores more than each of ``scores`` float[w].

    Falls as the score rises, and never reaches 0.
    """
    knots, log_p = np.array(calibration.knots), np.array(calibration.log_p)
    x = np.asarray(scores, dtype=np.float64)
    result = np.interp(x, knots, log_p)
    beyond = x > knots[-1]
    if beyond.any():
        slope = (log_p[-1] - log_p[-2]) / (knots[-1] - knots[-2])
        result[beyond] = np.maximum(log_p[-1] + slope * (x[beyond] - knots[-1]), _MIN_LOG_P)
    p: NDArray[np.float64] = np.exp(result)
    return p


def score_at(calibration: Calibration, p: float) -> float:
    """The score that a healthy window exceeds with probability ``p``; the inverse of :func:`p_values`."""
    if not 0.0 < p <= 1.0:
        raise ValueError(f"p must be in (0, 1], not {p}")
    knots, log_p = np.array(calibration.knots), np.array(calibration.log_p)
    wanted = math.log(p)
    if wanted < log_p[-1]:
        slope = (log_p[-1] - log_p[-2]) / (knots[-1] - knots[-2])
        return float(knots[-1] + (wanted - log_p[-1]) / slope)
    return float(np.interp(-wanted, -log_p, knots))


def level_for_p(calibration: Calibration, p: float, policy: AlertPolicy) -> AlertLevel:
    """A fixed level: windows with p-values at or below ``p``."""
    return _level(calibration, p, policy, None, False, None)


def level_for_budget(
    calibration: Calibration, policy: AlertPolicy, hop_ns: int, alerts_per_week: float
) -> AlertLevel:
    """The most lenient level at which healthy data raise at most ``alerts_per_week``.

    Alerts are counted by the alerting machine over the out-of-fold scores in time order, at a range of levels. Where the
    budget is below one alert in the span of those scores they cannot vouch for it: the level at which they raise
    their first alert is then taken as one alert a span, and the p-value lowered in proportion.
    """
    p = p_values(calibration, calibration.scores())
    span_weeks = p.size * hop_ns / WEEK_NS
    breaks = np.array(calibration.oof_breaks, dtype=np.intp)
    levels = np.exp(np.linspace(math.log(0.5), math.log(max(float(p.min()), 1e-12) / 2), _N_LEVELS))
    counts = np.array(
        [
            count_episodes(p <= q, p > min(1.0, q * policy.clear_ratio), policy, hop_ns, breaks)
            for q in levels.tolist()
        ]
    )
    # A very lenient level merges alerts into few long ones: going down from it, fewer is only trusted once it stays fewer.
    envelope = np.maximum.accumulate(counts[::-1])[::-1]
    allowed = alerts_per_week * span_weeks
    verified = 1.0 / span_weeks
    if allowed >= 1.0:
        level = float(levels[int(np.argmax(envelope <= allowed))])
        return _level(calibration, level, policy, alerts_per_week, False, verified)
    raising = np.flatnonzero(envelope >= 1)
    one_a_span = float(levels[raising[-1]]) if raising.size else float(levels[-1])
    level = max(one_a_span * allowed, 1e-290)
    return _level(calibration, level, policy, alerts_per_week, True, verified)


def _level(
    calibration: Calibration,
    p: float,
    policy: AlertPolicy,
    alerts_per_week: float | None,
    extrapolated: bool,
    verified: float | None,
) -> AlertLevel:
    p_clear = min(1.0, p * policy.clear_ratio)
    return AlertLevel(
        p_raise=p,
        p_clear=p_clear,
        score_raise=score_at(calibration, p),
        score_clear=score_at(calibration, p_clear),
        alerts_per_week=alerts_per_week,
        extrapolated=extrapolated,
        verified_per_week=verified,
    )


def _gpd_tail(excess: NDArray[np.float64], log_q: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Quantiles, at log exceedance probabilities ``log_q``, of the generalised Pareto fitted to sorted ``excess``; its shape."""
    n = excess.size
    a0 = float(excess.mean())
    plotting = (np.arange(1, n + 1) - 0.35) / n
    a1 = float((excess * (1.0 - plotting)).mean())
    shape = 2.0 - a0 / (a0 - 2.0 * a1) if a0 > 2.0 * a1 else 0.5
    shape = min(max(shape, 0.0), 0.5)
    scale = max(a0 * (1.0 - shape), 1e-12)  # keeps the mean excess
    if shape < 1e-6:
        return -scale * log_q, shape
    return scale / shape * np.expm1(-shape * log_q), shape


def _upper_quantile(log_p: float) -> float:
    """z with P(Z > z) = exp(log_p), Z standard normal."""
    return -_NORMAL.inv_cdf(math.exp(log_p))
