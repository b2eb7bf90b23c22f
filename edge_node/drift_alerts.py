"""Alerts from re-centring: what is normal has moved as far as it may.

A feature's drift is named when the feature lastingly stands, on one side, beyond what it was commissioned at, and

- re-centring follows no further (its centre stands at the bound on that side), or
- a machine alert that the departure may have raised is over, or would be, because re-centring caught up with it.

Which of the two ends an alert, the fault or the re-centring, shows only once the fault has left the windows. So until
windows of a window's length have been normal to the model, and most of them beyond on that side, the drift is not named,
and an alert that blames a channel is not cleared while that channel stands beyond. So a lasting fault is alerted or
named, never silently normal; and a fault that is over, or a departure that re-centring can follow and that alarmed
nobody, is not worth a message. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.announcing import Announcer
from edge_node.check_alerts import Said
from edge_node.chunk import Chunk
from edge_node.plans import DevicePlan, ServedModel
from models import alerting
from models.alerting import Episodes, EpisodesState, Transition
from models.messages import Alert
from models.recentring import RecentringSpec

KEY = "drift"

# Noise moves the centre off its bound now and then: this share of the way there counts.
_AT_BOUND = 0.9


class DriftState(msgspec.Struct, kw_only=True):
    """Everything a :class:`DriftAlerts` remembers: its episode, which features are named as drifted, which
    of them the alert is about and where it was last seen beyond the bound, when a machine alert was last
    open; per feature that has drifted, of how many windows in a row the score was normal, and in how many of
    them it stood beyond the bound."""

    episodes: EpisodesState
    named: NDArray[np.bool_]
    feature: int
    observed: float
    alerted_ns: int | None
    n_normal: NDArray[np.int64]
    n_beyond: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Of the scored rows of a chunk, [m, k]: how far the features depart, in sigmas; which have drifted, of these which
    stand beyond the bound on that side, and of which the centre is there."""

    said: Said
    raw: NDArray[np.float32]
    departure: NDArray[np.float64]
    drifted: NDArray[np.bool_]
    beyond: NDArray[np.bool_]
    at_bound: NDArray[np.bool_]


