"""When a run of anomalous windows becomes an alert, and when it stops being one: hysteresis in event time.

An episode is raised when ``n_raise`` of the last ``m_raise`` windows were above the raise level and it has lasted
``min_duration_s``; it is cleared after ``n_clear`` windows in a row below the clear level; after that ``cooldown_s`` must pass
before the next. Invariant: what a machine says depends on the windows it was shown and on nothing else. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.messages import AlertState, Severity
from models.signal import NS_PER_S

_RANK = {"info": 0, "warning": 1, "critical": 2}

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Ratio = Annotated[float, msgspec.Meta(ge=1)]


class AlertPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How windows become alerts. ``p_clear = min(1, p_raise * clear_ratio)``; critical at ``p_raise / critical_p_ratio``;
    an open alert is updated at once when it becomes more severe, else at most once per ``update_s``."""

    n_raise: Count = 3
    m_raise: Count = 3
    n_clear: Count = 3
    min_duration_s: Seconds = 0.0
    cooldown_s: Seconds = 300.0
    clear_ratio: Ratio = 5.0
    critical_p_ratio: Ratio = 1000.0
    update_s: Seconds = 600.0


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of an episode: ``start_ns`` of its first window, ``end_ns`` of its last one so far. ``detail`` is what the
    caller said of it (the channel to blame, the kind of fault), as of the last window that was above."""

    state: AlertState
    start_ns: int
    end_ns: int
    seq: int
    severity: Severity
    detail: str


class EpisodesState(msgspec.Struct, kw_only=True):
    """Everything an :class:`Episodes` remembers; ends are of windows."""

    recent: list[bool] = []
    forming_start_ns: int = 0
    forming_end_ns: int = 0  # end of the first window of what is forming
    open: bool = False
    start_ns: int = 0
    seq: int = 0
    severity: Severity = "info"
    detail: str = ""
    new_detail: str = ""
    n_new_detail: int = 0
    n_below: int = 0
    said_ns: int = 0
    cleared_ns: int | None = None


class Episodes:
    """The episodes of one device, kind and subject. Windows are ``hop_ns`` apart."""

    def __init__(self, policy: AlertPolicy, hop_ns: int) -> None:
        self._policy = policy
        self._hop_ns = hop_ns
        self._min_ns = round(policy.min_duration_s * NS_PER_S)
        self._cooldown_ns = round(policy.cooldown_s * NS_PER_S)
        self._update_ns = round(policy.update_s * NS_PER_S)
        self._state = EpisodesState()

    @property
    def open(self) -> bool:
        """Whether an episode has been raised and not cleared."""
        return self._state.open

    @property
    def quiet(self) -> bool:
        """Whether no episode is open or forming: windows that are not above then change nothing."""
        return not self._state.open and not any(self._state.recent)

    def step(
        self, start_ns: int, end_ns: int, above: bool, below: bool, severity: Severity, detail: str
    ) -> Transition | None:
        """One more window: ``above`` the raise level, or ``below`` the clear level, or neither. Never both."""
        if self._state.open:
            return self._step_open(end_ns, above, below, severity, detail)
        return self._step_closed(start_ns, end_ns, above, severity, detail)

    def reset(self) -> None:
        """Forget what is open or forming, silently (a break in a series that is only counted)."""
        self._state = EpisodesState()

    def state(self) -> EpisodesState:
        return msgspec.structs.replace(self._state, recent=list(self._state.recent))

    def restore(self, state: EpisodesState) -> None:
        self._state = msgspec.structs.replace(state, recent=list(state.recent))

    def _step_closed(
        self, start_ns: int, end_ns: int, above: bool, severity: Severity, detail: str
    ) -> Transition | None:
        s, policy = self._state, self._policy
        if above and not any(s.recent):
            s.forming_start_ns, s.forming_end_ns, s.severity = start_ns, end_ns, "info"
        s.recent = [*s.recent, above][-policy.m_raise :]
        if not above:
            return None
        s.detail = detail
        if _RANK[severity] > _RANK[s.severity]:
            s.severity = severity
        long_enough = end_ns - s.forming_end_ns + self._hop_ns >= self._min_ns
        rested = s.cleared_ns is None or end_ns - s.cleared_ns >= self._cooldown_ns
        if sum(s.recent) < policy.n_raise or not long_enough or not rested:
            return None
        s.open, s.start_ns, s.seq, s.n_below, s.n_new_detail = True, s.forming_start_ns, 0, 0, 0
        return self._say("raised", end_ns)

    def _step_open(
        self, end_ns: int, above: bool, below: bool, severity: Severity, detail: str
    ) -> Transition | None:
        s, policy = self._state, self._policy
        s.n_below = s.n_below + 1 if below else 0
        if s.n_below >= policy.n_clear:
            s.seq += 1
            change = self._say("cleared", end_ns)
            s.open, s.recent, s.cleared_ns = False, [], end_ns
            return change
        worse = False
        if above:
            worse = _RANK[severity] > _RANK[s.severity]
            if worse:
                s.severity = severity
            # A blamed channel has changed once another was blamed n_raise windows in a row.
            s.n_new_detail = s.n_new_detail + 1 if detail == s.new_detail and detail != s.detail else 1
            s.new_detail = detail
            if detail != s.detail and s.n_new_detail >= policy.n_raise:
                s.detail, worse = detail, True
        if worse or end_ns - s.said_ns >= self._update_ns:
            s.seq += 1
            return self._say("updated", end_ns)
        return None

    def _say(self, state: AlertState, end_ns: int) -> Transition:
        s = self._state
        s.said_ns = end_ns
        return Transition(state, s.start_ns, end_ns, s.seq, s.severity, s.detail)


def count_episodes(
    above: NDArray[np.bool_],
    below: NDArray[np.bool_],
    policy: AlertPolicy,
    hop_ns: int,
    breaks: NDArray[np.intp] | None = None,
) -> int:
    """How many episodes an :class:`Episodes` raises over windows ``above``, ``below`` bool[w], without stepping.

    ``breaks``: indices before which the series is not contiguous; nothing carries over them.
    """
    edges = [0, *(breaks.tolist() if breaks is not None else ()), above.size]
    return sum(_count(above[i:j], below[i:j], policy, hop_ns) for i, j in pairwise(edges))


def _count(above: NDArray[np.bool_], below: NDArray[np.bool_], policy: AlertPolicy, hop_ns: int) -> int:
    w = above.size
    m, n = policy.m_raise, policy.n_raise
    total = np.concatenate([[0], np.cumsum(above)])
    index = np.arange(w)
    in_last_m = total[1:] - total[np.maximum(index + 1 - m, 0)]
    candidates = np.flatnonzero(above & (in_last_m >= n))
    ups = np.flatnonzero(above)
    empties = np.flatnonzero(in_last_m == 0)
    n_below = _run_lengths(below)
    clears = np.flatnonzero(n_below >= policy.n_clear)
    min_hops = -(-round(policy.min_duration_s * NS_PER_S) // hop_ns)
    rest_hops = -(-round(policy.cooldown_s * NS_PER_S) // hop_ns)
    count = 0
    cleared = -1
    i = 0
    while i < candidates.size:
        r = int(candidates[i])
        first_kept = max(cleared + 1, r + 1 - m)
        e = int(np.searchsorted(empties, r)) - 1
        begin = max(cleared, int(empties[e]) if e >= 0 else -1) + 1
        forming = int(ups[np.searchsorted(ups, begin)])
        rested = cleared < 0 or r - cleared >= rest_hops
        if total[r + 1] - total[first_kept] < n or r - forming + 1 < min_hops or not rested:
            i += 1
            continue
        count += 1
        # Below-runs count from the raise on.
        c = int(np.searchsorted(clears, r + policy.n_clear))
        if c == clears.size:
            return count
        cleared = int(clears[c])
        i = int(np.searchsorted(candidates, cleared + 1))
    return count


def _run_lengths(flags: NDArray[np.bool_]) -> NDArray[np.intp]:
    """How many consecutive True values end at each index."""
    index = np.arange(flags.size)
    last_false = np.maximum.accumulate(np.where(flags, -1, index)) if flags.size else index
    return index - last_false
