"""The sources that run: started, stopped, watched and counted over restarts of each."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from edge_node.config_schema import Source as SourceConfig
from edge_node.sources import SOURCES, Emit, KeptSource, Reach, SessionState, Source, SourceCounters
from models.signal import Device

log = structlog.get_logger("linewatch.daemon")


class DaemonFailed(Exception):
    """A part of the daemon failed by a defect of ours, so nothing can be trusted to go on; the text names the part."""


@dataclass(slots=True)
class _Running:
    """A source, its task and what it was built from."""

    config: SourceConfig
    devices: Mapping[str, Device]
    source: Source
    task: asyncio.Task[None]
    kept: KeptSource | None


class RunningSources:
    """By name, all feeding ``emit``. ``owner``: who reads, so that what can be kept for it until it is committed is kept; None:
    nothing is ever committed."""

    def __init__(self, emit: Emit, owner: str | None = None) -> None:
        self._emit = emit
        self._owner = owner
        self._running: dict[str, _Running] = {}
        self._retired: dict[str, SourceCounters] = {}
        self._sessions: dict[str, SessionState] = {}
        self._committed = 0

    @property
    def ended(self) -> bool:
        """Whether every source has come to its end."""
        return all(running.task.done() for running in self._running.values())

    def start(self, configs: Sequence[SourceConfig], devices: Mapping[str, Device]) -> None:
        """Starts those of ``configs`` that do not run yet."""
        for config in configs:
            if config.name not in self._running:
                build = SOURCES[str(config.__struct_config__.tag)]
                source = build(config, devices, self._owner, self._sessions.pop(config.name, None))
                kept = source if isinstance(source, KeptSource) else None
                if kept is not None:
                    kept.committed(self._committed)
                task = asyncio.create_task(source.run(self._emit), name=f"source {config.name}")
                self._running[config.name] = _Running(config, devices, source, task, kept)

    async def keep(self, configs: Sequence[SourceConfig], devices: Mapping[str, Device]) -> None:
        """Stops all but those that are in ``configs`` as they run, for the same ``devices``."""
        for name, running in list(self._running.items()):
            if running.config not in configs or running.devices != devices:
                await self._stop(name)

    async def stop(self) -> None:
        """Stops all."""
        for name in list(self._running):
            await self._stop(name)

    def check(self) -> None:
        """A source that ended (a log played to its end) is left; one that failed raises DaemonFailed."""
        for name, running in self._running.items():
            if running.task.done() and not running.task.cancelled():
                raise_failure(f"source {name}", running.task.exception())

    def resume(self, counters: Mapping[str, SourceCounters], sessions: Mapping[str, SessionState]) -> None:
        """What an earlier process counted, and left of its sources' sessions; before any is started."""
        self._retired = dict(counters)
        self._sessions = dict(sessions)

    @property
    def wants_commit(self) -> bool:
        """Whether some source waits for a commit before more can come."""
        return any(source.wants_commit for source in self._kept())

    def splits(self, ticket: int) -> bool:
        """Whether a checkpoint now, of all blocks up to this ticket, would split what a source brought as one."""
        return any(source.splits(ticket) for source in self._kept())

    def committed(self, ticket: int) -> None:
        """All blocks up to this ticket are on disk."""
        self._committed = ticket
        for source in self._kept():
            source.committed(ticket)

    def sessions(self, ticket: int) -> dict[str, SessionState]:
        """As a checkpoint must know them that contains all blocks up to this ticket."""
        now = {source.name: source.session(ticket) for source in self._kept()}
        return self._sessions | {name: session for name, session in now.items() if session is not None}

    def _kept(self) -> Iterator[KeptSource]:
        for running in self._running.values():
            if running.kept is not None:
                yield running.kept

    def counters(self) -> dict[str, SourceCounters]:
        """What came in since the daemon started, also from sources that are gone."""
        counters = {
            name: _merged(running.source.counters, self._retired.get(name))
            for name, running in self._running.items()
        }
        return {**self._retired, **counters}

    def reach(self) -> dict[str, Reach]:
        """Whether samples can come in now, by source, and why not."""
        return {name: running.source.reach for name, running in self._running.items()}

    async def _stop(self, name: str) -> None:
        running = self._running.pop(name)
        running.task.cancel()
        await asyncio.wait((running.task,))
        # All that it took is in this process, if not on disk yet: what comes again over its session was taken.
        if running.kept is not None and (left := running.kept.session(sys.maxsize)) is not None:
            self._sessions[name] = left
        self._retired[name] = _merged(running.source.counters, self._retired.get(name))


def raise_failure(part: str, error: BaseException | None) -> None:
    """DaemonFailed if ``part`` ended with ``error``, which is logged with its traceback."""
    if error is not None:
        text = f"{part} failed: {type(error).__name__}: {error}"
        log.error(text, exc_info=error)
        raise DaemonFailed(text) from error


def _merged(now: SourceCounters, before: SourceCounters | None) -> SourceCounters:
    """``now`` on top of what the source counted before it was last restarted."""
    if before is None:
        return now
    return SourceCounters(
        n_messages=now.n_messages + before.n_messages,
        n_bytes=now.n_bytes + before.n_bytes,
        n_blocks=now.n_blocks + before.n_blocks,
        n_samples=now.n_samples + before.n_samples,
        message_drops=now.message_drops + before.message_drops,
        sample_drops=now.sample_drops + before.sample_drops,
        n_unsent=now.n_unsent + before.n_unsent,
    )
