"""Score -> p-value -> level, from out-of-fold scores only.

A model never calibrates on windows that it was fitted on: the healthy windows are cut into contiguous
blocks, each is scored by a model fitted on the others, less a purge on either side (windows overlap, and
neighbours resemble each other). The distribution of those scores gives p-values: the empirical one in its
body, a fitted tail beyond. The level that a budget of alerts asks for is found by running the alerting
machine over the same scores in time order, since alerts are not windows times p. Pure.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.cross_fit import block_folds as block_folds
from models.cross_fit import effective_windows as effective_windows
from models.episode_counts import count_episodes_at
from models.episodes import AlertPolicy
from models.messages import pack_floats, unpack_floats
from models.score_tails import log_gaussian_tail, pareto_tail
from models.signal import NS_PER_S

MAX_KEPT_SCORES = 20_000
# Peaks over threshold need that many windows, and so many effective ones: five in the tail that is fitted.
POT_MIN_WINDOWS = 2_000
POT_MIN_EFFECTIVE = 250.0

_POT_SHARE = 0.02
_GAUSSIAN_SHARE = 0.1
_LEAST_SCORE = 1e-12
_LAST_LOG_P = math.log(1e-12)
_MIN_LOG_P = -690.0  # p-values never reach 0

_WEEK_NS = 7 * 86_400 * NS_PER_S
_MAX_LEVEL = 0.1  # a window like one in ten is no anomaly, whatever the budget
_MAX_P_CLEAR = 0.5
_LEAST_LEVEL = 1e-290
_LEVEL_RATIO = 0.05
_MAX_LEVELS = 400


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an artifact's scores are distributed on healthy windows.

    ``knots`` (scores, ascending) and ``log_p`` (natural log of the probability that a healthy window scores
    more, falling) are interpolated linearly; beyond the last knot the last slope goes on. ``tail_shape`` is
    the Pareto's shape, or the standard deviation of the log score.

    ``oof_scores`` are the ``n_windows`` out-of-fold scores in time order, or the 20,000 highest of them with
    their indices in ``oof_index`` (base64 float32 and little-endian uint32; "" for all): no alert depends on
    the rest. ``oof_breaks``: ascending indices of windows before which time is missing. ``step_ns``: the usual
    time from window to window where that is not the hop (bursts); None: the hop.

    ValueError (and so msgspec.ValidationError) for a table that is not one.
    """

    tail: Literal["log_gaussian", "pot"]
    tail_shape: float
    knots: tuple[float, ...]
    log_p: tuple[float, ...]
    n_windows: int
    n_effective: float
    oof_scores: str
    oof_breaks: tuple[int, ...]
    oof_index: str = ""
    step_ns: int | None = None

    def __post_init__(self) -> None:
        knots, log_p = np.array(self.knots), np.array(self.log_p)
        if knots.size < 2 or knots.size != log_p.size:
            raise ValueError(f"{knots.size} knots and {log_p.size} log_p: two or more of each are a table")
        if not (np.isfinite(knots).all() and (np.diff(knots) > 0).all()):
            raise ValueError("knots must be finite and ascend")
        if not (np.isfinite(log_p).all() and (np.diff(log_p) < 0).all() and log_p[0] <= 0):
            raise ValueError("log_p must be finite, at most 0, and fall")
        if any(
            b <= a for a, b in zip((0, *self.oof_breaks), (*self.oof_breaks, self.n_windows), strict=True)
        ):
            raise ValueError("oof_breaks must ascend within the windows")
        if self.step_ns is not None and self.step_ns <= 0:
            raise ValueError(f"step_ns must be positive, not {self.step_ns}")
        if not np.isfinite(self.scores()[: self.places().size]).all():
            raise ValueError("oof_scores must be finite")

    def scores(self) -> NDArray[np.float32]:
        """The out-of-fold scores kept, float32[m], in time order."""
        return unpack_floats(self.oof_scores, (-1,))

    def places(self) -> NDArray[np.int64]:
        """Index among the ``n_windows`` of each of :meth:`scores`, int64[m]."""
        n_kept = self.scores().size
        if self.oof_index:
            found = np.frombuffer(base64.b64decode(self.oof_index, validate=True), "<u4").astype(np.int64)
        else:
            found = np.arange(n_kept if n_kept == self.n_windows else 0, dtype=np.int64)
        if found.size != n_kept or (np.diff(found) <= 0).any() or (found >= self.n_windows).any():
            raise ValueError(f"{n_kept} scores kept of {self.n_windows} windows, at {found.size} indices")
        return found


class AlertLevel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where windows begin to count: p-values at or below ``p_raise``; above ``p_clear`` they count as normal
    again.

    ``verified_per_week`` is the smallest rate of alerts that the healthy data can vouch for: one in their
    whole span. ``extrapolated``: the budget asks for less, so the level comes from the fitted tail. None for a
    level that was given and not found from a budget.
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
        said = f"{_alerts(self.alerts_per_week)} a week (score {self.score_raise:.3g})"
        if self.extrapolated and self.verified_per_week is not None:
            said += f", extrapolated, verified only to {_alerts(self.verified_per_week)} a week"
        return said


