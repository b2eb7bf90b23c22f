"""The gateway's way upstream: which uplink there is, what is said over it first and last, and what must be on disk before it is.

Invariant: what changes what is remembered (events, models that were taken up, requests that were carried out) leaves once it is
committed with that; what only says how things are leaves at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from edge_node.config import Config
from edge_node.parts import Parts
from edge_node.reporting import Reporting
from edge_node.uplink import Uplink
from models.messages import Event, GatewayState, ModelState, Response, ScoreRequest, Status
from models.topics import GatewayTopics

log = structlog.get_logger("linewatch.daemon")


class Upstream:
    """On the daemon's loop. ``build``: an uplink as the configuration has it now, whose last will is the status."""

    def __init__(
        self, parts: Parts, reporting: Reporting, build: Callable[[GatewayTopics, Status], Uplink]
    ) -> None:
        self._parts = parts
        self._reporting = reporting
        self._build = build

    def say(self, message: Event | Response | ModelState) -> None:
        """Once it is committed."""
        uplink = self._parts.uplink
        if uplink is not None:
            self._parts.continuity.hold(message, uplink.topics)

    def answer(self, answer: Response) -> None:
        """What it says was done must survive; a status, or a refusal, changes nothing."""
        if self._parts.uplink is not None and answer.ok and answer.status is None:
            self.say(answer)
        elif self._parts.uplink is not None:
            self._parts.uplink.publish(answer)

    def ask(self, request: ScoreRequest) -> bool:
        """At once, or not at all: whether a broker is connected."""
        uplink = self._parts.uplink
        if uplink is None or not uplink.connected:
            return False
        uplink.publish(request)
        return True

    def say_status(self, state: GatewayState) -> None:
        if self._parts.uplink is not None:
            self._parts.uplink.publish(self._reporting.status(state))

    def forget(self, device_ids: Iterable[str], *, go_on_elsewhere: bool = False) -> None:
        """Take back what is retained of these devices."""
        for device_id in device_ids:
            if not go_on_elsewhere:
                self._parts.states.pop(device_id, None)
            if self._parts.uplink is not None:
                self._parts.uplink.forget(device_id)

    def start(self) -> None:
        """As the configuration has it now."""
        parts, config = self._parts, self._parts.config
        if config.uplink is None:
            log.warning("no [uplink]: alerts are only logged")
            return
        topics = GatewayTopics(config.uplink.prefix, config.gateway.site, config.gateway.name)
        parts.uplink = uplink = self._build(topics, self._reporting.status("offline"))
        for said in parts.models.states:
            self.say(said)
        if parts.states:  # said over the uplink before this one
            self.say_status("online")
            for state in parts.states.values():
                uplink.publish(state)
        uplink.start()
        watched = {plan.device.device_id for plan in parts.core.plans}
        self.forget([device_id for device_id in parts.states if device_id not in watched])

    def moves_with(self, config: Config) -> bool:
        """Whether another uplink is needed with ``config``."""
        now = self._parts.config
        same_gateway = gateway_of(config) == gateway_of(now)
        clouds = {
            any(d.cloud == "fallback" for d in c.devices) for c in (config, now)
        }  # then answers are heard
        return (
            config.uplink != now.uplink or config.models != now.models or len(clouds) > 1 or not same_gateway
        )

    async def leave(self, config: Config) -> None:
        """The uplink ends; the next one will be as ``config`` has it."""
        if _place(config) != _place(self._parts.config):
            self.forget(list(self._parts.states), go_on_elsewhere=True)
        await self.stop("stopped")

    async def stop(self, final: GatewayState) -> None:
        """Sends what can be sent, says ``final``, and ends."""
        uplink, self._parts.uplink = self._parts.uplink, None
        if uplink is not None:
            await asyncio.to_thread(uplink.stop, self._reporting.status(final))


def gateway_of(config: Config) -> tuple[str, str]:
    """What tells it from all others."""
    return config.gateway.site, config.gateway.name


def _place(config: Config) -> tuple[tuple[str, int], str] | None:
    """Where the uplink's retained messages are: at which broker, below which prefix."""
    return None if config.uplink is None else (config.uplink.address, config.uplink.prefix)
