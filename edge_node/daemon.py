"""The gateway as it runs: one event loop that feeds blocks to the core, publishes what comes out, and answers signals.

Strategy: sources put blocks into one bounded queue from whatever thread they like; a single task takes them, records them if
asked, pushes them through the core, ticks the clock, and hands events to the uplink. Everything else (status, metrics,
signals) reads. Invariant: what the pipeline is given, in which order, is exactly what a recording holds, so a
replay of it says the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from edge_node.adoption import Adoption
from edge_node.assembly import Core, assemble
from edge_node.backtest_process import Told
from edge_node.backtests import Backtests
from edge_node.black_box import BlackBox
from edge_node.blindness import Blindness
from edge_node.block_queue import BlockQueue
from edge_node.carry_over import carry_over, gone
from edge_node.cloud_scoring import CloudScoring
from edge_node.config import Config, ConfigError, load_config
from edge_node.continuity import Continuity
from edge_node.dry_run import DryRun
from edge_node.feature_log import FeatureLog
from edge_node.gateway_alerts import GatewayAlerts
from edge_node.latencies import Latencies
from edge_node.outages import Outages
from edge_node.parts import Parts
from edge_node.recording import Recording
from edge_node.reporting import Reporting
from edge_node.request_desk import Effects, RequestDesk
from edge_node.router import Router
from edge_node.running_sources import RunningSources, raise_failure
from edge_node.settling import PipelineEvent
from edge_node.state_dir import StateDir, StateInUse, state_dir_of
from edge_node.supervision import Supervision
from edge_node.terminal import hung_up
from edge_node.ticks import Ticks
from edge_node.uplink import Inbound, Uplink
from edge_node.upstream import Upstream, gateway_of
from edge_node.web.front import Front
from edge_node.workers import Workers
from models.acceptance import Acceptance
from models.logs import LogItem, Tick
from models.messages import Alert, DeviceStateMessage, Event, GatewayState, Severity, Status
from models.requests import BacktestRequest
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

ANSWER_POLL_S = 0.02

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
        config = load_config(config_path)
        if not config.sources:
            raise StartError(f"{config_path}: no [[source]]: a gateway that runs needs one to read from")
        self._workers = Workers(self._notice)
        core = assemble(config, on_notice=self._notice, workers=self._workers)
        self._blindness = Blindness(core.plans)
        self._outages = Outages()
        self._stopping = False
        self._reload = False
        self._ticks = Ticks()
        effects = Effects(
            self._accept,
            self._reload_soon,
            lambda: self._reporting.status("online"),
            lambda answer: self._upstream.answer(answer),
            self._say_state,
            lambda asked: self._parts.backtests.begin(asked, self._parts.desk.requests.labels),
        )
        self._parts = Parts(
            config,
            core,
            GatewayAlerts(config.gateway.site, config.gateway.name),
            Latencies(),
            RequestDesk(config.gateway, effects, self._wake),
            Supervision(),
            None if record is None else Recording(record, _recorded(config)),
            CloudScoring(lambda request: self._upstream.ask(request), self._wake),
        )
        self._reach_cloud(config, core)
        self._reporting = Reporting(self._parts, now_ns)
        self._upstream = Upstream(self._parts, self._reporting, self._build_uplink)
        self._parts.front = Front(
            self._reporting.families, self._reporting.sight, self._parts.desk.ask, now_ns
        )

    @property
    def config(self) -> Config:
        return self._parts.config

    def stop(self) -> None:
        """End :meth:`run`; on the loop's thread."""
        self._stopping = True
        self._parts.queue.wake()

    async def run(self, *, end_with_sources: bool = False) -> None:
        """Serves until SIGTERM, SIGINT, the end of its terminal or :meth:`stop` (or, if asked, until every source has
        ended); then drains, and says ``stopped``. Raises StartError, and DaemonFailed after saying ``offline``."""
        loop = asyncio.get_running_loop()
        parts, gateway = self._parts, self._parts.config.gateway
        self._loop = loop
        parts.queue = BlockQueue(gateway.queue_samples, loop)
        # A dry run takes nothing away from the gateway that it rehearses for.
        parts.sources = RunningSources(
            parts.queue.put, None if self._dry_run else f"{gateway.site}-{gateway.name}"
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._ask_reload)
        final: GatewayState = "offline"
        with contextlib.ExitStack() as to_close:  # also after a start that failed
            to_close.callback(self._workers.close)
            if parts.recording is not None:
                to_close.callback(parts.recording.close)
            self._claim_state(to_close)
            try:
                self._start(to_close)
                await self._serve(end_with_sources)
                final = "stopped"
            finally:
                await self._stop(final, for_good=end_with_sources and not self._stopping)

    def _claim_state(self, to_close: contextlib.ExitStack) -> None:
        parts = self._parts
        try:
            state_dir = StateDir(None if self._dry_run else state_dir_of(parts.config))
        except StateInUse as error:
            raise StartError(str(error)) from error
        to_close.callback(state_dir.close)
        self._state_path = state_dir.path
        parts.models = Adoption(
            parts.config,
            parts.core,
            state_dir.path,
            publish=self._upstream.say,
            crowded=lambda: parts.queue.n_samples > parts.config.gateway.queue_samples // 4,
            labelled_false=lambda: parts.desk.requests.labelled_false,
            now_ns=self._now_ns,
        )
        parts.backtests = Backtests(parts.models, state_dir.path, self._backtested)
        parts.continuity = Continuity(parts, state_dir, released=self._released)
        parts.continuity.resume(self._now_ns())

    def _start(self, to_close: contextlib.ExitStack) -> None:
        parts, config = self._parts, self._parts.config
        address = None
        if config.gateway.metrics_port and not self._dry_run:  # the port may be the running gateway's
            address = parts.front.open(config.gateway, self._loop)
            to_close.callback(parts.front.close)
        self._upstream.start()
        parts.black_box = BlackBox(self._state_path, config, parts.core)
        to_close.callback(parts.black_box.close)
        parts.feature_log = FeatureLog(self._state_path, config, parts.core)
        to_close.callback(parts.feature_log.close)
        parts.sources.start(config.sources, self._devices())
        log.info(
            "running",
            gateway=f"{config.gateway.site}/{config.gateway.name}",
            n_devices=len(config.devices),
            models=[f"{m.model_id} v{m.version} on {m.backend}" for m in parts.core.models],
            http=address,
        )
        for plan in parts.core.plans:
            for target, level in plan.levels.items():
                log.debug("level", device=plan.device.device_id, target=target, level=level.text())

    def _build_uplink(self, topics: GatewayTopics, offline: Status) -> Uplink:
        parts, config = self._parts, self._parts.config.uplink
        assert config is not None
        departures = parts.continuity.departures
        if self._dry_run:
            return DryRun(config, topics, offline, departures=departures)
        inbound: list[Inbound] = [parts.desk.inbox(topics), parts.models.inbox]
        if any(plan.may_leave for plan in parts.core.plans):
            inbound.append(parts.cloud.inbox(topics))
        payload_of = parts.continuity.outbox.payload
        return Uplink(config, topics, offline, inbound, departures=departures, payload_of=payload_of)

    async def _serve(self, end_with_sources: bool) -> None:
        parts = self._parts
        next_status_ns, said = 0, None
        while not self._stopping and not (
            end_with_sources and parts.sources.ended and not parts.queue.n_samples
        ):
            await parts.queue.wait(self._ticks.wait_s(self._now_ns()))
            self._turn()
            now_ns = self._now_ns()
            parts.continuity.step(now_ns)
            if self._reload:
                self._reload = False
                await self._reconfigure()
                next_status_ns = 0
            status_ns = round(parts.config.gateway.status_s * NS_PER_S)
            present = self._reporting.noteworthy()
            if present != said or now_ns >= next_status_ns or next_status_ns - now_ns > 2 * status_ns:
                said = present
                next_status_ns = now_ns + status_ns
                self._upstream.say_status("online")
            self._check_parts()
            parts.supervision.turned(parts.core, parts.queue.n_samples, parts.sources.reach(), parts.uplink)

    def _turn(self) -> None:
        """Blocks that wait, then the clock if it is time, then what follows from both."""
        parts = self._parts
        if parts.feature_log is not None:
            parts.feature_log.begin_turn(parts.core)
        blocks = parts.queue.take(parts.core.blocks_a_turn)
        for block in blocks:
            self._record(block)
        parts.core.push(*blocks)
        parts.models.push(blocks)
        now_ns = self._now_ns()
        parts.desk.work(now_ns, time.monotonic())
        if self._ticks.due(now_ns):
            self._record(Tick(now_ns))
            parts.core.pipeline.advance(now_ns)
            parts.core.score()
            parts.models.advance(now_ns)
            parts.front.page.step(parts.core)
            self._watch_ourselves(now_ns)
        self._deliver_all()
        if parts.black_box is not None:
            parts.black_box.end_turn(parts.core)
        if parts.feature_log is not None:
            parts.feature_log.end_turn(parts.core)

    def _watch_ourselves(self, now_ns: int) -> None:
        self._workers.step()
        parts, now_s = self._parts, time.monotonic()
        parts.front.step()
        parts.cloud.note(parts.core.scorer.away)
        outages = self._outages.step(parts.sources.reach(), now_s)
        if self._blindness.due(now_s):
            self._blindness.step(parts.core.pipeline.counters_by_device(), now_ns, now_s)
        for alert in parts.alerts.step(
            self._reporting.troubles(outages, self._blindness.blind), now_ns, now_s
        ):
            self._deliver(PipelineEvent(alert, now_ns, None))

    def _close_alerts(self) -> None:
        now_ns = self._now_ns()
        for alert in self._parts.alerts.close(now_ns):
            self._deliver(PipelineEvent(alert, now_ns, None))

    def _deliver_all(self) -> None:
        parts = self._parts
        for event in parts.core.pipeline.events():
            self._deliver(event)
        parts.desk.concluded(parts.core.pipeline.take_verdicts(), self._now_ns())

    def _deliver(self, event: PipelineEvent) -> None:
        parts = self._parts
        message = parts.desk.noted(event.event)
        parts.front.page.noted(message)
        if isinstance(message, Alert):
            message = parts.latencies.stamped(message, event, self._now_ns())
            if parts.black_box is not None:
                message = parts.black_box.stamped(message)
            log.log(
                logging.INFO if message.state == "cleared" else _LEVELS[message.severity],
                message.message,
                alert=message.alert_id,
                state=message.state,
                severity=message.severity,
            )
        elif isinstance(message, DeviceStateMessage):
            parts.states[message.device] = message
        if self._on_event is not None:
            self._on_event(message)
        self._upstream.say(message)

    def _released(self) -> None:
        if self._parts.uplink is not None:
            self._parts.uplink.wake()

    def _record(self, item: LogItem) -> None:
        if self._parts.recording is not None:
            self._parts.recording.write(item)
        if self._parts.black_box is not None:
            self._parts.black_box.write(item)

    def _accept(self, acceptance: Acceptance) -> None:
        parts = self._parts
        self._record(acceptance)
        parts.core.pipeline.accept(acceptance)
        parts.models.accept(acceptance)
        parts.core.score()

    def _reach_cloud(self, config: Config, core: Core) -> None:
        """What of ``core`` may leave may be scored by a sink."""
        gateway, models = config.gateway, config.models
        self._parts.cloud.configure(gateway.site, gateway.name, models.cloud_deadline_ms)
        if any(plan.may_leave for plan in core.plans):
            core.scorer.reach(self._parts.cloud, Router(round(models.max_latency_ms * 1e6)))

    def _backtested(self, asked: BacktestRequest, told: Told) -> None:
        self._parts.desk.backtested(asked, told.found, told.refusal, told.text, self._now_ns())

    def _reload_soon(self) -> None:
        self._reload = True

    def _say_state(self, device_id: str) -> None:
        if device_id in self._parts.states:
            self._deliver(PipelineEvent(self._parts.states[device_id], None, None))

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._parts.queue.wake)

    async def _reconfigure(self) -> None:
        """Take up the configuration anew, keeping what both have; a bad one changes nothing."""
        parts = self._parts
        parts.supervision.reloading()
        try:
            config = load_config(self._path)
            if not config.sources:
                raise ConfigError(f"{self._path}: no [[source]]")
            core = assemble(config, on_notice=self._notice, workers=self._workers)
        except ConfigError as error:
            log.error("the configuration was not taken up; the old one goes on", error=str(error))
            parts.desk.reloaded(str(error), self._now_ns())
            return
        before = parts.config
        same_gateway = gateway_of(before) == gateway_of(config)
        parts.models.take_over(config, core)
        n_kept = carry_over(parts.core, core, same_gateway=same_gateway)
        no_more = gone(parts.core, core, same_gateway=same_gateway)
        parts.core.close()
        parts.core = core
        self._reach_cloud(config, core)
        self._blindness = Blindness(core.plans)
        if parts.recording is not None:
            parts.recording.go_on_with(_recorded(config))
        if parts.black_box is not None:
            parts.black_box.go_on_with(config, core)
        if parts.feature_log is not None:
            parts.feature_log.go_on_with(config, core)
        self._deliver_all()  # what ends was said under the old name, and ends there
        parts.desk.reloaded(None, self._now_ns())
        parts.desk.configure(config.gateway)
        self._upstream.forget(no_more)
        if not same_gateway:
            self._close_alerts()
            parts.alerts = GatewayAlerts(config.gateway.site, config.gateway.name)
        parts.continuity.take_up(config)
        await parts.continuity.commit(self._now_ns())
        moves = self._upstream.moves_with(config)
        if moves:
            await self._upstream.leave(config)
        parts.config = config
        if moves:
            self._upstream.start()
        devices = self._devices()
        await parts.sources.keep(config.sources, devices)
        parts.sources.start(config.sources, devices)
        fixed = [key for key in _FIXED if getattr(config.gateway, key) != getattr(before.gateway, key)]
        if fixed:
            log.warning(f"[gateway] {', '.join(fixed)}: only a restart takes this up")
        log.info("configuration taken up", n_devices=len(config.devices), n_kept=n_kept)

    def _check_parts(self) -> None:
        """A part that failed ends the daemon."""
        parts = self._parts
        parts.sources.check()
        raise_failure("the outbox", parts.continuity.checkpoints.failure())
        parts.models.check()
        if parts.uplink is not None and parts.uplink.finished.done():
            raise_failure("the uplink", parts.uplink.finished.exception())

    async def _stop(self, final: GatewayState, *, for_good: bool) -> None:
        """Stop the sources, settle what they delivered, publish it, say ``final``. Where it will go on (unless ``for_good``),
        what is in progress is kept for then; else it is brought to its end."""
        parts = self._parts
        parts.supervision.stopping()
        await parts.sources.stop()
        parts.backtests.stop()
        await parts.models.stop()
        while parts.queue.n_samples:
            self._turn()
        if for_good or not parts.continuity.outbox.durable:
            parts.core.pipeline.finish()
            parts.core.score()
            while parts.core.scorer.n_asked:  # until they are answered, or their deadline has passed
                await asyncio.sleep(ANSWER_POLL_S)
                parts.core.score()
            self._deliver_all()
            self._close_alerts()
        parts.desk.close(self._now_ns(), time.monotonic())
        await parts.continuity.commit(self._now_ns(), ended=True)
        await self._upstream.stop(final)
        await parts.continuity.close()
        log.info(final)

    def _devices(self) -> dict[str, Device]:
        return {plan.device.device_id: plan.device for plan in self._parts.core.plans}

    def _ask_reload(self) -> None:
        if hung_up():
            self.stop()
            return
        self._reload = True
        self._parts.queue.wake()

    def _notice(self, text: str) -> None:
        log.warning(text)


def _recorded(config: Config) -> list[RecordedDevice]:
    return [device.as_recorded() for device in config.devices]
