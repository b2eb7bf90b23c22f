"""What makes a run go on where the last one ended: the outbox, the state beside it, and the time between that nobody saw.

Invariant: a cut holds the pipeline as it is between two turns, the counters of that instant, and the messages said until then.
What is pushed after it and before a crash is brought again by whoever keeps it; of all others the time since is one gap.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import structlog

from edge_node.checkpoints import UPLINK, Checkpoints, Urgency
from edge_node.config import Config
from edge_node.config_schema import ReplaySource
from edge_node.config_schema import Uplink as UplinkConfig
from edge_node.departures import Departures, UplinkCounters
from edge_node.egress import outgoing
from edge_node.gateway_state import Downtime, GatewayState, UplinkCounts, packed, source_counts, unpacked
from edge_node.outbox import Outbox
from edge_node.parts import Parts
from edge_node.state_dir import StateDir
from models.messages import Alert, Event, ModelState, Response, Summary
from models.signal import NS_PER_S
from models.topics import GatewayTopics

GATEWAY, PIPELINE, REQUESTS, DEVICE = "gateway", "pipeline", "requests", "device/"

# A model's state is said when another has taken over: what a lane remembers from then on is of that one.
_URGENCY: dict[type, Urgency] = {Alert: "now", Response: "now", ModelState: "now", Summary: "later"}
_NO_UPLINK = UplinkConfig(host="none")

log = structlog.get_logger("linewatch.outbox")


class Continuity:
    """``released``: called on the loop when messages may leave."""

    def __init__(self, parts: Parts, state_dir: StateDir, *, released: Callable[[], None]) -> None:
        self._config = config = parts.config
        self._parts = parts
        uplink = config.uplink or _NO_UPLINK
        self.departures = Departures(uplink.queue_messages, uplink.queue_bytes)
        self.outbox = Outbox(state_dir.path)
        self.checkpoints = Checkpoints(
            self.outbox,
            self.departures,
            every_s=config.gateway.checkpoint_s,
            released=released,
            committed=parts.sources.committed,
        )
        self.downtime = Downtime()
        self.n_samples_before = 0  # values that earlier processes gave to the pipeline
        self._lossy: set[str] = set()  # of earlier processes
        self._begun_s = time.monotonic()
        self._ran_before_s = 0.0
        self._start_problem = state_dir.problem or self.outbox.problem

    @property
    def ran_s(self) -> float:
        """For how long the gateway has run, over all its processes."""
        return self._ran_before_s + time.monotonic() - self._begun_s

    @property
    def problem(self) -> str | None:
        """Why a restart would forget, or has forgotten, something."""
        return self.checkpoints.problem or self._start_problem

    def resume(self, now_ns: int) -> None:
        """Goes on from what an earlier process left; before anything is started."""
        kept, messages = self.outbox.load()
        self._start_problem = self._start_problem or self.outbox.problem
        counters = UplinkCounters()
        try:
            if UPLINK in kept:
                counters = unpacked(kept[UPLINK], UplinkCounts).counters()
            if GATEWAY in kept and PIPELINE in kept:
                self._resume(kept, unpacked(kept[GATEWAY], GatewayState), now_ns)
        except (msgspec.DecodeError, ValueError) as error:
            self._start_problem = (
                f"the state of the last run cannot be gone on from ({error}): it begins anew"
            )
            log.error(self._start_problem)
        self.n_samples_before = self._parts.core.pipeline.counters().n_samples_in
        if messages:
            log.info(f"{len(messages)} messages of before wait for the broker")
        self.departures.load(messages, counters)

    def _resume(self, kept: dict[str, bytes], state: GatewayState, now_ns: int) -> None:
        parts, gateway = self._parts, self._config.gateway
        same_gateway = (state.site, state.gateway) == (gateway.site, gateway.name)
        self._ran_before_s = state.ran_s
        self.downtime = state.downtime
        if not same_gateway or any(isinstance(s, ReplaySource) for s in self._config.sources):
            why = "the gateway has another name" if not same_gateway else "a recorded log begins anew"
            log.info(f"nothing is gone on from but what waits for the broker: {why}")
            return
        devices = {k.removeprefix(DEVICE): v for k, v in kept.items() if k.startswith(DEVICE)}
        parts.core.pipeline.restore_parts(devices, kept[PIPELINE])
        parts.core.pipeline.resume(now_ns)
        parts.core.scorer.failures.update(state.inference_failures)
        parts.sources.resume(
            {name: counts.counters() for name, counts in state.sources.items()}, state.sessions
        )
        parts.latencies.restore(state.latencies)
        parts.alerts.restore(state.alerts, time.monotonic())
        if REQUESTS in kept:
            parts.desk.requests.restore(kept[REQUESTS])
        parts.states.update(state.device_states)
        self._lossy = set(state.lossy)
        down_s = max((now_ns - state.written_ns) / NS_PER_S, 0.0)
        watched = {plan.device.device_id for plan in parts.core.plans}
        for device_id in sorted(self._lossy & watched):
            self.downtime.n_gaps[device_id] = self.downtime.n_gaps.get(device_id, 0) + 1
        self.downtime.total_s += down_s
        if not state.ended:
            self.downtime.n_samples += state.n_queued
        log.info(
            f"going on from the state of {down_s:.0f} s ago",
            ended_in_good_order=state.ended,
            n_devices=len(devices.keys() & watched),
        )

    def take_up(self, config: Config) -> None:
        """A new configuration; the core that it has made is there."""
        self._config = config
        uplink = config.uplink or _NO_UPLINK
        self.departures.bound(uplink.queue_messages, uplink.queue_bytes)
        self.checkpoints.every_s = config.gateway.checkpoint_s
        self.checkpoints.begin_anew()

    def hold(self, message: Event | Response | ModelState, topics: GatewayTopics) -> None:
        """``message`` leaves once it is on disk, together with the state that said it. Raises what
        :func:`~edge_node.egress.outgoing` raises."""
        item = outgoing(message, topics)
        item.ran_s = self.ran_s
        self.checkpoints.hold(item, time.monotonic(), urgency=_URGENCY.get(type(message), "soon"))

    def step(self, now_ns: int) -> None:
        """Between two turns: a checkpoint, if one is due."""
        now_s = time.monotonic()
        changed = self._parts.core.pipeline.has_changed
        wanted, ticket = self._parts.sources.wants_commit, self._parts.queue.n_taken
        due = self.checkpoints.due(now_s, wanted=wanted, changed=changed, ticket=ticket)
        if due == "messages":
            self.checkpoints.commit({}, None, now_s)
        elif due == "all" and not self._parts.sources.splits(ticket):  # else after the next turn
            uplink = self._config.uplink or _NO_UPLINK
            self.departures.expire(self.ran_s - uplink.queue_max_age_s)
            self._commit(now_ns, now_s, ended=False)

    async def commit(self, now_ns: int, *, ended: bool = False) -> None:
        """A checkpoint now, waited for, but not for ever. ``ended``: all is settled, and nothing will come."""
        if await self.checkpoints.finish():
            self._commit(now_ns, time.monotonic(), ended=ended)
            await self.checkpoints.finish()

    async def close(self) -> None:
        """After the last :meth:`commit`: what has left since then is forgotten."""
        await self.checkpoints.close()

    def _commit(self, now_ns: int, now_s: float, *, ended: bool) -> None:
        parts = self._parts
        devices, rest = parts.core.pipeline.parts(all_devices=self.checkpoints.wants_all)
        ticket = parts.queue.n_taken
        state = {f"{DEVICE}{device_id}": part for device_id, part in devices.items()}
        state[PIPELINE] = rest
        if parts.desk.requests.take_changed() or self.checkpoints.wants_all:
            state[REQUESTS] = parts.desk.requests.state()
        state[GATEWAY] = packed(self._state(now_ns, ticket, ended=ended))
        self.checkpoints.commit(state, ticket, now_s)

    def _state(self, now_ns: int, ticket: int, *, ended: bool) -> GatewayState:
        parts, gateway = self._parts, self._config.gateway
        return GatewayState(
            ran_s=self.ran_s,
            written_ns=now_ns,
            ended=ended,
            n_queued=parts.queue.n_at_risk,
            lossy=sorted(self._lossy | parts.queue.lossy),
            downtime=self.downtime,
            sources=source_counts(parts.sources.counters()),
            sessions=parts.sources.sessions(ticket),
            inference_failures=dict(parts.core.scorer.failures),
            latencies=parts.latencies.totals(),
            site=gateway.site,
            gateway=gateway.name,
            alerts=parts.alerts.state(),
            device_states=parts.states,
        )