def fit_calibration(
    oof_scores: NDArray[np.floating],
    n_effective: float,
    breaks: tuple[int, ...] = (),
    step_ns: int | None = None,
) -> Calibration:
    """The calibration of out-of-fold ``oof_scores`` float[w], in time order, of healthy windows; ``breaks``
    and ``step_ns`` as in :class:`Calibration`.

    Body: the empirical quantiles. Tail, below 2,000 windows or 250 effective ones: Gaussian in the log
    score, by its median and the spread above it (the lower half, long to the left, says nothing of alarms),
    widened for the few effective windows that the median is known from. Else peaks over the 98 % quantile: a
    generalised Pareto by probability-weighted moments (Hosking & Wallis, Technometrics 29, 1987), the shape
    shrunk towards 0 (exponential) and kept in [0, 0.5].

    Measured on stationary AR data with 40 and more effective windows: p = .01 is realised as .004-.011 on
    average, p = .001 as .0001-.0013 (below 2,000 windows on the cautious side). With 15 effective windows a
    level is off by a factor of up to 5 either way. By whole trainings of 400 and 1,000 rows in windows of 60, worth
    6 and 16: p = .05 as .020 and .037 on average, .01 as .006 and .008, .001 as .0009 both times; in one training of
    ten .01 is .014 and .023. ValueError for fewer than 8 scores or one that is not
    finite.
    """
    given = np.asarray(oof_scores, dtype=np.float32)
    if given.size < 8 or not np.isfinite(given).all():
        raise ValueError(f"a calibration needs at least 8 scores, all finite; got {given.size}")
    s = np.maximum(np.sort(given.astype(np.float64)), _LEAST_SCORE)
    pot = s.size >= POT_MIN_WINDOWS and n_effective >= POT_MIN_EFFECTIVE
    p_u = _POT_SHARE if pot else _GAUSSIAN_SHARE
    body_p = np.concatenate([[1.0], np.linspace(0.95, p_u, 20)])
    body = np.quantile(s, 1.0 - body_p)
    u = float(body[-1])
    tail_log_p = np.linspace(math.log(p_u), _LAST_LOG_P, 60)[1:]
    if pot:
        tail, shape = pareto_tail(s[s > u] - u, u, n_effective / s.size, tail_log_p - math.log(p_u))
    else:
        tail, shape = log_gaussian_tail(s, u, n_effective, tail_log_p)
    knots = np.maximum.accumulate(np.concatenate([body, tail]))
    log_p = np.concatenate([np.log(body_p), tail_log_p])
    # Of equal scores the least surprising p-value holds.
    rising = np.concatenate([[True], np.diff(knots) > 1e-12 * knots[1:]])
    kept, index = given, ""
    if given.size > MAX_KEPT_SCORES:
        at = np.sort(np.argsort(-given, kind="stable")[:MAX_KEPT_SCORES])
        kept, index = given[at], base64.b64encode(at.astype("<u4").tobytes()).decode("ascii")
    return Calibration(
        tail="pot" if pot else "log_gaussian",
        tail_shape=shape,
        knots=tuple(knots[rising].tolist()),
        log_p=tuple(log_p[rising].tolist()),
        n_windows=given.size,
        n_effective=float(n_effective),
        oof_scores=pack_floats(kept),
        oof_breaks=tuple(breaks),
        oof_index=index,
        step_ns=step_ns,
    )


