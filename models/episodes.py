"""When a run of anomalous windows becomes an alert, and when it stops being one: hysteresis in event time.

An episode is raised when ``n_raise`` of the last ``m_raise`` windows were above the raise level and it has
lasted ``min_duration_s``; it is cleared after ``n_clear`` windows in a row below the clear level; the next
is raised no sooner than ``cooldown_s`` after that, unless it is ``worse_ratio`` times as great: a small alarm silences no
fault.
Invariant: what a machine says depends on the windows it was shown and on nothing else. Windows that it is not shown
(the machine at rest, the sensor faulty, the device silent) freeze it: an open episode stays open and is cleared by the
windows after them. Pure.

:func:`models.episode_counts.count_episodes` counts the same episodes without stepping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from models.messages import AlertState, Severity
from models.signal import NS_PER_S

_RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}
# Blame has moved once another detail has this share of the windows above since the last message: two channels that
# take turns at random seldom get there.
_DOMINATES = 2 / 3

_UPDATE_S, _UPDATE_WINDOWS = 600.0, 10

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Ratio = Annotated[float, msgspec.Meta(ge=1)]

# Episodes are told apart by their start, so no two in a row may share it.
_SAME_START_NS = 1_000


class AlertPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How windows become alerts.

    ``p_clear = p_raise * clear_ratio`` (at most .5); critical at ``p_raise / critical_p_ratio``. What is
    ``worse_ratio`` times as great as the episode before ever was has no rest to wait for. An open
    alert is updated once per ``update_s`` of event time (None: as :func:`default_update_s` says), and at once when it
    becomes more severe. Its ``detail`` is replaced in such an update by another that clearly dominates: that of two
    thirds of the windows above since the last message, and of ``n_raise`` at least.
    """

    n_raise: Count = 3
    m_raise: Count = 3
    n_clear: Count = 3
    min_duration_s: Seconds = 0.0
    cooldown_s: Seconds = 300.0
    clear_ratio: Ratio = 5.0
    critical_p_ratio: Ratio = 1000.0
    worse_ratio: Ratio = 2.0
    update_s: Seconds | None = None


