"""What the page shows, kept and gathered on the daemon's loop, so that it is of one instant.

Strategy: while nobody looks, the scores of each turn of the clock go into their rings and alerts that are over into a short
list, and that is all. Who looks is answered from what there is; the costly part, the gateway's figures, is
gathered at most once in ``FRESH_S``, and for at most ``GATHERING_SHARE`` of the time, however many look.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edge_node.assembly import Core
from edge_node.config_schema import Source
from edge_node.plans import DevicePlan
from edge_node.requests import Requests
from edge_node.settling import Trace
from edge_node.uplink import Uplink
from edge_node.web.scores import Levels, ScoreBook, Scores
from edge_node.web.view import (
    NS_PER_MS,
    DeviceInfo,
    DeviceNow,
    Health,
    Live,
    ShownAlert,
    device_info,
    latency_ms,
    shown,
)
from models.messages import Alert, ConnectionStatus, DeviceStateMessage, Event, ModelState, Status
from models.signal import DeviceCondition

FRESH_S = 0.8  # figures that old are new enough for who asks every second
GATHERING_SHARE = 0.01
MAX_OVER = 50  # alerts that are over
MAX_DRAWN = 64  # devices whose scores one answer holds


@dataclass(frozen=True, slots=True)
class Query:
    """``layout``, ``over``: those that who asks knows; ``since``: of which devices the scores are wanted, from which second
    on."""

    layout: str
    over: str
    since: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Sight:
    """The parts of the daemon that a page looks at, as they are now."""

    core: Core
    sources: Sequence[Source]
    states: Mapping[str, DeviceStateMessage]
    gateway_alerts: list[Alert]
    requests: Requests
    uplink: Uplink | None
    problem: str | None
    latency_s: Mapping[str, tuple[int, float]]
    status: Callable[[], Status]
    model_states: Sequence[ModelState] = ()


class Page:
    """Does nothing until :meth:`open`."""

    def __init__(self) -> None:
        self._is_open = False
        self._core: Core | None = None
        self._plans: tuple[DevicePlan, ...] = ()
        self._levels: dict[str, Levels] = {}
        self._heard: list[Trace] = []
        self._book = ScoreBook()
        self._infos: tuple[DeviceInfo, ...] | None = None
        self._layout = ""
        self._over: OrderedDict[str, Alert] = OrderedDict()  # the oldest first
        self._over_shown: tuple[ShownAlert, ...] = ()
        self._n_over_changes = 0
        self._health: Health | None = None
        self._progress: dict[str, float] = {}
        self._gather_s = 0.0  # when to do so again

    def open(self) -> None:
        """Somebody may look from here on."""
        self._is_open = True

    def noted(self, event: Event) -> None:
        """``event`` has been said."""
        if self._is_open and isinstance(event, Alert) and event.state == "cleared":
            self._over[event.alert_id] = event
            self._over.move_to_end(event.alert_id)
            if len(self._over) > MAX_OVER:
                self._over.popitem(last=False)

    def step(self, core: Core) -> None:
        """Keeps what ``core`` has scored since the last call; once a tick."""
        if not self._is_open:
            return
        if self._heard:  # what the last model scored, or, where there was none, this one
            now = {plan.device.device_id: plan.levels for plan in core.plans}
            self._book.add(self._heard, {d: self._levels.get(d) or now[d] for d in now})
            self._heard.clear()
        if core is not self._core:
            self._core = core
            self._infos = None
            self._heard = core.pipeline.tap([plan.device.device_id for plan in core.plans])
        if core.plans is not self._plans:  # another configuration, or another model
            self._plans = core.plans
            self._levels = {plan.device.device_id: plan.levels for plan in core.plans}
            self._book.keep_only(self._levels)
            self._infos = None

    def look(self, query: Query, sight: Sight, now_ns: int) -> Live:
        """The answer to ``query``."""
        self.step(sight.core)
        if self._infos is None:
            self._infos = tuple(_info(plan, sight) for plan in sight.core.plans)
            self._layout = f"{time.time_ns():x}"
            self._health = None
        now_s, known = time.monotonic(), sight.requests.known
        if self._health is None or now_s >= self._gather_s:
            self._health = _health(sight)
            self._progress = _progress(sight)
            over = tuple(shown(alert, known(alert.alert_id)) for alert in reversed(self._over.values()))
            self._n_over_changes += over != self._over_shown
            self._over_shown = over
            took_s = time.monotonic() - now_s
            self._gather_s = now_s + max(FRESH_S, took_s / GATHERING_SHARE)
        over_tag = f"{self._layout}-{self._n_over_changes}"
        alerts, learning = list(sight.gateway_alerts), sight.core.pipeline.learning()
        for info in self._infos:
            alerts += sight.core.pipeline.open_alerts(info.id)
        return Live(
            now_ms=now_ns // NS_PER_MS,
            layout=self._layout,
            devices=None if query.layout == self._layout else self._infos,
            now=tuple(
                self._now(info, sight.states.get(info.id), learning.get(info.id)) for info in self._infos
            ),
            open=tuple(shown(alert, known(alert.alert_id)) for alert in alerts),
            over_tag=over_tag,
            over=None if query.over == over_tag else self._over_shown,
            health=self._health,
            scores=self._scores(query.since),
        )

    def _now(
        self, info: DeviceInfo, state: DeviceStateMessage | None, learning: tuple[float, float] | None
    ) -> DeviceNow:
        at_s, score, level = self._book.last(info.id) or (None, None, None)
        if state is None:
            return DeviceNow(
                DeviceCondition.LEARNING, None, at_s, score, level, self._progress.get(info.id, 0.0)
            )
        progress, left_s = (None, None) if learning is None else learning
        return DeviceNow(state.state, state.since_ns // NS_PER_MS, at_s, score, level, progress, left_s)

    def _scores(self, since: Mapping[str, int]) -> dict[str, Scores]:
        found = {}
        for device_id, second in list(since.items())[:MAX_DRAWN]:
            if (scores := self._book.since(device_id, second)) is not None:
                found[device_id] = scores
        return found


def _info(plan: DevicePlan, sight: Sight) -> DeviceInfo:
    level = "" if plan.model is None else plan.levels[sight.core.engines[plan.engine].target].text()
    return device_info(plan, level, sight.sources)


def _health(sight: Sight) -> Health:
    uplink = sight.uplink
    return Health(
        status=sight.status(),
        uplink=None
        if uplink is None
        else ConnectionStatus(connected=uplink.connected, error=uplink.last_error),
        problem=sight.problem,
        latency_ms=latency_ms(sight.latency_s),
        model_states=tuple(sight.model_states),
    )


def _progress(sight: Sight) -> dict[str, float]:
    """How much of its first window each device has that has said nothing yet."""
    silent = [plan for plan in sight.core.plans if plan.device.device_id not in sight.states]
    if not silent:
        return {}
    counters = sight.core.pipeline.counters_by_device()
    return {
        plan.device.device_id: min(
            1.0,
            counters[plan.device.device_id].n_windowed / (plan.window.n * max(1, len(plan.device.channels))),
        )
        for plan in silent
    }
