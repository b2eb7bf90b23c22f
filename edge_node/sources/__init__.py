"""Where samples come from: one file a source, and the map from the configuration's ``type`` to what builds
it.

A new source is a file here and a line in :data:`SOURCES`; its driver is imported only when it is
configured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from models.signal import Device, DropReason, SampleBlock

if TYPE_CHECKING:
    from edge_node.config_schema import ModbusSource, MqttSource, ReplaySource, SerialSource


class Emit(Protocol):
    """Takes a block, from any thread, without waiting."""

    def __call__(self, block: SampleBlock, /, *, kept: bool = False) -> int:
        """A ticket, 1 and upwards, or 0 when the queue is full and the block was not taken. ``kept``: whoever sent it keeps it
        until it is acknowledged."""


def refuse(_block: SampleBlock, /, *, kept: bool = False) -> int:
    """Stands where ``run`` puts the daemon's queue."""
    return 0


@dataclass(slots=True)
class SourceCounters:
    """What came in. A message may be refused whole or line by line: ``message_drops`` counts either;
    ``sample_drops`` counts values of blocks that the queue did not take."""

    n_messages: int = 0
    n_bytes: int = 0
    n_blocks: int = 0
    n_samples: int = 0  # emitted and taken
    message_drops: Counter[DropReason] = field(default_factory=Counter)
    sample_drops: Counter[DropReason] = field(default_factory=Counter)
    n_unsent: int = 0  # frames of ours that a board did not take

    def copy(self) -> SourceCounters:
        """What another thread may look at while these go on counting."""
        return SourceCounters(
            self.n_messages,
            self.n_bytes,
            self.n_blocks,
            self.n_samples,
            Counter(self.message_drops),
            Counter(self.sample_drops),
            self.n_unsent,
        )


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether a source reaches where its samples come from: now, how often it came to, and in one line what is wrong
    (it is out of reach, or a subscription was refused). ``n_failures``: attempts that failed, and connections lost."""

    connected: bool
    n_connects: int
    last_error: str | None
    n_failures: int = 0


class Source(Protocol):
    """One configured source."""

    @property
    def name(self) -> str:
        """The configuration's name for it."""

    @property
    def counters(self) -> SourceCounters:
        """What came in so far; safe to read from any thread."""

    @property
    def reach(self) -> Reach:
        """Whether samples can come in; safe to read from any thread."""

    async def run(self, emit: Emit) -> None:
        """Reads until it is cancelled or, where a source has an end, until that; bad input never raises."""


class SessionState(msgspec.Struct, kw_only=True):
    """What a source remembers of a session that its broker keeps: the subscriptions in it, and packet id -> digest of what
    was taken and may come again."""

    filters: list[str]
    marks: dict[int, bytes]


@runtime_checkable
class KeptSource(Source, Protocol):
    """A source whose samples are kept at the other end until it acknowledges them."""

    @property
    def wants_commit(self) -> bool:
        """Whether so much waits for acknowledgement that no more may come until some of it is committed."""

    def splits(self, ticket: int) -> bool:
        """Whether a checkpoint that contains all blocks up to this ticket would contain half of something."""

    def committed(self, ticket: int) -> None:
        """All blocks up to this ticket are on disk. From any thread."""

    def session(self, ticket: int) -> SessionState | None:
        """The session as a checkpoint must know it that contains all blocks up to this ticket."""


def _mqtt(
    config: MqttSource,
    devices: Mapping[str, Device],
    owner: str | None = None,
    session: SessionState | None = None,
) -> Source:
    from edge_node.sources.mqtt import MqttSubscriber

    return MqttSubscriber(config, devices, owner=owner, session=session)


def _replay(config: ReplaySource, devices: Mapping[str, Device], *_: object) -> Source:
    from edge_node.sources.replay import LogReplay

    return LogReplay(config, devices)


def _serial(config: SerialSource, devices: Mapping[str, Device], *_: object) -> Source:
    if config.protocol == "lines":
        from edge_node.sources.serial_lines import SerialLines

        return SerialLines(config, devices)
    from edge_node.sources.serial import SerialBoard

    return SerialBoard(config, devices)


def _modbus(config: ModbusSource, devices: Mapping[str, Device], *_: object) -> Source:
    from edge_node.sources.modbus import ModbusBus

    return ModbusBus(config, devices)


# Built from the configuration, the devices, who the gateway is ("site-name"; None: nothing will ever be committed, so nothing
# need be kept for it), and what is left of the source's session.
SOURCES: Mapping[str, Callable[..., Source]] = {
    "mqtt": _mqtt,
    "replay": _replay,
    "serial": _serial,
    "modbus": _modbus,
}