def p_values(calibration: Calibration, scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probability float64[w] in (0, 1] that a healthy window scores more than each of ``scores`` float[w].

    Falls as the score rises, and never reaches 0. NaN gives NaN.
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
    """The score that a healthy window exceeds with probability ``p``: the inverse of :func:`p_values`.
    ValueError unless 0 < p <= 1."""
    if not 0.0 < p <= 1.0:
        raise ValueError(f"p must be above 0 and at most 1, not {p}")
    knots, log_p = np.array(calibration.knots), np.array(calibration.log_p)
    wanted = math.log(p)
    if wanted < log_p[-1]:
        slope = (log_p[-1] - log_p[-2]) / (knots[-1] - knots[-2])
        return float(knots[-1] + (wanted - log_p[-1]) / slope)
    return float(np.interp(-wanted, -log_p, knots))


def level_for_p(calibration: Calibration, p: float, policy: AlertPolicy) -> AlertLevel:
    """A fixed level: windows with p-values at or below ``p``. ValueError unless 0 < p <= 1."""
    return _level(calibration, p, policy, None, False, None)


def level_for_budget(
    calibration: Calibration, policy: AlertPolicy, hop_ns: int, alerts_per_week: float
) -> AlertLevel:
    """The level at which a machine as healthy as in training raises ``alerts_per_week``.

    Alerts are counted by the alerting machine over the out-of-fold scores in time order, as a function of
    the level (made monotone: at lenient levels alerts merge). Where the budget allows k of them in the
    span of the scores, the level is that of the k-th alert to appear, since k of them are then to be expected
    of other data too; the last level before the next one appears would let through k + 1. A
    budget below one alert a span is beyond what the scores can vouch for: the p-value of the first
    alert's level is lowered in proportion, by the fitted tail. That is cautious, since staying above a level
    for ``n_raise`` windows gets rare at least as fast as reaching it does.
    """
    return levels_for_budgets(calibration, policy, hop_ns, (alerts_per_week,))[0]


def levels_for_budgets(
    calibration: Calibration, policy: AlertPolicy, hop_ns: int, budgets: Sequence[float]
) -> list[AlertLevel]:
    """:func:`level_for_budget` of each of ``budgets``, for little more than the price of one."""
    ladder = _Ladder.of(calibration, policy, hop_ns)
    verified = 1.0 / ladder.span_weeks
    found = [ladder.level(budget) for budget in budgets]
    return [
        _level(calibration, p, policy, budget, extrapolated, verified)
        for budget, (p, extrapolated) in zip(budgets, found, strict=True)
    ]


def budget_for_level(
    calibration: Calibration, policy: AlertPolicy, hop_ns: int, p_raise: float
) -> float | None:
    """The least budget, in alerts a week, whose level (:func:`level_for_budget`) windows with ``p_raise`` reach; None
    where no budget's is so lenient."""
    ladder = _Ladder.of(calibration, policy, hop_ns)
    low, high = 1.0 / ladder.span_weeks, (int(ladder.counts[0]) + 1) / ladder.span_weeks
    if ladder.level(high)[0] < p_raise:
        return None
    least = ladder.level(low)[0]
    if p_raise <= least:
        return low * p_raise / least
    while high > low * (1.0 + 1e-6):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if ladder.level(middle)[0] >= p_raise else (middle, high)
    return high


class _Ladder(NamedTuple):
    """Falling ``levels`` float64[m] and the number of alerts at each, int64[m], in ``span_weeks`` of healthy windows."""

    levels: NDArray[np.float64]
    counts: NDArray[np.int64]
    span_weeks: float

    @classmethod
    def of(cls, calibration: Calibration, policy: AlertPolicy, hop_ns: int) -> _Ladder:
        levels, counts = _count_alerts(calibration, policy, hop_ns)
        step_ns = calibration.step_ns or hop_ns
        return cls(levels, counts, calibration.n_windows * step_ns / _WEEK_NS)

    def level(self, alerts_per_week: float) -> tuple[float, bool]:
        """(level, whether it is extrapolated) for a budget; never stricter for a larger one."""
        allowed = alerts_per_week * self.span_weeks
        if allowed < 1.0:
            return max(self._of(1) * allowed, _LEAST_LEVEL), True
        k = math.floor(allowed)
        between = math.log(allowed / k) / math.log((k + 1) / k)
        return self._of(k) * (self._of(k + 1) / self._of(k)) ** between, False

    def _of(self, k: int) -> float:
        """The strictest level with ``k`` alerts; the most lenient where none has so many."""
        found = np.flatnonzero(self.counts >= k)
        return float(self.levels[found[-1]]) if found.size else float(self.levels[0])


def _count_alerts(
    calibration: Calibration, policy: AlertPolicy, hop_ns: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Levels float64[m], falling, and how many alerts each raises over the out-of-fold scores, int64[m], monotone."""
    scores = calibration.scores().astype(np.float64)
    p = p_values(calibration, scores)
    places = calibration.places()
    breaks = np.array(calibration.oof_breaks, dtype=np.int64)
    top = _MAX_LEVEL
    if p.size < calibration.n_windows:  # what was not kept must be below the clear level
        top = min(top, float(p.max()) * 0.999 / policy.clear_ratio)
    bottom = min(float(p.min()), top)
    n_levels = min(2 + math.ceil(math.log(top / bottom) / _LEVEL_RATIO), _MAX_LEVELS)
    levels = np.exp(np.linspace(math.log(top), math.log(bottom), n_levels))
    levels[0], levels[-1] = top, bottom
    counts = np.empty(n_levels, dtype=np.int64)
    for i, q in enumerate(levels.tolist()):
        above, held = places[p <= q], places[p <= _p_clear(q, policy)]
        counts[i] = count_episodes_at(
            above,
            held,
            calibration.n_windows,
            policy,
            hop_ns,
            breaks,
            calibration.step_ns,
            scores[p <= q],
        )
    return levels, np.maximum.accumulate(counts[::-1])[::-1]


def _level(
    calibration: Calibration,
    p: float,
    policy: AlertPolicy,
    alerts_per_week: float | None,
    extrapolated: bool,
    verified: float | None,
) -> AlertLevel:
    p_clear = _p_clear(p, policy)
    return AlertLevel(
        p_raise=p,
        p_clear=p_clear,
        score_raise=score_at(calibration, p),
        score_clear=score_at(calibration, p_clear),
        alerts_per_week=alerts_per_week,
        extrapolated=extrapolated,
        verified_per_week=verified,
    )


def _p_clear(p_raise: float, policy: AlertPolicy) -> float:
    # Half of all healthy windows are above .5, so whatever was raised can be cleared.
    return max(p_raise, min(_MAX_P_CLEAR, p_raise * policy.clear_ratio))


def _alerts(rate: float) -> str:
    number = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"{number} alert" if number == "1" else f"{number} alerts"
