"""Alerts from scores: the machine is not as it was.

Invariants: a sensor that may have frozen raises no machine alert; a window whose int8 output saturated scores at
least what it seems to, so it may raise an alert and is never taken for normal; an alert is a function of the windows
scored before it, and names the worst of those that the channel it blames is to blame for. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.announcing import Announcer
from edge_node.check_alerts import Said
from edge_node.chunk import Chunk
from edge_node.plans import DevicePlan, ServedModel
from models import alerting
from models.alerting import Episodes, EpisodesState, Transition
from models.messages import Alert, Severity
from models.signal import Mode

KEY = "machine"
MAX_FEATURE_ROWS = 8


class Worst(msgspec.Struct, kw_only=True):
    """The worst window of an episode for which one channel is to blame: float32[k] each."""

    score: float
    residual: NDArray[np.float32]
    raw: NDArray[np.float32]
    shift: NDArray[np.float32]  # how far re-centring had moved
    low: NDArray[np.float32] | None = None  # the running range before it
    high: NDArray[np.float32] | None = None


class MachineState(msgspec.Struct, kw_only=True):
    """Everything a :class:`MachineAlerts` remembers: its episode, and of the windows in it the greatest score
    with its p-value, whether one may have been greater still, the worst by blamed channel, and the last feature
    rows."""

    episodes: EpisodesState
    score: float
    p: float
    worst: dict[str, Worst]
    rows: list[NDArray[np.float32]]
    rows_end_ns: int
    at_least: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Of the rows of a chunk, bool[m]: the score was above the level; an episode was open after it. A window
    above for which a suspect sensor is to blame neither raises nor clears."""

    above: NDArray[np.bool_]
    is_open: NDArray[np.bool_]


class Drift(Protocol):
    """What re-centring has to do with an alert; :class:`edge_node.drift_alerts.DriftAlerts`."""

    def begin(self, chunk: Chunk, said: Said) -> None:
        """Rows of ``chunk`` follow."""

    def holds(self, i: int, channels: Collection[str]) -> bool:
        """Whether a score that is normal again at row ``i`` may be so because re-centring caught up with a fault of one of
        ``channels``."""

    def step(self, i: int, above: bool, is_open: bool) -> None:
        """Row ``i``: whether its score was above the level, and an alert open after it."""


