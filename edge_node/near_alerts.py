"""How near a replay without machine alerts came to the first one: the level that would have raised it.

Of the windows only those are kept that the next ones still look back on. Pure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_node.plans import DevicePlan
from edge_node.settling import Trace
from models.episodes import AlertPolicy
from models.signal import NS_PER_S, Mode

Floats = NDArray[np.float64]


class NearAlert:
    """Of the scored windows of one device with a model, the strictest level at which :class:`models.episodes.Episodes`
    would have raised an episode, had it raised none before."""

    def __init__(self, plan: DevicePlan, step_ns: int) -> None:
        """``step_ns``: the usual time from window to window."""
        policy, window = plan.alert, plan.window
        gap_ns = max(policy.m_raise * window.hop_ns, window.window_ns)
        self._gap_ns = None if window.mode is Mode.BURST else gap_ns
        self._policy = policy
        self._n_lasting = lasting(policy, window.hop_ns, step_ns)
        self._p = np.zeros(0)  # of the newest windows
        self._end_ns: int | None = None
        self.p_raise: float | None = None  # None: there were too few windows for any

    def add(self, trace: Trace) -> None:
        """Windows later than those before."""
        if not trace.p.size:
            return
        ends = trace.end_ns
        before = np.concatenate([ends[:1] if self._end_ns is None else [self._end_ns], ends[:-1]])
        apart = ends < before  # the clock was set back
        if self._gap_ns is not None:
            apart |= ends - before > self._gap_ns
        self._end_ns = int(ends[-1])
        p_values = trace.p if trace.doubted is None else np.where(trace.doubted, np.inf, trace.p)
        for i, run in enumerate(np.split(p_values, np.flatnonzero(apart))):
            p = run if i else np.concatenate([self._p, run])
            needed = first_level(p, self._policy, self._n_lasting)
            if needed is not None:
                self.p_raise = needed if self.p_raise is None else min(needed, self.p_raise)
            self._p = p[-(self._policy.m_raise + self._n_lasting) :]


def lasting(policy: AlertPolicy, hop_ns: int, step_ns: int) -> int:
    """Over how many windows, at least, an episode of ``policy`` lasts before it is raised."""
    return 1 + max(0, -(-(round(policy.min_duration_s * NS_PER_S) - hop_ns) // step_ns))


def first_level(p: Floats, policy: AlertPolicy, n_lasting: int) -> float | None:
    """The least level at which an episode is raised in windows ``p`` float64[w], one after the other; None where they
    are too few."""
    n, m = policy.n_raise, policy.m_raise
    if p.size < max(n, n_lasting):
        return None
    padded = np.concatenate([np.full(m - 1, np.inf), p])
    last = np.lib.stride_tricks.sliding_window_view(padded, m)  # of each window, the last m
    enough = np.partition(last, n - 1, axis=1)[:, n - 1]  # at this level n of them are above
    unbroken = _greatest(last.min(axis=1), n_lasting)  # at this one some of them were, ever since
    level = float(np.max([enough[n_lasting - 1 :], unbroken, p[n_lasting - 1 :]], axis=0).min())
    return level if np.isfinite(level) else None


def _greatest(x: Floats, n: int) -> Floats:
    """The greatest of each ``n`` values in a row, float64[w - n + 1]: in blocks of n, from both sides (van Herk)."""
    blocks = np.concatenate([x, np.full(-x.size % n, -np.inf)]).reshape(-1, n)
    ahead = np.maximum.accumulate(blocks, axis=1).reshape(-1)
    behind = np.maximum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].reshape(-1)
    result: Floats = np.maximum(behind[: x.size - n + 1], ahead[n - 1 : x.size])
    return result