class DriftAlerts:
    """The drift episode of one device with a model that re-centres."""

    def __init__(
        self, plan: DevicePlan, model: ServedModel, spec: RecentringSpec, announcer: Announcer
    ) -> None:
        self._plan = plan
        self._model = model
        self._announcer = announcer
        self._max_sigma = spec.max_drift_sigma
        self._tau_ns = round(spec.tau_windows * plan.window.hop_ns)
        # Re-centring itself knows what lasts.
        policy = msgspec.structs.replace(
            plan.alert, n_raise=1, m_raise=1, n_clear=1, min_duration_s=0.0, cooldown_s=0.0
        )
        self._episodes = Episodes(policy, plan.window.hop_ns)
        self._near_bound = np.where(model.recentred, _AT_BOUND * self._max_sigma * model.scale, np.inf)
        self._named = np.zeros(len(model.infos), np.bool_)
        self._feature, self._observed = 0, 0.0
        self._alerted_ns: int | None = None
        # So many windows share no sample with the one before them.
        self._n_decide = max(plan.alert.n_clear, -(-plan.window.n // plan.window.hop))
        self._n_normal = np.zeros(len(model.infos), np.int64)
        self._n_beyond = np.zeros(len(model.infos), np.int64)
        self._chunk: Chunk | None = None  # in hand
        self._rows: _Rows | None = None  # what there is to look at in it; None: nothing
        self._origin = {c.name: c.origin for c in plan.device.channels}
        self._shift = np.zeros(len(model.infos))  # of the centre, from the commissioned one
        self.open_rows: NDArray[np.bool_] | None = (
            None  # bool[m] of the chunk in hand: open after; None: never
        )

    def settle(self, chunk: Chunk, said: Said) -> None:
        """Step through the scored rows of ``chunk``, none of which was above the level nor in a machine alert."""
        self.begin(chunk, said)
        if self._rows is not None:
            for i in range(chunk.n):
                self.step(i, above=False, is_open=False)

    def begin(self, chunk: Chunk, said: Said) -> None:
        """Scored rows of ``chunk`` follow, each once through :meth:`step`; what there is to say goes to ``said``."""
        self._chunk, self._rows, self.open_rows = chunk, None, None
        if self._episodes.quiet and chunk.drifted is None:
            if np.count_nonzero(self._n_normal):
                self._n_normal[:] = self._n_beyond[:] = 0
            return
        assert chunk.raw is not None
        assert chunk.features is not None
        side = np.zeros(chunk.raw.shape, np.int8) if chunk.drifted is None else chunk.drifted
        drifted = side != 0
        self.open_rows = np.zeros(chunk.n, np.bool_)
        departure = (chunk.raw - self._shift - self._model.centre) / self._model.scale
        self._rows = _Rows(
            said=said,
            raw=chunk.raw,
            departure=departure,
            drifted=drifted,
            beyond=drifted & (side * departure >= self._max_sigma),
            at_bound=drifted & (side * (chunk.raw - self._shift - chunk.features) >= self._near_bound),
        )

    def holds(self, i: int, channels: Collection[str]) -> bool:
        """Whether at row ``i`` a feature of one of ``channels`` that has drifted, and is not named, stands beyond its bound:
        then a normal score does not say that all is well with them."""
        if self._rows is None:
            return False
        beyond = np.flatnonzero(self._rows.beyond[i] & ~self._named).tolist()
        return any(self._model.infos[j].channel in channels for j in beyond)

    def step(self, i: int, above: bool, is_open: bool) -> None:
        """Row ``i``: whether its score was above the level, and a machine alert open after it."""
        chunk, rows = self._chunk, self._rows
        assert chunk is not None
        row = int(chunk.rows[i])
        start_ns, end_ns = int(chunk.start_ns[row]), int(chunk.end_ns[row])
        if is_open:
            self._alerted_ns = end_ns
        if rows is None:
            return
        beyond, drifted = rows.beyond[i], rows.drifted[i]
        counts = drifted & (not above)
        self._n_normal = np.where(counts, self._n_normal + 1, 0)
        self._n_beyond = np.where(counts, self._n_beyond + beyond, 0)
        lasts = (self._n_normal >= self._n_decide) & (2 * self._n_beyond >= self._n_normal)
        absorbed = lasts & self._alerted_lately(end_ns)
        self._named = drifted & (self._named | (beyond & (rows.at_bound[i] | absorbed)))
        named = bool(self._named.any())
        if named and not (self._episodes.open and self._named[self._feature]):
            self._feature = int(np.argmax(np.where(self._named, np.abs(rows.departure[i]), -1.0)))
            self._observed = float(rows.raw[i, self._feature])
        elif beyond[self._feature]:
            self._observed = float(rows.raw[i, self._feature])
        change = self._episodes.step(start_ns, end_ns, named, not named, "warning", "")
        assert self.open_rows is not None
        self.open_rows[i] = self._episodes.open
        if change is not None:
            rows.said.append((row, KEY, self._alert(change, chunk.clock)))

    @property
    def is_open(self) -> bool:
        return self._episodes.open

    def end(self) -> Transition | None:
        """An operator ends what is open: nothing has drifted."""
        self._named[:] = False
        self._n_normal[:] = self._n_beyond[:] = 0
        self._alerted_ns = None
        return self._episodes.end()

    def move(self, shift: NDArray[np.float64]) -> None:
        """What comes is measured from the commissioned centre plus ``shift`` float64[k]."""
        self._shift = shift

    def state(self) -> DriftState:
        return DriftState(
            episodes=self._episodes.state(),
            named=self._named.copy(),
            feature=self._feature,
            observed=self._observed,
            alerted_ns=self._alerted_ns,
            n_normal=self._n_normal.copy(),
            n_beyond=self._n_beyond.copy(),
        )

    def restore(self, state: DriftState) -> None:
        self._episodes.restore(state.episodes)
        self._named = state.named.copy()
        self._feature, self._observed = state.feature, state.observed
        self._alerted_ns = state.alerted_ns
        self._n_normal, self._n_beyond = state.n_normal.copy(), state.n_beyond.copy()

    def _alerted_lately(self, end_ns: int) -> bool:
        """Whether a machine alert was open within re-centring's time constant: what has departed meanwhile
        may be what it was about."""
        return self._alerted_ns is not None and end_ns - self._alerted_ns <= self._tau_ns

    def _alert(self, change: Transition, clock: str) -> Alert:
        model, j = self._model, self._feature
        info = model.infos[j]
        seen = alerting.contribution(
            info,
            self._observed,
            float(model.centre[j] + self._shift[j]),
            float(model.scale[j]),
            1.0,
            self._origin[info.channel],
            self._max_sigma,
        )
        others = {model.infos[k].channel for k in np.flatnonzero(self._named).tolist()} - {info.channel}
        text = alerting.drift_sentence(
            self._plan.device.machine, seen, info, len(others), change.start_ns, change.end_ns, change.state
        )
        return self._announcer.alert("drift", KEY, change, text, clock, contributions=(seen,))
