"""The gateway as it runs: one event loop that feeds blocks to the core, publishes what comes out, and answers signals.

Strategy: sources put blocks into one bounded queue from whatever thread they like; a single task takes them, records them if
asked, pushes them through the core, ticks the clock, and hands events to the uplink. Everything else (status, metrics,
signals) reads. Invariant: what the pipeline is given, in which order, is exactly what a recording holds, so a
replay of it says the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import signal
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from edge_node import figures
from edge_node.adoption import Adoption
from edge_node.assembly import assemble
from edge_node.black_box import BlackBox
from edge_node.blindness import Blindness
from edge_node.block_queue import BlockQueue
from edge_node.carry_over import carry_over, gone
from edge_node.config import Config, ConfigError, load_config
from edge_node.continuity import Continuity, Parts
from edge_node.dry_run import DryRun
from edge_node.gateway_alerts import GatewayAlerts
from edge_node.latencies import Latencies
from edge_node.metrics import Family
from edge_node.outages import Outages
from edge_node.recording import Recording
from edge_node.request_desk import Effects, RequestDesk
from edge_node.running_sources import RunningSources, raise_failure
from edge_node.settling import PipelineEvent
from edge_node.state_dir import StateDir, StateInUse, state_dir_of
from edge_node.supervision import Supervision
from edge_node.terminal import hung_up
from edge_node.ticks import Ticks
from edge_node.troubles import UNHEARD, troubles
from edge_node.uplink import Uplink
from edge_node.web.front import Front
from edge_node.web.page import Sight
from edge_node.workers import Workers
from models.acceptance import Acceptance
from models.logs import LogItem, Tick
from models.messages import (
    Alert,
    DeviceStateMessage,
    Event,
    GatewayState,
    ModelState,
    Response,
    Severity,
    Status,
    rfc3339,
)
from models.signal import NS_PER_S, Device
from models.time_policy import RecordedDevice
from models.topics import GatewayTopics

_FIXED = (
    "log_level",
    "log_format",
    "metrics_host",
    "metrics_port",
    "page",
    "http_token_file",
    "http_token_env",
    "queue_samples",
    "state_dir",
)  # while the daemon runs
_LEVELS: dict[Severity, int] = {
    "info": logging.INFO,
    "warning": logging.WARNING,
    "critical": logging.ERROR,
}  # of an alert that is not over

log = structlog.get_logger("linewatch.daemon")


class StartError(Exception):
    """The daemon cannot start; the text says why and what to do."""


class Daemon:
    """The gateway for one configuration file. Build it, then :meth:`run` it once."""

    def __init__(
        self,
        config_path: Path,
        *,
        record: Path | None = None,
        dry_run: bool = False,
        on_event: Callable[[Event], None] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Loads the configuration and the models; ``dry_run``: what would be sent is printed, and nothing is kept. Raises
        ConfigError, StartError and LogError (``record``)."""
        self._path = config_path
        self._dry_run = dry_run
        self._now_ns = now_ns
        self._on_event = on_event
        self._boot_id = uuid.uuid4().hex[:12]
        self._version = importlib.metadata.version("linewatch")
        self._started_at = rfc3339(now_ns())
        self._config = load_config(config_path)
        if not self._config.sources:
            raise StartError(f"{config_path}: no [[source]]: a gateway that runs needs one to read from")
        self._workers = Workers(self._notice)
        self._core = assemble(self._config, on_notice=self._notice, workers=self._workers)
        self._blindness = Blindness(self._core.plans)
        self._alerts = GatewayAlerts(self._config.gateway.site, self._config.gateway.name)
        self._recording = None if record is None else Recording(record, _recorded(self._config))
        self._black_box: BlackBox | None = None
        self._uplink: Uplink | None = None
        self._latencies = Latencies()
        self._outages = Outages()
        self._stopping = False
        self._reload = False
        self._ticks = Ticks()
        effects = Effects(
            self._accept, self._reload_soon, lambda: self._status("online"), self._say, self._say_state
        )
        self._desk = RequestDesk(self._config.gateway, effects, self._wake)
        self._supervision = Supervision()
        self._front = Front(self._families, self._sight, self._desk.ask, now_ns)

    @property
    def config(self) -> Config:
        return self._config

    def stop(self) -> None:
        """End :meth:`run`; on the loop's thread."""
        self._stopping = True
        self._queue.wake()

    async def run(self, *, end_with_sources: bool = False) -> None:
        """Serves until SIGTERM, SIGINT, the end of its terminal or :meth:`stop` (or, if asked, until every source has
        ended); then drains, and says ``stopped``. Raises StartError, and DaemonFailed after saying ``offline``."""
        loop = asyncio.get_running_loop()
        gateway = self._config.gateway
        self._loop = loop
        self._queue = BlockQueue(gateway.queue_samples, loop)
        # A dry run takes nothing away from the gateway that it rehearses for.
        self._sources = RunningSources(
            self._queue.put, None if self._dry_run else f"{gateway.site}-{gateway.name}"
        )
        self._parts = Parts(
            self._core, self._queue, self._sources, self._alerts, self._latencies, self._desk.requests
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._ask_reload)
        final: GatewayState = "offline"
        with contextlib.ExitStack() as to_close:  # also after a start that failed
            to_close.callback(self._workers.close)
            if self._recording is not None:
                to_close.callback(self._recording.close)
            self._claim_state(to_close)
            try:
                self._start(to_close)
                await self._serve(end_with_sources)
                final = "stopped"
            finally:
                await self._stop(final, for_good=end_with_sources and not self._stopping)

    def _claim_state(self, to_close: contextlib.ExitStack) -> None:
        try:
            self._state_dir = StateDir(None if self._dry_run else state_dir_of(self._config))
        except StateInUse as error:
            raise StartError(str(error)) from error
        to_close.callback(self._state_dir.close)
        self._models = Adoption(
            self._config,
            self._core,
            self._state_dir.path,
            publish=self._publish_model,
            crowded=lambda: self._queue.n_samples > self._config.gateway.queue_samples // 4,
            labelled_false=lambda: self._desk.requests.labelled_false,
            now_ns=self._now_ns,
        )
        self._continuity = Continuity(self._config, self._state_dir, self._parts, released=self._released)
        self._continuity.resume(self._now_ns())

    def _start(self, to_close: contextlib.ExitStack) -> None:
        gateway = self._config.gateway
        serves = gateway.metrics_port and not self._dry_run  # the port may be the running gateway's
        address = self._open_front(to_close) if serves else None
        self._start_uplink()
        self._black_box = BlackBox(self._state_dir.path, self._config, self._core)
        to_close.callback(self._black_box.close)
        self._sources.start(self._config.sources, self._devices())
        log.info(
            "running",
            gateway=f"{gateway.site}/{gateway.name}",
            n_devices=len(self._config.devices),
            models=[f"{m.model_id} v{m.version} on {m.backend}" for m in self._core.models],
            http=address,
        )
        for plan in self._core.plans:
            for target, level in plan.levels.items():
                log.debug("level", device=plan.device.device_id, target=target, level=level.text())

    def _open_front(self, to_close: contextlib.ExitStack) -> str:
        gateway = self._config.gateway
        try:
            address = self._front.open(gateway, self._loop)
        except OSError as error:
            raise StartError(
                f"the page and the metrics cannot be served on {gateway.metrics_host}:{gateway.metrics_port}: "
                f"{error.strerror}. Set [gateway] metrics_port to a free port, or to 0 for none"
            ) from error
        to_close.callback(self._front.close)
        return address

    async def _serve(self, end_with_sources: bool) -> None:
        next_status_ns, said = 0, None
        while not self._stopping and not (
            end_with_sources and self._sources.ended and not self._queue.n_samples
        ):
            await self._queue.wait(self._ticks.wait_s(self._now_ns()))
            self._turn()
            now_ns = self._now_ns()
            self._continuity.step(now_ns)
            if self._reload:
                self._reload = False
                await self._reconfigure()
                next_status_ns = 0
            reach = figures.connections(self._sources.reach())
            present = (
                self._core.models,
                self._conflicts(),
                reach,
                self._recording_error,
                self._black_box_error,
            )
            if present != said or now_ns >= next_status_ns or next_status_ns - now_ns > 2 * self._status_ns:
                said = present
                next_status_ns = now_ns + self._status_ns
                self._publish_status("online")
            self._check_parts()
            self._supervision.turned(self._core, self._queue.n_samples, self._sources.reach(), self._uplink)

    def _turn(self) -> None:
        """Blocks that wait, then the clock if it is time, then what follows from both."""
        blocks = self._queue.take(self._core.blocks_a_turn)
        for block in blocks:
            self._record(block)
        self._core.push(*blocks)
        self._models.push(blocks)
        now_ns = self._now_ns()
        self._desk.work(now_ns, time.monotonic())
        if self._ticks.due(now_ns):
            self._record(Tick(now_ns))
            self._core.pipeline.advance(now_ns)
            self._core.score()
            self._models.advance(now_ns)
            self._front.page.step(self._core)
            self._watch_ourselves(now_ns)
        self._deliver_all()
        if self._black_box is not None:
            self._black_box.end_turn(self._core)

    def _watch_ourselves(self, now_ns: int) -> None:
        self._workers.step()
        now_s, sources = time.monotonic(), self._sources.counters().values()
        outages = self._outages.step(self._sources.reach(), now_s)
        if self._blindness.due(now_s):
            self._blindness.step(self._core.pipeline.counters_by_device(), now_ns, now_s)
        found = troubles(
            self._core,
            sources,
            outages,
            self._blindness.blind,
            self._uplink,
            self._config.gateway.status_s,
            self._recording_error,
            self._continuity.problem,
            self._desk.counters(),
            self._black_box,
        )
        found += self._models.troubles()
        for alert in self._alerts.step(found, now_ns, now_s):
            self._deliver(PipelineEvent(alert, now_ns, None))

    def _close_alerts(self) -> None:
        now_ns = self._now_ns()
        for alert in self._alerts.close(now_ns):
            self._deliver(PipelineEvent(alert, now_ns, None))

    def _deliver_all(self) -> None:
        for event in self._core.pipeline.events():
            self._deliver(event)
        self._desk.concluded(self._core.pipeline.take_verdicts(), self._now_ns())

    def _deliver(self, event: PipelineEvent) -> None:
        message = self._desk.noted(event.event)
        self._front.page.noted(message)
        if isinstance(message, Alert):
            message = self._latencies.stamped(message, event, self._now_ns())
            if self._black_box is not None:
                message = self._black_box.stamped(message)
            log.log(
                logging.INFO if message.state == "cleared" else _LEVELS[message.severity],
                message.message,
                alert=message.alert_id,
                state=message.state,
                severity=message.severity,
            )
        elif isinstance(message, DeviceStateMessage):
            self._parts.states[message.device] = message
        if self._on_event is not None:
            self._on_event(message)
        if self._uplink is not None:
            self._continuity.hold(message, self._uplink.topics)

    def _released(self) -> None:
        if self._uplink is not None:
            self._uplink.wake()

    def _record(self, item: LogItem) -> None:
        if self._recording is not None:
            self._recording.write(item)
        if self._black_box is not None:
            self._black_box.write(item)

    def _accept(self, acceptance: Acceptance) -> None:
        self._record(acceptance)
        self._core.pipeline.accept(acceptance)
        self._models.accept(acceptance)
        self._core.score()

    def _reload_soon(self) -> None:
        self._reload = True

    def _say(self, answer: Response) -> None:
        if self._uplink is not None and answer.ok and answer.status is None:
            self._continuity.hold(answer, self._uplink.topics)  # what it says was done must survive
        elif self._uplink is not None:
            self._uplink.publish(answer)

    def _say_state(self, device_id: str) -> None:
        if device_id in self._parts.states:
            self._deliver(PipelineEvent(self._parts.states[device_id], None, None))

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._queue.wake)

    async def _reconfigure(self) -> None:
        """Take up the configuration anew, keeping what both have; a bad one changes nothing."""
        self._supervision.reloading()
        try:
            config = load_config(self._path)
            if not config.sources:
                raise ConfigError(f"{self._path}: no [[source]]")
            core = assemble(config, on_notice=self._notice, workers=self._workers)
        except ConfigError as error:
            log.error("the configuration was not taken up; the old one goes on", error=str(error))
            self._desk.reloaded(str(error), self._now_ns())
            return
        before = self._config
        same_gateway = (before.gateway.site, before.gateway.name) == (
            config.gateway.site,
            config.gateway.name,
        )
        self._models.take_over(config, core)
        n_kept = carry_over(self._core, core, same_gateway=same_gateway)
        no_more = gone(self._core, core, same_gateway=same_gateway)
        self._core.close()
        self._core = core
        self._blindness = Blindness(core.plans)
        if self._recording is not None:
            self._recording.go_on_with(_recorded(config))
        if self._black_box is not None:
            self._black_box.go_on_with(config, core)
        self._deliver_all()  # what ends was said under the old name, and ends there
        self._desk.reloaded(None, self._now_ns())
        self._desk.configure(config.gateway)
        self._forget(no_more)
        if not same_gateway:
            self._close_alerts()
            self._alerts = GatewayAlerts(config.gateway.site, config.gateway.name)
        self._continuity.take_up(config, core, self._alerts)
        await self._continuity.commit(self._now_ns())
        moves = config.uplink != before.uplink or config.models != before.models or not same_gateway
        if moves:
            if _place(config) != _place(before):
                self._forget(list(self._parts.states), go_on_elsewhere=True)
            await self._stop_uplink()
        self._config = config
        if moves:
            self._start_uplink()
        devices = self._devices()
        await self._sources.keep(config.sources, devices)
        self._sources.start(config.sources, devices)
        fixed = [key for key in _FIXED if getattr(config.gateway, key) != getattr(before.gateway, key)]
        if fixed:
            log.warning(f"[gateway] {', '.join(fixed)}: only a restart takes this up")
        log.info("configuration taken up", n_devices=len(config.devices), n_kept=n_kept)

    def _forget(self, device_ids: Iterable[str], *, go_on_elsewhere: bool = False) -> None:
        """Take back what the uplink has retained of these devices."""
        for device_id in device_ids:
            if not go_on_elsewhere:
                self._parts.states.pop(device_id, None)
            if self._uplink is not None:
                self._uplink.forget(device_id)

    def _check_parts(self) -> None:
        """A part that failed ends the daemon."""
        self._sources.check()
        raise_failure("the outbox", self._continuity.checkpoints.failure())
        self._models.check()
        if self._uplink is not None and self._uplink.finished.done():
            raise_failure("the uplink", self._uplink.finished.exception())

    def _start_uplink(self) -> None:
        if self._config.uplink is None:
            log.warning("no [uplink]: alerts are only logged")
            return
        gateway = self._config.gateway
        topics = GatewayTopics(self._config.uplink.prefix, gateway.site, gateway.name)
        departures, offline = self._continuity.departures, self._status("offline")
        if self._dry_run:
            self._uplink = DryRun(self._config.uplink, topics, offline, departures=departures)
        else:
            payload_of, inbound = (
                self._continuity.outbox.payload,
                (self._desk.inbox(topics), self._models.inbox),
            )
            self._uplink = Uplink(
                self._config.uplink, topics, offline, inbound, departures=departures, payload_of=payload_of
            )
        for said in self._models.states:
            self._continuity.hold(said, topics)
        if self._parts.states:  # said over the uplink before this one
            self._publish_status("online")
            for state in self._parts.states.values():
                self._uplink.publish(state)
        self._uplink.start()
        watched = self._devices()
        self._forget([device_id for device_id in self._parts.states if device_id not in watched])

    async def _stop_uplink(self, final: GatewayState = "stopped") -> None:
        if self._uplink is not None:
            uplink, self._uplink = self._uplink, None
            await asyncio.to_thread(uplink.stop, self._status(final))

    async def _stop(self, final: GatewayState, *, for_good: bool) -> None:
        """Stop the sources, settle what they delivered, publish it, say ``final``. Where it will go on (unless ``for_good``),
        what is in progress is kept for then; else it is brought to its end."""
        self._supervision.stopping()
        await self._sources.stop()
        await self._models.stop()
        while self._queue.n_samples:
            self._turn()
        if for_good or not self._continuity.outbox.durable:
            self._core.pipeline.finish()
            self._core.score()
            self._deliver_all()
            self._close_alerts()
        self._desk.close(self._now_ns(), time.monotonic())
        await self._continuity.commit(self._now_ns(), ended=True)
        await self._stop_uplink(final)
        await self._continuity.close()
        log.info(final)

    def _publish_model(self, state: ModelState) -> None:
        if self._uplink is not None:
            self._continuity.hold(state, self._uplink.topics)

    def _publish_status(self, state: GatewayState) -> None:
        if self._uplink is not None:
            self._uplink.publish(self._status(state))

    def _status(self, state: GatewayState) -> Status:
        gateway, models = self._config.gateway, self._core.models
        return Status(
            site=gateway.site,
            gateway=gateway.name,
            state=state,
            version=self._version,
            boot_id=self._boot_id,
            config_hash=self._config.config_hash,
            updated_at=rfc3339(self._now_ns()),
            started_at=self._started_at,
            models=models,
            backend=", ".join(dict.fromkeys(m.backend for m in models)),
            counters={} if state == "offline" else figures.flat(self._families()),
            connections={} if state == "offline" else figures.connections(self._sources.reach()),
            recording_error=self._recording_error,
            black_box_error=self._black_box_error,
            conflicts=self._conflicts(),
        )

    @property
    def _recording_error(self) -> str | None:
        return None if self._recording is None else self._recording.error

    @property
    def _black_box_error(self) -> str | None:
        return None if self._black_box is None else self._black_box.error

    def _conflicts(self) -> tuple[str, ...]:
        """The clones that are there, for as long as the alert of one lasts."""
        if self._uplink is None:
            return ()
        self._uplink.forget_conflicts(
            UNHEARD * max(self._config.gateway.status_s, self._uplink.reconnect_max_s)
        )
        return self._uplink.conflicts

    def _sight(self) -> Sight:
        return Sight(
            self._core,
            self._config.sources,
            self._parts.states,
            self._alerts.open,
            self._desk.requests,
            self._uplink,
            self._continuity.problem,
            self._latencies.totals(),
            lambda: self._status("online"),
        )

    def _families(self) -> list[Family]:
        found = figures.families(
            self._core,
            self._sources.counters(),
            self._sources.reach(),
            self._uplink,
            self._queue,
            self._latencies.totals(),
            self._continuity,
            self._recording,
            self._desk.counters(),
            self._black_box,
        )
        return found + self._supervision.families() + self._models.families()

    @property
    def _status_ns(self) -> int:
        return round(self._config.gateway.status_s * NS_PER_S)

    def _devices(self) -> dict[str, Device]:
        return {plan.device.device_id: plan.device for plan in self._core.plans}

    def _ask_reload(self) -> None:
        if hung_up():
            self.stop()
            return
        self._reload = True
        self._queue.wake()

    def _notice(self, text: str) -> None:
        log.warning(text)


def _place(config: Config) -> tuple[tuple[str, int], str] | None:
    """Where the uplink's retained messages are: at which broker, below which prefix."""
    return None if config.uplink is None else (config.uplink.address, config.uplink.prefix)


def _recorded(config: Config) -> list[RecordedDevice]:
    return [device.as_recorded() for device in config.devices]