def default_update_s(step_s: float) -> float:
    """How often an open alert is updated of which nothing is said, where windows are ``step_s`` apart: every ten minutes,
    or every ten windows where that is longer, for a device of one window an hour has nothing new to say in each."""
    return max(_UPDATE_S, _UPDATE_WINDOWS * step_s)


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of an episode: ``start_ns`` of its first window, ``end_ns`` of its last one so far.

    ``seq`` counts from 0 (raised). ``severity`` is the worst so far. ``detail`` is what the caller said of
    the windows above (the channel to blame, the kind of fault): of the raising one, or what has dominated since.
    """

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
    n_of_detail: dict[str, int] = {}  # windows above since the last message, by detail
    n_below: int = 0
    said_ns: int = 0
    cleared_ns: int | None = None
    size: float = 0.0  # the greatest of what is forming, or open
    cleared_size: float = 0.0  # of the episode that was cleared last
    last_ns: int | None = None


class Episodes:
    """The episodes of one device, kind and subject.

    ``hop_ns`` is what one window adds to a duration. Windows further than ``gap_ns`` apart are not of one
    run: what was forming, and the count of windows below, start anew (None: they never do, for devices whose
    records come seldom). ValueError when ``n_raise`` exceeds ``m_raise``.
    """

    def __init__(self, policy: AlertPolicy, hop_ns: int, gap_ns: int | None = None) -> None:
        if policy.n_raise > policy.m_raise:
            raise ValueError(f"{policy.n_raise} of {policy.m_raise} windows can never be above")
        self._policy = policy
        self._hop_ns = hop_ns
        self._gap_ns = gap_ns
        self._min_ns = round(policy.min_duration_s * NS_PER_S)
        self._cooldown_ns = round(policy.cooldown_s * NS_PER_S)
        update_s = default_update_s(hop_ns / NS_PER_S) if policy.update_s is None else policy.update_s
        self._update_ns = round(update_s * NS_PER_S)
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
        self,
        start_ns: int,
        end_ns: int,
        above: bool,
        below: bool,
        severity: Severity,
        detail: str,
        size: float = 0.0,
    ) -> Transition | None:
        """One more window, later than all before or of a clock that was set back: ``above`` the raise level,
        ``below`` the clear level, or neither (never both). ``severity``, ``detail`` and ``size`` (its score, say; 0: nobody
        knows, and every episode has its rest) count where it is above."""
        s = self._state
        if s.last_ns is not None and end_ns < s.last_ns:  # the clock was set back: no rest is left to keep
            s.recent, s.n_below, s.n_of_detail = [], 0, {}
            s.cleared_ns, s.said_ns = None, min(s.said_ns, end_ns)
        if self._gap_ns is not None and s.last_ns is not None and end_ns - s.last_ns > self._gap_ns:
            s.recent, s.n_below, s.n_of_detail = [], 0, {}
        s.last_ns = end_ns
        if s.open:
            s.size = max(s.size, size) if above else s.size
            return self._step_open(end_ns, above, below, severity, detail)
        return self._step_closed(start_ns, end_ns, above, severity, detail, size)

    def end(self) -> Transition | None:
        """What is open ends at its last window, for a reason that is not in the windows, and what is forming is forgotten;
        None: nothing was open."""
        s = self._state
        change = None
        if s.open:
            end_ns = s.start_ns if s.last_ns is None else s.last_ns
            s.seq += 1
            change = self._say("cleared", end_ns)
            s.open, s.cleared_ns, s.cleared_size = False, end_ns, s.size
        s.recent, s.n_below = [], 0
        return change

    def reset(self) -> None:
        """Forget everything, silently (before a series of another time)."""
        self._state = EpisodesState()

    def state(self) -> EpisodesState:
        """Everything that :meth:`restore` needs to go on as if nothing had happened."""
        return self._copy(self._state)

    def restore(self, state: EpisodesState) -> None:
        """Go on from ``state``, under this machine's own policy."""
        self._state = self._copy(state)

    @staticmethod
    def _copy(state: EpisodesState) -> EpisodesState:
        return msgspec.structs.replace(state, recent=list(state.recent), n_of_detail=dict(state.n_of_detail))

    def _step_closed(
        self, start_ns: int, end_ns: int, above: bool, severity: Severity, detail: str, size: float
    ) -> Transition | None:
        s, policy = self._state, self._policy
        if above and not any(s.recent):
            s.forming_start_ns, s.forming_end_ns, s.severity, s.size = start_ns, end_ns, "info", 0.0
        s.recent = [*s.recent, above][-policy.m_raise :]
        if not above:
            return None
        s.detail, s.size = detail, max(s.size, size)
        if _RANK[severity] > _RANK[s.severity]:
            s.severity = severity
        long_enough = end_ns - s.forming_end_ns + self._hop_ns >= self._min_ns
        rested = s.cleared_ns is None or end_ns - s.cleared_ns >= self._cooldown_ns
        rested = rested or 0.0 < self._policy.worse_ratio * s.cleared_size <= s.size
        if sum(s.recent) < policy.n_raise or not long_enough or not rested:
            return None
        start_ns = s.forming_start_ns
        if s.cleared_ns is not None and 0 <= s.start_ns - start_ns < _SAME_START_NS:
            start_ns = s.start_ns + 1  # event time stood still or went back: still another episode
        s.open, s.start_ns, s.seq, s.n_below = True, start_ns, 0, 0
        return self._say("raised", end_ns)

    def _step_open(
        self, end_ns: int, above: bool, below: bool, severity: Severity, detail: str
    ) -> Transition | None:
        s, policy = self._state, self._policy
        s.n_below = s.n_below + 1 if below else 0
        if s.n_below >= policy.n_clear:
            s.seq += 1
            change = self._say("cleared", end_ns)
            s.open, s.recent, s.cleared_ns, s.cleared_size = False, [], end_ns, s.size
            return change
        worse = above and _RANK[severity] > _RANK[s.severity]
        if worse:
            s.severity = severity
        if above:
            s.n_of_detail[detail] = s.n_of_detail.get(detail, 0) + 1
        if not (worse or end_ns - s.said_ns >= self._update_ns):
            return None
        s.detail = self._dominant()
        s.seq += 1
        return self._say("updated", end_ns)

    def _dominant(self) -> str:
        """The detail that the next message should have."""
        s = self._state
        most = max(s.n_of_detail, key=lambda detail: s.n_of_detail[detail], default=s.detail)
        n, n_all = s.n_of_detail.get(most, 0), sum(s.n_of_detail.values())
        return most if n >= self._policy.n_raise and n >= _DOMINATES * n_all else s.detail

    def _say(self, state: AlertState, end_ns: int) -> Transition:
        s = self._state
        s.said_ns, s.n_of_detail = end_ns, {}
        return Transition(state, s.start_ns, end_ns, s.seq, s.severity, s.detail)
