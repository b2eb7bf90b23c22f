"""Alerts from re-centring: what is normal has moved as far as it may.

A feature's drift is named when the feature has lastingly left what it was commissioned at, and

- re-centring follows no further (its centre stands at the bound), or
- a machine alert that the departure may have raised has ended, because re-centring caught up with it.

So a lasting fault is alerted or named, never silently normal; and a departure that re-centring can follow,
and that alarmed nobody, is not worth a message. Pure.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.announcing import Announcer
from edge_node.check_alerts import Said
from edge_node.chunk import Chunk
from edge_node.machine_alerts import Judged
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
    open."""

    episodes: EpisodesState
    named: NDArray[np.bool_]
    feature: int
    observed: float
    alerted_ns: int | None


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
        self._origin = {c.name: c.origin for c in plan.device.channels}

    def settle(self, chunk: Chunk, judged: Judged | None, said: Said) -> None:
        """Step through the scored rows of ``chunk``, as ``judged``."""
        quiet = self._episodes.quiet and chunk.drifted is None
        if quiet and judged is None:
            return
        ends = chunk.end_ns[chunk.rows].tolist()
        if quiet:
            assert judged is not None
            if judged.is_open.any():
                self._alerted_ns = ends[int(np.flatnonzero(judged.is_open)[-1])]
            return
        assert chunk.raw is not None
        assert chunk.features is not None
        for i, row in enumerate(chunk.rows.tolist()):
            is_open = judged is not None and bool(judged.is_open[i])
            if is_open:
                self._alerted_ns = ends[i]
            departure = np.abs(chunk.raw[i] - self._model.centre) / self._model.scale
            beyond = departure >= self._max_sigma
            if chunk.drifted is None or not chunk.drifted[i].any():
                self._named[:] = False
            else:
                at_bound = np.abs(chunk.raw[i] - chunk.features[i]) >= self._near_bound
                absorbed = not is_open and self._alerted_lately(ends[i])
                new = beyond & (at_bound | absorbed)
                self._named = chunk.drifted[i] & (self._named | new)
            above = bool(self._named.any())
            if above and not (self._episodes.open and self._named[self._feature]):
                self._feature = int(np.argmax(np.where(self._named, departure, -1.0)))
                self._observed = float(chunk.raw[i, self._feature])
            elif beyond[self._feature]:
                self._observed = float(chunk.raw[i, self._feature])
            change = self._episodes.step(int(chunk.start_ns[row]), ends[i], above, not above, "warning", "")
            if change is not None:
                said.append((row, KEY, self._alert(change, chunk.clock)))

    def state(self) -> DriftState:
        return DriftState(
            episodes=self._episodes.state(),
            named=self._named.copy(),
            feature=self._feature,
            observed=self._observed,
            alerted_ns=self._alerted_ns,
        )

    def restore(self, state: DriftState) -> None:
        self._episodes.restore(state.episodes)
        self._named = state.named.copy()
        self._feature, self._observed = state.feature, state.observed
        self._alerted_ns = state.alerted_ns

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
            float(model.centre[j]),
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