class MachineAlerts:
    """The machine episode of one device with a model."""

    def __init__(self, plan: DevicePlan, model: ServedModel, announcer: Announcer) -> None:
        self._plan = plan
        self._model = model
        self._announcer = announcer
        window = plan.window
        # A window or two may be missing (a sensor fault, a gap); what is further apart is not one run.
        gap_ns = max(plan.alert.m_raise * window.hop_ns, window.window_ns)
        self._gap_ns = None if window.mode is Mode.BURST else gap_ns
        self._episodes = Episodes(plan.alert, window.hop_ns, self._gap_ns)
        self._names = list(dict.fromkeys(i.channel for i in model.infos))
        columns = [np.flatnonzero([i.channel == name for i in model.infos]) for name in self._names]
        self._column = {i.name: j for j, i in enumerate(model.infos)}
        self._columns = columns
        origin = {c.name: c.origin for c in plan.device.channels}
        self._origins = [origin[name] for name in self._names]
        self._score, self._p, self._at_least = 0.0, 1.0, False
        self._worst: dict[str, Worst] = {}
        self._rows: list[NDArray[np.float32]] = []
        self._rows_end_ns = 0

    def settle(self, chunk: Chunk, said: Said, drift: Drift | None) -> Judged | None:
        """Step through the scored rows of ``chunk``, of which there is one at least, with ``drift`` row by row; None:
        none was above the level and no episode is open or forming, as nearly always, and nobody was told."""
        assert chunk.p is not None
        assert chunk.residual is not None
        assert chunk.score is not None
        assert chunk.backend is not None
        level = self._plan.level(chunk.backend)
        threshold = None if chunk.backend == "cloud" else level.score_raise  # another model's scores
        if chunk.least_p > level.p_raise and self._episodes.quiet:
            return None
        above = chunk.p <= level.p_raise
        if self._episodes.quiet and not np.count_nonzero(above):
            return None
        is_open = np.zeros(chunk.n, np.bool_)
        critical = chunk.p <= level.p_raise / self._plan.alert.critical_p_ratio
        below = (chunk.p > level.p_clear) & ~above
        if chunk.saturated is not None:
            below &= ~chunk.saturated
        episodes = self._episodes
        if drift is not None:
            drift.begin(chunk, said)
        for i, row in enumerate(chunk.rows.tolist()):
            start, end = int(chunk.start_ns[row]), int(chunk.end_ns[row])
            channel = self._blamed(chunk.residual[i]) if above[i] else -1
            counts = channel >= 0 and not (chunk.suspect is not None and chunk.suspect[row, channel])
            blamed = self._names[channel] if counts else ""
            if counts or not episodes.quiet:
                self._remember(chunk, i, blamed, end)
            severity: Severity = "critical" if critical[i] else "warning"
            normal = bool(below[i]) and not (drift is not None and drift.holds(i, self._worst))
            # Scores of another model say nothing of how much worse this is.
            size = 0.0 if chunk.backend == "cloud" else float(chunk.score[i])
            change = episodes.step(start, end, counts, normal, severity, blamed, size)
            if change is not None:
                said.append((row, KEY, self._alert(change, threshold, chunk.clock)))
            is_open[i] = episodes.open
            if drift is not None:
                drift.step(i, bool(above[i]), episodes.open)
            if episodes.quiet:
                self._forget()
        return Judged(above, is_open)

    def doubted(self, chunk: Chunk) -> NDArray[np.bool_] | None:
        """Of the scored rows of ``chunk``, bool[m]: a suspect sensor is to blame; None: none is."""
        if chunk.suspect is None:
            return None
        assert chunk.residual is not None
        blamed = [self._blamed(residual) for residual in chunk.residual]
        result: NDArray[np.bool_] = chunk.suspect[chunk.rows, blamed]
        return result

    @property
    def is_open(self) -> bool:
        return self._episodes.open

    def end(self) -> Transition | None:
        """An operator ends what is open, or forming."""
        self._forget()
        return self._episodes.end()

    def state(self) -> MachineState:
        return MachineState(
            episodes=self._episodes.state(),
            score=self._score,
            p=self._p,
            worst=dict(self._worst),
            rows=list(self._rows),
            rows_end_ns=self._rows_end_ns,
            at_least=self._at_least,
        )

    def restore(self, state: MachineState) -> None:
        self._episodes.restore(state.episodes)
        self._score, self._p = state.score, state.p
        self._worst = dict(state.worst)
        self._rows, self._rows_end_ns = list(state.rows), state.rows_end_ns
        self._at_least = state.at_least

    def _blamed(self, residual: NDArray[np.float32]) -> int:
        """The channel with the greatest part of the squared residual."""
        power = residual.astype(np.float64) ** 2
        return int(np.argmax([power[columns].sum() for columns in self._columns]))

    def _remember(self, chunk: Chunk, i: int, blamed: str, end_ns: int) -> None:
        assert chunk.p is not None
        assert chunk.score is not None
        assert chunk.residual is not None
        assert chunk.raw is not None
        assert chunk.features is not None
        apart = self._gap_ns is not None and end_ns - self._rows_end_ns > self._gap_ns
        if apart and not self._episodes.open:
            self._forget()
        if blamed:  # those of an episode that are normal would be no example of it
            self._rows = [*self._rows[1 - MAX_FEATURE_ROWS :], chunk.features[i].copy()]
        self._rows_end_ns = end_ns
        score, p = float(chunk.score[i]), float(chunk.p[i])
        if not self._worst or score > self._score:
            self._score, self._p = score, p
        if chunk.saturated is not None and chunk.saturated[i]:
            self._at_least = True
        worst = self._worst.get(blamed)
        if blamed and (worst is None or score > worst.score):
            self._worst[blamed] = Worst(
                score=score,
                residual=chunk.residual[i].copy(),
                raw=chunk.raw[i].copy(),
                shift=chunk.raw[i] - chunk.features[i],
                low=None if chunk.low is None else chunk.low[i].copy(),
                high=None if chunk.high is None else chunk.high[i].copy(),
            )

    def _forget(self) -> None:
        self._score, self._p, self._at_least = 0.0, 1.0, False
        self._worst, self._rows = {}, []

    def _alert(self, change: Transition, threshold: float | None, clock: str) -> Alert:
        model, worst = self._model, self._worst[change.detail]
        centre, scale, sigma = model.centre + worst.shift, model.scale, alerting.EXPECTED_SIGMA
        if worst.low is not None and worst.high is not None:  # expected is what there had been
            low, high = worst.low.astype(np.float64), worst.high.astype(np.float64)
            centre, scale, sigma = (low + high) / 2.0, (high - low) / 2.0, 1.0
        contributions = alerting.blame(
            worst.residual, model.infos, worst.raw, centre, scale, self._origins, sigma=sigma
        )
        text = alerting.machine_sentence(
            self._plan.device.machine,
            contributions,
            model.infos,
            float(centre[self._column[contributions[0].feature]]),
            change.start_ns,
            change.end_ns,
            change.state,
            self._score if self._at_least else None,
        )
        return self._announcer.alert(
            "machine",
            KEY,
            change,
            text,
            clock,
            contributions=contributions,
            score=self._score,
            p_value=self._p,
            threshold=threshold,
            rows=np.stack(self._rows) if self._plan.privacy == "features" else None,
        )
