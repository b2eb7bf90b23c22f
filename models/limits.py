"""Absolute limits on a channel ("bearing above 85 °C for 60 s"): they need no model and no training.

Every sample is judged once, in event time, though windows overlap; what is carried (how long a channel has
been beyond, whether the limit is violated) is a function of the windows alone, so how they are split over
calls does not show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.messages import Severity
from models.runs import continues, period_ns, slack
from models.signal import NS_PER_S, Channel, WindowBatch, WindowSpec


class LimitSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One limit on one channel, in its unit: violated ``above`` or ``below`` for ``for_s`` without a break.

    Once violated it stays so until the channel is back inside by ``hysteresis``.
    """

    name: str
    channel: str
    above: float | None = None
    below: float | None = None
    for_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    severity: Severity = "critical"
    hysteresis: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class LimitState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that :class:`LimitChecks` carries from window to window; per limit but for ``end_ns``."""

    end_ns: int | None  # of the newest window
    since_ns: tuple[int | None, ...]  # since when the channel has been beyond
    violated: tuple[bool, ...]
    violated_since_ns: tuple[int, ...]  # since when it was beyond when that began; 0 where it never did


class LimitChecks:
    """Checks the windows of one device against ``limits``, in time order.

    ValueError for an unknown channel, a name used twice, a limit without a bound or with bounds that leave
    nothing.
    """

    def __init__(self, limits: Sequence[LimitSpec], channels: Sequence[Channel], spec: WindowSpec) -> None:
        names = [c.name for c in channels]
        for limit in limits:
            _check_limit(limit, names)
        if len({limit.name for limit in limits}) != len(limits):
            raise ValueError(f"two limits have the same name: {', '.join(limit.name for limit in limits)}")
        self._bounds = [_Bounds(limit, channels[names.index(limit.channel)].origin) for limit in limits]
        self._column = [names.index(limit.channel) for limit in limits]
        self._spec = spec
        self._period_ns = period_ns(spec)
        self._end_ns: int | None = None
        self._since_ns: list[int | None] = [None] * len(limits)
        self._violated = [False] * len(limits)
        self._violated_since_ns = [0] * len(limits)

    def check(self, batch: WindowBatch) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
        """(violated bool[w, l], extreme float64[w, l], since_ns int64[w, l]).

        ``violated``: the limit was violated at some sample of the window that the windows before had not
        shown. ``extreme``: of the window's valid samples the one furthest beyond, or nearest to it, in the
        channel's unit (origin added); NaN where none is valid. ``since_ns``: where violated, since when the
        channel has been beyond (the ``for_s`` that it takes included), of several times the first; else the
        window's start. A gap in the signal restarts the clock of ``for_s`` but does not end a violation.
        """
        w = batch.n
        violated = np.zeros((w, len(self._bounds)), dtype=bool)
        extreme = np.full(violated.shape, np.nan)
        since_ns = np.repeat(batch.start_ns[:, None], len(self._bounds), axis=1)
        columns = {j: self._channel(batch, j) for j in set(self._column)}
        begins, ends = batch.start_ns.tolist(), batch.end_ns.tolist()
        previous = [self._end_ns, *ends[:-1]]
        joined = [continues(self._spec, end, begin) for end, begin in zip(previous, begins, strict=False)]
        for k, (bounds, j) in enumerate(zip(self._bounds, self._column, strict=True)):
            x, ok, low, high = columns[j]
            extreme[:, k] = bounds.extreme(low, high)
            beyond = bounds.beyond(extreme[:, k])
            for i in range(w):
                if not joined[i]:
                    self._since_ns[k] = None
                if beyond[i] or self._violated[k] or self._since_ns[k] is not None:
                    end = previous[i]
                    n_seen = 0 if end is None else max(0, round((end - begins[i]) / self._period_ns))
                    fresh = np.flatnonzero(ok[i, n_seen:]) + n_seen
                    times = begins[i] + np.rint(fresh * self._period_ns).astype(np.int64)
                    since = self._step(k, x[i, fresh], times)
                    if since is not None:
                        violated[i, k], since_ns[i, k] = True, since
        if w:
            self._end_ns = ends[-1]
        return violated, extreme, since_ns

    def state(self) -> LimitState:
        """Everything that :meth:`restore` needs to go on as if nothing had happened."""
        return LimitState(
            end_ns=self._end_ns,
            since_ns=tuple(self._since_ns),
            violated=tuple(self._violated),
            violated_since_ns=tuple(self._violated_since_ns),
        )

    def restore(self, state: LimitState) -> None:
        """Go on from ``state``. ValueError when it is not of this many limits."""
        columns = (state.since_ns, state.violated, state.violated_since_ns)
        if any(len(column) != len(self._bounds) for column in columns):
            raise ValueError(f"limit state is of {len(state.violated)} limits, expected {len(self._bounds)}")
        self._end_ns, self._since_ns = state.end_ns, list(state.since_ns)
        self._violated = list(state.violated)
        self._violated_since_ns = list(state.violated_since_ns)

    def _channel(
        self, batch: WindowBatch, j: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
        """(samples [w, n], valid [w, n], least and greatest valid sample [w], NaN where there is none)."""
        x = np.ascontiguousarray(batch.values[:, :, j], dtype=np.float64)
        ok = np.ascontiguousarray(batch.valid[:, :, j])
        low = np.where(ok, x, np.inf).min(axis=1, initial=np.inf)
        high = np.where(ok, x, -np.inf).max(axis=1, initial=-np.inf)
        some = ok.any(axis=1)
        return x, ok, np.where(some, low, np.nan), np.where(some, high, np.nan)

    def _step(self, k: int, x: NDArray[np.float64], times: NDArray[np.int64]) -> int | None:
        """Take in samples never seen before; since when the channel was beyond where the limit was violated at any
        of them, else None."""
        carried_since = self._violated_since_ns[k] if self._violated[k] else None
        if x.size == 0:
            return carried_since
        bounds = self._bounds[k]
        value = x + bounds.origin
        beyond, inside = bounds.beyond(value), bounds.inside(value)
        index = np.arange(x.size)
        latest_within = np.maximum.accumulate(np.where(beyond, -1, index))
        run_start = times[np.minimum(latest_within + 1, x.size - 1)]
        carried = self._since_ns[k]
        if carried is not None:
            run_start = np.where(latest_within < 0, carried, run_start)
        lasted = beyond & (times + round(self._period_ns) - run_start >= bounds.for_ns)
        changes = np.maximum.accumulate(np.where(lasted | inside, index, -1))
        state = np.where(changes >= 0, lasted[np.maximum(changes, 0)], self._violated[k])
        first = carried_since if state[0] else None
        began = np.flatnonzero(state & ~np.append(self._violated[k], state[:-1]))
        if began.size:
            self._violated_since_ns[k] = int(run_start[began[-1]])
            first = int(run_start[began[0]]) if first is None else first
        self._violated[k] = bool(state[-1])
        self._since_ns[k] = int(run_start[-1]) if beyond[-1] else None
        return first


class _Bounds:
    """A limit's bounds, widened by what float32 rounding may add."""

    def __init__(self, limit: LimitSpec, origin: float) -> None:
        self.above = math.inf if limit.above is None else limit.above + slack(limit.above, origin)
        self.below = -math.inf if limit.below is None else limit.below - slack(limit.below, origin)
        self.hysteresis = limit.hysteresis
        self.for_ns = round(limit.for_s * NS_PER_S)
        self.origin = origin

    def beyond(self, value: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray((value > self.above) | (value < self.below))

    def inside(self, value: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray((value <= self.above - self.hysteresis) & (value >= self.below + self.hysteresis))

    def extreme(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the least and the greatest value the one further beyond its bound, origin added."""
        low, high = low + self.origin, high + self.origin
        return np.where(high - self.above >= self.below - low, high, low)


def _check_limit(limit: LimitSpec, names: Sequence[str]) -> None:
    what = f"limit {limit.name!r}"
    if limit.channel not in names:
        raise ValueError(f"{what} is on channel {limit.channel!r}, which is not one of {', '.join(names)}")
    bounds = [b for b in (limit.above, limit.below) if b is not None]
    if not bounds:
        raise ValueError(f"{what} has neither `above` nor `below`")
    if not all(math.isfinite(b) for b in (*bounds, limit.for_s, limit.hysteresis)):
        raise ValueError(f"{what} has a bound that is not finite")
    if (
        limit.above is not None
        and limit.below is not None
        and limit.above - limit.below <= 2 * limit.hysteresis
    ):
        raise ValueError(f"{what}: `below` + `hysteresis` must be less than `above` - `hysteresis`")
